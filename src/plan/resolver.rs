//! From what a claim says to the images and the references it means, and what
//! stands in the way.

use std::collections::{BTreeMap, BTreeSet};

use crate::claim::{Claim, ImageName, Origin, Statement};
use crate::digest::{Digest, ImageId};
use crate::evidence::Verdict;
use crate::plan::conflicts::Wanted;
use crate::plan::{Refusal, Request, Skipped, Target, Why, digest_is_image_id};
use crate::reference::{Reference, Repository, Tag};
use crate::store::Store;
use crate::trust::Trust;

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
    repositories: BTreeMap<Repository, BTreeMap<Reference, ImageId>>,
    /// The repositories that each image has a reference in.
    homes: BTreeMap<ImageId, BTreeSet<Repository>>,
    values: BTreeSet<&'a str>,
}

/// What a claim comes down to.
#[derive(Default)]
pub(super) struct Found {
    pub targets: Vec<(Target, Route)>,
    pub skipped: Option<Skipped>,
}

/// A claim's image and reference, before anybody asked whether it is true.
type Lead = (Reference, ImageId, Route);

impl<'a> Resolver<'a> {
    pub(super) fn new(store: &'a Store, images: &'a BTreeSet<ImageId>) -> Self {
        let mut repositories: BTreeMap<Repository, BTreeMap<Reference, ImageId>> = BTreeMap::new();
        let mut homes: BTreeMap<ImageId, BTreeSet<Repository>> = BTreeMap::new();
        for (reference, image) in store.references() {
            let repository = reference.repository().clone();
            homes
                .entry(image.clone())
                .or_default()
                .insert(repository.clone());
            repositories
                .entry(repository)
                .or_default()
                .insert(reference, image);
        }
        Self {
            store,
            images,
            repositories,
            homes,
            values: store.entries().map(|entry| entry.value).collect(),
        }
    }

    /// What the claim means here, each with what led to its image.
    pub(super) fn targets(&self, claim: &Claim, request: &Request) -> Result<Found, Refusal> {
        let leads = match (&claim.statement, &claim.origin) {
            (
                Statement::ManifestBrought {
                    digest,
                    repository,
                    in_index,
                },
                _,
            ) => match self.brought(digest, repository.as_ref(), request) {
                Err(_) if *in_index => Ok(Vec::new()),
                leads => leads,
            },
            (
                Statement::TaggedHasDigest {
                    repository,
                    tag,
                    digest,
                },
                Origin::Source(_),
            ) => self.pinned(repository, Some(tag), digest, request),
            (Statement::OnlyImageHasDigest { repository, digest }, Origin::Source(_)) => {
                self.pinned(repository, None, digest, request)
            }
            (
                Statement::PointsAt {
                    reference,
                    image: ImageName::Id(image),
                },
                Origin::Source(_),
            ) => {
                if self.images.contains(image) {
                    Ok(vec![(reference.clone(), image.clone(), Route::Id)])
                } else {
                    Err(Why::NotHere)
                }
            }
            _ => Ok(vec![self.meant(claim)?]),
        };
        let leads = match leads {
            Ok(leads) => leads,
            Err(why) => {
                return Ok(Found {
                    targets: Vec::new(),
                    skipped: Some(Skipped {
                        claim: claim.to_string(),
                        strange_oci: why == Why::NotHere
                            && matches!(
                                &claim.statement,
                                Statement::ManifestBrought { digest, .. }
                                    if request.evidence.is_oci(digest)
                            ),
                        why,
                    }),
                });
            }
        };
        let mut found = Found::default();
        for (reference, image, route) in leads {
            found
                .targets
                .push((self.judged(claim, reference, image, request)?, route));
        }
        Ok(found)
    }

