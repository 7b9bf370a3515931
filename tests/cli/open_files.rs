//! A low limit of open files. A run raises the limit for itself.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use digestfix::open_files::NEEDED;

/// The size of the claims in bytes. A pipe holds 65,536 (`pipe(7)`).
const MORE_THAN_A_PIPE: usize = 100_000;

/// The program's soft limit of open files, if a shell starts it after this `ulimit`
/// command.
fn limit_after(ulimit: &str) -> u64 {
    let program = env!("CARGO_BIN_EXE_digestfix");
    let script = format!("{ulimit} && exec {program} plan --offline --data-root /nowhere --from -");
    let mut child = Command::new("bash")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The program raises its limit before it reads its claims, and then waits for their
    // end.
    let mut claims = child.stdin.take().unwrap();
    claims.write_all(&vec![b'\n'; MORE_THAN_A_PIPE]).unwrap();
    let text = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    let line = text.lines().find(|line| line.starts_with("Max open files"));
    let limit = line.unwrap().split_whitespace().nth(3).unwrap().parse();
    drop(claims);
    child.wait().unwrap();
    limit.unwrap()
}

#[test]
fn it_is_raised_to_what_a_run_needs_and_never_lowered() {
    assert_eq!(limit_after("ulimit -Sn 100"), NEEDED);
    assert_eq!(limit_after("ulimit -Sn 600"), 600);
}

#[test]
fn the_hard_limit_is_heeded() {
    assert_eq!(limit_after("ulimit -n 120"), 120);
}
