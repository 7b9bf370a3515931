//! Export of this host's digests for other hosts: a claims file, with the evidence for
//! each digest.

use std::io;

use crate::claims::source::claims_file::{ClaimsFile, Entry};
use crate::claims::trust::Trust;
use crate::commands::Stop;
use crate::image::digest::ImageId;
use crate::image::reference::Reference;
use crate::plan::digest_is_image_id;
use crate::state::provenance::Provenance;
use crate::sys::printable::to_json;
use crate::transaction::image_store::ImageStore;

/// The claims, and the evidence for each digest.
#[derive(Default)]
pub(super) struct Exported {
    pub file: ClaimsFile,
    pub digests: Vec<(Reference, ImageId, Known)>,
}

/// The evidence that this host has for a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// The digest's manifest.
    Proven,
    /// Docker has recorded the digest for the image, but the manifest is missing.
    Recorded,
    /// Only a user has claimed the digest.
    Asserted,
    /// The digest is not exported, for this reason.
    LeftOut(&'static str),
}

impl Known {
    /// The word in the JSON output.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Recorded => "recorded",
            Self::Asserted => "asserted",
            Self::LeftOut(_) => "left_out",
        }
    }
}

impl Exported {
    /// Collects the digests of these references, with the evidence for each digest.
    pub fn of(
        references: impl IntoIterator<Item = (Reference, ImageId)>,
        store: &ImageStore<'_>,
        provenance: &Provenance,
    ) -> Result<Self, Stop> {
        let images = store.images()?;
        let mut exported = Self::default();
        for (reference, image) in references {
            let Some(digest) = reference.digest() else {
                continue;
            };
            let known = if digest_is_image_id(digest, &images) {
                Known::LeftOut("its digest is the ID of an image, and no registry serves image IDs")
            } else if store.is_made_up(digest) {
                Known::LeftOut(
                    "no registry has its digest, because the manifest was made up at import",
                )
            } else {
                exported.add(&reference, &image, store, provenance)
            };
            exported.digests.push((reference, image, known));
        }
        Ok(exported)
    }

    /// The text of the claims file.
    pub fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        to_json(&mut text, &self.file).map_err(io::Error::other)?;
        text.push(b'\n');
        Ok(text)
    }

    /// Adds the tag of a pin (`NAME:TAG@DIGEST`) to the claim that contains the same
    /// digest.
    pub fn give_tag(&mut self, pin: &Reference) {
        let Some(digest) = pin.digest() else {
            return;
        };
        let without = pin.repository().clone().with_digest(digest.clone());
        let claims = self.file.claims.iter_mut();
        for claim in claims.filter(|claim| claim.reference == without.familiar()) {
            claim.reference = pin.familiar();
        }
    }

    fn add(
        &mut self,
        reference: &Reference,
        image: &ImageId,
        store: &ImageStore<'_>,
        provenance: &Provenance,
    ) -> Known {
        let Some(digest) = reference.digest() else {
            return Known::Recorded;
        };
        // If a digest is only asserted on this host, it is only asserted on other hosts
        // too.
        let written = provenance.of(reference, image);
        let trust = written.map(|written| written.trust);
        let trust = trust.filter(|trust| *trust == Trust::Asserted);
        let (images, manifests) = store.exported(digest, image.clone());
        if images.is_empty() {
            return Known::LeftOut(
                "containerd's content store has no image manifest for this digest (if the store is \
                 elsewhere: --containerd-root DIR)",
            );
        }
        self.file
            .claims
            .extend(images.into_iter().map(|image| Entry {
                reference: reference.familiar(),
                image_id: Some(image),
                trust,
            }));
        let known = match (manifests.is_empty(), trust) {
            (false, _) => Known::Proven,
            (true, Some(_)) => Known::Asserted,
            (true, None) => Known::Recorded,
        };
        self.file.manifests.extend(manifests);
        known
    }
}
