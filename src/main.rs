//! Arguments in, exit code out.

use std::process::ExitCode;

use digestfix::{Cli, Output, open_files};
use nix::sys::stat::{Mode, umask};
use tracing::level_filters::LevelFilter;

/// digestfix creates every file and directory with an explicit mode, and this umask
/// removes no bit of these modes. If the code forgets a mode, this umask still ensures
/// that only the owner can write the file.
const UMASK: Mode = Mode::S_IWGRP.union(Mode::S_IWOTH);

fn main() -> ExitCode {
    umask(UMASK);
    open_files::raise();
    let cli = Cli::of_process();
    match cli.verbosity() {
        0 => {}
        1 => log(LevelFilter::INFO),
        _ => log(LevelFilter::DEBUG),
    }
    digestfix::run(cli)
}

fn log(level: LevelFilter) {
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| Output::of_process().log())
        .with_ansi(false)
        // tracing would print its own errors to standard error. If standard error is
        // closed, this print would end the program half-way.
        .log_internal_errors(false)
        .init();
}
