//! The commands on the references themselves.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::data_root::{BEFORE, DataRoot, digestfix};

const AFTER: &str = include_str!("../fixtures/seed/after.json");
const FLANNEL: &str = "quay.io/coreos/flannel:v0.13.0";
const FLANNEL_DIGEST: &str =
    "sha256:ac5322604bcab484955e6dbc507f45a906bde79046667322e3918a8578ab08c8";
const WEBHOOK: &str = "jettech/kube-webhook-certgen";
const WEBHOOK_ID: &str = "sha256:a013daf8730dbb3908d66f67c57053f09055fddb28fde0b5808cb24c27900dc8";
const HTTPD_ID: &str = "sha256:dabbfbe0c57b6e5cd4bc089818d3f664acfad496dc741c9a501e72d15e803b34";

#[test]
fn a_digest_is_planned_applied_and_verified() {
    let root = DataRoot::of_the_write_up();
    let claim = format!("{FLANNEL}@{FLANNEL_DIGEST}");
    let untouched = root.everything();

    root.digestfix(&["verify", &claim]).exits(4);
    let plan = root.digestfix(&["plan", &claim]).exits(4);
    assert!(
        root.everything() == untouched,
        "plan and verify touch nothing"
    );
    assert!(
        plan.stdout
            .contains(&format!("+   quay.io/coreos/flannel@{FLANNEL_DIGEST}"))
    );

    root.digestfix(&["apply", &claim]).exits(0);

    root.digestfix(&["verify", &claim]).exits(0);
    let expected = BEFORE.replace(
        "\"quay.io/coreos/flannel:v0.13.0\":\"sha256:e708f4bb69e310904d564a1e67c3833d6a0428d3cf8dd9b9abba25c7aa0f3dfe\"",
        &format!(
            "\"quay.io/coreos/flannel:v0.13.0\":\"sha256:e708f4bb69e310904d564a1e67c3833d6a0428d3cf8dd9b9abba25c7aa0f3dfe\",\
             \"quay.io/coreos/flannel@{FLANNEL_DIGEST}\":\"sha256:e708f4bb69e310904d564a1e67c3833d6a0428d3cf8dd9b9abba25c7aa0f3dfe\""
        ),
    );
    assert_eq!(root.store(), expected);
    let backup: Vec<_> = fs::read_dir(root.images())
        .unwrap()
        .map(|child| child.unwrap().path())
        .filter(|path| {
            path.to_string_lossy()
                .contains("repositories.json.digestfix-")
        })
        .collect();
    assert_eq!(fs::read_to_string(&backup[0]).unwrap(), BEFORE);

    let applied = root.everything();
    let again = root.digestfix(&["apply", &claim]).exits(0);
    assert!(again.stdout.contains("Nothing to do"), "{}", again.stdout);
    assert!(root.everything() == applied);
}

#[test]
fn the_write_ups_edit_needs_to_be_insisted_on() {
    let root = DataRoot::of_the_write_up();
    let untouched = root.everything();
    let tag = format!("{WEBHOOK}:v1.5.1={HTTPD_ID}");
    let digest = format!("{WEBHOOK}@{HTTPD_ID}={WEBHOOK_ID}");

    let run = root.digestfix(&["apply", &tag, &digest]).exits(3);
    assert!(
        run.stderr.contains("is the ID of an image on this host"),
        "{}",
        run.stderr
    );
    let run = root
        .digestfix(&["apply", "--allow-image-id-digest", &tag, &digest])
        .exits(3);
    assert!(run.stderr.contains("--replace moves it"), "{}", run.stderr);
    assert!(
        run.stderr.contains("--replace drops that one"),
        "{}",
        run.stderr
    );
    assert!(root.everything() == untouched);

    root.digestfix(&[
        "apply",
        "--allow-image-id-digest",
        "--replace",
        &tag,
        &digest,
    ])
    .exits(0);
    assert_eq!(root.store(), AFTER);
}

