//! Claims from files.

use std::fs;
use std::path::{Path, PathBuf};

use digestfix::digest::{Algorithm, Digest};
use serde_json::Value;
use tempfile::TempDir;

use crate::data_root::{DataRoot, Run};

const APP: &str = "registry.example/team/app:1";
const REPOSITORY: &str = "registry.example/team/app";

fn hex(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn sha256(digit: char) -> String {
    format!("sha256:{}", hex(digit))
}

/// A directory for files that are brought along.
struct Media(TempDir);

impl Media {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

/// The manifest of image `a`, and its digest.
fn manifest() -> (String, String) {
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.docker.container.image.v1+json","size":9,"digest":"{}"}},"layers":[]}}"#,
        sha256('a')
    );
    let digest = Digest::of(Algorithm::Sha256, text.as_bytes()).to_string();
    (text, digest)
}

fn host() -> DataRoot {
    DataRoot::of_one_image(APP, &sha256('a'))
}

fn json(run: &Run) -> Value {
    serde_json::from_str(&run.stdout).unwrap()
}

/// The cells of status's only row that has a digest.
fn row(root: &DataRoot) -> Vec<String> {
    let run = root.digestfix(&["status"]).exits(0);
    let line = run.stdout.lines().find(|line| line.contains("sha256:"));
    line.unwrap()
        .split("   ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn each_trust_is_told_when_planned_when_applied_and_afterwards() {
    let (text, proven) = manifest();
    let media = Media::new();
    let image = sha256('a');
    for (name, text, digest, trust, said, origin) in [
        (
            "pins.txt",
            format!("{APP}@{}\n", sha256('d')),
            sha256('d'),
            "asserted",
            "asserted by",
            "pins.txt:1",
        ),
        (
            "inspect.json",
            format!(
                r#"[{{"Id":"{image}","RepoDigests":["{REPOSITORY}@{}"]}}]"#,
                sha256('d')
            ),
            sha256('d'),
            "matched",
            "matched: same image ID in",
            "inspect.json",
        ),
        (
            "manifest.json",
            text,
            proven,
            "proven",
            "proven by the manifest in",
            "manifest.json",
        ),
    ] {
        let root = host();
        let file = media.file(name, &text);
        let origin = Path::new(media.path()).join(origin);
        let origin = origin.to_str().unwrap();
        let plan = root.digestfix(&["plan", "--from", &file]).exits(4);
        assert!(
            plan.stdout
                .contains(&format!("@{digest}  {image}  ({said} {origin}")),
            "{}",
            plan.stdout
        );
        let planned = json(
            &root
                .digestfix(&["plan", "--json", "--from", &file])
                .exits(4),
        );
        for document in [&planned["changes"][0], &planned["claims"][0]] {
            assert_eq!(document["trust"], trust);
            assert_eq!(document["origin"], origin);
        }
        let applied = root
            .digestfix(&["apply", "--json", "--from", &file])
            .exits(0);
        let applied = json(&applied);
        assert_eq!(applied["changes"][0]["trust"], trust);
        assert_eq!(applied["changes"][0]["origin"], origin);
        assert_eq!(row(&root)[4..], ["ok", trust, origin]);
        let status = json(&root.digestfix(&["status", "--json"]).exits(0));
        assert_eq!(status["rows"][0]["trust"], trust);
        assert_eq!(status["rows"][0]["origin"], origin);
        root.digestfix(&["verify", "--from", &file]).exits(0);
        let again = root.digestfix(&["apply", "--from", &file]).exits(0);
        assert!(again.stdout.contains("Nothing to do"), "{}", again.stdout);
    }
}

#[test]
fn what_a_digest_rested_on_is_forgotten_with_it() {
    let root = host();
    let typed = format!("{APP}@{}", sha256('d'));
    root.digestfix(&["apply", &typed]).exits(0);
    assert_eq!(row(&root)[5..], ["asserted", "typed"]);

    // Somebody else's hand.
    root.has_image(&hex('b'));
    let edited = root.store().replace(&sha256('a'), &sha256('b'));
    fs::write(root.store_path(), edited).unwrap();
    assert_eq!(row(&root)[5..], ["-", "-"]);

    let grounds = root.0.path().join("digestfix/grounds-overlay2.json");
    fs::write(&grounds, "{").unwrap();
    let run = root.digestfix(&["status"]).exits(0);
    assert!(
        run.stderr.contains("grounds-overlay2.json"),
        "{}",
        run.stderr
    );
    assert_eq!(row(&root)[5..], ["-", "-"]);
}

#[test]
fn standard_input_is_a_source() {
    let root = host();
    let list = format!("{APP}@{}\n", sha256('d'));
    let run = root
        .digestfix_reading(&list, &["apply", "--from", "-"])
        .exits(0);
    assert!(run.stdout.contains("standard input:1"), "{}", run.stdout);
}

#[test]
fn what_is_required_is_insisted_on() {
    let media = Media::new();
    let pins = media.file("pins.txt", &format!("{APP}@{}\n", sha256('d')));
    let root = host();
    let untouched = root.everything();
    for words in [
        &["apply", "--require", "matched", "--from", &pins][..],
        &["plan", "--require", "proven", "--from", &pins],
    ] {
        let run = root.digestfix(words).exits(3);
        assert!(run.stderr.contains("only asserted"), "{}", run.stderr);
    }
    assert!(root.everything() == untouched);
    root.digestfix(&["apply", "--require", "asserted", "--from", &pins])
        .exits(0);
    // What is there already rests on nobody's word.
    root.digestfix(&["apply", "--require", "proven", "--from", &pins])
        .exits(0);
}

#[test]
fn a_private_registrys_names_are_rewritten() {
    let media = Media::new();
    let inspected = format!(
        r#"[{{"Id":"{}","RepoDigests":["app@{}"]}}]"#,
        sha256('a'),
        sha256('d')
    );
    let file = media.file("inspect.json", &inspected);
    let root = host();
    let rule = "docker.io/library=registry.example/team";
    root.digestfix(&["apply", "--rewrite", rule, "--from", &file])
        .exits(0);
    assert_eq!(row(&root)[..3], [REPOSITORY, "1", &sha256('d')]);
}

#[test]
fn two_facts_that_disagree_are_both_named() {
    let (text, digest) = manifest();
    let media = Media::new();
    let root = DataRoot::of_one_image(APP, &sha256('b'));
    root.has_image(&hex('a'));
    let untouched = root.everything();
    let manifest = media.file("manifest.json", &text);
    let chart = media.file("chart.yaml", &format!("image: {APP}@{digest}\n"));
    let run = root
        .digestfix(&["apply", "--from", &manifest, "--from", &chart])
        .exits(3);
    for fact in [
        &*sha256('a'),
        &*sha256('b'),
        "chart.yaml:1",
        "proven",
        "manifest.json",
    ] {
        assert!(run.stderr.contains(fact), "{fact} in {}", run.stderr);
    }

    let first = media.file("first.yaml", &format!("image: {APP}@{}\n", sha256('c')));
    let second = media.file("second.yaml", &format!("image: {APP}@{}\n", sha256('d')));
    let run = root
        .digestfix(&["apply", "--from", &first, "--from", &second])
        .exits(3);
    for fact in [
        &*sha256('c'),
        &*sha256('d'),
        "first.yaml:1",
        "second.yaml:1",
    ] {
        assert!(run.stderr.contains(fact), "{fact} in {}", run.stderr);
    }

    let tampered = format!(
        r#"{{"digestfix_claims":1,"claims":[],"manifests":{{"{digest}":{}}}}}"#,
        Value::from(text.replace("vnd", "vne"))
    );
    let tampered = media.file("claims.json", &tampered);
    let run = root.digestfix(&["apply", "--from", &tampered]).exits(3);
    assert!(run.stderr.contains("TAMPERED WITH"), "{}", run.stderr);
    assert!(run.stderr.contains(&digest), "{}", run.stderr);
    assert!(root.everything() == untouched);
}

#[test]
fn many_reasons_are_not_all_shown() {
    let media = Media::new();
    let pins: String = (0..30)
        .map(|number| format!("{REPOSITORY}@sha256:{number:064}\n"))
        .collect();
    let file = media.file("pins.txt", &pins);
    let run = host().digestfix(&["plan", "--from", &file]).exits(3);
    assert_eq!(run.stderr.matches("\n  - ").count(), 20, "{}", run.stderr);
    assert!(run.stderr.contains("and 9 more"), "{}", run.stderr);
    let run = host().digestfix(&["plan", "--json", "--from", &file]);
    let document = json(&run.exits(3));
    assert_eq!(document["problem"]["what"].as_array().unwrap().len(), 29);

    let long = media.file("long.txt", &"A".repeat(1_000_000));
    let run = host().digestfix(&["plan", "--from", &long]).exits(3);
    assert!(run.stderr.len() < 11_000, "{}", run.stderr.len());
    assert!(run.stderr.contains("Next: "), "{}", run.stderr);
}

#[test]
fn claims_about_other_hosts_images_are_counted() {
    let media = Media::new();
    media.file(
        "charts/a.yaml",
        &format!("a: {APP}@{0}\nb: other:1@{0}\nc: x/y@{0}\n", sha256('d')),
    );
    let root = host();
    let run = root.digestfix(&["plan", "--from", media.path()]).exits(4);
    assert!(
        run.stdout.contains("2 claims are about images"),
        "{}",
        run.stdout
    );
    let document = json(
        &root
            .digestfix(&["plan", "--json", "--from", media.path()])
            .exits(4),
    );
    assert_eq!(document["skipped"].as_array().unwrap().len(), 2);
    assert_eq!(document["changes"].as_array().unwrap().len(), 1);
    assert_eq!(document["unmet"], false);
    assert_eq!(document["pending"], true);

    let elsewhere = media.file("elsewhere.txt", &format!("other:1@{}\n", sha256('d')));
    for (command, code) in [("plan", 4), ("verify", 4), ("apply", 3)] {
        let run = root.digestfix(&[command, "--from", &elsewhere]).exits(code);
        let named = format!(
            "1 claim is about an image that this host does not have: other:1@{}",
            sha256('d')
        );
        assert!(run.stdout.contains(&named), "{}", run.stdout);
        let told = format!("{}{}", run.stdout, run.stderr);
        assert!(told.contains("no claim could be applied"), "{told}");
        assert!(!told.contains("holds"), "{told}");
    }
    let document = json(
        &root
            .digestfix(&["plan", "--json", "--from", &elsewhere])
            .exits(4),
    );
    assert_eq!(document["unmet"], true);
    assert_eq!(document["pending"], false);
}

#[test]
fn sources_that_give_nothing_or_are_none() {
    let media = Media::new();
    let root = host();
    let untouched = root.everything();
    for (name, text, said) in [
        ("unpinned.yaml", "image: app:1\n", "no digest in it"),
        ("empty.txt", "\n", "empty"),
        ("cut.json", "{\"Id\":", "EOF"),
        (
            "prose.txt",
            "Dear all,\n\tplease: [update\n",
            "neither a list",
        ),
    ] {
        let file = media.file(name, text);
        let run = root.digestfix(&["apply", "--from", &file]).exits(3);
        assert!(run.stderr.contains(said), "{said}: {}", run.stderr);
        assert!(run.stderr.contains(name), "{}", run.stderr);
        assert!(run.stderr.contains("Next: "), "{}", run.stderr);
    }
    for missing in ["/nonexistent/file", "/dev/null"] {
        root.digestfix(&["apply", "--from", missing]).exits(3);
    }
    assert!(root.everything() == untouched);
}

/// Puts a blob where containerd keeps it.
fn content_store(media: &Media, text: &str, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    media.file(
        &format!("containerd/io.containerd.content.v1.content/blobs/sha256/{hex}"),
        text,
    );
    media.0.path().join("containerd")
}

#[test]
fn an_export_carries_the_manifest_where_the_engine_keeps_it() {
    let (text, digest) = manifest();
    let media = Media::new();
    let there = host();
    there
        .digestfix(&["apply", &format!("{APP}@{digest}")])
        .exits(0);
    let empty = media.0.path().join("none");
    for (root, trust) in [
        // As it was typed there.
        (empty, "asserted"),
        (content_store(&media, &text, &digest), "proven"),
    ] {
        let root = root.to_str().unwrap();
        let untouched = there.everything();
        let export = there
            .digestfix(&["export", "--containerd-root", root])
            .exits(0);
        assert_eq!(export.stderr, "");
        assert!(there.everything() == untouched);
        let here = host();
        let applied = here.digestfix_reading(&export.stdout, &["apply", "--json", "--from", "-"]);
        let applied = json(&applied.exits(0));
        assert_eq!(applied["changes"][0]["trust"], trust);
        assert_eq!(here.store(), there.store());
        let status = json(
            &there
                .digestfix(&["status", "--json", "--containerd-root", root])
                .exits(0),
        );
        let expected = if trust == "proven" { trust } else { "asserted" };
        assert_eq!(status["rows"][0]["trust"], expected);
    }
    // A blob that is not what its name says is none.
    content_store(&media, "{}", &digest);
    let root = media.0.path().join("containerd");
    let export = there
        .digestfix(&["export", "--containerd-root", root.to_str().unwrap()])
        .exits(0);
    assert_eq!(json(&export)["manifests"], Value::Null);
}

#[test]
fn what_was_asserted_here_is_no_better_known_elsewhere() {
    let media = Media::new();
    let none = media.path();
    for (file, expected) in [
        (format!("{APP}@{}\n", sha256('d')), "asserted"),
        (
            format!(
                r#"[{{"Id":"{}","RepoDigests":["{REPOSITORY}@{}"]}}]"#,
                sha256('a'),
                sha256('d')
            ),
            "matched",
        ),
    ] {
        let there = host();
        let file = media.file("file", &file);
        there.digestfix(&["apply", "--from", &file]).exits(0);
        let export = there.digestfix(&["export", "--containerd-root", none]);
        let export = export.exits(0).stdout;
        let planned = host().digestfix_reading(&export, &["plan", "--json", "--from", "-"]);
        assert_eq!(json(&planned.exits(4))["changes"][0]["trust"], expected);
    }
}

#[test]
fn an_export_of_named_images() {
    let root = DataRoot::of_the_write_up();
    let all = json(&root.digestfix(&["export"]).exits(0));
    let claims = |document: &Value| document["claims"].as_array().unwrap().len();
    let one = json(
        &root
            .digestfix(&["export", "jettech/kube-webhook-certgen"])
            .exits(0),
    );
    assert!(claims(&all) > claims(&one));
    assert_eq!(claims(&one), 1);
    let none = root.digestfix(&["export", "no/such"]).exits(3);
    assert!(none.stderr.contains("no/such"), "{}", none.stderr);
    let tag = root
        .digestfix(&["export", "quay.io/coreos/flannel:v0.13.0"])
        .exits(0);
    assert!(tag.stderr.contains("no digest"), "{}", tag.stderr);
}
