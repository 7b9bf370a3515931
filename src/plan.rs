//! Plan: compares claims with the store, and decides which references must change, or why
//! digestfix must refuse a claim.
//!
//! The functions of this module do no I/O. A plan contains every change to the store. If
//! digestfix refuses a claim, it makes no plan, and the refusals list all reasons.

pub mod carried;
pub mod status;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::claims::claim::Claim;
use crate::claims::evidence::Evidence;
use crate::claims::trust::Trust;
use crate::image::digest::{Digest, ImageId};
use crate::image::reference::Reference;
use crate::store::containerd::ContainerdStore;
use crate::store::images::Images;
use crate::store::repositories::{Entry, Misfit, Store};

mod conflicts;
mod hints;
mod index;
mod refusal;
mod resolver;
mod reversal;

pub use hints::Hints;
pub use index::MissingManifest;
pub use refusal::{CONVERTED, Displaced, Refusal, Since, Whose};
pub use reversal::{Basis, Later, Reversal};

use conflicts::{
    Wanted, contradictions, moving_ground, one_digest_two_images, too_weak, two_digests,
};
use hints::Here;
use index::with_parts_here;
use resolver::Resolver;

#[derive(Debug, Clone, Default)]
pub struct Request {
    pub claims: Vec<Claim>,
    pub removals: Vec<Reference>,
    /// Keys in the reference store that the user wants to remove. The plan removes an
    /// entry with such a key if Docker ignores the entry.
    pub keys: Vec<Key>,
    /// Whether claims may replace conflicting references.
    pub replace: bool,
    /// Whether a claimed digest may be identical to the ID of an image on this host.
    pub allow_image_id_digest: bool,
    pub evidence: Evidence,
    /// The lowest level of trust in a claim that the user accepts. `None` accepts every
    /// level.
    pub require: Option<Trust>,
}

/// A key in the reference store, as the user typed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub text: String,
    /// The reason why the text is not a reference that can be removed. `None` if the text
    /// is a reference that can be removed.
    pub is_none: Option<String>,
}

impl Request {
    /// Returns the request with additional evidence: the manifests that containerd stores
    /// for the request's digests.
    pub(crate) fn with_manifests_of(&self, here: &ContainerdStore) -> Self {
        let claimed = self.claims.iter().filter_map(Claim::digest);
        let indexes = self.evidence.indexes();
        let parts = indexes.flat_map(|index| self.evidence.missing_parts(index));
        let digests = claimed.chain(parts.map(|part| &part.digest));
        self.with_manifests(digests.flat_map(|digest| here.manifests(digest)))
    }

    /// Returns the request with additional evidence: `found`, manifests from containerd's
    /// content store.
    pub(crate) fn with_manifests(&self, found: impl IntoIterator<Item = (Digest, String)>) -> Self {
        let mut request = self.clone();
        request
            .evidence
            .add_texts(found, "containerd's content store");
        request
    }
}

/// The planned state of the reference store, and how it differs from the present state.
#[derive(Debug, Clone)]
pub struct Plan {
    pub after: Store,
    /// The changed references, in the order of the store's file.
    pub changes: Vec<Change>,
    /// The changes to reference store entries that Docker ignores.
    pub entries: Vec<EntryChange>,
    /// The reference and image that each claim resolves to, in the order of the claims.
    pub targets: Vec<Target>,
    pub removals: Vec<Reference>,
    pub skipped: Vec<Skipped>,
    /// Images that the change leaves without any reference that Docker can parse. After
    /// the change, Docker shows these images as dangling, and the next
    /// `docker image prune` removes them.
    pub orphans: Vec<ImageId>,
    /// If digestfix found no image for a claim: images and names on this host that the
    /// claim may mean.
    pub hints: Hints,
    /// For each reference, the claim with the highest trust, as an index into `targets`.
    bases: BTreeMap<Reference, usize>,
}

/// A claim, resolved to one reference and one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub claim: String,
    pub reference: Reference,
    pub image: ImageId,
    /// Whether the reference already points at the image.
    pub holds: bool,
    pub trust: Trust,
    pub origin: String,
    pub typed: bool,
}

