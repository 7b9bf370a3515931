//! Claims from files that are too large for a case.

use std::fs;

use tempfile::TempDir;

use crate::data_root::DataRoot;

#[test]
fn a_long_line_is_not_all_shown() {
    let root = DataRoot::of_one_image("a:1", &format!("sha256:{}", "a".repeat(64)));
    let media = TempDir::new().unwrap();
    let long = media.path().join("long.txt");
    fs::write(&long, "A".repeat(1_000_000)).unwrap();
    let run = root
        .digestfix(&["plan", "--from", long.to_str().unwrap()])
        .exits(3);
    assert!(run.stderr.len() < 11_000, "{}", run.stderr.len());
    assert!(run.stderr.contains("Next: "), "{}", run.stderr);
}
