//! What was brought along that tells which digest is whose.
//!
//! A manifest proves: its bytes hash to the digest, and it names its image's
//! ID. Another host's record matches: that host's Docker knew the digest as
//! that of the same image ID.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::{Digest, ImageId};
use crate::manifest::{Descriptor, Format, MAX_INDEX_ENTRIES, Manifest};
use crate::trust::Trust;

/// How deep an index may lie in others.
pub const MAX_INDEX_DEPTH: usize = 8;

/// The most images that one digest may be recorded for: the platforms of an
/// index, each on hosts of its own.
pub const MAX_RECORDS_OF_A_DIGEST: usize = 1_000;

/// Manifests and records.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    manifests: BTreeMap<Digest, Brought>,
    records: BTreeMap<Digest, BTreeMap<ImageId, String>>,
}

#[derive(Debug, Clone)]
struct Brought {
    manifest: Manifest,
    origin: String,
}

/// The images that a digest is proven to be of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof<'a> {
    /// Each with where its manifest is from.
    pub images: BTreeMap<&'a ImageId, &'a str>,
    /// No part of an index is missing: the digest is of no other image.
    pub complete: bool,
    /// Where the manifest or index of the digest itself is from.
    pub origin: &'a str,
}

/// A way through the indexes below a digest.
struct Walk<'a> {
    seen: BTreeSet<&'a Digest>,
    entries_left: usize,
}

/// What the evidence says of a digest and an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They belong together, as far as this.
    Supports(Trust, String),
    /// They do not: the digest is of these images instead.
    Denies(Trust, Vec<ImageId>, String),
    /// Nothing.
    Silent,
}

impl Evidence {
    /// Takes a manifest in. `digest` must be that of its bytes.
    pub fn add_manifest(&mut self, digest: Digest, manifest: Manifest, origin: &str) {
        self.manifests.entry(digest).or_insert_with(|| Brought {
            manifest,
            origin: origin.to_owned(),
        });
    }

    /// What an index lists; nothing for anything else.
    #[must_use]
    pub fn children(&self, digest: &Digest) -> &[Descriptor] {
        match self.manifests.get(digest) {
            Some(Brought {
                manifest: Manifest::Index(children),
                ..
            }) => children,
            _ => &[],
        }
    }

    /// Takes in what another host's Docker recorded; false when there is too
    /// much of it for one digest.
    #[must_use]
    pub fn add_record(&mut self, digest: Digest, image: ImageId, origin: &str) -> bool {
        let images = self.records.entry(digest).or_default();
        images.entry(image).or_insert_with(|| origin.to_owned());
        images.len() <= MAX_RECORDS_OF_A_DIGEST
    }

    /// Whose the digest is proven to be; none without its manifest.
    #[must_use]
    pub fn proof(&self, digest: &Digest) -> Option<Proof<'_>> {
        let (digest, brought) = self.manifests.get_key_value(digest)?;
        let mut proof = Proof {
            images: BTreeMap::new(),
            complete: true,
            origin: &brought.origin,
        };
        let mut walk = Walk {
            seen: BTreeSet::new(),
            entries_left: MAX_INDEX_ENTRIES,
        };
        self.collect(digest, 0, &mut walk, &mut proof);
        Some(proof)
    }

    fn collect<'a>(
        &'a self,
        digest: &'a Digest,
        depth: usize,
        walk: &mut Walk<'a>,
        proof: &mut Proof<'a>,
    ) {
        if !walk.seen.insert(digest) {
            return;
        }
        match self.manifests.get(digest) {
            Some(Brought { manifest, origin }) => match manifest {
                Manifest::Image(image) => {
                    proof.images.insert(&image.image, origin);
                }
                Manifest::Index(children) if depth < MAX_INDEX_DEPTH => {
                    for child in children {
                        let Some(left) = walk.entries_left.checked_sub(1) else {
                            proof.complete = false;
                            return;
                        };
                        walk.entries_left = left;
                        self.collect(&child.digest, depth + 1, walk, proof);
                    }
                }
                Manifest::Index(_) => proof.complete = false,
                Manifest::Artifact => {}
            },
            None => proof.complete = false,
        }
    }

    /// The images that another host recorded for the digest.
    pub fn recorded(&self, digest: &Digest) -> impl Iterator<Item = &ImageId> {
        self.records
            .get(digest)
            .into_iter()
            .flat_map(BTreeMap::keys)
    }

    /// What all of it says of a digest and an image.
    #[must_use]
    pub fn verdict(&self, digest: &Digest, image: &ImageId) -> Verdict {
        let proof = self.proof(digest);
        if let Some(origin) = proof.as_ref().and_then(|proof| proof.images.get(image)) {
            return Verdict::Supports(Trust::Proven, (*origin).to_owned());
        }
        if let Some(proof) = proof
            && proof.complete
            && !proof.images.is_empty()
        {
            let images = proof.images.into_keys().cloned().collect();
            return Verdict::Denies(Trust::Proven, images, proof.origin.to_owned());
        }
        match self.records.get(digest) {
            Some(images) => match images.get(image) {
                Some(origin) => Verdict::Supports(Trust::Matched, origin.clone()),
                None => Verdict::Denies(
                    Trust::Matched,
                    images.keys().cloned().collect(),
                    images.values().next().cloned().unwrap_or_default(),
                ),
            },
            None => Verdict::Silent,
        }
    }

    /// The manifest of the digest is in OCI's format; so is what a conversion
    /// from Docker's leaves behind, under another digest.
    #[must_use]
    pub fn is_oci(&self, digest: &Digest) -> bool {
        matches!(
            self.manifests.get(digest),
            Some(Brought { manifest: Manifest::Image(image), .. }) if image.format == Format::Oci
        )
    }
}