/// A skipped claim from a file, and the reason why this claim changes nothing on this
/// host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub claim: String,
    pub why: Why,
    /// Whether the claim is about an OCI manifest whose image is not on this host. In
    /// that case, a tool may have converted the manifest from Docker's format.
    pub strange_oci: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    #[error("its image is not on this host")]
    NotHere,
    /// The claim could mean any of several images.
    #[error("the claim could mean several images on this host: {}", .0.join(", "))]
    Several(Vec<String>),
    /// The image has no name on this host, so no repository can have its digest.
    #[error("image {0} has no name here; tag it, or give it a name with the claim NAME@DIGEST={0}")]
    Nameless(String),
    /// The claim contains an image ID where a digest must be.
    #[error(
        "its digest is {0}, which no registry serves. To see the right digest, on a host that pulled the \
         image: docker images --digests"
    )]
    ImageId(Whose),
    /// This host records an image ID in place of the image's digest. The claimed digest
    /// may be the right digest, but no evidence proves it.
    #[error(
        "this host records {0} for the image, but that digest is {1}, and no registry serves that. Next: run \
         the same command with --replace"
    )]
    BesideImageId(String, Whose),
    /// The claim (`NAME:TAG@DIGEST`) requires a tag that this host lacks. On this host,
    /// the user must set tags with Docker or containerd.
    #[error("digestfix does not set tags on this host; to set this tag: {command}")]
    SetByOthers {
        tag: Box<Reference>,
        /// A digest reference that the same request adds for the image.
        pin: Option<Box<Reference>>,
        command: String,
    },
    /// The claimed digest belongs to an index, but the manifest that links the index to
    /// an image on this host is missing.
    #[error("the digest belongs to an index, and {0}")]
    ManifestMissing(Box<MissingManifest>),
}

/// One reference that the plan adds, moves or removes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    pub reference: Reference,
    /// The image that the reference points at before the change. `None` if the reference
    /// is new.
    pub from: Option<String>,
    /// The image that the reference points at after the change. `None` if the change
    /// removes the reference.
    pub to: Option<ImageId>,
}

/// The change to a reference store entry that Docker ignores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryChange {
    pub repository: String,
    pub key: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

impl EntryChange {
    /// The present value of this entry in the given store.
    fn now<'a>(&self, store: &'a Store) -> Option<&'a str> {
        store.entry(&self.repository, &self.key)
    }

    fn set(&self, store: &mut Store, value: Option<&str>) {
        store.set_entry(&self.repository, &self.key, value.map(str::to_owned));
    }
}

impl Plan {
    /// Plans a request for this store. `images` contains every image whose config is in
    /// Docker's image store (`imagedb`).
    pub fn new(
        store: &Store,
        images: &dyn Images,
        request: &Request,
    ) -> Result<Self, Vec<Refusal>> {
        let informed = with_parts_here(store, request);
        let request = informed.as_ref().unwrap_or(request);
        let resolver = Resolver::new(store, images, request);
        let mut refusals = Vec::new();
        let mut targets: Vec<Target> = Vec::new();
        let mut routes = Vec::new();
        let mut skipped: Vec<Skipped> = Vec::new();
        let mut hints = Hints::default();
        let here = OnceCell::new();
        for claim in &request.claims {
            match resolver.targets(claim, request) {
                Ok(found) => {
                    for (target, route) in found.targets {
                        routes.push(route);
                        targets.push(target);
                    }
                    if found
                        .skipped
                        .as_ref()
                        .is_some_and(|one| one.why == Why::NotHere)
                    {
                        hints.see(claim, here.get_or_init(|| Here::of(store)));
                    }
                    skipped.extend(found.skipped);
                }
                Err(refusal) => refusals.push(refusal),
            }
        }
        if hints.example.is_some() {
            hints.nameless = resolver.nameless().to_vec();
        }
        // An image without a name is no problem if another claim of the request gives a
        // name to the image.
        let named: BTreeSet<String> = targets.iter().map(|one| one.image.to_string()).collect();
        skipped.retain(|one| !matches!(&one.why, Why::Nameless(image) if named.contains(image)));
        let strange_oci = skipped.iter().any(|skipped| skipped.strange_oci);
        refusals.extend(too_weak(&targets, request.require, strange_oci));
        let wanted = Wanted::new(&targets);
        refusals.extend(contradictions(&wanted, &request.removals));
        refusals.extend(two_digests(&targets, request));
        refusals.extend(one_digest_two_images(&targets, store, &request.removals));

        // The references to remove, each with the claim or option that requires it.
        let mut drops: BTreeMap<Reference, String> = request
            .removals
            .iter()
            .filter(|reference| store.get(reference).is_some())
            .map(|reference| (reference.clone(), format!("--remove {reference}")))
            .collect();
        for target in targets.iter().filter(|target| !target.holds) {
            for (reference, refusal) in resolver.in_the_way(target, &wanted, request) {
                if request.replace {
                    drops
                        .entry(reference)
                        .or_insert_with(|| target.claim.clone());
                } else {
                    refusals.push(refusal);
                }
            }
        }
        refusals.extend(moving_ground(&targets, &wanted, &routes, &drops));
        let entries = match passed_over(store, request) {
            Ok(entries) => entries,
            Err(more) => {
                refusals.extend(more);
                Vec::new()
            }
        };
        if !refusals.is_empty() {
            return Err(refusals);
        }
        let removals = &request.removals;
        let plan = Self::assemble(store, targets, skipped, removals, drops.keys(), entries);
        Ok(Self { hints, ..plan })
    }

