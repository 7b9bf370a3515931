//! The output of `docker manifest inspect -v`, which prints each manifest of an image
//! name. Newer versions of docker add the manifest's bytes in base64 (docker/cli,
//! `cli/manifest/types`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::claims::row::with_digest;
use crate::claims::source::Problem;
use crate::claims::source::collected::{Came, Collected};
use crate::image::digest::{Digest, ImageId};
use crate::image::manifest;
use crate::image::reference::Reference;
use crate::sys::strict_json;

#[derive(Deserialize)]
struct Inspected {
    #[serde(rename = "Ref")]
    reference: String,
    #[serde(rename = "Descriptor")]
    descriptor: Descriptor,
    /// The manifest's bytes in base64. Older versions of docker print only the fields of
    /// the manifest.
    #[serde(default, rename = "Raw")]
    raw: Option<String>,
    #[serde(default, rename = "SchemaV2Manifest")]
    docker: Option<Fields>,
    #[serde(default, rename = "OCIManifest")]
    oci: Option<Fields>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
}

#[derive(Deserialize)]
struct Fields {
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    digest: ImageId,
}

/// Reads one manifest from the output. The manifest may be for the platform of another
/// host, so digestfix treats it like an entry of an index.
pub(super) fn read(document: &str, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    let inspected: Inspected = strict_json::read(document.as_bytes())?;
    let wrong = |what: String| Problem::Entry(inspected.reference.clone(), what);
    let reference =
        Reference::parse(&inspected.reference).map_err(|error| wrong(error.to_string()))?;
    let named = inspected.descriptor.digest;
    let Some(raw) = &inspected.raw else {
        let pinned = with_digest(&reference, &named);
        return match (inspected.docker.or(inspected.oci), reference.digest()) {
            // The manifest is an entry of an index, and its platform is unknown. The
            // entry proves nothing without the manifest's bytes.
            (_, Some(_)) => Ok(()),
            (Some(fields), None) => collected.record(&pinned, fields.config.digest, place),
            (None, None) => collected.pin(&pinned, place),
        };
    };
    if raw.len() as u64 > manifest::MAX_BYTES * 2 {
        return Err(Problem::TooLarge {
            what: inspected.reference,
            limit: manifest::MAX_BYTES,
        });
    }
    let bytes = STANDARD.decode(raw);
    let bytes = bytes.map_err(|error| wrong(format!("\"Raw\": {error}")))?;
    let found = Digest::of(named.algorithm(), &bytes);
    if found != named {
        return Err(Problem::Tampered {
            named: named.to_string(),
            found: found.to_string(),
        });
    }
    let manifest = collected.prove(&bytes, place)?;
    // `prove` adds the manifest only under its SHA-256 digest, but the digest that Docker
    // printed may use another hash algorithm.
    collected.evidence.keep(&named, &bytes);
    collected
        .evidence
        .add_manifest(named.clone(), manifest, place);
    let came = Came {
        repository: Some(reference.repository()),
        in_index: true,
        place,
    };
    collected.manifest(&named, came)
}
