//! A reference store's file as it was read: its text, and where in it each
//! reference stands.
//!
//! A host may have hundreds of thousands of references, of which a run is
//! about a few. So none of them is copied or interpreted before somebody asks
//! for it: an entry of the index takes 16 bytes.

use std::ops::Range;

use serde_json::value::RawValue;

/// A key of the file's outermost object, in the order of the file.
#[derive(Debug, Clone)]
pub(super) enum TopLevel {
    Repositories,
    Unknown { key: String, value: Box<RawValue> },
}

/// A piece of [`File::text`], or, counted on from its end, of
/// [`File::unescaped`]. Files have fewer than 2^32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    /// None for what a file cannot have.
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
    /// Its references, as indices.
    pub first: u32,
    pub end: u32,
}

/// A reference's key and what it points at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub key: Span,
    pub value: Span,
}

#[derive(Debug)]
pub(super) struct File {
    pub text: String,
    /// Strings that are written with escapes in the text, without them.
    pub unescaped: String,
    /// Nothing in the text would be escaped by Go that is not escaped.
    pub is_plain: bool,
    /// In the order of their names.
    pub repositories: Vec<Repository>,
    /// Those of one repository side by side, in the order of their keys.
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

    /// What a reference points at, by the keys of both.
    pub(super) fn value(&self, repository: &str, key: &str) -> Option<&str> {
        let pairs = self.pairs_of(repository);
        let found = pairs.binary_search_by(|pair| self.str(pair.key).cmp(key));
        found.ok().map(|at| self.str(pairs[at].value))
    }

    /// Where a string stands in the text in the very form that Go writes,
    /// with its quotation marks; none when it does not.
    pub(super) fn written(&self, string: Span) -> Option<Range<usize>> {
        let range = string.range();
        let is_written = self.is_plain && range.end < self.text.len();
        is_written.then(|| range.start - 1..range.end + 1)
    }

    /// The same for a reference with its image ID.
    pub(super) fn written_pair(&self, pair: Pair) -> Option<Range<usize>> {
        let (key, value) = (self.written(pair.key)?, self.written(pair.value)?);
        let between = self.text.as_bytes().get(key.end..value.start);
        (between == Some(b":")).then_some(key.start..value.end)
    }
}

/// The piece that a span means.
pub(super) fn piece<'a>(text: &'a str, unescaped: &'a str, span: Span) -> &'a str {
    let range = span.range();
    match range.start.checked_sub(text.len()) {
        None => &text[range],
        Some(start) => &unescaped[start..start + span.len as usize],
    }
}
