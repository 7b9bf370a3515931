//! The text that Go's `json.Marshal` makes of a store (Go 1.15 to 1.24,
//! `encoding/json/encode.go`): compact, and with the characters that would
//! matter in HTML or JavaScript escaped.
//!
//! Go before 1.22 writes backspace and form feed as `\u0008` and `\u000c`,
//! later versions as `\b` and `\f`; this is the later form. No reference has
//! either character.

use std::io;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::ser::Formatter;

use super::{REPOSITORIES, Store, TopLevel};

pub(super) fn write(store: &Store) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, GoFormatter);
    // Strings and maps of strings into memory have nothing that can fail.
    if let Err(error) = store.serialize(&mut serializer) {
        unreachable!("a store could not be put into memory: {error}");
    }
    bytes
}

impl Serialize for Store {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.top_level.len()))?;
        for entry in &self.top_level {
            match entry {
                TopLevel::Repositories => map.serialize_entry(REPOSITORIES, &self.repositories)?,
                TopLevel::Unknown { key, value } => map.serialize_entry(key, value)?,
            }
        }
        map.end()
    }
}

struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, special) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut characters = special.chars();
            if let Some(character) = characters.next() {
                write!(writer, "\\u{:04x}", u32::from(character))?;
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}
