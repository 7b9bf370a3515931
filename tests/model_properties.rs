//! Properties that hold for every store, every request and every file.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};

use digestfix::claim::Claim;
use digestfix::digest::ImageId;
use digestfix::reference::Reference;
use digestfix::repositories::{Store, StoreError};
use digestfix::{Plan, Request};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Only a few names, so that requests and stores often have names in common.
const NAMES: [&str; 9] = [
    "a",
    "a-b",
    "a/b",
    "cafe",
    "11",
    "localhost/a",
    "localhost:5000/a",
    "quay.io/a/b",
    "x.y:1/a__b",
];

fn image_text(number: u8) -> String {
    format!("sha256:{}", format!("{number:02x}").repeat(32))
}

fn images() -> BTreeSet<ImageId> {
    (0x10..0x16)
        .map(|n| image_text(n).parse().unwrap())
        .collect()
}

fn name() -> impl Strategy<Value = &'static str> {
    select(&NAMES[..])
}

fn tag() -> impl Strategy<Value = String> {
    prop_oneof![
        select(&["latest", "1", "2", "V-1_a.b"][..]).prop_map(str::to_owned),
        "[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,5}",
    ]
}

/// Digests. Some of them are image IDs, because people confuse the two.
fn digest() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0xd0..0xd4_u8).prop_map(image_text),
        1 => (0x10..0x18_u8).prop_map(image_text),
        1 => "[0-9a-f]{128}".prop_map(|hex| format!("sha512:{hex}")),
    ]
}

fn reference() -> impl Strategy<Value = String> {
    prop_oneof![
        (name(), tag()).prop_map(|(name, tag)| format!("{name}:{tag}")),
        (name(), digest()).prop_map(|(name, digest)| format!("{name}@{digest}")),
    ]
}

/// Image IDs. Two of these images have no config.
fn image() -> impl Strategy<Value = String> {
    (0x10..0x18_u8).prop_map(image_text)
}

fn repository_of(reference: &str) -> String {
    let reference: Reference = reference.parse().unwrap();
    reference.repository().familiar()
}

type References = BTreeMap<String, String>;

fn references() -> impl Strategy<Value = References> {
    btree_map(reference(), image(), 0..16)
}

/// The file as the engine writes it. No text in the file needs an escape.
fn file(references: &References) -> String {
    let mut repositories: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (reference, image) in references {
        repositories
            .entry(repository_of(reference))
            .or_default()
            .push(format!("\"{reference}\":\"{image}\""));
    }
    let repositories: Vec<String> = repositories
        .iter()
        .map(|(name, references)| format!("\"{name}\":{{{}}}", references.join(",")))
        .collect();
    format!("{{\"Repositories\":{{{}}}}}", repositories.join(","))
}

/// A file with valid entries, entries that no engine can use, and unknown keys.
fn odd_file() -> impl Strategy<Value = String> {
    let odd = btree_map(
        select(
            &[
                "a",
                "b:1",
                "a:@x",
                "A:1",
                "",
                "docker.io/library/a:1",
                "<&>\u{2028}",
            ][..],
        ),
        select(&["", "broken", "sha256:ab"][..]),
        0..4,
    );
    let unknown = btree_map(
        "[x-z]{1,3}",
        select(&["1", "[ 1e999 ]", "{\"a\":null}"][..]),
        0..3,
    );
    (references(), odd, unknown, any::<bool>()).prop_map(|(references, odd, unknown, after)| {
        let mut entries: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (reference, image) in references {
            entries
                .entry(repository_of(&reference))
                .or_default()
                .insert(reference, image);
        }
        for (key, value) in odd {
            entries
                .entry("a".to_owned())
                .or_default()
                .insert(key.to_owned(), value.to_owned());
        }
        let repositories = format!(
            "\"Repositories\":{}",
            serde_json::to_string(&entries).unwrap()
        );
        let unknown: Vec<String> = unknown
            .into_iter()
            .map(|(key, value)| format!("\"{key}\":{value}"))
            .collect();
        let mut keys = unknown;
        keys.insert(if after { keys.len() } else { 0 }, repositories);
        format!("{{{}}}", keys.join(","))
    })
}

