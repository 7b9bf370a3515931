//! `digestfix rollback`

use crate::cli::RollbackArgs;
use crate::cli::invocation::Invocation;
use crate::commands::Stop;
use crate::commands::change::{Changed, Options, Wanted, change};
use crate::commands::outcome::tell;
use crate::host::impact::Allowed;
use crate::plan::Reversal;
use crate::report::Report;
use crate::report::run_result::RunResult;
use crate::state::history;
use crate::state::rollback::reversal;
use crate::store::data_root::ImageDir;

pub(super) async fn run(args: &RollbackArgs) -> RunResult {
    let invocation = Invocation::of(&args.host, args.content.containerd_root.as_deref());
    let mut report =
        Report::new("rollback", &args.output, invocation).observed(args.metrics.file());
    match roll_back(args, &mut report).await {
        Ok(None) => {
            report.done(false, None);
            report.line("Nothing to do: all that the transaction changed is as it was before it.");
            report.end(RunResult::Unchanged)
        }
        Ok(Some(changed)) => tell(changed, report),
        Err(stop) => stop.tell(report),
    }
}

async fn roll_back(args: &RollbackArgs, report: &mut Report) -> Result<Option<Changed>, Stop> {
    let options = Options {
        allowed: Allowed {
            containers: args.containers.containers,
            force_restart: args.restart.force_restart,
        },
        wait: args.lock.wait,
        limits: (&args.retention).into(),
        host: &args.host,
        containerd_root: args.content.containerd_root.as_deref(),
    };
    change(&Wanted::Rollback(args.id.as_deref()), &options, report).await
}

/// What is to be taken back.
pub(super) fn find(id: Option<&str>, images: &ImageDir) -> Result<Reversal, Stop> {
    let (records, broken) = history::scan(images.data_root(), Some);
    if let Some(id) = id {
        // A record that cannot be read is not the same as none.
        history::read(images.data_root(), id)?;
    } else if let Some(newest) = broken.into_iter().next_back() {
        // It could be the one that is meant.
        return Err(newest.into());
    }
    Ok(reversal(&records, id, images.driver())?)
}
