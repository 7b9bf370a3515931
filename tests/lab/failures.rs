//! Real failures. After each of them, Docker runs with the old references, and the exit
//! code reports the failure. If Docker cannot run at all, digestfix reports that.

use std::collections::BTreeSet;

use crate::machine::{APP, Machine, STORE, Suite, eventually, every};

struct Before {
    store: String,
    claim: String,
}

fn ready(machine: &Machine) -> Before {
    machine.load("app");
    machine.load("other");
    Before {
        store: machine.store(),
        claim: machine.claim("app"),
    }
}

/// Checks that the host is in the state before the run.
#[track_caller]
fn is_as_before(machine: &Machine, before: &Before) {
    machine.is_whole();
    assert_eq!(machine.store(), before.store);
    assert!(!machine.engine_has("app"));
    assert!(machine.engine_finds(&format!("{APP}:v1")));
    let left = machine.sh(&format!(
        "ls -A {}",
        STORE.replace("/repositories.json", "")
    ));
    assert_eq!(
        left.split_whitespace().collect::<Vec<_>>(),
        ["distribution", "imagedb", "layerdb", "repositories.json"],
        "nothing is left behind"
    );
}

#[test]
fn the_swap_fails() {
    for suite in [Suite::Bookworm, Suite::Trixie, Suite::Forky] {
        let machine = Machine::boot(suite);
        let before = ready(&machine);

        let run = machine
            .injected("renameat2:error=EIO", &["apply", &before.claim])
            .exits(1);

        assert!(run.stderr.contains("Input/output error"), "{}", run.stderr);
        assert!(
            run.stderr.contains("Docker runs with them again"),
            "{}",
            run.stderr
        );
        is_as_before(&machine, &before);
    }
}

/// If a file system cannot exchange two files, digestfix renames them in three steps.
#[test]
fn the_file_system_cannot_exchange() {
    let machine = Machine::boot(Suite::Bookworm);
    let before = ready(&machine);

    machine
        .injected("renameat2:error=EINVAL", &["apply", &before.claim])
        .exits(0);

    machine.is_whole();
    assert!(machine.engine_has("app"));
    let kept = machine.sh(&format!("cat {STORE}.digestfix-*"));
    assert_eq!(kept, before.store, "the old file stays as a backup");
}

#[test]
fn the_directory_does_not_sync() {
    let machine = Machine::boot(Suite::Bookworm);
    let before = ready(&machine);
    let directory = STORE.trim_end_matches("/repositories.json");
    for (when, state) in [
        ("1", "Docker was not stopped"),
        ("2", "Docker runs with them again"),
    ] {
        let injection = format!("fsync:error=EIO:when={when}");
        let run = machine
            .injected_at(directory, &injection, &["apply", &before.claim])
            .exits(1);
        assert!(run.stderr.contains("sync"), "{}", run.stderr);
        assert!(run.stderr.contains(state), "{}", run.stderr);
        is_as_before(&machine, &before);
    }
}