fn claim() -> impl Strategy<Value = String> {
    let image_name = prop_oneof![
        3 => image(),
        1 => select(&["11", "sha256:12", "cafe", "sha256:1", "a", "localhost/a"][..])
            .prop_map(str::to_owned),
        2 => reference(),
    ];
    prop_oneof![
        3 => (name(), tag(), digest()).prop_map(|(n, t, d)| format!("{n}:{t}@{d}")),
        3 => (name(), digest()).prop_map(|(n, d)| format!("{n}@{d}")),
        4 => (reference(), image_name).prop_map(|(r, i)| format!("{r}={i}")),
    ]
}

fn request() -> impl Strategy<Value = Request> {
    (
        vec(claim(), 0..3),
        vec(reference(), 0..2),
        0..8_u8,
        any::<bool>(),
    )
        .prop_map(
            |(claims, removals, replace, allow_image_id_digest)| Request {
                claims: claims.iter().map(|claim| claim.parse().unwrap()).collect(),
                removals: removals
                    .iter()
                    .map(|removal| removal.parse().unwrap())
                    .collect(),
                replace: replace > 1,
                allow_image_id_digest,
                ..Request::default()
            },
        )
}

/// A store, and a request that fits it: some references of the request are in the store.
fn store_and_request() -> impl Strategy<Value = (Store, Request)> {
    (
        odd_file(),
        request(),
        vec((any::<Index>(), digest(), 0..3_u8), 0..3),
    )
        .prop_map(|(file, mut request, aimed)| {
            let store = Store::parse(file.as_bytes()).unwrap();
            let present: Vec<Reference> =
                store.references().map(|(reference, _)| reference).collect();
            for (index, digest, kind) in aimed {
                if present.is_empty() {
                    break;
                }
                let reference = index.get(&present);
                match (kind, reference.tag()) {
                    (0, Some(_)) => request
                        .claims
                        .push(format!("{reference}@{digest}").parse().unwrap()),
                    (1, _) => request.removals.push(reference.clone()),
                    _ => request.claims.push(
                        format!("{}@{digest}={reference}", reference.repository().familiar())
                            .parse()
                            .unwrap(),
                    ),
                }
            }
            (store, request)
        })
}

fn entries(store: &Store) -> BTreeMap<(String, String), String> {
    store
        .entries()
        .map(|entry| {
            (
                (entry.repository.to_owned(), entry.key.to_owned()),
                entry.value.to_owned(),
            )
        })
        .collect()
}