    /// What a claim means that speaks of this very host.
    fn meant(&self, claim: &Claim) -> Result<Lead, Refusal> {
        match &claim.statement {
            Statement::TaggedHasDigest {
                repository,
                tag,
                digest,
            } => {
                let tagged = repository.clone().with_tag(tag.clone());
                let image = self.pointed_at(claim, &tagged)?;
                let reference = repository.clone().with_digest(digest.clone());
                Ok((reference, image, Route::Named(tagged)))
            }
            Statement::OnlyImageHasDigest { repository, digest } => {
                let reference = repository.clone().with_digest(digest.clone());
                let (image, route) = self.only_image(claim, repository, &reference)?;
                Ok((reference, image, route))
            }
            Statement::PointsAt { reference, image } => {
                let (image, route) = self.image(claim, image)?;
                Ok((reference.clone(), image, route))
            }
            Statement::ManifestBrought { digest, .. } => Err(Refusal::NoSuchImage {
                claim: claim.to_string(),
                prefix: digest.to_string(),
            }),
        }
    }

    /// A pin that somebody wrote into a file: by image ID, where the evidence
    /// has one for the digest, and else by name.
    fn pinned(
        &self,
        repository: &Repository,
        tag: Option<&Tag>,
        digest: &Digest,
        request: &Request,
    ) -> Result<Vec<Lead>, Why> {
        let reference = repository.clone().with_digest(digest.clone());
        if let Some(image) = self.find(&reference)
            && self.images.contains(&image)
        {
            return Ok(vec![(reference, image, Route::Id)]);
        }
        let named = tag.map(|tag| repository.clone().with_tag(tag.clone()));
        if let Some(named) = named
            && let Some(image) = self.find(&named)
            && self.images.contains(&image)
        {
            return Ok(vec![(reference, image, Route::Named(named))]);
        }
        let (known, all_known) = self.images_of(digest, request);
        let mut here: Vec<&ImageId> = known.intersection(self.images).collect();
        if here.iter().any(|image| self.is_in(image, repository)) {
            here.retain(|image| self.is_in(image, repository));
        }
        if here.len() > 1 {
            return Err(Why::Several(here.iter().map(ToString::to_string).collect()));
        }
        if let Some(image) = here.first() {
            return Ok(vec![(reference, (*image).clone(), Route::Id)]);
        }
        if all_known || tag.is_some() {
            return Err(Why::NotHere);
        }
        let mut images: BTreeMap<&ImageId, Vec<Reference>> = BTreeMap::new();
        for (other, image) in self.repositories.get(repository).into_iter().flatten() {
            if self.images.contains(image) {
                images.entry(image).or_default().push(other.clone());
            }
        }
        let mut each = images.into_iter();
        match (each.next(), each.next()) {
            (None, _) => Err(Why::NotHere),
            (Some((image, references)), None) => Ok(vec![(
                reference,
                image.clone(),
                Route::OnlyImage(references),
            )]),
            (Some((first, _)), Some((second, _))) => Err(Why::Several(
                [first, second]
                    .into_iter()
                    .chain(each.map(|(image, _)| image))
                    .map(ToString::to_string)
                    .collect(),
            )),
        }
    }

    /// The images that the evidence has for a digest, and whether it has all.
    fn images_of(&self, digest: &Digest, request: &Request) -> (BTreeSet<ImageId>, bool) {
        let mut images: BTreeSet<ImageId> = request.evidence.recorded(digest).cloned().collect();
        let mut all_known = !images.is_empty();
        if let Some(proof) = request.evidence.proof(digest) {
            all_known |= proof.complete;
            images.extend(proof.images.into_keys());
        }
        (images, all_known)
    }

