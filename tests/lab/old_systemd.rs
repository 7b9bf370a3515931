//! systemd 219, 239 and 243, where their answers differ. `old_systemd.py` is a bus that
//! changes the answers of the real systemd to those of the old versions. digestfix(8)
//! describes what real hosts with these versions do with the same commands.

use serde_json::Value;

use crate::containerd::furnished;
use crate::machine::{APP, Machine, Run, Suite, eventually};

const SOCKET: &str = "/run/old-systemd";

/// A host with a running container, and a container that must stay stopped.
fn host(version: u32) -> Machine {
    let machine = Machine::boot(Suite::Bookworm);
    machine.allow_containers();
    machine.load("app");
    machine.sh(&format!(
        "docker run -d --name web {APP}:v1 /bin/busybox sleep 100000
         docker run -d --name down --restart always {APP}:v1 /bin/busybox sleep 100000
         docker kill down"
    ));
    start_bus(&machine, version);
    machine
}

fn start_bus(machine: &Machine, version: u32) {
    machine.write("/lab/old_systemd.py", include_str!("old_systemd.py"));
    // The watchdog must use the same bus.
    machine.write(
        "/etc/systemd/system/digestfix-watchdog-.service.d/lab.conf",
        &format!("[Service]\nEnvironment=DBUS_SYSTEM_BUS_ADDRESS=unix:path={SOCKET}\n"),
    );
    machine.sh(&format!(
        "systemctl daemon-reload
         systemd-run -q --unit=lab-bus python3 /lab/old_systemd.py {version} {SOCKET}"
    ));
    eventually("the bus is there", || {
        machine.run(&["test", "-S", SOCKET]).code == 0
    });
}

fn digestfix(machine: &Machine, words: &str) -> Run {
    let line = format!("DBUS_SYSTEM_BUS_ADDRESS=unix:path={SOCKET} digestfix {words}");
    machine.run(&["sh", "-c", &line])
}

fn containers(machine: &Machine) -> String {
    machine.sh(
        "docker inspect -f '{{.Name}} {{.State.Pid}} {{.State.StartedAt}} {{.HostConfig.RestartPolicy}}' web down
         ls -A /etc/docker",
    )
}

/// Checks that a run left nothing, and that systemd reports no problem.
#[track_caller]
fn is_clean(machine: &Machine) {
    eventually("the watchdog has ended", || machine.is_finished());
    machine.is_whole();
    machine.sh("systemctl daemon-reload; sleep 0.3");
    assert_eq!(
        machine.sh("systemctl list-units --all --plain --no-legend 'digestfix*'
                    ls -A /run/systemd/system /run/systemd/transient 2>/dev/null | grep digestfix || true"),
        ""
    );
}

fn the_same_promises(version: u32) {
    let machine = host(version);
    let (before, claim) = (containers(&machine), machine.claim("app"));

    digestfix(&machine, &format!("apply {claim}")).exits(0);
    assert!(machine.engine_has("app"));
    assert_eq!(containers(&machine), before);
    is_clean(&machine);
    digestfix(&machine, "rollback").exits(0);
    assert!(!machine.engine_has("app"));
    assert_eq!(containers(&machine), before);
    is_clean(&machine);

    // The run is killed while Docker is stopped. The watchdog recovers it.
    machine.drop_in("[Service]\nExecStopPost=-/usr/bin/pkill -KILL -f 'digestfix apply'\n");
    assert_ne!(digestfix(&machine, &format!("apply {claim}")).code, 0);
    machine.without_drop_in();
    is_clean(&machine);
    assert_eq!(containers(&machine), before);

    // The watchdog is killed too. A user recovers the run.
    machine.drop_in("[Service]\nExecStopPost=-/usr/bin/pkill -KILL digestfix\n");
    assert_ne!(digestfix(&machine, &format!("apply {claim}")).code, 0);
    machine.sh("systemctl stop 'digestfix-watchdog-*'");
    machine.without_drop_in();
    digestfix(&machine, "recover").exits(0);
    is_clean(&machine);
    assert_eq!(containers(&machine), before);

    let doctor = digestfix(&machine, "doctor --json").exits(0);
    let told: Value = serde_json::from_str(&doctor.stdout).unwrap();
    let checks = told["checks"].as_array().unwrap();
    let systemd = checks.iter().find(|one| one["check"] == "systemd").unwrap();
    assert_eq!(systemd["state"], "ok");
    assert!(
        systemd["what"]
            .as_str()
            .unwrap()
            .contains(&version.to_string())
    );
}

#[test]
fn systemd_219() {
    the_same_promises(219);
}

#[test]
fn systemd_239() {
    the_same_promises(239);
}

#[test]
fn systemd_243() {
    the_same_promises(243);
}

#[test]
fn systemd_219_and_the_containerd_image_store() {
    let machine = furnished(Suite::Trixie);
    start_bus(&machine, 219);
    let pid = machine.main_pid();
    for (words, has) in [("apply --from /served/app", true), ("rollback", false)] {
        digestfix(&machine, words).exits(0);
        assert_eq!(machine.engine_has("app"), has, "{words}");
        is_clean(&machine);
    }
    assert_eq!(machine.main_pid(), pid);
}
