//! The image store of a Kubernetes node: containerd's image records, as the CRI reads
//! them.
//!
//! A record is a name for a manifest or index. An import creates a new manifest, so a
//! record `NAME@DIGEST` may point at a manifest with another digest. For the CRI, and
//! therefore for the kubelet, only the name counts. The CRI reports which image a record
//! belongs to. The CRI's image IDs are digests of configs, as with Docker.

use std::collections::{BTreeMap, BTreeSet};

use crate::containerd::{AT_ONCE, ContainerdError, CriImage, Node, Record, Target};
use crate::image::digest::{Digest, ImageId};
use crate::image::manifest::{MAX_INDEX_DEPTH, Manifest};
use crate::image::reference::Reference;
use crate::store::repositories::Store;
use crate::sys::in_flight::all;

/// The label of records that the CRI manages. If a record does not have this label, the
/// CRI creates additional records (containerd 1.6 to 2.1, `cri/store/image`,
/// `imageLabelKey`).
pub const MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");

/// The label with the ID of the transaction that created a record.
pub const TRANSACTION: &str = "digestfix.transaction";

/// The label with the digest at which a record pointed when digestfix created the record.
pub const MADE_FOR: &str = "digestfix.target";

/// The maximum number of manifests to read at once. A node has a few hundred images, each
/// for about a dozen platforms.
const MOST_MANIFESTS: usize = 20_000;

/// The maximum size in bytes of all manifests in memory.
const MOST_BYTES: usize = 256 * 1024 * 1024;

/// The records of a node, and their images.
#[derive(Debug, Clone, Default)]
pub struct NodeStore {
    /// The references that the CRI knows, each with the ID of its image.
    pub store: Store,
    /// The images that the CRI has.
    pub images: BTreeSet<ImageId>,
    /// Every record, by its name.
    records: BTreeMap<String, Record>,
    /// For each image, the names of the records that point at it.
    leading: BTreeMap<ImageId, Vec<String>>,
    /// The digests that digestfix has looked up in the content store.
    looked_for: BTreeSet<Digest>,
    read: BTreeMap<Digest, (Manifest, String)>,
    bytes: usize,
}

/// The name of a record as a reference. `None` if the CRI does not find the record by
/// this name. For the CRI, a name needs a domain and namespace, and either a tag or a
/// digest.
fn reference(name: &str) -> Option<Reference> {
    let reference = Reference::parse(name).ok()?;
    let is_either = reference.tag().is_some() != reference.digest().is_some();
    let is_normal = reference.full() == name && reference.repository().is_found_by_familiar_name();
    (is_either && is_normal).then_some(reference)
}

/// Whether this transaction created the record, and the record still points at the same
/// digest.
pub fn is_made_by(record: &Record, id: &str) -> bool {
    maker(record) == Some(id)
}

/// The transaction that created the record, if the record still points at the same
/// digest. A pull by the same name changes the digest, but keeps the labels.
pub fn maker(record: &Record) -> Option<&str> {
    let target = record.labels.get(MADE_FOR)?;
    let id = record.labels.get(TRANSACTION)?;
    (*target == record.target.digest.to_string()).then_some(id)
}

const fn is_made_up(manifest: &Manifest) -> bool {
    matches!(manifest, Manifest::Image(own) if own.is_made_up())
}

impl NodeStore {
    /// Reads containerd's records and the CRI's images.
    pub async fn read(node: &impl Node) -> Result<Self, ContainerdError> {
        let records = node.records().await?;
        Ok(Self::of(records, node.cri_images().await?))
    }

