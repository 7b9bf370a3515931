//! `digestfix status`

use crate::claims::trust::Trust;
use crate::cli::StatusArgs;
use crate::cli::invocation::Invocation;
use crate::commands::online::Containerd;
use crate::commands::{Reach, Site, Stop, provenance, warn_of_pending};
use crate::docker::content_store::ContentStore;
use crate::image::digest::ImageId;
use crate::image::reference::Reference;
use crate::plan::status::Listing;
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
    if let Some(containerd) = Containerd::of(&site, args.content.containerd_root.as_deref())? {
        return containerd.status(report).await;
    }
    let store = site.images().read()?;
    let unknown: Vec<String> = store.unknown_keys().map(str::to_owned).collect();
    let content = ContentStore::of(
        site.images().data_root(),
        args.content.containerd_root.as_deref(),
    );
    let provenance = provenance(site.images(), report);
    let known = |reference: &Reference, image: &ImageId| {
        let digest = reference.digest()?;
        if content.proof(digest, image).is_some() {
            return Some((Trust::Proven, "the engine's content store".to_owned()));
        }
        let written = provenance.of(reference, image)?;
        Some((written.trust, written.origin.clone()))
    };
    let rows = Listing::new(store, site.images().image_ids()?, known);
    report.status(rows, &unknown);
    Ok(())
}
