//! A low limit of open files, which a run raises for itself.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use digestfix::open_files::NEEDED;

/// The soft limit that the program has, started with these.
fn limit_after(ulimit: &str) -> u64 {
    let program = env!("CARGO_BIN_EXE_digestfix");
    let script = format!("{ulimit} && exec {program} plan --offline --data-root /nowhere --from -");
    // It waits for claims meanwhile.
    let mut child = Command::new("bash")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let limits = format!("/proc/{}/limits", child.id());
    let mut limit = 0;
    for _ in 0..100 {
        thread::sleep(Duration::from_millis(20));
        let text = fs::read_to_string(&limits).unwrap();
        let line = text.lines().find(|line| line.starts_with("Max open files"));
        let words: Vec<&str> = line.unwrap().split_whitespace().collect();
        limit = words[3].parse().unwrap();
        if limit >= NEEDED {
            break;
        }
    }
    drop(child.stdin.take());
    child.wait().unwrap();
    limit
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
