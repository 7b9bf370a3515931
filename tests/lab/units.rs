//! The units and the cron example, as a package installs them: no user runs `digestfix`,
//! and the sandbox is active.

use std::time::Instant;

use crate::containers::elsewhere;
use crate::load::{self, Load};
use crate::machine::{APP, Machine, Suite, command, eventually};

const CLAIMS: &str = "/etc/digestfix/claims.d";

/// Each service, with the highest exposure that it may have (`systemd-analyze security`),
/// in tenths.
const SERVICES: [(&str, u32); 3] = [
    ("digestfix.service", 23),
    ("digestfix-recover.service", 20),
    ("digestfix-resume.service", 20),
];

/// A machine with the units, and a container that serves a published port.
fn ready(suite: Suite) -> Machine {
    let machine = Machine::boot(suite);
    machine.allow_containers();
    machine.install_units();
    machine.load("app");
    machine.sh(&format!(
        "mkdir -p {CLAIMS}; systemctl start digestfix.path
         docker run -d --name web -p 8080:80 {APP}:v1 /bin/busybox httpd -f -p 80 -h / >/dev/null"
    ));
    machine
}

fn web(machine: &Machine) -> String {
    machine.sh("docker inspect -f '{{.State.Pid}} {{.State.StartedAt}}' web")
}

fn show(machine: &Machine, unit: &str, property: &str) -> String {
    machine.sh(&format!("systemctl show -p {property} --value {unit}"))
}

fn is_over(machine: &Machine) -> bool {
    ["inactive", "failed"].contains(&show(machine, "digestfix.service", "ActiveState").as_str())
}

/// Writes a claims file. Only the path unit notices it.
fn arrives(machine: &Machine, name: &str, claim: &str) {
    machine.write(&format!("{CLAIMS}/{name}"), &format!("{claim}\n"));
}

#[track_caller]
fn is_repaired(machine: &Machine, name: &str) {
    let claimed = format!("localhost:5000/lab/{name}@{}", machine.digest(name));
    eventually("the claim holds", || machine.store().contains(&claimed));
    eventually("its run is over", || is_over(machine));
    assert!(machine.engine_has(name));
    machine.is_whole();
}

fn the_units_are_sound(machine: &Machine) {
    let verified = machine.run(&[
        "sh",
        "-c",
        "cd /etc/systemd/system; systemd-analyze --man=no verify digestfix*",
    ]);
    assert!(
        !verified.stderr.contains("digestfix"),
        "{}",
        verified.stderr
    );
    for (service, at_most) in SERVICES {
        let exposure = machine.run(&[
            "systemd-analyze",
            "security",
            "--no-pager",
            "--offline=yes",
            &format!("--threshold={at_most}"),
            &format!("/etc/systemd/system/{service}"),
        ]);
        assert_eq!(exposure.code, 0, "{}", exposure.stdout);
        println!(
            "{}",
            exposure.stdout.trim().lines().last().unwrap_or_default()
        );
    }
}

