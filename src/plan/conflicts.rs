//! Conflicts between the claims of a plan, found after each claim is resolved to a
//! reference and an image.

use std::collections::{BTreeMap, BTreeSet};

use crate::claims::trust::Trust;
use crate::image::digest::{Digest, ImageId};
use crate::image::reference::{Reference, Repository};
use crate::plan::resolver::Route;
use crate::plan::{Refusal, Request, Target};
use crate::store::repositories::Store;

/// The resolved claims, grouped by reference.
pub(super) struct Wanted<'a> {
    targets: BTreeMap<&'a Reference, Vec<&'a Target>>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(targets: &'a [Target]) -> Self {
        let mut wanted: BTreeMap<&Reference, Vec<&Target>> = BTreeMap::new();
        for target in targets {
            wanted.entry(&target.reference).or_default().push(target);
        }
        Self { targets: wanted }
    }

    pub(super) fn of(&self, reference: &Reference) -> &[&'a Target] {
        self.targets.get(reference).map_or(&[], Vec::as_slice)
    }
}

/// Refuses changes whose trust is lower than the level that the request requires.
pub(super) fn too_weak(
    targets: &[Target],
    required: Option<Trust>,
    strange_oci: bool,
) -> Vec<Refusal> {
    let Some(required) = required else {
        return Vec::new();
    };
    let weak = |target: &&Target| target.trust < required && !target.holds;
    let refused = targets.iter().filter(weak).map(|target| Refusal::TooWeak {
        claim: target.claim.clone(),
        trust: target.trust,
        required,
        strange_oci,
    });
    refused.collect()
}

pub(super) fn contradictions(wanted: &Wanted, removals: &[Reference]) -> Vec<Refusal> {
    let removals: BTreeSet<&Reference> = removals.iter().collect();
    let mut found = Vec::new();
    for (reference, group) in &wanted.targets {
        // Keep one claim for each image, because a chart may repeat a claim a thousand
        // times.
        let mut images: BTreeSet<&ImageId> = BTreeSet::new();
        let claims: Vec<&String> = group
            .iter()
            .filter(|target| images.insert(&target.image))
            .map(|target| &target.claim)
            .collect();
        for (at, first) in claims.iter().enumerate() {
            let others = claims[at + 1..].iter().map(ToString::to_string);
            let removal = removals
                .get(reference)
                .map(|removal| format!("--remove {removal}"));
            found.extend(others.chain(removal).map(|second| Refusal::Contradiction {
                first: first.to_string(),
                second,
                reference: reference.familiar(),
            }));
        }
    }
    found
}

/// Whether a claim adds or moves a reference and has no evidence.
fn is_unsupported(target: &Target) -> bool {
    target.trust == Trust::Asserted && !target.holds
}

/// Refuses two different digests for one image in one repository if one of the digests
/// has no evidence. With `--replace`, digestfix accepts two typed digests, because the
/// user asks for both.
pub(super) fn two_digests(targets: &[Target], request: &Request) -> Vec<Refusal> {
    let mut groups: BTreeMap<(&Repository, &ImageId), Vec<&Target>> = BTreeMap::new();
    for target in targets {
        if target.reference.digest().is_some() {
            groups
                .entry((target.reference.repository(), &target.image))
                .or_default()
                .push(target);
        }
    }
    let mut found = Vec::new();
    for ((_, image), group) in groups {
        // Report each digest without evidence together with the best digest. A digest
        // with evidence is better than a digest from a file. A digest from a file is
        // better than a typed digest.
        let Some(best) = group
            .iter()
            .min_by_key(|target| (is_unsupported(target), target.typed))
        else {
            continue;
        };
        // Report each digest once, because a chart may repeat a pinned reference.
        let mut told: BTreeSet<&Reference> = BTreeSet::from([&best.reference]);
        for weak in group.iter().filter(|target| is_unsupported(target)) {
            if request.replace && weak.typed && best.typed || !told.insert(&weak.reference) {
                continue;
            }
            let (first, second) = if is_unsupported(best) {
                (best, weak)
            } else {
                (weak, best)
            };
            found.push(Refusal::TwoDigests {
                first: first.claim.clone(),
                second: second.claim.clone(),
                image: image.to_string(),
                second_is_oci: second
                    .reference
                    .digest()
                    .is_some_and(|digest| request.evidence.is_oci(digest)),
            });
        }
    }
    found
}

/// Refuses a claimed digest without evidence if another claim, or a reference on this
/// host, gives the same digest to another image.
pub(super) fn one_digest_two_images(
    targets: &[Target],
    store: &Store,
    removals: &[Reference],
) -> Vec<Refusal> {
    let unsupported: BTreeSet<String> = targets
        .iter()
        .filter(|target| is_unsupported(target))
        .filter_map(|target| target.reference.digest().map(ToString::to_string))
        .collect();
    if unsupported.is_empty() {
        return Vec::new();
    }
    let removals: BTreeSet<&Reference> = removals.iter().collect();
    let moved: BTreeSet<&Reference> = targets.iter().map(|target| &target.reference).collect();
    let here = store
        .entries_with(&unsupported)
        .filter_map(|entry| entry.meaning().ok())
        .filter(|(reference, _)| !removals.contains(reference) && !moved.contains(reference))
        .map(|(reference, image)| (reference.familiar(), reference, image));
    let claimed = targets.iter().map(|target| {
        let (reference, image) = (target.reference.clone(), target.image.clone());
        (target.claim.clone(), reference, image)
    });
    // Keep at most two different images for each digest. Two images are enough to find a
    // conflict, because each claim's image differs from at least one of the two.
    let mut known: BTreeMap<Digest, Vec<(String, Reference, ImageId)>> = BTreeMap::new();
    for (name, reference, image) in here.chain(claimed) {
        let Some(digest) = reference.digest().cloned() else {
            continue;
        };
        let images = known.entry(digest).or_default();
        if images.len() < 2 && images.iter().all(|(_, _, other)| *other != image) {
            images.push((name, reference, image));
        }
    }
    let mut told: BTreeSet<&Digest> = BTreeSet::new();
    let mut found = Vec::new();
    for target in targets {
        let digest = target.reference.digest();
        let Some(digest) = digest.filter(|_| is_unsupported(target)) else {
            continue;
        };
        // If two claims give one reference to different images,
        // [`Refusal::Contradiction`] reports the conflict.
        let other = known.get(digest).into_iter().flatten().find(|other| {
            let (_, reference, image) = other;
            *image != target.image && *reference != target.reference
        });
        if let Some((name, _, image)) = other
            && told.insert(digest)
        {
            found.push(Refusal::OneDigestTwoImages {
                claim: target.claim.clone(),
                digest: digest.to_string(),
                image: target.image.to_string(),
                other: name.clone(),
                other_image: image.to_string(),
            });
        }
    }
    found
}

/// Refuses a claim if another part of the same request would make the claim mean another
/// image. A claim must mean the same image before and after the change.
///
/// If a claim finds its image by a reference, no other part of the request may move or
/// drop that reference. `NAME@DIGEST` means the only image of a repository. Such a claim
/// is ambiguous only if another claim moves a reference of that image.
pub(super) fn moving_ground(
    targets: &[Target],
    wanted: &Wanted,
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
            let movers: Vec<&String> = wanted
                .of(reference)
                .iter()
                .filter(|other| !other.holds)
                .map(|other| &other.claim)
                .collect();
            // If a claim moves a reference to another image, `drops` contains the
            // reference too. Report only the move.
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