    fn of(records: Vec<Record>, cri: Vec<CriImage>) -> Self {
        let mut read = Self {
            images: cri.iter().map(|image| image.id.clone()).collect(),
            ..Self::default()
        };
        let mut images: BTreeMap<String, ImageId> = BTreeMap::new();
        for image in cri {
            // For each image, the CRI keeps one more record, which has the image ID as
            // its name.
            images.insert(image.id.to_string(), image.id.clone());
            images.extend(image.names.into_iter().map(|name| (name, image.id.clone())));
        }
        let mut targets: BTreeMap<Digest, &ImageId> = BTreeMap::new();
        for record in &records {
            if let Some(image) = images.get(&record.name) {
                targets.insert(record.target.digest.clone(), image);
                if let Some(reference) = reference(&record.name) {
                    // `insert` succeeds, because record names are unique, and so are full
                    // references.
                    let _ = read.store.insert(&reference, image);
                }
            }
        }
        for record in records {
            if let Some(image) = targets.get(&record.target.digest) {
                let leading = read.leading.entry((*image).clone()).or_default();
                leading.push(record.name.clone());
            }
            read.records.insert(record.name.clone(), record);
        }
        read
    }

    /// Reads the manifests with these digests. For an index, also reads the manifests
    /// below the index that this node has.
    pub async fn learn(
        &mut self,
        node: &impl Node,
        digests: impl IntoIterator<Item = Digest>,
    ) -> Result<(), ContainerdError> {
        let mut wanted: Vec<Digest> = digests.into_iter().collect();
        let mut left = MOST_MANIFESTS;
        for _ in 0..=MAX_INDEX_DEPTH {
            wanted.retain(|digest| self.looked_for.insert(digest.clone()));
            let mut listed = Vec::new();
            // Read only a few manifests at a time, because digestfix can count their
            // bytes only after reading them into memory.
            for some in wanted.chunks(AT_ONCE) {
                let asked = some.iter().map(|digest| node.manifest(digest));
                for (digest, text) in some.iter().zip(all(asked, AT_ONCE).await?) {
                    let Some(text) = text else {
                        continue;
                    };
                    let Ok(manifest) = Manifest::parse(text.as_bytes()) else {
                        continue;
                    };
                    self.bytes = self.bytes.saturating_add(text.len());
                    if self.bytes > MOST_BYTES {
                        return Ok(());
                    }
                    if let Manifest::Index(children) = &manifest
                        && let Some(fewer) = left.checked_sub(children.len())
                    {
                        left = fewer;
                        listed.extend(children.iter().map(|child| child.digest.clone()));
                    }
                    self.read.insert(digest.clone(), (manifest, text));
                }
            }
            wanted = listed;
        }
        Ok(())
    }

    /// Like [`Self::learn`], for the digests in all digest references.
    pub async fn learn_all(&mut self, node: &impl Node) -> Result<(), ContainerdError> {
        let references = self.store.references();
        let digests = references.filter_map(|(reference, _)| reference.digest().cloned());
        let digests: Vec<Digest> = digests.collect();
        self.learn(node, digests).await
    }

    /// The manifests that were read, except those that no registry serves.
    pub fn manifests(&self) -> impl Iterator<Item = (Digest, String)> {
        let read = self.read.iter();
        let served = read.filter(|(_, (manifest, _))| !is_made_up(manifest));
        served.map(|(digest, (_, text))| (digest.clone(), text.clone()))
    }

    /// Whether an import or `docker save` seems to have created the manifest with this
    /// digest, so that no registry has it. `ctr images import --digests` records the
    /// digests of such manifests.
    pub fn is_made_up(&self, digest: &Digest) -> bool {
        let read = self.read.get(digest);
        read.is_some_and(|(manifest, _)| is_made_up(manifest))
    }

    /// The references, except generated digests. Includes a generated digest only if a
    /// claim names this digest.
    pub fn without_made_up(&self, is_asked_for: impl Fn(&Reference) -> bool) -> Store {
        let mut store = self.store.clone();
        for (reference, _) in self.store.references() {
            let is_made_up = reference.digest().is_some_and(|own| self.is_made_up(own));
            if is_made_up && !is_asked_for(&reference) {
                store.remove(&reference);
            }
        }
        store
    }

    /// The digest references that belong to a generated manifest, in Docker's familiar
    /// form.
    pub fn made_up(&self) -> BTreeSet<String> {
        let references = self.store.references().map(|(reference, _)| reference);
        let made_up = references.filter(|one| one.digest().is_some_and(|own| self.is_made_up(own)));
        made_up.map(|one| one.familiar()).collect()
    }