#[test]
fn the_disk_is_full() {
    let machine = Machine::boot(Suite::Bookworm);
    let before = ready(&machine);
    machine.sh("systemctl stop docker.socket docker.service
         cd /var/lib/docker/image; mv overlay2 aside; mkdir -m 700 overlay2
         mount -t tmpfs -o size=256k,mode=700 tmpfs overlay2
         cp -a aside/. overlay2; rm -r aside; systemctl start docker
         cat /dev/zero >overlay2/distribution/fill 2>/dev/null || true");
    let pid = machine.main_pid();

    let run = machine.digestfix(&["apply", &before.claim]).exits(1);

    assert!(run.stderr.contains("No space left"), "{}", run.stderr);
    assert!(
        run.stderr.contains("Docker was not stopped"),
        "{}",
        run.stderr
    );
    assert_eq!(machine.main_pid(), pid, "Docker was never stopped");
    is_as_before(&machine, &before);
}

/// Fills the disk while Docker is stopped.
const FILLS: &str = "cat /dev/zero >/var/lib/docker/fill 2>/dev/null; \
                     for i in $(seq 100000); do echo >/var/lib/docker/fill-$i || break; done 2>/dev/null";

#[test]
fn the_disk_fills_while_docker_is_stopped() {
    for (kills, code) in [
        ("true", Some(0)),
        ("pkill -KILL -f 'digestfix apply'", None),
    ] {
        let machine = Machine::boot_on_disk(Suite::Trixie, "ext4");
        machine.allow_containers();
        machine.load("app");
        machine.sh(&format!(
            "for i in $(seq 12); do docker run -d --restart always --name c$i {APP}:v1 /bin/busybox sleep 100000; done"
        ));
        let containers = || machine.sh("docker ps -a --format '{{.Names}} {{.State}}' | sort");
        let before = containers();
        machine.drop_in(&format!(
            "[Service]\nExecStopPost=-/bin/sh -c '{}; {kills}'\n",
            FILLS.replace('$', "$$")
        ));
        let run = machine.digestfix(&["apply", &machine.claim("app")]);
        assert!(
            code.is_none_or(|code| code == run.code),
            "{} {}",
            run.stdout,
            run.stderr
        );
        machine.without_drop_in();
        eventually("the watchdog has ended", || machine.is_finished());
        machine.is_whole();
        assert_eq!(containers(), before);
        let free = machine.sh("stat -fc %f /var/lib/docker");
        let size = machine.sh("ls -s --block-size=M /var/lib/docker/fill");
        assert!(!size.starts_with('0'), "{size}, {free} blocks free");
        assert_eq!(machine.engine_has("app"), code.is_some());
    }
}

#[test]
fn the_daemon_does_not_start_with_the_new_file() {
    for suite in [Suite::Bookworm, Suite::Trixie, Suite::Forky] {
        let machine = Machine::boot(suite);
        let before = ready(&machine);
        machine.drop_in(&format!(
            "[Service]\nExecStartPre=/bin/sh -c '! grep -q @sha256 {STORE}'\n"
        ));

        let run = machine.digestfix(&["apply", &before.claim]).exits(1);

        assert!(
            run.stderr.contains("journalctl -u docker.service"),
            "{}",
            run.stderr
        );
        is_as_before(&machine, &before);
    }
}

/// A client removes the digest as soon as the engine answers.
#[test]
fn the_engines_answer_is_wrong() {
    let machine = Machine::boot(Suite::Bookworm);
    let before = ready(&machine);
    let reference = format!("{APP}@{}", machine.digest("app"));
    machine.drop_in(&format!(
        "[Service]\nExecStartPost=-/usr/bin/docker rmi --no-prune {reference}\n"
    ));

    let run = machine.digestfix(&["apply", &before.claim]).exits(1);

    assert!(run.stderr.contains(&reference), "{}", run.stderr);
    is_as_before(&machine, &before);
}

/// An undo keeps changes that a client made between the start of Docker and the undo.
#[test]
fn an_undo_keeps_what_others_did() {
    let machine = Machine::boot(Suite::Bookworm);
    let before = ready(&machine);
    machine.write(
        "/usr/local/bin/meddle",
        &format!(
            "#!/bin/sh\ngrep -q @sha256 {STORE} || exit 0\ndocker tag {APP}:v1 {APP}:theirs\n\
             pkill -TERM digestfix\n"
        ),
    );
    machine.sh("chmod +x /usr/local/bin/meddle");
    machine.drop_in("[Service]\nExecStartPost=-/usr/local/bin/meddle\n");

    machine.digestfix(&["apply", &before.claim]).exits(1);

    machine.is_whole();
    assert!(!machine.engine_has("app"));
    machine.sh(&format!(
        "docker image inspect {APP}:theirs {APP}:v1 >/dev/null"
    ));
    assert_eq!(machine.sh(&format!("ls {STORE}*")), STORE);
}

#[test]
fn the_daemon_cannot_start_at_all() {
    let machine = Machine::boot(Suite::Bookworm);
    let before = ready(&machine);
    machine.drop_in("[Service]\nExecStartPre=/bin/false\n");

    let run = machine.digestfix(&["apply", &before.claim]).exits(5);

    assert_eq!(machine.store(), before.store);
    for word in [
        "Docker is DOWN",
        "journalctl -u docker.service",
        "digestfix recover",
        "journalctl -u digestfix-watchdog-",
    ] {
        assert!(run.stderr.contains(word), "{}", run.stderr);
    }
    machine.without_drop_in();
    machine.digestfix(&["recover"]).exits(0);
    is_as_before(&machine, &before);
}

/// Sends SIGTERM to an apply at one call per run: at each rename, lock and connection, and
/// at every sixth sync and message to systemd. `DIGESTFIX_LAB_EVERY=1` tests each of these.
#[test]
fn told_to_stop_at_each_step() {
    let machine = Machine::boot(Suite::Trixie);
    let before = ready(&machine);
    let reference = format!("{APP}@{}", machine.digest("app"));
    let (mut undone, mut ended, mut too_late) = (0, 0, 0);
    let mut last_steps = BTreeSet::new();
    for (call, points, step) in [
        ("sendmsg", 75, every()),
        ("fsync", 13, every()),
        ("rename", 5, 1),
        ("renameat2", 1, 1),
        ("connect", 24, 1),
        ("flock", 4, 1),
    ] {
        for point in (1..=points).step_by(step) {
            let injection = format!("{call}:signal=SIGTERM:when={point}");
            let run = machine.injected(&injection, &["apply", "--json", &before.claim]);
            machine.is_whole();
            match run.code {
                0 => {
                    assert!(machine.engine_has("app"), "{injection}");
                    too_late += 1;
                    machine
                        .digestfix(&["apply", "--remove", &reference])
                        .exits(0);
                    machine.sh(&format!("rm -f {STORE}.digestfix-*"));
                }
                1 => {
                    is_as_before(&machine, &before);
                    undone += 1;
                    last_steps.insert(last_step(&run.stdout));
                }
                // While there is nothing to undo, a signal simply ends the run.
                -1 | 143 => {
                    is_as_before(&machine, &before);
                    ended += 1;
                }
                code => panic!("{injection}: {code}\n{}\n{}", run.stdout, run.stderr),
            }
        }
    }
    println!("SIGTERM: {ended} before it began, {undone} undone, {too_late} too late to matter");
    let last_steps: Vec<&str> = last_steps.iter().map(String::as_str).collect();
    assert_eq!(
        last_steps,
        ["", "block_start", "commit", "stage", "start", "stop"],
        "each step was cut short once"
    );
}

/// The last step of a run before an undo. Empty if the run took no step.
fn last_step(json: &str) -> String {
    let report: serde_json::Value = serde_json::from_str(json).unwrap();
    let steps = report["steps"].as_array().cloned().unwrap_or_default();
    steps
        .iter()
        .filter_map(|step| step["step"].as_str())
        .rfind(|step| !step.starts_with("undo_") && *step != "restore")
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn a_closed_terminal_and_a_hang_up() {
    let machine = Machine::boot(Suite::Bookworm);
    let before = ready(&machine);
    for signal in ["HUP", "INT"] {
        machine.drop_in(&format!(
            "[Service]\nExecStopPost=/usr/bin/pkill -{signal} digestfix\n"
        ));
        machine.digestfix(&["apply", &before.claim]).exits(1);
        machine.without_drop_in();
        is_as_before(&machine, &before);
    }
    machine.sh(&format!("digestfix apply {} | true", before.claim));
    machine.is_whole();
    assert!(
        machine.engine_has("app"),
        "nobody to tell is no reason to stop"
    );
}
