//! Other users of the host during a run: clients, other units, and another digestfix.

use crate::machine::{APP, Machine, STORE, Suite, eventually, injecting};

/// Logs every start of docker.service, and gives others time for a start: the exchange of
/// the file is delayed by two seconds, so a Docker that starts earlier has the old
/// references.
const WATCHED: &str = "[Service]\nExecStartPre=/bin/sh -c 'echo start >>/run/starts'\n";
const SLOW: &str = "renameat2:delay_enter=2000000";

#[track_caller]
fn starts_once(machine: &Machine, meddler: &str) {
    machine.load("app");
    machine.drop_in(WATCHED);
    let meddling = machine.background(meddler);
    let claim = machine.claim("app");

    machine.injected(SLOW, &["apply", &claim]).exits(0);

    drop(meddling);
    machine.is_whole();
    assert!(machine.engine_has("app"));
    assert_eq!(machine.sh("cat /run/starts"), "start", "one start, its own");
}

#[test]
fn a_client_that_hammers_the_socket() {
    for suite in [Suite::Bookworm, Suite::Trixie, Suite::Forky] {
        let machine = Machine::boot(suite);
        starts_once(
            &machine,
            "while :; do curl -s -m 1 --unix-socket /run/docker.sock http://d/_ping >/dev/null; done",
        );
    }
}

#[test]
fn somebody_who_keeps_starting_docker() {
    let machine = Machine::boot(Suite::Bookworm);
    starts_once(
        &machine,
        "until [ -e /run/systemd/system/docker.service.d/zz-digestfix-start-block.conf ]; do :; done
         sleep 0.5
         for i in 1 2 3 4 5; do systemctl start docker.socket docker.service; sleep 0.1; done
         curl -s -m 1 --unix-socket /run/docker.sock http://d/_ping",
    );
}

#[test]
fn a_unit_that_upholds_docker() {
    for suite in [Suite::Bookworm, Suite::Trixie] {
        let machine = Machine::boot(suite);
        // With a socket unit, the socket's own stop job keeps systemd from the start that
        // the upholding unit requests. Without a socket unit, only digestfix's start
        // block can.
        if suite == Suite::Bookworm {
            machine.install_seed_unit();
        }
        machine.write(
            "/etc/systemd/system/uphold.service",
            "[Unit]\nUpholds=docker.service\n[Service]\nExecStart=/bin/sleep infinity\n",
        );
        machine.sh("systemctl daemon-reload; systemctl start uphold");
        starts_once(&machine, "true");
    }
}

#[test]
fn units_that_stop_with_docker_run_again() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    let service = "[Service]\nExecStart=/bin/sleep infinity\n";
    for (name, unit) in [
        ("requires", "Requires=docker.service\nAfter=docker.service"),
        ("partof", "PartOf=docker.service"),
        (
            "bindsto",
            "BindsTo=docker.service\nAfter=docker.service requires.service",
        ),
        (
            "second",
            "Requires=requires.service\nAfter=requires.service",
        ),
        ("stopped", "Requires=docker.service\nAfter=docker.service"),
        ("unneeded", "StopWhenUnneeded=yes"),
        (
            "needing",
            "Requires=docker.service unneeded.service\nAfter=unneeded.service",
        ),
    ] {
        machine.write(
            &format!("/etc/systemd/system/{name}.service"),
            &format!("[Unit]\n{unit}\n{service}"),
        );
    }
    machine.sh("systemctl daemon-reload; systemctl start requires partof bindsto second needing");

    let plan = machine.digestfix(&["plan", &machine.claim("app")]).exits(4);
    for name in ["requires", "partof", "bindsto", "second", "needing"] {
        assert!(
            plan.stdout.contains(&format!("{name}.service")),
            "{}",
            plan.stdout
        );
    }
    machine
        .digestfix(&["apply", &machine.claim("app")])
        .exits(0);

    machine.is_whole();
    let names = "requires partof bindsto second needing unneeded stopped";
    assert_eq!(
        machine.sh(&format!(
            "for u in {names}; do systemctl is-active $u || true; done"
        )),
        "active\nactive\nactive\nactive\nactive\nactive\ninactive"
    );
}

#[test]
fn they_run_again_after_a_failure_too() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    machine.write(
        "/etc/systemd/system/requires.service",
        "[Unit]\nRequires=docker.service\nAfter=docker.service\n[Service]\nExecStart=/bin/sleep infinity\n",
    );
    machine.sh("systemctl daemon-reload; systemctl start requires");
    let claim = machine.claim("app");

    machine
        .injected("renameat2:error=EIO", &["apply", &claim])
        .exits(1);

    machine.is_whole();
    assert_eq!(machine.sh("systemctl is-active requires"), "active");
}

#[test]
fn two_at_once() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    machine.load("other");
    let (first, second) = (machine.claim("app"), machine.claim("other"));
    let slow = machine.background(&format!("{} apply {first}", injecting(SLOW).join(" ")));
    eventually("the first one has the lock", || {
        !machine
            .sh("cat /var/lib/docker/digestfix/lock 2>/dev/null || true")
            .is_empty()
    });
    // The watchdog has the same process name, but started later.
    let holder = machine.sh("pgrep -o -x digestfix");

    let refused = machine.digestfix(&["apply", &second]).exits(3);
    assert!(
        refused.stderr.contains(&format!("process {holder}")),
        "{}",
        refused.stderr
    );
    machine
        .digestfix(&["apply", "--wait", "30", &second])
        .exits(0);

    slow.wait().exits(0);
    machine.is_whole();
    assert!(machine.engine_has("app") && machine.engine_has("other"));
}

/// The store changes after digestfix has planned. The changes of the other program are
/// kept.
#[test]
fn a_tag_in_the_last_moment_is_not_lost() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    machine.drop_in(&format!(
        "[Service]\nExecStop=-/usr/bin/docker tag {APP}:v1 {APP}:late\n"
    ));

    let run = machine
        .digestfix(&["apply", &machine.claim("app")])
        .exits(0);

    assert!(run.stdout.contains("planned again"), "{}", run.stdout);
    machine.is_whole();
    assert!(machine.engine_has("app"));
    machine.sh(&format!("docker image inspect {APP}:late >/dev/null"));
    assert!(machine.sh(&format!("cat {STORE}")).contains(":late"));
}
