//! A short version of `tests/fuzz/run`: runs the parsers on every input that ever reached
//! new code, and on some variations of each.
//!
//! Only memory has a limit. There is no time limit, because a clock cannot distinguish an
//! input that hangs from a busy machine. An input that hangs keeps this test from ending,
//! and `tests/fuzz/run` detects it by libFuzzer's own timeout.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

#[path = "fuzz/targets.rs"]
mod targets;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRng, TestRunner};
use targets::TARGETS;

/// The number of variations of corpus inputs, for each parser.
const NEAR: u32 = 1_000;

/// The memory limit of `tests/fuzz/run`, in KiB.
const MEMORY: u64 = 1024 * 1024;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let packed = File::open(directory.join(format!("corpus/{target}.tar.gz"))).unwrap();
    let mut archive = tar::Archive::new(GzDecoder::new(packed));
    let inputs = archive.entries().unwrap().map(|entry| {
        let mut input = Vec::new();
        entry.unwrap().read_to_end(&mut input).unwrap();
        input
    });
    inputs.collect()
}

/// A variation of an input: one byte replaced, or a piece removed, repeated, or copied
/// from another input.
#[derive(Debug, Clone)]
enum Edit {
    Byte(Index, u8),
    Drop(Index, Index),
    Double(Index, Index),
    Splice(Index, Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        any::<(Index, u8)>().prop_map(|(at, byte)| Edit::Byte(at, byte)),
        any::<(Index, Index)>().prop_map(|(from, to)| Edit::Drop(from, to)),
        any::<(Index, Index)>().prop_map(|(from, to)| Edit::Double(from, to)),
        any::<(Index, Index, Index)>().prop_map(|(other, from, to)| Edit::Splice(other, from, to)),
    ]
}

fn piece(bytes: &[u8], from: &Index, to: &Index) -> std::ops::Range<usize> {
    let (from, to) = (from.index(bytes.len() + 1), to.index(bytes.len() + 1));
    from.min(to)..from.max(to)
}

fn edited(corpus: &[Vec<u8>], input: &Index, edits: &[Edit]) -> Vec<u8> {
    let mut bytes = input.get(corpus).clone();
    for edit in edits {
        match edit {
            Edit::Byte(at, byte) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Edit::Byte(..) => {}
            Edit::Drop(from, to) => {
                let piece = piece(&bytes, from, to);
                bytes.drain(piece);
            }
            Edit::Double(from, to) => {
                let piece = piece(&bytes, from, to);
                let copy = bytes[piece.clone()].to_vec();
                bytes.splice(piece.end..piece.end, copy);
            }
            Edit::Splice(other, from, to) => {
                let other = other.get(corpus);
                let taken = other[piece(other, from, to)].to_vec();
                let at = piece(&bytes, from, to);
                bytes.splice(at, taken);
            }
        }
    }
    bytes
}

fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let words = line.unwrap().split_whitespace().nth(1);
    words.unwrap().parse().unwrap()
}

/// Many claims about one thing, and many references without a meaning. The small inputs
/// of a fuzzer never contain that many.
#[test]
fn as_much_as_a_file_may_say() {
    const MANY: u32 = 5_000;
    let id = format!("sha256:{}", "1".repeat(64));
    let pins = |name: &dyn Fn(u32) -> String| -> String {
        let pin = |number| format!("{}@sha256:{number:064x}\n", name(number));
        (0..MANY).map(pin).collect()
    };
    let records: Vec<String> = (0..MANY)
        .map(|number| format!(r#"{{"Id":"{id}","RepoDigests":["a@sha256:{number:064x}"]}}"#))
        .collect();
    let rows = |row: &dyn Fn(u32) -> String| -> String { (0..MANY).map(row).collect() };
    let table = |number| format!("a{number}  1  sha256:{number:064x}  {number:012x}  1 day ago\n");
    let values =
        |number| format!("- repository: a{number}\n  tag: '1'\n  digest: sha256:{number:064x}\n");
    let shown = |number| {
        format!(
            r#"{{"Repository":"a","Tag":"1","Digest":"sha256:{number:064x}","ID":"{number:012x}"}}"#
        )
    };
    let texts = [
        format!(
            "REPOSITORY  TAG  DIGEST  IMAGE ID  CREATED\n{}",
            rows(&table)
        ),
        rows(&table),
        format!(
            "image,digest\n{}",
            rows(&|number| format!("a:{number},sha256:{number:064x}\n"))
        ),
        rows(&|number| format!("a:{number} sha256:{number:064x}\n")),
        rows(&|number| format!("KEY=a:{number}@sha256:{number:064x}\n")),
        rows(&|number| {
            format!("Digest: sha256:{number:064x}\nStatus: Downloaded newer image for a:{number}\n")
        }),
        rows(&values),
        rows(&shown),
        format!("[{}]", "\"sha256:1\",".repeat(1_000_000) + "0"),
        format!("NAME=a@sha256:1,{}", "a,".repeat(1_000_000)),
        pins(&|_| "a".to_owned()),
        pins(&|number| format!("a{number}")),
        format!("[{}]", records.join(",")),
        records.concat(),
        "x\n".repeat(250_000),
        format!("[{}0]", "0,".repeat(3_000_000)),
    ];
    for text in &texts {
        targets::text(text.as_bytes());
    }
    assert!(peak_memory() < MEMORY, "{} KiB", peak_memory());
}

#[test]
fn the_corpus_and_what_is_near_it() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        for input in &corpus {
            target(input);
        }
        let config = Config {
            cases: NEAR,
            failure_persistence: None,
            ..Config::default()
        };
        let rng = TestRng::deterministic_rng(config.rng_algorithm);
        let near = (any::<Index>(), prop::collection::vec(edit(), 1..5));
        TestRunner::new_with_rng(config, rng)
            .run(&near, |(input, edits)| {
                target(&edited(&corpus, &input, &edits));
                Ok(())
            })
            .unwrap();
    }
    assert!(peak_memory() < MEMORY, "{} KiB", peak_memory());
}
