//! `repositories.json`: Docker's reference store, read and written exactly as
//! the engine does.
//!
//! The format belongs to moby (`daemon/internal/refstore/store.go`, v28.5;
//! `reference/store.go` up to v23): one JSON object whose `Repositories` maps
//! a familiar repository name to its references, each pointing at an image
//! ID. The engine reads the file once, at its start, and rewrites it whole.
//!
//! The model is strict where a guess could lose a reference (duplicate keys,
//! wrong types, broken text are errors that name the place) and faithful where
//! it only lacks knowledge: an entry it cannot interpret and a top-level key
//! it does not know are kept as they are and can be listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::digest::ImageId;
use crate::reference::{Reference, ReferenceError};

mod moby_json;

/// The file's name in `<data-root>/image/<driver>/`.
pub const FILE_NAME: &str = "repositories.json";

/// The largest file that is read, in bytes. A reference takes about 200 bytes,
/// so this is room for some 300,000 of them.
pub const MAX_BYTES: u64 = 64 * 1024 * 1024;

const REPOSITORIES: &str = "Repositories";

/// How deep Go's parser follows objects and arrays (`encoding/json`,
/// `scanner.go`, since Go 1.15), the outermost object included.
const MAX_NESTING: usize = 10_000;

/// The reference store of one storage driver.
#[derive(Debug, Clone)]
pub struct Store {
    repositories: BTreeMap<String, BTreeMap<String, String>>,
    top_level: Vec<TopLevel>,
}

/// Two stores are equal when they would be written as the same bytes.
impl PartialEq for Store {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

/// A key of the file's outermost object, in the order of the file.
#[derive(Debug, Clone)]
enum TopLevel {
    Repositories,
    Unknown { key: String, value: Box<RawValue> },
}

/// One reference as the file has it, beside what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The repository key that the reference stands under.
    pub repository: &'a str,
    /// The reference, as written.
    pub key: &'a str,
    /// The image ID, as written.
    pub value: &'a str,
    /// What the engine takes the entry for, or why it cannot use it.
    pub meaning: Result<(Reference, ImageId), Misfit>,
}

/// Why an entry is there and yet of no use to the engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// The engine skips a reference that it cannot parse, in silence.
    #[error("not a reference: {0}")]
    Reference(#[from] ReferenceError),
    /// The engine looks a reference up by its familiar form under its own
    /// repository, and finds it nowhere else.
    #[error("the engine looks for it as {key:?} under {repository:?}, not here")]
    Misplaced {
        /// The repository key that it belongs under.
        repository: String,
        /// The form that it belongs there in.
        key: String,
    },
    /// A name alone, with neither tag nor digest.
    #[error("neither a tag nor a digest")]
    NameOnly,
    /// The value is not `sha256:` and 64 hexadecimal digits.
    #[error("{0:?} is not an image ID")]
    ImageId(String),
}

/// The file is not a reference store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// More than [`MAX_BYTES`].
    #[error("{size} bytes is more than a reference store can have (at most {MAX_BYTES})")]
    TooLarge {
        /// The size that was met, in bytes.
        size: u64,
    },
    /// Text that is not UTF-8.
    #[error("not UTF-8 at byte {offset}")]
    NotUtf8 {
        /// The first byte that is not, counted from 0.
        offset: usize,
    },
    /// Not the JSON that the format wants; the message names line and column.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
}

/// The reference already points at another image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it already points at {0}")]
pub struct Occupied(pub String);

impl Store {
    /// Reads a store.
    ///
    /// # Errors
    /// [`StoreError`] for anything but one JSON object of the right shape,
    /// with nothing but white space around it.
    pub fn parse(bytes: &[u8]) -> Result<Self, StoreError> {
        if bytes.len() as u64 > MAX_BYTES {
            return Err(StoreError::TooLarge {
                size: bytes.len() as u64,
            });
        }
        let text = std::str::from_utf8(bytes).map_err(|error| StoreError::NotUtf8 {
            offset: error.valid_up_to(),
        })?;
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let store = TopLevelSeed.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(store)
    }

    /// The bytes that the engine itself would write: Go's `json.Marshal`,
    /// keys in byte order, no newline at the end. Unknown top-level keys
    /// stay where they were read, their values letter for letter.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        moby_json::write(self)
    }

    /// Every reference, in the order of the file that [`Store::to_bytes`] makes.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.repositories
            .iter()
            .flat_map(|(repository, references)| {
                references.iter().map(|(key, value)| Entry {
                    repository,
                    key,
                    value,
                    meaning: meaning(repository, key, value),
                })
            })
    }

    /// The references that the engine can use.
    pub fn references(&self) -> impl Iterator<Item = (Reference, ImageId)> {
        self.entries().filter_map(|entry| entry.meaning.ok())
    }

    /// The top-level keys that this model does not know and keeps.
    pub fn unknown_keys(&self) -> impl Iterator<Item = &str> {
        self.top_level.iter().filter_map(|entry| match entry {
            TopLevel::Repositories => None,
            TopLevel::Unknown { key, .. } => Some(key.as_str()),
        })
    }

    /// The image that a reference points at, as the file has it.
    #[must_use]
    pub fn get(&self, reference: &Reference) -> Option<&str> {
        self.repositories
            .get(&reference.repository().familiar())?
            .get(&reference.familiar())
            .map(String::as_str)
    }

    /// The reference points at this image.
    #[must_use]
    pub fn points_at(&self, reference: &Reference, image: &ImageId) -> bool {
        self.get(reference) == Some(image.to_string().as_str())
    }

    /// Points a reference at an image, under its own repository's key.
    /// Says whether that changed anything.
    ///
    /// # Errors
    /// [`Occupied`] when it points at another image: a reference never moves
    /// in silence. Remove it first.
    pub fn insert(&mut self, reference: &Reference, image: &ImageId) -> Result<bool, Occupied> {
        let references = self
            .repositories
            .entry(reference.repository().familiar())
            .or_default();
        let image = image.to_string();
        match references.get(&reference.familiar()) {
            Some(present) if *present == image => Ok(false),
            Some(present) => Err(Occupied(present.clone())),
            None => {
                references.insert(reference.familiar(), image);
                Ok(true)
            }
        }
    }

    /// Drops a reference, and its repository's key with the last of them.
    /// Gives what it pointed at.
    pub fn remove(&mut self, reference: &Reference) -> Option<String> {
        let repository = reference.repository().familiar();
        let references = self.repositories.get_mut(&repository)?;
        let image = references.remove(&reference.familiar())?;
        if references.is_empty() {
            self.repositories.remove(&repository);
        }
        Some(image)
    }

    /// Restores what [`Store::remove`] gave, image ID or not.
    pub(crate) fn put_back(&mut self, reference: &Reference, image: &str) {
        self.repositories
            .entry(reference.repository().familiar())
            .or_default()
            .insert(reference.familiar(), image.to_owned());
    }
}

