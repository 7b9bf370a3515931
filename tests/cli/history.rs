//! What was done, and the way back by it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use crate::data_root::{DataRoot, Run};

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const D1: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const D2: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

fn two_images() -> DataRoot {
    let store = format!(r#"{{"Repositories":{{"a":{{"a:1":"{A}"}},"b":{{"b:1":"{B}"}}}}}}"#);
    let root = DataRoot::with(store.as_bytes());
    root.has_image(&"a".repeat(64));
    root.has_image(&"b".repeat(64));
    root
}

fn json(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.stdout).unwrap()
}

/// Applies, and gives the transaction's name.
#[track_caller]
fn apply(root: &DataRoot, words: &[&str]) -> String {
    let run = root.digestfix(&[&["apply", "--json"], words].concat());
    let run = run.exits(0);
    json(&run)["transaction"].as_str().unwrap().to_owned()
}

fn transactions(root: &DataRoot) -> Vec<serde_json::Value> {
    let run = root.digestfix(&["history", "--json"]).exits(0);
    json(&run)["transactions"].as_array().unwrap().clone()
}

fn history(root: &DataRoot) -> PathBuf {
    root.0.path().join("digestfix/history")
}

#[test]
fn two_applies_and_two_rollbacks() {
    let root = two_images();
    let found = root.store();
    let none = root.digestfix(&["history"]).exits(0);
    assert!(none.stdout.contains("No transaction"), "{}", none.stdout);
    let none = root.digestfix(&["rollback"]).exits(3);
    assert!(
        none.stderr.contains("no transaction here"),
        "{}",
        none.stderr
    );

    let claim = format!("a:1@{D1}");
    let one = apply(&root, &[&claim]);
    let between = root.store();
    let two = apply(&root, &["--replace", "b:1=a:1", "b:2=bbbbbbbbbbbb"]);
    let untouched = root.everything();

    let listed = root.digestfix(&["history"]).exits(0).stdout;
    let lines: Vec<&str> = listed
        .lines()
        .skip_while(|line| !line.starts_with("ID "))
        .skip(1)
        .collect();
    assert_eq!(lines.len(), 2, "{listed}");
    assert!(lines[0].starts_with(&one), "{listed}");
    assert!(lines[0].contains(&format!("a@{D1}")), "{listed}");
    assert!(lines[1].starts_with(&two), "newest last: {listed}");
    assert!(lines[1].contains("2 references"), "{listed}");
    assert!(lines[1].ends_with("done"), "{listed}");

    let whole = root.digestfix(&["history", &one]).exits(0).stdout;
    for part in [
        &format!("  {claim}\n    a@{D1} is {A}  (asserted, typed)"),
        &format!("+   a@{D1}  {A}"),
        "result   done",
        "number 1",
        &format!("repositories.json.digestfix-{one}"),
    ] {
        assert!(whole.contains(part), "{part}\n{whole}");
    }
    let whole = root.digestfix(&["history", &two]).exits(0).stdout;
    let diff = format!("-   b:1  {B}\n+   b:1  {A}\n+   b:2  {B}");
    assert!(whole.contains(&diff), "{whole}");
    assert!(root.everything() == untouched, "history touches nothing");

    let back = root.digestfix(&["rollback"]).exits(0);
    assert!(back.stdout.contains(&two), "{}", back.stdout);
    assert!(
        back.stdout
            .contains(&format!("-   b:1  {A}\n+   b:1  {B}\n-   b:2  {B}")),
        "{}",
        back.stdout
    );
    assert_eq!(root.store(), between);
    let back = root.digestfix(&["rollback", "--json"]).exits(0);
    let back = json(&back);
    assert_eq!(back["command"], "rollback");
    assert_eq!(back["rollback_of"], one.as_str());
    assert_eq!(back["changed"], true);
    assert_eq!(back["changes"][0]["reference"], format!("a@{D1}"));
    assert_eq!(back["changes"][0]["to"], serde_json::Value::Null);
    assert_eq!(root.store(), found);

    let all = transactions(&root);
    let field = |name: &str| -> Vec<&str> {
        let values = all.iter().map(|one| one[name].as_str().unwrap_or("-"));
        values.collect()
    };
    assert_eq!(field("kind"), ["apply", "apply", "rollback", "rollback"]);
    assert_eq!(field("rollback_of"), ["-", "-", &two, &one]);
    assert_eq!(
        field("rolled_back_by"),
        [field("id")[3], field("id")[2], "-", "-"]
    );
    assert_eq!(field("result"), ["done"; 4]);
    assert_eq!(back["transaction"], field("id")[3]);
}