/// Parsing succeeds, or fails with an error that names the position.
fn read_anything(bytes: &[u8]) {
    match Store::parse(bytes) {
        Ok(store) => {
            let written = store.to_bytes();
            let again = Store::parse(written.as_slice()).unwrap();
            assert_eq!(again.to_bytes(), written);
            assert_eq!(entries(&again), entries(&store));
            assert!(again.unknown_keys().eq(store.unknown_keys()));
        }
        Err(error @ StoreError::NotUtf8 { offset }) => {
            assert!(offset < bytes.len(), "{error}");
        }
        Err(StoreError::Json(error)) => {
            assert!(error.line() >= 1, "{error}");
            assert!(error.to_string().contains(" at line "), "{error}");
        }
        Err(StoreError::TooLarge { .. }) => panic!("{} bytes are not too many", bytes.len()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_the_engine_writes_round_trips(references in references()) {
        let file = file(&references);
        let store = Store::parse(file.as_bytes()).unwrap();
        prop_assert_eq!(String::from_utf8(store.to_bytes()).unwrap(), file);
        prop_assert_eq!(store.references().count(), references.len());
        for (reference, image) in &references {
            prop_assert_eq!(store.get(&reference.parse().unwrap()), Some(image.as_str()));
        }
    }

    #[test]
    fn insert_and_remove_are_inverse(file in odd_file(), reference in reference(), image in image()) {
        let before = Store::parse(file.as_bytes()).unwrap();
        let reference: Reference = reference.parse().unwrap();
        let image: ImageId = image.parse().unwrap();
        let mut store = before.clone();
        if let Some(present) = before.get(&reference).map(str::to_owned) {
            prop_assert_eq!(store.remove(&reference), Some(present.clone()));
            prop_assert_eq!(store.get(&reference), None);
            prop_assert_eq!(store.insert(&reference, &present.parse().unwrap()), Ok(true));
        } else {
            prop_assert_eq!(store.remove(&reference), None);
            prop_assert_eq!(&store, &before);
            prop_assert_eq!(store.insert(&reference, &image), Ok(true));
            prop_assert_eq!(store.insert(&reference, &image), Ok(false));
            prop_assert_eq!(entries(&store).len(), entries(&before).len() + 1);
            prop_assert_eq!(store.remove(&reference), Some(image.to_string()));
        }
        prop_assert_eq!(store, before);
    }

    #[test]
    fn a_plan_does_what_is_asked_once_and_nothing_else((store, request) in store_and_request()) {
        let images = images();
        let Ok(plan) = Plan::new(&store, &images, &request) else {
            return Ok(());
        };

        // Every target is met, and points at an image that exists on this host.
        prop_assert_eq!(plan.targets.len(), request.claims.len());
        for target in &plan.targets {
            let image = target.image.to_string();
            prop_assert_eq!(plan.after.get(&target.reference), Some(image.as_str()));
            prop_assert!(images.contains(&target.image));
        }
        for removal in &request.removals {
            prop_assert_eq!(plan.after.get(removal), None);
        }

        // No other reference is lost or moved.
        let (before, after) = (entries(&store), entries(&plan.after));
        let wanted: BTreeSet<String> = plan.targets.iter().map(|t| t.reference.familiar()).collect();
        let removed: BTreeSet<String> = request.removals.iter().map(Reference::familiar).collect();
        let claimed: BTreeSet<(String, String)> = plan
            .targets
            .iter()
            .filter(|target| !target.holds && target.reference.digest().is_some())
            .map(|target| {
                (target.reference.repository().familiar(), target.image.to_string())
            })
            .collect();
        for ((repository, key), value) in &before {
            let now = after.get(&(repository.clone(), key.clone()));
            if now == Some(value) {
                continue;
            }
            let displaced = request.replace
                && now.is_none()
                && key.contains('@')
                && claimed.contains(&(repository.clone(), value.clone()));
            let moved = request.replace && wanted.contains(key);
            prop_assert!(removed.contains(key) || displaced || moved, "{key}");
        }
        for place in after.keys() {
            prop_assert!(before.contains_key(place) || wanted.contains(&place.1), "{place:?}");
        }
        prop_assert!(plan.after.unknown_keys().eq(store.unknown_keys()));

        // The changes of the plan are exactly the difference, in the order of the file.
        prop_assert_eq!(plan.is_empty(), before == after);
        let mut changed = before.clone();
        let mut places = Vec::new();
        for change in &plan.changes {
            let reference = &change.reference;
            let place = (reference.repository().familiar(), reference.familiar());
            prop_assert_eq!(changed.remove(&place), change.from.clone());
            if let Some(to) = &change.to {
                changed.insert(place.clone(), to.to_string());
            }
            places.push(place);
        }
        prop_assert_eq!(&changed, &after);
        prop_assert!(places.is_sorted());
        for orphan in &plan.orphans {
            let image = orphan.to_string();
            prop_assert!(before.values().any(|value| *value == image));
            prop_assert!(plan.after.references().all(|(_, image)| image != *orphan));
        }

        // Planning again changes nothing. The order of the claims does not matter.
        // Undoing the plan restores the store.
        let again = Plan::new(&plan.after, &images, &request);
        prop_assert!(again.as_ref().is_ok_and(Plan::is_empty), "{again:?}");
        let mut backwards = request.clone();
        backwards.claims.reverse();
        backwards.removals.reverse();
        let backwards = Plan::new(&store, &images, &backwards).unwrap();
        prop_assert_eq!(&backwards.after, &plan.after);
        prop_assert_eq!(&backwards.changes, &plan.changes);
        let mut back = plan.after.clone();
        plan.take_back(&mut back);
        prop_assert_eq!(back, store);
    }

    #[test]
    fn taking_back_leaves_what_others_did(
        (store, request) in store_and_request(),
        others in vec((reference(), prop::option::of(image())), 0..6),
    ) {
        let Ok(plan) = Plan::new(&store, &images(), &request) else {
            return Ok(());
        };
        let mut met = plan.after.clone();
        for (reference, image) in &others {
            let reference: Reference = reference.parse().unwrap();
            met.remove(&reference);
            if let Some(image) = image {
                met.insert(&reference, &image.parse().unwrap()).unwrap();
            }
        }
        let mut back = met.clone();
        plan.take_back(&mut back);
        let (store, after) = (entries(&store), entries(&plan.after));
        let (met, back) = (entries(&met), entries(&back));
        let places: BTreeSet<_> = store.keys().chain(after.keys()).chain(met.keys()).collect();
        for place in places {
            // A reference that is as the plan left it is restored. Any other is left
            // unchanged.
            let expected = if met.get(place) == after.get(place) { &store } else { &met };
            prop_assert_eq!(back.get(place), expected.get(place), "{:?}", place);
        }
    }

    #[test]
    fn any_bytes_can_be_read(bytes in vec(any::<u8>(), 0..200)) {
        read_anything(&bytes);
    }

    #[test]
    fn any_json_like_text_can_be_read(
        parts in vec(
            select(&[
                "{", "}", "[", "]", ":", ",", "\"", "\\", "null", "1", "\n", "\"Repositories\":",
                "\"repositories\":", "\"a\":", "\"a:1\":", "\"sha256:ab\"", "\\u017f", "\\ud800",
            ][..]),
            0..30,
        ),
    ) {
        read_anything(parts.concat().as_bytes());
    }

    #[test]
    fn a_damaged_file_can_be_read(
        file in odd_file(),
        damage in vec((any::<Index>(), 0..4_u8, any::<u8>(), any::<Index>()), 1..4),
    ) {
        let mut bytes = file.into_bytes();
        for (at, kind, byte, other) in damage {
            if bytes.is_empty() {
                break;
            }
            let (at, other) = (at.index(bytes.len()), other.index(bytes.len()));
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, byte),
                _ => {
                    let piece = bytes[at.min(other)..at.max(other)].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        read_anything(&bytes);
    }

    #[test]
    fn any_text_is_a_claim_or_not(text in "\\PC{0,40}", piece in claim(), at in any::<Index>()) {
        let mut damaged: Vec<char> = piece.chars().collect();
        let at = at.index(damaged.len());
        damaged.splice(at..at, text.chars());
        for text in [text, damaged.into_iter().collect()] {
            match text.parse::<Claim>() {
                Ok(claim) => prop_assert_eq!(claim.text, text),
                Err(error) => prop_assert!(!error.to_string().contains(char::is_control)),
            }
        }
    }
}

/// Some of the generated requests are met, and some of their plans contain changes.
#[test]
fn requests_meet_stores() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut empty, mut planned, mut refused) = (0, 0, 0);
    for _ in 0..1_000 {
        let (store, request) = store_and_request().new_tree(&mut runner).unwrap().current();
        match Plan::new(&store, &images(), &request) {
            Ok(plan) if plan.is_empty() => empty += 1,
            Ok(_) => planned += 1,
            Err(_) => refused += 1,
        }
    }
    println!("empty {empty}, planned {planned}, refused {refused}");
    assert!(empty > 20 && planned > 100 && refused > 100);
}
