//! What would stop an apply on a data root that no daemon uses.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::data_root::DataRoot;

#[test]
fn a_data_root_is_looked_at_and_left_alone() {
    let root = DataRoot::of_the_write_up();
    let run = root.digestfix(&["doctor"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    assert!(
        run.stdout.contains("Nothing would stop an apply"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.contains("without a digest"), "{}", run.stdout);
    let state = root.0.path().join("digestfix");
    assert!(!state.exists(), "it makes nothing");

    fs::set_permissions(root.store_path(), fs::Permissions::from_mode(0o666)).unwrap();
    let run = root.digestfix(&["doctor"]);
    assert_eq!(run.code, 0, "{}", run.stdout);
    assert!(run.stdout.contains("Next: chmod 600"), "{}", run.stdout);
}

#[test]
fn one_thing_that_is_broken_hides_no_other() {
    let root = DataRoot::with(b"[");
    let state = root.0.path().join("digestfix");
    fs::create_dir_all(state.join("history")).unwrap();
    fs::write(state.join("journal.json"), "{").unwrap();
    fs::set_permissions(state.join("history"), fs::Permissions::from_mode(0o777)).unwrap();
    let run = root.digestfix(&["doctor"]);
    assert_eq!(run.code, 3, "{}{}", run.stdout, run.stderr);
    for check in ["references", "unfinished runs", "history"] {
        let told = run.stdout.lines().any(|line| {
            let mut words = line.splitn(2, ' ');
            words.next() == Some("PROBLEM")
                && words
                    .next()
                    .is_some_and(|rest| rest.trim_start().starts_with(check))
        });
        assert!(told, "{check}: {}", run.stdout);
    }
    let quiet = root.digestfix(&["doctor", "-q"]);
    assert_eq!((quiet.code, quiet.stdout.as_str()), (3, ""));
    assert_eq!(
        quiet.stderr.matches("PROBLEM").count(),
        3,
        "{}",
        quiet.stderr
    );
}
