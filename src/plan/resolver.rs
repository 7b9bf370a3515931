//! From what a claim says to the images and the references it means, and what
//! stands in the way.

use std::collections::BTreeSet;

use crate::claims::claim::{Claim, ImageName, Origin, Statement};
use crate::claims::evidence::Verdict;
use crate::claims::trust::Trust;
use crate::image::digest::{Digest, ImageId};
use crate::image::reference::Reference;
use crate::plan::conflicts::Wanted;
use crate::plan::{Refusal, Request, Skipped, Target, Why, digest_is_image_id};
use crate::store::images::Images;
use crate::store::repositories::Store;

mod lookup;
mod sourced;
mod typed;

use lookup::Lookup;

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
    images: &'a dyn Images,
    lookup: Lookup<'a>,
    /// Those of the request's digests that some reference points at.
    pointed_at: BTreeSet<&'a str>,
}

/// The most images that one refusal names.
const MAX_NAMED: usize = 5;

fn some_of(images: &[String]) -> Vec<String> {
    let mut named: Vec<String> = images.iter().take(MAX_NAMED).cloned().collect();
    if let Some(more @ 1..) = images.len().checked_sub(MAX_NAMED) {
        named.push(format!("{more} more"));
    }
    named
}

/// What a claim comes down to.
#[derive(Default)]
pub(super) struct Found {
    pub targets: Vec<(Target, Route)>,
    pub skipped: Option<Skipped>,
}

/// A claim's image and reference, before anything has checked whether it is true.
type Lead = (Reference, ImageId, Route);

impl<'a> Resolver<'a> {
    pub(super) fn new(store: &'a Store, images: &'a dyn Images, request: &Request) -> Self {
        let digests = request.claims.iter().filter_map(|claim| claim.digest());
        let digests: BTreeSet<String> = digests.map(ToString::to_string).collect();
        let values = store.entries().map(|entry| entry.value);
        Self {
            store,
            images,
            lookup: Lookup::new(store, request.claims.len()),
            pointed_at: values.filter(|value| digests.contains(*value)).collect(),
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
                if self.images.has(image) {
                    Ok(vec![(reference.clone(), image.clone(), Route::Id)])
                } else {
                    Err(Why::NotHere)
                }
            }
            (
                Statement::PointsAt {
                    reference,
                    image: ImageName::Prefix(id),
                },
                Origin::Source(_),
            ) => self.recorded(reference, id),
            _ => Ok(vec![self.meant(claim, request)?]),
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
                        images: some_of(&images),
                        trust,
                        origin,
                    });
                }
                Verdict::Silent => {}
            }
        }
        if !self.images.has(&image) {
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
        digest_is_image_id(digest, self.images)
            || self.pointed_at.contains(digest.to_string().as_str())
    }

    fn find(&self, reference: &Reference) -> Option<ImageId> {
        self.lookup.find(reference)
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
        let others = self
            .lookup
            .references_to(&target.image, target.reference.repository());
        let others = others.iter().filter(|other| {
            let unknown = |digest| {
                !matches!(
                    request.evidence.verdict(digest, &target.image),
                    Verdict::Supports(..)
                )
            };
            **other != target.reference
                && !request.removals.contains(other)
                && wanted.of(other).is_empty()
                && other.digest().is_some_and(unknown)
        });
        found.extend(others.map(|other| {
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
