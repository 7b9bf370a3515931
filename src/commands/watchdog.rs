//! `digestfix watchdog`: recovers a killed run. [`crate::transaction::watchdog`] makes
//! systemd start this command when a change begins.

use std::fmt;
use std::path::Path;

use sd_notify::NotifyState;

use crate::cli::invocation::Invocation;
use crate::cli::{OutputArgs, WatchdogArgs};
use crate::commands::Stop;
use crate::commands::recover::recover_run;
use crate::report::run_result::RunResult;
use crate::report::{Problem, Report};
use crate::state::lock::RootLock;
use crate::state::pending::{self, Marker, PENDING};
use crate::store::data_root::STATE_DIR;
use crate::systemd::{RUNTIME_UNITS, forget_lasting};
use crate::transaction::outcome::Progress;
use crate::transaction::watchdog;

pub(super) async fn run(args: &WatchdogArgs) -> RunResult {
    // If the message is lost, the run assumes that this watchdog did not start.
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::info!("digestfix could not tell systemd that the watchdog is ready: {error}");
    }
    let pending = Path::new(PENDING);
    let ended = watchdog::try_until_done(
        async |failures| attempt(args, failures).await,
        |trouble: Trouble| trouble.tell(&args.id),
        || !pending::path(pending, &args.id).exists(),
    );
    let (problems, mut report) = ended.await;
    if let Some(problems) = problems {
        for problem in &problems {
            report.warning(problem);
        }
        report.line(match problems.as_slice() {
            [] => "Done. The host is consistent again.",
            _ => "Done. Fix the problems above by hand.",
        });
    }
    if let Err(error) = forget_lasting(Path::new(RUNTIME_UNITS), &watchdog::unit(&args.id)) {
        tracing::info!("the watchdog's unit stays until the next boot: {error}");
    }
    report.end(RunResult::Unchanged)
}

/// Tries to recover the run. A missing journal does not always mean that the run has
/// ended: the disk of the data root may no longer be mounted.
async fn attempt(
    args: &WatchdogArgs,
    failures: u32,
) -> Result<(Option<Vec<String>>, Report), Trouble> {
    let output = OutputArgs {
        // Only the first attempt reports its steps.
        quiet: u8::from(failures > 0),
        ..OutputArgs::default()
    };
    let mut report = Report::new("watchdog", &output, Invocation::default()).observed(None);
    let recovered = async {
        match Marker::read(Path::new(PENDING), &args.id)? {
            Some(marker) if !marker.leads_to_a_data_root() => {
                Err(Stop::Gone(marker.gone(&args.id)))
            }
            None if !args.data_root.join(STATE_DIR).is_dir() => Ok(None),
            _ => {
                let lock = RootLock::await_end(&args.data_root)?;
                recover_run(&args.id, &lock, &mut report).await
            }
        }
    };
    match recovered.await {
        Ok(problems) => Ok((problems, report)),
        Err(stop) => Err(Trouble { stop, report }),
    }
}

/// The error of a failed attempt, and its report.
struct Trouble {
    stop: Stop,
    report: Report,
}

impl fmt::Display for Trouble {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stop.fmt(formatter)
    }
}

impl Trouble {
    fn tell(self, id: &str) {
        let Self { stop, mut report } = self;
        let most = watchdog::MOST.as_secs();
        report.warning(&format!(
            "run {id} has not ended; the watchdog tries again, at least every {most} s"
        ));
        match stop {
            Stop::Recovery { .. } | Stop::LoadRecovery(_) | Stop::RecordRecovery(_) => {
                stop.tell(report);
            }
            other => {
                report.fail(
                    RunResult::Broken,
                    Problem {
                        what: vec![other.to_string()],
                        state: "if the run stopped Docker, Docker may still be stopped; \
                                the references are intact"
                            .to_owned(),
                        next: Some("fix the problem above, then: digestfix recover".to_owned()),
                    },
                );
            }
        }
    }
}
