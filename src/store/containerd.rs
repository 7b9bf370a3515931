//! The containerd image store as digestfix sees it: the references that the
//! engine has, each with the image that it leads to.
//!
//! The engine knows an image by the digest of its manifest or index, and has
//! another manifest for an image that was loaded than the registry has. What
//! tells that both are the same image is the config, whose digest is the image's
//! ID on Docker's own store and in claims; it is read from containerd's content
//! store.

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
    /// The references, each with its image's ID.
    pub store: Store,
    /// The images that are here.
    pub images: BTreeSet<ImageId>,
    content: ContentStore,
    platform: Platform,
    /// The references that stand by themselves. A digest that the engine finds by a tag
    /// beside it does not.
    own: BTreeMap<Reference, Own>,
    known: BTreeMap<Digest, Option<Found>>,
    listing: Listing,
    /// What the engine found by the references that it was asked for by name.
    asked: BTreeMap<Reference, Option<Listed>>,
    made_up: BTreeMap<Reference, ImageId>,
    hollow: BTreeSet<Reference>,
    nameless: BTreeMap<ImageId, Digest>,
    unread: BTreeSet<Reference>,
    /// What was read of manifests.
    layers: RefCell<BTreeMap<Digest, BTreeSet<Digest>>>,
}

/// What a reference that stands by itself leads to.
#[derive(Debug, Clone)]
struct Own {
    image: ImageId,
    target: Digest,
}

/// What the content store has for a manifest or index.
#[derive(Debug, Clone)]
struct Found {
    image: ImageId,
    /// The image's own manifest.
    manifest: Digest,
    /// An engine made that manifest up.
    made_up: bool,
    /// Layers that it names are not here as it names them.
    lacks_layers: bool,
}

impl ContainerdStore {
    /// Reads what the engine lists.
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

    /// Looks for references that the engine may have and not list, each once.
    /// Says whether there was any to look for.
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

    /// The image that the engine finds by a reference. It is asked for that only
    /// where the list does not say.
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

    /// An image that no reference leads to can be given one, and then a digest.
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
        // Nobody ever pulled by such a digest, as far as can be told.
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

    /// The engine finds the digest by a tag, and its manifest looks made up by
    /// `docker save`; so it is not counted for a reference.
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
            // An attestation of BuildKit's is of no platform.
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

    /// The engine's platform runs the image.
    pub fn runs(&self, image: &ImageId) -> bool {
        let platform = self.platform(image);
        platform.is_some_and(|platform| self.platform.rank(&platform).is_some())
    }

    /// Of each index on this way, the engine takes the manifest that is on it too.
    pub fn takes(&self, way: &BTreeMap<Digest, String>) -> bool {
        way.values().all(|text| {
            let Ok(Manifest::Index(children)) = Manifest::parse(text.as_bytes()) else {
                return true;
            };
            let choice = self.platform.choice(&children);
            choice.is_some_and(|choice| way.contains_key(choice))
        })
    }

    /// The text of an image's config, which the engine can read too.
    pub fn config(&self, image: &ImageId) -> Option<String> {
        let is_read = self.listing.reads(&image.to_string().parse().ok()?);
        self.content.config(image).filter(|_| is_read)
    }

    /// The manifests that prove a digest to be of an image, where containerd has
    /// them.
    pub fn proof(&self, digest: &Digest, image: &ImageId) -> Option<BTreeMap<Digest, String>> {
        self.content.proof(digest, image)
    }

    /// Without these references, another one leads to the image, and stands by
    /// itself.
    pub fn has_another(&self, without: &BTreeSet<&Reference>, image: &ImageId) -> bool {
        let mut others = self
            .own
            .iter()
            .filter(|(other, _)| !without.contains(other));
        others.any(|(_, other)| other.image == *image)
    }

    /// The references that stand by themselves and lead to the image of a digest, without
    /// those that are dropped along with it. Each with its manifest or index.
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

    /// The references that stand by themselves.
    pub fn known(&self) -> impl Iterator<Item = Reference> {
        self.own.keys().cloned()
    }

    /// A reference is gone by now.
    pub fn forget(&mut self, reference: &Reference) {
        self.store.remove(reference);
        self.own.remove(reference);
    }

    /// The layers of a reference are not here as the registry serves them, or the
    /// engine says that it does not have them: the files may be another's.
    pub fn is_hollow(&self, reference: &Reference) -> bool {
        self.hollow.contains(reference)
    }

    /// The references that [`ContainerdStore::is_hollow`] says so of.
    pub const fn hollow(&self) -> &BTreeSet<Reference> {
        &self.hollow
    }

    /// Images that no reference leads to, each with what Docker calls it.
    pub fn nameless(&self) -> impl Iterator<Item = (&ImageId, &Digest)> {
        let named: BTreeSet<ImageId> = self.store.references().map(|(_, image)| image).collect();
        let nameless = self.nameless.iter();
        nameless.filter(move |(image, _)| !named.contains(image))
    }

    /// The engine has references, and not one of them could be read.
    pub fn nothing_was_read(&self) -> bool {
        self.own.is_empty() && !self.unread.is_empty()
    }

    /// References whose manifests are not to be found, or are of no image for
    /// this machine.
    pub const fn unread(&self) -> &BTreeSet<Reference> {
        &self.unread
    }
}

#[cfg(test)]
mod tests;
