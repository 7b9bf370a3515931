//! Resolves claims from files. A claim from a file may be about an image that only
//! another host has.

use std::collections::{BTreeMap, BTreeSet};

use super::{Lead, Resolver, Route};
use crate::image::digest::{Digest, ImageId};
use crate::image::reference::{Reference, Repository, Tag};
use crate::plan::{MissingManifest, Request, Why};

impl Resolver<'_> {
    /// Resolves a pinned reference from a file. Finds the image by the digest or tag on
    /// this host, or else by evidence. A reference without a tag may also mean the only
    /// image of its repository.
    pub(super) fn pinned(
        &self,
        repository: &Repository,
        tag: Option<&Tag>,
        digest: &Digest,
        request: &Request,
    ) -> Result<Vec<Lead>, Why> {
        let reference = repository.clone().with_digest(digest.clone());
        if let Some(image) = self.find(&reference)
            && self.images.has(&image)
        {
            return Ok(vec![(reference, image, Route::Id)]);
        }
        let named = tag.map(|tag| repository.clone().with_tag(tag.clone()));
        if let Some(named) = named
            && let Some(image) = self.find(&named)
            && self.images.has(&image)
        {
            return Ok(vec![(reference, image, Route::Named(named))]);
        }
        let (known, all_known) = self.images_of(digest, request);
        let mut here: Vec<&ImageId> = known
            .iter()
            .filter(|image| self.images.has(image))
            .collect();
        if here.iter().any(|image| self.is_in(image, repository)) {
            here.retain(|image| self.is_in(image, repository));
        }
        if here.len() > 1 {
            return Err(Why::Several(here.iter().map(ToString::to_string).collect()));
        }
        if let Some(image) = here.first() {
            return Ok(self.pin_of(repository, tag, digest, image));
        }
        if all_known || tag.is_some() {
            return Err(Why::NotHere);
        }
        let group = self.lookup.group(repository);
        let mut each = group.iter().filter(|(image, _)| self.images.has(image));
        match (each.next(), each.next()) {
            (None, _) => Err(Why::NotHere),
            (Some((image, references)), None) => Ok(vec![(
                reference,
                image.clone(),
                Route::OnlyImage(references.clone()),
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

    /// The references to add for a pinned reference whose image digestfix found by
    /// evidence. If the image has no name on this host, the list includes the pinned
    /// reference's tag.
    pub(super) fn pin_of(
        &self,
        repository: &Repository,
        tag: Option<&Tag>,
        digest: &Digest,
        image: &ImageId,
    ) -> Vec<Lead> {
        let reference = repository.clone().with_digest(digest.clone());
        let mut leads = vec![(reference, image.clone(), Route::Id)];
        if let Some(tag) = tag
            && self.lookup.homes(image).is_empty()
        {
            let tagged = repository.clone().with_tag(tag.clone());
            leads.push((tagged, image.clone(), Route::Id));
        }
        leads
    }

    /// Resolves a claim that contains only the first digits of the image ID.
    pub(super) fn recorded(&self, reference: &Reference, id: &str) -> Result<Vec<Lead>, Why> {
        let images = self.images.beginning_with(id);
        match images.as_slice() {
            [] => Err(Why::NotHere),
            [only] => Ok(vec![(reference.clone(), only.clone(), Route::Id)]),
            several => Err(Why::Several(
                several.iter().map(ToString::to_string).collect(),
            )),
        }
    }

    /// The image on this host that the evidence names for a digest. `None` unless the
    /// evidence names exactly one image on this host.
    pub(super) fn known_here(&self, digest: &Digest, request: &Request) -> Option<ImageId> {
        let (known, _) = self.images_of(digest, request);
        let mut here = known.into_iter().filter(|image| self.images.has(image));
        match (here.next(), here.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        }
    }

    /// The images that the evidence names for a digest. The flag is true if the digest
    /// cannot belong to any other image.
    fn images_of(&self, digest: &Digest, request: &Request) -> (BTreeSet<ImageId>, bool) {
        let mut images: BTreeSet<ImageId> = request.evidence.recorded(digest).cloned().collect();
        let mut all_known = !images.is_empty();
        for id in request.evidence.recorded_beginnings(digest) {
            all_known = true;
            images.extend(self.images.beginning_with(id));
        }
        if let Some(proof) = request.evidence.proof(digest) {
            all_known |= proof.complete;
            images.extend(proof.images.into_keys().cloned());
        }
        (images, all_known)
    }

    /// Resolves a manifest from a file. Claims the manifest's digest in each repository
    /// of the manifest's image.
    pub(super) fn brought(
        &self,
        digest: &Digest,
        repository: Option<&Repository>,
        request: &Request,
    ) -> Result<Vec<Lead>, Why> {
        let proof = request.evidence.proof(digest).ok_or(Why::NotHere)?;
        let parts = request.evidence.parts_here(digest);
        let here: BTreeSet<ImageId> = proof
            .images
            .into_keys()
            .chain(parts)
            .filter(|image| self.images.has(image))
            .cloned()
            .collect();
        let Some(first) = here.first() else {
            let platform = self.platform();
            let missing =
                MissingManifest::of(&request.evidence, digest, repository, platform.as_ref());
            return Err(missing.map_or(Why::NotHere, |missing| {
                Why::ManifestMissing(Box::new(missing))
            }));
        };
        let mut homes: BTreeMap<Repository, Vec<&ImageId>> = BTreeMap::new();
        for image in &here {
            for home in self.lookup.homes(image).iter() {
                homes.entry(home.clone()).or_default().push(image);
            }
        }
        if let Some(repository) = repository {
            if homes.is_empty() && here.len() == 1 {
                homes.insert(repository.clone(), vec![first]);
            }
            if homes.contains_key(repository) {
                homes.retain(|home, _| home == repository);
            }
        }
        if homes.is_empty() {
            return Err(Why::Nameless(first.to_string()));
        }
        let mut leads = Vec::new();
        for (home, images) in homes {
            let reference = home.with_digest(digest.clone());
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
        !self.lookup.references_to(image, repository).is_empty()
    }
}
