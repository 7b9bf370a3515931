//! Row: one line of a tool's output about one image, with a name, a tag, a digest and
//! perhaps an image ID.
//!
//! digestfix combines a name with a digest in another column only if the row has no other
//! possible meaning.

use crate::image::digest::{Algorithm, Digest, ImageId};
use crate::image::reference::{Reference, Tag};

/// The shortest text that counts as an image ID. `docker images` shows this number of
/// digits.
const SHORT_ID: usize = 12;

/// Prefixes that tools put before a reference.
const SCHEMES: [&str; 5] = [
    "docker-pullable://",
    "docker://",
    "containerd://",
    "docker-image://",
    "cri-o://",
];

/// A line with more words than this is not a row of a table.
pub(super) const MOST_COLUMNS: usize = 16;

/// The cells of one row, as unparsed text.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Row<'a> {
    pub name: &'a str,
    pub tag: &'a str,
    pub digest: &'a str,
    pub id: &'a str,
}

/// What one row of a table says about an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The row contains a digest and a whole image ID.
    Record(Reference, ImageId),
    /// The row contains a digest and the first digits of an image ID.
    Beginning(Reference, String),
    /// The row contains a name and a digest, but no image ID.
    Pin(Reference),
    Nothing(Lack),
}

/// The part of a row that is missing or incomplete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// The row has no digest, for example because the host loaded the image and did not
    /// pull it.
    Digest,
    /// The row has a digest, but no name that clearly belongs to the digest.
    Name,
    /// The row has only the first digits of a digest.
    Digits,
}

impl Row<'_> {
    pub(super) fn meaning(&self) -> Meaning {
        let (named, digest) = match self.parts() {
            Ok(parts) => parts,
            Err(lack) => return Meaning::Nothing(lack),
        };
        let reference = with_digest(&named, &digest);
        let id = none_or(self.id).unwrap_or_default();
        let id = id.strip_prefix("sha256:").unwrap_or(id);
        // With the containerd image store, Docker shows the digest instead of the image
        // ID.
        if !is_bare_id(id) || digest.hex().starts_with(id) {
            return Meaning::Pin(reference);
        }
        let untagged = named.repository().clone().with_digest(digest);
        match format!("sha256:{id}").parse() {
            Ok(id) => Meaning::Record(untagged, id),
            Err(_) => Meaning::Beginning(untagged, id.to_owned()),
        }
    }

    /// The name (with its tag, if the row has one) and the digest.
    fn parts(&self) -> Result<(Reference, Digest), Lack> {
        let name = none_or(self.name).map(without_scheme);
        // `ctr images ls` shows each image a second time, with its digest as the name.
        let name = name.filter(|name| !is_digest(name));
        let named = name.and_then(|name| Reference::parse(name).ok());
        let digest = match none_or(self.digest) {
            Some(text) => Some(text.parse::<Digest>().map_err(|_| cut_or_none(text))?),
            None => None,
        };
        let own = named.as_ref().and_then(Reference::digest).cloned();
        let digest = match (digest, own) {
            (Some(digest), Some(own)) if digest != own => return Err(Lack::Name),
            (Some(digest), _) | (None, Some(digest)) => digest,
            (None, None) => return Err(Lack::Digest),
        };
        let Some(named) = named else {
            return Err(match name {
                None => Lack::Digest,
                Some(_) => Lack::Name,
            });
        };
        match none_or(self.tag) {
            // In Helm's values, a tag may contain a digest (`1.4@sha256:…`). The name may
            // also contain the tag.
            Some(text) => {
                let tag = text.split_once('@').map_or(text, |(tag, _)| tag);
                let tag: Tag = tag.parse().map_err(|_| Lack::Name)?;
                if named.tag().is_some_and(|other| *other != tag) {
                    return Err(Lack::Name);
                }
                Ok((named.repository().clone().with_tag(tag), digest))
            }
            None => Ok((named, digest)),
        }
    }
}

