//! Runs digestfix under strace, with a fault or only to see what it does.
//!
//! Only its first thread, which does all but write what is said: strace counts
//! the calls of each thread on their own, and could not tell them apart.

use std::fs;

use crate::machine::Machine;
use crate::points::{CALLS, Injection, Traced, traced};

/// How strace shows a write that wakes another part of the same program. No
/// kernel lets it fail.
const WAKES: &str = "\"\\1\\0\\0\\0\\0\\0\\0\\0\", 8)";

const LOG: &str = "/run/faults.strace";

/// Nothing that digestfix does takes as long, even when it waits.
const ENDS_WITHIN: &str = "150";

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Killed,
}

/// What became of a run with a fault in it.
#[derive(Debug)]
pub struct Injected {
    pub ended: Ended,
    /// The run came to the point.
    pub reached: bool,
    /// What failed never does.
    pub impossible: bool,
    /// What it said.
    pub output: String,
}

fn strace(machine: &Machine, options: &[&str], words: &[&str]) -> (Injected, String) {
    let _ = fs::remove_file(machine.file(LOG));
    let strace = [
        "timeout",
        "-k",
        "5",
        ENDS_WITHIN,
        "strace",
        "-q",
        "-s",
        "240",
        "-o",
        LOG,
    ];
    let run = machine.run(&[&strace, options, &["digestfix"], words].concat());
    let log = fs::read(machine.file(LOG)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log).into_owned();
    let killed = log.contains("+++ killed by SIGKILL");
    let failed = log.lines().filter(|line| line.contains("(INJECTED)"));
    let injected = Injected {
        ended: if killed {
            Ended::Killed
        } else {
            Ended::Code(run.code)
        },
        reached: killed || failed.clone().any(|line| !line.contains(WAKES)),
        impossible: failed.clone().any(|line| line.contains(WAKES)),
        output: format!("{}{}", run.stdout, run.stderr),
    };
    (injected, log)
}

pub fn inject(machine: &Machine, injection: &Injection, words: &[&str]) -> Injected {
    let trace = format!("--trace={}", injection.point.call);
    let inject = format!("--inject={injection}");
    strace(machine, &[&trace, &inject], words).0
}

/// The calls of a run that has to end well.
pub fn trace(machine: &Machine, words: &[&str]) -> Vec<Traced> {
    let trace = format!("--trace={}", CALLS.join(","));
    let (run, log) = strace(machine, &[&trace], words);
    assert_eq!(run.ended, Ended::Code(0), "{words:?}: {}", run.output);
    traced(&log)
}
