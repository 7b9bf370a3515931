//! Arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use digestfix::cli::{Cli, Command};
use digestfix::commands;
use digestfix::completion;
use digestfix::interrupt;
use digestfix::output::Output;
use tracing::level_filters::LevelFilter;

fn main() -> ExitCode {
    completion::answer();
    let cli = Cli::parse();
    let verbose = match &cli.command {
        Command::Status(args) => args.output.verbose,
        Command::Plan(args) => args.output.verbose,
        Command::Apply(args) => args.output.verbose,
        Command::Verify(args) => args.output.verbose,
        Command::Export(args) => args.verbose,
        Command::Recover(args) => args.output.verbose,
        Command::Guard(_) | Command::HoldPorts(_) => 0,
        Command::History(args) => args.output.verbose,
        Command::Rollback(args) => args.output.verbose,
        Command::Doctor(args) => args.output.verbose,
    };
    let level = match verbose {
        0 => LevelFilter::OFF,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(|| Output::of_process().log())
        .with_ansi(false)
        // They would go to standard error too, and a closed one must not
        // end the program half-way.
        .log_internal_errors(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!(
                "digestfix: failed: no event loop can be had: {error}\n  Now:  nothing was touched"
            );
            return ExitCode::from(1);
        }
    };
    let exit = runtime.block_on(async {
        let exit = commands::run(cli.command).await;
        let output = Output::of_process();
        // The host is whole by now. Whoever does not read may be waited for,
        // but not for longer than anybody likes.
        tokio::select! {
            () = output.drained() => {}
            () = interrupt::again() => {}
        }
        exit
    });
    ExitCode::from(exit as u8)
}
