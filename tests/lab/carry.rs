//! Carried in one file: `digestfix save` on one host, `digestfix load` on another.

use crate::machine::{APP, Machine, OTHER, Suite};

/// A Docker that has nothing yet.
const FRESH: &str = "
  echo '{\"data-root\":\"/var/lib/docker/second\"}' >/etc/docker/daemon.json
  systemctl restart docker; systemctl reset-failed docker";

const STOPS: &str = "journalctl -u docker | grep -c 'Daemon shutdown complete' || true";

fn carries(machine: &Machine, fresh: &str, may_stop: u32) {
    let tag = format!("{APP}:v1");
    let pin = format!("{OTHER}:v9@{}", machine.digest("other"));
    machine.allow_containers();
    machine.pull_both();
    let save = machine.digestfix(&["save", "-o", "/lab/images.tar.gz", &tag, &pin]);
    save.exits(0);
    machine.sh("gunzip -k /lab/images.tar.gz; head -c 30000 /lab/images.tar >/lab/cut.tar");
    machine.sh("tar --delete -f - digestfix.json </lab/images.tar >/lab/plain.tar");
    machine.sh(fresh);
    assert_eq!(machine.sh("docker images -q"), "");

    let cut = machine.digestfix(&["load", "/lab/cut.tar"]);
    let told = cut.exits(3).stderr;
    assert!(told.contains("cut short"), "{told}");
    assert_eq!(machine.sh("docker images -q"), "");

    let stops: u32 = machine.sh(STOPS).parse().unwrap();
    machine.digestfix(&["load", "/lab/images.tar.gz"]).exits(0);
    let stopped = machine.sh(STOPS).parse::<u32>().unwrap() - stops;
    assert!(stopped <= may_stop, "{stopped}");
    for name in [format!("{APP}@{}", machine.digest("app")), pin, tag] {
        let said = machine.sh(&format!("docker run --rm --network none {name}"));
        assert!(said.starts_with("hello from"), "{said}");
    }
    let again = machine
        .digestfix(&["load", "/lab/images.tar"])
        .exits(0)
        .stdout;
    assert!(again.contains("Nothing to do"), "{again}");
    let verify = machine.digestfix(&["verify", "--from", "/lab/images.tar"]);
    verify.exits(0);

    machine.sh("docker rmi -f $(docker images -q)");
    let piped = machine.run(&["bash", "-c", "digestfix load <lab/images.tar"]);
    piped.exits(0);
    machine.sh("docker rmi -f $(docker images -q)");
    let plain = machine.digestfix(&["load", "/lab/plain.tar"]);
    let told = plain.exits(if may_stop == 0 { 0 } else { 4 });
    machine.sh(&format!("docker image inspect {APP}:v1"));
    assert!(
        may_stop == 0 || told.stderr.contains("has no digest"),
        "{}",
        told.stderr
    );
}

#[test]
fn to_docker_20_10() {
    let machine = Machine::boot(Suite::Bookworm);
    carries(&machine, FRESH, 1);
}

#[test]
fn to_docker_28() {
    let machine = Machine::boot(Suite::Forky);
    carries(&machine, FRESH, 1);
}

/// Docker itself sets tags there, and nothing stops.
#[test]
fn to_containerd_28() {
    let machine = Machine::boot(Suite::Forky);
    machine.sh(
        "echo '{\"features\":{\"containerd-snapshotter\":true}}' >/etc/docker/daemon.json; systemctl restart docker",
    );
    carries(&machine, "docker rmi -f $(docker images -q)", 0);
}
