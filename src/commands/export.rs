//! `digestfix export`

use std::collections::BTreeSet;
use std::io;

use crate::claims::source::claims_file::ClaimsFile;
use crate::cli::invocation::Invocation;
use crate::cli::{ExportArgs, ExportFormat, OutputArgs};
use crate::commands::exported::{Exported, Known};
use crate::commands::{Reach, Site, Stop, provenance};
use crate::image::digest::ImageId;
use crate::image::reference::Reference;
use crate::report::Report;
use crate::report::output::Output;
use crate::report::run_result::RunResult;
use crate::sys::printable::to_json;
use crate::transaction::outcome::Progress;

pub(super) async fn run(args: &ExportArgs) -> RunResult {
    let output = OutputArgs {
        verbose: args.verbose,
        ..OutputArgs::default()
    };
    let invocation = Invocation::of(&args.host, args.content.containerd_root.as_deref());
    let mut report = Report::new("export", &output, invocation);
    match export(args, &mut report).await {
        Ok(file) => {
            let ExportFormat::Json = args.format;
            let mut text = Vec::new();
            let written = to_json(&mut text, &file)
                .map_err(io::Error::other)
                .and_then(|()| {
                    let text = String::from_utf8_lossy(&text).into_owned() + "\n";
                    Output::of_process().deliver(text)
                });
            match written {
                Ok(()) => report.end(RunResult::Done),
                Err(error) => Stop::Output(error).tell(report),
            }
        }
        Err(stop) => stop.tell(report),
    }
}

async fn export(args: &ExportArgs, report: &mut Report) -> Result<ClaimsFile, Stop> {
    let site = Site::find(&args.host, Reach::Bus).await?;
    report.host(&site.host);
    let root = args.content.containerd_root.as_deref();
    let mut store = site.image_store(root, None).await?;
    store.read_manifests().await?;
    let provenance = provenance(site.images(), report);
    let left_out = |report: &mut Report, reference: &Reference, why| {
        report.warning(&format!("{reference} is left out: {why}"));
    };
    for unread in store.gaps(None).unread {
        let why = "no image for this machine is in containerd's content store for it (--containerd-root DIR \
                   says where that is)";
        left_out(report, &unread, why);
    }
    let all = store.references().references().collect();
    let exported = Exported::of(chosen(all, &args.names, report)?, &store, &provenance)?;
    for (reference, _, known) in &exported.digests {
        if let Known::LeftOut(why) = known {
            left_out(report, reference, why);
        }
    }
    let file = exported.file;
    let (digests, manifests) = (file.claims.len(), file.manifests.len());
    tracing::info!(digests, manifests, "exported");
    Ok(file)
}

/// The references that the names ask for; all without any.
fn chosen(
    all: Vec<(Reference, ImageId)>,
    names: &[Reference],
    report: &mut Report,
) -> Result<Vec<(Reference, ImageId)>, Stop> {
    if names.is_empty() {
        return Ok(all);
    }
    let mut chosen: BTreeSet<&(Reference, ImageId)> = BTreeSet::new();
    for name in names {
        let mut found: Vec<&(Reference, ImageId)> = Vec::new();
        if name.tag().is_none() && name.digest().is_none() {
            found.extend(
                all.iter()
                    .filter(|(reference, _)| reference.repository() == name.repository()),
            );
        } else if let Some((_, image)) = all.iter().find(|(reference, _)| reference == name) {
            // A tag stands for its image, with every digest of that.
            found.extend(all.iter().filter(|(reference, other)| {
                reference.repository() == name.repository() && other == image
            }));
        }
        if found.is_empty() {
            return Err(Stop::NoSuchName(name.to_string()));
        }
        if !found
            .iter()
            .any(|(reference, _)| reference.digest().is_some())
        {
            report.warning(&format!("{name} has no digest here"));
        }
        chosen.extend(found);
    }
    Ok(chosen.into_iter().cloned().collect())
}
