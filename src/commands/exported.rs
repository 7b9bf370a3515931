//! What this host says of its digests to other hosts: a claims file, and how far each
//! digest is known.

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

/// The claims, and what is known of the digests.
#[derive(Default)]
pub(super) struct Exported {
    pub file: ClaimsFile,
    pub digests: Vec<(Reference, ImageId, Known)>,
}

/// How far a digest is known on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// The manifest is here.
    Proven,
    /// Docker has the digest for the image, and no manifest.
    Recorded,
    /// A person said so.
    Asserted,
    /// It says nothing to other hosts.
    LeftOut(&'static str),
}

impl Known {
    /// As the JSON object has it.
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
    /// What is known of the digests among these references.
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
                Known::LeftOut("its digest is the ID of an image, which no registry serves")
            } else if store.is_made_up(digest) {
                Known::LeftOut(
                    "its digest is that of a manifest that an import made up, which no registry serves",
                )
            } else {
                exported.add(&reference, &image, store, provenance)
            };
            exported.digests.push((reference, image, known));
        }
        Ok(exported)
    }

    /// The claims file.
    pub fn text(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        to_json(&mut text, &self.file).map_err(io::Error::other)?;
        text.push(b'\n');
        Ok(text)
    }

    /// The image of this pin is to have its tag as well.
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
        // A digest that is asserted here is no better known on another host.
        let written = provenance.of(reference, image);
        let trust = written.map(|written| written.trust);
        let trust = trust.filter(|trust| *trust == Trust::Asserted);
        let (images, manifests) = store.exported(digest, image.clone());
        if images.is_empty() {
            return Known::LeftOut(
                "no manifest of an image is in containerd's content store for it (--containerd-root \
                 DIR says where that is)",
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
