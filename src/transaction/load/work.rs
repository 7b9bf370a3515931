//! Requests that make the running engine apply a plan, and the reasons why it cannot
//! apply a plan.

use std::collections::{BTreeMap, BTreeSet};

use crate::claims::evidence::Evidence;
use crate::claims::trust::Trust;
use crate::docker::engine::EngineError;
use crate::docker::engine::images::Images;
use crate::image::digest::{Digest, ImageId};
use crate::image::manifest::Manifest;
use crate::image::oci_archive::{ArchiveError, OciArchive};
use crate::image::reference::Reference;
use crate::plan::{MissingManifest, Plan};
use crate::state::journal::Pin;
use crate::store::containerd::ContainerdStore;

/// Requests to the engine.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// References to load.
    pub added: Vec<Pin>,
    /// References to drop.
    pub dropped: Vec<Pin>,
    /// The manifests of all these references.
    pub manifests: BTreeMap<Digest, String>,
    /// Those of the references to load whose layers are on this host only in unpacked
    /// form.
    pub run_only: Vec<Reference>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadBlocker {
    #[error("{tag}: digestfix does not set tags in the containerd image store")]
    SetTag {
        tag: Reference,
        /// A name that the image already has.
        image: Option<Reference>,
    },
    #[error("{0}: digestfix does not remove tags in the containerd image store")]
    DropTag(Reference),
    #[error(
        "{0}: another image here has this digest. In the containerd image store, the manifest determines the \
         image, so digestfix cannot give the digest to a different image"
    )]
    Moves(Reference),
    #[error(
        "{claim}: no manifest proves this claim (it is only {trust}), and the containerd image store needs \
         the manifest of a digest"
    )]
    NoManifest {
        claim: String,
        trust: Trust,
        reference: Reference,
    },
    #[error("{claim}: this digest is an index, and {missing}")]
    NoPart {
        claim: String,
        missing: MissingManifest,
    },
    #[error(
        "{0}: docker images shows this digest, but Docker made up its manifest (at docker save, or when the \
         images moved to containerd). No registry is known to serve it"
    )]
    MadeUp(String),
    #[error("{reference}: the tag {tag} has the same manifest, so Docker would drop both together")]
    GoesWithTag {
        reference: Reference,
        tag: Reference,
    },
    #[error("{0}: this is the last reference of its image, and Docker would remove the image too")]
    Last(Reference),
    #[error(
        "{0}: only this reference keeps the layers of its image in the registry's form. Docker would remove these \
         layers too, and digestfix could not restore them"
    )]
    OnlyLayers(Reference),
    #[error("{0}: from this index, Docker would choose another image than the one on this host")]
    OtherChild(Reference),
    #[error(
        "{0}: the image is for another platform, so Docker would not run the image by this digest"
    )]
    OtherPlatform(Reference),
    #[error("{0}: the manifest names a type of config for which containerd unpacks no layers")]
    OldConfig(Reference),
    #[error("{0}: Docker has this reference, but containerd's content store has no image for it")]
    Unread(Reference),
    #[error("Docker has images, but digestfix finds none of them in containerd's content store")]
    NothingRead,
    #[error(
        "{0}: its manifest is not in containerd's content store, so undo could not restore this reference"
    )]
    NoWayBack(Reference),
}

impl LoadBlocker {
    pub fn help(&self) -> String {
        let root = "find containerd's root directory (root in the output of containerd config \
                    dump), and name it: --containerd-root DIR";
        match self {
            Self::SetTag { tag, image } => {
                let image = image.as_ref().map(ToString::to_string);
                format!("docker tag {} {tag}", image.as_deref().unwrap_or("IMAGE"))
            }
            Self::DropTag(tag) => format!("docker rmi {tag}"),
            Self::GoesWithTag { tag, .. } => format!("to remove both: docker rmi {tag}"),
            Self::Last(reference) => format!("to remove the image as well: docker rmi {reference}"),
            Self::OnlyLayers(reference) => {
                format!("to remove the layers as well: docker rmi {reference}")
            }
            Self::Moves(_) => "leave that claim out".to_owned(),
            Self::NoManifest { reference, .. } => format!(
                "get the manifest: digestfix export on a host that pulled the image, or skopeo inspect --raw \
                 docker://{reference} > FILE on a host that reaches the registry; then add --from FILE"
            ),
            Self::NoPart { .. } => {
                "get that manifest too: digestfix export on a host that pulled the image; then add --from FILE"
                    .to_owned()
            }
            Self::MadeUp(_) => {
                "claim the digest that the registry serves, and add its manifest with --from. To record this digest \
                 anyway: --allow-image-id-digest"
                    .to_owned()
            }
            Self::OtherChild(_) => {
                "claim the digest of the image's own manifest instead".to_owned()
            }
            Self::OtherPlatform(_) => {
                "load the image for this host's platform, and claim its digest".to_owned()
            }
            Self::OldConfig(reference) => format!(
                "load the image with its layers (docker pull would store another manifest). On a host that reaches \
                 the registry: skopeo copy --preserve-digests docker://{reference} oci-archive:image.tar; on this \
                 host: docker load -i image.tar; then run the same command again"
            ),
            Self::Unread(_) | Self::NothingRead | Self::NoWayBack(_) => root.to_owned(),
        }
    }
}

