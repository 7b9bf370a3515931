//! Sources in JSON. The keys of a JSON document show its format: a manifest, the output
//! of `docker image inspect`, another host's `repositories.json`, digestfix's own claims
//! file, or Kubernetes objects.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use crate::claims::row::pinned;
use crate::claims::source::claims_file;
use crate::claims::source::collected::{Came, Collected};
use crate::claims::source::fields::Objects;
use crate::claims::source::verbose;
use crate::claims::source::{Bytes, Problem};
use crate::image::digest::{Algorithm, Digest, ImageId};
use crate::image::manifest::{self, Manifest};
use crate::image::reference::{Reference, Tag};
use crate::store::repositories::Store;
use crate::sys::strict_json::{self, JsonError};

/// The keys by which digestfix recognizes the format of a JSON document.
#[derive(Deserialize)]
struct Keys {
    #[serde(default, rename = "Repositories")]
    repositories: Present,
    #[serde(default)]
    digestfix_claims: Present,
    #[serde(default, rename = "schemaVersion")]
    schema_version: Present,
    #[serde(default, rename = "Id")]
    id: Present,
    #[serde(default, rename = "RepoDigests")]
    repo_digests: Present,
    #[serde(default, rename = "Ref")]
    reference: Present,
    #[serde(default, rename = "Descriptor")]
    descriptor: Present,
}

/// Whether a key exists. The value does not matter, because Go writes an empty list as
/// `null`.
#[derive(Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

impl Keys {
    const fn are_of_an_image(&self) -> bool {
        self.id.0 && self.repo_digests.0
    }

    const fn are_of_manifest_inspect(&self) -> bool {
        self.reference.0 && self.descriptor.0
    }
}

/// The output of `docker image inspect` for one image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    repo_digests: Option<Vec<String>>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    descriptor: Option<IgnoredAny>,
}

/// Whether the text is JSON. JSON that was cut short counts if it contains a key that
/// digestfix knows.
pub(super) fn is_json(text: &str) -> bool {
    let mut documents = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    match documents.next() {
        Some(Err(error)) => error.is_eof() && is_source(text),
        _ => true,
    }
}

/// Whether the text contains a JSON key that shows that the file is about images.
fn is_source(text: &str) -> bool {
    let keys = [
        "\"Repositories\"",
        "\"RepoDigests\"",
        "\"digestfix_claims\"",
        "\"schemaVersion\"",
        "\"repoDigests\"",
        "\"Digest\"",
    ];
    keys.iter().any(|key| text.contains(key))
}

/// Reads one JSON document, or several documents in sequence.
pub fn read_json(text: &str, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    read(text, Bytes::AsTheyCame, place, collected)
}

pub(super) fn read(
    text: &str,
    bytes: Bytes,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    let mut documents = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let mut end = 0;
    while let Some(document) = documents.next() {
        let document = document.map_err(JsonError::from)?.get();
        let rest = text.get(documents.byte_offset()..).unwrap_or_default();
        let begin = documents.byte_offset() - document.len();
        let spaced = Spaced {
            bytes,
            before: text.get(end..begin).unwrap_or_default(),
            document,
            after: &rest[..rest.len() - rest.trim_start().len()],
        };
        end = documents.byte_offset();
        if document.starts_with('[') {
            read_array(document, place, collected)?;
        } else if document.starts_with('{') {
            let keys: Keys = serde_json::from_str(document).map_err(JsonError::from)?;
            if keys.digestfix_claims.0 {
                claims_file::read(document, place, collected)?;
            } else if keys.repositories.0 {
                read_store(document, place, collected)?;
            } else if keys.schema_version.0 {
                read_manifest(&spaced, place, collected)?;
            } else if keys.are_of_an_image() {
                read_inspected(document, place, collected)?;
            } else if keys.are_of_manifest_inspect() {
                verbose::read(document, place, collected)?;
            } else {
                read_objects(document, place, collected)?;
            }
        } else {
            return Err(Problem::Unknown);
        }
    }
    Ok(())
}

