//! Claims against the store: what would have to change, or why not.
//!
//! Pure data in, pure data out. A plan is either complete or there is none:
//! when any claim cannot be met, all the reasons are given together.

use std::collections::{BTreeMap, BTreeSet};

use crate::claim::{Claim, ImageName, Statement};
use crate::digest::{Digest, ImageId};
use crate::reference::{Reference, Repository};
use crate::store::{Misfit, Store};

/// What somebody asks for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// What should be true.
    pub claims: Vec<Claim>,
    /// References to drop.
    pub removals: Vec<Reference>,
    /// Claims may displace what stands in their way.
    pub replace: bool,
    /// A digest may be the ID of an image that is here.
    pub allow_image_id_digest: bool,
}

/// A store, the store it should become, and the difference.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The store after the change.
    pub after: Store,
    /// The difference, in the order of the file.
    pub changes: Vec<Change>,
    /// What each claim came down to, in the order of the claims.
    pub targets: Vec<Target>,
    /// The references asked to be dropped.
    pub removals: Vec<Reference>,
    /// Images that would be left with no reference that the engine counts:
    /// dangling, and removed by the next `docker image prune`.
    pub orphans: Vec<ImageId>,
}

/// A claim, resolved to one reference and one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The claim as it was given.
    pub claim: String,
    /// The reference that it wants.
    pub reference: Reference,
    /// The image that the reference should point at.
    pub image: ImageId,
    /// It is so already.
    pub holds: bool,
}

/// One line of the difference between two stores.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The reference that changes.
    pub reference: Reference,
    /// What it points at now; none when it is new.
    pub from: Option<String>,
    /// What it will point at; none when it is dropped.
    pub to: Option<ImageId>,
}

/// Why a request cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The claim's way to its image leads nowhere.
    #[error("{claim}: there is no reference {reference} here{}", known(.others))]
    NoSuchReference {
        /// The claim.
        claim: String,
        /// What it looked for.
        reference: String,
        /// What the same repository has.
        others: Vec<String>,
    },
    /// `NAME@DIGEST` for a repository that has no image.
    #[error("{claim}: there is no image in repository {repository} here")]
    EmptyRepository {
        /// The claim.
        claim: String,
        /// The repository.
        repository: String,
    },
    /// `NAME@DIGEST` for a repository that has several images.
    #[error(
        "{claim}: repository {repository} has several images; say which by its tag \
         (NAME:TAG@DIGEST) or by its ID (NAME@DIGEST=IMAGE):{}", listed(.images)
    )]
    SeveralImages {
        /// The claim.
        claim: String,
        /// The repository.
        repository: String,
        /// Each image with its references.
        images: Vec<String>,
    },
    /// No image has such an ID.
    #[error("{claim}: no image here has an ID that begins with {prefix}")]
    NoSuchImage {
        /// The claim.
        claim: String,
        /// What was given.
        prefix: String,
    },
    /// More than one image has such an ID, or it is a reference as well.
    #[error("{claim}: {name} can mean more than one image; write more of its ID:{}", listed(.images))]
    AmbiguousImage {
        /// The claim.
        claim: String,
        /// What was given.
        name: String,
        /// What it can mean.
        images: Vec<String>,
    },
    /// The store names an image whose config the image store does not have.
    #[error(
        "{claim}: image {image} is not on this host (no config of that ID in the image store); \
         load it first"
    )]
    ImageMissing {
        /// The claim.
        claim: String,
        /// The image's ID.
        image: String,
    },
    /// The common mistake: an image ID typed where a digest belongs.
    #[error(
        "{claim}: {digest} is the ID of an image on this host, not a registry's digest. A digest \
         is the hash of the manifest that a registry serves; `docker images --digests` shows it \
         on a host that pulled the image. (--allow-image-id-digest writes it all the same.)"
    )]
    DigestIsImageId {
        /// The claim.
        claim: String,
        /// The digest.
        digest: String,
    },
    /// The reference points at another image.
    #[error(
        "{claim}: {reference} points at another image, {present}, not at {wanted} \
         (--replace moves it)"
    )]
    PointsElsewhere {
        /// The claim.
        claim: String,
        /// The reference.
        reference: String,
        /// What it points at.
        present: String,
        /// What the claim wants.
        wanted: String,
    },
    /// The image has another digest in the same repository.
    #[error("{claim}: the image has another digest there, {present} (--replace drops that one)")]
    OtherDigest {
        /// The claim.
        claim: String,
        /// The reference that it has.
        present: String,
    },
    /// Two claims about one reference.
    #[error("{first} and {second} contradict each other about {reference}")]
    Contradiction {
        /// A claim.
        first: String,
        /// Another.
        second: String,
        /// What both are about.
        reference: String,
    },
    /// A claim finds its image by a reference that moves in the same request.
    #[error(
        "{claim} finds its image by {reference}, which {mover} changes at the same time; \
         name the image by its ID"
    )]
    MovingGround {
        /// The claim.
        claim: String,
        /// The reference that it goes by.
        reference: String,
        /// What moves it.
        mover: String,
    },
}

