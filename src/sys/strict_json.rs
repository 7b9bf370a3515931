//! Reads JSON that Go programs such as Docker, containerd and registries also read.
//!
//! Go ignores case when it matches a key with a field. If several keys match, Go uses the
//! last one (`encoding/json`, 1.15 to 1.26). From `{"config":A,"Config":B}`, a parser
//! that compares keys exactly would read another value than Docker does. The function
//! [`read`] refuses an object that contains the same key twice. It also refuses a key
//! that Go treats as a known key, although the spelling differs.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};

use crate::sys::json_error::in_words;

#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// A key that differs from a known key, although Go treats the two as the same key.
    #[error(
        "Docker reads the key \"{}\" as \"{known}\": Docker and digestfix would read different values",
        key.escape_default()
    )]
    ReadAs {
        /// The key without escapes.
        key: String,
        known: &'static str,
    },
    #[error(
        "the key \"{}\" appears twice in one object: Docker uses the last value, other programs \
         the first",
        .0.escape_default()
    )]
    Twice(String),
    #[error("{}", in_words(.0))]
    Json(#[from] serde_json::Error),
}

/// Whether Go treats the key as this ASCII name (`encoding/json`, `fold.go`). Go ignores
/// case here. Outside ASCII, only two characters match an ASCII letter.
pub fn folds_to(key: &str, name: &str) -> bool {
    let folded = key.chars().map(|char| match char {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    folded.eq(name.chars().map(|char| char.to_ascii_lowercase()))
}

/// Reads one JSON text. Refuses a key that differs from the name of a field, although Go
/// treats the two as the same. Does not check values that the target struct ignores.
pub fn read<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, JsonError> {
    let refused = Refused::default();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = T::deserialize(Strict {
        inner: &mut json,
        refused: &refused,
    });
    let read = read.and_then(|value| json.end().map(|()| value));
    match refused.0.into_inner() {
        Some(error) => Err(error),
        None => Ok(read?),
    }
}

/// The error about the first refused key. digestfix stores this error separately, because
/// an error of serde can contain only a text.
#[derive(Default)]
struct Refused(RefCell<Option<JsonError>>);

impl Refused {
    fn note<E: Error>(&self, error: JsonError) -> E {
        let text = error.to_string();
        self.0.borrow_mut().get_or_insert(error);
        E::custom(text)
    }
}

/// A deserializer, or a deserializer seed, that checks all objects.
struct Strict<'r, T> {
    inner: T,
    refused: &'r Refused,
}

impl<'r, T> Strict<'r, T> {
    const fn visitor<V>(&self, visitor: V, known: &'static [&'static str]) -> Checked<'r, V> {
        Checked {
            visitor,
            known,
            refused: self.refused,
        }
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Strict {
            inner: deserializer,
            refused: self.refused,
        })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(visitor, &[]);
        self.inner.deserialize_any(visitor)
    }

    /// Accept only an object for a struct. serde would also accept an array, but Go does
    /// not.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(visitor, fields);
        self.inner.deserialize_map(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(visitor, &[]);
        self.inner.deserialize_option(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = self.visitor(visitor, &[]);
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_ignored_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier
    }
}

/// A visitor that checks all objects.
struct Checked<'r, V> {
    visitor: V,
    known: &'static [&'static str],
    refused: &'r Refused,
}

macro_rules! pass_on {
    ($($method:ident($type:ty))*) => {
        $(fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.visitor.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Checked<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.visitor.expecting(f)
    }

    pass_on! {
        visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64)
        visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let refused = self.refused;
        self.visitor.visit_some(Strict { inner, refused })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        let refused = self.refused;
        self.visitor.visit_newtype_struct(Strict { inner, refused })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let refused = self.refused;
        self.visitor.visit_seq(Strict { inner, refused })
    }

    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Object {
            known: self.known,
            seen: BTreeSet::new(),
            values: Strict {
                inner,
                refused: self.refused,
            },
        })
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        inner: T,
    ) -> Result<Option<T::Value>, A::Error> {
        let refused = self.refused;
        self.inner.next_element_seed(Strict { inner, refused })
    }
}

/// The keys and values of an object.
struct Object<'r, A> {
    known: &'static [&'static str],
    seen: BTreeSet<String>,
    values: Strict<'r, A>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Object<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let Some(key) = self.values.inner.next_key::<String>()? else {
            return Ok(None);
        };
        let refused = self.values.refused;
        let mut read_as = self.known.iter().filter(|known| folds_to(&key, known));
        if let Some(known) = read_as.find(|known| **known != key) {
            return Err(refused.note(JsonError::ReadAs { key, known }));
        }
        if !self.seen.insert(key.clone()) {
            return Err(refused.note(JsonError::Twice(key)));
        }
        let key: StringDeserializer<A::Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, inner: T) -> Result<T::Value, A::Error> {
        let refused = self.values.refused;
        self.values.inner.next_value_seed(Strict { inner, refused })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Outer {
        task: Option<Inner>,
        #[serde(default)]
        list: Vec<Inner>,
        #[serde(default)]
        notes: BTreeMap<String, String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        keys: u64,
    }

    fn error(text: &str) -> String {
        read::<Outer>(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_key_that_go_takes_for_another_one_is_refused_at_any_depth() {
        for (text, named) in [
            (r#"{"task":null,"Task":null}"#, r#""Task""#),
            (r#"{"TASK":null,"task":null}"#, r#""TASK""#),
            (r#"{"ta\u017fk":null}"#, r#""ta\u{17f}k""#),
            ("{\"tas\u{212a}\":null}", r#""tas\u{212a}""#),
            (r#"{"\u0054ask":null}"#, r#""Task""#),
            (r#"{"task":{"keys":1,"Keys":2}}"#, r#""Keys""#),
            (
                r#"{"list":[{"keys":1},{"key\u017f":2}]}"#,
                r#""key\u{17f}""#,
            ),
        ] {
            let error = error(text);
            assert!(
                error.starts_with(&format!("Docker reads the key {named} as ")),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused_however_it_is_written() {
        for text in [
            r#"{"task":null,"\u0074ask":null}"#,
            r#"{"list":[{"keys":1,"keys":1}]}"#,
            r#"{"notes":{"a":"1","a":"2"}}"#,
            r#"{"other":1,"other":2}"#,
        ] {
            let error = error(text);
            assert!(error.contains("twice"), "{text}: {error}");
        }
        let forged = error("{\"a\\nb\\u202e\":1,\"a\\nb\\u202e\":2}");
        assert!(forged.contains(r#""a\nb\u{202e}""#), "{forged}");
    }

    #[test]
    fn what_go_reads_alike_is_read() {
        let text = r#"{"t\u0061sk":{"keys":1,"Kays":2},"notes":{"Keys":"x","keys":"y"},
                       "Other":{"keys":1,"Keys":2},"other":1}"#;
        let read: Outer = read(text.as_bytes()).unwrap();
        assert_eq!(read.task, Some(Inner { keys: 1 }));
        assert_eq!(read.notes["Keys"], "x");
    }

    #[test]
    fn what_go_does_not_read_is_no_text() {
        for text in [
            "",
            "\u{feff}{}",
            r#"{"task":[1]}"#,
            r#"{"task":{"keys":1e3}}"#,
            r#"{"task":{"keys":1}} x"#,
            r#"{"task":{"keys":1},}"#,
        ] {
            assert!(
                matches!(read::<Outer>(text.as_bytes()), Err(JsonError::Json(_))),
                "{text}"
            );
        }
    }
}