#[test]
fn what_stands_in_the_way_is_shown() {
    let root = two_images();
    let one = apply(&root, &[&format!("a:1@{D1}"), "c:1=a:1"]);
    let two = apply(&root, &["--replace", "c:1=b:1"]);
    let store = root.store();
    // Somebody else's.
    fs::write(
        root.store_path(),
        store.replace(
            &format!("\"a@{D1}\":\"{A}\""),
            &format!("\"a@{D1}\":\"{B}\""),
        ),
    )
    .unwrap();
    let untouched = root.everything();

    let refused = root.digestfix(&["rollback", &one]).exits(3);
    for line in [
        format!("a@{D1}: transaction {one} pointed it at {A}, and now it points at {B}\n"),
        format!(
            "c:1: transaction {one} pointed it at {A}, and now it points at {B}, by transaction {two}\n"
        ),
        "Next: take that one back first: digestfix rollback --offline".to_owned(),
        format!(" {two}\n"),
        "Now:  nothing was touched\n".to_owned(),
    ] {
        assert!(refused.stderr.contains(&line), "{line}\n{}", refused.stderr);
    }
    assert!(root.everything() == untouched);

    root.digestfix(&["rollback", &two]).exits(0);
    let refused = root.digestfix(&["rollback", &one]).exits(3);
    assert!(!refused.stderr.contains("c:1"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("digestfix status"),
        "{}",
        refused.stderr
    );
}

#[test]
fn what_is_back_already_is_nothing_to_do() {
    let root = two_images();
    let one = apply(&root, &[&format!("a:1@{D1}")]);
    apply(&root, &["--remove", &format!("a@{D1}")]);
    let untouched = root.everything();
    let run = root.digestfix(&["rollback", &one]).exits(0);
    assert!(run.stdout.contains("Nothing to do"), "{}", run.stdout);
    assert!(
        root.everything() == untouched,
        "and there is no record of it"
    );
}

#[test]
fn what_cannot_be_taken_back_is_refused() {
    let root = two_images();
    let one = apply(&root, &["--replace", "b:1=a:1"]);
    let gone = root
        .images()
        .join("imagedb/content/sha256")
        .join("b".repeat(64));
    fs::remove_file(&gone).unwrap();
    let refused = root.digestfix(&["rollback"]).exits(3).stderr;
    assert!(
        refused.contains(&format!("b:1: it pointed at {B}")),
        "{refused}"
    );
    assert!(refused.contains("load it first"), "{refused}");
    fs::write(&gone, "{}").unwrap();

    let back = root.digestfix(&["rollback", "--json"]).exits(0);
    let back = json(&back)["transaction"].as_str().unwrap().to_owned();
    let refused = root.digestfix(&["rollback", &one]).exits(3).stderr;
    assert!(refused.contains("taken back already"), "{refused}");
    assert!(
        refused.contains("digestfix rollback --offline") && refused.contains(&format!(" {back}\n")),
        "{refused}"
    );
    let refused = root
        .digestfix(&["rollback", "20200101T000000Z-1"])
        .exits(3)
        .stderr;
    assert!(
        refused.contains("there is no transaction 20200101T000000Z-1"),
        "{refused}"
    );
    root.digestfix(&["history", "20200101T000000Z-1"]).exits(3);
    for name in ["../../etc/passwd", "a.json", ""] {
        root.digestfix(&["rollback", name]).exits(2);
        root.digestfix(&["history", name]).exits(2);
    }
    root.digestfix(&["rollback", "--keep-backups", "0"])
        .exits(2);

    // Taking a rollback back is to do it again.
    let again = root.digestfix(&["rollback", &back]).exits(0);
    assert!(
        again.stdout.contains(&format!("+   b:1  {A}")),
        "{}",
        again.stdout
    );
    root.digestfix(&["rollback", &one]).exits(0);
}

#[test]
fn a_digest_that_was_displaced_comes_back_with_its_trust() {
    let root = two_images();
    apply(&root, &[&format!("a:1@{D1}")]);
    let displaced = root.store();
    apply(&root, &["--replace", &format!("a:1@{D2}")]);
    root.digestfix(&["rollback"]).exits(0);
    assert_eq!(root.store(), displaced);
    let run = root.digestfix(&["status", "--json"]).exits(0);
    assert_eq!(json(&run)["rows"][0]["trust"], "asserted");
    assert_eq!(json(&run)["rows"][0]["origin"], "typed");
}

/// A record that cannot be read stops no apply, hides no other, and is named.
#[test]
fn records_of_somebody_elses() {
    let root = two_images();
    let one = apply(&root, &[&format!("a:1@{D1}")]);
    let record = fs::read_to_string(history(&root).join(format!("{one}.json"))).unwrap();
    let newer = record.replace("\"digestfix_history\":1", "\"digestfix_history\":9");
    fs::write(history(&root).join("newer.json"), newer).unwrap();
    fs::write(history(&root).join("x.json"), &record).unwrap();
    symlink("/etc/shadow", history(&root).join("link.json")).unwrap();

    let two = apply(&root, &["c:1=a:1"]);
    let listed = root.digestfix(&["history"]).exits(0);
    for id in [&one, &two] {
        assert!(listed.stdout.contains(id), "{}", listed.stdout);
    }
    for (name, why) in [
        ("newer", "of version 9"),
        ("x", "another transaction"),
        ("link", "not a plain file"),
    ] {
        let line = listed
            .stderr
            .lines()
            .find(|line| line.contains(&format!("/{name}.json: ")));
        assert!(line.unwrap().contains(why), "{}", listed.stderr);
    }
    let refused = root.digestfix(&["history", "newer"]).exits(3);
    assert!(
        refused.stderr.contains("of version 9"),
        "{}",
        refused.stderr
    );
    // The one that is meant may be among them.
    let refused = root.digestfix(&["rollback"]).exits(3);
    assert!(
        refused.stderr.contains("name another"),
        "{}",
        refused.stderr
    );
    root.digestfix(&["rollback", &two]).exits(0);
}

/// Killed in the middle: the next look says so, the next run ends it.
#[test]
fn a_run_that_was_killed_is_ended_on_record() {
    let root = two_images();
    let one = apply(&root, &[&format!("a:1@{D1}")]);
    let path = history(&root).join(format!("{one}.json"));
    let record = fs::read_to_string(&path).unwrap();
    let killed = record.replace("\"result\":\"done\"", "\"result\":null");
    assert_ne!(killed, record);
    fs::write(&path, killed).unwrap();
    assert_eq!(transactions(&root)[0]["result"], serde_json::Value::Null);

    root.digestfix(&["rollback"]).exits(0);

    let all = transactions(&root);
    assert_eq!(all[0]["result"], "recovered");
    assert_eq!(all[0]["references"], "new");
    assert!(!root.store().contains(D1));
}

#[test]
fn who_did_it_is_on_record() {
    let root = two_images();
    let run = Command::new(env!("CARGO_BIN_EXE_digestfix"))
        .args(["apply", "-q", "c:1=a:1", "--offline", "--data-root"])
        .arg(root.0.path())
        .env("SUDO_USER", "alice\u{1b}[2J")
        .status()
        .unwrap();
    assert!(run.success());
    let by = transactions(&root)[0]["by"].as_str().unwrap().to_owned();
    assert!(by.starts_with("alice??2J (sudo)"), "{by}");
}

#[test]
fn what_is_kept_is_bounded() {
    let root = two_images();
    let ids: Vec<String> = (0..4)
        .map(|number| {
            let claim = format!("c:{number}=a:1");
            apply(&root, &["--keep-backups", "2", &claim])
        })
        .collect();
    let backups = || {
        let all = transactions(&root);
        let kept = all.into_iter().filter(|one| !one["backup"].is_null());
        kept.map(|one| one["id"].as_str().unwrap().to_owned())
            .collect::<Vec<String>>()
    };
    assert_eq!(backups(), ids[2..]);
    root.digestfix(&["rollback", "--keep-backups", "1"])
        .exits(0);
    assert_eq!(backups().len(), 1);
    assert_eq!(transactions(&root).len(), 5, "the records stay");
    let old = root.digestfix(&["history", &ids[0]]).exits(0);
    assert!(old.stdout.contains("backup   none"), "{}", old.stdout);
}
