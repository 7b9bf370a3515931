//! Claims: statements about which image a reference should point at.
//!
//! A claim typed on the command line is a pinned reference (`NAME:TAG@DIGEST`,
//! `NAME@DIGEST`) or `REF=IMAGE`. Other claims come from files
//! ([`crate::claims::source`]).

use std::fmt;
use std::str::FromStr;

use crate::claims::mistake;
use crate::claims::row::{MOST_COLUMNS, Meaning, row, without_scheme, words};
use crate::image::digest::{Digest, ImageId};
use crate::image::reference::{Reference, ReferenceError, Repository, Tag};

/// One parsed claim. digestfix has not yet looked up the claim's image on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub text: String,
    pub statement: Statement,
    pub origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A user typed the claim on the command line, so the claim's image must be on this
    /// host.
    Typed,
    /// The user pasted a row of `docker images --digests` that shows the image's ID and
    /// digest.
    Pasted,
    /// The claim is from a file. The string names the file, and the line if known. The
    /// image may exist only on another host.
    Source(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Typed => f.write_str("typed"),
            Self::Pasted => f.write_str("the pasted row"),
            Self::Source(place) => f.write_str(place),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// `NAME:TAG@DIGEST`: the image tagged `NAME:TAG` also has the reference
    /// `NAME@DIGEST`.
    TaggedHasDigest {
        /// The repository of both references.
        repository: Repository,
        tag: Tag,
        digest: Digest,
    },
    /// `NAME@DIGEST`: the only image of the repository NAME has that digest.
    OnlyImageHasDigest {
        repository: Repository,
        digest: Digest,
    },
    /// `REF=IMAGE`: the reference REF points at the image IMAGE.
    PointsAt {
        /// A reference with either a tag or a digest.
        reference: Reference,
        image: ImageName,
    },
    /// A file contains the manifest with this digest. The image of the manifest gets this
    /// digest in each of the image's repositories on this host.
    ManifestBrought {
        digest: Digest,
        /// The repository that the file names. If the image is in this repository,
        /// digestfix adds the digest only to this repository.
        repository: Option<Repository>,
        /// Whether an index lists the manifest. If so, the manifest may be for another
        /// platform.
        in_index: bool,
    },
}

/// The name of an image in a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageName {
    Id(ImageId),
    /// The beginning of an ID, after `sha256:`.
    Prefix(String),
    /// A reference that points at the image; it has a tag or a digest.
    Reference(Reference),
    /// A reference or the beginning of an image ID: the text `cafe` could be both.
    ReferenceOrPrefix(Reference, String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a claim: {problem}")]
pub struct ClaimError {
    pub text: String,
    problem: Problem,
    /// The corrected claim, if digestfix knows the mistake and can correct it.
    pub instead: Option<String>,
    /// Whether the claim is incomplete, and the user must look up the missing part on a
    /// host that pulled the image.
    pub is_elsewhere: bool,
}

impl ClaimError {
    fn new(text: String, problem: Problem) -> Self {
        Self {
            text,
            problem,
            instead: None,
            is_elsewhere: false,
        }
    }

    /// Whether the text names an image, but no digest.
    pub fn lacks_digest(&self) -> bool {
        self.problem == Problem::NoDigest
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Reference(#[from] ReferenceError),
    #[error("{0}")]
    Mistake(String),
    #[error("the digest is missing; write NAME:TAG@sha256:HEX, NAME@sha256:HEX or REF=IMAGE")]
    NoDigest,
    #[error("the part left of \"=\" must be a tag (NAME:TAG) or a digest (NAME@sha256:HEX)")]
    NameOnly,
    #[error(
        "the part left of \"=\" must be either a tag or a digest, not both; write one claim for NAME:TAG and \
         one for NAME@sha256:HEX"
    )]
    TagAndDigest,
    #[error(
        "the part right of \"=\" must be an image ID, the first digits of an image ID, or a reference: {0}"
    )]
    Image(ReferenceError),
    #[error("in an image ID, 1 to 64 hexadecimal digits (0-9, a-f) follow \"sha256:\"")]
    IdDigits,
    #[error(
        "\"sha256\" cannot be a repository name, because the engine would read the name as a digest"
    )]
    AmbiguousName,
    #[error(
        "the engine stores {full} under the short name {familiar}, but {familiar} is the name of another \
         repository; tag the image with another name"
    )]
    AnothersName { full: String, familiar: String },
}