    fn assemble<'a>(
        store: &Store,
        targets: Vec<Target>,
        skipped: Vec<Skipped>,
        removals: &[Reference],
        drops: impl Iterator<Item = &'a Reference>,
        entries: Vec<EntryChange>,
    ) -> Self {
        let mut after = store.clone();
        let mut changes: BTreeMap<Reference, Change> = BTreeMap::new();
        for reference in drops {
            let change = Change {
                reference: reference.clone(),
                from: after.remove(reference),
                to: None,
            };
            changes.insert(reference.clone(), change);
        }
        for target in &targets {
            if after.insert(&target.reference, &target.image) == Ok(true) {
                changes
                    .entry(target.reference.clone())
                    .or_insert_with(|| Change {
                        reference: target.reference.clone(),
                        from: None,
                        to: None,
                    })
                    .to = Some(target.image.clone());
            }
        }
        for entry in &entries {
            entry.set(&mut after, None);
        }
        let changes = changes.into_values();
        Self::of(after, changes, entries, targets, skipped, removals)
    }

    /// Builds a plan from the changes. `after` is the store that already contains the
    /// changes.
    fn of(
        after: Store,
        changes: impl Iterator<Item = Change>,
        entries: Vec<EntryChange>,
        targets: Vec<Target>,
        skipped: Vec<Skipped>,
        removals: &[Reference],
    ) -> Self {
        let mut changes: Vec<Change> = changes.collect();
        let left = changes.iter().map(|change| &change.from);
        let left = left.chain(entries.iter().map(|entry| &entry.from));
        let left = left.flatten().cloned();
        let orphans = orphans(&after, left.collect());
        // Sort the references by bytes, as in the store's file. The order of
        // [`Reference`] puts digests before tags, and sorts names by their registry.
        changes.sort_by_cached_key(|change| {
            let reference = &change.reference;
            (reference.repository().familiar(), reference.familiar())
        });
        let mut bases: BTreeMap<Reference, usize> = BTreeMap::new();
        for (at, target) in targets.iter().enumerate() {
            bases
                .entry(target.reference.clone())
                .and_modify(|best| {
                    if targets[*best].trust < target.trust {
                        *best = at;
                    }
                })
                .or_insert(at);
        }
        Self {
            after,
            changes,
            entries,
            targets,
            skipped,
            removals: removals.to_vec(),
            orphans,
            hints: Hints::default(),
            bases,
        }
    }

    /// Removes the tags that claims in files would add, because on this host the user
    /// must set tags with Docker or containerd. `command` returns the command that sets a
    /// tag.
    pub(crate) fn without_new_tags(
        self,
        command: impl Fn(&Reference, Option<&Reference>) -> String,
    ) -> Self {
        let typed: BTreeSet<&Reference> = self
            .targets
            .iter()
            .filter(|target| target.typed)
            .map(|target| &target.reference)
            .collect();
        let left: BTreeSet<Reference> = self
            .changes
            .iter()
            .filter(|change| change.from.is_none() && change.reference.digest().is_none())
            .map(|change| &change.reference)
            .filter(|reference| !typed.contains(reference))
            .cloned()
            .collect();
        if left.is_empty() {
            return self;
        }
        let Self {
            mut after,
            changes,
            entries,
            targets,
            mut skipped,
            removals,
            hints,
            ..
        } = self;
        let (tags, targets): (Vec<_>, Vec<_>) = targets
            .into_iter()
            .partition(|target| left.contains(&target.reference));
        for tagged in tags {
            after.remove(&tagged.reference);
            let tag = tagged.reference;
            let pin = targets.iter().find(|target| {
                target.image == tagged.image
                    && target.reference.digest().is_some()
                    && target.reference.repository() == tag.repository()
            });
            let pin = pin.map(|target| target.reference.clone());
            let command = command(&tag, pin.as_ref());
            let why = Why::SetByOthers {
                tag: Box::new(tag),
                pin: pin.map(Box::new),
                command,
            };
            skipped.push(Skipped {
                claim: tagged.claim,
                why,
                strange_oci: false,
            });
        }
        let changes = changes.into_iter();
        let changes = changes.filter(|change| !left.contains(&change.reference));
        let plan = Self::of(after, changes, entries, targets, skipped, &removals);
        Self { hints, ..plan }
    }

    /// A name that the image has before the change. `None` if the image has no name.
    pub fn name_of(&self, image: &ImageId) -> Option<Reference> {
        let is_new = |reference: &Reference| {
            let mut changes = self.changes.iter();
            changes.any(|change| change.reference == *reference)
        };
        let mut names = self.after.references();
        names
            .find(|(reference, of)| of == image && !is_new(reference))
            .map(|(reference, _)| reference)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of reference store entries that change, including entries that Docker
    /// ignores.
    pub fn len(&self) -> usize {
        self.changes.len() + self.entries.len()
    }

    /// Whether the request has no effect: digestfix skipped every claim, and the user
    /// requested no removal.
    pub fn is_unmet(&self) -> bool {
        let asks_for_more = !(self.removals.is_empty() && self.entries.is_empty());
        self.targets.is_empty() && !asks_for_more && !self.skipped.is_empty()
    }

    /// Whether a claim was skipped because this image has no name.
    pub fn lacks_name_of(&self, image: &ImageId) -> bool {
        let image = image.to_string();
        let mut skipped = self.skipped.iter();
        skipped.any(|one| matches!(&one.why, Why::Nameless(other) if *other == image))
    }

    /// Among the claims for this reference, the claim with the highest trust.
    pub fn basis(&self, reference: &Reference) -> Option<&Target> {
        self.targets.get(*self.bases.get(reference)?)
    }

    pub fn dropped(&self) -> impl Iterator<Item = &Reference> {
        let dropped = self.changes.iter().filter(|change| change.to.is_none());
        dropped.map(|change| &change.reference)
    }

    /// Undoes this plan's changes in a store. Keeps later changes that other programs
    /// made to the store.
    pub fn take_back(&self, store: &mut Store) {
        for change in &self.changes {
            let present = store.get(&change.reference).map(str::to_owned);
            let ours = change.to.as_ref().map(ToString::to_string);
            if present != ours {
                continue;
            }
            store.remove(&change.reference);
            if let Some(former) = &change.from {
                store.put_back(&change.reference, former);
            }
        }
        for entry in &self.entries {
            if entry.now(store) == entry.to.as_deref() {
                entry.set(store, entry.from.as_deref());
            }
        }
    }
}

