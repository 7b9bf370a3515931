//! Docker's reference grammar: `[DOMAIN/]PATH[:TAG][@DIGEST]`.
//!
//! This module follows the rules of github.com/distribution/reference v0.6.0
//! (`ParseNormalizedNamed` and `FamiliarString`). A name without a registry belongs to
//! docker.io. A docker.io name without a namespace belongs to `library`. The *familiar*
//! form of a name omits docker.io and `library`, and Docker's reference store uses it.
//! Docker before 25 accepts fewer names, but parses them in the same way
//! (`tests/reference_agreement.rs`).
//!
//! The familiar form of some names means another repository: docker.io/foo.com/a becomes
//! foo.com/a, which is a repository of the registry foo.com.

use std::fmt;
use std::str::FromStr;

use crate::image::digest::{Digest, DigestError};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_NAMESPACE: &str = "library/";
const LOCALHOST: &str = "localhost";

/// The longest repository path, without its domain, in bytes.
const PATH_MAX: usize = 255;

/// The longest tag, in bytes.
const TAG_MAX: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Docker reads 64 hexadecimal digits as an image ID, not as a name.
    #[error("64 hexadecimal digits are an image ID, not a repository name")]
    Identifier,
    #[error("a repository name must be lower-case")]
    Uppercase,
    #[error("the repository name is missing")]
    Empty,
    #[error("{0:?} is not a repository name")]
    Name(String),
    #[error("a repository name has at most {PATH_MAX} characters")]
    TooLong,
    #[error(
        "{0:?} is not a tag (at most {TAG_MAX} letters, digits, '_', '.' and '-', not beginning \
         with '.' or '-')"
    )]
    Tag(String),
    #[error(transparent)]
    Digest(#[from] DigestError),
}

/// A repository: the domain of a registry, and a path in that registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    domain: String,
    path: String,
}

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
    /// The name with its domain: `docker.io/library/httpd`.
    pub fn full(&self) -> String {
        if self.domain.is_empty() {
            self.path.clone()
        } else {
            format!("{}/{}", self.domain, self.path)
        }
    }

    /// The name as people write it: `httpd`.
    pub fn familiar(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.full();
        }
        match self.path.strip_prefix(OFFICIAL_NAMESPACE) {
            Some(name) if !name.contains('/') => name.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// Whether the familiar name parses as this repository. For `docker.io/foo.com/x`,
    /// the answer is no: `foo.com/x` is a repository of the registry foo.com.
    pub fn is_found_by_familiar_name(&self) -> bool {
        Reference::parse(&self.familiar()).is_ok_and(|found| found.repository == *self)
    }

    /// The registry's domain, including its port. Empty if the first part of the name
    /// looks like a domain but is not a valid domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub const fn with_tag(self, tag: Tag) -> Reference {
        Reference {
            repository: self,
            tag: Some(tag),
            digest: None,
        }
    }

    pub const fn with_digest(self, digest: Digest) -> Reference {
        Reference {
            repository: self,
            tag: None,
            digest: Some(digest),
        }
    }
}

impl Tag {
    /// The tag that Docker assumes for a name that has neither a tag nor a digest.
    pub fn latest() -> Self {
        Self("latest".to_owned())
    }

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
    /// Parses a reference as Docker does, with a short name (`httpd`) or a full name.
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
        // If the first part of the name looks like a domain but is not a valid domain,
        // the whole name may still be a valid path without a domain.
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
        let digest = digest.map(str::parse).transpose()?;
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

    /// Adds a digest to the reference.
    pub fn pinned(self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self
        }
    }

    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    pub const fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The familiar form, which Docker's reference store uses: `httpd:2.4`.
    pub fn familiar(&self) -> String {
        self.after(self.repository.familiar())
    }

    /// The full form, with domain and namespace: `docker.io/library/httpd:2.4`.
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

/// Splits an image name into the registry and the path. The registry is docker.io if the
/// name has none.
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

/// Whether a text consists of lower-case letters and digits, in groups joined by one `.`,
/// one or two `_`, or any number of `-`.
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

/// Serde functions for references with short names (`httpd:1`), as in Docker's reference
/// store.
pub(crate) mod familiar {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::Reference;

