//! `digestfix history`

use crate::cli::HistoryArgs;
use crate::cli::invocation::Invocation;
use crate::commands::{Reach, Site, Stop, warn_of_pending};
use crate::report::run_result::RunResult;
use crate::report::{Report, Transaction};
use crate::state::history::{self, Record};
use crate::state::id::beside;
use crate::state::rollback::{RollbackBlocker, rolled_back};
use crate::store::data_root::ImageDir;
use crate::transaction::outcome::Progress;

pub(super) async fn run(args: &HistoryArgs) -> RunResult {
    let invocation = Invocation::of(&args.host, None);
    let mut report = Report::new("history", &args.output, invocation);
    match show(args, &mut report).await {
        Ok(()) => report.end(RunResult::Done),
        Err(stop) => stop.tell(report),
    }
}

async fn show(args: &HistoryArgs, report: &mut Report) -> Result<(), Stop> {
    let site = Site::find(&args.host, Reach::Bus).await?;
    report.host(&site.host);
    warn_of_pending(&site, report);
    let images = site.images();
    let (records, broken) = history::scan(images.data_root(), |mut record| {
        // The list of transactions shows changes, but no claims.
        record.claims.clear();
        Some(record)
    });
    let back = rolled_back(&records);
    let told = |record: Record| Transaction {
        rolled_back_by: back.get(record.id.as_str()).map(|by| (*by).to_owned()),
        backup: backup(&record, images),
        record,
    };
    if let Some(id) = &args.id {
        let record = history::read(images.data_root(), id)?;
        let record = record.ok_or_else(|| RollbackBlocker::NotFound(id.clone()))?;
        report.one_transaction(told(record));
        return Ok(());
    }
    for error in broken {
        report.warning(&error.to_string());
    }
    let transactions = records.iter().cloned().map(told);
    report.transactions(transactions.collect());
    Ok(())
}

/// The backup of the store before a transaction, if it still exists.
fn backup(record: &Record, images: &ImageDir) -> Option<std::path::PathBuf> {
    let images = ImageDir::new(images.data_root(), &record.driver);
    let path = beside(&images.store_path(), &record.id);
    let is_kept = path.symlink_metadata().is_ok_and(|file| file.is_file());
    is_kept.then_some(path)
}