    /// A manifest that was brought along, in each repository of its image.
    fn brought(
        &self,
        digest: &Digest,
        repository: Option<&Repository>,
        request: &Request,
    ) -> Result<Vec<Lead>, Why> {
        let proof = request.evidence.proof(digest).ok_or(Why::NotHere)?;
        let here: BTreeSet<ImageId> = proof
            .images
            .into_keys()
            .filter(|image| self.images.contains(image))
            .collect();
        let Some(first) = here.first() else {
            return Err(Why::NotHere);
        };
        let mut homes: BTreeMap<&Repository, Vec<&ImageId>> = BTreeMap::new();
        for image in &here {
            for home in self.homes.get(image).into_iter().flatten() {
                homes.entry(home).or_default().push(image);
            }
        }
        if let Some(repository) = repository {
            if homes.is_empty() && here.len() == 1 {
                homes.insert(repository, vec![first]);
            }
            if homes.contains_key(repository) {
                homes.retain(|home, _| *home == repository);
            }
        }
        if homes.is_empty() {
            return Err(Why::Nameless(first.to_string()));
        }
        let mut leads = Vec::new();
        for (home, images) in homes {
            let reference = home.clone().with_digest(digest.clone());
            let present = self.find(&reference).filter(|image| here.contains(image));
            let image = match (present, images.as_slice()) {
                (Some(present), _) => present,
                (None, [only]) => (*only).clone(),
                (None, several) => {
                    return Err(Why::Several(
                        several.iter().map(ToString::to_string).collect(),
                    ));
                }
            };
            leads.push((reference, image, Route::Id));
        }
        Ok(leads)
    }

    fn is_in(&self, image: &ImageId, repository: &Repository) -> bool {
        self.homes
            .get(image)
            .is_some_and(|homes| homes.contains(repository))
    }

    /// The target, unless something tells that it is wrong.
    fn judged(
        &self,
        claim: &Claim,
        reference: Reference,
        image: ImageId,
        request: &Request,
    ) -> Result<Target, Refusal> {
        let mut trust = Trust::Asserted;
        let mut origin = claim.origin.to_string();
        if let Some(digest) = reference.digest() {
            if !request.allow_image_id_digest && self.is_image_id(digest) {
                return Err(Refusal::DigestIsImageId {
                    claim: claim.to_string(),
                    digest: digest.to_string(),
                });
            }
            match request.evidence.verdict(digest, &image) {
                Verdict::Supports(how, place) => (trust, origin) = (how, place),
                Verdict::Denies(trust, images, origin) => {
                    return Err(Refusal::OtherImages {
                        claim: claim.to_string(),
                        digest: digest.to_string(),
                        image: image.to_string(),
                        images: images.iter().map(ToString::to_string).collect(),
                        trust,
                        origin,
                    });
                }
                Verdict::Silent => {}
            }
        }
        if !self.images.contains(&image) {
            return Err(Refusal::ImageMissing {
                claim: claim.to_string(),
                image: image.to_string(),
            });
        }
        Ok(Target {
            claim: claim.to_string(),
            holds: self.store.points_at(&reference, &image),
            reference,
            image,
            trust,
            origin,
            typed: claim.origin == Origin::Typed,
        })
    }

    fn is_image_id(&self, digest: &Digest) -> bool {
        digest_is_image_id(digest, self.images) || self.values.contains(digest.to_string().as_str())
    }

    fn pointed_at(&self, claim: &Claim, reference: &Reference) -> Result<ImageId, Refusal> {
        self.find(reference).ok_or_else(|| {
            let present = self.repositories.get(reference.repository());
            let mut others: Vec<String> = present
                .into_iter()
                .flat_map(BTreeMap::keys)
                .map(Reference::familiar)
                .collect();
            others.sort();
            Refusal::NoSuchReference {
                claim: claim.to_string(),
                reference: reference.familiar(),
                others,
            }
        })
    }

    fn find(&self, reference: &Reference) -> Option<ImageId> {
        self.repositories
            .get(reference.repository())?
            .get(reference)
            .cloned()
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
        for (other, image) in self.repositories.get(repository).into_iter().flatten() {
            images.entry(image).or_default().push(other);
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
        wanted: &Wanted,
        request: &Request,
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
        // An image may have several digests, those of its index and of its
        // manifest; but nobody said so of one that somebody just typed.
        if target.reference.digest().is_none() || target.trust > Trust::Asserted && !request.replace
        {
            return found;
        }
        let repository = self.repositories.get(target.reference.repository());
        let others = repository.into_iter().flatten().filter(|(other, image)| {
            other.digest().is_some_and(|digest| {
                !matches!(
                    request.evidence.verdict(digest, &target.image),
                    Verdict::Supports(..)
                )
            }) && **other != target.reference
                && **image == target.image
                && !request.removals.contains(other)
                && wanted.of(other).is_empty()
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
        found
    }
}
