//! Shortens references and image IDs, so that each row of a table takes at most one line
//! of the terminal.

use unicode_width::UnicodeWidthStr;

use crate::image::reference::Reference;
use crate::report::table::{LEAST_NAME, digits, shortened};

/// How much to shorten the texts of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Shortens nothing.
    Whole,
    /// Shortens digests and image IDs to their first digits, and names to this number of
    /// columns.
    To(usize),
}

impl Cut {
    /// The `Cut` that shortens as little as possible, so that a table fits in `room`
    /// columns. `names` are the names in the table, and `all` returns the table's width
    /// for a given `Cut`.
    pub fn for_room(
        room: Option<usize>,
        names: impl Iterator<Item = String>,
        all: impl Fn(Self) -> usize,
    ) -> Self {
        match room {
            Some(room) if all(Self::Whole) > room => {
                let longest = names.map(|name| name.width()).max().unwrap_or(0);
                let over = all(Self::To(longest)).saturating_sub(room);
                Self::To(longest.saturating_sub(over).max(LEAST_NAME))
            }
            _ => Self::Whole,
        }
    }

    pub fn reference(self, reference: &Reference) -> String {
        match (self, reference.digest()) {
            (Self::Whole, _) => reference.familiar(),
            (Self::To(width), None) => shortened(&name(reference), width),
            (Self::To(width), Some(digest)) => format!(
                "{}@{}",
                shortened(&name(reference), width),
                digits(&digest.to_string())
            ),
        }
    }

    /// Shortens a name that is not a reference, such as a transaction's ID.
    pub fn name(self, name: &str) -> String {
        match self {
            Self::Whole => name.to_owned(),
            Self::To(width) => shortened(name, width),
        }
    }

    pub fn image(self, image: &str) -> String {
        match self {
            Self::Whole => image.to_owned(),
            Self::To(_) => digits(image).to_owned(),
        }
    }
}

/// The text of a reference without its digest.
pub(super) fn name(reference: &Reference) -> String {
    let repository = reference.repository().familiar();
    match reference.tag() {
        Some(tag) => format!("{repository}:{}", tag.as_str()),
        None => repository,
    }
}