/// Finds the entries that Docker ignores and that the user wants to remove.
fn passed_over(store: &Store, request: &Request) -> Result<Vec<EntryChange>, Vec<Refusal>> {
    let mut refusals = Vec::new();
    let mut found: Vec<EntryChange> = Vec::new();
    for Key { text, is_none } in &request.keys {
        let entries = store.entries();
        let entries = entries.filter(|entry| entry.key == *text && entry.is_passed_over());
        let entries: Vec<Entry> = entries.collect();
        match (entries.first(), is_none) {
            (None, Some(why)) => refusals.push(Refusal::NoSuchKey {
                key: text.clone(),
                why: why.clone(),
            }),
            (Some(entry), None)
                if Reference::parse(text).is_ok_and(|one| store.get(&one).is_some()) =>
            {
                refusals.push(Refusal::BesideReference {
                    key: text.clone(),
                    repository: entry.repository.to_owned(),
                });
            }
            _ => found.extend(entries.iter().map(|entry| EntryChange {
                repository: entry.repository.to_owned(),
                key: entry.key.to_owned(),
                from: Some(entry.value.to_owned()),
                to: None,
            })),
        }
    }
    found.dedup();
    match refusals.is_empty() {
        true => Ok(found),
        false => Err(refusals),
    }
}

/// The images without a reference that the engine can parse, in ascending order. The
/// engine ignores a reference that it cannot parse.
fn orphans(store: &Store, mut images: BTreeSet<String>) -> Vec<ImageId> {
    if !images.is_empty() {
        for entry in store.entries() {
            if images.contains(entry.value) && !matches!(entry.meaning(), Err(Misfit::Reference(_)))
            {
                images.remove(entry.value);
            }
        }
    }
    let ids = images.iter().filter_map(|image| image.parse().ok());
    ids.collect()
}

/// Whether the digest is the ID of an image on this host. In that case, someone confused
/// an image ID with a digest.
pub fn digest_is_image_id(digest: &Digest, images: &dyn Images) -> bool {
    digest
        .to_string()
        .parse()
        .is_ok_and(|image: ImageId| images.has(&image))
}

#[cfg(test)]
mod tests;
