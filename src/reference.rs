//! Docker's reference grammar: `[DOMAIN/]PATH[:TAG][@DIGEST]`.
//!
//! The rules are those of github.com/distribution/reference v0.6.0
//! (`ParseNormalizedNamed` and `FamiliarString`), which every engine uses: a
//! name without a registry is one of docker.io, and one without a namespace is
//! in its `library`. The *familiar* form leaves both out, and is the one that
//! the reference store is written in.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_NAMESPACE: &str = "library/";
const LOCALHOST: &str = "localhost";

/// The longest repository path, without its domain, in bytes.
const PATH_MAX: usize = 255;

/// The longest tag, in bytes.
const TAG_MAX: usize = 128;

/// The fewest digits that read as a digest at all.
const DIGEST_HEX_MIN: usize = 32;

/// Why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Sixty-four hexadecimal digits are an image ID to Docker, not a name.
    #[error("64 hexadecimal digits are an image ID, not a repository name")]
    Identifier,
    /// Upper-case letters in the path.
    #[error("a repository name must be lower-case")]
    Uppercase,
    /// No name at all.
    #[error("it has no repository name")]
    Empty,
    /// A name that breaks the grammar.
    #[error("{0:?} is not a repository name")]
    Name(String),
    /// More than 255 bytes.
    #[error("a repository name has at most {PATH_MAX} characters")]
    TooLong,
    /// A tag that breaks the grammar.
    #[error(
        "{0:?} is not a tag (at most {TAG_MAX} letters, digits, '_', '.' and '-', not beginning \
         with '.' or '-')"
    )]
    Tag(String),
    /// A digest that is none.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// A repository: a registry's domain and a path in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    domain: String,
    path: String,
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

/// A reference: a repository with a tag, a digest, both or neither.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    repository: Repository,
    tag: Option<Tag>,
    digest: Option<Digest>,
}

impl Repository {
    /// With its domain: `docker.io/library/httpd`.
    #[must_use]
    pub fn full(&self) -> String {
        if self.domain.is_empty() {
            self.path.clone()
        } else {
            format!("{}/{}", self.domain, self.path)
        }
    }

    /// As people write it: `httpd`.
    #[must_use]
    pub fn familiar(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.full();
        }
        match self.path.strip_prefix(OFFICIAL_NAMESPACE) {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The registry's domain, with its port; empty for a name whose first
    /// component looks like a domain and cannot be one.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The path in the registry.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The reference to one of its tags.
    #[must_use]
    pub const fn with_tag(self, tag: Tag) -> Reference {
        Reference {
            repository: self,
            tag: Some(tag),
            digest: None,
        }
    }

    /// The reference to one of its digests.
    #[must_use]
    pub const fn with_digest(self, digest: Digest) -> Reference {
        Reference {
            repository: self,
            tag: None,
            digest: Some(digest),
        }
    }
}

impl Tag {
    /// The tag that a name alone stands for.
    #[must_use]
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }

    /// The tag's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let valid = (1..=TAG_MAX).contains(&text.len())
            && text.bytes().next().is_some_and(word)
            && text
                .bytes()
                .all(|byte| word(byte) || byte == b'.' || byte == b'-');
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(ReferenceError::Tag(text.to_owned()))
        }
    }
}

impl Reference {
    /// Reads a reference as Docker does, in familiar or full form.
    ///
    /// # Errors
    /// [`ReferenceError`] says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(is_lower_hex) {
            return Err(ReferenceError::Identifier);
        }
        let (domain, remainder) = split_domain(text);
        let remote = remainder.split(':').next().unwrap_or_default();
        if remote.to_lowercase() != remote {
            return Err(ReferenceError::Uppercase);
        }
        if is_domain(domain) {
            let (path, tag, digest) = split_reference(&remainder);
            return Self::assemble(domain, path, tag, digest);
        }
        // What looked like a domain and is none can still begin a path.
        let whole = format!("{domain}/{remainder}");
        let (path, tag, digest) = split_reference(&whole);
        Self::assemble("", path, tag, digest)
    }

    fn assemble(
        domain: &str,
        path: &str,
        tag: Option<&str>,
        digest: Option<&str>,
    ) -> Result<Self, ReferenceError> {
        if path.is_empty() || path == OFFICIAL_NAMESPACE {
            return Err(ReferenceError::Empty);
        }
        if !path.split('/').all(is_path_component) {
            return Err(ReferenceError::Name(path.to_owned()));
        }
        let tag = tag.map(str::parse).transpose()?;
        let digest = digest.map(parse_digest).transpose()?;
        if path.len() > PATH_MAX {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self {
            repository: Repository {
                domain: domain.to_owned(),
                path: path.to_owned(),
            },
            tag,
            digest,
        })
    }

    /// The repository.
    #[must_use]
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag.
    #[must_use]
    pub const fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The digest.
    #[must_use]
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// As the reference store has it: `httpd:2.4`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.after(self.repository.familiar())
    }

    /// With domain and namespace: `docker.io/library/httpd:2.4`.
    #[must_use]
    pub fn full(&self) -> String {
        self.after(self.repository.full())
    }

    fn after(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag.as_str());
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.familiar())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

/// The registry that a text means, and what follows it.
fn split_domain(text: &str) -> (&str, String) {
    let Some((first, rest)) = text.split_once('/') else {
        return (DEFAULT_DOMAIN, format!("{OFFICIAL_NAMESPACE}{text}"));
    };
    let (domain, remainder) = if first == LEGACY_DEFAULT_DOMAIN {
        (DEFAULT_DOMAIN, rest)
    } else if first == LOCALHOST || first.contains(['.', ':']) || first.to_lowercase() != first {
        (first, rest)
    } else {
        (DEFAULT_DOMAIN, text)
    };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        (domain, format!("{OFFICIAL_NAMESPACE}{remainder}"))
    } else {
        (domain, remainder.to_owned())
    }
}

fn split_reference(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    match named.split_once(':') {
        Some((path, tag)) => (path, Some(tag), digest),
        None => (named, None, digest),
    }
}

/// Docker's grammar wants 32 digits of anything that reads as a digest, and
/// takes upper-case ones for a reference it then refuses.
fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    match text.split_once(':') {
        Some((_, hex)) if hex.len() >= DIGEST_HEX_MIN => Ok(text.parse()?),
        _ => Err(DigestError::Form(text.to_owned()).into()),
    }
}

const fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rfind(':') {
        Some(colon) if !text.ends_with(']') => (&text[..colon], Some(&text[colon + 1..])),
        _ => (text, None),
    };
    let port_is_number =
        port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()));
    let host_is_valid = match host
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'))
    {
        Some(address) => {
            !address.is_empty()
                && address
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() || byte == b':')
        }
        None => host.split('.').all(is_domain_component),
    };
    port_is_number && host_is_valid
}

fn is_domain_component(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Lower-case letters and digits, in runs joined by one `.`, one or two `_`,
/// or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_are_alphanumeric =
        bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends_are_alphanumeric
        && bytes.split(alphanumeric).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || all_dashes(separator)
        })
}

fn all_dashes(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == b'-')
}
