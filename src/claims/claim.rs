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

/// One claim: parsed, but not yet looked up in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub text: String,
    pub statement: Statement,
    pub origin: Origin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A user typed the claim for this host, so its image must be in this host's store.
    Typed,
    /// Like `Typed`, but the user pasted a row of a table that shows the image's ID next
    /// to its digest.
    Pasted,
    /// The claim is from this file, at this place. It may be about an image of another
    /// host.
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
    /// `NAME@DIGEST`: the only image of the repository has that digest.
    OnlyImageHasDigest {
        repository: Repository,
        digest: Digest,
    },
    /// `REF=IMAGE`: the reference points at that image.
    PointsAt {
        /// A reference with either a tag or a digest.
        reference: Reference,
        image: ImageName,
    },
    /// A source contains this manifest. The image that the manifest proves gets the
    /// digest, in each of its repositories on this host.
    ManifestBrought {
        digest: Digest,
        /// The repository that the source names. If the image is in this repository, the
        /// digest is recorded for no other repository.
        repository: Option<Repository>,
        /// Whether an index lists the manifest, so that it may be for another platform.
        in_index: bool,
    },
}

/// How a person names an image that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageName {
    Id(ImageId),
    /// The beginning of an ID, after `sha256:`.
    Prefix(String),
    /// A reference that points at the image; it has a tag or a digest.
    Reference(Reference),
    /// Either of the two: `cafe` may be a repository or the beginning of an image ID.
    ReferenceOrPrefix(Reference, String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a claim: {problem}")]
pub struct ClaimError {
    pub text: String,
    problem: Problem,
    /// The corrected claim, if digestfix knows the mistake and can correct it.
    pub instead: Option<String>,
    /// Whether a part of the claim is missing that only a host that pulled the image can
    /// show.
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
    #[error("it names no digest; write NAME:TAG@sha256:HEX, NAME@sha256:HEX or REF=IMAGE")]
    NoDigest,
    #[error("the part left of \"=\" must be a tag (NAME:TAG) or a digest (NAME@sha256:HEX)")]
    NameOnly,
    #[error(
        "the part left of \"=\" must be either a tag or a digest, not both; write one claim for NAME:TAG and \
         one for NAME@sha256:HEX"
    )]
    TagAndDigest,
    #[error(
        "the part right of \"=\" must be an image ID, the beginning of one, or a reference: {0}"
    )]
    Image(ReferenceError),
    #[error("in an image ID, 1 to 64 hexadecimal digits (0-9, a-f) follow \"sha256:\"")]
    IdDigits,
    #[error("\"sha256\" cannot be a repository name: the engine would take it for a digest")]
    AmbiguousName,
    #[error(
        "the engine keeps {full} under {familiar}, the name of another repository; tag the image with \
         another name"
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

    /// Whether the claim adds this reference, or finds its image by this reference.
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
            // A manifest may be for an image in any repository, so digestfix searches all
            // repositories.
            Statement::ManifestBrought { .. } => false,
        }
    }

    /// Builds the claim for a statement in a file. Fails if the engine cannot store the
    /// name in the statement.
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

/// The error for a text that is not a claim. Names the user's mistake if it is a known one;
/// otherwise, reports the parser's problem.
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

/// The statement of a pasted row of `docker images --digests`. `None` if the text is not
/// such a row.
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
/// `sha256` (`refstore/store.go`, `addReference`). moby also finds a repository by its
/// familiar name, and the familiar form of some docker.io names is the name of a
/// repository in another registry.
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
        // As a reference, this text would be a tag of a repository `sha256`. Such a
        // repository cannot exist.
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

/// Parses a reference as `docker tag` and `docker run` do: a name without a tag means the
/// tag `latest`, and a digest overrides a tag beside it.
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
