//! Runs digestfix under strace, either with a fault or only to trace its calls.
//!
//! Only the first thread is traced. It does everything except writing messages. strace
//! counts the calls of each thread separately, so it could not number the calls of
//! several threads.

use std::fs;

use crate::machine::Machine;
use crate::points::{CALLS, Injection, Traced, traced};

/// How strace shows a write that wakes another part of the same program. No kernel makes
/// such a write fail.
const WAKES: &str = "\"\\1\\0\\0\\0\\0\\0\\0\\0\", 8)";

const LOG: &str = "/run/faults.strace";

/// The timeout of a run. digestfix never takes this long, even if it waits.
const ENDS_WITHIN: &str = "150";

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Code(i32),
    Killed,
}

/// The result of a run with a fault.
#[derive(Debug)]
pub struct Injected {
    pub ended: Ended,
    /// The run reached the point with the fault.
    pub reached: bool,
    /// The call that failed can never fail in reality.
    pub impossible: bool,
    /// The output of the run.
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

/// The system calls of a run that must succeed.
pub fn trace(machine: &Machine, words: &[&str]) -> Vec<Traced> {
    let trace = format!("--trace={}", CALLS.join(","));
    let (run, log) = strace(machine, &[&trace], words);
    assert_eq!(run.ended, Ended::Code(0), "{words:?}: {}", run.output);
    traced(&log)
}