/// A claims file arrives, and the unit does everything else, within its sandbox.
fn the_whole_job(machine: &Machine) {
    let before = (web(machine), machine.sh("ls -A /etc/docker"));
    let (namespace, server) = elsewhere(machine, 8080);
    let clients = Load::requests(namespace, server);
    let local = Load::requests(machine.namespace(), ([127, 0, 0, 1], 8080).into());
    let began = Instant::now();
    arrives(machine, "app", &machine.claim("app"));
    is_repaired(machine, "app");
    let said = machine.sh("journalctl --sync; journalctl -b -o cat -t digestfix");
    let let_go = Vec::from_iter(load::let_go(began, &said));
    clients.met_no_failure_but("requests to a published port", &let_go);
    local.were_not_refused("requests to a published port from this host", &let_go);
    assert_eq!((web(machine), machine.sh("ls -A /etc/docker")), before);
    let history = machine.digestfix(&["history"]).exits(0).stdout;
    assert!(history.contains("  digestfix.service  "), "{history}");
    assert!(
        said.contains("live-restore switched on")
            && !said.contains("cannot hold these connections back"),
        "{said}"
    );
    // The journal has each step only once, by the program's name and by its unit, although
    // the unit's output goes to the journal too.
    for matches in ["-t digestfix", "-u digestfix.service"] {
        let said = machine.sh(&format!("journalctl -b -o cat {matches}"));
        for step in ["docker.socket stopped", "the engine answers"] {
            assert_eq!(said.matches(step).count(), 1, "{matches}: {said}");
        }
    }

    let pid = machine.main_pid();
    machine.write("/etc/default/digestfix", "DIGESTFIX_OPTIONS=-v");
    machine.sh("systemctl start digestfix.service; rm /etc/default/digestfix");
    assert_eq!(machine.main_pid(), pid, "there was nothing to do");
    // The options in the unit's configuration take effect.
    let said = machine.sh("journalctl --sync; journalctl -b -o cat -t digestfix -n 20");
    let source = "data root: /var/lib/docker source=\"the running engine\"";
    assert!(said.contains(source), "{said}");
}

#[test]
fn an_old_host_repairs_itself() {
    let machine = ready(Suite::Bookworm);
    the_units_are_sound(&machine);
    the_whole_job(&machine);
}

#[test]
fn a_new_host_repairs_itself() {
    let machine = ready(Suite::Forky);
    the_units_are_sound(&machine);
    the_whole_job(&machine);
}

#[test]
fn a_host_looks_after_itself() {
    let mut machine = ready(Suite::Trixie);
    the_units_are_sound(&machine);
    the_whole_job(&machine);
    a_bad_file_is_told_of(&machine);
    what_arrives_meanwhile_is_seen(&machine);
    a_sandbox_in_the_way_is_told_of(&machine);
    a_killed_run_is_brought_back(&machine);
    a_stop_waits_for_nothing_but_the_undo(&machine);
    the_timer_runs_it(&machine);
    cron_mails_what_changed(&machine);
    machine.reboot(false);
    a_boot_is_as_ever(&machine);
}

fn a_bad_file_is_told_of(machine: &Machine) {
    lose(machine);
    let (pid, store) = (machine.main_pid(), machine.store());
    arrives(machine, "bad", "app:v1@sha256:0123");
    eventually("it is told", || {
        show(machine, "digestfix.service", "ActiveState") == "failed"
    });
    // `systemctl status` shows only what journald has already stored.
    machine.sh("journalctl --sync");
    let status = machine.run(&["systemctl", "status", "--no-pager", "digestfix.service"]);
    for words in [&format!("{CLAIMS}/bad"), "refused", "nothing was touched"] {
        assert!(status.stdout.contains(words), "{}", status.stdout);
    }
    assert_eq!((machine.main_pid(), machine.store()), (pid, store));
    // The service does not run again until another file arrives.
    let run = show(machine, "digestfix.service", "InvocationID");
    machine.sh("sleep 1");
    assert_eq!(show(machine, "digestfix.service", "InvocationID"), run);
    machine.sh(&format!("rm {CLAIMS}/bad"));
    is_repaired(machine, "app");
    assert_eq!(
        show(machine, "digestfix.service", "ActiveState"),
        "inactive"
    );
}

