//! The containerd image store of Docker: the engine's references, each with its image.
//!
//! In this store, the engine's ID for an image is the digest of the image's manifest or
//! index. If an image was loaded from an archive, its manifest does not come from the
//! registry. So digestfix identifies all images by their configs: the digest of the
//! config is the image's ID in Docker's classic store and in claims. Configs are in
//! containerd's content store.

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
    /// The images in the store.
    pub images: BTreeSet<ImageId>,
    content: ContentStore,
    platform: Platform,
    /// The references that have their own record in containerd. Leaves out a digest that
    /// has no record of its own, and that the engine finds through the record of a tag.
    own: BTreeMap<Reference, Own>,
    known: BTreeMap<Digest, Option<Found>>,
    listing: Listing,
    /// The engine's answers about the references that digestfix looked up by name.
    asked: BTreeMap<Reference, Option<Listed>>,
    made_up: BTreeMap<Reference, ImageId>,
    hollow: BTreeSet<Reference>,
    nameless: BTreeMap<ImageId, Digest>,
    unread: BTreeSet<Reference>,
    /// Cache: the layers that each manifest or index names.
    layers: RefCell<BTreeMap<Digest, BTreeSet<Digest>>>,
}

/// For a reference that has its own record in containerd: the image, and the manifest or
/// index that the record points at.
#[derive(Debug, Clone)]
struct Own {
    image: ImageId,
    target: Digest,
}

/// The image of a manifest or index, according to the content store.
#[derive(Debug, Clone)]
struct Found {
    image: ImageId,
    /// The digest of the image's own manifest, even if the engine found the image through
    /// an index.
    manifest: Digest,
    /// Whether an engine created the manifest, so that no registry serves it.
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

    /// Asks the engine about digest references that the engine's list may omit, once for
    /// each reference. Returns whether it asked the engine at all.
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

    /// The image that the engine finds by a reference. If the list of images does not
    /// show which image the reference points at, digestfix asks the engine.
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

    /// Adds an image that has no reference, because a claim can give this image a name
    /// and a digest.
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
        // Do not count this digest as a reference: nothing shows that the image was ever
        // pulled by this digest.
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

    /// Whether the digest is a generated one: the engine finds the digest by a tag, and
    /// `docker save` seems to have created its manifest. Such a digest does not count as
    /// a reference.
    pub fn is_made_up(&self, reference: &Reference) -> bool {
        self.made_up.contains_key(reference)
    }

    /// Counts a digest as a reference, although an engine seems to have generated its
    /// manifest. For callers that know that a registry serves this manifest.
    pub fn accept(&mut self, reference: &Reference) {
        if let Some(image) = self.made_up.remove(reference) {
            // `insert` succeeds, because the reference is not in the store yet.
            let _ = self.store.insert(reference, &image);
        }
    }

    /// The manifest or index with this digest. For an index, also the manifests below the
    /// index that the content store contains. Leaves out manifests that an engine seems
    /// to have generated.
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

    /// The image that the engine runs for a manifest or index. If the index has several
    /// images, this is the image for the engine's platform.
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
            // `unknown` is the platform of BuildKit's attestations.
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

    /// Whether the image can run on the engine's platform.
    pub fn runs(&self, image: &ImageId) -> bool {
        let platform = self.platform(image);
        platform.is_some_and(|platform| self.platform.rank(&platform).is_some())
    }

    /// Whether the engine would choose the manifests in `way`. From each index in `way`,
    /// the engine must choose a manifest that is also in `way`.
    pub fn takes(&self, way: &BTreeMap<Digest, String>) -> bool {
        way.values().all(|text| {
            let Ok(Manifest::Index(children)) = Manifest::parse(text.as_bytes()) else {
                return true;
            };
            let choice = self.platform.choice(&children);
            choice.is_some_and(|choice| way.contains_key(choice))
        })
    }

    /// The text of an image's config. `None` if the engine cannot read the config.
    pub fn config(&self, image: &ImageId) -> Option<String> {
        let is_read = self.listing.reads(&image.to_string().parse().ok()?);
        self.content.config(image).filter(|_| is_read)
    }

    /// The manifests in containerd that prove that an image has a digest.
    pub fn proof(&self, digest: &Digest, image: &ImageId) -> Option<BTreeMap<Digest, String>> {
        self.content.proof(digest, image)
    }

    /// Whether a reference with its own record in containerd points at this image.
    /// Ignores the references in `without`.
    pub fn has_another(&self, without: &BTreeSet<&Reference>, image: &ImageId) -> bool {
        let mut others = self
            .own
            .iter()
            .filter(|(other, _)| !without.contains(other));
        others.any(|(_, other)| other.image == *image)
    }

    /// The references with their own record in containerd that point at `image`, each
    /// with its manifest or index. Leaves out the references that Docker drops together
    /// with the reference `pinned`.
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

    /// The references that have their own record in containerd.
    pub fn known(&self) -> impl Iterator<Item = Reference> {
        self.own.keys().cloned()
    }

    /// Removes a reference that the engine no longer has.
    pub fn forget(&mut self, reference: &Reference) {
        self.store.remove(reference);
        self.own.remove(reference);
    }

    /// Whether layers of a reference are missing. Layers are missing if the content store
    /// does not contain their blobs, or if the engine reports them as missing. Both
    /// checks are needed, because blobs in the content store may belong to another client
    /// of containerd.
    pub fn is_hollow(&self, reference: &Reference) -> bool {
        self.hollow.contains(reference)
    }

    /// The references for which [`ContainerdStore::is_hollow`] is true.
    pub const fn hollow(&self) -> &BTreeSet<Reference> {
        &self.hollow
    }

    /// The images that no reference points at, each with the ID that Docker shows for the
    /// image.
    pub fn nameless(&self) -> impl Iterator<Item = (&ImageId, &Digest)> {
        let named: BTreeSet<ImageId> = self.store.references().map(|(_, image)| image).collect();
        let nameless = self.nameless.iter();
        nameless.filter(move |(image, _)| !named.contains(image))
    }

    /// Whether the engine has references, but digestfix could not read the image of any
    /// of them.
    pub fn nothing_was_read(&self) -> bool {
        self.own.is_empty() && !self.unread.is_empty()
    }

    /// References whose manifest cannot be found, or whose index has no image for the
    /// engine's platform.
    pub const fn unread(&self) -> &BTreeSet<Reference> {
        &self.unread
    }
}

#[cfg(test)]
mod tests;
