//! containerd image store below Docker: the engine's references, each with its image.
//!
//! The engine's ID for an image is the digest of its manifest or index. For a loaded
//! image, the engine has another manifest than the registry. The config shows that both
//! are the same image: its digest is the image's ID in Docker's own store and in claims.
//! digestfix reads configs from containerd's content store.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::docker::content_store::ContentStore;
use crate::docker::engine::EngineError;
use crate::docker::engine::images::{Images, Listed, Listing};
use crate::image::digest::{Digest, ImageId};
use crate::image::manifest::Manifest;
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::store::repositories::Store;

mod layers;

/// The references of an engine, and their images.
#[derive(Debug, Clone)]
pub struct ContainerdStore {
    /// The references, each with the ID of its image.
    pub store: Store,
    /// The images that are here.
    pub images: BTreeSet<ImageId>,
    content: ContentStore,
    platform: Platform,
    /// The references with a record of their own. A digest that the engine finds by a tag
    /// has none.
    own: BTreeMap<Reference, Own>,
    known: BTreeMap<Digest, Option<Found>>,
    listing: Listing,
    /// What the engine found for the references that digestfix asked it for by name.
    asked: BTreeMap<Reference, Option<Listed>>,
    made_up: BTreeMap<Reference, ImageId>,
    hollow: BTreeSet<Reference>,
    nameless: BTreeMap<ImageId, Digest>,
    unread: BTreeSet<Reference>,
    /// Cache: the layers that each manifest or index names.
    layers: RefCell<BTreeMap<Digest, BTreeSet<Digest>>>,
}

/// What a reference with a record of its own leads to.
#[derive(Debug, Clone)]
struct Own {
    image: ImageId,
    target: Digest,
}

/// The image that the content store has for a manifest or index.
#[derive(Debug, Clone)]
struct Found {
    image: ImageId,
    /// The digest of the image's own manifest.
    manifest: Digest,
    /// Whether an engine made that manifest up.
    made_up: bool,
    /// Whether a layer that the manifest names is missing from the content store.
    lacks_layers: bool,
}

impl ContainerdStore {
    /// Reads the images that the engine lists.
    pub async fn read(engine: &impl Images, content: ContentStore) -> Result<Self, EngineError> {
        let platform = engine.platform().await?;
        let mut read = Self {
            store: Store::default(),
            images: BTreeSet::new(),
            content,
            platform,
            own: BTreeMap::new(),
            known: BTreeMap::new(),
            listing: engine.listed().await?,
            asked: BTreeMap::new(),
            made_up: BTreeMap::new(),
            hollow: BTreeSet::new(),
            nameless: BTreeMap::new(),
            unread: BTreeSet::new(),
            layers: RefCell::default(),
        };
        let listing = read.listing.clone();
        for listed in listing.images() {
            let mut is_named = false;
            let is_found = listing.is_found(listed, &read.content);
            for reference in listed.references() {
                if is_found {
                    read.take(&reference, listed, true);
                } else {
                    read.ask(engine, [reference]).await?;
                }
                is_named = true;
            }
            if !is_named {
                read.take_nameless(listed);
            }
        }
        Ok(read)
    }

    /// Asks the engine, once each, for digest references that it may have but not list.
    /// Returns whether it asked for any.
    pub async fn ask(
        &mut self,
        engine: &impl Images,
        references: impl IntoIterator<Item = Reference>,
    ) -> Result<bool, EngineError> {
        let mut any = false;
        for reference in references {
            if reference.digest().is_none()
                || self.store.get(&reference).is_some()
                || self.asked.contains_key(&reference)
            {
                continue;
            }
            any = true;
            let found = self.find(engine, &reference).await?;
            if let Some(listed) = &found {
                let is_listed = self.listing.find(&reference).is_some();
                self.take(&reference, listed, is_listed);
            }
            self.asked.insert(reference, found);
        }
        Ok(any)
    }

    /// The image that the engine finds by a reference. Asks the engine only if its list
    /// does not tell.
    pub async fn find(
        &self,
        engine: &impl Images,
        reference: &Reference,
    ) -> Result<Option<Listed>, EngineError> {
        match self.asked.get(reference) {
            Some(found) => Ok(found.clone()),
            None => {
                let listing = &self.listing;
                listing.find_or_ask(engine, &self.content, reference).await
            }
        }
    }

    /// Takes an image that no reference leads to: a claim can give it a name and a
    /// digest.
    fn take_nameless(&mut self, listed: &Listed) {
        let target = listed.target();
        if let Some(target) = target
            && let Some(found) = self.found(&target)
        {
            self.images.insert(found.image.clone());
            self.nameless.insert(found.image, target);
        }
    }

    fn take(&mut self, reference: &Reference, listed: &Listed, is_listed: bool) {
        let Some(target) = listed.target() else {
            return;
        };
        let Some(found) = self.found(&target) else {
            self.unread.insert(reference.clone());
            return;
        };
        let tag = listed.tag_beside(reference);
        let follows = reference.digest().is_some() && tag.is_some();
        // As far as digestfix can tell, the image was never pulled by this digest.
        if follows && found.made_up {
            self.made_up.insert(reference.clone(), found.image);
            return;
        }
        if reference.digest().is_some_and(|digest| *digest != target) {
            return;
        }
        if self.store.insert(reference, &found.image).is_ok() {
            let says_so = listed.is_hollow() || listed.unavailable.contains(&found.manifest);
            if !is_listed || found.lacks_layers || says_so {
                self.hollow.insert(reference.clone());
            }
            if !follows {
                let image = found.image.clone();
                let own = Own { image, target };
                self.own.insert(reference.clone(), own);
            }
            self.images.insert(found.image);
        }
    }

