//! Names and texts that other programs or users chose cannot break a line, control a
//! terminal or hide text in anything that digestfix prints.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use digestfix::printable::is_printable;
use tempfile::TempDir;

/// The line that a hostile name tries to forge.
const FORGED: &str = "digestfix: done. The host is consistent again.";

const HOSTILE: &str =
    "x\ndigestfix: done. The host is consistent again.\r\n\u{202e}\u{1b}[2J\u{9b}\u{200b}\u{2028}y";

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const D1: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
const D2: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";

/// A disk on which everything that can have a name has a hostile name.
struct Disk {
    directory: TempDir,
    root: PathBuf,
    options: Vec<OsString>,
}

impl Disk {
    fn with(name: &OsStr) -> Self {
        let directory = TempDir::new().unwrap();
        let root = directory.path().join(name);
        let images = root.join("image/overlay2");
        fs::create_dir_all(images.join("imagedb/content/sha256")).unwrap();
        fs::write(images.join("imagedb/content/sha256").join(&A[7..]), "{}").unwrap();
        let store = serde_json::json!({
            "Repositories": {
                "a": {"a:1": A, HOSTILE: HOSTILE, format!("a:{HOSTILE}"): A},
                HOSTILE: {format!("{HOSTILE}:1"): A, format!("{HOSTILE}@{D1}"): A},
            },
            HOSTILE: 1,
        });
        fs::write(images.join("repositories.json"), store.to_string()).unwrap();
        let mut options: Vec<OsString> = vec!["--offline".into(), "--data-root".into()];
        options.push(root.clone().into());
        Self {
            directory,
            root,
            options,
        }
    }

    fn file(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    /// Runs the program with the output for people, and with the output for programs.
    #[track_caller]
    fn run(&self, words: &[&OsStr]) -> String {
        let mut all = String::new();
        for more in [&[][..], &["-vv"], &["--json"], &["-q"]] {
            if !(words[0] == "export" && more != ["-vv"]) {
                all += &self.once(words, more);
            }
        }
        all
    }

    #[track_caller]
    fn once(&self, words: &[&OsStr], more: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_digestfix"))
            .args(words)
            .args(more)
            .args(&self.options)
            .env("SUDO_USER", HOSTILE)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        for stream in [output.stdout, output.stderr] {
            let text = String::from_utf8(stream).unwrap();
            for line in text.split('\n') {
                assert!(
                    line.chars().all(is_printable) && !line.starts_with(FORGED),
                    "{words:?} {more:?}: {line:?} in\n{text}"
                );
            }
            if text.starts_with('{') {
                serde_json::from_str::<serde_json::Value>(&text).unwrap();
            }
        }
        format!("{words:?} {more:?} {:?}\n", output.status.code())
    }
}

fn words<'a>(words: &[&'a str]) -> Vec<&'a OsStr> {
    words.iter().map(|word| OsStr::new(*word)).collect()
}

fn every_command(disk: &Disk) {
    let claim = format!("a:1@{D1}");
    for command in [
        &["status"][..],
        &["plan", &claim],
        &["verify", &claim],
        &["apply", &claim],
        &["export"],
        &["history"],
        &["doctor"],
        &["recover"],
        &["rollback"],
        &["rollback"],
        &["apply", "--remove", "a:1"],
    ] {
        disk.run(&words(command));
    }
}

#[test]
fn of_a_store_and_a_data_root() {
    let disk = Disk::with(OsStr::new(HOSTILE));
    every_command(&disk);
    assert!(disk.root.join("digestfix/history").is_dir());
}

/// A journal is JSON, which must be UTF-8. A lossy conversion makes a path that does not
/// exist.
#[test]
fn of_a_data_root_that_is_not_utf8() {
    let disk = Disk::with(OsStr::from_bytes(b"a\xff\n\xfe"));
    every_command(&disk);
    let told = disk.once(&words(&["status"]), &[]);
    assert!(told.ends_with("Some(2)\n"), "{told}");
}

#[test]
fn of_storage_drivers() {
    let disk = Disk::with(OsStr::new("root"));
    let other = disk.root.join("image").join(HOSTILE);
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("repositories.json"), "{}").unwrap();
    every_command(&disk);
    for driver in ["overlay2", HOSTILE, &format!("../{HOSTILE}")] {
        disk.run(&words(&["status", "--driver", driver]));
        disk.run(&words(&["plan", "--driver", driver, "a:2=a:1"]));
    }
}