fn meaning(repository: &str, key: &str, value: &str) -> Result<(Reference, ImageId), Misfit> {
    let reference = Reference::parse(key)?;
    if reference.tag().is_none() && reference.digest().is_none() {
        return Err(Misfit::NameOnly);
    }
    // The engine drops the tag of a reference that has both before it looks.
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

/// Go matches object keys to fields without regard to case (`encoding/json`,
/// with the folding of `bytes.EqualFold`), so such a key is read as
/// `Repositories` by the engine.
fn engine_reads_as_repositories(key: &str) -> bool {
    key.replace('\u{17f}', "s")
        .eq_ignore_ascii_case(REPOSITORIES)
}

/// How many objects and arrays stand inside each other in a JSON text that
/// is known to be valid.
fn nesting(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut in_string = false;
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            // What follows a backslash neither ends the string nor begins one.
            b'\\' => drop(bytes.next()),
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

struct TopLevelSeed;

impl<'de> DeserializeSeed<'de> for TopLevelSeed {
    type Value = Store;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Store, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TopLevelSeed {
    type Value = Store;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with the key \"Repositories\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Store, A::Error> {
        let mut repositories = None;
        let mut top_level: Vec<TopLevel> = Vec::new();
        let mut unknown = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == REPOSITORIES {
                if repositories.is_some() {
                    return Err(A::Error::custom("duplicate key \"Repositories\""));
                }
                repositories = Some(map.next_value_seed(RepositoriesSeed)?);
                top_level.push(TopLevel::Repositories);
            } else if engine_reads_as_repositories(&key) {
                return Err(A::Error::custom(format_args!(
                    "the engine reads the key {key:?} as \"Repositories\": rename or remove it"
                )));
            } else {
                if !unknown.insert(key.clone()) {
                    return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
                }
                let value: Box<RawValue> = map.next_value()?;
                // Raw text is not held to a nesting limit here; the engine's
                // parser has one, and would not start on the file.
                if nesting(value.get()) >= MAX_NESTING {
                    return Err(A::Error::custom(format_args!(
                        "the value of {key:?} is nested deeper than the engine reads ({MAX_NESTING})"
                    )));
                }
                top_level.push(TopLevel::Unknown { key, value });
            }
        }
        if repositories.is_none() {
            top_level.insert(0, TopLevel::Repositories);
        }
        Ok(Store {
            repositories: repositories.unwrap_or_default(),
            top_level,
        })
    }
}

struct RepositoriesSeed;

impl<'de> DeserializeSeed<'de> for RepositoriesSeed {
    type Value = BTreeMap<String, BTreeMap<String, String>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RepositoriesSeed {
    type Value = BTreeMap<String, BTreeMap<String, String>>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of repositories as the value of \"Repositories\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut repositories = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if repositories.contains_key(&name) {
                return Err(A::Error::custom(format_args!(
                    "duplicate repository {name:?}"
                )));
            }
            let references = map.next_value_seed(RepositorySeed { name: &name })?;
            repositories.insert(name, references);
        }
        Ok(repositories)
    }
}

struct RepositorySeed<'n> {
    name: &'n str,
}

impl<'de> DeserializeSeed<'de> for RepositorySeed<'_> {
    type Value = BTreeMap<String, String>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RepositorySeed<'_> {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object of references in repository {:?}", self.name)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut references = BTreeMap::new();
        while let Some(key) = map.next_key::<String>()? {
            if references.contains_key(&key) {
                return Err(A::Error::custom(format_args!(
                    "duplicate reference {key:?} in repository {:?}",
                    self.name
                )));
            }
            let value = map.next_value_seed(ImageSeed {
                repository: self.name,
                key: &key,
            })?;
            references.insert(key, value);
        }
        Ok(references)
    }
}

struct ImageSeed<'n> {
    repository: &'n str,
    key: &'n str,
}

impl<'de> DeserializeSeed<'de> for ImageSeed<'_> {
    type Value = String;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_string(self)
    }
}

impl Visitor<'_> for ImageSeed<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "an image ID as a string for reference {:?} in repository {:?}",
            self.key, self.repository
        )
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }
}

#[cfg(test)]
mod tests;
