//! Writes a store as Go's `json.Marshal` does (Go 1.15 to 1.24,
//! `encoding/json/encode.go`): compact, and with escapes for characters that have a
//! meaning in HTML or JavaScript.
//!
//! Go before 1.22 writes backspace and form feed as `\u0008` and `\u000c`. Later versions
//! write `\b` and `\f`, and so does this writer. No reference contains either character.
//!
//! If the file's text already has the form that Go writes, the writer reuses this text,
//! in pieces as large as possible.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use serde::ser::Serialize;
use serde_json::ser::Formatter;

use super::file::{File, TopLevel};
use super::{REPOSITORIES, Store};
use crate::sys::printable::write_escaped;

/// The text of a store, ready for writing.
#[derive(Debug)]
pub struct Text {
    file: Arc<File>,
    pieces: Vec<Piece>,
}

#[derive(Debug)]
enum Piece {
    /// A range of the bytes in the file that digestfix read.
    Read(Range<usize>),
    New(Vec<u8>),
}

impl Text {
    /// The bytes of the text, in order.
    pub fn pieces(&self) -> Vec<&[u8]> {
        let text = self.file.text.as_bytes();
        let pieces = self.pieces.iter().map(|piece| match piece {
            Piece::Read(range) => &text[range.clone()],
            Piece::New(bytes) => bytes,
        });
        pieces.collect()
    }
}

pub(super) fn as_read(store: &Store) -> Text {
    Text {
        pieces: vec![Piece::Read(0..store.file.text.len())],
        file: Arc::clone(&store.file),
    }
}

pub(super) fn write(store: &Store) -> Text {
    let mut writer = Writer {
        file: &store.file,
        pieces: vec![Piece::Read(0..0)],
    };
    writer.literal(b"{");
    for (at, entry) in store.file.top_level.iter().enumerate() {
        writer.separate(at);
        match entry {
            TopLevel::Repositories => {
                writer.string(REPOSITORIES);
                writer.literal(b":{");
                writer.repositories(store);
                writer.literal(b"}");
            }
            TopLevel::Unknown { key, value } => {
                writer.string(key);
                writer.literal(b":");
                writer.literal(value.get().as_bytes());
            }
        }
    }
    writer.literal(b"}");
    Text {
        pieces: writer.pieces,
        file: Arc::clone(&store.file),
    }
}

struct Writer<'a> {
    file: &'a File,
    pieces: Vec<Piece>,
}

impl Writer<'_> {
    fn repositories(&mut self, store: &Store) {
        for (at, repository) in store.repositories().enumerate() {
            self.separate(at);
            match repository.key.and_then(|key| self.file.written(key)) {
                Some(written) => self.read(written),
                None => self.string(repository.name),
            }
            self.literal(b":{");
            for (at, (key, value, read)) in repository.references().enumerate() {
                self.separate(at);
                match read.and_then(|pair| self.file.written_pair(pair)) {
                    Some(written) => self.read(written),
                    None => {
                        self.string(key);
                        self.literal(b":");
                        self.string(value);
                    }
                }
            }
            self.literal(b"}");
        }
    }

    fn separate(&mut self, at: usize) {
        if at > 0 {
            self.literal(b",");
        }
    }

    fn string(&mut self, text: &str) {
        let mut json = Vec::with_capacity(text.len() + 2);
        let mut serializer = serde_json::Serializer::with_formatter(&mut json, GoFormatter);
        // Serializing a string to memory cannot fail.
        if let Err(error) = text.serialize(&mut serializer) {
            unreachable!("a string could not be serialized: {error}");
        }
        self.literal(&json);
    }

    /// Appends bytes. If the last piece is a range of the file, and these bytes follow
    /// the range in the file, extends the range instead.
    fn literal(&mut self, bytes: &[u8]) {
        match self.pieces.last_mut() {
            Some(Piece::Read(range)) => {
                if self.file.text.as_bytes()[range.end..].starts_with(bytes) {
                    range.end += bytes.len();
                } else {
                    self.pieces.push(Piece::New(bytes.to_vec()));
                }
            }
            Some(Piece::New(piece)) => piece.extend_from_slice(bytes),
            None => {}
        }
    }

    /// Appends a range of the file.
    fn read(&mut self, written: Range<usize>) {
        match self.pieces.last_mut() {
            Some(Piece::Read(range)) if range.end == written.start => range.end = written.end,
            _ => self.pieces.push(Piece::Read(written)),
        }
    }
}

struct GoFormatter;

impl Formatter for GoFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        write_escaped(writer, fragment, |character| {
            matches!(character, '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
        })
    }
}
