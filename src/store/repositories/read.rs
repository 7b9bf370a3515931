//! Parses the file of a reference store, and builds an index of it.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::store::repositories::file::{File, Pair, Repository, Span, TopLevel, piece};
use crate::store::repositories::{MAX_BYTES, REPOSITORIES, StoreError};
use crate::sys::at_once::at_once;
use crate::sys::strict_json::folds_to;

/// The deepest nesting that Go's parser accepts. The outermost object counts too
/// (`encoding/json`, `scanner.go`, since Go 1.15).
const MAX_NESTING: usize = 10_000;

/// The size in bytes from which a second thread makes parsing faster.
const LARGE: usize = 1 << 20;

/// Parses a file: one JSON object with the right keys and types. Only white space may
/// surround the object.
pub(super) fn read(bytes: Vec<u8>) -> Result<File, StoreError> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(StoreError::TooLarge {
            size: bytes.len() as u64,
        });
    }
    let text = String::from_utf8(bytes).map_err(|error| StoreError::NotUtf8 {
        offset: error.utf8_error().valid_up_to(),
    })?;
    let mut index = Index {
        text: &text,
        unescaped: String::new(),
        repositories: Vec::new(),
        pairs: Vec::new(),
    };
    let scan = || is_plain(text.as_bytes());
    let mut parse = || {
        let mut deserializer = serde_json::Deserializer::from_str(&text);
        let top_level = TopLevelSeed(&mut index).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok::<_, StoreError>(top_level)
    };
    let (is_plain, top_level) = match text.len() > LARGE {
        true => at_once(scan, parse),
        false => (scan(), parse()),
    };
    let top_level = top_level?;
    let Index {
        unescaped,
        repositories,
        pairs,
        ..
    } = index;
    Ok(File {
        is_plain,
        text,
        unescaped,
        repositories,
        pairs,
        top_level,
    })
}

/// Whether the text contains none of these characters: Go escapes them, but other
/// programs may write them unescaped. (0xe2 is the first byte of U+2028 and U+2029, among
/// others.)
fn is_plain(text: &[u8]) -> bool {
    memchr::memchr3(b'<', b'>', b'&', text).is_none() && memchr::memchr(0xe2, text).is_none()
}

/// The nesting depth of objects and arrays in a text that is valid JSON.
fn nesting(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut in_string = false;
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            // A quotation mark after a backslash neither begins nor ends a string.
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

/// The index of a reference store's file while it is being built.
struct Index<'t> {
    text: &'t str,
    unescaped: String,
    repositories: Vec<Repository>,
    pairs: Vec<Pair>,
}

impl Index<'_> {
    fn str(&self, span: Span) -> &str {
        piece(self.text, &self.unescaped, span)
    }

    /// The position of a string that is a slice of the text.
    fn span_in_text(&self, string: &str) -> Option<Span> {
        let start = string.as_ptr().addr() - self.text.as_ptr().addr();
        Span::new(start, string.len())
    }

    /// Stores the unescaped form of a string that contains escapes in the text.
    fn keep(&mut self, string: &str) -> Option<Span> {
        let start = self.text.len() + self.unescaped.len();
        self.unescaped.push_str(string);
        Span::new(start, string.len())
    }

    fn count(&self) -> u32 {
        // The number of pairs fits into 32 bits: a pair takes more than one byte of the
        // text, and the text has fewer than 2^32 bytes.
        u32::try_from(self.pairs.len()).unwrap_or(u32::MAX)
    }
}

/// Finds duplicate keys of an object. Go writes sorted keys, so it is enough to compare
/// each key with the previous key. Once a key is out of order, digestfix looks up each
/// key in a set of all earlier keys instead.
#[derive(Default)]
struct Order {
    all: Option<BTreeSet<String>>,
}

impl Order {
    /// Adds the next key. Returns false if the key is a duplicate. `earlier` contains the
    /// previous keys, in their order.
    fn takes<'k>(
        &mut self,
        key: &str,
        mut earlier: impl DoubleEndedIterator<Item = &'k str>,
    ) -> bool {
        match &mut self.all {
            Some(all) => all.insert(key.to_owned()),
            None => match earlier.next_back() {
                Some(last) if last >= key => {
                    let all = earlier.chain([last]).map(str::to_owned).collect();
                    self.all.insert(all).insert(key.to_owned())
                }
                _ => true,
            },
        }
    }

    const fn is_kept(&self) -> bool {
        self.all.is_none()
    }
}

struct TopLevelSeed<'i, 't>(&'i mut Index<'t>);

