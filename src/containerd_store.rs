//! The containerd image store as digestfix sees it: the references that the
//! engine has, each with the image that it leads to.
//!
//! The engine knows an image by the digest of its manifest or index, and has
//! another manifest for an image that was loaded than the registry has. What
//! tells that both are the same image is the config, whose digest is the image's
//! ID on Docker's own store and in claims; it is read from containerd's content
//! store.

use std::collections::{BTreeMap, BTreeSet};
use std::env::consts::ARCH;

use serde::Deserialize;

use crate::content_store::ContentStore;
use crate::digest::{Digest, ImageId};
use crate::engine::EngineError;
use crate::engine::images::{Images, Listed};
use crate::manifest::Manifest;
use crate::reference::Reference;
use crate::store::Store;

/// The references of an engine, and their images.
#[derive(Debug, Clone)]
pub struct ContainerdStore {
    /// The references, each with its image's ID.
    pub store: Store,
    /// The images that are here.
    pub images: BTreeSet<ImageId>,
    content: ContentStore,
    /// The references that stand by themselves; a digest that is found by a tag
    /// beside it is none.
    own: BTreeMap<Reference, ImageId>,
    known: BTreeMap<Digest, Option<Found>>,
    asked: BTreeSet<Reference>,
    made_up: BTreeMap<Reference, ImageId>,
    unread: BTreeSet<String>,
}

/// What the content store has for a manifest or index.
#[derive(Debug, Clone)]
struct Found {
    image: ImageId,
    /// The digest of a manifest that `docker save` made up.
    made_up: bool,
}

/// What a config says of where its image runs (image-spec 1.1, `config.md`).
#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// The layers of a manifest.
#[derive(Deserialize)]
struct Layers {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    digest: Digest,
}