    /// Whether the engine finds the digest by a tag, and its manifest looks as if `docker
    /// save` made it up. Such a digest does not count as a reference.
    pub fn is_made_up(&self, reference: &Reference) -> bool {
        self.made_up.contains_key(reference)
    }

    /// Makes a digest count that looks made up, because a registry serves it.
    pub fn accept(&mut self, reference: &Reference) {
        if let Some(image) = self.made_up.remove(reference) {
            // The reference is not in the store yet, so `insert` succeeds.
            let _ = self.store.insert(reference, &image);
        }
    }

    /// The manifest or index of a digest, and the manifests below it that are here,
    /// without those that look made up.
    pub fn manifests(&self, digest: &Digest) -> BTreeMap<Digest, String> {
        let mut found = self.content.manifests(digest);
        found.retain(|_, text| {
            !matches!(
                Manifest::parse(text.as_bytes()),
                Ok(Manifest::Image(manifest)) if manifest.is_made_up()
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

    /// The image that the engine runs for a manifest or index. Of several images in an
    /// index, the one for this machine.
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
            let made_up = manifest.is_made_up();
            let found = Found {
                lacks_layers: !self.has_all_layers(text),
                image: manifest.image,
                manifest: digest.clone(),
                made_up,
            };
            if digest == target {
                return Some(found);
            }
            // BuildKit's attestations have the platform `unknown`.
            if !platform.is_unknown() {
                here.push((platform, found));
            }
        }
        let fits = |(platform, _): &&(Platform, Found)| self.platform.rank(platform) == Some(0);
        let mut fitting = here.iter().filter(fits);
        match (fitting.next(), fitting.next(), here.as_slice()) {
            (Some((_, found)), None, _) | (None, _, [(_, found)]) => Some(found.clone()),
            _ => None,
        }
    }

    fn platform(&self, image: &ImageId) -> Option<Platform> {
        Platform::of_config(&self.config(image)?)
    }

    /// Whether the image runs on the engine's platform.
    pub fn runs(&self, image: &ImageId) -> bool {
        let platform = self.platform(image);
        platform.is_some_and(|platform| self.platform.rank(&platform).is_some())
    }

    /// Whether, from each index in `way`, the engine chooses the manifest that is in
    /// `way` too.
    pub fn takes(&self, way: &BTreeMap<Digest, String>) -> bool {
        way.values().all(|text| {
            let Ok(Manifest::Index(children)) = Manifest::parse(text.as_bytes()) else {
                return true;
            };
            let choice = self.platform.choice(&children);
            choice.is_some_and(|choice| way.contains_key(choice))
        })
    }

    /// The text of an image's config, if the engine can read it too.
    pub fn config(&self, image: &ImageId) -> Option<String> {
        let is_read = self.listing.reads(&image.to_string().parse().ok()?);
        self.content.config(image).filter(|_| is_read)
    }

    /// The manifests in containerd that prove a digest to be of an image.
    pub fn proof(&self, digest: &Digest, image: &ImageId) -> Option<BTreeMap<Digest, String>> {
        self.content.proof(digest, image)
    }

    /// Whether a reference with a record of its own, other than `without`, leads to the
    /// image.
    pub fn has_another(&self, without: &BTreeSet<&Reference>, image: &ImageId) -> bool {
        let mut others = self
            .own
            .iter()
            .filter(|(other, _)| !without.contains(other));
        others.any(|(_, other)| other.image == *image)
    }

    /// The references with a record of their own that lead to the image of a digest,
    /// except those that are dropped with it. Each with its manifest or index.
    pub fn others<'a>(
        &'a self,
        pinned: &'a Reference,
        image: &'a ImageId,
    ) -> impl Iterator<Item = (&'a Reference, &'a Digest)> {
        let is_another = move |(other, own): &(&Reference, &Own)| {
            let goes_along =
                other.repository() == pinned.repository() && Some(&own.target) == pinned.digest();
            own.image == *image && !goes_along
        };
        let others = self.own.iter().filter(is_another);
        others.map(|(other, own)| (other, &own.target))
    }

    /// The references with a record of their own.
    pub fn known(&self) -> impl Iterator<Item = Reference> {
        self.own.keys().cloned()
    }

    /// Removes a reference that the engine no longer has.
    pub fn forget(&mut self, reference: &Reference) {
        self.store.remove(reference);
        self.own.remove(reference);
    }

    /// Whether the layers of a reference are missing: they are not here in the form that
    /// the registry serves, or the engine says that it does not have them. In the latter
    /// case, the files may belong to another client of containerd.
    pub fn is_hollow(&self, reference: &Reference) -> bool {
        self.hollow.contains(reference)
    }

    /// The references for which [`ContainerdStore::is_hollow`] is true.
    pub const fn hollow(&self) -> &BTreeSet<Reference> {
        &self.hollow
    }

    /// Images that no reference leads to, each with Docker's ID for it.
    pub fn nameless(&self) -> impl Iterator<Item = (&ImageId, &Digest)> {
        let named: BTreeSet<ImageId> = self.store.references().map(|(_, image)| image).collect();
        let nameless = self.nameless.iter();
        nameless.filter(move |(image, _)| !named.contains(image))
    }

    /// Whether the engine has references, but none of them could be read.
    pub fn nothing_was_read(&self) -> bool {
        self.own.is_empty() && !self.unread.is_empty()
    }

    /// References whose manifests cannot be found, or are of no image for this machine.
    pub const fn unread(&self) -> &BTreeSet<Reference> {
        &self.unread
    }
}

#[cfg(test)]
mod tests;
