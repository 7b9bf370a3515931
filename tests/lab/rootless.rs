//! Rootless Docker, which a user runs without root (`systemctl --user`). digestfix tells
//! root and that user whose Docker it is, and the commands that it prints record a digest
//! for its image.

use crate::machine::{APP, Machine, Run, Suite};

/// Provides what rootless Docker needs on this machine: the device /dev/net/tun for its
/// network, and another mount of /proc and of /sys. The machine's own have other mounts on
/// top of them, and the kernel then does not allow a user to mount new ones.
const GIVEN: &str = "mkdir -p /dev/net /run/whole/proc /run/whole/sys
     [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
     chmod 666 /dev/net/tun
     mount -t proc proc /run/whole/proc; mount -t sysfs sysfs /run/whole/sys";

/// Uses vfs, because the storage driver overlay2 does not work on the machine's overlay
/// file system.
const UNIT: &str = "[Service]
Environment=PATH=/usr/share/docker.io/contrib:/usr/sbin:/usr/bin:/sbin:/bin
ExecStart=/usr/share/docker.io/contrib/dockerd-rootless.sh --storage-driver vfs
Delegate=yes
Type=notify
NotifyAccess=all
";

const AS_ALICE: &str = "runuser -u alice -- env XDG_RUNTIME_DIR=/run/user/1000 DOCKER_HOST=unix:///run/user/1000/docker.sock";

fn ready() -> Machine {
    let machine = Machine::boot(Suite::Trixie);
    machine.allow_containers();
    machine.sh(GIVEN);
    machine.sh(
        "systemctl disable -q --now docker.socket docker.service
         useradd -m -u 1000 -s /bin/bash alice
         grep -q alice /etc/subuid || { echo alice:100000:65536 >>/etc/subuid; echo alice:100000:65536 >>/etc/subgid; }
         systemctl start user@1000",
    );
    machine.write("/home/alice/.config/systemd/user/docker.service", UNIT);
    machine.sh("chown -R alice: /home/alice");
    machine.sh(&format!(
        "{AS_ALICE} systemctl --user daemon-reload
         {AS_ALICE} systemctl --user start docker || {{ journalctl -b --no-pager -n 60 >&2; exit 1; }}
         {AS_ALICE} docker load -q </lab/app.tar; {AS_ALICE} docker load -q </lab/other.tar"
    ));
    machine
}

/// The commands in the `Next:` line of a refusal.
fn next(run: &Run) -> String {
    let mut lines = run.stderr.lines();
    let next = lines.find_map(|line| line.strip_prefix("  Next: "));
    next.unwrap_or_else(|| panic!("{}", run.stderr)).to_owned()
}

fn runs_by_digest(machine: &Machine, name: &str) -> Run {
    let pin = format!("localhost:5000/lab/{name}@{}", machine.digest(name));
    let command = format!("{AS_ALICE} docker run --rm --network none {pin}");
    machine.run(&["sh", "-c", &command])
}

#[test]
fn its_user_and_root_are_told_what_mends_it() {
    let machine = ready();
    for name in ["app", "other"] {
        runs_by_digest(&machine, name).exits(125);
    }

    // Root means the rootless Docker, because it is the only one that runs.
    let refused = machine
        .digestfix(&["apply", &machine.claim("app")])
        .exits(3);
    assert!(
        refused
            .stderr
            .contains("rootless and belongs to alice (/home/alice/.local/share/docker)"),
        "{}",
        refused.stderr
    );
    machine.sh(&next(&refused));
    let run = runs_by_digest(&machine, "app").exits(0);
    assert!(run.stdout.contains("hello from app"), "{}", run.stdout);

    // The user alice runs digestfix herself.
    let claim = machine.claim("other");
    let typed = format!("{AS_ALICE} digestfix apply {claim}");
    let refused = machine.run(&["sh", "-c", &typed]).exits(3);
    assert!(
        refused.stderr.contains("rootless and belongs to you"),
        "{}",
        refused.stderr
    );
    let commands = next(&refused);
    machine.write("/home/alice/next", &commands);
    machine.sh(&format!("{AS_ALICE} sh -e /home/alice/next"));
    let run = runs_by_digest(&machine, "other").exits(0);
    assert!(run.stdout.contains("hello from other"), "{}", run.stdout);

    // With `--offline`, alice's status shows the image. digestfix refuses her change while
    // her Docker runs, and prints the same commands.
    let offline = "--offline --data-root /home/alice/.local/share/docker";
    let status = machine.run(&[
        "sh",
        "-c",
        &format!("{AS_ALICE} digestfix status {offline}"),
    ]);
    assert!(status.exits(0).stdout.contains(APP));
    let refused = machine.run(&[
        "sh",
        "-c",
        &format!("{AS_ALICE} digestfix apply {offline} {APP}:v2={APP}:v1"),
    ]);
    let refused = refused.exits(3);
    assert!(
        next(&refused).starts_with("systemctl --user stop docker.service; "),
        "{}",
        refused.stderr
    );

    // When the system's own Docker runs again, root's commands are about that one.
    machine.sh("systemctl start docker");
    let status = machine.digestfix(&["status"]);
    assert!(
        status
            .stdout
            .contains("alice also runs a rootless Docker here"),
        "{}{}",
        status.stdout,
        status.stderr
    );
}
