//! Escapes text from other programs and users for display. Escapes characters that break
//! a line, control a terminal, change the writing direction, or are invisible.
//!
//! digestfix shows names, error messages, records and arguments in a terminal, a log or a
//! mail. A line break in such a text could make the rest of the text look like a line
//! from digestfix. So digestfix escapes each text when it adds the text to its output,
//! and adds its own line breaks separately.

use std::borrow::Cow;
use std::io;

use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};

/// Replaces each character that must not be shown with an escape such as `\n` or
/// `\u{202e}`. Leaves all other text unchanged, even text that looks like such an escape.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_printable(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_default());
        }
    }
    Cow::Owned(shown)
}

/// Whether a character may be shown. These characters must not be shown: control and
/// format characters, separators other than the space, and characters that modify the
/// previous character.
pub fn is_printable(character: char) -> bool {
    match character {
        ' '..='~' => true,
        // `escape_debug` knows the categories of characters. If a character must not be
        // shown, `escape_debug` returns several characters.
        _ => character.escape_debug().len() == 1,
    }
}

/// Writes a value as JSON. Characters that must not be shown become JSON escapes, so a
/// parser gets the original text.
pub fn to_json(writer: impl io::Write, value: &impl Serialize) -> serde_json::Result<()> {
    let formatter = Json(PrettyFormatter::new());
    value.serialize(&mut serde_json::Serializer::with_formatter(
        writer, formatter,
    ))
}

/// Writes a part of a JSON string, with some characters as `\uXXXX`.
pub(crate) fn write_escaped(
    writer: &mut (impl io::Write + ?Sized),
    fragment: &str,
    is_special: impl Fn(char) -> bool,
) -> io::Result<()> {
    let mut rest = fragment;
    while let Some(at) = rest.find(&is_special) {
        let (plain, special) = rest.split_at(at);
        writer.write_all(plain.as_bytes())?;
        let mut characters = special.chars();
        if let Some(character) = characters.next() {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        rest = characters.as_str();
    }
    writer.write_all(rest.as_bytes())
}

/// serde_json's pretty layout, in which characters that must not be shown are escaped.
struct Json(PrettyFormatter<'static>);

impl Formatter for Json {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        write_escaped(writer, fragment, |character| !is_printable(character))
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn what_steers_hides_or_breaks_a_line_is_escaped() {
        let ranges = [
            '\0'..='\u{1f}',
            '\u{7f}'..='\u{9f}',
            '\u{ad}'..='\u{ad}',
            '\u{61c}'..='\u{61c}',
            '\u{180e}'..='\u{180e}',
            '\u{200b}'..='\u{200f}',
            '\u{2028}'..='\u{202e}',
            '\u{2060}'..='\u{206f}',
            '\u{fe00}'..='\u{fe0f}',
            '\u{feff}'..='\u{feff}',
            '\u{fff9}'..='\u{fffb}',
            '\u{e0000}'..='\u{e01ef}',
        ];
        for character in ranges.into_iter().flatten() {
            let text = format!("a{character}b");
            let shown = printable(&text);
            assert!(
                shown.starts_with("a\\") && shown.chars().all(is_printable),
                "{shown:?}"
            );
        }
        assert_eq!(
            printable("x\ny\tz\u{1b}[2J\u{202e}"),
            "x\\ny\\tz\\u{1b}[2J\\u{202e}"
        );
    }

    #[test]
    fn all_else_stays_as_it_is() {
        for text in [
            "",
            "a b",
            "a\\nb",
            "\"'`$",
            "影の箱",
            "é ß ж",
            "…",
            "\u{fffd}",
        ] {
            assert!(matches!(printable(text), Cow::Borrowed(_)), "{text}");
        }
        let once = printable("a\nb").into_owned();
        assert_eq!(printable(&once), once);
    }

    #[test]
    fn json_has_the_same_values_and_nothing_that_steers() {
        let value = serde_json::json!({
            "a\u{202e}": ["\u{1b}[2J\n\"\\", "\u{e0001}\u{9b}", {}, [], "影"],
            "b": {"c": 1.5, "d": null},
        });
        let mut bytes = Vec::new();
        to_json(&mut bytes, &value).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.lines().all(|line| line.chars().all(is_printable)),
            "{text:?}"
        );
        assert!(text.contains("\\udb40\\udc01\\u009b"), "{text}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
        let plain = serde_json::json!({"a": [1, {"b": "c"}], "d": {}, "e": []});
        let mut bytes = Vec::new();
        to_json(&mut bytes, &plain).unwrap();
        assert_eq!(bytes, serde_json::to_vec_pretty(&plain).unwrap());
    }
}
