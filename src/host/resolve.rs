//! Decides the value of a fact if several sources name a value. Returns an error if two
//! sources disagree.

use super::HostError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The name of the fact, for example `data root` or `unit`.
    pub fact: &'static str,
    pub value: String,
    pub source: &'static str,
}

pub const FLAG: &str = "your flag";
/// The engine's answer to `GET /info`.
pub const ENGINE: &str = "the running engine";
pub const UNIT: &str = "the unit's command line";
pub const FILE: &str = "daemon.json";
/// dockerd's default value.
pub const DEFAULT: &str = "default";
/// The source of a value that digestfix found on the disk, and that was the only possible
/// value there.
pub const DISK: &str = "the only one there";

/// A source of a fact, and the value that this source names. Both `None` and an empty
/// value mean that the source names no value.
pub type Said<'a> = (&'static str, Option<&'a str>);

/// Returns the first value and its source. Returns an error if a later source names a
/// different value, according to `same`.
pub fn resolved<'a>(
    fact: &'static str,
    said: &[Said<'a>],
    same: impl Fn(&str, &str) -> bool,
) -> Result<Option<(&'static str, &'a str)>, HostError> {
    let mut voices = said
        .iter()
        .filter_map(|(source, value)| Some((*source, (*value)?)))
        .filter(|(_, value)| !value.is_empty());
    let Some((first_source, first)) = voices.next() else {
        return Ok(None);
    };
    match voices.find(|(_, value)| !same(first, value)) {
        None => Ok(Some((first_source, first))),
        Some((second_source, second)) => Err(HostError::Disagreement {
            fact,
            first_source,
            first: first.to_owned(),
            second_source,
            second: second.to_owned(),
        }),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn settle<'a>(said: &[Said<'a>]) -> Result<Option<(&'static str, &'a str)>, HostError> {
        resolved("thing", said, |one, other| one == other)
    }

    #[test]
    fn the_first_that_says_something_is_named() {
        let said = [(FLAG, None), (ENGINE, Some("")), (UNIT, Some("a"))];
        assert_eq!(settle(&said).unwrap(), Some((UNIT, "a")));
        let said = [(FLAG, Some("a")), (FILE, Some("a"))];
        assert_eq!(settle(&said).unwrap(), Some((FLAG, "a")));
        assert_eq!(settle(&[(FLAG, None)]).unwrap(), None);
    }

    #[test]
    fn a_contradiction_names_both_sides() {
        let error = settle(&[(ENGINE, Some("a")), (UNIT, Some("a")), (FILE, Some("b"))])
            .unwrap_err()
            .to_string();
        for word in [ENGINE, FILE, "thing", " a", " b"] {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert!(!error.contains(UNIT), "{error}");
    }
}
