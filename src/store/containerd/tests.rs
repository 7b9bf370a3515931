#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::image::digest::Algorithm;
use crate::testing::block_on;
use crate::testing::images::{FakeImages, index, reference, served};

fn read(engine: &FakeImages) -> ContainerdStore {
    block_on(ContainerdStore::read(engine, engine.content())).unwrap()
}

fn of(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

fn references(here: &ContainerdStore) -> Vec<(String, String)> {
    let references = here.store.references();
    references
        .map(|(reference, image)| (reference.familiar(), image.to_string()))
        .collect()
}

#[test]
fn a_loaded_image_has_the_id_of_its_config_and_no_digest() {
    let engine = FakeImages::new();
    let image = engine.config("app", "amd64");
    engine.loaded("lab/app:v1", &image);
    for is_new in [false, true] {
        engine.is_new.set(is_new);
        let here = read(&engine);
        let expected = vec![("lab/app:v1".to_owned(), image.to_string())];
        assert_eq!(references(&here), expected);
        assert!(here.images.contains(&image));
    }
}

/// `docker images` shows the generated digest, so a user may claim this digest.
#[test]
fn a_digest_that_was_made_up_counts_when_it_is_vouched_for() {
    let engine = FakeImages::new();
    let image = engine.config("app", "amd64");
    let made_up = engine.loaded("lab/app:v1", &image);
    let pinned = reference(&format!("lab/app@{made_up}"));
    let mut here = read(&engine);
    assert!(here.is_made_up(&pinned));
    assert!(here.manifests(&made_up).is_empty(), "it proves nothing");
    here.accept(&pinned);
    assert!(here.store.points_at(&pinned, &image));
    assert!(!here.is_made_up(&pinned));
}

#[test]
fn a_pulled_image_has_the_digest_that_its_tag_leads_to() {
    let engine = FakeImages::new();
    let image = engine.config("app", "amd64");
    let text = served(&image);
    let digest = engine.blob(&text);
    engine.blob(&image.to_string());
    engine
        .records
        .borrow_mut()
        .insert(reference("lab/app:v1"), digest.clone());
    let here = read(&engine);
    let pinned = reference(&format!("lab/app@{digest}"));
    assert!(here.store.points_at(&pinned, &image));
    // The digest has no record of its own, so removing the tag also removes the digest.
    assert!(!here.has_another(&[&reference("lab/app:v1")].into(), &image));
    assert!(here.has_another(&[&pinned].into(), &image));
}

/// Docker 26.1 does not list images without layers.
#[test]
fn what_is_not_listed_is_found_when_it_is_asked_for() {
    let engine = FakeImages::new();
    engine.is_new.set(false);
    let image = engine.config("app", "amd64");
    engine.loaded("lab/app:v1", &image);
    let digest = engine.blob(&served(&image));
    let pinned = reference(&format!("lab/app@{digest}"));
    engine
        .records
        .borrow_mut()
        .insert(pinned.clone(), digest.clone());
    let mut here = read(&engine);
    assert_eq!(here.store.get(&pinned), None);
    let nowhere = reference(&format!("lab/other@{digest}"));
    let asked = [pinned.clone(), nowhere.clone()];
    assert!(block_on(here.ask(&engine, asked.clone())).unwrap());
    assert!(here.store.points_at(&pinned, &image));
    assert_eq!(here.store.get(&nowhere), None);
    assert!(!block_on(here.ask(&engine, asked)).unwrap(), "once only");
    let proof = here.proof(&digest, &image).unwrap();
    assert!(here.is_hollow(&pinned));
    assert!(!here.has_layers(&proof, &image));
    engine.blob(&image.to_string());
    assert!(here.has_layers(&proof, &image), "its layer came");
}

/// containerd lists every name. If the blobs of a name are missing, only the engine knows
/// whether it finds the image.
#[test]
fn what_is_not_listed_is_had_from_containerd() {
    let engine = FakeImages::new();
    engine.is_new.set(false);
    engine.has_containerd.set(true);
    let image = engine.config("app", "amd64");
    engine.loaded("lab/app:v1", &image);
    let digest = engine.blob(&served(&image));
    let pinned = reference(&format!("lab/app@{digest}"));
    let empty = reference(&format!("lab/app@{}", of("nothing")));
    for pinned in [&pinned, &empty] {
        let target = pinned.digest().unwrap().clone();
        engine.records.borrow_mut().insert(pinned.clone(), target);
    }
    let mut here = read(&engine);
    assert!(here.store.points_at(&pinned, &image));
    assert!(here.is_hollow(&pinned));
    assert!(here.unread().is_empty());
    engine.requests.set(0);
    let nowhere = reference(&format!("lab/other@{digest}"));
    block_on(here.ask(&engine, [pinned.clone(), nowhere.clone()])).unwrap();
    for (reference, expected) in [(&pinned, true), (&nowhere, false)] {
        let found = block_on(here.find(&engine, reference)).unwrap();
        assert_eq!(found.is_some(), expected, "{reference}");
    }
    assert_eq!(engine.requests.get(), 0);
    let found = block_on(here.find(&engine, &empty)).unwrap();
    assert_eq!(found, None, "the engine finds no such image");
}

/// Docker 28.5 shows in its list that layers are missing. Docker 29 marks each manifest
/// whose layers are missing. The content store shows missing layers with both versions.
#[test]
fn missing_layers_are_seen_on_every_engine() {
    for (is_29, of_another, has_containerd) in [
        (false, false, false),
        (true, false, false),
        (true, true, false),
        (true, true, true),
    ] {
        let engine = FakeImages::new();
        engine.is_29.set(is_29);
        engine.has_containerd.set(has_containerd);
        let image = engine.config("app", "amd64");
        engine.loaded("lab/app:v1", &image);
        let foreign = engine.config("app", "riscv64");
        let served = [&image, &foreign].map(|image| engine.blob(&served(image)));
        let listed = index(&[(served[0].clone(), "amd64"), (served[1].clone(), "riscv64")]);
        let targets = [served[0].clone(), engine.blob(&listed)];
        let pinned = targets.map(|digest| reference(&format!("lab/app@{digest}")));
        for pinned in &pinned {
            let digest = pinned.digest().unwrap().clone();
            engine.records.borrow_mut().insert(pinned.clone(), digest);
        }
        engine.is_of_another_namespace.set(of_another);
        if of_another {
            engine.blob(&image.to_string());
        }
        let here = read(&engine);
        for pinned in &pinned {
            assert!(here.store.points_at(pinned, &image), "{is_29}");
            assert!(here.is_hollow(pinned), "{is_29} {of_another} {pinned}");
        }
        if is_29 {
            engine.blob(&image.to_string());
            engine.is_of_another_namespace.set(false);
            let here = read(&engine);
            assert!(!here.is_hollow(&pinned[0]), "its layer came");
            assert!(
                !here.is_hollow(&pinned[1]),
                "layers for another platform do not matter"
            );
        }
    }
}

/// The store after `docker load` of an image that was saved by its digest.
#[test]
fn an_image_without_a_name_is_here_and_told_by_what_docker_calls_it() {
    let engine = FakeImages::new();
    let image = engine.config("app", "amd64");
    let target = engine.loaded("lab/app:v1", &image);
    engine.records.borrow_mut().clear();
    engine.dangling.borrow_mut().push(target.clone());
    let here = read(&engine);
    assert!(here.images.contains(&image));
    let nameless: Vec<_> = here.nameless().collect();
    assert_eq!(nameless, [(&image, &target)]);
    engine
        .records
        .borrow_mut()
        .insert(reference("lab/app:v1"), target);
    assert_eq!(
        read(&engine).nameless().count(),
        0,
        "the image has a name now"
    );
}

#[test]
fn of_an_index_the_image_for_this_machine_counts() {
    let engine = FakeImages::new();
    let image = engine.config("app", "amd64");
    let (foreign, attestation) = (
        engine.config("app", "riscv64"),
        engine.config("app", "unknown"),
    );
    let manifests = [&foreign, &attestation, &image].map(|image| engine.blob(&served(image)));
    let digest = engine.blob(&index(&manifests.map(|digest| (digest, "amd64"))));
    let pinned = reference(&format!("lab/app@{digest}"));
    engine
        .records
        .borrow_mut()
        .insert(pinned.clone(), digest.clone());
    assert!(read(&engine).store.points_at(&pinned, &image));
    // The index contains two images. If the image for the engine's own platform is
    // missing, the engine uses the image for the other platform.
    engine.lose(&of(&served(&image)));
    assert!(read(&engine).store.points_at(&pinned, &foreign));
    engine.lose(&of(&served(&foreign)));
    let here = read(&engine);
    assert_eq!(here.store.get(&pinned), None);
    assert_eq!(*here.unread(), [pinned].into());
    assert!(here.nothing_was_read());
}

/// Docker 28.5 keeps a reference whose manifest is missing.
#[test]
fn a_reference_without_its_manifest_is_none() {
    let engine = FakeImages::new();
    let image = engine.config("app", "amd64");
    engine.loaded("lab/app:v1", &image);
    let digest = of(&served(&image));
    let pinned = reference(&format!("lab/app@{digest}"));
    engine.records.borrow_mut().insert(pinned.clone(), digest);
    assert_eq!(read(&engine).store.get(&pinned), None);
}

/// The blobs may belong to another namespace of containerd: the engine does not list the
/// image by name.
#[test]
fn the_engine_tells_what_it_has_no_layers_of() {
    for (is_new, has_containerd) in [(false, false), (true, false), (false, true), (true, true)] {
        let engine = FakeImages::new();
        engine.is_new.set(is_new);
        engine.has_containerd.set(has_containerd);
        let image = engine.config("app", "amd64");
        engine.loaded("lab/app:v1", &image);
        let digest = engine.blob(&served(&image));
        engine.blob(&image.to_string());
        engine.is_of_another_namespace.set(true);
        let pinned = reference(&format!("lab/app@{digest}"));
        engine.records.borrow_mut().insert(pinned.clone(), digest);
        let mut here = read(&engine);
        block_on(here.ask(&engine, [pinned.clone()])).unwrap();
        assert!(here.store.points_at(&pinned, &image));
        assert!(here.is_hollow(&pinned));
        assert!(!here.is_hollow(&reference("lab/app:v1")));
        engine.is_of_another_namespace.set(false);
        assert!(!read(&engine).is_hollow(&pinned));
    }
}
