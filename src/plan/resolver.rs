//! From what a claim says to the one image and the one reference it means,
//! and what stands in the way.

use std::collections::{BTreeMap, BTreeSet};

use crate::claim::{Claim, ImageName, Statement};
use crate::digest::{Digest, ImageId};
use crate::plan::{Refusal, Target, digest_is_image_id};
use crate::reference::{Reference, Repository};
use crate::store::Store;

/// What led a claim to its image.
pub(super) enum Route {
    /// The image's own ID, or that the claim holds already.
    Id,
    /// A reference that the claim names.
    Named(Reference),
    /// Being the only image of a repository: all its references.
    OnlyImage(Vec<Reference>),
}

pub(super) struct Resolver<'a> {
    store: &'a Store,
    images: &'a BTreeSet<ImageId>,
    references: Vec<(Reference, ImageId)>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(store: &'a Store, images: &'a BTreeSet<ImageId>) -> Self {
        Self {
            store,
            images,
            references: store.references().collect(),
        }
    }

    /// The claim's target, and what led to its image.
    pub(super) fn target(
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
        let holds = self.store.points_at(&reference, &image);
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
    pub(super) fn in_the_way(
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

pub(super) fn contradictions(targets: &[Target], removals: &[Reference]) -> Vec<Refusal> {
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
pub(super) fn moving_ground(
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
            let movers: Vec<&String> = targets
                .iter()
                .filter(|other| other.reference == *reference && !other.holds)
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