impl Work {
    /// Turns a plan into requests. The outer error means that the engine did not answer a
    /// question. The inner error lists every reason why the engine cannot apply the plan.
    pub async fn of(
        plan: &Plan,
        here: &ContainerdStore,
        evidence: &Evidence,
        engine: &impl Images,
    ) -> Result<Result<Self, Vec<LoadBlocker>>, EngineError> {
        let mut work = Self::default();
        let mut reasons = Vec::new();
        for change in &plan.changes {
            let reference = change.reference.clone();
            match (reference.digest(), &change.from, &change.to) {
                (None, _, Some(image)) => reasons.push(LoadBlocker::SetTag {
                    tag: reference,
                    image: plan.name_of(image),
                }),
                (None, _, None) => reasons.push(LoadBlocker::DropTag(reference)),
                (Some(_), Some(_), Some(_)) => reasons.push(LoadBlocker::Moves(reference)),
                (Some(digest), None, Some(image)) => {
                    let brought = evidence.way(digest, image);
                    let brought = brought.map(|way| {
                        let texts = way.into_iter();
                        texts
                            .map(|(digest, text)| (digest, text.to_string()))
                            .collect()
                    });
                    match brought.or_else(|| here.proof(digest, image)) {
                        Some(way) => match blocker(&reference, image, &way, here) {
                            Some(reason) => reasons.push(reason),
                            None => work.add(reference, image, way, here),
                        },
                        None => reasons.push(no_manifest(plan, reference, evidence)),
                    }
                }
                (Some(digest), from, None) => {
                    let image = from.as_deref().and_then(|image| image.parse().ok());
                    let way = image
                        .as_ref()
                        .and_then(|image| here.proof(digest, image))
                        .zip(image.clone());
                    let listed = here.find(engine, &reference).await?;
                    let tag = listed.and_then(|listed| listed.tag_beside(&reference));
                    match (tag, way) {
                        (Some(tag), _) => reasons.push(LoadBlocker::GoesWithTag { reference, tag }),
                        (None, None) => reasons.push(LoadBlocker::NoWayBack(reference)),
                        (None, Some((way, image_id))) => {
                            work.manifests.extend(way);
                            work.dropped.push(Pin {
                                reference,
                                image_id,
                            });
                        }
                    }
                }
            }
        }
        let gone: BTreeSet<&Reference> = work.dropped.iter().map(|pin| &pin.reference).collect();
        for pin in &work.dropped {
            if !here.has_another(&gone, &pin.image_id) {
                reasons.push(LoadBlocker::Last(pin.reference.clone()));
            } else if let Some(digest) = pin.reference.digest()
                && !here.is_hollow(&pin.reference)
                && here.loses_layers(digest, &gone)
            {
                reasons.push(LoadBlocker::OnlyLayers(pin.reference.clone()));
            }
        }
        Ok(if reasons.is_empty() {
            Ok(work)
        } else {
            Err(reasons)
        })
    }

    fn add(
        &mut self,
        reference: Reference,
        image: &ImageId,
        way: BTreeMap<Digest, String>,
        here: &ContainerdStore,
    ) {
        if !here.has_layers(&way, image) {
            self.run_only.push(reference.clone());
        }
        self.manifests.extend(way);
        self.added.push(Pin {
            reference,
            image_id: image.clone(),
        });
    }
}

/// Returns a reason if the engine would accept the reference but could not run its image.
fn blocker(
    reference: &Reference,
    image: &ImageId,
    way: &BTreeMap<Digest, String>,
    here: &ContainerdStore,
) -> Option<LoadBlocker> {
    let reference = reference.clone();
    if !here.takes(way) {
        return Some(LoadBlocker::OtherChild(reference));
    }
    if here.has_layers(way, image) {
        return None;
    }
    if !here.runs(image) {
        return Some(LoadBlocker::OtherPlatform(reference));
    }
    let is_old = |text: &String| {
        matches!(
            Manifest::parse(text.as_bytes()),
            Ok(Manifest::Image(manifest)) if !manifest.has_known_config
        )
    };
    way.values()
        .any(is_old)
        .then_some(LoadBlocker::OldConfig(reference))
}

fn no_manifest(plan: &Plan, reference: Reference, evidence: &Evidence) -> LoadBlocker {
    let basis = plan.basis(&reference);
    let claim = basis.map_or_else(|| reference.familiar(), |target| target.claim.clone());
    let repository = reference.repository();
    let missing = reference
        .digest()
        .and_then(|digest| MissingManifest::of(evidence, digest, Some(repository), None));
    if let Some(missing) = missing {
        return LoadBlocker::NoPart { claim, missing };
    }
    LoadBlocker::NoManifest {
        claim,
        trust: basis.map_or(Trust::Asserted, |target| target.trust),
        reference,
    }
}

/// Builds the archive for these references. Adds the config of each image unless the
/// engine has it already. Fails if a config is missing, because then its image is not on
/// this host.
pub(super) fn archive<'a>(
    pins: impl IntoIterator<Item = &'a Pin>,
    manifests: &BTreeMap<Digest, String>,
    config: impl Fn(&ImageId) -> Option<String>,
    is_there: impl Fn(&Digest) -> bool,
) -> Result<Vec<u8>, ArchiveError> {
    let mut archive = OciArchive::default();
    for Pin {
        reference,
        image_id,
    } in pins
    {
        archive.name(reference);
        let mut needed: Vec<Digest> = reference.digest().cloned().into_iter().collect();
        while let Some(digest) = needed.pop() {
            let Some(text) = manifests.get(&digest) else {
                continue;
            };
            if archive.blob(&digest, text)
                && let Manifest::Index(children) = Manifest::parse(text.as_bytes())?
            {
                needed.extend(children.into_iter().map(|child| child.digest));
            }
        }
        let (Some(text), Ok(digest)) = (config(image_id), image_id.to_string().parse()) else {
            return Err(ArchiveError::NoImage(reference.clone()));
        };
        if !is_there(&digest) {
            archive.blob(&digest, &text);
        }
    }
    archive.build()
}
