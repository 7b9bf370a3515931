//! Text for people, in parts with different colours.
//!
//! Adding a part to a text escapes everything in the part that is not printable,
//! including line breaks. Thus a text is one line, unless this module adds line breaks.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

use crate::sys::printable::printable;

/// The meaning of a part of a text, which decides the colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// Titles and labels, which readers look for.
    Strong,
    /// A correct state, or something added.
    Good,
    /// A doubtful state, or something to check.
    Doubtful,
    /// Wrong, or removed.
    Bad,
    /// Needs a person's attention now.
    Alarming,
    /// Unimportant.
    Faint,
}

impl Tone {
    pub fn of(self, text: impl AsRef<str>) -> Text {
        Text(vec![(self, printable(text.as_ref()).into_owned())])
    }

    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Strong => Style::new().bold(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Doubtful => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
            Self::Alarming => AnsiColor::Red.on_default().bold(),
            Self::Faint => Style::new().dimmed(),
        }
    }
}

/// A text in parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Text(Vec<(Tone, String)>);

impl Text {
    pub fn and(mut self, more: impl Into<Self>) -> Self {
        self.push(more);
        self
    }

    pub fn push(&mut self, more: impl Into<Self>) {
        self.0.extend(more.into().0);
    }

    /// Begins a new line, with this indentation.
    pub fn break_line(&mut self, indent: usize) {
        self.0.push((Tone::Plain, format!("\n{:indent$}", "")));
    }

    /// The width of the text in columns, if it is one line.
    pub fn width(&self) -> usize {
        self.0.iter().map(|(_, part)| part.width()).sum()
    }

    /// The text with or without colours.
    pub fn render(&self, colours: bool) -> String {
        let mut text = String::new();
        for (tone, part) in &self.0 {
            if colours {
                let style = tone.style();
                // Writing to a string cannot fail.
                let _ = write!(text, "{style}{part}{style:#}");
            } else {
                text.push_str(part);
            }
        }
        text
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Tone::Plain.of(text)
    }
}

impl From<&String> for Text {
    fn from(text: &String) -> Self {
        Tone::Plain.of(text)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Tone::Plain.of(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_added_and_nothing_else() {
        let text = Text::from("is ").and(Tone::Bad.of("DOWN")).and(" now");
        assert_eq!(text.render(false), "is DOWN now");
        assert_eq!(text.render(true), "is \u{1b}[31mDOWN\u{1b}[0m now");
    }

    #[test]
    fn a_text_is_one_line_whatever_it_says() {
        let mut text = Tone::Good.of("a\u{1b}[2Jb\nc\u{202e}d");
        assert_eq!(text.width(), "a\\u{1b}[2Jb\\nc\\u{202e}d".len());
        text.break_line(2);
        text.push("e");
        let shown = "a\\u{1b}[2Jb\\nc\\u{202e}d";
        assert_eq!(text.render(false), format!("{shown}\n  e"));
        assert_eq!(
            text.render(true),
            format!("\u{1b}[32m{shown}\u{1b}[0m\n  e")
        );
    }
}
