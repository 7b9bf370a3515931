//! Provenance: the evidence that digestfix had for the digests on a host. For each digest
//! that `apply` wrote, a file in the data root contains the trust and the source of the
//! claim.
//!
//! Only people need this file: digestfix works without it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::claims::trust::Trust;
use crate::image::digest::ImageId;
use crate::image::reference::Reference;
use crate::plan::Plan;
use crate::state::lock::RootLock;
use crate::state::state_file;
use crate::store::data_root::ImageDir;

const VERSION: u32 = 1;

/// The largest provenance file that digestfix reads, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The digests that digestfix wrote. The keys are references in Docker's familiar form,
/// such as `alpine@sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    version: u32,
    references: BTreeMap<String, ProvenanceEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenanceEntry {
    image_id: ImageId,
    pub trust: Trust,
    pub origin: String,
}

impl Default for Provenance {
    fn default() -> Self {
        Self {
            version: VERSION,
            references: BTreeMap::new(),
        }
    }
}

impl Provenance {
    /// The evidence that digestfix had for a reference, if the reference still points at
    /// the image that digestfix wrote.
    pub fn of(&self, reference: &Reference, image: &ImageId) -> Option<&ProvenanceEntry> {
        let written = self.references.get(&reference.familiar())?;
        (written.image_id == *image).then_some(written)
    }

    /// The references that digestfix wrote, some of which may no longer exist.
    pub fn references(&self) -> impl Iterator<Item = Reference> {
        let names = self.references.keys();
        names.filter_map(|name| Reference::parse(name).ok())
    }

    /// Adds the references that a plan wrote. Removes references that no longer point at
    /// the image that digestfix wrote.
    fn note(&mut self, plan: &Plan) {
        for change in &plan.changes {
            if let (Some(image), Some(target)) = (&change.to, plan.basis(&change.reference))
                && change.reference.digest().is_some()
            {
                let written = ProvenanceEntry {
                    image_id: image.clone(),
                    trust: target.trust,
                    origin: target.origin.clone(),
                };
                self.references.insert(change.reference.familiar(), written);
            }
        }
        self.references.retain(|reference, written| {
            let reference = Reference::parse(reference);
            reference.is_ok_and(|reference| plan.after.points_at(&reference, &written.image_id))
        });
    }

    /// Reads the file. The result is empty if there is no file yet.
    pub fn read(images: &ImageDir) -> io::Result<Self> {
        let Some(bytes) = state_file::read(&path(images), MAX_BYTES)? else {
            return Ok(Self::default());
        };
        let provenance: Self = serde_json::from_slice(&bytes)?;
        if provenance.version != VERSION {
            return Err(io::Error::other(format!(
                "the file has version {}, but this digestfix reads only version {VERSION}",
                provenance.version
            )));
        }
        Ok(provenance)
    }

    /// Adds the references that a plan wrote, and saves the file. On an error, the file
    /// is unchanged.
    pub fn record(images: &ImageDir, lock: &RootLock, plan: &Plan) -> io::Result<()> {
        let mut provenance = Self::read(images).unwrap_or_default();
        provenance.note(plan);
        state_file::write(
            &path(images),
            lock,
            &serde_json::to_vec_pretty(&provenance)?,
        )
    }
}

/// The path of the provenance file. Each storage driver has its own file.
pub fn path(images: &ImageDir) -> PathBuf {
    state_file::path(
        images.data_root(),
        &format!("provenance-{}.json", images.driver()),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_this_version_loads() {
        let fixture = include_str!("../../tests/formats/provenance.json");
        let provenance: Provenance = serde_json::from_str(fixture).unwrap();
        let trusts = provenance.references.values().map(|written| written.trust);
        assert!(trusts.eq([Trust::Asserted, Trust::Matched, Trust::Proven]));
        assert_eq!(provenance.references().count(), 3);
        let bytes = serde_json::to_vec_pretty(&provenance).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), fixture.trim_end());
    }
}
