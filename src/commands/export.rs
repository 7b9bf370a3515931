//! `digestfix export`

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use crate::cli::invocation::Invocation;
use crate::cli::{ExportArgs, ExportFormat, OutputArgs};
use crate::commands::exported::{Exported, Known};
use crate::commands::{Reach, Site, Stop, provenance};
use crate::image::digest::ImageId;
use crate::image::reference::Reference;
use crate::report::Report;
use crate::report::output::Output;
use crate::report::run_result::RunResult;
use crate::sys::shell;
use crate::sys::whole_file::WholeFile;
use crate::transaction::outcome::Progress;

pub(super) async fn run(args: &ExportArgs) -> RunResult {
    let output = OutputArgs {
        verbose: args.verbose,
        ..OutputArgs::default()
    };
    let invocation = Invocation::of(&args.host, args.content.containerd_root.as_deref());
    let mut report = Report::new("export", &output, invocation);
    match export(args, &mut report).await {
        Ok(()) => report.end(RunResult::Done),
        Err(stop) => stop.tell(report),
    }
}

async fn export(args: &ExportArgs, report: &mut Report) -> Result<(), Stop> {
    let ExportFormat::Json = args.format;
    let exported = exported(args, report).await?;
    if exported.file.claims.is_empty() {
        return Err(Stop::NoDigests);
    }
    let text = exported.text().map_err(Stop::Output)?;
    match &args.output_file {
        Some(path) => write(path, &text)?,
        None => {
            let text = String::from_utf8_lossy(&text).into_owned();
            let delivered = Output::of_process().deliver(text);
            delivered.map_err(Stop::Output)?;
        }
    }
    let file = args.output_file.as_deref().map(shell::path);
    for line in told(&exported, file.as_deref().unwrap_or("FILE")) {
        report.beside(&line);
    }
    Ok(())
}

/// The summary: what the file contains, what it lacks, and the command to run next.
fn told(exported: &Exported, file: &str) -> Vec<String> {
    let known = |known: Known| {
        let digests = exported.digests.iter();
        digests.filter(move |(_, _, one)| *one == known)
    };
    let (proven, recorded, asserted) = (
        known(Known::Proven).count(),
        known(Known::Recorded).count(),
        known(Known::Asserted).count(),
    );
    let digests = match proven + recorded + asserted {
        1 => "1 digest".to_owned(),
        many => format!("{many} digests"),
    };
    let mut lines = vec![format!(
        "{digests}, {proven} with their manifest. Next, on the other host: digestfix apply --from {file}"
    )];
    if let Some((reference, ..)) = known(Known::Recorded).chain(known(Known::Asserted)).next() {
        lines.push(format!(
            "{} without a manifest. To get the manifests, pull these images again (for example: \
             docker pull {reference}), then export again",
            recorded + asserted
        ));
    }
    lines
}

fn write(path: &Path, text: &[u8]) -> Result<(), Stop> {
    let refused = |error| Stop::NoFile {
        path: path.to_owned(),
        error,
    };
    let file = WholeFile::begin(path).map_err(refused)?;
    let written = file.file().write_all(text).and_then(|()| file.finish());
    written.map_err(|error| Stop::File {
        path: path.to_owned(),
        error,
    })
}

async fn exported(args: &ExportArgs, report: &mut Report) -> Result<Exported, Stop> {
    let site = Site::find(&args.host, Reach::Bus).await?;
    report.host(&site.host);
    let root = args.content.containerd_root.as_deref();
    let mut store = site.image_store(root, None).await?;
    store.read_manifests().await?;
    let provenance = provenance(site.images(), report);
    let left_out = |report: &mut Report, reference: &Reference, why| {
        report.warning(&format!("{reference} is not exported: {why}"));
    };
    for unread in store.gaps(None).unread {
        let why = "containerd's content store lacks the image for this machine's platform (if the \
                   store is elsewhere: --containerd-root DIR)";
        left_out(report, &unread, why);
    }
    let all = store.references().references().collect();
    let exported = Exported::of(chosen(all, &args.names, report)?, &store, &provenance)?;
    for (reference, _, known) in &exported.digests {
        if let Known::LeftOut(why) = known {
            left_out(report, reference, why);
        }
    }
    let file = &exported.file;
    let (digests, manifests) = (file.claims.len(), file.manifests.len());
    tracing::info!(digests, manifests, "exported");
    Ok(exported)
}

/// Returns the references that match the names, or all references if the user gave no
/// names.
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
            // A tag selects its image, and all digests of that image.
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
            report.warning(&format!("{name} has no digest on this host"));
        }
        chosen.extend(found);
    }
    Ok(chosen.into_iter().cloned().collect())
}
