//! Arguments in, exit code out.

use std::process::ExitCode;

use digestfix::{Cli, Output, open_files};
use nix::sys::stat::{Mode, umask};
use tracing::level_filters::LevelFilter;

/// Every file and directory is made with a mode of its own, and none of these modes
/// has a bit that this takes away. Without a mode of its own, only its owner may write it.
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
        // They would go to standard error too, and a closed one must not
        // end the program half-way.
        .log_internal_errors(false)
        .init();
}
