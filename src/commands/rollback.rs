//! `digestfix rollback`

use crate::cli::RollbackArgs;
use crate::commands::Stop;
use crate::commands::change::{Changed, Options, Wanted, change};
use crate::commands::outcome::tell;
use crate::plan::Reversal;
use crate::report::Report;
use crate::report::run_result::RunResult;
use crate::state::history;
use crate::state::rollback::reversal;
use crate::store::data_root::ImageDir;

pub(super) async fn run(args: &RollbackArgs) -> RunResult {
    let invocation = Options::from(&args.change).invocation();
    let mut report =
        Report::new("rollback", &args.output, invocation).observed(args.metrics.file());
    match roll_back(args, &mut report).await {
        Ok(None) => {
            report.done(false, None);
            report.line(
                "Nothing to do: everything that the transaction changed is as it was before.",
            );
            report.end(RunResult::Unchanged)
        }
        Ok(Some(changed)) => tell(changed, report),
        Err(stop) => stop.tell(report),
    }
}

async fn roll_back(args: &RollbackArgs, report: &mut Report) -> Result<Option<Changed>, Stop> {
    let options = Options::from(&args.change);
    change(&Wanted::Rollback(args.id.as_deref()), &options, report).await
}

/// Finds the transaction to roll back.
pub(super) fn find(id: Option<&str>, images: &ImageDir) -> Result<Reversal, Stop> {
    let (records, broken) = history::scan(images.data_root(), Some);
    if let Some(id) = id {
        // Return an error if the record is unreadable. `reversal` handles a missing
        // record.
        history::read(images.data_root(), id)?;
    } else if let Some(newest) = broken.into_iter().next_back() {
        // The unreadable record may belong to the newest transaction, which the user
        // wants to roll back.
        return Err(newest.into());
    }
    Ok(reversal(&records, id, images.driver())?)
}
