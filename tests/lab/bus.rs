//! D-Bus disappears during a run. digestfix still completes what it began, including the
//! start of Docker: over systemd's private socket, or over a new bus.

use crate::machine::{Background, Machine, Suite, eventually, injecting};

const ALL: [Suite; 3] = [Suite::Bookworm, Suite::Trixie, Suite::Forky];

/// The bus daemon dies, and nothing starts it again.
const BUS_DIES: &str = "systemctl kill --signal=KILL dbus.service
     systemctl stop dbus.socket dbus.service 2>/dev/null
     ! pgrep -x dbus-daemon";

fn bus_comes_back(machine: &Machine) {
    machine.sh("systemctl start dbus.socket dbus.service");
    eventually("systemd is on the bus again", || {
        let asked = "busctl --system --timeout=1 call org.freedesktop.systemd1 \
                     /org/freedesktop/systemd1 org.freedesktop.DBus.Peer Ping";
        machine.run(&["sh", "-c", asked]).code == 0
    });
}

fn state(machine: &Machine) -> String {
    machine.sh("systemctl show -p ActiveState --value docker.service")
}

#[track_caller]
fn reaches(machine: &Machine, wanted: &str) {
    eventually(wanted, || state(machine) == wanted);
}

/// An apply in which the exchange of the file is delayed by three seconds.
fn slow_apply(machine: &Machine) -> Background {
    machine.load("app");
    let words = injecting("renameat2:delay_enter=3000000").join(" ");
    let claim = machine.claim("app");
    machine.background(&format!("{words} apply {claim}"))
}

#[track_caller]
fn ends_well(machine: &Machine, apply: Background) {
    apply.wait().exits(0);
    machine.is_whole();
    assert!(machine.engine_has("app"));
    assert_eq!(
        machine.sh("systemctl is-active docker.socket"),
        "active",
        "and so is what came with it"
    );
}

#[test]
fn the_bus_dies_while_docker_is_stopped() {
    for suite in ALL {
        let machine = Machine::boot(suite);
        let apply = slow_apply(&machine);
        reaches(&machine, "inactive");
        machine.sh(BUS_DIES);
        assert_eq!(state(&machine), "inactive", "in time");

        ends_well(&machine, apply);

        machine.sh("! pgrep -x dbus-daemon");
        machine.digestfix(&["status"]).exits(3);
        bus_comes_back(&machine);
        machine.digestfix(&["history"]).exits(0);
    }
}

#[test]
fn the_bus_is_restarted_while_docker_is_stopped() {
    for suite in [Suite::Bookworm, Suite::Forky] {
        let machine = Machine::boot(suite);
        let apply = slow_apply(&machine);
        reaches(&machine, "inactive");
        machine.sh("systemctl restart dbus.service");
        assert_eq!(state(&machine), "inactive", "in time");

        ends_well(&machine, apply);
    }
}

/// The exchange fails as well, so digestfix must undo its steps without a bus.
#[test]
fn the_bus_dies_and_there_is_something_to_undo() {
    let machine = Machine::boot(Suite::Trixie);
    machine.load("app");
    let before = machine.store();
    let words = injecting("renameat2:error=EIO:delay_enter=3000000").join(" ");
    let claim = machine.claim("app");
    let apply = machine.background(&format!("{words} apply {claim}"));
    reaches(&machine, "inactive");
    machine.sh(BUS_DIES);

    apply.wait().exits(1);

    machine.is_whole();
    assert_eq!(machine.store(), before);
}

