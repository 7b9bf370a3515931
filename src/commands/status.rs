//! `digestfix status`

use crate::cli::invocation::Invocation;
use crate::cli::{StatusArgs, StatusFormat};
use crate::commands::{Reach, Site, Stop, provenance, warn_of_pending};
use crate::plan::status::{Selected, Selection};
use crate::report::run_result::RunResult;
use crate::report::{Report, Shown};
use crate::transaction::outcome::Progress;

pub(super) async fn run(args: &StatusArgs) -> RunResult {
    let invocation = Invocation::of(&args.host, args.content.containerd_root.as_deref());
    let mut output = args.output.clone();
    output.json |= args.format == StatusFormat::Json;
    let mut report = Report::new("status", &output, invocation);
    match show(args, &mut report).await {
        Ok(result) => report.end(result),
        Err(stop) => stop.tell(report),
    }
}

async fn show(args: &StatusArgs, report: &mut Report) -> Result<RunResult, Stop> {
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
    let selection = Selection {
        names: args.names.clone(),
        problems: args.problems,
    };
    let found = report.status(
        Selected { rows, selection },
        &Shown {
            columns: args.columns.clone(),
            whole: args.no_trunc,
        },
    );
    for key in &unknown {
        report.warning(&format!(
            "digestfix does not know the top-level key {key:?}, and keeps the key unchanged"
        ));
    }
    report.gaps(&gaps);
    for other in site.dockers_beside(&args.host) {
        report.line(&other);
    }
    if site.is_beside_node(&args.host).await {
        report.beside_node();
    }
    Ok(found)
}