#[test]
fn of_arguments() {
    let disk = Disk::with(OsStr::new("root"));
    let id = format!("20261124T113000Z-1{HOSTILE}");
    let typed = format!("a:1@{D1}{HOSTILE}");
    for command in [
        &[HOSTILE][..],
        &["status", HOSTILE],
        &["status", &format!("--{HOSTILE}")],
        &["status", "--color", HOSTILE],
        &["status", "--config-file", HOSTILE],
        &["status", "--containerd-root", HOSTILE],
        &["plan", HOSTILE],
        &["plan", &typed],
        &["plan", "a:1=a:1", "--require", HOSTILE],
        &["plan", "--from", HOSTILE],
        &["plan", "--from", HOSTILE, "--rewrite", HOSTILE],
        &["plan", "a:1=a:1", "--containers", HOSTILE],
        &["apply", "--remove", HOSTILE],
        &["apply", "a:1=a:1", "--wait", HOSTILE],
        &["apply", "a:1=a:1", "--keep-days", HOSTILE],
        &["apply", "a:1=a:1", "--metrics", HOSTILE],
        &["apply", "a:1=a:1", "--metrics", &format!("{HOSTILE}.prom")],
        &[
            "apply",
            "a:1=a:1",
            "--metrics",
            &format!("/no/{HOSTILE}.prom"),
        ],
        &["history", &id],
        &["rollback", &id],
        &["export", HOSTILE],
        &["export", "--format", HOSTILE],
        &["recover", "--wait", HOSTILE],
        &["watchdog", HOSTILE, HOSTILE],
    ] {
        disk.run(&words(command));
    }
    disk.run(&[OsStr::new("plan"), OsStr::from_bytes(b"a\xff\x1b\n")]);
    disk.run(&[
        OsStr::new("plan"),
        OsStr::new("--from"),
        OsStr::from_bytes(b"a\xff\x1b\n"),
    ]);
}

#[test]
fn of_sources_and_what_is_in_them() {
    let disk = Disk::with(OsStr::new("root"));
    let claims = |reference: &str, image: &str| {
        serde_json::json!({
            "digestfix_claims": 1,
            "claims": [{"reference": reference, "image_id": image}],
        })
        .to_string()
    };
    let list = format!("a:1@{D1}\na:1@{D2}\nb:1@{D2}\n");
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": HOSTILE, "config": {"digest": HOSTILE}, HOSTILE: 1,
    });
    for (number, content) in [
        claims(&format!("a@{D1}"), A),
        claims(&format!("a@{D1}{HOSTILE}"), A),
        claims(&format!("a@{D1}"), HOSTILE),
        claims(HOSTILE, A),
        format!("{{\"digestfix_claims\": 1, \"{D1}\": 1, \"\\u202e\\n\": 1}}"),
        list,
        format!("image: \"a:1@{D1}\\n{FORGED}\"\n"),
        format!("image: {HOSTILE}\n\t{HOSTILE}: [\n"),
        format!("FROM {HOSTILE}\nFROM a:1@{D1}\n"),
        manifest.to_string(),
        format!("{HOSTILE}{HOSTILE}"),
        format!("[{{\"Id\": \"{A}\", \"RepoDigests\": [\"a@{D1}\\n\\u202e\"]}}]"),
        format!("{{\"Repositories\": {{\"a\": {{\"a\\n\\u202e\": \"{A}\"}}}}}}"),
    ]
    .iter()
    .enumerate()
    {
        let file = disk.file(format!("sources-{number}/{HOSTILE}"), content);
        for path in [file.as_path(), file.parent().unwrap()] {
            for command in ["plan", "verify"] {
                disk.run(&[OsStr::new(command), OsStr::new("--from"), path.as_os_str()]);
            }
        }
    }
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in [
        ("oci-layout", "{\"imageLayoutVersion\": \"1.0.0\"}"),
        (HOSTILE, HOSTILE),
        (
            "index.json",
            "{\"manifests\": [{\"digest\": \"x\\n\\u202e\"}]}",
        ),
        (
            "manifest.json",
            "[{\"Config\": \"x\\n\\u202e\", \"RepoTags\": [\"\\n\\u202e\"]}]",
        ),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive
            .append_data(&mut header, name, content.as_bytes())
            .unwrap();
    }
    let archive = archive.into_inner().unwrap();
    let file = disk.file(HOSTILE, &archive);
    let cut = disk.file(format!("{HOSTILE}2"), &archive[..archive.len() / 3]);
    for file in [file, cut] {
        disk.run(&[OsStr::new("plan"), OsStr::new("--from"), file.as_os_str()]);
    }
}

