//! Resolves a fact that several sources may state. Returns an error if two of them
//! disagree.

use super::HostError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The name of the fact: `data root`, `unit`, …
    pub fact: &'static str,
    pub value: String,
    pub source: &'static str,
}

pub const FLAG: &str = "your flag";
/// The answer to `GET /info`.
pub const ENGINE: &str = "the running engine";
pub const UNIT: &str = "the unit's command line";
pub const FILE: &str = "daemon.json";
/// dockerd's default value.
pub const DEFAULT: &str = "default";
/// The only possible value that was found on the disk.
pub const DISK: &str = "the only one there";

/// A source and the value that it states. `None` and an empty value mean the same.
pub type Said<'a> = (&'static str, Option<&'a str>);

/// The first value, with its source. An error if another source states a value that is
/// not `same`.
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
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
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
