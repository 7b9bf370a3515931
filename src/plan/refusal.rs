//! Why a request cannot be met, in words that say what to do about it.

use std::fmt;

use crate::claims::evidence::Listed;
use crate::claims::trust::Trust;
use crate::image::digest::ImageId;
use crate::plan::hints::Ids;

/// The image that has what was taken for a digest as its ID.
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
    #[error("{claim}: there is no reference {reference} here{}{}", known(.others), maybe(.nameless))]
    NoSuchReference {
        claim: String,
        reference: String,
        /// What the same repository has.
        others: Vec<String>,
        /// Where it has nothing, the images that have no name.
        nameless: Vec<ImageId>,
    },
    #[error("{claim}: there is no image in repository {repository} here{}", maybe(.nameless))]
    EmptyRepository {
        claim: String,
        repository: String,
        nameless: Vec<ImageId>,
    },
    #[error(
        "{claim}: repository {repository} has several images; say which by its tag \
         (NAME:TAG@DIGEST) or by its ID (NAME@DIGEST=IMAGE):{}", listed(.images)
    )]
    SeveralImages {
        claim: String,
        repository: String,
        /// Each image with its references.
        images: Vec<String>,
    },
    #[error("{claim}: no image here has an ID that begins with {prefix}")]
    NoSuchImage { claim: String, prefix: String },
    #[error("{claim}: {name} can mean more than one image; write more of its ID:{}", listed(.images))]
    AmbiguousImage {
        claim: String,
        name: String,
        images: Vec<String>,
    },
    #[error(
        "{claim}: image {image} is not on this host (no config of that ID in the image store); \
         load it first"
    )]
    ImageMissing { claim: String, image: String },
    #[error(
        "{claim}: {digest} is {whose}, which no registry serves. A digest is the hash of the \
         manifest that a registry serves; `docker images --digests` shows it on a host that pulled \
         the image. (--allow-image-id-digest writes it all the same.)"
    )]
    DigestIsImageId {
        claim: String,
        digest: String,
        whose: Whose,
    },
    #[error(
        "{claim}: {reference} points at another image, {present}, not at {wanted} \
         (--replace moves it)"
    )]
    PointsElsewhere {
        claim: String,
        reference: String,
        present: String,
        wanted: String,
    },
    #[error("{claim}: the image has another digest there, {present} (--replace drops that one)")]
    OtherDigest { claim: String, present: String },
    #[error("{claim}: the image has {present} there; that is {whose}, which no registry serves")]
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
        "{claim}: {digest} is not a digest of image {image}: it is {trust} to be of {}, by {origin}",
        .images.join(", ")
    )]
    OtherImages {
        claim: String,
        digest: String,
        /// The image that the claim leads to.
        image: String,
        /// The images that it is of.
        images: Vec<String>,
        trust: Trust,
        origin: String,
    },
    #[error(
        "{claim}: by the index {} ({}), {digest} is of {}, and image {image} is of {own}",
        .listed.index, .listed.origin, .listed.platform
    )]
    OtherPlatform {
        claim: String,
        digest: String,
        listed: Box<Listed>,
        /// The image that the claim leads to.
        image: String,
        /// What that is for.
        own: String,
    },
    #[error(
        "{claim}: {digest} is to be of image {image}, and {other} has it for {other_image}. A \
         digest is of one image, unless it is an index's: bring the index and its manifests, or \
         leave one out"
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
         shows that both are right: bring the manifests, or leave one out{}",
        converted(*.second_is_oci)
    )]
    TwoDigests {
        /// A claim that nothing supports.
        first: String,
        second: String,
        image: String,
        /// The second one's manifest was brought along, in OCI's format.
        second_is_oci: bool,
    },
    #[error(
        "{claim}: it is only {trust}, and --require asks for {required}{}",
        converted(*.strange_oci)
    )]
    TooWeak {
        claim: String,
        trust: Trust,
        required: Trust,
        /// A manifest in OCI's format was brought along, of an image that is
        /// not here.
        strange_oci: bool,
    },
    #[error(
        "{claim} finds its image by {reference}, which {mover} changes at the same time; \
         name the image by its ID"
    )]
    MovingGround {
        claim: String,
        reference: String,
        mover: String,
    },
    #[error(
        "{reference}: transaction {transaction} {}, and now it {}{}",
        .made.as_ref().map_or("removed it".to_owned(), |image| format!("pointed it at {image}")),
        .now.as_ref().map_or("is not there".to_owned(), |image| format!("points at {image}")),
        .by.as_ref().map_or(String::new(), |id| format!(", by transaction {id}"))
    )]
    ChangedSince {
        reference: String,
        transaction: String,
        /// What it made the reference point at; none when it removed it.
        made: Option<String>,
        now: Option<String>,
        /// The later transaction that did that, when one did.
        by: Option<String>,
    },
    #[error(
        "{reference}: it pointed at {image} before transaction {transaction}, and there is no such \
         image here any more; load it first"
    )]
    FormerImageGone {
        reference: String,
        transaction: String,
        image: String,
    },
}

/// What to do about refusals, where one thing does for all of them.
pub fn help(refusals: &[Refusal]) -> Option<String> {
    let mut each = refusals.iter();
    let is_id = |refusal: &Refusal| matches!(refusal, Refusal::ImageIdInTheWay { .. });
    (!refusals.is_empty() && each.all(is_id)).then(|| "the same command with --replace".to_owned())
}

/// What skopeo's oci: and oci-archive: do to an image in Docker's format: they
/// change its config, and so its ID, and its manifest, and so its digest.
pub const CONVERTED: &str = "A manifest in OCI's format was brought along: where it was converted \
    from Docker's (skopeo's oci: and oci-archive: do), it has another digest and another image ID \
    than the registry's. These keep the registry's bytes: skopeo copy docker://IMAGE dir:DIR, \
    skopeo inspect --raw docker://IMAGE";

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

/// What a claim may be about that names nothing here.
fn maybe(nameless: &[ImageId]) -> String {
    match nameless {
        [] => String::new(),
        images => format!(
            "; without a name are here: {}; if it is one of them: NAME@DIGEST=IMAGE-ID",
            Ids(images)
        ),
    }
}

fn listed(lines: &[String]) -> String {
    format!(" {}", lines.join("; "))
}