fn known(others: &[String]) -> String {
    if others.is_empty() {
        String::new()
    } else {
        format!("; the repository has:{}", listed(others))
    }
}

fn listed(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n    {line}")).collect()
}

impl Plan {
    /// Works out what a request comes down to on this store. `images` are the
    /// IDs that the image store (`imagedb`) has a config of.
    ///
    /// # Errors
    /// Every reason against it, when there is one.
    pub fn new(
        store: &Store,
        images: &BTreeSet<ImageId>,
        request: &Request,
    ) -> Result<Self, Vec<Refusal>> {
        let resolver = Resolver::new(store, images);
        let mut refusals = Vec::new();
        let mut targets: Vec<Target> = Vec::new();
        let mut routes = Vec::new();
        for claim in &request.claims {
            match resolver.target(claim, request.allow_image_id_digest) {
                Ok((target, route)) => {
                    routes.push(route);
                    targets.push(target);
                }
                Err(refusal) => refusals.push(refusal),
            }
        }
        refusals.extend(contradictions(&targets, &request.removals));

        // Each reference that goes, with what asks for it to go.
        let mut drops: BTreeMap<Reference, String> = request
            .removals
            .iter()
            .filter(|reference| store.get(reference).is_some())
            .map(|reference| (reference.clone(), format!("--remove {reference}")))
            .collect();
        for target in targets.iter().filter(|target| !target.holds) {
            for (reference, refusal) in resolver.in_the_way(target, &targets, &request.removals) {
                if request.replace {
                    drops
                        .entry(reference)
                        .or_insert_with(|| target.claim.clone());
                } else {
                    refusals.push(refusal);
                }
            }
        }
        refusals.extend(moving_ground(store, &targets, &routes, &drops));
        if !refusals.is_empty() {
            return Err(refusals);
        }
        Ok(Self::assemble(
            store,
            targets,
            &request.removals,
            drops.keys(),
        ))
    }

    fn assemble<'a>(
        store: &Store,
        targets: Vec<Target>,
        removals: &[Reference],
        drops: impl Iterator<Item = &'a Reference>,
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
        // What the engine cannot parse, it does not count for the image.
        let kept: BTreeSet<String> = after
            .entries()
            .filter(|entry| !matches!(entry.meaning, Err(Misfit::Reference(_))))
            .map(|entry| entry.value.to_owned())
            .collect();
        let orphans: BTreeSet<ImageId> = changes
            .values()
            .filter_map(|change| change.from.as_ref())
            .filter(|image| !kept.contains(*image))
            .filter_map(|image| image.parse().ok())
            .collect();
        // As bytes, like the file: a reference's own order puts digests before
        // tags, and names by their registry.
        let mut changes: Vec<Change> = changes.into_values().collect();
        changes.sort_by_cached_key(|change| {
            let reference = &change.reference;
            (reference.repository().familiar(), reference.familiar())
        });
        Self {
            after,
            changes,
            targets,
            removals: removals.to_vec(),
            orphans: orphans.into_iter().collect(),
        }
    }

    /// Nothing has to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Takes this plan's changes back on a store that others may have changed
    /// since: what they did stays.
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
    }
}

/// What led a claim to its image.
enum Route {
    /// The image's own ID, or that the claim holds already.
    Id,
    /// A reference that the claim names.
    Named(Reference),
    /// Being the only image of a repository: all its references.
    OnlyImage(Vec<Reference>),
}

struct Resolver<'a> {
    store: &'a Store,
    images: &'a BTreeSet<ImageId>,
    references: Vec<(Reference, ImageId)>,
}

impl<'a> Resolver<'a> {
    fn new(store: &'a Store, images: &'a BTreeSet<ImageId>) -> Self {
        Self {
            store,
            images,
            references: store.references().collect(),
        }
    }

