//! Sources in JSON, told apart by their keys: manifests, what `docker image
//! inspect` prints, another host's reference store, digestfix's own claims,
//! and Kubernetes objects.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use crate::digest::{Algorithm, Digest, ImageId};
use crate::manifest;
use crate::reference::{Reference, Tag};
use crate::source::Problem;
use crate::source::claims_file;
use crate::source::harvest::{Came, Harvest};
use crate::source::pins::pinned;
use crate::store::Store;

/// The keys that tell one kind from another.
#[derive(Deserialize)]
struct Keys {
    #[serde(default, rename = "Repositories")]
    repositories: Option<IgnoredAny>,
    #[serde(default)]
    digestfix_claims: Option<IgnoredAny>,
    #[serde(default, rename = "schemaVersion")]
    schema_version: Option<IgnoredAny>,
    #[serde(default, rename = "Id")]
    id: Option<IgnoredAny>,
    #[serde(default, rename = "RepoDigests")]
    repo_digests: Option<IgnoredAny>,
}

impl Keys {
    const fn are_of_an_image(&self) -> bool {
        self.id.is_some() && self.repo_digests.is_some()
    }
}

/// What `docker image inspect` says of an image.
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

/// Reads one or more JSON documents, one after another.
///
/// # Errors
/// [`Problem`] says why they could not be used.
pub fn read_json(text: &str, place: &str, harvest: &mut Harvest) -> Result<(), Problem> {
    let mut documents = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    let mut first = true;
    while let Some(document) = documents.next() {
        let document = document.map_err(Problem::Json)?.get();
        let rest = text.get(documents.byte_offset()..).unwrap_or_default();
        let single = first && rest.trim().is_empty();
        first = false;
        if document.starts_with('[') {
            read_array(document, place, harvest)?;
        } else if document.starts_with('{') {
            let keys: Keys = serde_json::from_str(document).map_err(Problem::Json)?;
            if keys.digestfix_claims.is_some() {
                claims_file::read(document, place, harvest)?;
            } else if keys.repositories.is_some() {
                read_store(document, place, harvest)?;
            } else if keys.schema_version.is_some() {
                read_manifest(if single { text } else { document }, place, harvest)?;
            } else if keys.are_of_an_image() {
                read_inspected(document, place, harvest)?;
            } else {
                read_strings(document, place, harvest)?;
            }
        } else {
            return Err(Problem::Unknown);
        }
    }
    Ok(())
}

fn read_array(document: &str, place: &str, harvest: &mut Harvest) -> Result<(), Problem> {
    let mut of_images = None;
    let mut problem = None;
    let mut take = |element: &str| {
        let is_of_an_image =
            || serde_json::from_str(element).is_ok_and(|keys: Keys| keys.are_of_an_image());
        if *of_images.get_or_insert_with(is_of_an_image) && problem.is_none() {
            problem = read_inspected(element, place, harvest).err();
        }
    };
    serde_json::Deserializer::from_str(document)
        .deserialize_seq(Elements { take: &mut take })
        .map_err(Problem::Json)?;
    if let Some(problem) = problem {
        return Err(problem);
    }
    match of_images {
        Some(true) => Ok(()),
        _ => read_strings(document, place, harvest),
    }
}

/// The raw bytes of a manifest, as a registry serves them.
fn read_manifest(text: &str, place: &str, harvest: &mut Harvest) -> Result<(), Problem> {
    let trimmed = text.trim_end();
    for bytes in [text, trimmed] {
        if bytes.len() as u64 > manifest::MAX_BYTES {
            return Err(Problem::TooLarge {
                what: "the manifest".to_owned(),
                limit: manifest::MAX_BYTES,
            });
        }
        harvest.prove(bytes.as_bytes(), place)?;
    }
    let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
    if trimmed.len() < text.len() {
        // The registry's bytes may end so, or somebody's editor added it.
        let without = Digest::of(Algorithm::Sha256, trimmed.as_bytes());
        harvest.remark(format!(
            "{place}: the manifest ends with white space; its digest is {digest}, or {without} if \
             that was added when it was saved. Either is taken as proof of a claim that names it"
        ));
        return Ok(());
    }
    let came = Came {
        repository: None,
        in_index: false,
        place,
    };
    harvest.manifest(&digest, came)
}

fn read_inspected(document: &str, place: &str, harvest: &mut Harvest) -> Result<(), Problem> {
    let image: Inspected = serde_json::from_str(document).map_err(Problem::Json)?;
    let references: Vec<Reference> = image
        .repo_digests
        .iter()
        .flatten()
        .filter_map(|text| pinned(text))
        .collect();
    let id = image.id.parse::<ImageId>();
    let id_is_digest = references
        .iter()
        .filter_map(Reference::digest)
        .any(|digest| digest.to_string() == image.id);
    match id {
        // With the containerd image store, the "ID" is the manifest's digest.
        Ok(_) | Err(_) if image.descriptor.is_some() || id_is_digest => {
            harvest.remark(format!(
                "{place}: of a host with the containerd image store, which names no image IDs; its \
                 digests are matched by tag, and so only asserted"
            ));
            for reference in &references {
                let tags = image.repo_tags.iter().flatten();
                let tags = tags
                    .filter_map(|tag| Reference::parse(tag).ok())
                    .filter(|tag| tag.repository() == reference.repository())
                    .filter_map(|tag| tag.tag().cloned());
                for tag in tags {
                    harvest.pin(&with_tag(reference, &tag), place)?;
                }
            }
            Ok(())
        }
        Ok(id) => references
            .iter()
            .try_for_each(|reference| harvest.record(reference, id.clone(), place)),
        Err(error) => Err(Problem::NotAnImageId(error)),
    }
}

fn with_tag(reference: &Reference, tag: &Tag) -> Reference {
    let text = reference
        .full()
        .replacen('@', &format!(":{}@", tag.as_str()), 1);
    Reference::parse(&text).unwrap_or_else(|_| reference.clone())
}

/// Another host's `repositories.json`.
fn read_store(document: &str, place: &str, harvest: &mut Harvest) -> Result<(), Problem> {
    let store = Store::parse(document.as_bytes()).map_err(Problem::Store)?;
    store
        .references()
        .try_for_each(|(reference, image)| harvest.record(&reference, image, place))
}

/// Every pin among the strings of any JSON.
fn read_strings(document: &str, place: &str, harvest: &mut Harvest) -> Result<(), Problem> {
    let mut problem = None;
    let mut take = |text: &str| {
        if problem.is_none()
            && let Some(reference) = pinned(text)
        {
            problem = harvest.pin(&reference, place).err();
        }
    };
    let mut deserializer = serde_json::Deserializer::from_str(document);
    Strings { take: &mut take }
        .deserialize(&mut deserializer)
        .map_err(Problem::Json)?;
    problem.map_or(Ok(()), Err)
}

/// Shows every element of an array, without keeping any.
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

/// Shows every string that is a value, without keeping any.
struct Strings<'a, F> {
    take: &'a mut F,
}

impl<'de, F: FnMut(&str)> DeserializeSeed<'de> for Strings<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&str)> Visitor<'de> for Strings<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        (self.take)(text);
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
        while sequence
            .next_element_seed(Strings {
                take: &mut *self.take,
            })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(Strings {
                take: &mut *self.take,
            })?;
        }
        Ok(())
    }
}