impl<'de> DeserializeSeed<'de> for TopLevelSeed<'_, 'de> {
    type Value = Vec<TopLevel>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TopLevelSeed<'_, 'de> {
    type Value = Vec<TopLevel>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with the key \"Repositories\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut top_level = Vec::new();
        let mut has_repositories = false;
        let mut unknown = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == REPOSITORIES {
                if has_repositories {
                    return Err(A::Error::custom("duplicate key \"Repositories\""));
                }
                has_repositories = true;
                map.next_value_seed(RepositoriesSeed(self.0))?;
                top_level.push(TopLevel::Repositories);
            } else if folds_to(&key, REPOSITORIES) {
                return Err(A::Error::custom(format_args!(
                    "the engine reads the key {key:?} as \"Repositories\": rename or remove the key"
                )));
            } else {
                if !unknown.insert(key.clone()) {
                    return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
                }
                let value: Box<RawValue> = map.next_value()?;
                // serde_json does not limit the nesting of raw values, but the engine's
                // parser does: with deeper nesting, the engine would not start.
                if nesting(value.get()) >= MAX_NESTING {
                    return Err(A::Error::custom(format_args!(
                        "the value of {key:?} is nested too deeply: the engine reads at most \
                         {MAX_NESTING} levels"
                    )));
                }
                top_level.push(TopLevel::Unknown { key, value });
            }
        }
        if !has_repositories {
            top_level.insert(0, TopLevel::Repositories);
        }
        Ok(top_level)
    }
}

struct RepositoriesSeed<'i, 't>(&'i mut Index<'t>);

impl<'de> DeserializeSeed<'de> for RepositoriesSeed<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RepositoriesSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of repositories as the value of \"Repositories\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let index = self.0;
        let mut order = Order::default();
        while let Some(name) = map.next_key_seed(StringSeed::key(index))? {
            let earlier = index.repositories.iter();
            let earlier = earlier.map(|repository| index.str(repository.name));
            if !order.takes(index.str(name), earlier) {
                return Err(A::Error::custom(format_args!(
                    "duplicate repository {:?}",
                    index.str(name)
                )));
            }
            let first = index.count();
            map.next_value_seed(RepositorySeed {
                index: &mut *index,
                name,
            })?;
            let end = index.count();
            index.repositories.push(Repository { name, first, end });
        }
        if !order.is_kept() {
            let (text, unescaped) = (index.text, &index.unescaped);
            index
                .repositories
                .sort_unstable_by_key(|repository| piece(text, unescaped, repository.name));
        }
        Ok(())
    }
}

struct RepositorySeed<'i, 't> {
    index: &'i mut Index<'t>,
    name: Span,
}

impl<'de> DeserializeSeed<'de> for RepositorySeed<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RepositorySeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "an object with the references of repository {:?}",
            self.index.str(self.name)
        )
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { index, name } = self;
        let first = index.pairs.len();
        let mut order = Order::default();
        while let Some(key) = map.next_key_seed(StringSeed::key(index))? {
            let earlier = index.pairs[first..].iter();
            let earlier = earlier.map(|pair| index.str(pair.key));
            if !order.takes(index.str(key), earlier) {
                return Err(A::Error::custom(format_args!(
                    "duplicate reference {:?} in repository {:?}",
                    index.str(key),
                    index.str(name)
                )));
            }
            let value = map.next_value_seed(StringSeed {
                index: &mut *index,
                value_of: Some((name, key)),
            })?;
            index.pairs.push(Pair { key, value });
        }
        if !order.is_kept() {
            let (text, unescaped) = (index.text, &index.unescaped);
            index.pairs[first..].sort_unstable_by_key(|pair| piece(text, unescaped, pair.key));
        }
        Ok(())
    }
}

/// Reads a string as a position in the text.
struct StringSeed<'i, 't> {
    index: &'i mut Index<'t>,
    /// If the string is the value of a reference: the repository and the reference, for
    /// the error message. `None` if the string is a key.
    value_of: Option<(Span, Span)>,
}

impl<'i, 't> StringSeed<'i, 't> {
    const fn key(index: &'i mut Index<'t>) -> Self {
        Self {
            index,
            value_of: None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for StringSeed<'_, 'de> {
    type Value = Span;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Span, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for StringSeed<'_, 'de> {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.value_of {
            Some((repository, key)) => write!(
                f,
                "a string with the image ID for reference {:?} in repository {:?}",
                self.index.str(key),
                self.index.str(repository)
            ),
            None => f.write_str("a key"),
        }
    }

    fn visit_borrowed_str<E: Error>(self, string: &'de str) -> Result<Span, E> {
        let span = self.index.span_in_text(string);
        span.ok_or_else(|| E::custom("too long"))
    }

    fn visit_str<E: Error>(self, string: &str) -> Result<Span, E> {
        let span = self.index.keep(string);
        span.ok_or_else(|| E::custom("too long"))
    }
}
