//! Edits one setting of daemon.json without changing any other byte.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::host::daemon_json::{DaemonJson, DaemonJsonError};

/// Returns the text of daemon.json with `live-restore` set to this value, even if the
/// file or the key was missing.
pub fn with_live_restore(file: Option<&[u8]>, on: bool) -> Result<Vec<u8>, DaemonJsonError> {
    let value = if on { "true" } else { "false" };
    let parsed: Parsed<'_> = Parsed::of(file)?;
    Ok(parsed.with(value))
}

/// Whether this file switches live-restore on.
pub fn says_live_restore(file: Option<&[u8]>) -> bool {
    file.and_then(|bytes| DaemonJson::parse(bytes).ok())
        .is_some_and(|config| config.live_restore == Some(true))
}

/// The byte range of `part` within `text`. `part` must be a slice of `text`.
fn place(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

/// The key that this module edits.
const KEY: &str = "live-restore";

/// The text of daemon.json, and the value of [`KEY`] in this text. If the key appears
/// twice, its last value counts, as in dockerd.
struct Parsed<'a> {
    text: Option<&'a str>,
    members: usize,
    value: Option<&'a str>,
}

impl<'a> Parsed<'a> {
    fn of(file: Option<&'a [u8]>) -> Result<Self, DaemonJsonError> {
        let none = Self {
            text: None,
            members: 0,
            value: None,
        };
        let Some(bytes) = file else {
            return Ok(none);
        };
        let text = std::str::from_utf8(bytes)
            .map_err(|error| DaemonJsonError::Json(de::Error::custom(error)))?;
        let parsed: Self = serde_json::from_str(text)?;
        Ok(Self {
            text: Some(text),
            ..parsed
        })
    }

    /// Returns the text of the file with [`KEY`] set to this value.
    fn with(&self, value: &str) -> Vec<u8> {
        let Some(text) = self.text else {
            return format!("{{\"{KEY}\": {value}}}\n").into_bytes();
        };
        let mut edited = text.to_owned();
        match self.value {
            Some(raw) => edited.replace_range(place(text, raw), value),
            None => {
                let inside = text.find('{').unwrap_or_default() + 1;
                let separator = if self.members == 0 { "" } else { ", " };
                edited.insert_str(inside, &format!("\"{KEY}\": {value}{separator}"));
            }
        }
        edited.into_bytes()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Parsed<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Parsed<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut parsed = Parsed {
                    text: None,
                    members: 0,
                    value: None,
                };
                while let Some((Key(key), raw)) = map.next_entry::<Key<'de>, &RawValue>()? {
                    parsed.members += 1;
                    if key == KEY {
                        parsed.value = Some(raw.get());
                    }
                }
                Ok(parsed)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn edited(text: &str, on: bool) -> String {
        String::from_utf8(with_live_restore(Some(text.as_bytes()), on).unwrap()).unwrap()
    }

    #[test]
    fn the_value_is_changed_and_nothing_else() {
        for (before, after) in [
            ("{}", r#"{"live-restore": true}"#),
            (" {\n}\n", " {\"live-restore\": true\n}\n"),
            (
                "{\n\t\"debug\" : true ,\"hosts\":[ \"fd://\" ]\r\n}",
                "{\"live-restore\": true, \n\t\"debug\" : true ,\"hosts\":[ \"fd://\" ]\r\n}",
            ),
            (
                r#"{"a": "\u00e9{", "live-restore" :false }"#,
                r#"{"a": "\u00e9{", "live-restore" :true }"#,
            ),
            (r#"{"live-restore":null}"#, r#"{"live-restore":true}"#),
            (
                r#"{"live\u002drestore":false}"#,
                r#"{"live\u002drestore":true}"#,
            ),
            (
                r#"{"live-restore":false,"live-restore":false}"#,
                r#"{"live-restore":false,"live-restore":true}"#,
            ),
            (
                r#"{"x":{"live-restore":false}}"#,
                r#"{"live-restore": true, "x":{"live-restore":false}}"#,
            ),
        ] {
            let on = edited(before, true);
            assert_eq!(on, after);
            let parsed = DaemonJson::parse(on.as_bytes()).unwrap();
            assert_eq!(parsed.live_restore, Some(true));
            let off = DaemonJson::parse(edited(&on, false).as_bytes()).unwrap();
            assert_eq!(off.live_restore, Some(false));
        }
    }

    #[test]
    fn a_missing_file_is_a_new_one() {
        let made = with_live_restore(None, true).unwrap();
        assert_eq!(made, b"{\"live-restore\": true}\n");
    }

    #[test]
    fn what_is_no_daemon_json_is_not_edited() {
        for text in ["", "[]", "{", "{} {}", "null", "{\"a\":}", "\u{feff}{}"] {
            assert!(
                with_live_restore(Some(text.as_bytes()), true).is_err(),
                "{text}"
            );
        }
        assert!(with_live_restore(Some(b"{\"a\":\"\xff\"}"), true).is_err());
    }
}
