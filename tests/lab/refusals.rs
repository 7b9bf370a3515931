//! Hosts that digestfix refuses to change, and the reason that it reports.

use crate::machine::{self, APP, Machine, OTHER, Run, STORE, Suite, command, eventually};

/// Checks that the run is refused with these words, and that Docker still runs as the
/// same process.
#[track_caller]
fn refuses(machine: &Machine, words: &[&str], says: &str) -> Run {
    let look = || {
        machine.sh(
            "systemctl show -p MainPID,ActiveState docker.service docker.socket; \
             find /var/lib/docker/image -name 'repositories.json*' -exec sha256sum {} +",
        )
    };
    let before = look();
    let run = machine::refuses(machine, words, &[says]);
    assert_eq!(look(), before);
    run
}

#[test]
fn live_restore_that_systemd_would_undo() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.allow_containers();
    machine.install_seed_unit();
    machine
        .sh("sed -i s/KillMode=process/KillMode=control-group/ /etc/systemd/system/docker.service");
    machine.write("/etc/docker/daemon.json", "{\"live-restore\": true}");
    machine.sh("systemctl daemon-reload; systemctl restart docker");
    machine.load("app");
    machine.sh(&format!(
        "docker run -d --name web --network none {APP}:v1 /bin/busybox sleep 1000"
    ));
    let apply = ["apply", &machine.claim("app")];
    let refused = refuses(&machine, &apply, "KillMode=control-group");
    machine.edits(
        &refused.next("systemctl edit"),
        "printf '[Service]\\nKillMode=process\\n' >\"$1\"",
    );
    let web = || machine.sh("docker inspect -f '{{.State.Pid}} {{.State.StartedAt}}' web");
    let before = web();
    // The unit is newer than dockerd now, and systemd heeds it already.
    let refused = machine.digestfix(&apply).exits(3);
    machine.types(&refused.next("digestfix apply")).exits(0);
    assert_eq!(web(), before);
}

/// No container runs, so only the configuration can keep digestfix from stopping Docker.
#[track_caller]
fn docker_stays_up(machine: &Machine, configs: &[&str]) {
    const DAEMON_JSON: &str = "/etc/docker/daemon.json";
    machine.load("app");
    let claim = machine.claim("app");
    let pid = machine.main_pid();
    for config in configs {
        machine.write(DAEMON_JSON, config);
        let apply = machine.digestfix(&["apply", &claim]);
        let told = format!("{config}: {}{}", apply.stdout, apply.stderr);
        assert!([1, 3].contains(&apply.code), "{told}");
        assert_eq!(machine.main_pid(), pid, "{told}");
        let doctor = machine.digestfix(&["doctor"]);
        // If only a reload shows the problem, `apply` has already reported it.
        let says = ["PROBLEM  configuration", "warning  configuration"];
        let says = says[usize::from(apply.code == 1)];
        assert!(doctor.stdout.contains(says), "{told}{}", doctor.stdout);
        assert_eq!(doctor.code, if apply.code == 1 { 0 } else { 3 }, "{told}");
    }
    // A setting that a reload can check is checked by a reload. The next run knows the
    // result.
    machine.write(DAEMON_JSON, "{\"debug\": true}");
    machine.digestfix(&["apply", &claim]).exits(0);
    let reference = format!("{APP}@{}", machine.digest("app"));
    machine
        .digestfix(&["apply", "--remove", &reference])
        .exits(0);
    // Only a start of Docker can check this setting.
    machine.write(DAEMON_JSON, "{\"bip\": \"10.9.0.1/24\"}");
    let run = machine.digestfix(&["apply", &claim]).exits(3);
    let forced = run.next("digestfix apply");
    assert!(forced.contains("--force-restart"), "{forced}");
    machine.digestfix(&["plan", &claim]).exits(3);
    machine
        .digestfix(&["plan", "--force-restart", &claim])
        .exits(4);
    machine.types(&forced).exits(0);
    machine.is_whole();
}

const NO_START: [&str; 13] = [
    "{\"Debug\": true}",
    "{\"nonsense\": 1}",
    "{\"registry-mirrors\": \"x\"}",
    "{\"max-concurrent-downloads\": 1e3}",
    "{\"dns\": [\"1.2.3\"]}",
    "{\"labels\": [\"a\"]}",
    "{\"log-level\": \"loud\"}",
    "{\"registry-mirrors\": [\"x\"]}",
    "{\"default-runtime\": \"nope\"}",
    "{\"bip\": \"10.0.0.300/24\"}",
    "{\"log-opts\": {\"nope\": \"1\"}}",
    "{\"default-address-pools\": [{\"base\": \"10.0.0.0/33\", \"size\": 24}]}",
    "{\"exec-opts\": [\"native.cgroupdriver=nope\"]}",
];

#[test]
fn a_configuration_that_docker_26_1_would_not_start_with() {
    docker_stays_up(&Machine::boot(Suite::Trixie), &NO_START);
}

