//! `repositories.json`: Docker's reference store. digestfix reads and writes this file
//! exactly as the engine does.
//!
//! The format belongs to moby (`daemon/internal/refstore/store.go`, v28.5;
//! `reference/store.go` up to v23). The file is one JSON object, whose key `Repositories`
//! maps each familiar repository name to its references. Each reference points at an
//! image ID. The engine reads the file once, when it starts, and rewrites the whole file
//! on every change.
//!
//! The parser is strict wherever a guess could lose a reference: duplicate keys, wrong
//! types and invalid text are errors. The error message names the position. digestfix can
//! list two kinds of data, and leaves both unchanged: unknown top-level keys, and entries
//! that the engine ignores.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::sync::Arc;

use crate::image::digest::ImageId;
use crate::image::reference::{Reference, ReferenceError};
use crate::sys::json_error::in_words;

mod file;
mod moby_json;
mod read;

use file::{File, Pair, Span, TopLevel};
pub use moby_json::Text;

/// The file's name in `<data-root>/image/<driver>/`.
pub const FILE_NAME: &str = "repositories.json";

/// The largest file that digestfix reads, in bytes. A reference takes about 170 bytes, so
/// a file of this size has about 1,500,000 references.
pub const MAX_BYTES: u64 = 256 * 1024 * 1024;

const REPOSITORIES: &str = "Repositories";

/// The reference store of one storage driver: the file that was read, and the edits to
/// this file. All clones of a store share the file in memory.
#[derive(Debug, Clone)]
pub struct Store {
    file: Arc<File>,
    edits: BTreeMap<String, Edits>,
}

/// The edits in one repository: the new image of each reference, or `None` if the
/// reference is removed.
type Edits = BTreeMap<String, Option<String>>;

/// A store without references.
impl Default for Store {
    fn default() -> Self {
        Self {
            file: Arc::new(File {
                text: String::new(),
                unescaped: String::new(),
                is_plain: true,
                repositories: Vec::new(),
                pairs: Vec::new(),
                top_level: vec![TopLevel::Repositories],
            }),
            edits: BTreeMap::new(),
        }
    }
}

/// Two stores are equal if they would be written as the same bytes.
impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

/// One reference, exactly as the file contains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    pub repository: &'a str,
    pub key: &'a str,
    /// The image ID, as the file contains it.
    pub value: &'a str,
}

/// Why the engine cannot use an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The engine silently skips a reference that it cannot parse.
    #[error("not a reference: {0}")]
    Reference(#[from] ReferenceError),
    /// The engine looks for a reference only in its familiar form and under its own
    /// repository.
    #[error(
        "the engine looks for this reference as {key:?} under {repository:?}, not at this place"
    )]
    Misplaced { repository: String, key: String },
    #[error("neither a tag nor a digest")]
    NameOnly,
    #[error("{0:?} is not an image ID")]
    ImageId(String),
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{size} bytes is more than a reference store can have (at most {MAX_BYTES})")]
    TooLarge { size: u64 },
    #[error("not UTF-8 at byte {offset}")]
    NotUtf8 { offset: usize },
    /// The text is not JSON in the format of a reference store. The message contains the
    /// line and column.
    #[error("{}", in_words(.0))]
    Json(#[from] serde_json::Error),
}

/// The reference already points at another image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the reference already points at {0}")]
pub struct Occupied(pub String);

impl Store {
    /// Parses a store: one JSON object with the right keys and types. Only white space
    /// may surround the object.
    pub fn parse(bytes: impl Into<Vec<u8>>) -> Result<Self, StoreError> {
        Ok(Self {
            file: Arc::new(read::read(bytes.into())?),
            edits: BTreeMap::new(),
        })
    }

    /// The bytes that the store was read from.
    pub fn as_read(&self) -> &[u8] {
        self.file.text.as_bytes()
    }

    /// The bytes that the engine itself would write with Go's `json.Marshal`: keys in
    /// byte order, and no final newline. Unknown top-level keys keep their positions, and
    /// digestfix copies their values verbatim.
    pub fn text(&self) -> Text {
        moby_json::write(self)
    }

    /// The file that the store was read from, without the edits.
    pub fn text_as_read(&self) -> Text {
        moby_json::as_read(self)
    }

