//! Event loop for commands that wait for systemd, Docker, signals or the clock.

use std::time::Duration;

use crate::report::output::Output;
use crate::report::run_result::RunResult;
use crate::sys::interrupt;
use crate::sys::printable::printable;

/// How long digestfix waits for a slow reader of its output after another signal.
/// `timeout(1)` sends a signal to its command and to the process group, so two signals
/// arrive within an instant, and the message about the first one must not be lost.
const GRACE: Duration = Duration::from_secs(1);

/// Runs a command, and waits until its output is written.
pub(super) fn on_event_loop(command: impl Future<Output = RunResult>) -> RunResult {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let error = error.to_string();
            eprintln!(
                "digestfix: failed: the event loop could not be started: {}\n  Now:  nothing was \
                 touched\n  Next: run the same command again; if the command fails again, report the failure",
                printable(&error)
            );
            return RunResult::Failed;
        }
    };
    let output = Output::of_process();
    output.wait_for_nobody();
    runtime.block_on(async {
        let exit = command.await;
        // The host is consistent by now. Wait for slow readers of the output, unless
        // another signal arrives.
        tokio::select! {
            () = output.drained() => {}
            () = async {
                interrupt::again().await;
                tokio::time::sleep(GRACE).await;
            } => {}
        }
        exit
    })
}