    /// The claim's target, and what led to its image.
    fn target(
        &self,
        claim: &Claim,
        allow_image_id_digest: bool,
    ) -> Result<(Target, Route), Refusal> {
        let (reference, image, route) = match &claim.statement {
            Statement::TaggedHasDigest {
                repository,
                tag,
                digest,
            } => {
                let tagged = repository.clone().with_tag(tag.clone());
                let image = self.pointed_at(claim, &tagged)?;
                let reference = repository.clone().with_digest(digest.clone());
                (reference, image, Route::Named(tagged))
            }
            Statement::OnlyImageHasDigest { repository, digest } => {
                let reference = repository.clone().with_digest(digest.clone());
                let (image, route) = self.only_image(claim, repository, &reference)?;
                (reference, image, route)
            }
            Statement::PointsAt { reference, image } => {
                let (image, route) = self.image(claim, image)?;
                (reference.clone(), image, route)
            }
        };
        if let Some(digest) = reference.digest()
            && !allow_image_id_digest
            && self.is_image_id(digest)
        {
            return Err(Refusal::DigestIsImageId {
                claim: claim.to_string(),
                digest: digest.to_string(),
            });
        }
        if !self.images.contains(&image) {
            return Err(Refusal::ImageMissing {
                claim: claim.to_string(),
                image: image.to_string(),
            });
        }
        let holds = self.store.get(&reference) == Some(image.to_string().as_str());
        let target = Target {
            claim: claim.to_string(),
            reference,
            image,
            holds,
        };
        Ok((target, route))
    }

    fn is_image_id(&self, digest: &Digest) -> bool {
        digest_is_image_id(digest, self.images)
            || self
                .store
                .entries()
                .any(|entry| entry.value == digest.to_string())
    }

    fn pointed_at(&self, claim: &Claim, reference: &Reference) -> Result<ImageId, Refusal> {
        self.find(reference)
            .ok_or_else(|| Refusal::NoSuchReference {
                claim: claim.to_string(),
                reference: reference.familiar(),
                others: self
                    .references
                    .iter()
                    .filter(|(other, _)| other.repository() == reference.repository())
                    .map(|(other, _)| other.familiar())
                    .collect(),
            })
    }

    fn find(&self, reference: &Reference) -> Option<ImageId> {
        self.references
            .iter()
            .find(|(other, _)| other == reference)
            .map(|(_, image)| image.clone())
    }

    fn only_image(
        &self,
        claim: &Claim,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<(ImageId, Route), Refusal> {
        if let Some(image) = self.find(reference) {
            return Ok((image, Route::Id));
        }
        let mut images: BTreeMap<&ImageId, Vec<&Reference>> = BTreeMap::new();
        for (other, image) in &self.references {
            if other.repository() == repository {
                images.entry(image).or_default().push(other);
            }
        }
        let mut each = images.iter();
        match (each.next(), each.next()) {
            (Some((only, references)), None) => {
                let references = references.iter().copied().cloned().collect();
                Ok(((*only).clone(), Route::OnlyImage(references)))
            }
            (None, _) => Err(Refusal::EmptyRepository {
                claim: claim.to_string(),
                repository: repository.familiar(),
            }),
            (Some(_), Some(_)) => Err(Refusal::SeveralImages {
                claim: claim.to_string(),
                repository: repository.familiar(),
                images: images
                    .iter()
                    .map(|(image, references)| {
                        let references: Vec<String> =
                            references.iter().map(|other| other.familiar()).collect();
                        format!("{image}  {}", references.join("  "))
                    })
                    .collect(),
            }),
        }
    }

    fn image(&self, claim: &Claim, name: &ImageName) -> Result<(ImageId, Route), Refusal> {
        match name {
            ImageName::Id(image) => Ok((image.clone(), Route::Id)),
            ImageName::Prefix(prefix) => Ok((self.by_prefix(claim, prefix)?, Route::Id)),
            ImageName::Reference(reference) => Ok((
                self.pointed_at(claim, reference)?,
                Route::Named(reference.clone()),
            )),
            // Even where the prefix decides: the reference, once it appears,
            // would give the same words another meaning.
            ImageName::ReferenceOrPrefix(reference, prefix) => Ok((
                self.by_reference_or_prefix(claim, reference, prefix)?,
                Route::Named(reference.clone()),
            )),
        }
    }

    fn by_reference_or_prefix(
        &self,
        claim: &Claim,
        reference: &Reference,
        prefix: &str,
    ) -> Result<ImageId, Refusal> {
        let by_prefix = self.by_prefix(claim, prefix);
        let Some(image) = self.find(reference) else {
            return by_prefix;
        };
        let others = match by_prefix {
            Err(Refusal::NoSuchImage { .. }) => return Ok(image),
            Ok(same) if same == image => return Ok(image),
            Ok(other) => vec![other.to_string()],
            Err(Refusal::AmbiguousImage { images, .. }) => images,
            Err(refusal) => return Err(refusal),
        };
        let mut images = vec![format!("{image}  {}", reference.familiar())];
        images.extend(others);
        Err(Refusal::AmbiguousImage {
            claim: claim.to_string(),
            name: prefix.to_owned(),
            images,
        })
    }

    fn by_prefix(&self, claim: &Claim, prefix: &str) -> Result<ImageId, Refusal> {
        let mut found = self
            .images
            .iter()
            .filter(|image| image.hex().starts_with(prefix));
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only.clone()),
            (None, _) => Err(Refusal::NoSuchImage {
                claim: claim.to_string(),
                prefix: prefix.to_owned(),
            }),
            (Some(first), Some(second)) => Err(Refusal::AmbiguousImage {
                claim: claim.to_string(),
                name: prefix.to_owned(),
                images: [first, second]
                    .into_iter()
                    .chain(found)
                    .map(ToString::to_string)
                    .collect(),
            }),
        }
    }

    /// The references that have to go before the target can stand, each with
    /// what to say when they may not.
    fn in_the_way(
        &self,
        target: &Target,
        targets: &[Target],
        removals: &[Reference],
    ) -> Vec<(Reference, Refusal)> {
        let mut found = Vec::new();
        if let Some(present) = self.store.get(&target.reference) {
            found.push((
                target.reference.clone(),
                Refusal::PointsElsewhere {
                    claim: target.claim.clone(),
                    reference: target.reference.familiar(),
                    present: present.to_owned(),
                    wanted: target.image.to_string(),
                },
            ));
        }
        if target.reference.digest().is_some() {
            let others = self.references.iter().filter(|(other, image)| {
                other.repository() == target.reference.repository()
                    && other.digest().is_some()
                    && *other != target.reference
                    && *image == target.image
                    && !removals.contains(other)
                    && !targets.iter().any(|wanted| wanted.reference == *other)
            });
            found.extend(others.map(|(other, _)| {
                (
                    other.clone(),
                    Refusal::OtherDigest {
                        claim: target.claim.clone(),
                        present: other.familiar(),
                    },
                )
            }));
        }
        found
    }
}

