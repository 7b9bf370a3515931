//! Compares the reference grammar with its owner's: this library parses about 5,000
//! inputs exactly as github.com/distribution/reference v0.6.0 does
//! (`fixtures/references_oracle.go` recorded the results).
//!
//! Engines before 25 use github.com/docker/distribution v2.8, which refuses 200 of these
//! inputs. It does not support IPv6 registries (`[::1]/a`, 115 inputs), or registries in
//! upper case without a dot or a port (`FOO/a`, 80). It also counts the registry as part
//! of a name's 255 characters (5). On all other inputs, the two agree.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::{env, fs};

use digestfix::reference::Reference;

/// The file with the oracle's answers. The variable `REFERENCES` names another file.
fn corpus() -> PathBuf {
    env::var_os("REFERENCES").map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/fixtures/references.tsv"
            ))
        },
        PathBuf::from,
    )
}

fn ours(input: &str) -> String {
    let Ok(reference) = Reference::parse(input) else {
        return "error".to_owned();
    };
    let repository = reference.repository();
    [
        "ok",
        repository.domain(),
        repository.path(),
        reference.tag().map_or("", |tag| tag.as_str()),
        &reference
            .digest()
            .map_or_else(String::new, ToString::to_string),
        &reference.familiar(),
        &reference.full(),
    ]
    .join("\t")
}

#[test]
fn every_answer_is_the_owners() {
    let text = fs::read_to_string(corpus()).unwrap();
    let mut compared = 0;
    let mut different = Vec::new();
    for line in text.lines() {
        let (input, theirs) = line.split_once('\t').unwrap();
        let ours = ours(&serde_json::from_str::<String>(input).unwrap());
        compared += 1;
        if ours != theirs {
            different.push(format!("{input}\n  theirs {theirs}\n  ours   {ours}"));
        }
    }
    assert!(compared > 5_000, "{compared}");
    assert!(
        different.is_empty(),
        "{} of {compared} differ:\n{}",
        different.len(),
        different[..different.len().min(20)].join("\n")
    );
}