    /// The bytes of [`Store::text`] as one vector.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.text().pieces().concat()
    }

    /// Every reference, in the order of [`Store::to_bytes`].
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.repositories().flat_map(|whole| whole.entries())
    }

    /// The references under one repository's key, sorted.
    pub fn entries_of<'a>(&'a self, repository: &'a str) -> impl Iterator<Item = Entry<'a>> {
        Whole {
            name: repository,
            key: None,
            file: &self.file,
            read: self.file.pairs_of(repository),
            edits: self.edits.get(repository),
        }
        .entries()
    }

    /// The entries whose reference contains one of these digests.
    pub fn entries_with(&self, digests: &BTreeSet<String>) -> impl Iterator<Item = Entry<'_>> {
        let lengths: BTreeSet<usize> = digests.iter().map(String::len).collect();
        self.entries().filter(move |entry| {
            let key = entry.key.as_bytes();
            lengths.iter().any(|length| {
                let at = key.len().checked_sub(length + 1);
                at.is_some_and(|at| key[at] == b'@' && digests.contains(&entry.key[at + 1..]))
            })
        })
    }

    /// The references that the engine can use.
    pub fn references(&self) -> impl Iterator<Item = (Reference, ImageId)> {
        self.entries().filter_map(|entry| entry.meaning().ok())
    }

    /// The top-level keys that digestfix does not know, but keeps.
    pub fn unknown_keys(&self) -> impl Iterator<Item = &str> {
        self.file.top_level.iter().filter_map(|entry| match entry {
            TopLevel::Repositories => None,
            TopLevel::Unknown { key, .. } => Some(key.as_str()),
        })
    }

    /// The image that a reference points at, as the file contains it.
    pub fn get(&self, reference: &Reference) -> Option<&str> {
        self.value(&reference.repository().familiar(), &reference.familiar())
    }

    /// Whether the store contains this entry with this value.
    pub fn has(&self, entry: &Entry<'_>) -> bool {
        self.value(entry.repository, entry.key) == Some(entry.value)
    }

    /// Whether the reference points at this image.
    pub fn points_at(&self, reference: &Reference, image: &ImageId) -> bool {
        self.get(reference) == Some(image.to_string().as_str())
    }

    /// The value of an entry, even if the engine cannot use the entry.
    pub fn entry(&self, repository: &str, key: &str) -> Option<&str> {
        self.value(repository, key)
    }

    /// Sets an entry that the engine cannot use. If `value` is `None`, removes the entry.
    pub(crate) fn set_entry(&mut self, repository: &str, key: &str, value: Option<String>) {
        let edits = self.edits.entry(repository.to_owned()).or_default();
        edits.insert(key.to_owned(), value);
    }

    /// Points a reference at an image, under its own repository's key. Returns whether
    /// the store changed. Returns [`Occupied`] if the reference already points at another
    /// image: the caller must remove such a reference first.
    pub fn insert(&mut self, reference: &Reference, image: &ImageId) -> Result<bool, Occupied> {
        let image = image.to_string();
        match self.get(reference) {
            Some(present) if *present == image => Ok(false),
            Some(present) => Err(Occupied(present.to_owned())),
            None => {
                self.edit(reference, Some(image));
                Ok(true)
            }
        }
    }

    /// Removes a reference, and also the repository's key if no other reference is left
    /// in the repository. Returns the image that the reference pointed at.
    pub fn remove(&mut self, reference: &Reference) -> Option<String> {
        let image = self.get(reference)?.to_owned();
        self.edit(reference, None);
        Some(image)
    }

    /// Restores a value that [`Store::remove`] returned. The value need not be an image
    /// ID.
    pub(crate) fn put_back(&mut self, reference: &Reference, image: &str) {
        self.edit(reference, Some(image.to_owned()));
    }

    fn edit(&mut self, reference: &Reference, image: Option<String>) {
        let repository = reference.repository().familiar();
        self.set_entry(&repository, &reference.familiar(), image);
    }

    fn value(&self, repository: &str, key: &str) -> Option<&str> {
        let edit = self.edits.get(repository).and_then(|edits| edits.get(key));
        match edit {
            Some(image) => image.as_deref(),
            None => self.file.value(repository, key),
        }
    }

    /// Every repository that has a key.
    fn repositories(&self) -> impl Iterator<Item = Whole<'_>> {
        let read = self.file.repositories();
        let edited = self.edits.iter();
        let edited = edited.map(|(name, edits)| (name.as_str(), edits));
        in_order(read, edited)
            .map(|(name, read, edits)| Whole {
                name,
                key: read.map(|(key, _)| key),
                file: &self.file,
                read: read.map_or(&[], |(_, pairs)| pairs),
                edits,
            })
            .filter(|whole| whole.edits.is_none() || whole.references().next().is_some())
    }
}

