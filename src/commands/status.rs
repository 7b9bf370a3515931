//! `digestfix status`

use crate::cli::StatusArgs;
use crate::commands::{Site, Stop};
use crate::report::{Exit, Report};
use crate::status::rows;

pub(super) async fn run(args: &StatusArgs) -> Exit {
    let mut report = Report::new("status", &args.output);
    match show(args, &mut report).await {
        Ok(()) => report.end(Exit::Done),
        Err(stop) => stop.tell(report),
    }
}

async fn show(args: &StatusArgs, report: &mut Report) -> Result<(), Stop> {
    let site = Site::find(&args.host).await?;
    report.host(&site.host);
    let store = site.images().read()?.store;
    let unknown: Vec<String> = store.unknown_keys().map(str::to_owned).collect();
    report.status(rows(&store, &site.images().image_ids()?), &unknown);
    Ok(())
}
