//! `digestfix guard`, which [`crate::guard`] has systemd run beside an apply.

use crate::cli::{GuardArgs, OutputArgs};
use crate::commands::Stop;
use crate::commands::recover::recover_run;
use crate::invocation::Invocation;
use crate::report::{Exit, Report};
use crate::transaction::lock::RootLock;
use crate::transaction::outcome::Progress;

pub(super) async fn run(args: &GuardArgs) -> Exit {
    let mut report =
        Report::new("guard", &OutputArgs::default(), Invocation::default()).observed(None);
    let ended = match RootLock::await_end(&args.data_root).map_err(Stop::Lock) {
        Ok(lock) => recover_run(&args.id, &lock, &mut report).await,
        Err(stop) => Err(stop),
    };
    match ended {
        Ok(None) => report.end(Exit::Done),
        Ok(Some(problems)) => {
            for problem in &problems {
                report.warning(problem);
            }
            report.line(match problems.as_slice() {
                [] => "Done. The host is whole again.",
                _ => "Done, but for what is named above: see to that by hand.",
            });
            report.end(Exit::Done)
        }
        Err(stop) => stop.tell(report),
    }
}
