//! Refusal: why digestfix refuses a request, and what the user can do about it.

use std::fmt;

use crate::claims::evidence::Listed;
use crate::claims::trust::Trust;
use crate::image::digest::ImageId;
use crate::plan::hints::{Ids, Near};

/// If a claim contains an image ID in place of a digest: whether the claim's own image or
/// another image has that ID.
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
        /// All references of the repository on this host.
        others: Vec<String>,
        near: Box<Near>,
        /// The images without a name on this host. Empty if the repository has
        /// references.
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
    #[error(
        "{claim}: image {image} is not on this host (the image store has no config with this ID)"
    )]
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
    #[error("{claim}: the image already has another digest in this repository: {present}")]
    OtherDigest { claim: String, present: String },
    #[error(
        "{claim}: this host records {present} for the image, but that digest is {whose}, which no registry \
         serves"
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
        /// The platform of the image that the claim means.
        own: String,
    },
    #[error(
        "{claim}: the claim gives {digest} to image {image}, and {other} gives it to {other_image}. \
         Only the digest of an index can belong to two images"
    )]
    OneDigestTwoImages {
        claim: String,
        digest: String,
        image: String,
        /// The other claim, or the reference on this host, that gives the digest to
        /// another image.
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
        /// Whether the files contain the second digest's manifest, in OCI's format.
        second_is_oci: bool,
    },
    #[error(
        "{claim}: the claim is only {trust}, and --require asks for {required}{}",
        converted(*.strange_oci)
    )]
    TooWeak {
        claim: String,
        trust: Trust,
        required: Trust,
        /// Whether the files contain an OCI manifest of an image that is not on this
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
    #[error(
        "{claim} finds its image by {reference}, but the same request changes this reference: \
         {mover}"
    )]
    MovingGround {
        claim: String,
        reference: String,
        mover: String,
    },
    #[error("{0}")]
    ChangedSince(Box<Since>),
    #[error(
        "{reference}: before transaction {transaction}, the reference pointed at {image}, which is no longer \
         on this host"
    )]
    FormerImageGone {
        reference: String,
        transaction: String,
        image: String,
    },
}

/// A reference that changed again after the transaction that the user wants to roll back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{reference}: transaction {transaction} {}, and now the reference {}{}",
    .made.as_ref().map_or("removed it".to_owned(), |image| format!("pointed it at {image}")),
    .now.as_ref().map_or("does not exist".to_owned(), |image| format!("points at {image}")),
    .by.as_ref().map_or(String::new(), |id| format!(", since transaction {id}"))
)]
pub struct Since {
    pub reference: String,
    pub transaction: String,
    /// The image that the reference pointed at after the transaction. `None` if the
    /// transaction removed the reference.
    pub made: Option<String>,
    pub now: Option<String>,
    /// Arguments for `digestfix apply`. After that command, the rollback can continue.
    pub first: String,
    /// The later transaction that changed the reference. `None` if another program
    /// changed the reference.
    pub by: Option<String>,
}

/// The kind of reference or digest that conflicts with a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Displaced {
    /// An image ID that Docker records as a digest. To replace an image ID with a digest
    /// loses nothing.
    ImageId,
    /// A reference or digest that may be correct. So `--replace` may lose information.
    Other,
}

impl Refusal {
    /// The kind of reference that `--replace` would replace. `None` if the claim fails
    /// even with `--replace`.
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
                "if you mean the image with the similar name, write that name. If your claim is \
                 right, load the image first"
            }
            Self::NoSuchReference { nameless, .. } | Self::EmptyRepository { nameless, .. }
                if !nameless.is_empty() =>
            {
                "if you mean an image without a name, claim NAME@sha256:HEX=IMAGE-ID; or load the image \
                 first"
            }
            Self::NoSuchReference { others, .. } if !others.is_empty() => {
                "write a name that this host has, or load the image first"
            }
            Self::NoSuchReference { .. }
            | Self::EmptyRepository { .. }
            | Self::ImageMissing { .. }
            | Self::FormerImageGone { .. } => {
                "load the image first. To see the images on this host: digestfix status"
            }
            Self::SeveralImages { .. } => {
                "name the image by its tag (NAME:TAG@sha256:HEX) or by its ID (NAME@sha256:HEX=IMAGE)"
            }
            Self::NoSuchImage { .. } => {
                "to see the image IDs on this host: digestfix status --no-trunc"
            }
            Self::AmbiguousImage { .. } => "write more digits of the image ID",
            Self::DigestIsImageId { .. } => {
                "to see the digest, on a host that pulled the image: docker images --digests; or run \
                 digestfix export there, and bring its file: --from FILE"
            }
            Self::ImageIdInTheWay { .. } => "run the same command with --replace",
            Self::OtherPlatform { .. } => {
                "claim the digest that the index has for this host's platform, or load the image \
                 that has this digest"
            }
            Self::PointsElsewhere { .. } => "to move the reference: --replace",
            Self::OtherDigest { .. } => "to drop the other digest: --replace",
            Self::Contradiction { .. } => "leave out one of the two that contradict each other",
            Self::OtherImages { .. } => {
                "claim the digest that docker images --digests shows on the host that pulled \
                 this image, or load the image to which the claimed digest belongs"
            }
            Self::OneDigestTwoImages { .. } => {
                "bring the index and its manifests (digestfix export, on a host that pulled the image; then --from \
                 FILE), or leave out one of the claims"
            }
            Self::TwoDigests { .. } => {
                "bring the manifests (digestfix export, on a host that pulled the image; then --from FILE), or leave \
                 out one of the claims"
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
            Self::BesideReference { .. } => "the entry does no harm: leave the entry as it is",
            Self::ChangedSince(since) => {
                return format!(
                    "to roll back anyway: digestfix apply {}; then run the same command again",
                    since.first
                );
            }
        };
        help.to_owned()
    }
}

/// Explains why an image that skopeo copied to oci: or oci-archive: does not prove a
/// digest. The conversion from Docker's format changes the image ID and the digest.
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

/// Lists the images without a name on this host, because the claim may mean one of them.
fn maybe(nameless: &[ImageId]) -> String {
    match nameless {
        [] => String::new(),
        images => format!("; images without a name: {}", Ids(images)),
    }
}

fn listed(lines: &[String]) -> String {
    format!(" {}", lines.join("; "))
}
