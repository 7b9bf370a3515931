//! Runs that are killed, and machines that shut down during a run. Afterwards, no user
//! types a command.

use std::thread;
use std::time::Duration;

use crate::machine::{APP, Machine, STORE, Suite, eventually, injecting};

/// Kills an apply at the moment when Docker has stopped.
const KILL: &str = "[Service]\nExecStopPost=-/usr/bin/pkill -KILL -f 'digestfix apply'\n";

/// A watchdog that does nothing.
const IDLE: &str =
    "[Service]\nType=simple\nExecStart=\nExecStart=/bin/sleep infinity\nRestart=no\n";

/// A machine with a running container, and a container that must stay stopped.
fn ready(suite: Suite) -> Machine {
    let machine = Machine::boot(suite);
    machine.allow_containers();
    machine.load("app");
    machine.write("/etc/docker/daemon.json", "{\n  \"debug\": false\n}\n");
    machine.sh(&format!(
        "systemctl restart docker
         docker run -d --stop-timeout=1 --name web {APP}:v1 /bin/busybox sleep 100000
         docker run -d --name down --restart always {APP}:v1 /bin/busybox sleep 100000
         docker kill down"
    ));
    machine
}

fn containers(machine: &Machine) -> String {
    machine.sh(
        "docker inspect -f '{{.Name}} {{.State.Pid}} {{.State.StartedAt}} {{.HostConfig.RestartPolicy}}' \
         web down",
    )
}

fn config(machine: &Machine) -> String {
    machine.sh("stat -c '%i %a %u %y' /etc/docker/daemon.json; cat /etc/docker/daemon.json; ls /etc/docker")
}

fn guards_are_idle(machine: &Machine) {
    machine.write(
        "/etc/systemd/system/digestfix-watchdog-.service.d/lab.conf",
        IDLE,
    );
    machine.sh("systemctl daemon-reload");
}

/// Runs an apply that is killed while Docker is stopped.
#[track_caller]
fn killed(machine: &Machine) {
    machine.drop_in(KILL);
    let run = machine.digestfix(&["apply", &machine.claim("app")]);
    assert_ne!(run.code, 0, "{}", run.stdout);
    machine.without_drop_in();
}

#[track_caller]
fn last_result(machine: &Machine) -> String {
    let listed = machine.digestfix(&["history"]).exits(0).stdout;
    listed.lines().last().unwrap().to_owned()
}

#[test]
fn a_killed_apply_is_brought_back() {
    for suite in [Suite::Bookworm, Suite::Trixie, Suite::Forky] {
        let machine = ready(suite);
        let before = (containers(&machine), config(&machine), machine.store());
        killed(&machine);
        eventually("the watchdog has ended", || machine.is_finished());
        machine.is_whole();
        let after = (containers(&machine), config(&machine), machine.store());
        assert_eq!(after, before);
        assert!(last_result(&machine).contains("interrupted"), "{suite:?}");
        machine
            .digestfix(&["apply", &machine.claim("app")])
            .exits(0);
    }
}

/// Another program kills every process with this name, again and again.
#[test]
fn a_watchdog_is_started_again_however_often_it_is_killed() {
    let machine = ready(Suite::Trixie);
    machine.write(
        "/etc/systemd/system/digestfix-watchdog-.service.d/lab.conf",
        "[Service]\nRestartSec=100ms\n",
    );
    let before = (containers(&machine), config(&machine));
    let kills = "for i in 1 2 3 4 5 6 7 8 9 10; do pkill digestfix; sleep 0.2; pkill -KILL digestfix; sleep 0.2; done";
    machine.drop_in(&format!("[Service]\nExecStopPost=-/bin/sh -c '{kills}'\n"));
    let run = machine.digestfix(&["apply", &machine.claim("app")]);
    assert_ne!(run.code, 0, "{}", run.stdout);
    machine.without_drop_in();
    eventually("the watchdog has ended", || machine.is_finished());
    machine.is_whole();
    assert_eq!((containers(&machine), config(&machine)), before);
    let starts =
        machine.sh("journalctl --sync; journalctl -b | grep -c 'Started digestfix-watchdog'");
    // systemd's default limit is five starts within ten seconds.
    assert!(starts.parse::<u32>().unwrap() > 6, "{starts}");
}

