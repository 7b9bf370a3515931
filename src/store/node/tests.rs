#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::image::digest::Algorithm;
use crate::testing::block_on;
use crate::testing::images::{reference as parsed, served};
use crate::testing::node::FakeNode;

fn image(digit: char) -> ImageId {
    let digits = digit.to_string().repeat(64);
    format!("sha256:{digits}").parse().unwrap()
}

fn read(node: &FakeNode) -> NodeStore {
    block_on(NodeStore::read(node)).unwrap()
}

#[test]
fn only_names_that_the_cri_finds_are_references() {
    let node = FakeNode::default();
    let target = node.import("docker.io/lab/app:v1", &image('a'));
    for name in [
        "lab/app:v2",
        "docker.io/lab/app",
        "docker.io/foo.com/app:v1",
    ] {
        node.tag(name, &target);
    }
    node.tag(&format!("docker.io/lab/app:v1@{target}"), &target);
    // A record that does not point at an image, such as the record of an artifact.
    let strange = node.blob("{}");
    node.tag("docker.io/lab/chart:v1", &strange);
    let here = read(&node);
    let references: Vec<_> = here.store.references().collect();
    assert_eq!(references, [(parsed("lab/app:v1"), image('a'))]);
    assert_eq!(here.images, [image('a')].into());
    assert!(here.record(&parsed("lab/chart:v1")).is_some());
    assert_eq!(here.nameless().count(), 0);
}

#[test]
fn a_made_up_digest_is_known_by_its_manifest() {
    let node = FakeNode::default();
    let target = node.import("docker.io/lab/app:v1", &image('a'));
    let made_up = format!("lab/app@{target}");
    node.tag(&format!("docker.io/{made_up}"), &target);
    let served = served(&image('a'));
    let pulled = node.blob(&served);
    node.tag(&format!("docker.io/lab/app@{pulled}"), &pulled);
    let mut here = read(&node);
    assert!(here.made_up().is_empty(), "nothing was read");
    block_on(here.learn_all(&node)).unwrap();
    assert_eq!(here.made_up(), [made_up].into());
    let manifests: Vec<_> = here.manifests().collect();
    assert_eq!(manifests, [(pulled.clone(), served)]);
    assert!(here.proof(&pulled, &image('a')).is_some());
    assert!(here.proof(&pulled, &image('b')).is_none());
    assert_eq!(here.proven(&pulled), [image('a')].into());
}

#[test]
fn an_index_proves_by_the_way_through_it() {
    let node = FakeNode::default();
    let own = served(&image('a'));
    let own_digest = node.blob(&own);
    let elsewhere = "e".repeat(64);
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"size":1,"digest":"sha256:{elsewhere}"}},{{"size":1,"digest":"{own_digest}"}}]}}"#
    );
    let index = node.blob(&text);
    let mut here = read(&node);
    block_on(here.learn(&node, [index.clone()])).unwrap();
    let way = [(index.clone(), text), (own_digest, own)].into();
    assert_eq!(here.proof(&index, &image('a')), Some(way));
    assert_eq!(here.proof(&index, &image('b')), None);
    assert_eq!(here.proven(&index), [image('a')].into());
}

#[test]
fn a_new_record_leads_to_what_its_digest_is_of_if_that_is_here() {
    let node = FakeNode::default();
    let elsewhere = node.import("docker.io/lab/copy:v1", &image('a'));
    let pulled = node.blob(&served(&image('a')));
    let other = Digest::of(Algorithm::Sha256, b"other");
    let wanted = |digest: &Digest| parsed(&format!("lab/app@{digest}"));
    let here = read(&node);
    let target = |here: &NodeStore, digest: &Digest, of| {
        let found = here.target_for(&wanted(digest), &image(of));
        found.map(|target| target.digest.clone())
    };
    assert_eq!(target(&here, &pulled, 'a'), Some(elsewhere.clone()));
    assert_eq!(target(&here, &pulled, 'b'), None);
    node.tag("docker.io/lab/app:v1", &pulled);
    node.tag("docker.io/lab/first:v1", &elsewhere);
    let here = read(&node);
    assert_eq!(target(&here, &pulled, 'a'), Some(pulled.clone()));
    // The new record points at the same target as the other names in its repository.
    assert_eq!(target(&here, &other, 'a'), Some(pulled.clone()));
    assert_eq!(here.tag_beside(&wanted(&other)), Some("v1".to_owned()));
}

#[test]
fn a_record_is_ours_as_long_as_it_leads_where_it_did() {
    let node = FakeNode::default();
    let target = node.import("docker.io/lab/app:v1", &image('a'));
    let mut record = node.records.borrow()["docker.io/lab/app:v1"].clone();
    assert_eq!(maker(&record), None);
    let labels = [
        (TRANSACTION, "t-1".to_owned()),
        (MADE_FOR, target.to_string()),
    ];
    record
        .labels
        .extend(labels.map(|(key, value)| (key.to_owned(), value)));
    assert!(is_made_by(&record, "t-1") && !is_made_by(&record, "t-2"));
    record.target.digest = Digest::of(Algorithm::Sha256, b"pulled");
    assert_eq!(maker(&record), None);
}

#[test]
fn the_last_record_of_a_target_is_known() {
    let node = FakeNode::default();
    node.import("docker.io/lab/app:v1", &image('a'));
    let here = read(&node);
    let record = here.record(&parsed("lab/app:v1")).unwrap();
    let id = image('a').to_string();
    assert_eq!(here.another(record, &BTreeSet::new()), Some(id.as_str()));
    assert_eq!(here.another(record, &[id].into()), None);
}

#[test]
fn what_is_looked_for_is_bounded() {
    let node = FakeNode::default();
    let index = |children: &mut dyn Iterator<Item = String>| {
        let children = children.map(|digest| format!(r#"{{"size":1,"digest":"{digest}"}}"#));
        let children: Vec<String> = children.collect();
        format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            children.join(",")
        )
    };
    let parts: Vec<String> = (0..30)
        .map(|part| {
            let mut absent = (0..1000).map(|one| format!("sha256:{:064x}", part * 1000 + one));
            node.blob(&index(&mut absent)).to_string()
        })
        .collect();
    let whole = node.blob(&index(&mut parts.into_iter()));
    let mut here = read(&node);
    block_on(here.learn(&node, [whole.clone()])).unwrap();
    assert!(here.looked_for.len() <= MOST_MANIFESTS + 1);
    assert!(here.proven(&whole).is_empty());
}