#[test]
fn of_configuration_journals_and_records() {
    let disk = Disk::with(OsStr::new("root"));
    let key = serde_json::to_string(HOSTILE).unwrap();
    for content in [
        format!("{{\"data-root\": {key}}}"),
        format!("{{\"data-root\": \"/no/{}\"}}", &key[1..key.len() - 1]),
        format!("{{{key}: 1, {key}: 2}}"),
        format!("{{\"storage-driver\": {key}}}"),
        HOSTILE.to_owned(),
        format!("{{\"{HOSTILE}\": 1}}"),
    ] {
        let config = disk.file(HOSTILE, content);
        for command in ["status", "doctor"] {
            disk.run(&[
                OsStr::new(command),
                OsStr::new("--config-file"),
                config.as_os_str(),
            ]);
        }
    }
    disk.run(&words(&["apply", &format!("a:1@{D1}")]));
    let state = disk.root.join("digestfix");
    let records = fs::read_dir(state.join("history")).unwrap();
    let record = records
        .map(|record| record.unwrap().path())
        .find(|path| path.extension() == Some(OsStr::new("json")))
        .unwrap();
    let whole: serde_json::Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    let id = record.file_stem().unwrap().to_str().unwrap();
    // Any text in a record may have been written by another program.
    let mut texts = Vec::new();
    places(&whole, String::new(), &mut texts);
    assert!(texts.len() > 8, "{texts:?}");
    for place in texts {
        let mut hostile = whole.clone();
        *hostile.pointer_mut(&place).unwrap() = HOSTILE.into();
        fs::write(&record, hostile.to_string()).unwrap();
        for command in [
            &["history"][..],
            &["history", id],
            &["rollback", id, "--driver", "x"],
        ] {
            disk.once(&words(command), &[]);
        }
        disk.once(&words(&["doctor"]), &[]);
    }
    fs::write(&record, format!("{{{key}: {key}}}")).unwrap();
    for command in [
        &["history"][..],
        &["history", id],
        &["rollback"],
        &["doctor"],
    ] {
        disk.run(&words(command));
    }
    let grounds = serde_json::json!({
        "version": 1,
        "references": {
            format!("a@{D1}"): {"image_id": A, "trust": "asserted", "origin": HOSTILE},
            HOSTILE: {"image_id": A, "trust": "asserted", "origin": HOSTILE},
        },
    });
    fs::write(state.join("provenance-overlay2.json"), grounds.to_string()).unwrap();
    disk.run(&words(&["status"]));
    for journal in [
        format!("{{{key}: 1}}"),
        format!("{{\"digestfix_journal\": {key}}}"),
        HOSTILE.to_owned(),
    ] {
        fs::write(state.join("journal.json"), journal).unwrap();
        for command in ["status", "recover", "doctor"] {
            disk.run(&words(&[command]));
        }
        disk.run(&words(&["apply", &format!("a:1@{D2}")]));
    }
}

/// The JSON pointers to all texts in a value, as `pointer` accepts them.
fn places(value: &serde_json::Value, here: String, found: &mut Vec<String>) {
    match value {
        serde_json::Value::String(_) => found.push(here),
        serde_json::Value::Array(values) => {
            for (at, value) in values.iter().enumerate() {
                places(value, format!("{here}/{at}"), found);
            }
        }
        serde_json::Value::Object(values) => {
            for (key, value) in values {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(value, format!("{here}/{key}"), found);
            }
        }
        _ => {}
    }
}

/// Everything that is printed goes through `output`, which either receives single lines
/// or makes a text printable.
#[test]
fn nothing_is_printed_past_it() {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for child in fs::read_dir(directory).unwrap() {
            let path = child.unwrap().path();
            match path.is_dir() {
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&source, &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let file = file.strip_prefix(&source).unwrap().to_str().unwrap();
        for (sink, allowed) in [
            ("print!(", &[][..]),
            // cli.rs reports an argument that is not a claim before an `Output` exists, and
            // escapes the text itself.
            ("println!(", &["commands/event_loop.rs", "cli.rs"]),
            // An archive is not text, so it is not escaped.
            (
                "io::stdout()",
                &["report/output/process.rs", "report.rs", "commands/save.rs"],
            ),
            ("io::stderr()", &["report/output/process.rs", "report.rs"]),
            (".output.write(", &["report.rs"]),
            (
                ".deliver(",
                &[
                    "report/output.rs",
                    "commands/export.rs",
                    "commands/metadata.rs",
                    "report.rs",
                ],
            ),
            ("to_string_pretty(", &[]),
        ] {
            assert!(
                !text.contains(sink) || allowed.contains(&file),
                "{file} has {sink}: what it prints may be foreign"
            );
        }
    }
}