/// A file that is copied slowly counts as one arrival. While its service runs, the path
/// unit does not watch the directory.
fn what_arrives_meanwhile_is_seen(machine: &Machine) {
    machine.load("other");
    let (app, other) = (machine.claim("app"), machine.claim("other"));
    lose(machine);
    let pid = machine.main_pid();
    let busy = machine.background(
        "flock /var/lib/docker/digestfix/lock sh -c 'until [ -e /root/go ]; do sleep 0.1; done'",
    );
    arrives(machine, "app", &app[..app.len() / 2]);
    machine.sh("sleep 0.3");
    arrives(machine, "app", &app);
    eventually("it runs", || {
        machine.run(&["pgrep", "-f", "digestfix apply"]).code == 0
    });
    // The run has read the claims by now, and waits for the lock.
    machine.sh("sleep 1");
    assert!(!is_over(machine));
    arrives(machine, "other", &other);
    assert_eq!(machine.main_pid(), pid);
    machine.sh("touch /root/go");
    busy.wait();
    is_repaired(machine, "other");
    assert!(machine.engine_has("app"));
    let failures = machine
        .sh("journalctl --sync; journalctl -b -o cat -t digestfix | grep -c '^apply refused'");
    assert_eq!(failures, "1", "that of the bad file");
}

/// Removes the digest again.
fn lose(machine: &Machine) {
    let reference = format!("--remove={APP}@{}", machine.digest("app"));
    machine.digestfix(&["apply", &reference]).exits(0);
}

fn a_sandbox_in_the_way_is_told_of(machine: &Machine) {
    lose(machine);
    let pid = machine.main_pid();
    let drop_in = "/etc/systemd/system/digestfix.service.d/lab.conf";
    machine.write(
        drop_in,
        "[Service]\nReadOnlyPaths=/var/lib\nReadWritePaths=/var/lib/digestfix\n",
    );
    machine.sh("systemctl daemon-reload");
    assert_ne!(
        machine
            .run(&["systemctl", "start", "digestfix.service"])
            .code,
        0
    );
    let status = machine.run(&[
        "systemctl",
        "status",
        "--no-pager",
        "-l",
        "digestfix.service",
    ]);
    for words in [
        "Read-only file system",
        "nothing was touched",
        "systemctl edit digestfix.service, add [Service] and ReadWriteDirectories=/var/lib/docker,",
    ] {
        assert!(status.stdout.contains(words), "{}", status.stdout);
    }
    assert_eq!(machine.main_pid(), pid);
    let edit = command(&status.stdout, "systemctl edit digestfix.service");
    let line = command(&status.stdout, "ReadWriteDirectories=");
    machine.edits(
        &edit,
        &format!("printf '[Service]\\n%s\\n' '{line}' >\"$1\""),
    );
    let start = command(&status.stdout, "systemctl start digestfix.service");
    machine.sh(&start);
    is_repaired(machine, "app");
    machine.sh("rm -r /etc/systemd/system/digestfix.service.d; systemctl daemon-reload");
    lose(machine);
}

fn a_killed_run_is_brought_back(machine: &Machine) {
    let (before, store) = (web(machine), machine.store());
    machine.drop_in("[Service]\nExecStopPost=-/usr/bin/pkill -KILL -f 'digestfix apply'\n");
    assert_ne!(
        machine
            .run(&["systemctl", "start", "digestfix.service"])
            .code,
        0
    );
    assert_eq!(show(machine, "digestfix.service", "Result"), "signal");
    eventually("it is brought back", || machine.is_finished());
    machine.without_drop_in();
    machine.is_whole();
    assert_eq!((web(machine), machine.store()), (before, store));
}

/// The service is stopped while Docker starts. The undo starts Docker again, and that
/// start must not wait for the stop of this service, which waits for the undo.
fn a_stop_waits_for_nothing_but_the_undo(machine: &Machine) {
    let store = machine.store();
    machine.drop_in("[Service]\nExecStartPre=/bin/sleep 2\n");
    machine.sh("systemctl start --no-block digestfix.service");
    eventually("Docker is started", || {
        show(machine, "docker.service", "ActiveState") == "activating"
    });
    let refused = machine.digestfix(&["status"]).exits(3);
    let shown = machine.types(&refused.next("systemctl status")).stdout;
    assert!(shown.contains("activating"), "{shown}");
    machine.sh("timeout 60 systemctl stop digestfix.service");
    machine.is_whole();
    assert_eq!(machine.store(), store);
    machine.without_drop_in();
    machine.sh("systemctl start digestfix.service");
    is_repaired(machine, "app");
}

