//! Data roots on every kind of file system, and in unusual places: an apply, an apply
//! that is killed, and an undo.

use crate::machine::{Machine, Suite, eventually};

fn there_killed_and_back(machine: &Machine) {
    machine.load("app");
    let claim = machine.claim("app");
    let find = "find $(docker info -f '{{.DockerRootDir}}')/image -name 'repositories.json'";
    let store = format!("'{}'", machine.sh(find));
    let before = machine.sh(&format!("cat {store}"));

    machine.drop_in("[Service]\nExecStopPost=-/usr/bin/pkill -KILL -f 'digestfix apply'\n");
    let run = machine.digestfix(&["apply", &claim]);
    assert_ne!(run.code, 0, "{}", run.stdout);
    machine.without_drop_in();
    eventually("the watchdog has ended", || machine.is_finished());
    machine.is_whole();
    assert_eq!(machine.sh(&format!("cat {store}")), before);

    machine.digestfix(&["apply", &claim]).exits(0);
    assert!(machine.engine_has("app"));
    let kept = machine.sh(&format!("cat {store}.digestfix-*"));
    assert_eq!(kept, before);
    assert_eq!(machine.writes(&["apply", &claim]), [""; 0]);
    machine.digestfix(&["rollback"]).exits(0);
    assert!(!machine.engine_has("app"));
    machine.is_whole();
    let left = machine.sh("find $(docker info -f '{{.DockerRootDir}}') -name journal.json");
    assert_eq!(left, "");
}

/// Boots a machine whose Docker begins with an empty data root on the file system that
/// `mount` mounts.
fn mounted(suite: Suite, mount: &str, config: &str) -> Machine {
    let machine = Machine::boot(suite);
    machine.sh("systemctl stop docker.socket docker.service");
    machine.sh(mount);
    machine.write("/etc/docker/daemon.json", config);
    machine.sh("systemctl start docker.service");
    machine
}

#[test]
fn ext4() {
    there_killed_and_back(&Machine::boot_on_disk(Suite::Bookworm, "ext4"));
}

#[test]
fn xfs() {
    there_killed_and_back(&Machine::boot_on_disk(Suite::Trixie, "xfs"));
}

#[test]
fn btrfs() {
    there_killed_and_back(&Machine::boot_on_disk(Suite::Forky, "btrfs"));
}

#[test]
fn tmpfs() {
    let mount = "mount -t tmpfs -o mode=710 tmpfs /var/lib/docker";
    there_killed_and_back(&mounted(Suite::Bookworm, mount, "{}"));
}

/// Docker's storage driver overlay2 does not work on overlayfs.
#[test]
fn overlayfs() {
    let mount = "cd /var/lib/containerd; mkdir lab lab/lower lab/upper lab/work
         mount -t overlay -o lowerdir=lab/lower,upperdir=lab/upper,workdir=lab/work overlay /var/lib/docker";
    let config = "{\"storage-driver\": \"vfs\"}";
    there_killed_and_back(&mounted(Suite::Trixie, mount, config));
}

/// The data root is on another file system than /var/lib. `--data-root` or daemon.json
/// names it.
#[test]
fn elsewhere() {
    let mount = "mkdir /srv/disk; mount -t tmpfs tmpfs /srv/disk";
    // The path contains text that systemd would expand in a unit's command line.
    let config = "{\"data-root\": \"/srv/disk/docker-${HOME}-%i\"}";
    let machine = mounted(Suite::Forky, mount, config);
    there_killed_and_back(&machine);
    few_open_files(&machine);
}

/// With a low limit of open files, the descriptor of the start block would exceed the
/// limit. digestfix raises the soft limit. If the hard limit is too low, it refuses and
/// changes nothing.
#[track_caller]
fn few_open_files(machine: &Machine) {
    let claim = machine.claim("app");
    let apply = |limit: &str| {
        let script = format!("ulimit {limit} 100; exec digestfix apply {claim}");
        machine.run(&["sh", "-c", &script])
    };
    let before = machine.sh("cat /etc/docker/daemon.json; systemctl show -P MainPID docker");
    let refused = apply("-n").exits(3);
    assert!(refused.stderr.contains("ulimit -n"), "{}", refused.stderr);
    let after = machine.sh("cat /etc/docker/daemon.json; systemctl show -P MainPID docker");
    assert_eq!(after, before);
    apply("-Sn").exits(0);
}
