//! The fuzz targets. Each accepts any bytes, and must not crash, hang or take more memory
//! than the limits allow. `tests/fuzz/run` fuzzes the targets. The test `fuzz_corpus`
//! runs them on the corpus and on variations of it.

use std::collections::BTreeSet;
use std::io::Cursor;

use digestfix::claim::Claim;
use digestfix::digest::ImageId;
use digestfix::reference::Reference;
use digestfix::repositories::Store;
use digestfix::source::collected::Collected;
use digestfix::source::{self, json, pins};
use digestfix::{Plan, Request};

pub type Target = fn(&[u8]);

pub const TARGETS: [(&str, Target); 6] = [
    ("archive", archive),
    ("compressed", compressed),
    ("json", json),
    ("yaml", yaml),
    ("dockerfile", dockerfile),
    ("text", text),
];

/// Checks that a plan can be made from everything that was read, whether it succeeds or
/// not.
fn settle(collected: Collected) {
    let mut store = Store::parse(b"{}").expect("an empty store");
    let mut images = BTreeSet::new();
    for (name, digit) in [("a:1", '1'), ("localhost:5000/lab/app:v1", '2')] {
        let image: ImageId = format!("sha256:{}", digit.to_string().repeat(64))
            .parse()
            .expect("an image ID");
        let reference: Reference = name.parse().expect("a reference");
        store.insert(&reference, &image).expect("a free place");
        images.insert(image);
    }
    let request = Request {
        claims: collected.claims,
        evidence: collected.evidence,
        ..Request::default()
    };
    if let Ok(plan) = Plan::new(&store, &images, &request) {
        assert_eq!(
            Store::parse(plan.after.to_bytes()).expect("what was written"),
            plan.after
        );
    }
}

/// A tar archive in a file.
pub fn archive(data: &[u8]) {
    for bytes in [data, &mended(data)] {
        let mut collected = Collected::new(&[]);
        let _ = source::read_file(Cursor::new(bytes), "fuzz", &mut collected);
        settle(collected);
    }
}

/// Any input from a pipe: archives and texts, compressed or not.
pub fn compressed(data: &[u8]) {
    for bytes in [data, &mended(data)] {
        let mut collected = Collected::new(&[]);
        let _ = source::read_stream(bytes, "fuzz", &mut collected);
        settle(collected);
    }
}

/// Corrects the checksum in every header of an archive. Otherwise, almost every change of
/// an archive would only make a checksum fail.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if &block[257..262] == b"ustar" {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    bytes
}

/// JSON of every kind.
pub fn json(data: &[u8]) {
    of_text(data, json::read_json);
}

/// YAML.
pub fn yaml(data: &[u8]) {
    of_text(data, pins::read_yaml);
}

/// A Dockerfile.
pub fn dockerfile(data: &[u8]) {
    of_text(data, pins::read_dockerfile);
}

/// Any text. Each of its lines is also parsed as a claim and as a rule of `--rewrite`.
pub fn text(data: &[u8]) {
    of_text(data, source::read_text);
    for line in String::from_utf8_lossy(data).lines() {
        let _ = line.parse::<Claim>();
        let _ = line.parse::<digestfix::rewrite::Rewrite>();
    }
}

fn of_text(data: &[u8], read: fn(&str, &str, &mut Collected) -> Result<(), source::Problem>) {
    let mut collected = Collected::new(&[]);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = read(text, "fuzz", &mut collected);
    }
    settle(collected);
}
