//! Resolver: finds the images and references that a claim means, and the references that
//! conflict with them.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use crate::claims::claim::{Claim, ImageName, Origin, Statement};
use crate::claims::evidence::Verdict;
use crate::claims::trust::Trust;
use crate::image::digest::{Digest, ImageId};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::plan::conflicts::Wanted;
use crate::plan::status::nameless;
use crate::plan::{Refusal, Request, Skipped, Target, Whose, Why, digest_is_image_id};
use crate::store::images::Images;
use crate::store::repositories::Store;

mod lookup;
mod sourced;
mod typed;

use lookup::Lookup;

/// How a claim found its image.
pub(super) enum Route {
    /// The claim contains the image's ID, evidence names the image, or the claim is
    /// already true on this host.
    Id,
    /// The claim means the image that this reference points at.
    Named(Reference),
    /// The claim means the only image of a repository. The list contains all references
    /// to the image in that repository.
    OnlyImage(Vec<Reference>),
}

pub(super) struct Resolver<'a> {
    store: &'a Store,
    images: &'a dyn Images,
    lookup: Lookup<'a>,
    /// Claimed digests that are in fact image IDs, because a reference on this host
    /// points at an image with that ID.
    pointed_at: BTreeSet<&'a str>,
    nameless: OnceCell<Vec<ImageId>>,
    platform: OnceCell<Option<Platform>>,
}

/// The most images that one refusal lists.
const MAX_NAMED: usize = 5;

fn some_of(images: &[String]) -> Vec<String> {
    let mut named: Vec<String> = images.iter().take(MAX_NAMED).cloned().collect();
    if let Some(more @ 1..) = images.len().checked_sub(MAX_NAMED) {
        named.push(format!("{more} more"));
    }
    named
}

/// The result of resolving one claim.
#[derive(Default)]
pub(super) struct Found {
    pub targets: Vec<(Target, Route)>,
    pub skipped: Option<Skipped>,
}

/// A lead: the reference and image that a claim may mean. [`Resolver::judged`] checks it
/// against the evidence.
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
            nameless: OnceCell::new(),
            platform: OnceCell::new(),
        }
    }

    /// The platform of the first image on this host.
    pub(super) fn platform(&self) -> Option<Platform> {
        let first = || self.images.platform(self.images.leaves().first()?);
        self.platform.get_or_init(first).clone()
    }

    /// The images that have no reference and are not the parent of another image.
    pub(super) fn nameless(&self) -> &[ImageId] {
        self.nameless
            .get_or_init(|| nameless(self.store, self.images))
    }

    /// Resolves a claim to references and images. A [`Route`] shows how digestfix found
    /// each image.
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
            _ => Ok(self.meant(claim, request)?),
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
            if let Origin::Source(_) = claim.origin
                && let Some(why) = self.is_of_an_id(&reference, &image, request)
            {
                found.skipped = Some(Skipped {
                    claim: claim.to_string(),
                    strange_oci: false,
                    why,
                });
                continue;
            }
            found
                .targets
                .push((self.judged(claim, reference, image, request)?, route));
        }
        Ok(found)
    }

    /// The reason to skip a claim from a file: either the claim or a reference on this
    /// host has an image ID in place of a digest. No evidence shows the right digest. The
    /// other claims of the file still apply.
    fn is_of_an_id(
        &self,
        reference: &Reference,
        image: &ImageId,
        request: &Request,
    ) -> Option<Why> {
        let digest = reference.digest()?;
        if let Some(whose) = self.id_for_digest(digest, image)
            && !request.allow_image_id_digest
        {
            return Some(Why::ImageId(whose));
        }
        if request.replace
            || self.find(reference).is_some()
            || request.evidence.verdict(digest, image) != Verdict::Silent
        {
            return None;
        }
        let here = self.lookup.references_to(image, reference.repository());
        here.iter()
            .filter(|other| !request.removals.contains(other))
            .find_map(|other| {
                let whose = self.id_for_digest(other.digest()?, image)?;
                Some(Why::BesideImageId(other.familiar(), whose))
            })
    }

    /// Whether the digest is in fact the ID of this image or of another image. `None` if
    /// the digest is not an image ID.
    fn id_for_digest(&self, digest: &Digest, image: &ImageId) -> Option<Whose> {
        if digest.to_string() == image.to_string() {
            return Some(Whose::Own);
        }
        self.is_image_id(digest).then_some(Whose::Another)
    }

    /// Checks the reference and image of a claim against the evidence. Fails if the
    /// evidence contradicts the claim.
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
            if !request.allow_image_id_digest
                && let Some(whose) = self.id_for_digest(digest, &image)
            {
                return Err(Refusal::DigestIsImageId {
                    claim: claim.to_string(),
                    digest: digest.to_string(),
                    whose,
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
                Verdict::Silent => {
                    self.refuse_other_platform(claim, digest, &image, request)?;
                    if claim.origin == Origin::Pasted {
                        trust = Trust::Matched;
                    }
                }
            }
        } else if let (Origin::Source(_), Statement::PointsAt { .. }) =
            (&claim.origin, &claim.statement)
        {
            trust = Trust::Matched;
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
            typed: matches!(claim.origin, Origin::Typed | Origin::Pasted),
        })
    }

    /// Refuses a claimed digest if an index lists that digest for another platform than
    /// the platform of the image.
    fn refuse_other_platform(
        &self,
        claim: &Claim,
        digest: &Digest,
        image: &ImageId,
        request: &Request,
    ) -> Result<(), Refusal> {
        let Some(listed) = request.evidence.listed(digest) else {
            return Ok(());
        };
        let Some(own) = self.images.platform(image) else {
            return Ok(());
        };
        let parts = |platform: &Platform| (platform.os.clone(), platform.architecture.clone());
        if parts(&own) == parts(&listed.platform) {
            return Ok(());
        }
        Err(Refusal::OtherPlatform {
            claim: claim.to_string(),
            digest: digest.to_string(),
            listed: Box::new(listed.clone()),
            image: image.to_string(),
            own: own.to_string(),
        })
    }

    fn is_image_id(&self, digest: &Digest) -> bool {
        digest_is_image_id(digest, self.images)
            || self.pointed_at.contains(digest.to_string().as_str())
    }

    fn find(&self, reference: &Reference) -> Option<ImageId> {
        self.lookup.find(reference)
    }

    /// The references that digestfix must remove before it can apply a claim. Each has a
    /// refusal, which digestfix reports if the user does not allow the removal.
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
        // An image may have two digests: that of its index, and that of its manifest. But
        // if a user typed a digest without evidence, the user may want to replace the
        // recorded digest.
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
            let (claim, present) = (target.claim.clone(), other.familiar());
            let digest = other.digest();
            let refusal = match digest.and_then(|digest| self.id_for_digest(digest, &target.image))
            {
                Some(whose) => Refusal::ImageIdInTheWay {
                    claim,
                    present,
                    whose,
                },
                None => Refusal::OtherDigest { claim, present },
            };
            (other.clone(), refusal)
        }));
        found
    }
}