impl ContainerdStore {
    /// Reads what the engine lists.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn read(engine: &impl Images, content: ContentStore) -> Result<Self, EngineError> {
        let mut read = Self {
            store: Store::default(),
            images: BTreeSet::new(),
            content,
            own: BTreeMap::new(),
            known: BTreeMap::new(),
            asked: BTreeSet::new(),
            made_up: BTreeMap::new(),
            unread: BTreeSet::new(),
        };
        for listed in engine.listed().await? {
            for reference in listed.references() {
                read.take(&reference, &listed);
            }
        }
        Ok(read)
    }

    /// Asks for references that the engine may have and not list, each once.
    /// Says whether there was any to ask for.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn ask(
        &mut self,
        engine: &impl Images,
        references: impl IntoIterator<Item = Reference>,
    ) -> Result<bool, EngineError> {
        let mut any = false;
        for reference in references {
            if reference.digest().is_none()
                || self.store.get(&reference).is_some()
                || !self.asked.insert(reference.clone())
            {
                continue;
            }
            any = true;
            if let Some(listed) = engine.find(&reference).await? {
                self.take(&reference, &listed);
            }
        }
        Ok(any)
    }

    fn take(&mut self, reference: &Reference, listed: &Listed) {
        let Some(target) = listed.target() else {
            return;
        };
        let Some(found) = self.found(&target) else {
            self.unread.insert(reference.familiar());
            return;
        };
        let tag = listed.tag_beside(reference);
        let follows = reference.digest().is_some() && tag.is_some();
        // Nobody ever pulled by such a digest, as far as can be told.
        if follows && found.made_up {
            self.made_up.insert(reference.clone(), found.image);
            return;
        }
        if reference.digest().is_some_and(|digest| *digest != target) {
            return;
        }
        if self.store.insert(reference, &found.image).is_ok() {
            if !follows {
                self.own.insert(reference.clone(), found.image.clone());
            }
            self.images.insert(found.image);
        }
    }

    /// The engine finds the digest by a tag, and its manifest looks made up by
    /// `docker save`; so it is not counted for a reference.
    #[must_use]
    pub fn is_made_up(&self, reference: &Reference) -> bool {
        self.made_up.contains_key(reference)
    }

    /// Counts such a digest all the same: a registry serves it.
    pub fn accept(&mut self, reference: &Reference) {
        if let Some(image) = self.made_up.remove(reference) {
            // It was not counted before.
            let _ = self.store.insert(reference, &image);
        }
    }

    /// The manifest or index of a digest, and all that is here of what it lists,
    /// but none that looks made up.
    #[must_use]
    pub fn manifests(&self, digest: &Digest) -> BTreeMap<Digest, String> {
        let mut found = self.content.manifests(digest);
        found.retain(|_, text| {
            !matches!(
                Manifest::parse(text.as_bytes()),
                Ok(Manifest::Image(manifest)) if manifest.plain_layers
            )
        });
        found
    }

    fn found(&mut self, target: &Digest) -> Option<Found> {
        if let Some(known) = self.known.get(target) {
            return known.clone();
        }
        let found = self.look_for(target);
        self.known.insert(target.clone(), found.clone());
        found
    }

    /// The image that the engine runs for a manifest or index: of several, the
    /// one for this machine.
    fn look_for(&self, target: &Digest) -> Option<Found> {
        let manifests = self.content.manifests(target);
        let mut here = Vec::new();
        for (digest, text) in &manifests {
            let Ok(Manifest::Image(manifest)) = Manifest::parse(text.as_bytes()) else {
                continue;
            };
            let Some(platform) = self.platform(&manifest.image) else {
                continue;
            };
            let found = Found {
                image: manifest.image,
                made_up: manifest.plain_layers,
            };
            if digest == target {
                return Some(found);
            }
            // An attestation of BuildKit's is of no platform.
            if platform.os != "unknown" {
                here.push((platform, found));
            }
        }
        let fits = |(platform, _): &&(Platform, Found)| platform.architecture == architecture();
        let mut fitting = here.iter().filter(fits);
        match (fitting.next(), fitting.next(), here.as_slice()) {
            (Some((_, found)), None, _) | (None, _, [(_, found)]) => Some(found.clone()),
            _ => None,
        }
    }

    fn platform(&self, image: &ImageId) -> Option<Platform> {
        serde_json::from_str(&self.config(image)?).ok()
    }

    /// The text of an image's config.
    #[must_use]
    pub fn config(&self, image: &ImageId) -> Option<String> {
        self.content.text(&image.to_string().parse().ok()?)
    }

    /// The manifests that prove a digest to be of an image, where containerd has
    /// them.
    #[must_use]
    pub fn proof(&self, digest: &Digest, image: &ImageId) -> Option<BTreeMap<Digest, String>> {
        self.content.proof(digest, image)
    }

    /// The layers that these manifests of an image name are here as they say. Where
    /// they are not, the image runs all the same if it is here unpacked, and can
    /// be neither saved nor pushed.
    #[must_use]
    pub fn has_layers<T: AsRef<str>>(
        &self,
        manifests: &BTreeMap<Digest, T>,
        image: &ImageId,
    ) -> bool {
        manifests.values().all(|text| {
            let is_its_own = matches!(
                Manifest::parse(text.as_ref().as_bytes()),
                Ok(Manifest::Image(manifest)) if manifest.image == *image
            );
            let layers: Option<Layers> = serde_json::from_str(text.as_ref()).ok();
            !is_its_own
                || layers.is_some_and(|found| {
                    found
                        .layers
                        .iter()
                        .all(|layer| self.content.has(&layer.digest))
                })
        })
    }

    /// Without these references, another one leads to the image, and stands by
    /// itself.
    #[must_use]
    pub fn has_another(&self, without: &BTreeSet<&Reference>, image: &ImageId) -> bool {
        let mut others = self
            .own
            .iter()
            .filter(|(other, _)| !without.contains(other));
        others.any(|(_, other)| other == image)
    }

    /// References whose manifests are not to be found, or are of no image for
    /// this machine.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        self.unread.iter().map(String::as_str)
    }
}

/// This machine's, as images have it (Go's `GOARCH`).
fn architecture() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests;