    pub fn serialize<S: Serializer>(reference: &Reference, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&reference.familiar())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Reference, D::Error> {
        let text = String::deserialize(from)?;
        Reference::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn parsed(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    fn refused(text: &str) -> ReferenceError {
        Reference::parse(text).unwrap_err()
    }

    fn sha256() -> String {
        format!("sha256:{}", "0123456789abcdef".repeat(4))
    }

    #[test]
    fn docker_io_and_library_are_what_a_bare_name_leaves_out() {
        for (text, full, familiar) in [
            ("httpd", "docker.io/library/httpd", "httpd"),
            ("library/httpd", "docker.io/library/httpd", "httpd"),
            ("docker.io/httpd", "docker.io/library/httpd", "httpd"),
            ("index.docker.io/httpd", "docker.io/library/httpd", "httpd"),
            ("docker.io", "docker.io/library/docker.io", "docker.io"),
            ("a/b", "docker.io/a/b", "a/b"),
            ("library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("x/library/y", "docker.io/x/library/y", "x/library/y"),
            ("localhost", "docker.io/library/localhost", "localhost"),
            ("localhost/a", "localhost/a", "localhost/a"),
            (
                "foo.com/library/a",
                "foo.com/library/a",
                "foo.com/library/a",
            ),
            ("a:80/b", "a:80/b", "a:80/b"),
            ("FOO/b", "FOO/b", "FOO/b"),
            ("[::1]:5000/b", "[::1]:5000/b", "[::1]:5000/b"),
            ("foo_bar.com/x", "foo_bar.com/x", "foo_bar.com/x"),
        ] {
            let repository = parsed(text).repository().clone();
            assert_eq!(repository.full(), full, "{text}");
            assert_eq!(repository.familiar(), familiar, "{text}");
        }
    }

    #[test]
    fn a_path_that_begins_like_a_registry_has_an_ambiguous_familiar_form() {
        let on_docker_hub = parsed("docker.io/foo.com/a");
        let elsewhere = parsed("foo.com/a");
        assert_eq!(on_docker_hub.familiar(), elsewhere.familiar());
        assert_ne!(on_docker_hub, elsewhere);
    }

    #[test]
    fn tag_and_digest_stand_alone_or_together() {
        let digest = sha256();
        for (end, has_tag, has_digest) in [
            (String::new(), false, false),
            (":2.4".to_owned(), true, false),
            (format!("@{digest}"), false, true),
            (format!(":2.4@{digest}"), true, true),
        ] {
            let reference = parsed(&format!("httpd{end}"));
            assert_eq!(reference.tag().is_some(), has_tag);
            assert_eq!(reference.digest().is_some(), has_digest);
            assert_eq!(reference.to_string(), format!("httpd{end}"));
            assert_eq!(reference.full(), format!("docker.io/library/httpd{end}"));
        }
    }

    #[test]
    fn a_repository_makes_the_references_that_parsing_would() {
        let repository = parsed("httpd").repository().clone();
        assert_eq!(
            repository.clone().with_tag(Tag::latest()),
            parsed("httpd:latest")
        );
        let digest = sha256();
        assert_eq!(
            repository.with_digest(digest.parse().unwrap()),
            parsed(&format!("httpd@{digest}"))
        );
    }

    #[test]
    fn what_reads_as_an_image_id_is_no_name_but_may_be_part_of_one() {
        let id = "a".repeat(64);
        assert_eq!(refused(&id), ReferenceError::Identifier);
        for text in [
            format!("{id}:a"),
            format!("a/{id}"),
            id[1..].to_owned(),
            format!("{id}a"),
        ] {
            assert!(Reference::parse(&text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_registry_alone_names_nothing() {
        for text in ["", ":a", "docker.io/", "library/", "foo.com/", "@"] {
            assert!(
                matches!(
                    refused(text),
                    ReferenceError::Empty | ReferenceError::Name(_)
                ),
                "{text:?}"
            );
        }
        assert_eq!(refused(""), ReferenceError::Empty);
        assert_eq!(refused("docker.io/:a"), ReferenceError::Empty);
    }

    #[test]
    fn a_registry_has_a_host_and_perhaps_a_port() {
        for text in [
            "[]:80/a",
            "[::1/a",
            "[::1]:/a",
            "[g::]/a",
            "foo.com:/a",
            "foo.com:x/a",
            "-a.b:1/c",
            "a-.b:1/c",
            "a..b:1/c",
            ":1/a",
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn upper_case_is_for_registries_and_tags() {
        assert_eq!(refused("Httpd"), ReferenceError::Uppercase);
        assert_eq!(refused("foo.com/A"), ReferenceError::Uppercase);
        assert_eq!(parsed("FOO.com/a:B").full(), "FOO.com/a:B");
    }

    #[test]
    fn separators_stand_between_letters_one_kind_at_a_time() {
        for text in ["a.b", "a_b", "a__b", "a-b", "a----b", "a.b_c-d"] {
            assert_eq!(parsed(text).familiar(), text);
        }
        for text in [
            "a..b", "a___b", "a-_b", "a._b", "-a", "a-", "_a", "a.", "a\0", "a\n", "é",
        ] {
            assert!(matches!(refused(text), ReferenceError::Name(_)), "{text:?}");
        }
    }

    #[test]
    fn a_path_ends_at_255_and_its_registry_does_not_count() {
        let longest = "a".repeat(PATH_MAX - "library/".len());
        assert_eq!(parsed(&longest).familiar(), longest);
        assert_eq!(refused(&format!("{longest}a")), ReferenceError::TooLong);
        let longest = format!("foo.com/{}", "a".repeat(PATH_MAX));
        assert_eq!(parsed(&longest).full(), longest);
        assert_eq!(refused(&format!("{longest}a")), ReferenceError::TooLong);
    }

    #[test]
    fn a_tag_has_1_to_128_characters_and_no_separator_first() {
        for tag in ["a", "_", "1.0-rc_1", "A.", &"a".repeat(TAG_MAX)] {
            assert_eq!(tag.parse::<Tag>().unwrap().as_str(), tag);
        }
        for tag in ["", ".a", "-a", "a b", "a/b", "a:b", "é", "a\n"]
            .map(str::to_owned)
            .into_iter()
            .chain(["a".repeat(TAG_MAX + 1)])
        {
            assert_eq!(tag.parse::<Tag>(), Err(ReferenceError::Tag(tag.clone())));
            assert_eq!(refused(&format!("a:{tag}")), ReferenceError::Tag(tag));
        }
    }

    #[test]
    fn a_short_digest_is_told_how_many_digits_it_lacks() {
        assert_eq!(
            refused("a@sha256:0123456789ab").to_string(),
            "a sha256 digest has 64 hexadecimal digits, but this digest has 12"
        );
    }
}
