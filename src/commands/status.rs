//! `digestfix status`

use crate::cli::StatusArgs;
use crate::cli::invocation::Invocation;
use crate::commands::{Reach, Site, Stop, provenance, warn_of_pending};
use crate::report::Report;
use crate::report::run_result::RunResult;

pub(super) async fn run(args: &StatusArgs) -> RunResult {
    let invocation = Invocation::of(&args.host, args.content.containerd_root.as_deref());
    let mut report = Report::new("status", &args.output, invocation);
    match show(args, &mut report).await {
        Ok(()) => report.end(RunResult::Done),
        Err(stop) => stop.tell(report),
    }
}

async fn show(args: &StatusArgs, report: &mut Report) -> Result<(), Stop> {
    let site = Site::find(&args.host, Reach::Bus).await?;
    report.host(&site.host);
    warn_of_pending(&site, report);
    let root = args.content.containerd_root.as_deref();
    let mut store = site.image_store(root, None).await?;
    store.read_manifests().await?;
    let gaps = store.gaps(None);
    let unknown = store.references().unknown_keys().map(str::to_owned);
    let unknown: Vec<String> = unknown.collect();
    let rows = store.listing(&provenance(site.images(), report))?;
    report.status(rows, &unknown);
    report.gaps(&gaps);
    if site.is_beside_node(&args.host).await {
        report.beside_node();
    }
    Ok(())
}
