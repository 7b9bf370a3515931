//! digestfix's own claims file, which `digestfix export` writes. The file is JSON, and
//! contains the version of its format.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::claims::evidence::Verdict;
use crate::claims::source::Problem;
use crate::claims::source::collected::Collected;
use crate::claims::trust::Trust;
use crate::image::digest::{Digest, ImageId};
use crate::image::manifest;
use crate::image::reference::Reference;
use crate::sys::strict_json;

/// The version of the file format. Raise the version if you add, remove or redefine a
/// field, because digestfix rejects a file with an unknown field.
pub const VERSION: u64 = 1;

/// The name of the claims file in an archive that `digestfix save` writes.
pub(crate) const MEMBER: &str = "digestfix.json";

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimsFile {
    /// The version of the format, which is [`VERSION`]. digestfix recognizes its own
    /// claims file by this key.
    pub digestfix_claims: u64,
    pub claims: Vec<Entry>,
    /// The exact texts of manifests and indexes. The key is the digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub manifests: BTreeMap<Digest, String>,
}

impl Default for ClaimsFile {
    /// A claims file without claims.
    fn default() -> Self {
        Self {
            digestfix_claims: VERSION,
            claims: Vec::new(),
            manifests: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `NAME@DIGEST`, or `NAME:TAG@DIGEST`. An entry with a tag and an image ID also
    /// claims that `NAME:TAG` points at the image. `digestfix save` writes such an entry
    /// if `docker load` would not restore the tag.
    pub reference: String,
    /// The ID of the image that the reference points at. In an entry without an ID,
    /// digestfix finds the image by name and tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<ImageId>,
    /// The level of trust in the claim. The default is `matched` if the entry has an
    /// image ID, and `asserted` otherwise. For `proven`, the file must contain the
    /// manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,
}

#[derive(Deserialize)]
struct Version {
    digestfix_claims: u64,
}

pub(super) fn read(document: &str, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    let version: Version = strict_json::read(document.as_bytes())?;
    if version.digestfix_claims != VERSION {
        return Err(Problem::Version(version.digestfix_claims));
    }
    let file: ClaimsFile = strict_json::read(document.as_bytes())?;
    for (digest, text) in &file.manifests {
        if text.len() as u64 > manifest::MAX_BYTES {
            return Err(Problem::TooLarge {
                what: digest.to_string(),
                limit: manifest::MAX_BYTES,
            });
        }
        let found = Digest::of(digest.algorithm(), text.as_bytes());
        if found != *digest {
            return Err(Problem::Tampered {
                named: digest.to_string(),
                found: found.to_string(),
            });
        }
        let manifest = collected.prove(text.as_bytes(), place)?;
        collected.evidence.keep(digest, text.as_bytes());
        collected
            .evidence
            .add_manifest(digest.clone(), manifest, place);
    }
    for entry in file.claims {
        let reference = Reference::parse(&entry.reference)
            .map_err(|error| Problem::Entry(entry.reference.clone(), error.to_string()))?;
        let wrong = |what: &str| Problem::Entry(entry.reference.clone(), what.to_owned());
        let digest = reference
            .digest()
            .ok_or_else(|| wrong("the entry has no digest"))?;
        if let Some(image) = &entry.image_id {
            collected.tag_of_pin(&reference, image.clone(), place)?;
        }
        match (entry.image_id, entry.trust) {
            (Some(image), Some(Trust::Asserted)) => {
                collected.points_at(&reference, image, place)?
            }
            (Some(image), Some(Trust::Proven)) => {
                match collected.evidence.verdict(digest, &image) {
                    Verdict::Supports(Trust::Proven, _) => {}
                    _ => {
                        return Err(wrong(
                            "the entry is marked as proven, but no manifest in the file proves it",
                        ));
                    }
                }
                collected.record(&reference, image, place)?;
            }
            (Some(image), Some(Trust::Matched) | None) => {
                collected.record(&reference, image, place)?;
            }
            (None, Some(Trust::Asserted) | None) => collected.pin(&reference, place)?,
            (None, Some(_)) => {
                return Err(wrong("an entry without an image_id can only be asserted"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_this_version_loads() {
        let fixture = include_str!("../../../tests/formats/claims.json");
        let mut collected = Collected::default();
        read(fixture, "claims.json", &mut collected).unwrap();
        assert_eq!(collected.claims.len(), 3);
        let file: ClaimsFile = strict_json::read(fixture.as_bytes()).unwrap();
        assert_eq!(file.manifests.len(), 1);
        let bytes = serde_json::to_vec_pretty(&file).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), fixture.trim_end());
    }
}
