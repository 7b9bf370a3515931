//! `digestfix export`

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use crate::cli::{ExportArgs, ExportFormat, OutputArgs};
use crate::commands::{Site, Stop};
use crate::content_store::ContentStore;
use crate::digest::ImageId;
use crate::plan::digest_is_image_id;
use crate::reference::Reference;
use crate::report::{Exit, Report};
use crate::source::claims_file::{ClaimsFile, Entry, VERSION};
use crate::store::Store;
use crate::transaction::outcome::Progress;

pub(super) async fn run(args: &ExportArgs) -> Exit {
    let output = OutputArgs {
        json: false,
        verbose: args.verbose,
        quiet: false,
    };
    let mut report = Report::new("export", &output);
    match export(args, &mut report).await {
        Ok(file) => {
            let ExportFormat::Json = args.format;
            let written = serde_json::to_string_pretty(&file)
                .map_err(io::Error::other)
                .and_then(|text| writeln!(io::stdout().lock(), "{text}"));
            match written {
                Ok(()) => report.end(Exit::Done),
                Err(error) => Stop::Output(error).tell(report),
            }
        }
        Err(stop) => stop.tell(report),
    }
}

async fn export(args: &ExportArgs, report: &mut Report) -> Result<ClaimsFile, Stop> {
    let site = Site::find(&args.host).await?;
    report.host(&site.host);
    let images = site.images().image_ids()?;
    let store = site.images().read()?.store;
    let content = ContentStore::of(
        site.images().data_root(),
        args.content.containerd_root.as_deref(),
    );
    let references = chosen(&store, &args.names, report)?;
    let mut file = ClaimsFile {
        digestfix_claims: VERSION,
        claims: Vec::new(),
        manifests: BTreeMap::new(),
    };
    let mut proven = 0;
    for (reference, image) in references {
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
            proven += 1;
        }
        file.claims.push(Entry {
            reference: reference.familiar(),
            image_id: Some(image),
            trust: None,
        });
    }
    tracing::info!(digests = file.claims.len(), proven, "exported");
    Ok(file)
}

/// The references that the names ask for; all without any.
fn chosen(
    store: &Store,
    names: &[Reference],
    report: &mut Report,
) -> Result<Vec<(Reference, ImageId)>, Stop> {
    let all: Vec<(Reference, ImageId)> = store.references().collect();
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
