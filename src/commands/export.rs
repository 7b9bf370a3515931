//! `digestfix export`

use std::collections::BTreeSet;
use std::io;

use crate::claims::evidence::Evidence;
use crate::claims::source::claims_file::{ClaimsFile, Entry};
use crate::claims::trust::Trust;
use crate::cli::invocation::Invocation;
use crate::cli::{ExportArgs, ExportFormat, OutputArgs};
use crate::commands::online::Containerd;
use crate::commands::{Reach, Site, Stop, provenance};
use crate::docker::content_store::ContentStore;
use crate::host::{HostError, StoreKind};
use crate::image::digest::ImageId;
use crate::image::manifest::Manifest;
use crate::image::reference::Reference;
use crate::plan::digest_is_image_id;
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
    let file = match site.host.image_store {
        StoreKind::Containerd => from_containerd(args, &site, report).await?,
        StoreKind::Own => from_the_store(args, &site, report)?,
    };
    let (digests, manifests) = (file.claims.len(), file.manifests.len());
    tracing::info!(digests, manifests, "exported");
    Ok(file)
}

/// Docker's own image store: references are in its file, each with an image ID.
fn from_the_store(args: &ExportArgs, site: &Site, report: &mut Report) -> Result<ClaimsFile, Stop> {
    report.host(&site.host);
    let images = site.images().image_ids()?;
    let store = site.images().read()?;
    let content = ContentStore::of(
        site.images().data_root(),
        args.content.containerd_root.as_deref(),
    );
    let provenance = provenance(site.images(), report);
    let mut file = ClaimsFile::default();
    for (reference, image) in chosen(store.references().collect(), &args.names, report)? {
        let Some(digest) = reference.digest() else {
            continue;
        };
        if digest_is_image_id(digest, &images) {
            report.warning(&format!(
                "{reference} is left out: its digest is the ID of an image, which no registry serves"
            ));
            continue;
        }
        if let Some(manifests) = content.proof(digest, &image) {
            file.manifests.extend(manifests);
        }
        // What somebody asserted here is no better known elsewhere.
        let written = provenance.of(&reference, &image);
        let asserted = written.filter(|written| written.trust == Trust::Asserted);
        file.claims.push(Entry {
            trust: asserted.map(|written| written.trust),
            ..entry(&reference, image)
        });
    }
    Ok(file)
}

/// The containerd image store: the engine lists its references, and what they
/// point at is no image ID but a digest. The image IDs are in the manifests.
async fn from_containerd(
    args: &ExportArgs,
    site: &Site,
    report: &mut Report,
) -> Result<ClaimsFile, Stop> {
    report.host(&site.host);
    let root = args.content.containerd_root.as_deref();
    let content = ContentStore::of(site.images().data_root(), root);
    let containerd = Containerd::of(site, root)?.ok_or(HostError::ContainerdImageStore)?;
    let here = containerd.read().await?;
    for unread in here.unread().iter().map(Reference::familiar) {
        report.warning(&format!(
            "{unread} is left out: no image for this machine is in containerd's content store for it \
             (--containerd-root DIR says where that is)"
        ));
    }
    let references = here.store.references().collect();
    let mut file = ClaimsFile::default();
    for (reference, _) in chosen(references, &args.names, report)? {
        let Some(digest) = reference.digest() else {
            continue;
        };
        let manifests = content.manifests(digest);
        let mut evidence = Evidence::default();
        for (digest, text) in &manifests {
            if let Ok(manifest) = Manifest::parse(text.as_bytes()) {
                evidence.add_manifest(digest.clone(), manifest, &reference.familiar());
            }
        }
        let images = evidence.proof(digest).map(|proof| proof.images);
        let images = images.unwrap_or_default().into_keys().cloned();
        let known = file.claims.len();
        file.claims
            .extend(images.map(|image| entry(&reference, image)));
        if file.claims.len() == known {
            report.warning(&format!(
                "{reference} is left out: no manifest of an image is in containerd's content store \
                 for it (--containerd-root DIR says where that is)"
            ));
            continue;
        }
        file.manifests.extend(manifests);
    }
    Ok(file)
}

fn entry(reference: &Reference, image: ImageId) -> Entry {
    Entry {
        reference: reference.familiar(),
        image_id: Some(image),
        trust: None,
    }
}

/// The references that the names ask for; all without any.
fn chosen<T: Ord + Clone>(
    all: Vec<(Reference, T)>,
    names: &[Reference],
    report: &mut Report,
) -> Result<Vec<(Reference, T)>, Stop> {
    if names.is_empty() {
        return Ok(all);
    }
    let mut chosen: BTreeSet<&(Reference, T)> = BTreeSet::new();
    for name in names {
        let mut found: Vec<&(Reference, T)> = Vec::new();
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
