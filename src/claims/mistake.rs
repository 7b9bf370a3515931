//! Mistakes: recognizes common mistakes in a typed or pasted claim, and corrects them if
//! possible.

use crate::claims::row::{is_bare_id, is_digest, is_lower_hex};
use crate::image::digest::{Algorithm, Digest};
use crate::image::reference::{Reference, Tag};

/// The number of digits of an image ID that `docker images` shows.
const SHORT_ID: usize = 12;

/// Characters that are invisible or look like a space. Each has a name for the message.
const UNSEEN: [(char, &str); 9] = [
    ('\u{200b}', "a zero-width space"),
    ('\u{200c}', "a zero-width non-joiner"),
    ('\u{200d}', "a zero-width joiner"),
    ('\u{2060}', "a word joiner"),
    ('\u{feff}', "a byte-order mark"),
    ('\u{ad}', "a soft hyphen"),
    ('\u{200e}', "a left-to-right mark"),
    ('\u{a0}', "a no-break space"),
    ('\u{3000}', "an ideographic space"),
];

/// The difference between the code points of an ASCII character and its full-width form.
const WIDE: u32 = '\u{ff01}' as u32 - '!' as u32;

/// The known mistakes in a text that is not a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mistake {
    pub what: String,
    /// The text in which digestfix has corrected the mistakes that it can correct. `None`
    /// if digestfix cannot correct any mistake.
    pub instead: Option<String>,
    /// Whether the claim is incomplete, and the user must look up the missing part on a
    /// host that pulled the image.
    pub is_elsewhere: bool,
}

/// A function that recognizes one kind of mistake. It returns a description of the
/// mistake, and the corrected text.
type Repair = fn(&str) -> Option<(String, String)>;

/// Looks for known mistakes in a text that is not a claim. `None` if the text has no
/// known mistake.
pub(super) fn of(text: &str) -> Option<Mistake> {
    if let Some(what) = beyond_repair(text) {
        return Some(Mistake {
            what,
            instead: None,
            is_elsewhere: true,
        });
    }
    let repairs: [Repair; 7] = [
        seen,
        narrow,
        bare,
        without_scheme,
        without_slash,
        lower,
        named,
    ];
    let mut repaired = text.to_owned();
    let mut what = Vec::new();
    for repair in repairs {
        if let Some((mistake, instead)) = repair(&repaired) {
            what.push(mistake);
            repaired = instead;
        }
    }
    what.extend(beyond_repair(&repaired).filter(|_| repaired != text));
    what.extend(strange(&repaired));
    (!what.is_empty()).then(|| Mistake {
        what: what.join("; "),
        instead: (repaired != text).then_some(repaired),
        is_elsewhere: false,
    })
}

/// A mistake that cannot be corrected, because the text lacks the name or the digest.
fn beyond_repair(text: &str) -> Option<String> {
    if is_row_without_digest(text) {
        return Some("this row of docker images has no digest".to_owned());
    }
    if is_digest(text) || is_bare_id(text) && text.len() == SHORT_ID {
        return Some("the name is missing; write NAME:TAG@ before this text".to_owned());
    }
    let (_, digest) = text.rsplit_once('@')?;
    let digits = digest.strip_prefix("sha256:").unwrap_or(digest);
    (digits.len() == SHORT_ID && digits.bytes().all(is_lower_hex)).then(|| {
        format!(
            "{digits} is only the beginning of an image ID or a digest (docker images shortens \
             IDs). A digest has 64 digits"
        )
    })
}