/// An empty mount point contains no journal. This does not mean that the run has ended.
#[test]
fn a_watchdog_waits_for_a_disk_that_was_unmounted() {
    let machine = Machine::boot(Suite::Trixie);
    machine.load("app");
    let before = machine.store();
    machine.drop_in("[Service]\nExecStopPost=-/usr/bin/pkill -KILL digestfix\n");
    let run = machine.digestfix(&["apply", &machine.claim("app")]);
    assert_ne!(run.code, 0, "{}", run.stdout);
    // systemd starts the watchdog again after five seconds.
    machine.sh("mount -t tmpfs tmpfs /var/lib/docker");
    machine.without_drop_in();
    let told = "journalctl -u 'digestfix-watchdog-*' | grep -c 'its data root .* is not available'";
    eventually("the watchdog has tried", || {
        machine.run(&["sh", "-c", told]).code == 0
    });
    assert_eq!(machine.sh("ls -A /var/lib/docker"), "");
    assert!(!machine.is_finished());
    machine.sh("umount /var/lib/docker");
    eventually("the watchdog has ended", || machine.is_finished());
    machine.is_whole();
    assert_eq!(machine.store(), before);
}

/// Two storage drivers have images on this host. While Docker is stopped, nothing shows
/// which driver Docker uses.
#[test]
fn a_watchdog_knows_what_only_the_engine_knew() {
    let machine = ready(Suite::Bookworm);
    machine.sh("mkdir -p /var/lib/docker/image/vfs
         cp /var/lib/docker/image/overlay2/repositories.json /var/lib/docker/image/vfs/");
    let before = (containers(&machine), config(&machine));
    killed(&machine);
    eventually("the watchdog has ended", || machine.is_finished());
    machine.is_whole();
    assert_eq!((containers(&machine), config(&machine)), before);
}

#[test]
fn a_unit_brings_back_what_it_left() {
    let machine = ready(Suite::Bookworm);
    let before = (containers(&machine), config(&machine));
    guards_are_idle(&machine);
    machine.write(
        "/etc/systemd/system/lab-apply.service",
        &format!(
            "[Unit]\nAfter=docker.service\n[Service]\nType=oneshot\n\
             ExecStart=/usr/local/bin/digestfix apply {}\n\
             ExecStopPost=/usr/local/bin/digestfix recover\n",
            machine.claim("app")
        ),
    );
    machine.drop_in(KILL);
    assert_ne!(
        machine
            .run(&["systemctl", "start", "lab-apply.service"])
            .code,
        0
    );
    machine.without_drop_in();
    machine.sh("systemctl stop 'digestfix-watchdog-*'");
    machine.is_whole();
    assert_eq!((containers(&machine), config(&machine)), before);
    let result = machine.sh("systemctl show -p Result --value lab-apply.service");
    assert_eq!(result, "signal");
}

/// Files are restored before Docker reads them, everything else after Docker has started.
#[test]
fn a_machine_that_goes_down_under_it() {
    let mut machine = ready(Suite::Trixie);
    machine.install_units();
    guards_are_idle(&machine);
    let (before, store) = (config(&machine), machine.store());
    killed(&machine);
    assert_ne!(
        config(&machine),
        before,
        "live-restore is on for the moment"
    );
    machine.reboot(false);
    eventually("all is finished", || machine.is_finished());
    machine.is_whole();
    assert_eq!((config(&machine), machine.store()), (before, store));
    let policy = machine.sh("docker inspect -f '{{.HostConfig.RestartPolicy.Name}}' down");
    assert_eq!(policy, "always");
    let web = machine.sh("docker inspect -f '{{.State.Running}}' web");
    assert_eq!(web, "false", "as after any reboot");
    let at = |unit: &str, property: &str| -> u64 {
        let show = format!("systemctl show -p {property} --value {unit}");
        machine.sh(&show).parse().unwrap()
    };
    let recovered = at(
        "digestfix-recover.service",
        "ExecMainExitTimestampMonotonic",
    );
    let read = at("docker.service", "ExecMainStartTimestampMonotonic");
    assert!(0 < recovered && recovered < read, "{recovered} {read}");
    machine.sh("journalctl --sync; journalctl -b -t digestfix | grep 'consistent again'");
    assert!(last_result(&machine).contains("interrupted"));
    assert_eq!(
        machine.sh("systemctl list-units --failed --plain --no-legend 'digestfix*'"),
        ""
    );

    machine.reboot(false);
    machine.is_whole();
    for unit in ["digestfix-recover.service", "digestfix-resume.service"] {
        let condition = format!("systemctl show -p ConditionResult --value {unit}");
        assert_eq!(machine.sh(&condition), "no", "there is nothing to do");
    }

    // As if the host had rebooted, but without its units, and Docker does not start.
    killed(&machine);
    let boot = "s/\"boot\": \"[^\"]*/\"boot\": \"another/";
    machine.sh(&format!(
        "systemctl stop 'digestfix-watchdog-*'
         sed -i '{boot}' /var/lib/docker/digestfix/journal.json"
    ));
    let waits = machine.digestfix(&["recover"]).exits(5);
    for begins in ["systemctl start", "digestfix recover"] {
        machine.types(&waits.next(begins)).exits(0);
    }
    machine.is_whole();
    let policy = machine.sh("docker inspect -f '{{.HostConfig.RestartPolicy.Name}}' down");
    assert_eq!(policy, "always");
}

/// Starts an apply that takes long while Docker is stopped, and shuts the machine down
/// during that time.
fn shut_down_under(machine: &mut Machine, seconds: u32) -> String {
    let claim = machine.claim("app");
    let delay = format!("renameat2:delay_enter={seconds}s");
    let mut words = injecting(&delay);
    words.insert(1, format!("--trace-path={STORE}"));
    let words = words.join(" ");
    // Run it as a unit. Otherwise systemd would not stop it at shutdown.
    machine.write(
        "/root/apply",
        &format!("{words} apply {claim} >/root/out 2>&1; echo exit $? >>/root/out; sync"),
    );
    machine.sh("systemd-run -q --unit=lab-apply /bin/sh /root/apply");
    eventually("Docker is down", || {
        machine
            .run(&["systemctl", "is-active", "docker.service"])
            .code
            != 0
    });
    machine.sh("systemctl poweroff --no-block");
    machine.went_down();
    machine.reboot(false);
    eventually("Docker is back", || machine.is_finished());
    machine.is_whole();
    machine.sh("cat /root/out")
}

#[test]
fn a_shutdown_waits_for_the_end() {
    for suite in [Suite::Bookworm, Suite::Trixie, Suite::Forky] {
        let mut machine = ready(suite);
        // The time limit is generous, because an apply takes longer while other machines
        // run.
        machine.write(
            "/etc/systemd/logind.conf.d/lab.conf",
            "[Login]\nInhibitDelayMaxSec=60\n",
        );
        machine.sh("systemctl restart systemd-logind");
        let before = config(&machine);
        let said = shut_down_under(&mut machine, 2);
        assert!(said.contains("Done."), "{said}");
        assert!(machine.engine_has("app"));
        assert_eq!(config(&machine), before);
    }
}

#[test]
fn a_shutdown_that_does_not_wait() {
    let mut machine = ready(Suite::Trixie);
    machine.install_units();
    // At shutdown, systemd waits 90 seconds for the processes that Docker leaves running.
    machine.sh("docker rm -f web");
    let before = config(&machine);
    let said = shut_down_under(&mut machine, 60);
    assert!(!said.contains("Done."), "{said}");
    let has = machine.store().contains(&machine.digest("app"));
    assert_eq!(machine.engine_has("app"), has);
    assert_eq!(config(&machine), before);
    let policy = machine.sh("docker inspect -f '{{.HostConfig.RestartPolicy.Name}}' down");
    assert_eq!(policy, "always");
}

/// If a file system detects an error in itself, it becomes read-only.
const ABORT: &str = "mount -o remount,errors=remount-ro,abort /var/lib/docker";

/// Docker cannot start on this file system, no matter which references it has.
#[test]
fn a_disk_that_becomes_read_only() {
    let machine = Machine::boot_on_disk(Suite::Trixie, "ext4");
    machine.load("app");
    let before = machine.store();
    machine.drop_in(&format!("[Service]\nExecStopPost=-/bin/{ABORT}\n"));
    let run = machine
        .digestfix(&["apply", &machine.claim("app")])
        .exits(5);
    for words in [
        "Read-only",
        "the references are as they were",
        "Docker is DOWN",
        "journalctl -u digestfix-watchdog-",
    ] {
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
    assert_eq!(machine.store(), before);
    assert_eq!(machine.sh(&format!("ls {STORE}")), STORE);
}

#[test]
fn a_disk_that_is_read_only() {
    let machine = Machine::boot_on_disk(Suite::Bookworm, "ext4");
    machine.load("app");
    let pid = machine.main_pid();
    machine.sh(ABORT);
    let run = machine
        .digestfix(&["apply", &machine.claim("app")])
        .exits(1);
    for words in ["Read-only", "nothing was touched"] {
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
    assert_eq!(machine.main_pid(), pid);
    for look in ["ls -ld ", "df -h "] {
        let shown = machine.types(&run.next(look)).exits(0).stdout;
        assert!(shown.contains("/var/lib/docker"), "{shown}");
    }
}

/// A journal that another program forged restores nothing, and does not keep Docker from
/// starting.
#[test]
fn a_journal_that_lies() {
    let machine = ready(Suite::Bookworm);
    machine.install_units();
    let before = (machine.main_pid(), containers(&machine), config(&machine));
    killed_before_anything(&machine);
    let journal = "/var/lib/docker/digestfix/journal.json";
    let good = machine.sh(&format!("cat {journal}"));
    for (from, to) in [
        (
            "\"config_file\": \"/etc/docker/daemon.json\"",
            "\"config_file\": \"/etc/passwd\"",
        ),
        (
            "\"driver\": \"overlay2\"",
            "\"driver\": \"../../../../etc\"",
        ),
        ("\"id\": \"2", "\"id\": \"../2"),
        ("\"unit\": \"docker.service\"", "\"unit\": \"ssh.service\""),
        ("{", "["),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{from}");
        machine.write(journal, &bad);
        let run = machine.digestfix(&["recover"]);
        // digestfix ignores a journal that does not concern this host, and refuses the
        // others.
        assert!(
            [0, 3].contains(&run.code),
            "{to}: {} {}",
            run.code,
            run.stderr
        );
        machine.run(&["digestfix", "recover", "--before-docker"]);
        let after = (machine.main_pid(), containers(&machine), config(&machine));
        assert_eq!(after, before, "{to}");
        assert!(machine.sh("cat /etc/passwd").starts_with("root:"));
    }
    machine.sh(&format!("chown daemon {journal}"));
    let run = machine.digestfix(&["recover"]).exits(3);
    assert!(
        run.stderr.contains("can write to the file"),
        "{}",
        run.stderr
    );

    // The true journal, but the user names another configuration file.
    machine.write(journal, &good);
    machine.write("/root/daemon.json", "{}");
    machine.sh(&format!("chown root {journal}"));
    for command in ["recover", "doctor"] {
        let other = [command, "--config-file", "/root/daemon.json"];
        let run = machine.digestfix(&other).exits(3);
        let line = run.next("digestfix recover --config-file /etc");
        if command == "doctor" {
            machine.types(&line).exits(0);
        }
    }
    assert!(!machine.file(journal).exists());
    let after = (machine.main_pid(), containers(&machine), config(&machine));
    assert_eq!(after, before);
}

/// Leaves a journal of a run that has not changed anything yet.
fn killed_before_anything(machine: &Machine) {
    guards_are_idle(machine);
    let images = STORE.trim_end_matches("/repositories.json");
    let run = machine.injected_at(
        images,
        "fsync:signal=SIGKILL:when=1",
        &["apply", &machine.claim("app")],
    );
    assert_ne!(run.code, 0);
    machine.sh("systemctl stop 'digestfix-watchdog-*'");
    thread::sleep(Duration::from_millis(100));
}
