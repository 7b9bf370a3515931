//! Compares digestfix's reference store with moby's own. Both must write the same bytes
//! after the same operations.
//!
//! `fixtures/moby_store_oracle.go` wrote the expected files, and explains how to run it.
//! Each scenario is a directory with `before.json`, `operations`, `after.json` and the
//! `results` of the operations in moby.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use digestfix::reference::Reference;
use digestfix::repositories::Store;

/// The reference that the engine looks up: a digest without the tag beside it, or the tag
/// `latest` for a name without either.
fn sought(text: &str) -> Option<Reference> {
    let reference = Reference::parse(text).ok()?;
    let repository = reference.repository().clone();
    Some(match (reference.tag(), reference.digest()) {
        (_, Some(digest)) => repository.with_digest(digest.clone()),
        (Some(_), None) => reference,
        (None, None) => repository.with_tag("latest".parse().unwrap()),
    })
}

fn apply(store: &mut Store, operation: &str) -> String {
    let words: Vec<&str> = operation.split(' ').collect();
    let Some(reference) = sought(words[1]) else {
        return "unparsable".to_owned();
    };
    match words[0] {
        "tag" | "digest" => match store.insert(&reference, &words[2].parse().unwrap()) {
            Ok(_) => "ok".to_owned(),
            Err(_) => "conflict".to_owned(),
        },
        "retag" => {
            store.remove(&reference);
            store
                .insert(&reference, &words[2].parse().unwrap())
                .unwrap();
            "ok".to_owned()
        }
        "delete" => match store.remove(&reference) {
            Some(_) => "ok".to_owned(),
            None => "absent".to_owned(),
        },
        "get" => store.get(&reference).unwrap_or("absent").to_owned(),
        other => panic!("{other} is not an operation"),
    }
}

fn play(scenario: &Path) {
    let read = |name: &str| fs::read_to_string(scenario.join(name)).unwrap();
    let mut store = Store::parse(read("before.json").as_bytes()).unwrap();
    let (operations, results) = (read("operations"), read("results"));
    assert_eq!(operations.lines().count(), results.lines().count());
    for (operation, result) in operations.lines().zip(results.lines()) {
        assert_eq!(
            apply(&mut store, operation),
            result,
            "{}: {operation}",
            scenario.display()
        );
    }
    let after = String::from_utf8(store.to_bytes()).unwrap();
    assert_eq!(after, read("after.json"), "{}", scenario.display());
}

fn scenarios() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/moby_store");
    let mut found: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

#[test]
fn the_same_operations_make_the_same_bytes() {
    let scenarios = scenarios();
    assert!(scenarios.len() >= 17, "only {}", scenarios.len());
    for scenario in scenarios {
        play(&scenario);
    }
}

/// A file that moby wrote does not change if it is read and written again.
#[test]
fn what_the_engine_wrote_round_trips() {
    for scenario in scenarios() {
        let bytes = fs::read(scenario.join("after.json")).unwrap();
        assert_eq!(Store::parse(bytes.as_slice()).unwrap().to_bytes(), bytes);
    }
}

/// An entry has a meaning if and only if the engine finds it in its place.
#[test]
fn entries_mean_what_the_engine_finds() {
    for scenario in scenarios() {
        let store = Store::parse(fs::read(scenario.join("after.json")).unwrap()).unwrap();
        for entry in store.entries() {
            if let Ok((reference, image)) = entry.meaning() {
                assert_eq!(store.get(&reference), Some(image.to_string().as_str()));
                assert_eq!(reference.familiar(), entry.key);
                assert_eq!(reference.repository().familiar(), entry.repository);
            }
        }
    }
}