    /// The manifests that prove that an image has a digest. These are the image's own
    /// manifest, or an index and everything on the way down to the image: nested indexes
    /// and the image's own manifest. Considers only manifests that digestfix has already
    /// read.
    pub fn proof(&self, digest: &Digest, image: &ImageId) -> Option<BTreeMap<Digest, String>> {
        self.way(digest, image, 0, &mut BTreeSet::new())
    }

    fn way<'a>(
        &'a self,
        digest: &'a Digest,
        image: &ImageId,
        depth: usize,
        seen: &mut BTreeSet<&'a Digest>,
    ) -> Option<BTreeMap<Digest, String>> {
        if !seen.insert(digest) {
            return None;
        }
        let (manifest, text) = self.read.get(digest)?;
        let mut way = match manifest {
            Manifest::Image(own) if own.image == *image => BTreeMap::new(),
            Manifest::Index(children) if depth < MAX_INDEX_DEPTH => children
                .iter()
                .find_map(|child| self.way(&child.digest, image, depth + 1, seen))?,
            _ => return None,
        };
        way.insert(digest.clone(), text.clone());
        Some(way)
    }

    /// The images that have a digest, according to the manifests that digestfix has
    /// already read.
    pub fn proven(&self, digest: &Digest) -> BTreeSet<ImageId> {
        let (mut images, mut seen, mut wanted) = (BTreeSet::new(), BTreeSet::new(), vec![digest]);
        while let Some(digest) = wanted.pop() {
            if !seen.insert(digest) {
                continue;
            }
            match self.read.get(digest) {
                Some((Manifest::Image(own), _)) => drop(images.insert(own.image.clone())),
                Some((Manifest::Index(children), _)) => {
                    wanted.extend(children.iter().map(|child| &child.digest));
                }
                Some((Manifest::Artifact, _)) | None => {}
            }
        }
        images
    }

    /// The record with this name, even if the CRI does not know it.
    pub fn record(&self, reference: &Reference) -> Option<&Record> {
        self.records.get(&reference.full())
    }

    /// The target for a new record of an image. If a record of the image points at the
    /// manifest whose digest is in the reference, the target is this manifest. Otherwise,
    /// it is the target of another name of the image, preferably of a name in the same
    /// repository.
    pub fn target_for(&self, reference: &Reference, image: &ImageId) -> Option<&Target> {
        let repository = reference.repository();
        let leading = self.leading.get(image)?.iter();
        let rank = |record: &&Record| {
            let is_served = Some(&record.target.digest) == reference.digest();
            let own = Reference::parse(&record.name);
            let is_beside = own.is_ok_and(|own| own.repository() == repository);
            (!is_served, !is_beside)
        };
        let best = leading
            .filter_map(|name| self.records.get(name))
            .min_by_key(rank);
        best.map(|record| &record.target)
    }

    /// The name of another record with the same target. Ignores the records in `without`.
    pub fn another(&self, record: &Record, without: &BTreeSet<String>) -> Option<&str> {
        let mut others = self.records.values().filter(|other| {
            other.target.digest == record.target.digest && !without.contains(&other.name)
        });
        others
            .find(|other| other.name != record.name)
            .map(|other| other.name.as_str())
    }

    /// A tag in the repository of this reference. A pod may name its image by this tag
    /// together with the digest.
    pub fn tag_beside(&self, reference: &Reference) -> Option<String> {
        let repository = reference.repository().familiar();
        let mut entries = self.store.entries_of(&repository);
        let tag = entries.find_map(|entry| entry.meaning().ok()?.0.tag().cloned())?;
        Some(tag.as_str().to_owned())
    }

    /// Images that no reference points at.
    pub fn nameless(&self) -> impl Iterator<Item = &ImageId> {
        let named: BTreeSet<ImageId> = self.store.references().map(|(_, image)| image).collect();
        self.images
            .iter()
            .filter(move |image| !named.contains(image))
    }
}

#[cfg(test)]
mod tests;