fn read_array(document: &str, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    let mut problem = None;
    let mut take = |element: &str| {
        if problem.is_some() {
            return;
        }
        let is_object = element.starts_with('{');
        let read = match is_object.then(|| serde_json::from_str::<Keys>(element)) {
            Some(Err(error)) => Err(JsonError::from(error).into()),
            Some(Ok(keys)) if keys.are_of_an_image() => read_inspected(element, place, collected),
            Some(Ok(keys)) if keys.are_of_manifest_inspect() => {
                verbose::read(element, place, collected)
            }
            _ => read_objects(element, place, collected),
        };
        problem = read.err();
    };
    serde_json::Deserializer::from_str(document)
        .deserialize_seq(Elements { take: &mut take })
        .map_err(JsonError::from)?;
    problem.map_or(Ok(()), Err)
}

/// A JSON document, with the white space before and after the document.
struct Spaced<'a> {
    bytes: Bytes,
    before: &'a str,
    document: &'a str,
    after: &'a str,
}

/// Reads a manifest. The file must contain the exact bytes that a registry serves,
/// because the digest is their hash.
fn read_manifest(spaced: &Spaced, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    let document = spaced.document;
    let ended = format!("{document}{}", spaced.after);
    if ended.len() as u64 > manifest::MAX_BYTES {
        return Err(Problem::TooLarge {
            what: "the manifest".to_owned(),
            limit: manifest::MAX_BYTES,
        });
    }
    if Manifest::parse(document.as_bytes())? == Manifest::Artifact {
        collected.prove(document.as_bytes(), place)?;
        return read_objects(document, place, collected);
    }
    if spaced.bytes == Bytes::Recoded || document.contains("\r\n") {
        // A registry never serves a byte-order mark, UTF-16 or CR LF. So digestfix
        // removes them to get the bytes that the registry serves.
        let plain = document.replace("\r\n", "\n");
        collected.prove(plain.as_bytes(), place)?;
        let ended = ended.replace("\r\n", "\n");
        collected.prove(ended.as_bytes(), place)?;
        let how = match spaced.bytes {
            Bytes::Recoded => "UTF-16 or a byte-order mark",
            Bytes::AsTheyCame => "CRLF line ends",
        };
        collected.remark(format!(
            "{place}: a program rewrote this manifest with {how}, which no registry serves. The \
             digest without {how} is {}. This file proves a claim of that digest, but makes no \
             claim itself. Copy the manifest again byte for byte, or also claim the digest: \
             NAME@DIGEST",
            Digest::of(Algorithm::Sha256, plain.as_bytes())
        ));
        return Ok(());
    }
    collected.prove(document.as_bytes(), place)?;
    let digest = Digest::of(Algorithm::Sha256, document.as_bytes());
    if spaced.before.is_empty() && spaced.after.is_empty() {
        let came = Came {
            repository: None,
            in_index: false,
            place,
        };
        return collected.manifest(&digest, came);
    }
    // An index from an earlier file lists the digest that the manifest has if the
    // surrounding white space is removed. So the registry serves the manifest without that
    // white space.
    if collected.evidence.listed(&digest).is_some() {
        let came = Came {
            repository: None,
            in_index: true,
            place,
        };
        return collected.manifest(&digest, came);
    }
    // It is unknown whether the registry serves the white space too. An editor may have
    // added the white space, and may have changed other bytes.
    collected.prove(ended.as_bytes(), place)?;
    let other = Digest::of(Algorithm::Sha256, ended.as_bytes());
    collected.remark(format!(
        "{place}: this manifest has white space around it, which may not come from the registry. \
         Without the white space, the digest is {digest}. With the white space at the end, the \
         digest is {other}. This file proves a claim of either digest, but makes no claim itself"
    ));
    Ok(())
}

