//! A reader that does not read the output does not keep Docker stopped.

use std::fs;

use crate::machine::{Machine, Suite, eventually};

const SHOWN: &str = "/run/shown";

/// At the moment when Docker has stopped, a user presses Ctrl-S.
const CTRL_S: &str = "[Service]\nExecStopPost=/usr/bin/python3 -c \"import termios; \
    termios.tcflow(open('/run/shown.tty'), termios.TCOOFF)\"\n";

const CTRL_Q: &str =
    "python3 -c \"import termios; termios.tcflow(open('/run/shown.tty'), termios.TCOON)\"";

const STEPS: [&str; 7] = [
    "+   localhost:5000/lab/app@",
    "new references written beside the old ones",
    "nothing can start docker.service",
    "docker.service, docker.socket stopped",
    "1 reference changed in the file",
    "docker.service started, the engine answers",
    "Done.",
];

fn shown(machine: &Machine) -> String {
    let shown = fs::read(machine.file(SHOWN)).unwrap_or_default();
    String::from_utf8_lossy(&shown).into_owned()
}

/// Waits until a run has done everything but cannot print all its messages.
fn is_done_and_waits(machine: &Machine, name: &str) {
    eventually("Docker is back", || {
        machine.engine_has(name) && machine.is_finished()
    });
    machine.is_whole();
    machine.sh("pgrep -x digestfix");
}

#[test]
fn nobody_who_does_not_read_holds_docker_down() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    machine.load("other");
    machine.write("/run/terminal.py", include_str!("terminal.py"));
    let on_a_terminal = format!("exec python3 /run/terminal.py {SHOWN} digestfix");

    machine.drop_in(CTRL_S);
    let claim = machine.claim("app");
    let apply = machine.background(&format!("{on_a_terminal} apply -v {claim}"));
    is_done_and_waits(&machine, "app");
    let before = shown(&machine);
    assert!(before.contains(STEPS[2]), "{before}");
    assert!(!before.contains(STEPS[3]), "it was not stopped: {before}");
    machine.sh(CTRL_Q);
    apply.wait().exits(0);
    let all = shown(&machine);
    let mut rest = all.as_str();
    for step in STEPS {
        // Most steps appear twice, first in the log on standard error.
        for _ in 0..if step.starts_with(['+', 'D']) { 1 } else { 2 } {
            let (_, after) = rest
                .split_once(step)
                .unwrap_or_else(|| panic!("{step} is missing, or not in its place: {all}"));
            rest = after;
        }
    }
    machine.without_drop_in();

    // While a step runs, a progress line is shown. The step's final line replaces it.
    let rollback = machine.background(&format!("{on_a_terminal} rollback"));
    rollback.wait().exits(0);
    let all = shown(&machine);
    let drawn = all.split("\r\u{1b}[K").collect::<Vec<_>>();
    let last = drawn
        .iter()
        .rposition(|part| part.contains("    starting docker.service, docker.socket  "))
        .unwrap_or_else(|| panic!("not drawn: {all:?}"));
    assert!(
        drawn[last].ends_with(" s") && drawn[last + 1].starts_with("\u{1b}[2m"),
        "it does not make way: {all:?}"
    );
    assert!(drawn[last + 1].contains(STEPS[5]), "{all:?}");

    // A background job may write even if its terminal stops other background jobs that
    // write.
    let job = "bash -mc 'stty tostop; digestfix status & wait $!'";
    let status = machine.background(&format!(
        "timeout 10 python3 /run/terminal.py {SHOWN} {job}"
    ));
    status.wait();
    let all = shown(&machine);
    assert!(all.contains(" in all: "), "{all}");

    // The pipe is full, and no process will ever read it. A signal ends the run, which
    // only waits for the pipe.
    let claim = machine.claim("other");
    let apply = machine.background(&format!(
        "mkfifo /run/pipe; exec 3<>/run/pipe; head -c 65536 /dev/zero >&3
         exec digestfix apply {claim} >&3 2>&3"
    ));
    is_done_and_waits(&machine, "other");
    eventually("it heeds a signal", || {
        machine.run(&["pkill", "-TERM", "-x", "digestfix"]).code == 1
    });
    apply.wait().exits(0);

    // Without a thread for writing, all messages are written directly.
    let run = machine.injected("clone3:error=EAGAIN", &["status"]);
    assert!(run.stdout.starts_with("Data root"), "{}", run.stdout);
}
