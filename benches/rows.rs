//! The processor time of a plan from files of 1,000, 10,000 and 100,000 rows of each kind:
//! ten times as many rows should take about ten times as long. Processor time hardly
//! depends on what else runs.
//!
//!     cargo bench --bench rows

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tempfile::TempDir;

const SIZES: [u32; 3] = [1_000, 10_000, 100_000];

type Row = fn(u32) -> String;

/// A name, the text before the rows, a row, and the text after them.
const SHAPES: [(&str, &str, Row, &str); 12] = [
    (
        "docker images --digests",
        "REPOSITORY  TAG  DIGEST  IMAGE ID  CREATED\n",
        |n| format!("a{n}  1  sha256:{n:064x}  {n:012x}  1 day ago\n"),
        "",
    ),
    (
        "the same without a heading",
        "",
        |n| format!("a{n}  1  sha256:{n:064x}  {n:012x}  1 day ago\n"),
        "",
    ),
    (
        "--format json",
        "",
        |n| {
            format!(
                "{{\"Repository\":\"a{n}\",\"Tag\":\"1\",\"Digest\":\"sha256:{n:064x}\",\"ID\":\"{n:012x}\"}}\n"
            )
        },
        "",
    ),
    (
        "an array",
        "[0",
        |n| {
            format!(
                ",{{\"Id\":\"{n:064x}\",\"RepoTags\":[\"a{n}:1\"],\"RepoDigests\":[\"a{n}@sha256:{n:064x}\"]}}"
            )
        },
        "]",
    ),
    (
        "CSV",
        "image,digest\n",
        |n| format!("a{n}:1,sha256:{n:064x}\n"),
        "",
    ),
    (
        "two columns",
        "",
        |n| format!("a{n}:1 sha256:{n:064x}\n"),
        "",
    ),
    ("pins", "", |n| format!("a{n}:1@sha256:{n:064x}\n"), ""),
    (
        ".env",
        "",
        |n| format!("KEY{n}=a{n}:1@sha256:{n:064x}\n"),
        "",
    ),
    (
        "docker pull",
        "",
        |n| format!("Digest: sha256:{n:064x}\nStatus: Downloaded newer image for a{n}:1\n"),
        "",
    ),
    (
        "Helm values",
        "",
        |n| format!("- repository: a{n}\n  tag: '1'\n  digest: sha256:{n:064x}\n"),
        "",
    ),
    (
        "TOML",
        "",
        |n| format!("[[image]]\nname = \"a{n}\"\ntag = \"1\"\ndigest = \"sha256:{n:064x}\"\n"),
        "",
    ),
    (
        "lines of a log",
        "",
        |n| format!("Jan 01 00:00:00 host app[1]: request {n} took 7 ms\n"),
        "",
    ),
];

/// The processor time of a plan from a file with so many rows, in microseconds.
fn takes(root: &Path, shape: &(&str, &str, Row, &str), rows: u32) -> i64 {
    let (name, before, row, after) = shape;
    let file = root.join("file");
    let rows: String = (1..=rows).map(row).collect();
    fs::write(&file, [*before, &rows, after].concat()).unwrap();
    let taken = || getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().user_time();
    let earlier = taken();
    let status = Command::new(env!("CARGO_BIN_EXE_digestfix"))
        .args(["plan", "--offline", "--data-root"])
        .arg(root)
        .arg("--from")
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(matches!(status.code(), Some(0 | 3 | 4)), "{name}: {status}");
    (taken() - earlier).num_microseconds()
}

fn main() {
    let root = TempDir::new().unwrap();
    let images = root.path().join("image/overlay2");
    fs::create_dir_all(images.join("imagedb/content/sha256")).unwrap();
    fs::write(images.join("repositories.json"), "{}").unwrap();
    println!(
        "| rows | {} |",
        SIZES.map(|rows| rows.to_string()).join(" | ")
    );
    println!("| --- | ---: | ---: | ---: |");
    for shape in &SHAPES {
        let taken = SIZES.map(|rows| format!("{} ms", takes(root.path(), shape, rows) / 1_000));
        println!("| {} | {} |", shape.0, taken.join(" | "));
    }
}