/// Adds the digest to a name, and keeps the name's tag.
pub(super) fn with_digest(named: &Reference, digest: &Digest) -> Reference {
    let repository = named.repository().clone();
    match named.tag() {
        Some(tag) => repository.with_tag(tag.clone()).pinned(digest.clone()),
        None => repository.with_digest(digest.clone()),
    }
}

/// Returns the text, or `None` for a placeholder such as `<none>`.
fn none_or(text: &str) -> Option<&str> {
    let text = text.trim();
    (!matches!(text, "" | "-" | "<none>" | "<missing>" | "null" | "none")).then_some(text)
}

pub(super) fn without_scheme(text: &str) -> &str {
    let stripped = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme));
    stripped.unwrap_or(text)
}

/// What a text in the digest column lacks: the last digits of a digest, or a whole digest.
fn cut_or_none(text: &str) -> Lack {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let hex = hex.trim_end_matches(['.', '\u{2026}']);
    if (SHORT_ID..64).contains(&hex.len()) && hex.bytes().all(is_lower_hex) {
        Lack::Digits
    } else {
        Lack::Digest
    }
}

/// Whether the whole text is a digest.
pub(super) fn is_digest(text: &str) -> bool {
    let length = "sha256:".len() + Algorithm::Sha256.hex_len();
    text.len() >= length && text.parse::<Digest>().is_ok()
}

/// Whether a text may be an image ID without `sha256:`.
pub(super) fn is_bare_id(text: &str) -> bool {
    (SHORT_ID..=64).contains(&text.len()) && text.bytes().all(is_lower_hex)
}

pub(super) const fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Reads the words of a line as a row. `None` if the line may have another meaning.
/// `apart` is true if more than a single space separates words, for example a tab.
pub(super) fn row<'a>(words: &[&'a str], apart: bool) -> Option<Row<'a>> {
    let end = |word: Option<&&'a str>| -> &'a str {
        let id = word.copied().unwrap_or_default();
        let bare = id.strip_prefix("sha256:").unwrap_or(id);
        if is_bare_id(bare) { id } else { "" }
    };
    // The image ID may be the first word.
    let (first, words) = match words {
        [first, rest @ ..] if is_bare_id(first) && rest.len() >= 2 => (*first, rest),
        _ => ("", words),
    };
    if words.len() > MOST_COLUMNS {
        return None;
    }
    let id = |behind: usize| {
        if first.is_empty() {
            end(words.get(behind))
        } else {
            first
        }
    };
    let whole = words.iter().filter(|word| is_digest(word)).count();
    match words {
        // NAME@DIGEST ID
        [pinned, _] if pin(pinned).is_some() && !id(1).is_empty() && whole == 0 => Some(Row {
            name: pinned,
            id: id(1),
            ..Row::default()
        }),
        // DIGEST NAME:TAG
        [digest, name] if is_digest(digest) && is_tagged(name) && name.contains('/') => Some(Row {
            name,
            digest,
            ..Row::default()
        }),
        // NAME:TAG DIGEST, and perhaps an image ID. A line with two digests is ambiguous,
        // because either digest could be the image ID.
        [name, digest, rest @ ..]
            if rest.len() <= 1 && whole == 1 && is_digest(digest) && is_tagged(name) =>
        {
            Some(Row {
                name,
                digest,
                id: id(2),
                ..Row::default()
            })
        }
        // A row of `docker images --digests`, where the ID follows the digest.
        [name, tag, digest, rest @ ..]
            if is_digest(digest)
                && is_name(name)
                && is_tag(tag, name)
                && (whole == 1 || rest.len() > 2)
                && (!id(3).is_empty() || rest.is_empty() && apart) =>
        {
            Some(Row {
                name,
                tag,
                digest,
                id: id(3),
            })
        }
        _ => None,
    }
}