/// A repository, with the edits to its references.
struct Whole<'a> {
    name: &'a str,
    /// The repository's key in the file. `None` if the repository is new, or if the
    /// caller looked up only this repository.
    key: Option<Span>,
    file: &'a File,
    read: &'a [Pair],
    edits: Option<&'a Edits>,
}

/// A reference: its key, its value, and its position if it is in the file.
type Held<'a> = (&'a str, &'a str, Option<Pair>);

impl<'a> Whole<'a> {
    fn references(&self) -> impl Iterator<Item = Held<'a>> + use<'a> {
        let file = self.file;
        let read = move |pair: &Pair| (file.str(pair.key), file.str(pair.value), Some(*pair));
        // Use a fast path for repositories without edits, because most repositories have
        // none and this function is called often.
        let (as_read, with_edits) = match self.edits {
            None => (self.read, None),
            Some(edits) => (&[][..], Some((self.read, edits))),
        };
        let with_edits = with_edits.into_iter().flat_map(move |(pairs, edits)| {
            let read = pairs
                .iter()
                .map(move |pair| (file.str(pair.key), read(pair)));
            let edited = edits.iter();
            let edited = edited.map(|(key, image)| (key.as_str(), image));
            in_order(read, edited).filter_map(|(key, read, edit)| match edit {
                Some(image) => Some((key, image.as_deref()?, None)),
                None => read,
            })
        });
        as_read.iter().map(read).chain(with_edits)
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'a>> + use<'a> {
        let repository = self.name;
        self.references().map(move |(key, value, _)| Entry {
            repository,
            key,
            value,
        })
    }
}

/// Merges two sequences that are both sorted by their keys.
fn in_order<'a, A, B>(
    one: impl Iterator<Item = (&'a str, A)>,
    other: impl Iterator<Item = (&'a str, B)>,
) -> impl Iterator<Item = (&'a str, Option<A>, Option<B>)> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    iter::from_fn(move || {
        let (order, key) = match (one.peek(), other.peek()) {
            (Some((key, _)), Some((against, _))) => match key.cmp(against) {
                Ordering::Greater => (Ordering::Greater, *against),
                order => (order, *key),
            },
            (Some((key, _)), None) => (Ordering::Less, *key),
            (None, Some((key, _))) => (Ordering::Greater, *key),
            (None, None) => return None,
        };
        let one = order.is_le().then(|| one.next()).flatten();
        let other = order.is_ge().then(|| other.next()).flatten();
        Some((key, one.map(|(_, of)| of), other.map(|(_, of)| of)))
    })
}

impl Entry<'_> {
    /// Whether this entry is useless because of its key: the engine finds no image by
    /// this key, no matter what the value is.
    pub fn is_passed_over(&self) -> bool {
        self.meaning()
            .is_err_and(|misfit| !matches!(misfit, Misfit::ImageId(_)))
    }

    /// The reference and the image that the engine reads from this entry.
    pub fn meaning(&self) -> Result<(Reference, ImageId), Misfit> {
        meaning(self.repository, self.key, self.value)
    }
}

fn meaning(repository: &str, key: &str, value: &str) -> Result<(Reference, ImageId), Misfit> {
    let reference = Reference::parse(key)?;
    if reference.tag().is_none() && reference.digest().is_none() {
        return Err(Misfit::NameOnly);
    }
    // If a reference has a tag and a digest, the engine drops the tag before it looks the
    // reference up.
    let sought = match (reference.tag(), reference.digest()) {
        (Some(_), Some(digest)) => reference.repository().clone().with_digest(digest.clone()),
        _ => reference,
    };
    let own_repository = sought.repository().familiar();
    if own_repository != repository || sought.familiar() != key {
        return Err(Misfit::Misplaced {
            repository: own_repository,
            key: sought.familiar(),
        });
    }
    let image = value
        .parse()
        .map_err(|_| Misfit::ImageId(value.to_owned()))?;
    Ok((sought, image))
}

#[cfg(test)]
mod tests;
