//! Compares the parser for manifests with Go's JSON parser, which every engine uses. If
//! digestfix can read a manifest, an index or a config's platform, Go must read the same
//! values.
//!
//! `fixtures/manifests.tsv` has 3,000 generated texts and Go's answers. Go 1.15, 1.19 and
//! 1.27 (Debian bullseye, bookworm and forky) gave the same answers to all of them. To
//! generate the file again with any version of Go:
//!
//! ```sh
//! export GO111MODULE=off
//! go build -o /tmp/oracle tests/fixtures/manifests_oracle.go
//! /tmp/oracle generate 3000 1 | /tmp/oracle >tests/fixtures/manifests.tsv
//! ```
//!
//! If Go is installed, the test asks it about these texts again, and about others with a
//! new seed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::SystemTime;
use std::{fs, io, thread};

use digestfix::manifest::{Descriptor, Format, Manifest, OCI_INDEX, OCI_MANIFEST, media_type};
use digestfix::platform::Platform;
use serde::Deserialize;

/// The words of `manifests_oracle.go`, in the same order.
const WORDS: [&str; 10] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.layer.v1.tar",
    "application/octet-stream",
];
const CONFIGS: [&str; 2] = [WORDS[4], WORDS[5]];
const PLAIN: &str = WORDS[8];

/// The values that Go read, under the oracle's one-letter keys.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Read {
    t: String,
    c: Blob,
    b: Vec<Blob>,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Blob {
    t: String,
    d: String,
    s: i64,
    p: Option<[String; 3]>,
}

impl Blob {
    fn is(&self, ours: &Descriptor) -> bool {
        let platform = self.p.as_ref();
        let platform = platform.map(|[os, arch, variant]| Platform::new(os, arch, variant));
        self.t == ours.media_type
            && self.d == ours.digest.to_string()
            && u64::try_from(self.s) == Ok(ours.size)
            && platform == ours.platform
    }
}

fn unpacked(line: &str) -> Vec<u8> {
    let mut line = line.to_owned();
    for (number, word) in WORDS.iter().enumerate() {
        line = line.replace(&format!("~{number}"), word);
    }
    for digit in 'a'..='f' {
        let digest = format!("sha256:{}", digit.to_string().repeat(64));
        line = line.replace(&format!("~{digit}"), &digest);
    }
    let mut pieces = line.split('%');
    let mut text = pieces.next().unwrap().as_bytes().to_vec();
    for piece in pieces {
        text.push(u8::from_str_radix(&piece[..2], 16).unwrap());
        text.extend(&piece.as_bytes()[2..]);
    }
    text
}

/// Go's answer. `None` if Go refuses the text.
fn answer<T: for<'de> Deserialize<'de>>(packed: &str) -> Option<T> {
    let answer = (packed != "error").then(|| unpacked(packed))?;
    Some(serde_json::from_slice(&answer).unwrap())
}

/// Whether both parsers accept the text, and whether they read the same values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreement {
    Same,
    Different,
    OnlyOne,
}

impl Agreement {
    const fn when(same: bool) -> Self {
        if same { Self::Same } else { Self::Different }
    }
}

fn of_config(text: &[u8], theirs: &str) -> Agreement {
    let ours = str::from_utf8(text).ok().and_then(Platform::of_config);
    match (ours, answer::<[String; 3]>(theirs)) {
        (Some(ours), Some([os, arch, variant])) => {
            Agreement::when(ours == Platform::new(&os, &arch, &variant))
        }
        _ => Agreement::OnlyOne,
    }
}

fn of_manifest(text: &[u8], as_image: &str, as_index: &str) -> Agreement {
    let Ok(ours) = Manifest::parse(text) else {
        return Agreement::OnlyOne;
    };
    let (image, index) = (answer::<Read>(as_image), answer::<Read>(as_index));
    // The media type decides whether an engine reads the text as an image or as an index.
    let (Some(image), Some(index)) = (&image, &index) else {
        return Agreement::OnlyOne;
    };
    let says = media_type(text, &ours);
    let kind = |default| says == image.t || says == default && !WORDS[..4].contains(&&*image.t);
    Agreement::when(match &ours {
        Manifest::Image(ours) => {
            image.c.d == ours.image.to_string()
                && u64::try_from(image.c.s) == Ok(ours.config_size)
                && (image.c.t == WORDS[4]) == (ours.format == Format::Oci)
                && CONFIGS.contains(&&*image.c.t) == ours.has_known_config
                && image.b.iter().all(|layer| layer.t == PLAIN) == ours.plain_layers
                && index.b.is_empty()
                && kind(OCI_MANIFEST)
        }
        Manifest::Index(ours) => {
            index.b.len() == ours.len()
                && index
                    .b
                    .iter()
                    .zip(ours)
                    .all(|(theirs, ours)| theirs.is(ours))
                && image.c == Blob::default()
                && kind(OCI_INDEX)
        }
        Manifest::Artifact => !CONFIGS.contains(&&*image.c.t) && index.b.is_empty(),
    })
}

/// Compares every line, and returns how many texts both parsers read.
fn compare(answers: &str) -> usize {
    let mut different = Vec::new();
    let mut same = 0;
    for line in answers.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let agreement = match *fields {
            ["config", text, theirs] => of_config(&unpacked(text), theirs),
            ["manifest", text, image, index] => of_manifest(&unpacked(text), image, index),
            _ => panic!("{line}"),
        };
        match agreement {
            Agreement::Same => same += 1,
            Agreement::Different => different.push(line),
            Agreement::OnlyOne => {}
        }
    }
    assert!(
        different.is_empty(),
        "{} are read by both, and differ:\n{}",
        different.len(),
        different[..different.len().min(10)].join("\n")
    );
    same
}

fn fixture() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/manifests.tsv");
    fs::read_to_string(path).unwrap()
}

#[test]
fn nothing_is_read_otherwise_than_go_reads_it() {
    let answers = fixture();
    assert_eq!(answers.lines().count(), 3_000);
    let same = compare(&answers);
    // With fewer texts, the test would prove nothing.
    assert!(same > 750, "both read only {same}");
}

#[test]
fn nothing_is_read_otherwise_than_by_the_go_that_is_here() {
    let scratch = tempfile::tempdir().unwrap();
    let oracle = scratch.path().join("oracle");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/manifests_oracle.go");
    let built = Command::new("go")
        .args(["build", "-o"])
        .args([&oracle, &source])
        .env("GO111MODULE", "off")
        .env("GOTOOLCHAIN", "local")
        .env("GOCACHE", scratch.path())
        .status();
    match built {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("left out: Go is not installed");
            return;
        }
        built => assert!(built.unwrap().success()),
    }
    let run = |arguments: &[&str], input: String| {
        let mut child = Command::new(&oracle)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let known = fixture();
    let inputs = known.lines().map(|line| {
        let fields: Vec<&str> = line.splitn(3, '\t').collect();
        format!("{}\t{}\n", fields[0], fields[1])
    });
    assert!(
        run(&[], inputs.collect()) == known,
        "this Go gives other answers"
    );
    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    eprintln!("seed {seed}");
    let fresh = run(&["generate", "10000", &seed.to_string()], String::new());
    assert!(compare(&run(&[], fresh)) > 2_500);
}
