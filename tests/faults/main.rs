//! Faults at every system call of the real program, on real machines.
//!
//! * `matrix`: at each call that writes, syncs, renames, locks or uses a socket, an apply
//!   is killed, or the call fails. The host must recover by itself.
//! * `power`: at each such call, the machine loses its power, and everything that was not
//!   synced is lost.
//! * `reboots`: the machine is reset at random moments, under load.
//! * `recover`: the recovery of a host is killed at each of its own calls.
//!
//! A call is identified by its name and its number among the calls of that name. If a run
//! does not reach a call, the call counts as not reached, and never as tried.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod host;
mod injection;
#[allow(dead_code, reason = "the lab's tests use the rest")]
#[path = "../lab/machine.rs"]
mod machine;
mod matrix;
mod options;
mod points;
mod power;
mod reboots;
mod recover;
mod scene;
mod tally;

use std::process::ExitCode;

use options::{Mode, Options};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("faults: {problem}\n\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    let tally = match options.mode {
        Mode::Matrix => matrix::run(&options),
        Mode::Power => power::run(&options),
        Mode::Reboots => reboots::run(&options),
        Mode::Recover => recover::run(&options),
    };
    tally.tell()
}
