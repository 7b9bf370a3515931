//! One setting of daemon.json changed, every other byte kept.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::host::daemon_json::{DaemonJson, DaemonJsonError};

/// daemon.json with `live-restore` set. Without a file, or with one whose
/// object lacks the key, it is added.
///
/// # Errors
/// When the file is not one that dockerd takes.
pub fn with_live_restore(file: Option<&[u8]>, on: bool) -> Result<Vec<u8>, DaemonJsonError> {
    let value = if on { "true" } else { "false" };
    let parsed: Parsed<'_, LiveRestore> = Parsed::of(file)?;
    Ok(parsed.with(value))
}

/// daemon.json with this mirror first among its `registry-mirrors`, or without
/// it. The key is there in either case, as dockerd keeps the mirrors that it has
/// when it is not (moby `daemon/reload.go`, `reloadRegistryMirrors`). The list is
/// written in one way, so that the same comes of a file and of one edited before.
///
/// # Errors
/// When the file is not one that dockerd takes.
pub fn with_mirror(
    file: Option<&[u8]>,
    mirror: &str,
    on: bool,
) -> Result<Vec<u8>, DaemonJsonError> {
    let parsed: Parsed<'_, Mirrors> = Parsed::of(file)?;
    let found: Option<Vec<String>> = match parsed.value {
        Some(raw) => serde_json::from_str(raw)?,
        None => None,
    };
    let others = found.unwrap_or_default().into_iter();
    let others = others.filter(|other| other != mirror);
    let mirrors: Vec<String> = on
        .then(|| mirror.to_owned())
        .into_iter()
        .chain(others)
        .collect();
    Ok(parsed.with(&serde_json::to_string(&mirrors)?))
}

/// Whether the file has this mirror among its `registry-mirrors`.
#[must_use]
pub fn says_mirror(file: Option<&[u8]>, mirror: &str) -> bool {
    mirrors(file).iter().any(|other| other == mirror)
}

/// The `registry-mirrors` of the file.
#[must_use]
pub fn mirrors(file: Option<&[u8]>) -> Vec<String> {
    let Ok(Parsed {
        value: Some(raw), ..
    }) = Parsed::<Mirrors>::of(file)
    else {
        return Vec::new();
    };
    let found: Option<Vec<String>> = serde_json::from_str(raw).unwrap_or_default();
    found.unwrap_or_default()
}

/// Whether the file has `authorization-plugins`.
#[must_use]
pub fn asks_for_authorization(file: Option<&[u8]>) -> bool {
    Parsed::<Authorization>::of(file).is_ok_and(|parsed| parsed.value.is_some())
}

/// Whether a dockerd that starts with this file has live-restore on, as far as
/// the file says.
#[must_use]
pub fn says_live_restore(file: Option<&[u8]>) -> bool {
    file.and_then(|bytes| DaemonJson::parse(bytes).ok())
        .is_some_and(|config| config.live_restore == Some(true))
}

/// Where a borrowed part of a text lies in it.
fn place(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

/// The name of a setting.
trait Setting {
    const KEY: &'static str;
}

struct LiveRestore;

impl Setting for LiveRestore {
    const KEY: &'static str = "live-restore";
}

struct Mirrors;

impl Setting for Mirrors {
    const KEY: &'static str = "registry-mirrors";
}

struct Authorization;

impl Setting for Authorization {
    const KEY: &'static str = "authorization-plugins";
}

/// A file, and the setting in it as written: of a key that is there twice the
/// last one counts, as it does for dockerd.
struct Parsed<'a, S> {
    text: Option<&'a str>,
    members: usize,
    value: Option<&'a str>,
    setting: PhantomData<S>,
}

impl<'a, S: Setting> Parsed<'a, S> {
    fn of(file: Option<&'a [u8]>) -> Result<Self, DaemonJsonError> {
        let none = Self {
            text: None,
            members: 0,
            value: None,
            setting: PhantomData,
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

    /// The file with another value.
    fn with(&self, value: &str) -> Vec<u8> {
        let key = S::KEY;
        let Some(text) = self.text else {
            return format!("{{\"{key}\": {value}}}\n").into_bytes();
        };
        let mut edited = text.to_owned();
        match self.value {
            Some(raw) => edited.replace_range(place(text, raw), value),
            None => {
                let inside = text.find('{').unwrap_or_default() + 1;
                let separator = if self.members == 0 { "" } else { ", " };
                edited.insert_str(inside, &format!("\"{key}\": {value}{separator}"));
            }
        }
        edited.into_bytes()
    }
}

impl<'de: 'a, 'a, S: Setting> Deserialize<'de> for Parsed<'a, S> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<S>(PhantomData<S>);

        impl<'de, S: Setting> Visitor<'de> for Members<S> {
            type Value = Parsed<'de, S>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut parsed = Parsed {
                    text: None,
                    members: 0,
                    value: None,
                    setting: PhantomData,
                };
                while let Some((Key(key), raw)) = map.next_entry::<Key<'de>, &RawValue>()? {
                    parsed.members += 1;
                    if key == S::KEY {
                        parsed.value = Some(raw.get());
                    }
                }
                Ok(parsed)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
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

    const MIRROR: &str = "http://127.0.0.1:5";

    #[test]
    fn a_mirror_comes_first_and_goes_again() {
        for (before, with, without) in [
            (
                "{}",
                r#"{"registry-mirrors": ["http://127.0.0.1:5"]}"#,
                r#"{"registry-mirrors": []}"#,
            ),
            (
                r#"{"registry-mirrors" : [ "https://m" ], "debug": true}"#,
                r#"{"registry-mirrors" : ["http://127.0.0.1:5","https://m"], "debug": true}"#,
                r#"{"registry-mirrors" : ["https://m"], "debug": true}"#,
            ),
            (
                r#"{"registry-mirrors":null}"#,
                r#"{"registry-mirrors":["http://127.0.0.1:5"]}"#,
                r#"{"registry-mirrors":[]}"#,
            ),
        ] {
            let edit = |text: &str, on| {
                let edited = with_mirror(Some(text.as_bytes()), MIRROR, on).unwrap();
                String::from_utf8(edited).unwrap()
            };
            assert_eq!(edit(before, true), with);
            assert_eq!(edit(with, true), with);
            assert_eq!(edit(before, false), without);
            assert_eq!(edit(with, false), without, "by either way");
            assert_eq!(edit(without, true), with);
            assert!(says_mirror(Some(with.as_bytes()), MIRROR));
            assert!(!says_mirror(Some(before.as_bytes()), MIRROR));
            let off = edit(with, false);
            assert!(!says_mirror(Some(off.as_bytes()), MIRROR), "{off}");
            DaemonJson::parse(with.as_bytes()).unwrap();
        }
        assert_eq!(
            with_mirror(None, MIRROR, true).unwrap(),
            b"{\"registry-mirrors\": [\"http://127.0.0.1:5\"]}\n"
        );
        assert!(with_mirror(Some(br#"{"registry-mirrors":"x"}"#), MIRROR, true).is_err());
        assert!(!says_mirror(None, MIRROR));
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
