//! Refusal: why a request cannot be met, and how the user can resolve that.

use std::fmt;

use crate::claims::evidence::Listed;
use crate::claims::trust::Trust;
use crate::image::digest::ImageId;
use crate::plan::hints::{Ids, Near};

/// Which image has the ID that was given as a digest: the claim's own image or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Own,
    Another,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "this image's own ID",
            Self::Another => "the ID of another image here",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "{claim}: {reference} is not on this host{}{near}{}", known(.others), maybe(.nameless)
    )]
    NoSuchReference {
        claim: String,
        reference: String,
        /// The other references of the repository.
        others: Vec<String>,
        near: Box<Near>,
        /// The images without a name, if the repository has no reference.
        nameless: Vec<ImageId>,
    },
    #[error(
        "{claim}: no image on this host has the name {repository}{near}{}", maybe(.nameless)
    )]
    EmptyRepository {
        claim: String,
        repository: String,
        near: Box<Near>,
        nameless: Vec<ImageId>,
    },
    #[error(
        "{claim}: {} images on this host have the name {repository}:{}",
        .images.len(), listed(.images)
    )]
    SeveralImages {
        claim: String,
        repository: String,
        /// The images, each with its references.
        images: Vec<String>,
    },
    #[error("{claim}: no image on this host has an ID that begins with {prefix}")]
    NoSuchImage { claim: String, prefix: String },
    #[error("{claim}: {name} can mean more than one image:{}", listed(.images))]
    AmbiguousImage {
        claim: String,
        name: String,
        images: Vec<String>,
    },
    #[error("{claim}: image {image} is not on this host (no config of that ID in the image store)")]
    ImageMissing { claim: String, image: String },
    #[error(
        "{claim}: {digest} is {whose}, not a digest. A digest is the hash of the manifest that a registry \
         serves"
    )]
    DigestIsImageId {
        claim: String,
        digest: String,
        whose: Whose,
    },
    #[error("{claim}: {reference} points at another image, {present}, not at {wanted}")]
    PointsElsewhere {
        claim: String,
        reference: String,
        present: String,
        wanted: String,
    },
    #[error("{claim}: the image has another digest in this repository already, {present}")]
    OtherDigest { claim: String, present: String },
    #[error(
        "{claim}: the image has {present} in this repository, but that is {whose}; no registry serves it"
    )]
    ImageIdInTheWay {
        claim: String,
        present: String,
        whose: Whose,
    },
    #[error("{first} and {second} contradict each other about {reference}")]
    Contradiction {
        first: String,
        second: String,
        reference: String,
    },
    #[error(
        "{claim}: {origin} says that {digest} belongs to {} ({trust}), not to image {image}",
        .images.join(", ")
    )]
    OtherImages {
        claim: String,
        digest: String,
        /// The image that the claim means.
        image: String,
        /// The images that the digest belongs to.
        images: Vec<String>,
        trust: Trust,
        origin: String,
    },
    #[error(
        "{claim}: the index {} ({}) lists {digest} for {}, but image {image} is for {own}",
        .listed.index, .listed.origin, .listed.platform
    )]
    OtherPlatform {
        claim: String,
        digest: String,
        listed: Box<Listed>,
        /// The image that the claim means.
        image: String,
        /// The platform of that image.
        own: String,
    },
    #[error(
        "{claim}: this gives {digest} to image {image}, and {other} gives it to {other_image}. \
         Only the digest of an index can belong to two images"
    )]
    OneDigestTwoImages {
        claim: String,
        digest: String,
        image: String,
        /// Another claim, or a reference on this host.
        other: String,
        other_image: String,
    },
    #[error(
        "{first} and {second} give image {image} different digests in one repository, and nothing \
         shows that both are right{}",
        converted(*.second_is_oci)
    )]
    TwoDigests {
        /// A claim without evidence.
        first: String,
        second: String,
        image: String,
        /// Whether the sources have the second digest's manifest, in OCI's format.
        second_is_oci: bool,
    },
    #[error(
        "{claim}: this is only {trust}, and --require asks for {required}{}",
        converted(*.strange_oci)
    )]
    TooWeak {
        claim: String,
        trust: Trust,
        required: Trust,
        /// Whether the sources contain an OCI manifest of an image that is not on this
        /// host.
        strange_oci: bool,
    },
    #[error("--remove {key}: {why}, and the reference store has no such key")]
    NoSuchKey { key: String, why: String },
    #[error(
        "--remove {key} is ambiguous: it is a reference, and also the key of an entry under {repository:?} that \
         Docker ignores"
    )]
    BesideReference {
        key: String,
        /// The repository that contains the entry.
        repository: String,
    },
    #[error("{claim} finds its image by {reference}, which {mover} changes at the same time")]
    MovingGround {
        claim: String,
        reference: String,
        mover: String,
    },
    #[error("{0}")]
    ChangedSince(Box<Since>),
    #[error(
        "{reference}: it pointed at {image} before transaction {transaction}, and that image is \
         not on this host any more"
    )]
    FormerImageGone {
        reference: String,
        transaction: String,
        image: String,
    },
}

/// The change of a reference after the transaction to roll back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{reference}: transaction {transaction} {}, and now it {}{}",
    .made.as_ref().map_or("removed it".to_owned(), |image| format!("pointed it at {image}")),
    .now.as_ref().map_or("is not there".to_owned(), |image| format!("points at {image}")),
    .by.as_ref().map_or(String::new(), |id| format!(", since transaction {id}"))
)]
pub struct Since {
    pub reference: String,
    pub transaction: String,
    /// The image that the transaction pointed the reference at. `None` if it removed
    /// the reference.
    pub made: Option<String>,
    pub now: Option<String>,
    /// The arguments of an apply after which the rollback can go on.
    pub first: String,
    /// The later transaction that changed the reference. `None` if no transaction
    /// did.
    pub by: Option<String>,
}