/// Docker 20.10 does not have `--validate`.
#[test]
fn a_configuration_that_docker_20_10_would_not_start_with() {
    let few = [NO_START[0], NO_START[3], NO_START[6], NO_START[8]];
    docker_stays_up(&Machine::boot(Suite::Bookworm), &few);
}

#[test]
fn sources_that_disagree() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    let claim = machine.claim("app");
    machine.sh("mkdir -p /srv/docker");
    machine.write(
        "/etc/docker/daemon.json",
        "{\"data-root\": \"/srv/docker\"}",
    );
    refuses(&machine, &["apply", &claim], "daemon.json says /srv/docker");
    machine.write("/etc/docker/daemon.json", "{\"live-restore\": tru");
    refuses(&machine, &["apply", &claim], "Docker would not start again");
    machine.write("/etc/docker/daemon.json", "{\"hosts\": [\"fd://\"]}");
    let refused = refuses(
        &machine,
        &["apply", &claim],
        "set in /etc/docker/daemon.json",
    );
    machine.edits(
        &refused.next("systemctl edit --full"),
        "sed -i 's/ -H fd:[/][/]//' \"$1\"",
    );
    let newer = machine.digestfix(&["apply", &claim]).exits(3).stderr;
    assert!(newer.contains("--force-restart"), "{newer}");
    machine.sh("rm /etc/docker/daemon.json /etc/systemd/system/docker.service");
    let late = "/etc/systemd/system/docker.service.d/late.conf";
    machine.write(late, "[Service]\nExecStart=\n");
    machine.sh("systemctl daemon-reload");
    let refused = refuses(&machine, &["status"], "bad-setting");
    let shown = machine.types(&refused.next("systemctl status")).stdout;
    assert!(shown.contains("bad-setting"), "{shown}");
    machine.sh(&format!("rm {late}"));
    machine
        .types(&refused.next("systemctl daemon-reload"))
        .exits(0);
    machine.digestfix(&["status"]).exits(4);
    refuses(
        &machine,
        &["apply", "--data-root", "/srv/docker", &claim],
        "your flag says /srv/docker",
    );
    refuses(
        &machine,
        &["apply", "--unit", "dockerd.service", &claim],
        "there is docker.service",
    );
    machine.write(
        "/etc/systemd/system/docker.service.d/late.conf",
        "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// --data-root=/srv/docker\n",
    );
    let pid = machine.main_pid();
    let run = machine.digestfix(&["apply", &claim]);
    assert!([1, 3].contains(&run.code), "{}", run.stderr);
    assert!(run.stderr.contains("has changed on disk"), "{}", run.stderr);
    assert_eq!(machine.main_pid(), pid, "Docker was not stopped");
    machine.sh("systemctl daemon-reload");
    refuses(
        &machine,
        &["apply", &claim],
        "the unit's command line says /srv/docker",
    );
}

#[test]
fn a_dockerd_that_is_not_the_units() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    let claim = machine.claim("app");
    refuses(
        &machine,
        &[
            "apply",
            "--offline",
            "--data-root",
            "/var/lib/docker",
            &claim,
        ],
        "in use by a running dockerd",
    );
    machine.sh("systemctl stop docker.socket docker.service
         systemd-run -q --unit=mine dockerd -H unix:///run/mine.sock
         until docker -H unix:///run/mine.sock version >/dev/null 2>&1; do sleep 0.1; done");
    let refused = refuses(&machine, &["apply", &claim], "mine.service");
    machine.sh("mkdir -p /etc/docker");
    let refused = machine.types(&refused.next("digestfix apply")).exits(3);
    assert!(refused.stderr.contains("transient"), "{}", refused.stderr);
    machine.types(&refused.next("systemctl stop")).exits(0);
    let line = refused.next("digestfix apply");
    machine
        .types(&line.replace("DIR", "/var/lib/docker"))
        .exits(0);
    assert!(machine.store().contains(&machine.digest("app")));
}