/// The digest's bytes are those of an image's ID: somebody mixed the two up.
#[must_use]
pub fn digest_is_image_id(digest: &Digest, images: &BTreeSet<ImageId>) -> bool {
    digest
        .to_string()
        .parse()
        .is_ok_and(|image: ImageId| images.contains(&image))
}

fn contradictions(targets: &[Target], removals: &[Reference]) -> Vec<Refusal> {
    let mut found = Vec::new();
    for (index, first) in targets.iter().enumerate() {
        let second = targets[index + 1..]
            .iter()
            .filter(|other| other.reference == first.reference && other.image != first.image)
            .map(|other| other.claim.clone());
        let removal = removals
            .iter()
            .filter(|removal| **removal == first.reference)
            .map(|removal| format!("--remove {removal}"));
        found.extend(second.chain(removal).map(|second| Refusal::Contradiction {
            first: first.claim.clone(),
            second,
            reference: first.reference.familiar(),
        }));
    }
    found
}

/// A claim must mean the same before and after the change. One that names a
/// reference is undone by anything that moves or drops it; one that goes by
/// the only image of a repository holds as soon as its digest is there, and is
/// in doubt only when another claim sends a reference of that image elsewhere.
fn moving_ground(
    store: &Store,
    targets: &[Target],
    routes: &[Route],
    drops: &BTreeMap<Reference, String>,
) -> Vec<Refusal> {
    let mut found = Vec::new();
    for (target, route) in targets.iter().zip(routes) {
        let (references, dropped) = match route {
            Route::Id => continue,
            Route::Named(reference) => (std::slice::from_ref(reference), drops.get(reference)),
            Route::OnlyImage(references) => (references.as_slice(), None),
        };
        for reference in references {
            let present = store.get(reference);
            let movers: Vec<&String> = targets
                .iter()
                .filter(|other| {
                    other.reference == *reference
                        && present != Some(other.image.to_string().as_str())
                })
                .map(|other| &other.claim)
                .collect();
            // A reference that moves is dropped on the way: one reason is enough.
            let dropped = dropped.filter(|_| movers.is_empty());
            found.extend(
                movers
                    .into_iter()
                    .chain(dropped)
                    .map(|mover| Refusal::MovingGround {
                        claim: target.claim.clone(),
                        reference: reference.familiar(),
                        mover: mover.clone(),
                    }),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests;
