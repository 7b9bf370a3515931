//! Why a request cannot be met, in words that say what to do about it.

use crate::claims::trust::Trust;

/// Why a request cannot be met.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The claim's way to its image leads nowhere.
    #[error("{claim}: there is no reference {reference} here{}", known(.others))]
    NoSuchReference {
        /// The claim.
        claim: String,
        /// What it looked for.
        reference: String,
        /// What the same repository has.
        others: Vec<String>,
    },
    /// `NAME@DIGEST` for a repository that has no image.
    #[error("{claim}: there is no image in repository {repository} here")]
    EmptyRepository {
        /// The claim.
        claim: String,
        /// The repository.
        repository: String,
    },
    /// `NAME@DIGEST` for a repository that has several images.
    #[error(
        "{claim}: repository {repository} has several images; say which by its tag \
         (NAME:TAG@DIGEST) or by its ID (NAME@DIGEST=IMAGE):{}", listed(.images)
    )]
    SeveralImages {
        /// The claim.
        claim: String,
        /// The repository.
        repository: String,
        /// Each image with its references.
        images: Vec<String>,
    },
    /// No image has such an ID.
    #[error("{claim}: no image here has an ID that begins with {prefix}")]
    NoSuchImage {
        /// The claim.
        claim: String,
        /// What was given.
        prefix: String,
    },
    /// More than one image has such an ID, or it is a reference as well.
    #[error("{claim}: {name} can mean more than one image; write more of its ID:{}", listed(.images))]
    AmbiguousImage {
        /// The claim.
        claim: String,
        /// What was given.
        name: String,
        /// What it can mean.
        images: Vec<String>,
    },
    /// The store names an image whose config the image store does not have.
    #[error(
        "{claim}: image {image} is not on this host (no config of that ID in the image store); \
         load it first"
    )]
    ImageMissing {
        /// The claim.
        claim: String,
        /// The image's ID.
        image: String,
    },
    /// The common mistake: an image ID typed where a digest belongs.
    #[error(
        "{claim}: {digest} is the ID of an image on this host, not a registry's digest. A digest \
         is the hash of the manifest that a registry serves; `docker images --digests` shows it \
         on a host that pulled the image. (--allow-image-id-digest writes it all the same.)"
    )]
    DigestIsImageId {
        /// The claim.
        claim: String,
        /// The digest.
        digest: String,
    },
    /// The reference points at another image.
    #[error(
        "{claim}: {reference} points at another image, {present}, not at {wanted} \
         (--replace moves it)"
    )]
    PointsElsewhere {
        /// The claim.
        claim: String,
        /// The reference.
        reference: String,
        /// What it points at.
        present: String,
        /// What the claim wants.
        wanted: String,
    },
    /// The image has another digest in the same repository.
    #[error("{claim}: the image has another digest there, {present} (--replace drops that one)")]
    OtherDigest {
        /// The claim.
        claim: String,
        /// The reference that it has.
        present: String,
    },
    /// Two claims about one reference.
    #[error("{first} and {second} contradict each other about {reference}")]
    Contradiction {
        /// A claim.
        first: String,
        /// Another.
        second: String,
        /// What both are about.
        reference: String,
    },
    /// What was brought along says that the digest is another image's.
    #[error(
        "{claim}: {digest} is not a digest of image {image}: it is {trust} to be of {}, by {origin}",
        .images.join(", ")
    )]
    OtherImages {
        /// The claim.
        claim: String,
        /// The digest.
        digest: String,
        /// The image that the claim leads to.
        image: String,
        /// The images that it is of.
        images: Vec<String>,
        /// How far that is known.
        trust: Trust,
        /// Where from.
        origin: String,
    },
    /// The same digest for two images, in repositories of their own.
    #[error(
        "{claim}: {digest} is to be of image {image}, and {other} has it for {other_image}. A \
         digest is of one image, unless it is an index's: bring the index and its manifests, or \
         leave one out"
    )]
    OneDigestTwoImages {
        /// The claim.
        claim: String,
        /// The digest.
        digest: String,
        /// The image that the claim leads to.
        image: String,
        /// Another claim, or a reference on this host.
        other: String,
        /// The image that it has.
        other_image: String,
    },
    /// Two sources give an image different digests, and not both can show it.
    #[error(
        "{first} and {second} give image {image} different digests in one repository, and nothing \
         shows that both are right: bring the manifests, or leave one out{}",
        converted(*.second_is_oci)
    )]
    TwoDigests {
        /// A claim that nothing supports.
        first: String,
        /// Another.
        second: String,
        /// The image.
        image: String,
        /// The second one's manifest was brought along, in OCI's format.
        second_is_oci: bool,
    },
    /// Less trust than was demanded.
    #[error(
        "{claim}: it is only {trust}, and --require asks for {required}{}",
        converted(*.strange_oci)
    )]
    TooWeak {
        /// The claim.
        claim: String,
        /// What it has.
        trust: Trust,
        /// What it needs.
        required: Trust,
        /// A manifest in OCI's format was brought along, of an image that is
        /// not here.
        strange_oci: bool,
    },
    /// A claim finds its image by a reference that moves in the same request.
    #[error(
        "{claim} finds its image by {reference}, which {mover} changes at the same time; \
         name the image by its ID"
    )]
    MovingGround {
        /// The claim.
        claim: String,
        /// The reference that it goes by.
        reference: String,
        /// What moves it.
        mover: String,
    },
    /// A reference is no longer what the transaction to be taken back made it.
    #[error(
        "{reference}: transaction {transaction} {}, and now it {}{}",
        .made.as_ref().map_or("removed it".to_owned(), |image| format!("pointed it at {image}")),
        .now.as_ref().map_or("is not there".to_owned(), |image| format!("points at {image}")),
        .by.as_ref().map_or(String::new(), |id| format!(", by transaction {id}"))
    )]
    ChangedSince {
        /// The reference.
        reference: String,
        /// The transaction.
        transaction: String,
        /// What it made the reference point at; none when it removed it.
        made: Option<String>,
        /// What the reference points at.
        now: Option<String>,
        /// The later transaction that did that, when one did.
        by: Option<String>,
    },
    /// A reference would point at an image again that is gone.
    #[error(
        "{reference}: it pointed at {image} before transaction {transaction}, and there is no such \
         image here any more; load it first"
    )]
    FormerImageGone {
        /// The reference.
        reference: String,
        /// The transaction.
        transaction: String,
        /// The image.
        image: String,
    },
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

fn listed(lines: &[String]) -> String {
    format!(" {}", lines.join("; "))
}