impl Claim {
    pub const fn digest(&self) -> Option<&Digest> {
        match &self.statement {
            Statement::TaggedHasDigest { digest, .. }
            | Statement::OnlyImageHasDigest { digest, .. }
            | Statement::ManifestBrought { digest, .. } => Some(digest),
            Statement::PointsAt { reference, .. } => reference.digest(),
        }
    }

    /// True if the claim adds this reference. Also true if the claim finds its image by
    /// this reference.
    pub fn is_about(&self, one: &Reference) -> bool {
        match &self.statement {
            Statement::TaggedHasDigest {
                repository,
                tag,
                digest,
            } => {
                one.repository() == repository
                    && (one.tag() == Some(tag) || one.digest() == Some(digest))
            }
            Statement::OnlyImageHasDigest { repository, digest } => {
                one.repository() == repository && one.digest() == Some(digest)
            }
            Statement::PointsAt { reference, image } => {
                let names = match image {
                    ImageName::Reference(name) | ImageName::ReferenceOrPrefix(name, _) => {
                        name == one
                    }
                    ImageName::Id(_) | ImageName::Prefix(_) => false,
                };
                names || reference == one
            }
            // A manifest does not show the repository of its image.
            Statement::ManifestBrought { .. } => false,
        }
    }

    /// Builds a claim from a file's content. Fails if the engine cannot store the
    /// repository name.
    pub fn sourced(text: String, statement: Statement, place: &str) -> Result<Self, ClaimError> {
        let repository = match &statement {
            Statement::TaggedHasDigest { repository, .. }
            | Statement::OnlyImageHasDigest { repository, .. } => Some(repository),
            Statement::PointsAt { reference, .. } => Some(reference.repository()),
            Statement::ManifestBrought { repository, .. } => repository.as_ref(),
        };
        if let Some(Err(problem)) = repository.map(usable) {
            return Err(ClaimError::new(text, problem));
        }
        Ok(Self {
            text,
            statement,
            origin: Origin::Source(place.to_owned()),
        })
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.origin {
            Origin::Typed | Origin::Pasted => f.write_str(&self.text),
            Origin::Source(place) => write!(f, "{} ({place})", self.text),
        }
    }
}

impl FromStr for Claim {
    type Err = ClaimError;

    fn from_str(text: &str) -> Result<Self, ClaimError> {
        let (statement, origin) = match pasted(text) {
            Some(record @ Statement::PointsAt { .. }) => (Ok(record), Origin::Pasted),
            Some(pin) => (Ok(pin), Origin::Typed),
            None => (statement(text), Origin::Typed),
        };
        let text = text.to_owned();
        match statement {
            Ok(statement) => Ok(Self {
                text,
                statement,
                origin,
            }),
            Err(problem) => Err(mistaken(&text, problem)),
        }
    }
}

/// The error for a text that is not a claim. The error describes a known mistake if the
/// user made one. Otherwise, the error contains the parser's message.
fn mistaken(text: &str, problem: Problem) -> ClaimError {
    let Some(mistake) = mistake::of(text) else {
        return ClaimError::new(text.to_owned(), problem);
    };
    let parsed = mistake.instead.as_deref().map(statement);
    let what = match &parsed {
        Some(Err(other)) => format!("{}; and {other}", mistake.what),
        _ => mistake.what,
    };
    ClaimError {
        is_elsewhere: mistake.is_elsewhere,
        instead: mistake
            .instead
            .filter(|_| parsed.is_some_and(|parsed| parsed.is_ok())),
        ..ClaimError::new(text.to_owned(), Problem::Mistake(what))
    }
}

