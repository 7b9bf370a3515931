//! The text that Go's `json.Marshal` makes of a store (Go 1.15 to 1.24,
//! `encoding/json/encode.go`): compact, and with the characters that would
//! matter in HTML or JavaScript escaped.
//!
//! Go before 1.22 writes backspace and form feed as `\u0008` and `\u000c`,
//! later versions as `\b` and `\f`; this is the later form. No reference has
//! either character.

use std::io;

use serde::ser::Serialize;
use serde_json::ser::Formatter;

use super::file::TopLevel;
use super::{REPOSITORIES, Store};

/// Room for a few new references.
const MORE: usize = 4096;

pub(super) fn write(store: &Store) -> Vec<u8> {
    let mut json = Vec::with_capacity(store.file.text.len() + MORE);
    json.push(b'{');
    for (at, entry) in store.file.top_level.iter().enumerate() {
        separate(&mut json, at);
        match entry {
            TopLevel::Repositories => {
                string(&mut json, REPOSITORIES);
                json.extend_from_slice(b":{");
                repositories(&mut json, store);
                json.push(b'}');
            }
            TopLevel::Unknown { key, value } => {
                string(&mut json, key);
                json.push(b':');
                json.extend_from_slice(value.get().as_bytes());
            }
        }
    }
    json.push(b'}');
    json
}

fn repositories(json: &mut Vec<u8>, store: &Store) {
    for (at, repository) in store.repositories().enumerate() {
        separate(json, at);
        string(json, repository.name);
        json.extend_from_slice(b":{");
        for (at, (key, value, read)) in repository.references().enumerate() {
            separate(json, at);
            if let Some(written) = read.and_then(|pair| store.file.written(pair)) {
                json.extend_from_slice(written.as_bytes());
            } else {
                string(json, key);
                json.push(b':');
                string(json, value);
            }
        }
        json.push(b'}');
    }
}

fn separate(json: &mut Vec<u8>, at: usize) {
    if at > 0 {
        json.push(b',');
    }
}

fn string(json: &mut Vec<u8>, text: &str) {
    let mut serializer = serde_json::Serializer::with_formatter(json, GoFormatter);
    // A string into memory has nothing that can fail.
    if let Err(error) = text.serialize(&mut serializer) {
        unreachable!("a string could not be put into memory: {error}");
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
