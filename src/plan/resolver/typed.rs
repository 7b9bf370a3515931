//! Resolves claims that a user typed. A typed claim is about an image on this host.

use super::{Lead, Resolver, Route};
use crate::claims::claim::{Claim, ImageName, Statement};
use crate::image::digest::ImageId;
use crate::image::reference::{Reference, Repository};
use crate::plan::hints::{Here, Near};
use crate::plan::{Refusal, Request};

impl Resolver<'_> {
    /// Finds the image of a typed claim. Fails if the image is not on this host.
    pub(super) fn meant(&self, claim: &Claim, request: &Request) -> Result<Vec<Lead>, Refusal> {
        match &claim.statement {
            Statement::TaggedHasDigest {
                repository,
                tag,
                digest,
            } => match self.meant_by_name(claim) {
                Ok(lead) => Ok(vec![lead]),
                // The claim's tag does not exist on this host, but the evidence may name
                // an image for the digest.
                Err(refusal) => {
                    let image = self.known_here(digest, request).ok_or(refusal)?;
                    Ok(self.pin_of(repository, Some(tag), digest, &image))
                }
            },
            // `NAME@DIGEST` means the only image of a repository, unless evidence names
            // an image.
            Statement::OnlyImageHasDigest { repository, digest } => {
                let reference = repository.clone().with_digest(digest.clone());
                match self.known_here(digest, request) {
                    Some(image) if self.find(&reference).is_none() => {
                        Ok(self.pin_of(repository, None, digest, &image))
                    }
                    _ => Ok(vec![self.meant_by_name(claim)?]),
                }
            }
            _ => Ok(vec![self.meant_by_name(claim)?]),
        }
    }

    fn meant_by_name(&self, claim: &Claim) -> Result<Lead, Refusal> {
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

    fn pointed_at(&self, claim: &Claim, reference: &Reference) -> Result<ImageId, Refusal> {
        self.find(reference).ok_or_else(|| {
            let group = self.lookup.group(reference.repository());
            let present = group.values().flatten();
            let mut others: Vec<String> = present.map(Reference::familiar).collect();
            others.sort();
            let (near, nameless) = match others.is_empty() {
                true => (self.near(claim, reference), self.nameless().to_vec()),
                false => Default::default(),
            };
            Refusal::NoSuchReference {
                claim: claim.to_string(),
                reference: reference.familiar(),
                others,
                near,
                nameless,
            }
        })
    }

    /// Finds similar names on this host for a claim whose repository does not exist here,
    /// and corrects the claim if possible.
    fn near(&self, claim: &Claim, reference: &Reference) -> Box<Near> {
        let here = Here::of(self.store);
        let near = here.near(reference.repository());
        let instead = match (near.as_slice(), &claim.statement) {
            ([only], Statement::TaggedHasDigest { tag, digest, .. }) => {
                let tagged = (*only).clone().with_tag(tag.clone());
                let is_here = self.find(&tagged).is_some();
                is_here.then(|| tagged.pinned(digest.clone()))
            }
            ([only], Statement::OnlyImageHasDigest { digest, .. }) => {
                Some((*only).clone().with_digest(digest.clone()))
            }
            _ => None,
        };
        Box::new(Near {
            names: near.iter().map(|one| one.familiar()).collect(),
            instead: instead.map(|pin| pin.familiar()),
        })
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
        let images = self.lookup.group(repository);
        let mut each = images.iter();
        match (each.next(), each.next()) {
            (Some((only, references)), None) => {
                Ok((only.clone(), Route::OnlyImage(references.clone())))
            }
            (None, _) => Err(Refusal::EmptyRepository {
                claim: claim.to_string(),
                repository: repository.familiar(),
                near: self.near(claim, reference),
                nameless: self.nameless().to_vec(),
            }),
            (Some(_), Some(_)) => Err(Refusal::SeveralImages {
                claim: claim.to_string(),
                repository: repository.familiar(),
                images: images
                    .iter()
                    .map(|(image, references)| {
                        let references: Vec<String> =
                            references.iter().map(Reference::familiar).collect();
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
            // The text may be the beginning of an image ID, or a reference. If the
            // request adds this reference, the text means the reference after the change.
            // So the route must contain the reference.
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
        let found = self.images.beginning_with(prefix);
        match found.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(Refusal::NoSuchImage {
                claim: claim.to_string(),
                prefix: prefix.to_owned(),
            }),
            several => Err(Refusal::AmbiguousImage {
                claim: claim.to_string(),
                name: prefix.to_owned(),
                images: several.iter().map(ToString::to_string).collect(),
            }),
        }
    }
}
