#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tempfile::TempDir;

use super::*;
use crate::claims::claim::Claim;
use crate::claims::trust::Trust;
use crate::image::digest::{Algorithm, Digest, ImageId};
use crate::plan::{Plan, Request};
use crate::store::repositories::Store;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

type Files = BTreeMap<String, Vec<u8>>;

fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

fn hex(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// A test image with one gzipped layer.
struct Image {
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Image {
    fn new(architecture: &str) -> Self {
        Self::with_layer(architecture, "application/vnd.oci.image.layer.v1.tar+gzip")
    }

    fn with_layer(architecture: &str, layer: &str) -> Self {
        let config = format!(r#"{{"architecture":"{architecture}","os":"linux"}}"#).into_bytes();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"{layer}","digest":"sha256:{}","size":9}}]}}"#,
            sha256(&config),
            config.len(),
            hex('e'),
        );
        Self {
            config,
            manifest: manifest.into_bytes(),
        }
    }

    fn id(&self) -> ImageId {
        sha256(&self.config).to_string().parse().unwrap()
    }

    fn digest(&self) -> Digest {
        sha256(&self.manifest)
    }
}

fn entry(media_type: &str, bytes: &[u8], annotations: &str) -> String {
    format!(
        r#"{{"mediaType":"{media_type}","digest":"{}","size":{}{annotations}}}"#,
        sha256(bytes),
        bytes.len()
    )
}

fn index(entries: &[String]) -> Vec<u8> {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
        entries.join(",")
    )
    .into_bytes()
}

fn named(name: &str) -> String {
    format!(r#","annotations":{{"io.containerd.image.name":"{name}"}}"#)
}

/// Builds an OCI layout with the given index entries and blobs, and with one layer.
fn layout(entries: &[String], blobs: &[&[u8]]) -> Files {
    let mut files = Files::from([
        (
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
        ("index.json".to_owned(), index(entries)),
        (format!("blobs/sha256/{}", hex('e')), vec![7; 70_000]),
    ]);
    for blob in blobs {
        files.insert(
            format!("blobs/sha256/{}", sha256(blob).hex()),
            blob.to_vec(),
        );
    }
    files
}

fn layout_of(image: &Image) -> Files {
    layout(
        &[entry(OCI_MANIFEST, &image.manifest, "")],
        &[&image.manifest, &image.config],
    )
}

fn tar(files: &Files) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        if name.len() > 100 {
            let appended = builder.append_data(&mut header, name, bytes.as_slice());
            appended.unwrap();
            continue;
        }
        // Write the name directly: `set_path` would drop a "./" at the beginning of the name.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn unpacked(files: &Files) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (name, bytes) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    directory
}

fn collected(bytes: &[u8]) -> Result<Collected, Problem> {
    let mut collected = Collected::default();
    read_file(Cursor::new(bytes), "F", &mut collected)?;
    Ok(collected)
}

fn piped(bytes: &[u8]) -> Result<Collected, Problem> {
    let mut collected = Collected::default();
    read_stream(bytes, "F", &mut collected)?;
    Ok(collected)
}

fn problem(files: &Files) -> String {
    collected(&tar(files)).unwrap_err().to_string()
}

/// Plans the claims for a host that has the given tags, and returns the references that
/// the plan adds.
fn added(collected: Collected, tags: &[(&str, &ImageId)]) -> Result<Vec<String>, Vec<String>> {
    let mut store = Store::parse(b"{}").unwrap();
    let mut images = BTreeSet::new();
    for (tag, image) in tags {
        store.insert(&tag.parse().unwrap(), image).unwrap();
        images.insert((*image).clone());
    }
    let request = Request {
        claims: collected.claims,
        evidence: collected.evidence,
        ..Request::default()
    };
    match Plan::new(&store, &images, &request) {
        Ok(plan) => Ok(plan
            .changes
            .iter()
            .map(|change| {
                let basis = plan.basis(&change.reference).unwrap();
                format!(
                    "{}={} {}",
                    change.reference,
                    change.to.as_ref().unwrap(),
                    basis.trust
                )
            })
            .collect()),
        Err(refusals) => Err(refusals.iter().map(ToString::to_string).collect()),
    }
}

fn line(name: &str, digest: &Digest, image: &ImageId, trust: Trust) -> String {
    format!("{name}@{digest}={image} {trust}")
}

#[test]
fn a_layout_proves_its_image_in_every_wrapping() {
    let image = Image::new("amd64");
    let files = layout_of(&image);
    let mut dotted = Files::new();
    for (name, bytes) in &files {
        dotted.insert(format!("./{name}"), bytes.clone());
    }
    let archive = tar(&files);
    let (first, second) = archive.split_at(archive.len() / 2);
    let wrappings = [
        collected(&archive),
        piped(&archive),
        collected(&tar(&dotted)),
        collected(&gzipped(&archive)),
        collected(&[gzipped(first), gzipped(second)].concat()),
        collected(&zstandard(&archive)),
        collected(&[zstandard(first), zstandard(second)].concat()),
        Ok(read(&[unpacked(&files).path().to_owned()], Collected::new(&[])).unwrap()),
    ];
    for (at, collected) in wrappings.into_iter().enumerate() {
        assert_eq!(
            added(collected.unwrap(), &[("lab/app:1", &image.id())]),
            Ok(vec![line(
                "lab/app",
                &image.digest(),
                &image.id(),
                Trust::Proven
            )]),
            "wrapping {at}"
        );
    }
}

#[test]
fn a_name_in_an_archive_counts_only_where_the_image_has_it_or_none() {
    let image = Image::new("amd64");
    let id = image.id();
    let entries = [entry(
        OCI_MANIFEST,
        &image.manifest,
        &named("registry.example/app:1"),
    )];
    let archive = tar(&layout(&entries, &[&image.manifest]));
    let proven = |name| line(name, &image.digest(), &id, Trust::Proven);

    let both = [("registry.example/app:1", &id), ("mirror/app:1", &id)];
    assert_eq!(
        added(collected(&archive).unwrap(), &both),
        Ok(vec![proven("registry.example/app")])
    );
    assert_eq!(
        added(collected(&archive).unwrap(), &both[1..]),
        Ok(vec![proven("mirror/app")])
    );
    let nameless = Store::parse(b"{}").unwrap();
    let collected = collected(&archive).unwrap();
    let request = Request {
        claims: collected.claims,
        evidence: collected.evidence,
        ..Request::default()
    };
    let plan = Plan::new(&nameless, &BTreeSet::from([id.clone()]), &request).unwrap();
    assert_eq!(
        plan.changes[0].reference.to_string(),
        format!("registry.example/app@{}", image.digest())
    );
}

#[test]
fn an_index_and_its_manifest_are_both_proven() {
    let (image, other) = (Image::new("amd64"), Image::new("arm64"));
    let platforms = index(&[
        entry(OCI_MANIFEST, &image.manifest, ""),
        entry(OCI_MANIFEST, &other.manifest, ""),
    ]);
    let nested = index(&[entry(OCI_INDEX, &platforms, "")]);
    let id = image.id();
    // The index lists several platforms, but the layout contains only one, as after
    // `docker pull` or `skopeo copy`.
    let layout = layout(
        &[entry(OCI_INDEX, &nested, "")],
        &[&nested, &platforms, &image.manifest],
    );
    let mut expected: Vec<String> = [sha256(&nested), sha256(&platforms), image.digest()]
        .iter()
        .map(|digest| line("app", digest, &id, Trust::Proven))
        .collect();
    expected.sort();
    assert_eq!(
        added(collected(&tar(&layout)).unwrap(), &[("app:1", &id)]),
        Ok(expected)
    );

    let raw = [&platforms[..], &image.manifest].concat();
    let mut expected: Vec<String> = [sha256(&platforms), image.digest()]
        .iter()
        .map(|digest| line("app", digest, &id, Trust::Proven))
        .collect();
    expected.sort();
    assert_eq!(
        added(collected(&raw).unwrap(), &[("app:1", &id)]),
        Ok(expected)
    );
    // jq reformats the manifests, so no registry serves a manifest with the resulting
    // digest.
    for spaced in [
        [&platforms[..], b"\n", &image.manifest].concat(),
        [b"\n", &image.manifest[..]].concat(),
    ] {
        let collected = collected(&spaced).unwrap();
        assert!(collected.remarks[0].contains("white space"));
        assert!(collected.claims.is_empty());
        // The manifest still proves a claim from another file if that claim contains the
        // manifest's digest.
        let mut collected = collected;
        let pin = format!("app:1@{}", image.digest()).parse().unwrap();
        collected.pin(&pin, "chart.yaml:7").unwrap();
        assert_eq!(
            added(collected, &[("app:1", &id)]),
            Ok(vec![line("app", &image.digest(), &id, Trust::Proven)])
        );
    }
    assert_eq!(
        added(collected(&platforms).unwrap(), &[("app:1", &id)]),
        Ok(Vec::new()),
        "an index alone does not show which image has the digest"
    );
}

#[test]
fn the_other_platforms_of_an_index_are_not_missed() {
    let (image, other) = (Image::new("amd64"), Image::new("arm64"));
    let platforms = index(&[
        entry(OCI_MANIFEST, &image.manifest, ""),
        entry(OCI_MANIFEST, &other.manifest, ""),
    ]);
    let files = layout(
        &[entry(OCI_INDEX, &platforms, "")],
        &[&platforms, &image.manifest, &other.manifest],
    );
    let collected = collected(&tar(&files)).unwrap();
    let mut store = Store::parse(b"{}").unwrap();
    store
        .insert(&"app:1".parse().unwrap(), &image.id())
        .unwrap();
    let request = Request {
        claims: collected.claims,
        evidence: collected.evidence,
        ..Request::default()
    };
    let plan = Plan::new(&store, &BTreeSet::from([image.id()]), &request).unwrap();
    assert_eq!((plan.changes.len(), plan.skipped), (2, Vec::new()));
}

#[test]
fn skopeos_directory() {
    let image = Image::new("amd64");
    let directory = unpacked(&Files::from([
        (
            "version".to_owned(),
            b"Directory Transport Version: 1.1\n".to_vec(),
        ),
        ("manifest.json".to_owned(), image.manifest.clone()),
        (sha256(&image.config).hex().to_owned(), image.config.clone()),
        (hex('e'), vec![7; 10]),
    ]));
    let path = directory.path().to_owned();
    let expected = vec![line("app", &image.digest(), &image.id(), Trust::Proven)];
    assert_eq!(
        added(
            read(std::slice::from_ref(&path), Collected::new(&[])).unwrap(),
            &[("app:1", &image.id())]
        ),
        Ok(expected)
    );

    fs::write(path.join(sha256(&image.config).hex()), "{}").unwrap();
    let error = read(&[path], Collected::new(&[])).unwrap_err().to_string();
    assert!(
        error.contains(&image.id().to_string()) && error.contains(&sha256(b"{}").to_string()),
        "{error}"
    );
}

#[test]
fn a_manifest_that_an_editor_ended_with_a_newline_proves_either_digest() {
    let image = Image::new("amd64");
    let saved = [&image.manifest[..], b"\n"].concat();
    let read = collected(&saved).unwrap();
    assert!(read.claims.is_empty());
    assert!(read.remarks[0].contains(&image.digest().to_string()));
    assert!(read.remarks[0].contains(&sha256(&saved).to_string()));
    for digest in [image.digest(), sha256(&saved)] {
        let mut collected = collected(&saved).unwrap();
        let pin = format!("app:1@{digest}").parse().unwrap();
        collected.pin(&pin, "chart.yaml:7").unwrap();
        assert_eq!(
            added(collected, &[("app:1", &image.id())]),
            Ok(vec![line("app", &digest, &image.id(), Trust::Proven)])
        );
    }
}

#[test]
fn other_hosts_records_match_by_image_id() {
    let id: ImageId = format!("sha256:{}", hex('a')).parse().unwrap();
    let digest: Digest = format!("sha256:{}", hex('d')).parse().unwrap();
    let inspected = format!(
        r#"[{{"Id":"{id}","RepoTags":["there:9"],"RepoDigests":["app@{digest}","mirror.example/app@{digest}"],"Size":1}}]"#
    );
    let line = |name| line(name, &digest, &id, Trust::Matched);
    // digestfix finds the image by its ID, and gives it the names in the file, no matter
    // which tags the image has on this host.
    assert_eq!(
        added(collected(inspected.as_bytes()).unwrap(), &[("here:1", &id)]),
        Ok(vec![line("app"), line("mirror.example/app")])
    );
    let store = format!(r#"{{"Repositories":{{"app":{{"app:1":"{id}","app@{digest}":"{id}"}}}}}}"#);
    assert_eq!(
        added(collected(store.as_bytes()).unwrap(), &[("app:1", &id)]),
        Ok(vec![line("app")])
    );
    let other: ImageId = format!("sha256:{}", hex('b')).parse().unwrap();
    assert_eq!(
        added(collected(store.as_bytes()).unwrap(), &[("app:1", &other)]),
        Ok(Vec::new()),
        "the same tag of another image"
    );
}

/// If JSON contains a key twice, Docker uses the last value. Docker also ignores the
/// letter case of keys. So digestfix refuses such JSON.
#[test]
fn a_key_that_docker_reads_as_another_is_refused_in_each_source() {
    let image = Image::new("amd64");
    let (id, digest) = (image.id(), image.digest());
    let named = named("localhost:5000/app:1");
    let entries = [entry(OCI_MANIFEST, &image.manifest, &named)];
    let saved = format!(
        r#"[{{"Config":"blobs/sha256/{}","RepoTags":["app:1"]}}]"#,
        id.hex()
    );
    let mut files = layout(&entries, &[&image.manifest, &image.config]);
    files.insert("manifest.json".to_owned(), saved.into_bytes());
    let texts = [
        format!(r#"[{{"Id":"{id}","RepoDigests":["app@{digest}"]}}]"#),
        format!(
            r#"{{"digestfix_claims":1,"claims":[{{"reference":"app@{digest}","image_id":"{id}"}}]}}"#
        ),
        format!(r#"{{"Repositories":{{"app":{{"app@{digest}":"{id}"}}}}}}"#),
        String::from_utf8(image.manifest).unwrap(),
    ];
    let refused = |read: Result<Collected, Problem>| {
        let problem = read.unwrap_err().to_string();
        let tells = ["reads", "twice", "duplicate", "not known"];
        assert!(tells.iter().any(|told| problem.contains(told)), "{problem}");
    };
    collected(&tar(&files)).unwrap();
    for (name, key, other) in [
        ("index.json", "manifests", "Manifests"),
        ("index.json", "digest", "dige\u{17f}t"),
        ("index.json", "annotations", "ANNOTATIONS"),
        (
            "index.json",
            "io.containerd.image.name",
            "io.containerd.image.name",
        ),
        ("manifest.json", "Config", "config"),
        ("manifest.json", "RepoTags", "repotags"),
    ] {
        let mut files = files.clone();
        let text = String::from_utf8(files[name].clone()).unwrap();
        files.insert(
            name.to_owned(),
            with_another(&text, key, other).into_bytes(),
        );
        refused(collected(&tar(&files)));
    }
    for (text, key, other) in [
        (&texts[0], "Id", "ID"),
        (&texts[0], "Id", "Id"),
        (&texts[0], "RepoDigests", "repodigests"),
        (&texts[1], "image_id", "IMAGE_ID"),
        (&texts[2], "Repositories", "repo\u{17f}itorie\u{17f}"),
        (&texts[3], "config", "Config"),
        (&texts[3], "digest", "Digest"),
    ] {
        collected(text.as_bytes()).unwrap();
        refused(collected(with_another(text, key, other).as_bytes()));
        let escaped = format!("\\u{:04x}{}", u32::from(other.as_bytes()[0]), &other[1..]);
        refused(collected(with_another(text, key, &escaped).as_bytes()));
    }
}

/// Inserts another key before `key` in a JSON text.
fn with_another(text: &str, key: &str, other: &str) -> String {
    let key = format!(r#""{key}":"#);
    assert!(text.contains(&key), "{text}");
    text.replacen(&key, &format!(r#""{other}":"",{key}"#), 1)
}

#[test]
fn a_host_with_the_containerd_store_names_no_image_ids() {
    let id: ImageId = format!("sha256:{}", hex('a')).parse().unwrap();
    let digest: Digest = format!("sha256:{}", hex('d')).parse().unwrap();
    let inspected = format!(
        r#"[{{"Id":"{digest}","RepoTags":["app:1"],"RepoDigests":["app@{digest}"],"Descriptor":{{"digest":"{digest}"}}}}]"#
    );
    let collected = collected(inspected.as_bytes()).unwrap();
    assert!(collected.remarks[0].contains("containerd image store"));
    assert_eq!(
        added(collected, &[("app:1", &id)]),
        Ok(vec![line("app", &digest, &id, Trust::Asserted)])
    );
}

#[test]
fn a_claims_file_says_itself_how_far_each_claim_goes() {
    let image = Image::new("amd64");
    let (id, digest) = (image.id(), image.digest());
    let manifest = serde_json::to_string(std::str::from_utf8(&image.manifest).unwrap()).unwrap();
    let file = |entry: &str, manifests: &str| {
        collected(
            format!(r#"{{"digestfix_claims":1,"claims":[{entry}],"manifests":{{{manifests}}}}}"#)
                .as_bytes(),
        )
    };
    let reference = format!(r#""reference":"app@{digest}""#);
    let with_id = format!(r#"{reference},"image_id":"{id}""#);
    let manifest = format!(r#""{digest}":{manifest}"#);
    let tag = format!(r#""reference":"app:1@{digest}""#);
    for (entry, manifests, trust) in [
        (with_id.clone(), "", Trust::Matched),
        (with_id.clone(), &*manifest, Trust::Proven),
        (
            format!(r#"{with_id},"trust":"proven""#),
            &*manifest,
            Trust::Proven,
        ),
        (
            format!(r#"{with_id},"trust":"asserted""#),
            "",
            Trust::Asserted,
        ),
        (tag.clone(), "", Trust::Asserted),
        (tag.clone(), &*manifest, Trust::Proven),
    ] {
        assert_eq!(
            added(
                file(&format!("{{{entry}}}"), manifests).unwrap(),
                &[("app:1", &id)]
            ),
            Ok(vec![line("app", &digest, &id, trust)]),
            "{entry}"
        );
    }

    let refused = |entry: &str, manifests: &str| {
        file(&format!("{{{entry}}}"), manifests)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&format!(r#"{with_id},"trust":"proven""#), "").contains("no manifest"));
    assert!(refused(&format!(r#"{tag},"trust":"matched""#), "").contains("image_id"));
    assert!(refused(r#""reference":"app:1""#, "").contains("no digest"));
    assert!(refused(&format!(r#"{with_id},"level":9"#), "").contains("level"));
    let tampered = manifest
        .replacen("amd64", "arm64", 1)
        .replacen("vnd", "vne", 1);
    let error = refused(&with_id, &tampered);
    assert!(error.contains("TAMPERED") && error.contains(&digest.to_string()));
    let next = collected(br#"{"digestfix_claims":2,"claims":[]}"#).unwrap_err();
    assert!(matches!(next, Problem::Version(2)), "{next}");
}

#[test]
fn a_manifest_whose_bytes_were_changed() {
    let image = Image::new("amd64");
    let mut files = layout_of(&image);
    let name = format!("blobs/sha256/{}", image.digest().hex());
    let changed = String::from_utf8(image.manifest.clone())
        .unwrap()
        .replace(&hex('e'), &hex('f'))
        .into_bytes();
    files.insert(name, changed.clone());
    let error = problem(&files);
    assert!(
        error.contains(&image.digest().to_string())
            && error.contains(&sha256(&changed).to_string()),
        "{error}"
    );
}

#[test]
fn a_config_that_is_not_the_manifests() {
    let image = Image::new("amd64");
    let mut files = layout_of(&image);
    files.insert(
        format!("blobs/sha256/{}", sha256(&image.config).hex()),
        b"{}".to_vec(),
    );
    let error = problem(&files);
    assert!(
        error.contains(&image.id().to_string()) && error.contains(&sha256(b"{}").to_string()),
        "{error}"
    );
}

#[test]
fn an_archive_whose_list_and_index_name_different_images() {
    let (image, other) = (Image::new("amd64"), Image::new("arm64"));
    let mut files = layout(
        &[entry(
            OCI_MANIFEST,
            &other.manifest,
            &named("docker.io/library/app:1"),
        )],
        &[&image.config, &other.manifest, &other.config],
    );
    let list = format!(
        r#"[{{"Config":"blobs/sha256/{}","RepoTags":["app:1"],"Layers":[]}}]"#,
        image.id().hex()
    );
    files.insert("manifest.json".to_owned(), list.into_bytes());
    let error = problem(&files);
    assert!(
        error.contains(&image.id().to_string()) && error.contains(&other.id().to_string()),
        "{error}"
    );
}

/// On this host, the claim's tag points at another image than the image in the archive.
#[test]
fn an_archive_proves_a_pin_wrong() {
    let (image, other) = (Image::new("amd64"), Image::new("arm64"));
    let mut collected = collected(&tar(&layout_of(&other))).unwrap();
    let pin = format!("app:1@{}", other.digest()).parse().unwrap();
    collected.pin(&pin, "chart.yaml:7").unwrap();
    let refusals = added(collected, &[("app:1", &image.id())]).unwrap_err();
    for fact in [
        &*image.id().to_string(),
        &*other.id().to_string(),
        "chart.yaml:7",
        "proven",
        "F says",
    ] {
        assert!(refusals[0].contains(fact), "{fact} in {refusals:?}");
    }
}

#[test]
fn two_pins_that_contradict_each_other() {
    let image = Image::new("amd64");
    let digests = [hex('c'), hex('d')];
    let mut collected = Collected::default();
    for (digest, place) in digests.iter().zip(["a.yaml:1", "b.yaml:2"]) {
        let pin = format!("app:1@sha256:{digest}").parse().unwrap();
        collected.pin(&pin, place).unwrap();
    }
    let refusals = added(collected, &[("app:1", &image.id())]).unwrap_err();
    for fact in [&*digests[0], &*digests[1], "a.yaml:1", "b.yaml:2"] {
        assert!(refusals[0].contains(fact), "{fact} in {refusals:?}");
    }
}

/// The registry has a manifest in Docker's format, but the archive contains skopeo's
/// conversion of it.
#[test]
fn an_archive_that_was_converted_on_the_way() {
    let image = Image::new("amd64");
    let mut collected = collected(&tar(&layout_of(&image))).unwrap();
    let pin = format!("app:1@sha256:{}", hex('d')).parse().unwrap();
    collected.pin(&pin, "chart.yaml:7").unwrap();
    let refusals = added(collected, &[("app:1", &image.id())]).unwrap_err();
    for fact in ["dir:", "inspect --raw", "chart.yaml:7", "(F)"] {
        assert!(refusals[0].contains(fact), "{fact} in {refusals:?}");
    }
}

#[test]
fn docker_save_of_the_classic_store_proves_nothing() {
    let image = Image::with_layer("amd64", "application/vnd.oci.image.layer.v1.tar");
    let list = format!(
        r#"[{{"Config":"blobs/sha256/{}","RepoTags":["app:1"],"Layers":[]}}]"#,
        image.id().hex()
    );
    let mut newer = layout_of(&image);
    newer.insert("manifest.json".to_owned(), list.clone().into_bytes());
    let older = Files::from([("manifest.json".to_owned(), list.into_bytes())]);
    for files in [newer, older] {
        let collected = collected(&tar(&files)).unwrap();
        assert!(collected.claims.is_empty());
        assert!(
            collected.remarks[0].contains("docker save"),
            "{:?}",
            collected.remarks
        );
    }
}

#[test]
fn names_are_rewritten_to_the_private_registrys() {
    let id: ImageId = format!("sha256:{}", hex('a')).parse().unwrap();
    let digest: Digest = format!("sha256:{}", hex('d')).parse().unwrap();
    let rules = ["docker.io=registry.example:5000/hub".parse().unwrap()];
    let mut collected = Collected::new(&rules);
    let list = format!("app:1@{digest}\n");
    read_stream(list.as_bytes(), "F", &mut collected).unwrap();
    assert_eq!(
        added(
            collected,
            &[("registry.example:5000/hub/library/app:1", &id)]
        ),
        Ok(vec![line(
            "registry.example:5000/hub/library/app",
            &digest,
            &id,
            Trust::Asserted
        )])
    );
}

/// Files such as rendered Helm charts contain references with digests, and texts that
/// only look similar. digestfix must claim only the references.
#[test]
fn pins_are_found_exactly() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pins");
    for name in [
        "ingress.yaml",
        "monitoring.yaml",
        "compose.yaml",
        "Dockerfile",
        "list.txt",
    ] {
        let collected = read(&[directory.join(name)], Collected::new(&[])).unwrap();
        let found: Vec<&str> = collected
            .claims
            .iter()
            .map(|claim| claim.text.as_str())
            .collect();
        let expected = fs::read_to_string(directory.join(format!("{name}.pins"))).unwrap();
        assert_eq!(found, expected.lines().collect::<Vec<_>>(), "{name}");
        assert_eq!(collected.remarks, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_key_after_an_alias_is_a_key() {
    let pin = |name| format!("{name}@sha256:{}", hex('d'));
    let text = format!(
        "a: &a {}\nb: *a\n? {}\n: {}\n",
        pin("value"),
        pin("key"),
        pin("other")
    );
    let collected = collected(text.as_bytes()).unwrap();
    let found: Vec<&str> = collected
        .claims
        .iter()
        .map(|claim| claim.text.as_str())
        .collect();
    assert_eq!(found, [pin("value"), pin("other")]);
}

#[test]
fn a_pin_says_in_which_line_it_is() {
    let digest = format!("sha256:{}", hex('d'));
    for (text, line) in [
        (format!("---\na: 1\n---\nimage: app@{digest}\n"), 4),
        (format!("# a list\n\napp@{digest}\n"), 3),
        (format!("ARG A=1\n# why\nFROM app@{digest}\n"), 3),
    ] {
        let collected = collected(text.as_bytes()).unwrap();
        assert_eq!(
            collected.claims[0].to_string(),
            format!("app@{digest} (F:{line})")
        );
    }
}

#[test]
fn a_directory_is_read_whole_but_for_what_is_hidden_or_something_else() {
    let (image, other) = (Image::new("amd64"), Image::new("arm64"));
    let mut files = Files::from([
        ("charts/pins.txt".to_owned(), {
            format!("app:1@sha256:{}\n", hex('d')).into_bytes()
        }),
        (".git/pins.txt".to_owned(), {
            format!("hidden:1@sha256:{}\n", hex('d')).into_bytes()
        }),
        ("photo.jpg".to_owned(), vec![0xff, 0xd8, 0xff]),
        ("image.tar".to_owned(), tar(&layout_of(&image))),
        ("disk.img".to_owned(), vec![0; 65 * 1024 * 1024]),
        ("chart/template.yaml".to_owned(), {
            b"{{- if .Values.on }}\nimage: a\n{{- end }}\n".to_vec()
        }),
        ("old.tar.xz".to_owned(), b"\xfd7zXZ\0".to_vec()),
        ("umlaut.yaml".to_owned(), {
            format!("#  {}\n", "\u{e4}".repeat(400)).into_bytes()
        }),
    ]);
    for (name, bytes) in layout_of(&other) {
        files.insert(format!("layouts/other/{name}"), bytes);
    }
    let collected = read(&[unpacked(&files).path().to_owned()], Collected::new(&[])).unwrap();
    let mut found: Vec<&str> = collected
        .claims
        .iter()
        .map(|claim| claim.text.as_str())
        .collect();
    found.sort_unstable();
    let pin = format!("app:1@sha256:{}", hex('d'));
    let mut expected = vec![pin, image.digest().to_string(), other.digest().to_string()];
    expected.sort();
    assert_eq!(found, expected);
    let passed_over = ["template.yaml", "disk.img", "old.tar.xz", "photo.jpg"];
    for (remark, name) in collected.remarks.iter().zip(passed_over) {
        assert!(remark.contains(name), "{remark}");
    }
    assert_eq!(collected.remarks.len(), passed_over.len());
}

#[test]
fn what_is_broken_is_named() {
    let image = Image::new("amd64");
    let archive = tar(&layout_of(&image));
    let whole = archive.len();
    let mut flipped = archive.clone();
    let second = archive
        .chunks(512)
        .skip(1)
        .position(|block| block.starts_with(b"index.json"))
        .unwrap();
    flipped[(second + 1) * 512 + 3] ^= 1;
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("cut short", archive[..whole - 70_000].to_vec()),
        ("damaged", flipped),
        ("nor UTF-8 text", vec![0xff; 700]),
        ("UTF-16 text that is damaged", b"\xff\xfea\0:".to_vec()),
        ("unzip", b"PK\x03\x04\x14\0".to_vec()),
        ("iconv", b"# gr\xfc\xdfe\n".to_vec()),
        ("nor UTF-8 text", b"a: b\n\0".to_vec()),
        ("helm template", b"{{- if .Values.on }}\na: b\n".to_vec()),
        ("nor YAML", b"a: [b\n- c\n".to_vec()),
        ("not a manifest", b"{\"schemaVersion\":\"2\"}".to_vec()),
        ("schema 1", b"{\"schemaVersion\":1}".to_vec()),
        ("ends too early", b"{\"Id\":".to_vec()),
        ("YAML", b"a: [b\n".to_vec()),
        ("64 hexadecimal", {
            br#"[{"Id":"sha256:1","RepoDigests":[]}]"#.to_vec()
        }),
        ("1000 deep", "- ".repeat(1_100).into_bytes()),
        ("4194304 bytes", {
            let mut text = b"{\"schemaVersion\":2,\"a\":\"".to_vec();
            text.resize(5 * 1024 * 1024, b'a');
            text.extend(b"\"}");
            text
        }),
    ];
    for (expected, bytes) in cases {
        for outcome in [collected(&bytes), piped(&bytes)] {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
    let zipped = gzipped(&archive);
    assert!(collected(&zipped[..zipped.len() / 2]).is_err());
    let zipped = zstandard(&archive);
    assert!(collected(&zipped[..zipped.len() / 2]).is_err());
}

#[test]
fn what_is_nested_deeper_than_the_bound_is_refused() {
    let image = Image::new("amd64");
    let mut blobs = vec![image.manifest.clone()];
    let mut top = entry(OCI_MANIFEST, &image.manifest, "");
    for _ in 0..=crate::image::manifest::MAX_INDEX_DEPTH {
        let next = index(&[top]);
        top = entry(OCI_INDEX, &next, "");
        blobs.push(next);
    }
    let blobs: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
    let error = problem(&layout(&[top], &blobs));
    assert!(error.contains("8 deep"), "{error}");

    let directory = TempDir::new().unwrap();
    let deep = (0..9).fold(directory.path().to_owned(), |path, _| path.join("d"));
    fs::create_dir_all(&deep).unwrap();
    let error = read(&[directory.path().to_owned()], Collected::new(&[])).unwrap_err();
    assert!(error.to_string().contains("8 deep"), "{error}");
}

/// A tar header may state a size that is too large. digestfix allocates memory only for
/// bytes that exist.
#[test]
fn a_size_that_lies_costs_nothing() {
    for size in [u64::MAX, u64::MAX / 2, 1 << 40, 5_000_000_000] {
        let mut header = tar::Header::new_gnu();
        header.set_path("index.json").unwrap();
        header.set_size(size);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let bytes = [&header.as_bytes()[..], &[0; 512]].concat();
        for outcome in [collected(&bytes), piped(&bytes)] {
            assert!(outcome.is_err(), "{size}");
        }
    }
}

/// A test file that fails if a program reads too many bytes from it. The test file does
/// not count seeks.
struct Thrifty {
    file: Cursor<Vec<u8>>,
    left: usize,
}

impl Read for Thrifty {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read)
            .ok_or_else(|| io::Error::other("too much is read"))?;
        Ok(read)
    }
}

impl Seek for Thrifty {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[test]
fn a_layer_is_passed_over_by_seeking() {
    let image = Image::new("amd64");
    let mut files = layout_of(&image);
    files.insert(format!("blobs/sha256/{}", hex('e')), vec![7; 20_000_000]);
    let thrifty = Thrifty {
        file: Cursor::new(tar(&files)),
        left: 200_000,
    };
    let mut collected = Collected::default();
    read_file(thrifty, "F", &mut collected).unwrap();
    assert_eq!(collected.claims.len(), 1);
}

#[test]
fn a_manifest_that_is_named_many_times_is_read_once() {
    let mut image = Image::new("amd64");
    image.manifest.resize(1_000_000, b' ');
    let entries = vec![entry(OCI_MANIFEST, &image.manifest, ""); 1_000];
    let platforms = index(&entries);
    let nested = entry(OCI_INDEX, &platforms, "");
    let files = layout(
        &[&entries[..], &[nested]].concat(),
        &[&image.manifest, &platforms],
    );
    let thrifty = Thrifty {
        file: Cursor::new(tar(&files)),
        left: 3_000_000,
    };
    let mut collected = Collected::default();
    read_file(thrifty, "F", &mut collected).unwrap();
    assert_eq!(collected.claims.len(), 2);

    let mut lying = files;
    let wrong = entries[0].replace("\"size\":1000000", "\"size\":1000001");
    lying.insert("index.json".to_owned(), index(&[entries[0].clone(), wrong]));
    assert!(problem(&lying).contains("1000001 bytes"));
}

/// The archive that `regctl image export` and Docker with the containerd image store
/// write: it contains the registry's manifest, and a `manifest.json` for older engines.
#[test]
fn a_layout_that_lists_its_image_for_docker_too_proves_it() {
    let image = Image::new("amd64");
    let names = r#","annotations":{"io.containerd.image.name":"registry.example/app:1","org.opencontainers.image.ref.name":"1"}"#;
    let mut files = layout(
        &[entry(OCI_MANIFEST, &image.manifest, names)],
        &[&image.manifest, &image.config],
    );
    let list = format!(
        r#"[{{"Config":"blobs/sha256/{}","RepoTags":["registry.example/app:1"],"Layers":["blobs/sha256/{}"],"LayerSources":{{}}}}]"#,
        image.id().hex(),
        hex('e')
    );
    files.insert("manifest.json".to_owned(), list.into_bytes());
    assert_eq!(
        added(
            collected(&tar(&files)).unwrap(),
            &[("registry.example/app:1", &image.id())]
        ),
        Ok(vec![line(
            "registry.example/app",
            &image.digest(),
            &image.id(),
            Trust::Proven
        )])
    );
}

#[test]
fn a_list_with_a_mistake_in_it_says_in_which_line() {
    let digest = format!("sha256:{}", hex('d'));
    let short = format!("# all\napp:1@{digest}\nother:1@{}\n", &digest[..70]);
    for outcome in [collected(short.as_bytes()), piped(short.as_bytes())] {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("63"), "{error}");
    }
    let error = collected(b"Dear all,\nplease update\n").unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn a_pipe_is_read_when_it_is_named() {
    let directory = TempDir::new().unwrap();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let writer = {
        let pipe = pipe.clone();
        std::thread::spawn(move || fs::write(pipe, format!("app@sha256:{}\n", hex('d'))))
    };
    let collected = read(&[pipe], Collected::new(&[])).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(collected.claims.len(), 1);
    // digestfix skips a pipe in a directory, because a pipe without a writer would block
    // it.
    let error = read(&[directory.path().to_owned()], Collected::new(&[])).unwrap();
    assert!(
        error.remarks[0].contains("nor a pipe"),
        "{:?}",
        error.remarks
    );
}

#[test]
fn a_compression_that_is_not_read_is_named() {
    for (head, program) in [(&b"\xfd7zXZ\0\0"[..], "xz -d"), (b"BZh91AY", "bzip2 -d")] {
        let error = collected(head).unwrap_err().to_string();
        assert!(error.contains(program), "{error}");
    }
}

#[test]
fn each_element_of_an_array_is_what_it_is() {
    let id: ImageId = format!("sha256:{}", hex('a')).parse().unwrap();
    let other: ImageId = format!("sha256:{}", hex('b')).parse().unwrap();
    let digest: Digest = format!("sha256:{}", hex('d')).parse().unwrap();
    let image = format!(r#"{{"Id":"{id}","RepoTags":["app:1"],"RepoDigests":["app@{digest}"]}}"#);
    for before in [
        format!(r#"{{"Id":"{other}","RepoDigests":null}}"#),
        r#"{"Id":"aa","Config":{"Image":"app:1"}}"#.to_owned(),
        r#""app:1""#.to_owned(),
    ] {
        let collected = collected(format!("[{before},{image}]").as_bytes()).unwrap();
        // digestfix looks for the image by its ID. The name belongs to another image on
        // this host, and must not count.
        assert_eq!(added(collected, &[("app:1", &other)]), Ok(Vec::new()));
    }
}

#[test]
fn what_proves_nothing_denies_nothing() {
    let id: ImageId = format!("sha256:{}", hex('a')).parse().unwrap();
    let old = |media_type: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{{"mediaType":"{media_type}","size":9,"digest":"{id}"}},"layers":[]}}"#
        )
    };
    for (text, trust) in [
        (old("application/octet-stream"), Trust::Proven),
        (
            old("application/vnd.cncf.helm.config.v1+json"),
            Trust::Asserted,
        ),
        (
            r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(),
            Trust::Asserted,
        ),
    ] {
        let mut collected = collected(text.as_bytes()).unwrap();
        let digest = sha256(text.as_bytes());
        let pin = format!("app:1@{digest}").parse().unwrap();
        collected.pin(&pin, "chart.yaml:7").unwrap();
        let expected = vec![line("app", &digest, &id, trust)];
        assert_eq!(added(collected, &[("app:1", &id)]), Ok(expected), "{text}");
    }
}

#[test]
fn a_manifest_by_another_algorithm_is_kept_under_its_own_digest() {
    let image = Image::new("amd64");
    let (id, text) = (image.id(), String::from_utf8(image.manifest).unwrap());
    let digest = Digest::of(Algorithm::Sha512, text.as_bytes());
    let file = serde_json::json!({
        "digestfix_claims": 1,
        "claims": [{"reference": format!("app@{digest}"), "image_id": id.to_string(), "trust": "proven"}],
        "manifests": {digest.to_string(): text},
    });
    assert_eq!(
        added(
            collected(file.to_string().as_bytes()).unwrap(),
            &[("app:1", &id)]
        ),
        Ok(vec![line("app", &digest, &id, Trust::Proven)])
    );
}

#[test]
fn names_that_are_alike_only_as_people_write_them() {
    let digest = format!("sha256:{}", hex('d'));
    let text = format!("docker.io/foo.com/a:1@{digest}\nfoo.com/a:1@{digest}\n");
    let collected = collected(text.as_bytes()).unwrap();
    assert_eq!((collected.claims.len(), collected.remarks.len()), (1, 1));
}

/// skopeo's `docker-daemon:` cannot read the registry's manifest from the engine, so it
/// creates a new one.
#[test]
fn a_directory_out_of_an_engine_proves_nothing() {
    let image = Image::with_layer("amd64", "application/vnd.docker.image.rootfs.diff.tar");
    let directory = unpacked(&Files::from([
        (
            "version".to_owned(),
            b"Directory Transport Version: 1.1\n".to_vec(),
        ),
        ("manifest.json".to_owned(), image.manifest.clone()),
    ]));
    let collected = read(&[directory.path().to_owned()], Collected::new(&[])).unwrap();
    assert!(collected.claims.is_empty());
    assert!(collected.remarks[0].contains("made up"));
}

#[test]
fn an_argument_that_grows_is_dropped() {
    let names: String = (0..2_000).map(|number| format!(" a{number}=$A")).collect();
    let text = format!(
        "ARG A={}\nARG{names}\nFROM app@sha256:{}\n",
        "x".repeat(2_000),
        hex('d')
    );
    assert_eq!(collected(text.as_bytes()).unwrap().claims.len(), 1);
}

#[test]
fn an_index_under_two_names_brings_its_manifest_under_both() {
    let image = Image::new("amd64");
    let platforms = index(&[entry(OCI_MANIFEST, &image.manifest, "")]);
    let entries = ["a:1", "b:1"].map(|name| {
        entry(
            OCI_INDEX,
            &platforms,
            &named(&format!("docker.io/library/{name}")),
        )
    });
    let files = layout(&entries, &[&platforms, &image.manifest]);
    let id = image.id();
    let mut expected: Vec<String> = ["a", "b"]
        .iter()
        .flat_map(|name| {
            [sha256(&platforms), image.digest()]
                .map(|digest| line(name, &digest, &id, Trust::Proven))
        })
        .collect();
    expected.sort();
    let tags = [("a:1", &id), ("b:1", &id)];
    assert_eq!(added(collected(&tar(&files)).unwrap(), &tags), Ok(expected));
}

#[test]
fn what_is_passed_over_gives_nothing() {
    let text = format!("image: app@sha256:{}\n{{{{- end }}}}\nb: c\n", hex('d'));
    let files = Files::from([("a.yaml".to_owned(), text.into_bytes())]);
    let collected = read(&[unpacked(&files).path().to_owned()], Collected::new(&[])).unwrap();
    assert!(collected.claims.is_empty(), "{:?}", collected.claims);
    assert!(collected.remarks[0].contains("skipped, because"));
}

#[test]
fn arguments_stand_anywhere_in_a_dockerfiles_image() {
    let digest = format!("sha256:{}", hex('d'));
    let text = format!(
        "ARG V=1.2\nARG B=base\nARG D={digest}\nFROM a:${{V}}@{digest}\nFROM $B:1@{digest}\nFROM c:${{W:-3}}@${{D}}\n"
    );
    let collected = collected(text.as_bytes()).unwrap();
    let found: Vec<&str> = collected
        .claims
        .iter()
        .map(|claim| claim.text.as_str())
        .collect();
    let pin = |name| format!("{name}@{digest}");
    assert_eq!(found, [pin("a:1.2"), pin("base:1"), pin("c:3")]);
}

/// Fills in the templates of `no-pins.txt`. `%N` becomes the name of an image, and `%B` a
/// name that may belong to something else. `%V` becomes a version, and `%H` becomes 64
/// digits.
fn files_without_pins() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/no-pins.txt");
    let templates = fs::read_to_string(path).unwrap();
    let names = [
        ("nginx:1.25", "nginx", "1.25"),
        ("nginx", "left-pad", "1.2.3"),
        ("docker.io/library/nginx:1.25", "team/app", "2024.1"),
        ("registry.example:5000/team/app:1.4", "app-amd64", "1.4"),
        ("registry.example/team/app", "setuptools", "69.0.0"),
    ];
    let mut files = Vec::new();
    for template in templates.split("=== ").skip(1) {
        let (name, text) = template.split_once('\n').unwrap();
        for (at, (image, plain, version)) in names.iter().enumerate() {
            let mut text = text
                .replace("%N", image)
                .replace("%B", plain)
                .replace("%V", version);
            let mut digit = 0;
            while text.contains("%H") {
                digit += 1;
                text = text.replacen("%H", &format!("{at:x}{digit:063x}"), 1);
            }
            files.push((format!("{at}-{name}"), text));
        }
    }
    files
}

#[test]
fn no_claim_is_made_of_files_without_pins() {
    let files = files_without_pins();
    assert!(files.len() >= 300, "{}", files.len());
    let mut found = Vec::new();
    for (name, text) in files {
        let mut collected = Collected::default();
        let _ = read_stream(text.as_bytes(), &name, &mut collected);
        found.extend(collected.claims.iter().map(Claim::to_string));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_archive_may_have_layouts_and_texts_within_directories() {
    let (image, other) = (Image::new("amd64"), Image::new("arm64"));
    let pin = format!("app:1@sha256:{}", hex('d'));
    let mut files = Files::from([
        (
            "bundle/pins.txt".to_owned(),
            format!("{pin}\n").into_bytes(),
        ),
        ("bundle/notes.txt".to_owned(), b"Dear all,\n".to_vec()),
        (
            "bundle/dir/version".to_owned(),
            b"Directory Transport Version: 1.1\n".to_vec(),
        ),
        (
            "bundle/dir/manifest.json".to_owned(),
            other.manifest.clone(),
        ),
        (
            format!("bundle/dir/{}", other.id().hex()),
            other.config.clone(),
        ),
    ]);
    for (name, bytes) in layout_of(&image) {
        files.insert(format!("bundle/images/{name}"), bytes);
    }
    for outcome in [collected(&tar(&files)), piped(&gzipped(&tar(&files)))] {
        let collected = outcome.unwrap();
        let claims = collected.claims.iter().map(|claim| claim.text.clone());
        let mut claims: Vec<String> = claims.collect();
        let digests = [&other, &image].map(|image| image.digest().to_string());
        let mut expected = vec![pin.clone()];
        expected.extend(digests);
        claims.sort();
        expected.sort();
        assert_eq!(claims, expected);
        assert_eq!(collected.remarks.len(), 1, "{:?}", collected.remarks);
        assert!(collected.remarks[0].contains("notes.txt"));
    }
    let nothing = Files::from([("a/b.bin".to_owned(), vec![1])]);
    assert!(problem(&nothing).contains("not a source"));
}

#[test]
fn the_storage_of_a_registry_proves_its_manifests() {
    let image = Image::new("amd64");
    let blob = |bytes: &[u8]| {
        let digest = sha256(bytes);
        let hex = digest.hex();
        format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2])
    };
    let link = "docker/registry/v2/repositories/a/b/c/_manifests/tags/1/current/link";
    let mut files = Files::from([
        (blob(&image.manifest), image.manifest.clone()),
        (blob(&image.config), image.config.clone()),
        (blob(b"layer"), b"layer".to_vec()),
        (link.to_owned(), image.digest().to_string().into_bytes()),
    ]);
    let proven = vec![line("app", &image.digest(), &image.id(), Trust::Proven)];
    for collected in [
        read(&[unpacked(&files).path().to_owned()], Collected::new(&[])),
        Ok(collected(&tar(&files)).unwrap()),
        Ok(piped(&gzipped(&tar(&files))).unwrap()),
    ] {
        let added = added(collected.unwrap(), &[("app:1", &image.id())]);
        assert_eq!(added, Ok(proven.clone()));
    }
    files.insert(blob(&image.manifest), Image::new("arm64").manifest);
    let error = read(&[unpacked(&files).path().to_owned()], Collected::new(&[])).unwrap_err();
    assert!(error.to_string().contains("TAMPERED"), "{error}");
}

#[test]
fn manifest_inspect_has_the_bytes_of_each_platform() {
    use base64::Engine;
    let (image, other) = (Image::new("amd64"), Image::new("arm64"));
    let entry = |image: &Image, bytes: &[u8]| {
        let raw = base64::engine::general_purpose::STANDARD.encode(bytes);
        format!(
            r#"{{"Ref":"docker.io/library/app:1@{0}","Descriptor":{{"digest":"{0}","platform":{{"os":"linux"}}}},"Raw":"{raw}"}}"#,
            image.digest()
        )
    };
    let (mine, theirs) = (
        entry(&image, &image.manifest),
        entry(&other, &other.manifest),
    );
    let proven = vec![line("app", &image.digest(), &image.id(), Trust::Proven)];
    for text in [mine.clone(), format!("[{mine},{theirs}]")] {
        let added = added(
            collected(text.as_bytes()).unwrap(),
            &[("app:1", &image.id())],
        );
        assert_eq!(added, Ok(proven.clone()));
    }
    let error = collected(entry(&image, &other.manifest).as_bytes()).unwrap_err();
    assert!(error.to_string().contains("TAMPERED"), "{error}");
    // `docker manifest inspect -v` of Docker 20.10 prints the manifest's fields, but not
    // its bytes.
    let fields = format!(
        r#"{{"Ref":"docker.io/library/app:1","Descriptor":{{"digest":"{}"}},"SchemaV2Manifest":{{"config":{{"digest":"{}"}}}}}}"#,
        image.digest(),
        image.id()
    );
    let matched = vec![line("app", &image.digest(), &image.id(), Trust::Matched)];
    let added = added(
        collected(fields.as_bytes()).unwrap(),
        &[("app:1", &image.id())],
    );
    assert_eq!(added, Ok(matched));
}

/// The archive that `docker save` writes with the classic image store, plus the claims
/// that `digestfix save` adds.
fn saved(image: &Image, claims: &str) -> Files {
    let config = format!("{}.json", sha256(&image.config).hex());
    let listed = format!(r#"[{{"Config":"{config}","RepoTags":["lab/app:v1"],"Layers":[]}}]"#);
    Files::from([
        ("digestfix.json".to_owned(), claims.as_bytes().to_vec()),
        (config, image.config.clone()),
        ("manifest.json".to_owned(), listed.into_bytes()),
    ])
}

fn claims_of(image: &Image, trust: &str, manifest: &str) -> String {
    let (digest, id) = (image.digest(), image.id());
    let manifest = serde_json::to_string(manifest).unwrap();
    format!(
        r#"{{"digestfix_claims":1,"claims":[{{"reference":"lab/app@{digest}","image_id":"{id}"{trust}}}],"manifests":{{"{digest}":{manifest}}}}}"#
    )
}

#[test]
fn the_claims_in_an_archive_are_read_as_from_a_file() {
    let image = Image::new("amd64");
    let (digest, id) = (image.digest(), image.id());
    let manifest = str::from_utf8(&image.manifest).unwrap();
    let files = saved(&image, &claims_of(&image, "", manifest));
    let archive = tar(&files);
    // This archive also contains an OCI layout, whose manifest an engine created.
    let made_up = Image::with_layer("amd64", "application/vnd.oci.image.layer.v1.tar");
    let mut with_layout = files.clone();
    with_layout.extend(layout_of(&made_up));
    for read in [
        collected(&archive),
        piped(&archive),
        piped(&gzipped(&archive)),
        collected(&zstandard(&archive)),
        collected(&tar(&with_layout)),
    ] {
        let read = read.unwrap();
        assert_eq!(read.remarks, Vec::<String>::new());
        let proven = added(read, &[("lab/app:v1", &id)]).unwrap();
        assert_eq!(proven, [line("lab/app", &digest, &id, Trust::Proven)]);
    }
    let directory = unpacked(&with_layout);
    let read = super::read(&[directory.path().to_owned()], Collected::default()).unwrap();
    let proven = added(read, &[("lab/app:v1", &id)]).unwrap();
    assert_eq!(proven, [line("lab/app", &digest, &id, Trust::Proven)]);
    // `digestfix save` saved the image by its digest, so `docker load` does not restore a
    // tag.
    let pinned = claims_of(&image, "", manifest).replace("lab/app@", "lab/app:v1@");
    let read = collected(&tar(&saved(&image, &pinned))).unwrap();
    let mut named = added(read, &[("lab/other:v1", &id)]).unwrap();
    assert_eq!(named.remove(0), format!("lab/app:v1={id} matched"));
    assert_eq!(named, [line("lab/app", &digest, &id, Trust::Proven)]);
    let asserted = claims_of(&image, r#","trust":"asserted""#, "{}")
        .replace(&format!(r#","manifests":{{"{digest}":"{{}}"}}"#), "");
    let read = collected(&tar(&saved(&image, &asserted))).unwrap();
    let asserted = added(read, &[("lab/app:v1", &id)]).unwrap();
    assert_eq!(asserted, [line("lab/app", &digest, &id, Trust::Asserted)]);
    let tampered = claims_of(
        &image,
        "",
        &manifest.replace("amd64", "arm64").replace('9', "8"),
    );
    assert!(problem(&saved(&image, &tampered)).contains("TAMPERED"));
}

/// In an archive of Docker before 25, only the image's config contains the digests of
/// layers. Since Docker 25, the layers' file names contain them too.
#[test]
fn a_layer_that_was_changed_is_found_in_an_archive_that_is_read_whole() {
    const LAYER: &[u8] = b"a layer";
    let whole = |bytes: &[u8]| {
        let mut collected = Collected::default();
        read_whole_archive(bytes, "F", &mut collected).map(|()| collected.whole.len())
    };
    let config = format!(
        r#"{{"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        sha256(LAYER)
    );
    let name = format!("{}.json", sha256(config.as_bytes()).hex());
    let blob = format!("blobs/sha256/{}", sha256(LAYER).hex());
    for layer in ["1234/layer.tar", &blob] {
        let listed = format!(r#"[{{"Config":"{name}","RepoTags":null,"Layers":["{layer}"]}}]"#);
        let large = vec![0; 5_000_000];
        let of = |bytes: &[u8]| {
            tar(&Files::from([
                (name.clone(), config.clone().into_bytes()),
                ("large.tar".to_owned(), large.clone()),
                ("manifest.json".to_owned(), listed.clone().into_bytes()),
                (layer.to_owned(), bytes.to_vec()),
            ]))
        };
        let archive = of(LAYER);
        for form in [archive.clone(), gzipped(&archive), zstandard(&archive)] {
            assert_eq!(whole(&form).unwrap(), 1);
            for end in [form.len() - 1, form.len() / 2, 600] {
                let error = whole(&form[..end]).unwrap_err();
                assert!(
                    matches!(error, Problem::NotWhole(_) | Problem::Truncated),
                    "{error}"
                );
            }
        }
        let changed = of(b"a Layer");
        for form in [changed.clone(), gzipped(&changed)] {
            let error = whole(&form).unwrap_err().to_string();
            assert!(error.contains("TAMPERED WITH"), "{error}");
        }
        // In an uncompressed file, `read_archive` skips the layers, so it does not notice
        // the change.
        let mut collected = Collected::default();
        read_archive(Cursor::new(changed), "F", &mut collected).unwrap();
        for cut in [&archive[..archive.len() - 512], &archive[..3000]] {
            assert!(read_archive(Cursor::new(cut), "F", &mut collected).is_err());
        }
    }
    // digestfix does not decompress a layer. Docker checks the content when it loads the
    // layer.
    let listed = format!(r#"[{{"Config":"{name}","RepoTags":null,"Layers":["a.tar"]}}]"#);
    let compressed = tar(&Files::from([
        (name, config.into_bytes()),
        ("a.tar".to_owned(), gzipped(LAYER)),
        ("manifest.json".to_owned(), listed.into_bytes()),
    ]));
    assert_eq!(whole(&compressed).unwrap(), 1);
}
