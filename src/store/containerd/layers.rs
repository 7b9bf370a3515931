//! Layers: which layers the content store contains, and which references need them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::image::digest::{Digest, ImageId};
use crate::image::manifest::Manifest;
use crate::image::reference::Reference;
use crate::store::containerd::ContainerdStore;
use crate::sys::strict_json;

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

fn layers(manifest: &str) -> Option<impl Iterator<Item = Digest>> {
    let found: Layers = strict_json::read(manifest.as_bytes()).ok()?;
    Some(found.layers.into_iter().map(|layer| layer.digest))
}

impl ContainerdStore {
    /// Whether the content store contains all layer blobs of an image. The image's own
    /// manifests in `manifests` name these blobs. The check looks only for files, which
    /// may belong to another client of containerd. Without these blobs, an unpacked image
    /// still runs, but Docker can neither save nor push it.
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
            !is_its_own || self.has_all_layers(text.as_ref())
        })
    }

    /// Whether the content store contains the layers that one manifest names.
    pub(super) fn has_all_layers(&self, manifest: &str) -> bool {
        let is_here = |layer| self.listing.reads(&layer) && self.content.has(&layer);
        layers(manifest).is_some_and(|mut layers| layers.all(is_here))
    }

    /// Whether the content store contains any layer that the manifests of this digest
    /// name.
    pub fn holds_layers(&self, digest: &Digest) -> bool {
        let named = self.named_by(digest);
        named.iter().any(|layer| self.content.has(layer))
    }

    /// Whether layers of this digest disappear from the content store if the references
    /// in `without` are dropped. A layer disappears if no other reference with its own
    /// record has a manifest that names the layer. Loading manifests would not restore
    /// such a layer.
    pub fn loses_layers(&self, digest: &Digest, without: &BTreeSet<&Reference>) -> bool {
        let mut held = self.named_by(digest);
        held.retain(|layer| self.content.has(layer));
        let others = self.own.iter();
        let others = others.filter(|(other, _)| !without.contains(other));
        let targets: BTreeSet<&Digest> = others.map(|(_, own)| &own.target).collect();
        for target in targets {
            if held.is_empty() {
                break;
            }
            for layer in self.named_by(target) {
                held.remove(&layer);
            }
        }
        !held.is_empty()
    }

    /// Every layer that a manifest names. For an index, every layer that a manifest below
    /// the index names, if the content store contains this manifest.
    fn named_by(&self, target: &Digest) -> BTreeSet<Digest> {
        let mut cache = self.layers.borrow_mut();
        let named = cache.entry(target.clone()).or_insert_with(|| {
            let manifests = self.content.manifests(target);
            let texts = manifests.values();
            texts.filter_map(|text| layers(text)).flatten().collect()
        });
        named.clone()
    }
}