fn is_row_without_digest(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let (Some(name), Some(tag), Some(third)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    Reference::parse(name).is_ok()
        && (tag == "<none>" || tag.parse::<Tag>().is_ok())
        && (third == "<none>" || is_bare_id(third.strip_prefix("sha256:").unwrap_or(third)))
}

fn seen(text: &str) -> Option<(String, String)> {
    let known = |char: char| UNSEEN.iter().find(|(one, _)| *one == char);
    let mut found: Vec<String> = Vec::new();
    let mut instead = String::new();
    for char in text.chars() {
        match known(char) {
            Some((_, name)) => {
                let name = format!("{name} (U+{:04X})", char as u32);
                if !found.contains(&name) {
                    found.push(name);
                }
            }
            None => instead.push(char),
        }
    }
    (!found.is_empty()).then(|| {
        (
            format!("the text contains {}", found.join(" and ")),
            instead,
        )
    })
}

fn narrow(text: &str) -> Option<(String, String)> {
    let narrow = |char: char| match char {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(char as u32 - WIDE).unwrap_or(char),
        _ => char,
    };
    let wide: String = text.chars().filter(|char| narrow(*char) != *char).collect();
    (!wide.is_empty()).then(|| {
        (
            format!("the text contains full-width characters ({wide})"),
            text.chars().map(narrow).collect(),
        )
    })
}

fn bare(text: &str) -> Option<(String, String)> {
    let bare = text.trim_matches(|char: char| {
        char.is_whitespace() || matches!(char, '"' | '\'' | '`' | ',' | ';')
    });
    (bare != text).then(|| {
        let what = "spaces, quotes or a comma surround the text";
        (what.to_owned(), bare.to_owned())
    })
}

fn without_scheme(text: &str) -> Option<(String, String)> {
    ["http://", "https://"].into_iter().find_map(|scheme| {
        let rest = text.strip_prefix(scheme)?;
        Some((
            format!("a name does not begin with {scheme}"),
            rest.to_owned(),
        ))
    })
}

fn without_slash(text: &str) -> Option<(String, String)> {
    let (name, rest) = match text.find('@') {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let [name, rest] = [name, rest].map(|part| part.trim_end_matches('/'));
    let instead = format!("{name}{rest}");
    (instead != text).then(|| ("a name does not end with /".to_owned(), instead))
}

fn lower(text: &str) -> Option<(String, String)> {
    let (name, digest) = text.rsplit_once('@')?;
    let small = digest.to_ascii_lowercase();
    (small != digest && (is_hex(&small) || small.parse::<Digest>().is_ok())).then(|| {
        (
            "a digest is written in lower case".to_owned(),
            format!("{name}@{small}"),
        )
    })
}

fn named(text: &str) -> Option<(String, String)> {
    let (name, digits) = text.rsplit_once('@')?;
    is_hex(digits).then(|| {
        (
            "sha256: is missing before the digest".to_owned(),
            format!("{name}@sha256:{digits}"),
        )
    })
}

fn is_hex(text: &str) -> bool {
    text.len() == Algorithm::Sha256.hex_len() && text.bytes().all(is_lower_hex)
}

/// Finds a character that is not ASCII. Such a character can look like a letter that is
/// allowed in a name.
fn strange(text: &str) -> Option<String> {
    let strange = text.chars().find(|char| !char.is_ascii())?;
    Some(format!(
        "a name cannot have the character {strange:?} (U+{:04X})",
        strange as u32
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ac5322604bcab484955e6dbc507f45a906bde79046667322e3918a8578ab08c8";

    /// The error names each mistake, and offers the corrected claim.
    #[test]
    fn what_can_be_told_is_repaired() {
        let meant = format!("quay.io/app:1@sha256:{HEX}");
        for (typed, named) in [
            (format!("quay.io/app:1@{HEX}"), "sha256: is missing"),
            (format!("http://{meant}"), "begin with http://"),
            (format!("https://{meant}"), "begin with https://"),
            (format!("{meant}/"), "end with /"),
            (format!("quay.io/app:1/@sha256:{HEX}"), "end with /"),
            (
                format!("quay.io/app:1\u{200b}@sha256:{HEX}"),
                "a zero-width space (U+200B)",
            ),
            (format!("\u{feff}{meant}"), "a byte-order mark (U+FEFF)"),
            (
                format!("quay.io/app：1＠sha256：{HEX}"),
                "full-width characters (：＠：)",
            ),
            (format!(" \"{meant}\","), "quotes"),
            (
                format!("quay.io/app:1@SHA256:{}", HEX.to_uppercase()),
                "lower case",
            ),
        ] {
            let found = of(&typed).unwrap_or_else(|| panic!("{typed}"));
            assert!(found.what.contains(named), "{typed}: {}", found.what);
            assert_eq!(found.instead.as_ref(), Some(&meant), "{typed}");
        }
        let several = format!("https://quay.io/app:1/@{}", HEX.to_uppercase());
        let found = of(&several).map(|found| (found.what.split("; ").count(), found.instead));
        assert_eq!(found, Some((4, Some(meant))));
    }

    #[test]
    fn what_cannot_be_told_is_named() {
        for (typed, named) in [
            ("app:1@ac5322604bca", "beginning of an image ID"),
            ("app:1@sha256:ac5322604bca", "beginning of an image ID"),
            ("ac5322604bca", "the name is missing"),
            (
                "app  1.25  <none>  ac5322604bca  2 days ago  100MB",
                "row of docker images",
            ),
            (
                "app  1.25  ac5322604bca  2 days ago  100MB",
                "row of docker images",
            ),
            ("аpp:1@sha256:x", "'а' (U+0430)"),
        ] {
            let found = of(typed).unwrap_or_else(|| panic!("{typed}"));
            assert!(found.what.contains(named), "{typed}: {}", found.what);
            assert_eq!(found.instead, None, "{typed}");
        }
        for typed in ["", "app", "app:1", "app@md5:00", "a b"] {
            assert_eq!(of(typed), None, "{typed}");
        }
    }
}