fn the_timer_runs_it(machine: &Machine) {
    let next = || {
        machine.sh("systemctl restart digestfix.timer
             systemctl show -p NextElapseUSecRealtime --value digestfix.timer")
    };
    let first = next();
    assert!(first.contains(" 02:"), "{first}");
    assert_eq!(next(), first, "this host's own minute");
    let listed = machine.sh("systemctl list-timers --no-pager digestfix.timer");
    assert!(listed.contains("digestfix.service"), "{listed}");

    // The machine was off for a few nights.
    let (run, pid) = (
        show(machine, "digestfix.service", "InvocationID"),
        machine.main_pid(),
    );
    machine.write(
        "/etc/systemd/system/digestfix.timer.d/lab.conf",
        "[Timer]\nRandomizedDelaySec=0\n",
    );
    machine.sh("systemctl stop digestfix.timer; systemctl daemon-reload
         touch -d '3 days ago' /var/lib/systemd/timers/stamp-digestfix.timer
         systemctl start digestfix.timer");
    eventually("it has run", || {
        show(machine, "digestfix.service", "InvocationID") != run && is_over(machine)
    });
    assert_eq!(show(machine, "digestfix.service", "Result"), "success");
    assert_eq!(machine.main_pid(), pid, "there was nothing to do");
    machine.sh("rm -r /etc/systemd/system/digestfix.timer.d; systemctl daemon-reload");
}

/// Runs the cron example at once, without its random delay.
fn cron_mails_what_changed(machine: &Machine) {
    let example = include_str!("../../packaging/cron/digestfix");
    let now = example.replace("0 2 * * *", "@reboot").replace("3600", "1");
    assert_ne!(now, example);
    machine.write("/etc/cron.d/digestfix", &now);
    machine.write("/usr/sbin/sendmail", "#!/bin/sh\ncat >/root/mail.$$\n");
    machine.sh("chmod 755 /usr/sbin/sendmail");
    let mails = || {
        let mailed = machine.sh(
            "rm -f /root/mail.* /run/crond.reboot; systemctl restart cron
             run=$(systemctl show -p InvocationID --value cron)
             for _ in $(seq 200); do
               journalctl _SYSTEMD_INVOCATION_ID=$run | grep -q 'session closed' && break; sleep 0.1
             done
             cat /root/mail.* 2>/dev/null || true",
        );
        // The mail folds long lines.
        mailed.replace("=\n", "")
    };
    lose(machine);
    let changed = mails();
    for words in [
        "Done.",
        "To undo these changes: digestfix rollback",
        "Subject: Cron <root@",
    ] {
        assert!(changed.contains(words), "{changed}");
    }
    assert_eq!(changed.matches("Subject:").count(), 1, "{changed}");
    machine.is_whole();
    let pid = machine.main_pid();
    assert_eq!(mails(), "", "there was nothing to do");
    arrives(machine, "bad", "app:v1@sha256:0123");
    let refused = mails();
    assert!(refused.contains("nothing was touched"), "{refused}");
    assert_eq!(machine.main_pid(), pid);
    machine.sh(&format!("rm {CLAIMS}/bad"));
}

fn a_boot_is_as_ever(machine: &Machine) {
    machine.is_whole();
    assert_eq!(
        machine.sh("journalctl -b -o cat | grep -i 'ordering cycle' || true"),
        ""
    );
    assert_eq!(
        machine.sh("systemctl list-units --failed --plain --no-legend 'digestfix*'"),
        ""
    );
    for unit in ["digestfix.path", "digestfix.timer"] {
        assert_eq!(show(machine, unit, "ActiveState"), "active");
    }
    for (service, _) in SERVICES {
        assert_eq!(
            show(machine, service, "ExecMainStartTimestamp"),
            "",
            "{service}"
        );
    }
}