/// Whether a word looks like a tag. Most English words would be valid tags. So the word
/// must be `latest` or have a digit, or the name must have a slash.
fn is_tag(text: &str, name: &str) -> bool {
    !is_digest(text)
        && (name.contains('/')
            || text == "latest"
            || text.bytes().any(|byte| byte.is_ascii_digit()))
}

fn is_name(text: &str) -> bool {
    Reference::parse(without_scheme(text))
        .is_ok_and(|name| name.tag().is_none() && name.digest().is_none())
}

fn is_tagged(text: &str) -> bool {
    Reference::parse(without_scheme(text))
        .is_ok_and(|name| name.tag().is_some() && name.digest().is_none())
}

/// Reads a word as a reference with a digest. Ignores a prefix such as `docker://`.
pub(super) fn pin(word: &str) -> Option<Reference> {
    pinned(without_scheme(word))
}

/// The words of a line, split at white space, quotes, brackets, and the separators of CSV
/// and `KEY=VALUE`.
pub(super) fn words(line: &str) -> impl Iterator<Item = &str> {
    let parts = |char: char| {
        char.is_whitespace()
            || matches!(
                char,
                ',' | ';'
                    | '|'
                    | '='
                    | '"'
                    | '\''
                    | '`'
                    | '('
                    | ')'
                    | '['
                    | ']'
                    | '{'
                    | '}'
                    | '<'
                    | '>'
            )
    };
    line.split(parts)
        .map(|word| word.trim_end_matches(['.', ':']))
        .filter(|word| !word.is_empty())
}

/// The length of a SHA-256 digest, including the `@`. Other digests are longer.
const SHORTEST_PIN: usize = "@sha256:".len() + 64;

/// Parses a reference with a digest. `None` for any other text.
pub(super) fn pinned(text: &str) -> Option<Reference> {
    // Check the end of the text first. This is cheap, and most texts do not end in a
    // digest.
    let (_, digest) = text.rsplit_once('@')?;
    if text.len() <= SHORTEST_PIN || digest.parse::<Digest>().is_err() {
        return None;
    }
    Reference::parse(text).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const D: &str = "sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";
    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn said(name: &str, tag: &str, digest: &str, id: &str) -> String {
        let row = Row {
            name,
            tag,
            digest,
            id,
        };
        let told = match row.meaning() {
            Meaning::Record(reference, id) => format!("{reference} = {id}"),
            Meaning::Beginning(reference, id) => format!("{reference} = {id}..."),
            Meaning::Pin(reference) => reference.to_string(),
            Meaning::Nothing(lack) => format!("no {lack:?}"),
        };
        told.replace(D, "D").replace(A, "A")
    }

    #[test]
    fn a_row_says_no_more_than_its_columns() {
        let short = &A[..12];
        for (row, expected) in [
            (("app", "1", D, A), "app@D = sha256:A"),
            (("app", "1", D, short), "app@D = aaaaaaaaaaaa..."),
            (("app", "1", D, ""), "app:1@D"),
            (("app", "1", D, &A[..11]), "app:1@D"),
            (("app", "1", D, "dddddddddddd"), "app:1@D"),
            (("app", "1", D, D), "app:1@D"),
            (("app", "<none>", D, ""), "app@D"),
            (("docker://app:1", "", D, ""), "app:1@D"),
            (("app:1", "1", D, ""), "app:1@D"),
            (("app:1", "2", D, ""), "no Name"),
            (("app", "1", "<none>", short), "no Digest"),
            (("<none>", "<none>", D, short), "no Digest"),
            (("An app", "1", D, short), "no Name"),
            (("app", "1", "dddddddddddd", short), "no Digits"),
            (("app@sha256:aa", "1", D, short), "no Name"),
        ] {
            let (name, tag, digest, id) = row;
            assert_eq!(said(name, tag, digest, id), expected, "{row:?}");
        }
        let own = format!("app:1@{D}");
        assert_eq!(said(&own, "", "", short), "app@D = aaaaaaaaaaaa...");
        assert_eq!(said(&own, "", &format!("sha256:{A}"), ""), "no Name");
    }
}