/// digestfix receives neither the end of the connection nor the end of the job when they
/// happen. Only the state of the unit is left to show that the job has ended.
#[test]
fn nobody_hears_that_the_job_has_ended() {
    for suite in ALL {
        let machine = Machine::boot(suite);
        machine.load("app");
        let claim = machine.claim("app");
        let reference = claim.replace(":v1@", "@");
        for (setting, during, after) in [
            ("ExecStop=/bin/sleep 3", "deactivating", "inactive"),
            ("ExecStartPre=/bin/sleep 3", "activating", "active"),
        ] {
            machine.drop_in(&format!("[Service]\n{setting}\n"));
            let apply = machine.background(&format!("digestfix apply {claim}"));
            reaches(&machine, during);
            machine.sh("pkill -STOP -x digestfix");
            machine.sh(BUS_DIES);
            assert_eq!(state(&machine), during, "in time");
            reaches(&machine, after);
            machine.sh("pkill -CONT -x digestfix");

            ends_well(&machine, apply);

            bus_comes_back(&machine);
            machine.without_drop_in();
            machine
                .digestfix(&["apply", "--remove", &reference])
                .exits(0);
        }
    }
}

/// The connection breaks while digestfix waits for a job. digestfix learns about the end
/// of the job over the next connection.
#[test]
fn the_bus_goes_while_a_job_is_waited_for() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    let claim = machine.claim("app");
    machine.drop_in("[Service]\nExecStop=/bin/sleep 3\nExecStartPre=/bin/sleep 3\n");
    let apply = machine.background(&format!("digestfix apply {claim}"));
    reaches(&machine, "deactivating");
    machine.sh("systemctl restart dbus.service");
    reaches(&machine, "activating");
    machine.sh(BUS_DIES);

    ends_well(&machine, apply);
}

/// systemd executes itself again in a loop. Each time, it leaves every bus and returns.
#[test]
fn systemd_executes_itself_anew() {
    for suite in ALL {
        let machine = Machine::boot(suite);
        let apply = slow_apply(&machine);
        reaches(&machine, "inactive");
        let anew = machine
            .background("until [ -e /run/enough ]; do systemctl daemon-reexec; sleep 0.2; done");

        let run = apply.wait();

        machine.sh("touch /run/enough");
        anew.wait();
        run.exits(0);
        machine.is_whole();
        assert!(machine.engine_has("app"));
    }
}

/// While Docker runs, nothing is so urgent that digestfix must work without a bus.
#[test]
fn the_bus_dies_before_docker_is_stopped() {
    let machine = Machine::boot(Suite::Trixie);
    machine.load("app");
    let (pid, before) = (machine.main_pid(), machine.store());
    let journal = "/var/lib/docker/digestfix/journal.json.new";
    let mut words = injecting("fsync:delay_enter=2000000:when=1");
    words.insert(1, format!("--trace-path={journal}"));
    let (words, claim) = (words.join(" "), machine.claim("app"));
    let apply = machine.background(&format!("{words} apply {claim}"));
    eventually("it announces what it is about to do", || {
        machine.run(&["test", "-e", journal]).code == 0
    });
    machine.sh(BUS_DIES);

    let run = apply.wait().exits(1);

    assert!(
        run.stderr.contains("the D-Bus system bus is not available"),
        "{}",
        run.stderr
    );
    assert!(
        run.stderr.contains("Docker was not stopped"),
        "{}",
        run.stderr
    );
    let shown = machine.types(&run.next("systemctl status")).exits(0).stdout;
    assert!(shown.contains("State: "), "{shown}");
    machine.is_whole();
    assert_eq!(machine.main_pid(), pid);
    assert_eq!(machine.store(), before);
}

#[test]
fn no_bus_at_all() {
    for suite in ALL {
        let machine = Machine::boot(suite);
        machine.load("app");
        let (pid, before) = (machine.main_pid(), machine.store());
        machine.sh(BUS_DIES);

        let run = machine
            .digestfix(&["apply", &machine.claim("app")])
            .exits(3);

        for word in [
            "systemd cannot be reached over D-Bus",
            "nothing was touched",
        ] {
            assert!(run.stderr.contains(word), "{}", run.stderr);
        }
        machine.is_whole();
        assert_eq!(machine.main_pid(), pid);
        assert_eq!(machine.store(), before);
        machine.types(&run.next("systemctl start")).exits(0);
        eventually("systemd is on the bus again", || {
            machine.digestfix(&["plan", &machine.claim("app")]).code == 4
        });
    }
}