/// The kind of reference or digest that conflicts with a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Displaced {
    /// An image ID that was recorded as a digest. Replacing it loses nothing.
    ImageId,
    /// A reference or digest that may be right.
    Other,
}

impl Refusal {
    /// The kind of reference that `--replace` would replace. `None` if `--replace` is not
    /// enough to meet the claim.
    pub const fn displaces(&self) -> Option<Displaced> {
        match self {
            Self::ImageIdInTheWay { .. } => Some(Displaced::ImageId),
            Self::PointsElsewhere { .. } | Self::OtherDigest { .. } => Some(Displaced::Other),
            _ => None,
        }
    }

    /// The refused claim, and the claim that the user may have meant.
    pub fn meant(&self) -> Option<(&str, &str)> {
        match self {
            Self::NoSuchReference { claim, near, .. }
            | Self::EmptyRepository { claim, near, .. } => Some((claim, near.instead.as_deref()?)),
            _ => None,
        }
    }

    pub fn help(&self) -> String {
        let help = match self {
            Self::NoSuchReference { near, .. } | Self::EmptyRepository { near, .. }
                if !near.names.is_empty() =>
            {
                "name the one that you mean, or load the image first"
            }
            Self::NoSuchReference { nameless, .. } | Self::EmptyRepository { nameless, .. }
                if !nameless.is_empty() =>
            {
                "if it is one of the images without a name, claim NAME@sha256:HEX=IMAGE-ID; or load the \
                 image first"
            }
            Self::NoSuchReference { others, .. } if !others.is_empty() => {
                "name one that is here, or load the image first"
            }
            Self::NoSuchReference { .. }
            | Self::EmptyRepository { .. }
            | Self::ImageMissing { .. }
            | Self::FormerImageGone { .. } => {
                "load the image first. To see what is here: digestfix status"
            }
            Self::SeveralImages { .. } => {
                "say which image is meant, by its tag (NAME:TAG@sha256:HEX) or its ID (NAME@sha256:HEX=IMAGE)"
            }
            Self::NoSuchImage { .. } => "see which IDs are here: digestfix status --no-trunc",
            Self::AmbiguousImage { .. } => "write more of the ID",
            Self::DigestIsImageId { .. } => {
                "on a host that pulled the image: docker images --digests; or digestfix export, then its \
                 file here: --from FILE"
            }
            Self::ImageIdInTheWay { .. } => "run the same command with --replace",
            Self::OtherPlatform { .. } => {
                "claim the digest that the index has for this host's platform, or load the image \
                 that has this digest"
            }
            Self::PointsElsewhere { .. } => "to move the reference: --replace",
            Self::OtherDigest { .. } => "to drop the other digest: --replace",
            Self::Contradiction { .. } => "leave one of the two out",
            Self::OtherImages { .. } => {
                "claim the digest that docker images --digests shows on the host that pulled \
                 this image, or load the image that has this digest"
            }
            Self::OneDigestTwoImages { .. } => {
                "bring the index with its manifests (digestfix export, on a host that pulled it; then --from FILE), or \
                 leave one of the claims out"
            }
            Self::TwoDigests { .. } => {
                "bring the manifests (digestfix export, on a host that pulled the image; then --from FILE), or leave \
                 one of the claims out"
            }
            Self::TooWeak { .. } => {
                "bring evidence (digestfix export, on a host that pulled the image; then --from \
                 FILE), or lower --require"
            }
            Self::MovingGround { .. } => {
                "name the image by its ID (NAME@sha256:HEX=IMAGE): digestfix status --no-trunc"
            }
            Self::NoSuchKey { .. } => {
                "write one tag (NAME:TAG), one digest (NAME@sha256:HEX) or a key. To see the keys that Docker \
                 ignores: digestfix status"
            }
            Self::BesideReference { .. } => "the entry does no harm: leave it",
            Self::ChangedSince(since) => {
                return format!(
                    "to roll back all the same: digestfix apply {}; then run the same command again",
                    since.first
                );
            }
        };
        help.to_owned()
    }
}

/// Explains why skopeo's oci: and oci-archive: do not prove a digest. skopeo converts an
/// image from Docker's format, which changes its config and therefore its ID, and its
/// manifest and therefore its digest.
pub const CONVERTED: &str = "One manifest is in OCI's format. If a tool converted it from Docker's format \
                             (as skopeo does for oci: and oci-archive:), its digest and image ID differ from \
                             those in the registry. These commands keep the registry's bytes: skopeo copy \
                             docker://IMAGE dir:DIR, skopeo inspect --raw docker://IMAGE";

fn converted(may_be: bool) -> String {
    if may_be {
        format!(". {CONVERTED}")
    } else {
        String::new()
    }
}

fn known(others: &[String]) -> String {
    if others.is_empty() {
        String::new()
    } else {
        format!("; the repository has:{}", listed(others))
    }
}

/// The text that lists images without a name, one of which the claim may mean.
fn maybe(nameless: &[ImageId]) -> String {
    match nameless {
        [] => String::new(),
        images => format!("; images without a name: {}", Ids(images)),
    }
}

fn listed(lines: &[String]) -> String {
    format!(" {}", lines.join("; "))
}
