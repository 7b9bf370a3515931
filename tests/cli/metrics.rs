//! `--metrics`, whatever becomes of the run.

use std::fs;

use crate::data_root::DataRoot;

const IMAGE: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

#[test]
fn each_end_is_written() {
    let root = DataRoot::of_one_image("a:1", IMAGE);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("digestfix.prom");
    let path = file.to_str().unwrap();
    let claim = format!("a:1@{DIGEST}");
    let missing = format!("b:1@{DIGEST}");
    for (words, code, lines) in [
        (
            ["apply", claim.as_str()].as_slice(),
            0,
            [
                "digestfix_last_run_result{result=\"done\"} 1",
                "digestfix_missing_digests 0",
                "digestfix_references 2",
            ],
        ),
        (
            &["apply", &claim],
            0,
            [
                "digestfix_last_run_result{result=\"unchanged\"} 1",
                "digestfix_missing_digests 0",
                "digestfix_tags_without_digest 0",
            ],
        ),
        (
            &["apply", &missing],
            3,
            [
                "digestfix_last_run_result{result=\"refused\"} 1",
                "digestfix_last_run_exit_code 3",
                "digestfix_changed_references_total 1",
            ],
        ),
        (
            &["rollback"],
            0,
            [
                "digestfix_last_run_result{result=\"done\"} 1",
                "digestfix_tags_without_digest 1",
                "digestfix_changed_references_total 2",
            ],
        ),
    ] {
        root.digestfix(&[words, &["--metrics", path]].concat())
            .exits(code);
        let text = fs::read_to_string(&file).unwrap();
        for line in lines {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        // Nobody stops a Docker here.
        assert!(!text.contains("digestfix_api_outage_seconds "), "{text}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_cannot_be_written_changes_nothing_else() {
    let root = DataRoot::of_one_image("a:1", IMAGE);
    let claim = format!("a:1@{DIGEST}");
    let run = root.digestfix(&["apply", "--metrics", "/nowhere/a.prom", &claim]);
    let run = run.exits(0);
    assert!(root.store().contains(DIGEST));
    let warning = "warning: the metrics could not be written to /nowhere/a.prom: No such file";
    assert!(run.stderr.contains(warning), "{}", run.stderr);
}

#[test]
fn a_name_that_node_exporter_passes_over_is_a_usage_error() {
    let root = DataRoot::of_one_image("a:1", IMAGE);
    let before = root.everything();
    let claim = format!("a:1@{DIGEST}");
    let run = root.digestfix(&["apply", "--metrics", "/tmp/a.txt", &claim]);
    let run = run.exits(2);
    assert!(run.stderr.contains("end in .prom"), "{}", run.stderr);
    assert_eq!(root.everything(), before);
}