fn read_inspected(document: &str, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    let image: Inspected = strict_json::read(document.as_bytes())?;
    let references: Vec<Reference> = image
        .repo_digests
        .iter()
        .flatten()
        .filter_map(|text| pinned(text))
        .collect();
    // Podman prints the image ID without `sha256:`.
    let id = match image.id.contains(':') {
        true => image.id.parse::<ImageId>(),
        false => format!("sha256:{}", image.id).parse(),
    };
    let id_is_digest = references
        .iter()
        .filter_map(Reference::digest)
        .any(|digest| digest.to_string().ends_with(&image.id));
    match id {
        // With the containerd image store, `docker image inspect` prints the manifest's
        // digest as "Id".
        Ok(_) | Err(_) if image.descriptor.is_some() || id_is_digest => {
            collected.remark(format!(
                "{place}: this file is from a host with the containerd image store, so it has no image IDs. \
                 digestfix finds the images by tag, so their digests are only asserted"
            ));
            for reference in &references {
                let tags = image.repo_tags.iter().flatten();
                let tags = tags
                    .filter_map(|tag| Reference::parse(tag).ok())
                    .filter(|tag| tag.repository() == reference.repository())
                    .filter_map(|tag| tag.tag().cloned());
                for tag in tags {
                    collected.pin(&with_tag(reference, &tag), place)?;
                }
            }
            Ok(())
        }
        Ok(id) => {
            let tags = image.repo_tags.iter().flatten();
            let tags: Vec<Reference> = tags.filter_map(|tag| Reference::parse(tag).ok()).collect();
            references
                .iter()
                .chain(tags.iter().filter(|tag| tag.tag().is_some()))
                .try_for_each(|reference| collected.record(reference, id.clone(), place))
        }
        Err(error) => Err(Problem::NotAnImageId(error)),
    }
}

fn with_tag(reference: &Reference, tag: &Tag) -> Reference {
    let text = reference
        .full()
        .replacen('@', &format!(":{}@", tag.as_str()), 1);
    Reference::parse(&text).unwrap_or_else(|_| reference.clone())
}

/// Reads another host's `repositories.json`.
fn read_store(document: &str, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    let store = Store::parse(document.as_bytes()).map_err(Problem::Store)?;
    store
        .references()
        .try_for_each(|(reference, image)| collected.record(&reference, image, place))
}

/// Reads the objects in a JSON document of any other format.
fn read_objects(document: &str, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    let mut walk = Walk {
        objects: Objects::new(place, collected),
        problem: None,
    };
    let mut deserializer = serde_json::Deserializer::from_str(document);
    let value = Value {
        walk: &mut walk,
        key: None,
    };
    value
        .deserialize(&mut deserializer)
        .map_err(JsonError::from)?;
    walk.objects.finish();
    walk.problem.map_or(Ok(()), Err)
}

/// Passes each element of a JSON array to `take`. Does not keep all elements in memory.
struct Elements<'a, F> {
    take: &'a mut F,
}

impl<'de, F: FnMut(&'de str)> Visitor<'de> for Elements<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while let Some(element) = sequence.next_element::<&'de RawValue>()? {
            (self.take)(element.get());
        }
        Ok(())
    }
}

/// Visits each value of a JSON document until the first problem. Does not keep all values
/// in memory.
struct Walk<'a> {
    objects: Objects<'a>,
    problem: Option<Problem>,
}

impl Walk<'_> {
    fn take(&mut self, act: impl FnOnce(&mut Objects) -> Result<(), Problem>) {
        if self.problem.is_none() {
            self.problem = act(&mut self.objects).err();
        }
    }
}

/// One value. `key` is `None` if the value is not a field of an object.
struct Value<'a, 'b> {
    walk: &'a mut Walk<'b>,
    key: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        let key = self.key;
        self.walk.take(|objects| objects.text(key, text, None));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        self.walk.objects.begin_list(self.key);
        loop {
            let element = Value {
                walk: &mut *self.walk,
                key: None,
            };
            if sequence.next_element_seed(element)?.is_none() {
                break;
            }
        }
        self.walk.take(|objects| objects.end());
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.walk.objects.begin_object(self.key);
        while let Some(key) = map.next_key::<String>()? {
            map.next_value_seed(Value {
                walk: &mut *self.walk,
                key: Some(&key),
            })?;
        }
        self.walk.take(|objects| objects.end());
        Ok(())
    }
}
