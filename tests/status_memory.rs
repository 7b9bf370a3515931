//! The peak memory of `status` with many references. This is a test program of its own,
//! because the kernel reports the peak of all child processes together.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::resource::{UsageWho, getrusage};
use tempfile::TempDir;

/// A store with two tags and one digest for each image. The names look like those of
/// companies.
fn store(references: usize) -> (String, Vec<String>) {
    let (mut text, mut images) = (String::from(r#"{"Repositories":{"#), Vec::new());
    for number in 0..references / 3 {
        let name = format!("registry.example:5000/platform/team/service-{number:07}");
        let image = format!("{number:064x}");
        let digest = format!("{:064x}", number + references);
        let comma = if number == 0 { "" } else { "," };
        write!(
            text,
            r#"{comma}"{name}":{{"{name}:1.{number}":"sha256:{image}","{name}:stable":"sha256:{image}","{name}@sha256:{digest}":"sha256:{image}"}}"#
        )
        .unwrap();
        images.push(image);
    }
    (text + "}}", images)
}

/// A data root that no daemon uses.
fn data_root(references: usize) -> (TempDir, usize) {
    let (text, ids) = store(references);
    let root = TempDir::new().unwrap();
    let images = root.path().join("image/overlay2");
    let configs = images.join("imagedb/content/sha256");
    fs::create_dir_all(&configs).unwrap();
    fs::write(images.join("repositories.json"), &text).unwrap();
    for id in ids {
        fs::write(configs.join(id), "{}").unwrap();
    }
    (root, text.len())
}

/// The peak memory of the largest child process so far, in bytes.
fn peak(root: &Path, words: &[&str]) -> usize {
    let status = Command::new(env!("CARGO_BIN_EXE_digestfix"))
        .args(words)
        .args(["--offline", "--data-root"])
        .arg(root)
        .stdout(File::create(root.join("out")).unwrap())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    let kib = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    usize::try_from(kib).unwrap() * 1024
}

/// A file with 1,000,000 references has 170 MB.
#[test]
fn status_takes_three_times_the_file_at_most() {
    // The memory for a small store is the program's own.
    let own = peak(data_root(3).0.path(), &["status"]);
    let (root, file) = data_root(30_000);
    for words in [&["status"][..], &["status", "--json"]] {
        let taken = peak(root.path(), words) - own;
        assert!(
            taken <= 3 * file,
            "{words:?}: {taken} of {file} bytes of file"
        );
    }
}
