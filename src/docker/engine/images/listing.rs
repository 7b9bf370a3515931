//! Listing: the images of an engine at one point in time, and the image that the engine
//! finds by each reference.

use std::collections::{BTreeMap, BTreeSet};

use super::{Images, Listed};
use crate::docker::content_store::ContentStore;
use crate::docker::engine::EngineError;
use crate::image::digest::Digest;
use crate::image::reference::Reference;

/// The images of an engine, from its own list or from its containerd.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    images: Vec<Listed>,
    is_complete: bool,
    /// The blobs that the engine can read. `None` if containerd did not list its blobs.
    blobs: Option<BTreeSet<Digest>>,
    /// For each tag and digest reference, the position in `images` of the image that the
    /// engine finds by this reference.
    places: BTreeMap<Reference, usize>,
}

impl Listing {
    /// A list of images. `is_complete` is true if the list contains every reference of
    /// the engine.
    ///
    /// An engine finds a digest through any reference of the same repository that points
    /// at this digest (moby 26.1 to 29, `daemon/containerd/image.go`, `resolveImage`).
    /// The engine lists the digest in one repository only.
    pub fn new(images: Vec<Listed>, is_complete: bool) -> Self {
        let mut places = BTreeMap::new();
        for (place, listed) in images.iter().enumerate() {
            let target = listed.target();
            for reference in listed.references() {
                if let Some(target) = &target {
                    let digest = reference.repository().clone().with_digest(target.clone());
                    places.entry(digest).or_insert(place);
                }
                if reference.digest().is_none() {
                    places.entry(reference).or_insert(place);
                }
            }
        }
        Self {
            images,
            is_complete,
            blobs: None,
            places,
        }
    }

    /// A list of images from the records in the engine's containerd. `blobs` contains the
    /// blobs that the engine can read.
    pub fn by_containerd(images: Vec<Listed>, blobs: BTreeSet<Digest>) -> Self {
        Self {
            blobs: Some(blobs),
            ..Self::new(images, true)
        }
    }

    pub fn images(&self) -> &[Listed] {
        &self.images
    }

    /// The image that the list shows for a reference.
    pub fn find(&self, reference: &Reference) -> Option<&Listed> {
        self.images.get(*self.places.get(reference)?)
    }

    /// Whether the engine can read a blob. Also true if digestfix does not know which
    /// blobs the engine can read.
    pub fn reads(&self, blob: &Digest) -> bool {
        self.blobs.as_ref().is_none_or(|blobs| blobs.contains(blob))
    }

    /// Whether the engine certainly can read a blob.
    pub fn is_known_to_read(&self, blob: &Digest) -> bool {
        self.blobs.is_some() && self.reads(blob)
    }

    /// Whether the engine certainly finds this image. The engine finds every image in its
    /// own list. For a name in containerd whose blobs are missing, the answer depends on
    /// the engine's version: Docker 28.5 finds the image, and Docker 26.1 does not.
    pub fn is_found(&self, listed: &Listed, content: &ContentStore) -> bool {
        let has_image = |target| content.has_image(&target, |blob| self.reads(blob));
        self.blobs.is_none() || listed.target().is_some_and(has_image)
    }

    /// The image that the engine finds by a reference. If the list does not show which
    /// image that is, digestfix asks the engine.
    pub async fn find_or_ask(
        &self,
        engine: &impl Images,
        content: &ContentStore,
        reference: &Reference,
    ) -> Result<Option<Listed>, EngineError> {
        match self.find(reference) {
            Some(found) if self.is_found(found, content) => Ok(Some(found.clone())),
            None if self.is_complete => Ok(None),
            _ => engine.find(reference).await,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    #[test]
    fn a_digest_is_found_by_each_repository_that_leads_to_it() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let listed = Listed {
            id: digest.clone(),
            tags: vec!["lab/app:v1".to_owned(), "lab/other:v1".to_owned()],
            digests: vec![format!("lab/app@{digest}")],
            ..Listed::default()
        };
        let listing = Listing::new(vec![listed.clone()], true);
        for name in ["lab/app", "lab/other"] {
            let pinned = reference(&format!("{name}@{digest}"));
            assert_eq!(listing.find(&pinned), Some(&listed), "{name}");
            let tag = reference(&format!("{name}:v1"));
            assert_eq!(listing.find(&tag), Some(&listed), "{name}");
        }
        for absent in [
            format!("lab/third@{digest}"),
            format!("lab/app@sha256:{}", "b".repeat(64)),
            "lab/app:v2".to_owned(),
        ] {
            assert_eq!(listing.find(&reference(&absent)), None, "{absent}");
        }
    }
}