#[test]
fn status_names_each_state() {
    let id = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let (a, b, c) = (id("a"), id("b"), id("c"));
    let store = format!(
        "{{\"Repositories\":{{\
           \"x\":{{\"x:1\":\"{a}\",\"x@{c}\":\"{a}\"}},\
           \"y\":{{\"y:1\":\"{a}\"}},\
           \"z\":{{\"z:1\":\"{c}\",\"z:@sha256:bad\":\"{a}\",\"z@{b}\":\"{a}\"}}\
         }},\"Later\":1}}"
    );
    let root = DataRoot::with(store.as_bytes());
    root.has_image(&"a".repeat(64));
    root.has_image(&"b".repeat(64));

    let run = root.digestfix(&["status"]).exits(0);
    let states: Vec<&str> = run
        .stdout
        .lines()
        .skip_while(|line| !line.starts_with("REPOSITORY"))
        .skip(1)
        .take(5)
        .map(|line| {
            line.split("   ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .nth(4)
                .unwrap()
        })
        .collect();
    assert_eq!(
        states,
        [
            "ok",
            "no digest",
            "unparsable",
            "digest is an image ID",
            "image missing"
        ],
        "{}",
        run.stdout
    );
    assert!(run.stderr.contains("Later"), "{}", run.stderr);

    let json: serde_json::Value =
        serde_json::from_str(&root.digestfix(&["status", "--json"]).exits(0).stdout).unwrap();
    assert_eq!(json["rows"][0]["state"], "ok");
    assert_eq!(json["rows"][3]["digest"], b);
}

/// A file's escape sequences do not reach the terminal.
#[test]
fn what_is_shown_does_not_steer_the_terminal() {
    let root = DataRoot::with(
        b"{\"Repositories\":{\"x\\u001b[2J\":{\"x:1\":\"\\u001b]0;y\"},\"a\":{\"a:1\":\"\\u0007\"}}}",
    );
    let run = root.digestfix(&["status"]).exits(0);
    assert!(
        !run.stdout.contains(['\u{1b}', '\u{7}']),
        "{:?}",
        run.stdout
    );
    let run = root.digestfix(&["plan", "a:1=a:1"]).exits(3);
    assert!(
        !run.stderr.contains(['\u{1b}', '\u{7}']),
        "{:?}",
        run.stderr
    );
}

/// Entries and keys that are not understood come through a change unharmed.
#[test]
fn what_is_not_understood_is_kept() {
    let store = BEFORE
        .replace(
            "{\"Repositories\":{",
            "{\"First\":[1,  2],\"Repositories\":{\"a b\":{\"a b:@x\":\"what\"},",
        )
        .replace("}}}", "}},\"Last\":{\"k\":null}}");
    let root = DataRoot::with(store.as_bytes());
    root.has_image("e708f4bb69e310904d564a1e67c3833d6a0428d3cf8dd9b9abba25c7aa0f3dfe");

    root.digestfix(&["apply", &format!("{FLANNEL}@{FLANNEL_DIGEST}")])
        .exits(0);
    root.digestfix(&[
        "apply",
        "--remove",
        &format!("quay.io/coreos/flannel@{FLANNEL_DIGEST}"),
    ])
    .exits(0);

    assert_eq!(root.store(), store);
}

#[test]
fn bad_stores_are_refused_untouched() {
    let nested = format!("{{\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let nested_repositories = format!("{{\"Repositories\":{}", "{\"a\":".repeat(100_000));
    let huge = vec![b' '; 256 * 1024 * 1024 + 1];
    let bad: Vec<(&str, &[u8], &str)> = vec![
        ("empty", b"", "line 1 column 0"),
        ("not JSON", b"hello", "line 1 column 1"),
        (
            "truncated",
            &BEFORE.as_bytes()[..1000],
            "line 1 column 1000",
        ),
        ("two values", b"{\"Repositories\":{}}{}", "line 1 column 20"),
        ("an array", b"[]", "expected an object with the key"),
        ("null", b"null", "expected an object with the key"),
        (
            "null repositories",
            b"{\"Repositories\":null}",
            "expected an object of repositories",
        ),
        (
            "a number for a repository",
            b"{\"Repositories\":{\"a\":1}}",
            "in repository \"a\"",
        ),
        (
            "a number for an image",
            b"{\"Repositories\":{\"a\":{\"a:1\":1}}}",
            "for reference \"a:1\"",
        ),
        (
            "duplicate top",
            b"{\"Repositories\":{},\"Repositories\":{}}",
            "duplicate key",
        ),
        (
            "duplicate unknown",
            b"{\"x\":1,\"x\":2}",
            "duplicate key \"x\"",
        ),
        (
            "duplicate repository",
            b"{\"Repositories\":{\"a\":{},\"a\":{}}}",
            "duplicate repository \"a\"",
        ),
        (
            "duplicate reference",
            b"{\"Repositories\":{\"a\":{\"a:1\":\"x\",\"a:1\":\"y\"}}}",
            "duplicate reference \"a:1\" in repository \"a\"",
        ),
        (
            "another case",
            b"{\"repositories\":{}}",
            "the engine reads the key",
        ),
        (
            "not UTF-8",
            b"{\"Repositories\":{\"\xff\":{}}}",
            "not UTF-8 at byte 18",
        ),
        (
            "a lone surrogate",
            b"{\"Repositories\":{\"\\ud800\":{}}}",
            "line 1 column",
        ),
        ("a byte order mark", b"\xef\xbb\xbf{}", "line 1 column 1"),
        ("nested", nested.as_bytes(), "nested deeper"),
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
            &[
                "plan",
                "a:1@sha256:00000000000000000000000000000000000000000000000000000000000000aa",
            ],
            &[
                "apply",
                "a:1@sha256:00000000000000000000000000000000000000000000000000000000000000aa",
            ],
            &[
                "verify",
                "a:1@sha256:00000000000000000000000000000000000000000000000000000000000000aa",
            ],
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
fn things_that_are_not_a_store() {
    let root = DataRoot::with(b"");
    fs::remove_file(root.store_path()).unwrap();
    let refused = |says: &str| {
        let run = root
            .digestfix(&["apply", "--driver", "overlay2", "a:1=a:2"])
            .exits(3);
        assert!(run.stderr.contains(says), "{}", run.stderr);
    };
    refused("there is no reference store here");
    symlink("/etc/passwd", root.store_path()).unwrap();
    refused("not a plain file");
    fs::remove_file(root.store_path()).unwrap();
    fs::create_dir(root.store_path()).unwrap();
    refused("not a plain file");
    fs::remove_dir(root.store_path()).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(root.store_path())
            .status()
            .unwrap()
            .success()
    );
    refused("not a plain file");
    fs::remove_file(root.store_path()).unwrap();
    if nix::unistd::geteuid().is_root() {
        fs::write(root.store_path(), BEFORE).unwrap();
        std::os::unix::fs::chown(root.store_path(), Some(1234), None).unwrap();
        refused("belongs to user 1234");
    }
}

#[test]
fn data_roots_that_are_none() {
    let root = DataRoot::of_the_write_up();
    let path = root.0.path().to_str().unwrap();
    let claim = format!("{FLANNEL}@{FLANNEL_DIGEST}");
    for (words, says) in [
        (
            vec!["--data-root", "/nonexistent"],
            "there is no such directory",
        ),
        (vec!["--data-root", "relative"], "absolute path"),
        (vec!["--data-root", "/etc/passwd"], "not a directory"),
        (vec!["--data-root", "/proc"], "no image was ever stored"),
        (
            vec!["--data-root", path, "--driver", "vfs"],
            "by driver vfs",
        ),
        (
            vec!["--data-root", path, "--driver", "../overlay2"],
            "not the name of a storage driver",
        ),
        (
            vec!["--data-root", path, "--driver", ""],
            "not the name of a storage driver",
        ),
    ] {
        let run = digestfix(&[&["apply", "--offline", &claim][..], &words].concat()).exits(3);
        assert!(run.stderr.contains(says), "{words:?}: {}", run.stderr);
    }
    fs::create_dir_all(root.0.path().join("image/vfs")).unwrap();
    fs::write(root.0.path().join("image/vfs/repositories.json"), "{}").unwrap();
    let run = root.digestfix(&["status"]).exits(3);
    assert!(run.stderr.contains("--driver one of"), "{}", run.stderr);
    root.digestfix(&["status", "--driver", "overlay2"]).exits(0);
}

#[test]
fn bad_usage_is_exit_code_2() {
    let root = DataRoot::of_the_write_up();
    let untouched = root.everything();
    let long = format!("{}@{FLANNEL_DIGEST}", "a".repeat(256));
    let many = "a".repeat(100_000);
    for claim in [
        "",
        " ",
        "httpd",
        "httpd:latest",
        "httpd@sha256:abc",
        "httpd@md5:00000000000000000000000000000000",
        "httpd@SHA256:ac5322604bcab484955e6dbc507f45a906bde79046667322e3918a8578ab08c8",
        "httpd@sha256:AC5322604BCAB484955E6DBC507F45A906BDE79046667322E3918A8578AB08C8",
        "HTTPD:1@sha256:ac5322604bcab484955e6dbc507f45a906bde79046667322e3918a8578ab08c8",
        "=",
        "httpd:1=",
        "=httpd:1",
        "httpd=httpd:1",
        "httpd:1=a=b",
        "httpd:-1=httpd:1",
        "../../etc:1=httpd:1",
        "a\nb:1=httpd:1",
        "sha256@sha256:ac5322604bcab484955e6dbc507f45a906bde79046667322e3918a8578ab08c8",
        "docker.io/foo.com/x:1=httpd:latest",
        "docker.io/localhost/x:1=httpd:latest",
        &long,
        &many,
    ] {
        for command in ["plan", "apply", "verify"] {
            root.digestfix(&[command, claim]).exits(2);
        }
    }
    for words in [
        &["frobnicate"][..],
        &["apply", "--rewrite", "a", "a:1=b:1"],
        &["apply", "--require", "certain", "a:1=b:1"],
        &["export", "UPPER"],
        &["export", "--format", "xml"],
        &["apply", "--remove", "httpd"],
        &["apply", "--remove", "docker.io/foo.com/x:1"],
        &["apply", "--wait", "-1", "a:1=b:1"],
        &["apply", "--unit", "x", "a:1=b:1"],
        &["status", "-q", "-v"],
    ] {
        root.digestfix(words).exits(2);
    }
    assert!(root.everything() == untouched);
}

#[test]
fn an_error_in_json_says_the_same() {
    let root = DataRoot::with(b"{");
    let run = root.digestfix(&["status", "--json"]).exits(3);
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(json["exit_code"], 3);
    assert!(
        json["problem"]["what"][0]
            .as_str()
            .unwrap()
            .contains("line 1")
    );
    assert_eq!(json["problem"]["state"], "nothing was touched");
    assert_eq!(run.stderr, "");
}

#[test]
fn a_data_root_in_use_is_left_alone() {
    use fs2::FileExt;
    let root = DataRoot::of_the_write_up();
    fs::create_dir(root.0.path().join("volumes")).unwrap();
    let database = fs::File::create(root.0.path().join("volumes/metadata.db")).unwrap();
    FileExt::lock_exclusive(&database).unwrap();
    let claim = format!("{FLANNEL}@{FLANNEL_DIGEST}");
    let untouched = root.everything();
    let run = root.digestfix(&["apply", &claim]).exits(3);
    assert!(
        run.stderr
            .contains(&format!("process {}", std::process::id())),
        "{}",
        run.stderr
    );
    assert!(root.everything() == untouched);
    FileExt::unlock(&database).unwrap();
    root.digestfix(&["apply", &claim]).exits(0);
}

#[test]
fn quiet_tells_of_changes_only() {
    let root = DataRoot::of_the_write_up();
    let claim = format!("{FLANNEL}@{FLANNEL_DIGEST}");
    let run = root.digestfix(&["apply", "-q", &claim]).exits(0);
    for words in [FLANNEL_DIGEST, "Done in this store.", "To take this back"] {
        assert!(run.stdout.contains(words), "{}", run.stdout);
    }
    assert_eq!(run.stderr, "");
    for words in [
        &["apply", "-q", &claim][..],
        &["rollback", "-qq"],
        &["apply", "-qq", &claim],
    ] {
        let run = root.digestfix(words).exits(0);
        assert_eq!(run.stdout + &run.stderr, "", "{words:?}");
    }
}

#[test]
fn help_names_the_exit_codes() {
    for words in [&["--help"][..], &["apply", "--help"], &["status", "--help"]] {
        let run = digestfix(words).exits(0);
        assert!(
            run.stdout
                .contains("5  not all of the host is as it should be"),
            "{}",
            run.stdout
        );
    }
}