/// Parses a pasted row of `docker images --digests`. `None` for any other text.
fn pasted(text: &str) -> Option<Statement> {
    if !text.contains(char::is_whitespace) {
        return None;
    }
    let words: Vec<&str> = words(text).take(MOST_COLUMNS + 1).collect();
    let (reference, image) = match row(&words, true)?.meaning() {
        Meaning::Record(reference, image) => (reference, ImageName::Id(image)),
        Meaning::Beginning(reference, id) => (reference, ImageName::Prefix(id)),
        Meaning::Pin(pin) => return statement(&pin.full()).ok(),
        Meaning::Nothing(_) => return None,
    };
    usable(reference.repository()).ok()?;
    Some(Statement::PointsAt { reference, image })
}

fn statement(text: &str) -> Result<Statement, Problem> {
    let text = without_scheme(text);
    let Some((reference, image)) = text.split_once('=') else {
        let reference = Reference::parse(text)?;
        let repository = usable(reference.repository())?;
        return match (reference.tag(), reference.digest()) {
            (_, None) => Err(Problem::NoDigest),
            (Some(tag), Some(digest)) => Ok(Statement::TaggedHasDigest {
                repository,
                tag: tag.clone(),
                digest: digest.clone(),
            }),
            (None, Some(digest)) => Ok(Statement::OnlyImageHasDigest {
                repository,
                digest: digest.clone(),
            }),
        };
    };
    let reference = Reference::parse(reference)?;
    usable(reference.repository())?;
    match (reference.tag(), reference.digest()) {
        (None, None) => Err(Problem::NameOnly),
        (Some(_), Some(_)) => Err(Problem::TagAndDigest),
        _ => Ok(Statement::PointsAt {
            reference,
            image: image_name(image)?,
        }),
    }
}

/// Checks that the engine can store a repository's name. moby's store refuses the name
/// `sha256` (`refstore/store.go`, `addReference`). moby looks up a repository by its
/// short name, which omits `docker.io`. For some docker.io names, the short name equals
/// the name of a repository in another registry.
fn usable(repository: &Repository) -> Result<Repository, Problem> {
    if repository.familiar() == "sha256" {
        return Err(Problem::AmbiguousName);
    }
    if !repository.is_found_by_familiar_name() {
        return Err(Problem::AnothersName {
            full: repository.full(),
            familiar: repository.familiar(),
        });
    }
    Ok(repository.clone())
}

fn image_name(text: &str) -> Result<ImageName, Problem> {
    if let Some(hex) = text.strip_prefix("sha256:") {
        // The text cannot be a reference, because no repository can have the name
        // `sha256`.
        if !is_id_prefix(hex) {
            return Err(Problem::IdDigits);
        }
        return Ok(match text.parse() {
            Ok(id) => ImageName::Id(id),
            Err(_) => ImageName::Prefix(hex.to_owned()),
        });
    }
    if text.len() == 64
        && let Ok(id) = format!("sha256:{text}").parse()
    {
        return Ok(ImageName::Id(id));
    }
    let reference = pointer(text).map_err(Problem::Image)?;
    Ok(if is_id_prefix(text) {
        ImageName::ReferenceOrPrefix(reference, text.to_owned())
    } else {
        ImageName::Reference(reference)
    })
}

/// Parses a reference as `docker tag` and `docker run` do. A name without a tag means the
/// tag `latest`. If a name has a tag and a digest, the digest counts.
pub(crate) fn pointer(text: &str) -> Result<Reference, ReferenceError> {
    let reference = Reference::parse(text)?;
    let repository = reference.repository().clone();
    Ok(match (reference.tag(), reference.digest()) {
        (_, Some(digest)) => repository.with_digest(digest.clone()),
        (Some(_), None) => reference,
        (None, None) => repository.with_tag(Tag::latest()),
    })
}

fn is_id_prefix(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
