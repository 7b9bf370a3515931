//! Arguments in, exit code out.

use std::process::ExitCode;

use digestfix::cli::completion;
use digestfix::cli::{Cli, Command};
use digestfix::commands;
use digestfix::report::output::Output;
use digestfix::sys::open_files;
use nix::sys::stat::{Mode, umask};
use tracing::level_filters::LevelFilter;

/// Every file and directory is made with a mode of its own, and none of these modes
/// has a bit that this takes away. Without a mode of its own, only its owner may write it.
const UMASK: Mode = Mode::S_IWGRP.union(Mode::S_IWOTH);

fn main() -> ExitCode {
    umask(UMASK);
    completion::answer();
    open_files::raise();
    let cli = Cli::of_process();
    let verbose = match &cli.command {
        Command::Status(args) => args.output.verbose,
        Command::Plan(args) => args.output.verbose,
        Command::Apply(args) => args.output.verbose,
        Command::Verify(args) => args.output.verbose,
        Command::Export(args) => args.verbose,
        Command::Recover(args) => args.output.verbose,
        Command::Watchdog(_) => 0,
        Command::History(args) => args.output.verbose,
        Command::Rollback(args) => args.output.verbose,
        Command::Doctor(args) => args.output.verbose,
    };
    match verbose {
        0 => {}
        1 => log(LevelFilter::INFO),
        _ => log(LevelFilter::DEBUG),
    }
    ExitCode::from(commands::run(cli.command).exit() as u8)
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
