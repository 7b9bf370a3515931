//! The file of a reference store, as it was read: its text, and an index with the
//! positions of its references.
//!
//! A host may have hundreds of thousands of references, but a run needs only a few of
//! them. So digestfix copies and parses a reference only when the run needs it. In the
//! index, a reference takes 16 bytes.

use std::ops::Range;

use serde_json::value::RawValue;

/// A key of the file's outermost JSON object. These keys stay in the order of the file.
#[derive(Debug, Clone)]
pub(super) enum TopLevel {
    Repositories,
    Unknown { key: String, value: Box<RawValue> },
}

/// A part of [`File::text`]. If `start` lies behind the end of the text, this is a part
/// of [`File::unescaped`]. Files have fewer than 2^32 bytes, so 32 bits are enough for a
/// position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    /// A span with this start and length. `None` if one of the two numbers does not fit
    /// into 32 bits.
    pub(super) fn new(start: usize, len: usize) -> Option<Self> {
        Some(Self {
            start: start.try_into().ok()?,
            len: len.try_into().ok()?,
        })
    }

    pub(super) const fn range(self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.len as usize
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Repository {
    pub name: Span,
    /// The range of the repository's references in `File::pairs`.
    pub first: u32,
    pub end: u32,
}

/// A reference: its key, and the image that it points at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub key: Span,
    pub value: Span,
}

#[derive(Debug)]
pub(super) struct File {
    pub text: String,
    /// The unescaped form of the strings that contain escapes in the text.
    pub unescaped: String,
    /// Whether the text escapes every character that Go would escape.
    pub is_plain: bool,
    /// The repositories, sorted by name.
    pub repositories: Vec<Repository>,
    /// The references, sorted by repository and key.
    pub pairs: Vec<Pair>,
    pub top_level: Vec<TopLevel>,
}

impl File {
    pub(super) fn str(&self, span: Span) -> &str {
        piece(&self.text, &self.unescaped, span)
    }

    /// Every repository with its references.
    pub(super) fn repositories(&self) -> impl Iterator<Item = (&str, (Span, &[Pair]))> {
        let repositories = self.repositories.iter();
        repositories.map(|repository| {
            let name = self.str(repository.name);
            (name, (repository.name, self.pairs(repository)))
        })
    }

    fn pairs(&self, repository: &Repository) -> &[Pair] {
        &self.pairs[repository.first as usize..repository.end as usize]
    }

    /// The references under a repository's key.
    pub(super) fn pairs_of(&self, repository: &str) -> &[Pair] {
        let found = self
            .repositories
            .binary_search_by(|one| self.str(one.name).cmp(repository));
        found.map_or(&[], |at| self.pairs(&self.repositories[at]))
    }

    /// The value of a reference, by its repository and its key.
    pub(super) fn value(&self, repository: &str, key: &str) -> Option<&str> {
        let pairs = self.pairs_of(repository);
        let found = pairs.binary_search_by(|pair| self.str(pair.key).cmp(key));
        found.ok().map(|at| self.str(pairs[at].value))
    }

    /// The position of a string in the text, including its quotation marks. `None` unless
    /// the text has exactly the form that Go writes.
    pub(super) fn written(&self, string: Span) -> Option<Range<usize>> {
        let range = string.range();
        let is_written = self.is_plain && range.end < self.text.len();
        is_written.then(|| range.start - 1..range.end + 1)
    }

    /// The position of a reference and its image ID in the text. `None` unless the text
    /// has exactly the form that Go writes.
    pub(super) fn written_pair(&self, pair: Pair) -> Option<Range<usize>> {
        let (key, value) = (self.written(pair.key)?, self.written(pair.value)?);
        let between = self.text.as_bytes().get(key.end..value.start);
        (between == Some(b":")).then_some(key.start..value.end)
    }
}

/// The string at a span: a part of the text, or of the unescaped strings.
pub(super) fn piece<'a>(text: &'a str, unescaped: &'a str, span: Span) -> &'a str {
    let range = span.range();
    match range.start.checked_sub(text.len()) {
        None => &text[range],
        Some(start) => &unescaped[start..start + span.len as usize],
    }
}
