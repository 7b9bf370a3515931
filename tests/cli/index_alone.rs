//! An index that is brought without the manifest of this host's platform, as
//! `skopeo inspect --raw` gives it for a tag that BuildKit pushed.

use std::fs;

use digestfix::digest::{Algorithm, Digest};
use tempfile::TempDir;

use crate::data_root::DataRoot;

const TAG: &str = "nginx:1.25";

fn image() -> String {
    format!("sha256:{}", "a".repeat(64))
}

/// The digest of the manifest for amd64, which nobody brought.
fn part() -> String {
    format!("sha256:{}", "b".repeat(64))
}

struct Brought {
    media: TempDir,
    digest: String,
}

fn brought() -> Brought {
    let entry = |digest: &str, os: &str, architecture: &str| {
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":9,"digest":"{digest}","platform":{{"architecture":"{architecture}","os":"{os}"}}}}"#
        )
    };
    let of = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{},{},{}]}}"#,
        entry(&part(), "linux", "amd64"),
        entry(&of("c"), "linux", "arm64"),
        entry(&of("e"), "unknown", "unknown")
    );
    let media = TempDir::new().unwrap();
    fs::write(media.path().join("index.json"), &text).unwrap();
    Brought {
        media,
        digest: Digest::of(Algorithm::Sha256, text.as_bytes()).to_string(),
    }
}

impl Brought {
    fn path(&self) -> String {
        let path = self.media.path().join("index.json");
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn the_manifest_to_bring_is_named_and_nothing_is_said_to_hold() {
    let brought = brought();
    let root = DataRoot::of_one_image(TAG, &image());
    for (command, code) in [("plan", 4), ("verify", 4), ("apply", 3)] {
        let run = root
            .digestfix(&[command, "--from", &brought.path()])
            .exits(code);
        let told = format!("{}{}", run.stdout, run.stderr);
        let named = format!("linux/amd64 {}, linux/arm64 sha256:cccc", part());
        assert!(told.contains(&named), "{command}: {told}");
        assert!(!told.contains("unknown/unknown"), "{command}: {told}");
        assert!(told.contains("skopeo inspect --raw"), "{command}: {told}");
        assert!(told.contains("no claim could be applied"), "{told}");
        for untrue in ["holds", "does not have", "Nothing to do"] {
            assert!(!told.contains(untrue), "{command}: {told}");
        }
    }
}

#[test]
fn a_digest_of_the_platform_that_is_here_already_tells_the_image() {
    let brought = brought();
    let store = format!(
        r#"{{"Repositories":{{"nginx":{{"{TAG}":"{image}","nginx@{part}":"{image}"}}}}}}"#,
        image = image(),
        part = part()
    );
    let root = DataRoot::with(store.as_bytes());
    root.has_image(&"a".repeat(64));
    let run = root
        .digestfix(&["apply", "--from", &brought.path()])
        .exits(0);
    let how = "matched: same image ID in this host's references, by nginx@sha256:bbbb";
    assert!(run.stdout.contains(how), "{}", run.stdout);
    let after = root.store();
    let pinned = format!("\"nginx@{}\":\"{}\"", brought.digest, image());
    assert!(after.contains(&pinned), "{after}");
    assert!(after.contains(&part()), "the other digest stays: {after}");

    // A pin of the index beside it is no longer a conflict.
    let root = DataRoot::with(store.as_bytes());
    root.has_image(&"a".repeat(64));
    let pin = format!("{TAG}@{}", brought.digest);
    root.digestfix(&["apply", "--from", &brought.path(), &pin])
        .exits(0);
    assert_eq!(root.store(), after);
}