/// `--unit` selects one of two Dockers. Without it, digestfix refuses to guess if only the
/// other Docker runs.
#[test]
fn two_dockers_on_one_host() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.write(
        "/etc/systemd/system/docker-b.service",
        "[Service]\nType=notify\nExecStart=/usr/sbin/dockerd --data-root=/var/lib/containerd/b \
         --exec-root=/run/b --pidfile=/run/b.pid -H unix:///run/b.sock --containerd-namespace=b \
         --bridge=none --iptables=false\n",
    );
    machine.sh("systemctl daemon-reload; systemctl start docker-b
         docker -H unix:///run/b.sock load -q -i /lab/app.tar");
    let status = machine.digestfix(&["status"]);
    assert!(
        status
            .stdout
            .contains("digestfix status --unit docker-b.service"),
        "{}",
        status.stdout
    );
    machine.sh("systemctl stop docker.socket docker.service");
    let claim = machine.claim("app");
    refuses(
        &machine,
        &["apply", &claim],
        "docker.service is not running, but another Docker is: docker.service, docker-b.service",
    );
    machine
        .digestfix(&["apply", "--unit", "docker-b.service", &claim])
        .exits(0);
    let pin = format!("{APP}@{}", machine.digest("app"));
    machine.sh(&format!("docker -H unix:///run/b.sock image inspect {pin}"));
    machine.sh("rm -f /etc/systemd/system/docker.service /usr/lib/systemd/system/docker.service /etc/init.d/docker
         systemctl daemon-reload");
    let refused = refuses(&machine, &["plan", &claim], "there is docker-b.service");
    machine.types(&refused.next("digestfix plan")).exits(0);
}

#[test]
fn another_ones_job_and_a_unit_half_way() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    machine.write(
        "/etc/systemd/system/slow.service",
        "[Unit]\nRequires=docker.service\nAfter=docker.service\n\
         [Service]\nType=oneshot\nExecStart=/bin/sleep 1000\n",
    );
    machine.sh("systemctl daemon-reload; systemctl start --no-block slow; until systemctl list-jobs | grep -q 'slow.*running'; do sleep 0.1; done");
    refuses(&machine, &["apply", &machine.claim("app")], "slow.service");
}

#[test]
fn claims_that_cannot_be_met() {
    let machine = Machine::boot(Suite::Bookworm);
    no_store_yet(&machine);
    machine.load("other");
    let (id, digest) = (machine.id("other"), machine.digest("app"));
    not_root(&machine);
    for (claim, says) in [
        (format!("{APP}:v1@{id}"), "is the ID of another image here"),
        (format!("{APP}:v2@{digest}"), "is not on this host"),
        (
            format!("nothing@{digest}"),
            "no image on this host has the name",
        ),
        (format!("{OTHER}:v1={APP}:v1"), "points at another image"),
        (
            format!("{APP}@{digest}=sha256:00"),
            "no image on this host has an ID",
        ),
    ] {
        refuses(&machine, &["apply", &claim], says);
        refuses(&machine, &["plan", &claim], says);
        refuses(&machine, &["verify", &claim], says);
    }
}

/// Removes the reference store of a Docker that has no image yet, and follows the advice.
#[track_caller]
fn no_store_yet(machine: &Machine) {
    machine.sh(&format!("rm {STORE}"));
    let refused = refuses(machine, &["status"], "the reference store does not exist");
    machine.sh("systemctl stop docker.socket docker.service");
    let stopped = machine.digestfix(&["status"]).exits(3);
    let start = stopped.next("systemctl start");
    assert_eq!(refused.next("systemctl start"), start);
    machine.types(&start).exits(0);
    machine.digestfix(&["status"]).exits(0);
    machine.sh(&format!("rm {STORE}"));
    let load = refused.next("docker load");
    machine
        .types(&load.replace("FILE", "/lab/app.tar"))
        .exits(0);
    machine.digestfix(&["status"]).exits(4);
}

/// This machine has no sudo, and the shell of the test belongs to root.
#[track_caller]
fn not_root(machine: &Machine) {
    let run = machine
        .run(&[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "digestfix",
            "status",
        ])
        .exits(3);
    let line = run.next("sudo digestfix");
    machine
        .types(&format!("sudo() {{ \"$@\"; }}; {line}"))
        .exits(4);
}

/// The run would be killed by its own stop of Docker.
#[test]
fn in_a_unit_that_is_stopped_along_with_docker() {
    let machine = Machine::boot(Suite::Forky);
    machine.load("app");
    let pid = machine.main_pid();
    machine.write(
        "/etc/systemd/system/lab-own.service",
        &format!(
            "[Unit]\nRequires=docker.service\nAfter=docker.service\n\
             [Service]\nExecStart=/usr/local/bin/digestfix apply {}\n",
            machine.claim("app")
        ),
    );
    // When journald is busy, it reads a message only after the process has ended.
    machine.sh("pkill -STOP systemd-journal; systemctl start lab-own.service");
    eventually("it has ended", || {
        machine
            .run(&["systemctl", "is-failed", "lab-own.service"])
            .code
            == 0
    });
    let status = machine.sh("systemctl show -p ExecMainStatus --value lab-own.service");
    assert_eq!(status, "3");
    machine.sh("pkill -CONT systemd-journal; journalctl --sync");
    let said = machine.sh("journalctl -b -o cat -u lab-own.service");
    assert!(said.contains("stops together with Docker"), "{said}");
    assert_eq!(machine.main_pid(), pid);
    let edit = command(&said, "systemctl edit --full");
    machine.edits(&edit, "sed -i s/^Requires=/Wants=/ \"$1\"");
    machine.sh("systemctl start lab-own.service");
    eventually("it has done it", || machine.engine_has("app"));
}
