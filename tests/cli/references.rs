//! Commands on stores that are too large for a case, or that require another user or
//! another process.

use std::fs;

use crate::data_root::DataRoot;

const CLAIM: &str = "quay.io/coreos/flannel:v0.13.0\
    @sha256:ac5322604bcab484955e6dbc507f45a906bde79046667322e3918a8578ab08c8";

#[test]
fn stores_without_end_are_refused_untouched() {
    let nested = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let nested_repositories = format!("{{\"Repositories\":{}", "{\"a\":".repeat(100_000));
    let huge = vec![b' '; 256 * 1024 * 1024 + 1];
    let bad: [(&str, &[u8], &str); 3] = [
        ("nested", nested.as_bytes(), "nested too deeply"),
        (
            "nested repositories",
            nested_repositories.as_bytes(),
            "line 1 column",
        ),
        ("huge", &huge, "more than a reference store can have"),
    ];
    for (name, bytes, says) in bad {
        let root = DataRoot::with(bytes);
        let untouched = root.everything();
        for words in [
            &["status"][..],
            &["plan", CLAIM],
            &["apply", CLAIM],
            &["verify", CLAIM],
        ] {
            let run = root.digestfix(words).exits(3);
            assert!(run.stderr.contains(says), "{name}: {}", run.stderr);
            assert!(
                run.stderr.contains("repositories.json"),
                "{name}: {}",
                run.stderr
            );
        }
        assert!(root.everything() == untouched, "{name}");
    }
}

#[test]
fn a_store_of_another_user_is_refused() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can give a file away");
        return;
    }
    let root = DataRoot::of_the_write_up();
    std::os::unix::fs::chown(root.store_path(), Some(1234), None).unwrap();
    let run = root.digestfix(&["apply", CLAIM]).exits(3);
    assert!(
        run.stderr.contains("belongs to user 1234"),
        "{}",
        run.stderr
    );
}

#[test]
fn a_claim_of_any_length_is_refused() {
    let root = DataRoot::of_the_write_up();
    for command in ["plan", "apply", "verify"] {
        root.digestfix(&[command, &"a".repeat(100_000)]).exits(2);
    }
}

#[test]
fn the_process_that_uses_a_data_root_is_named() {
    use fs2::FileExt;
    let root = DataRoot::of_the_write_up();
    fs::create_dir(root.0.path().join("volumes")).unwrap();
    let database = fs::File::create(root.0.path().join("volumes/metadata.db")).unwrap();
    FileExt::lock_exclusive(&database).unwrap();
    let run = root.digestfix(&["apply", CLAIM]).exits(3);
    let process = format!("process {}", std::process::id());
    assert!(run.stderr.contains(&process), "{}", run.stderr);
}
