//! Test double of Docker 29.7.2: serves recorded answers (`tests/fixtures/docker29`) on a
//! Unix socket. In the answers, the digests and the ID of the config are replaced,
//! because the tests do not have the blobs of the recorded host.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::images::Images;
use super::{Engine, UnixEngine};
use crate::image::digest::Digest;
use crate::plan::status::{State, rows};
use crate::plan::{Plan, Request};
use crate::store::containerd::ContainerdStore;
use crate::testing::images::{FakeImages, reference, served};

const NAME: &str = "localhost:5000/tools/app";
/// Two digests in the recorded answers. Docker generated the manifest with the first
/// digest, and the registry serves the manifest with the second digest.
const LOADED: &str = "01188b28a4c4999975bd21c8a855388847db4bc849251871123887eb89e8dd87";
const PINNED: &str = "801bebe934926615f1dece6e1375e642856a0609614016dc4bcbac1cbcf0d334";

struct Docker29 {
    directory: TempDir,
    engine: UnixEngine,
}

impl Docker29 {
    /// Serves the recorded answer for each path.
    fn serve(answers: &[(&str, &str)], digests: &[(&str, String)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/docker29");
        let mut table: Vec<(String, String)> = Vec::new();
        for (path, fixture) in answers {
            let text = std::fs::read_to_string(fixtures.join(fixture)).unwrap();
            let with = |text: String, (from, to): &(&str, String)| text.replace(from, to);
            let path = digests.iter().fold((*path).to_owned(), with);
            table.push((path, digests.iter().fold(text, with)));
        }
        thread::spawn(move || {
            for stream in listener.incoming() {
                let table = table.clone();
                thread::spawn(move || answer(stream.unwrap(), &table));
            }
        });
        let engine = UnixEngine::new(&socket, Duration::from_secs(5));
        Self { directory, engine }
    }
}

fn answer(stream: UnixStream, table: &[(String, String)]) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut asked = String::new();
        while !asked.ends_with("\r\n\r\n") {
            if stream.read_line(&mut asked).unwrap_or(0) == 0 {
                return;
            }
        }
        let path = asked.split(' ').nth(1).unwrap_or_default();
        let path = path.strip_prefix("/v1.55").unwrap_or(path);
        let (status, body) = match table.iter().find(|(known, _)| known == path) {
            _ if path == "/_ping" => ("200 OK\r\nApi-Version: 1.55", ""),
            Some((_, body)) => ("200 OK", body.as_str()),
            None => ("404 Not Found", r#"{"message":"No such image"}"#),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if write!(stream.get_mut(), "{head}{body}").is_err() {
            return;
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn it_says_which_image_store_it_has() {
    for (fixture, in_containerd) in [("info-classic.json", false), ("info-containerd.json", true)] {
        let docker = Docker29::serve(&[("/info", fixture)], &[]);
        let info = block_on(docker.engine.info()).unwrap();
        assert_eq!(info.version, "29.7.2");
        assert_eq!(info.containerd_image_store, in_containerd, "{fixture}");
        assert!(docker.directory.path().exists());
    }
}

/// Docker 29 lists an image by its name even if layers are missing, and `inspect` shows
/// the whole config. Only the field `Available` and the content store show that layers
/// are missing.
#[test]
fn a_repaired_image_is_there_and_runs_only() {
    let blobs = FakeImages::new();
    let image = blobs.config("app", "amd64");
    let loaded = blobs.loaded(&format!("{NAME}:1.0"), &image);
    let pinned = blobs.blob(&served(&image));
    let digests = [
        (LOADED, loaded.hex().to_owned()),
        (PINNED, pinned.hex().to_owned()),
    ];
    let name = reference(&format!("{NAME}@{pinned}"));
    let inspect = format!("/images/{NAME}@sha256:{PINNED}/json");
    let answers = [
        ("/version", "version.json"),
        ("/info", "info-containerd.json"),
        ("/images/json?manifests=1", "images-repaired.json"),
        (inspect.as_str(), "inspect-repaired.json"),
    ];
    let docker = Docker29::serve(&answers, &digests);
    for is_of_another in [false, true] {
        if is_of_another {
            blobs.blob(&image.to_string());
        }
        let here = block_on(ContainerdStore::read(&docker.engine, blobs.content())).unwrap();
        assert!(here.is_hollow(&name), "{is_of_another}");
        assert!(!here.is_hollow(&reference(&format!("{NAME}:1.0"))));
        let rows = rows(&here.store, &here.images, |_, _| None);
        let states: Vec<State> = rows.iter().map(|row| row.state).collect();
        assert_eq!(states, [State::Ok], "the status must ignore missing layers");
    }
    let found = block_on(docker.engine.find(&name)).unwrap().unwrap();
    assert_eq!(found.target(), Some(pinned.clone()));
    assert!(!found.is_hollow(), "inspect does not tell");
    assert_eq!(found.tag_beside(&name), None);
    let nowhere = reference(&format!("lab/other@{pinned}"));
    assert_eq!(block_on(docker.engine.find(&nowhere)).unwrap(), None);
}

/// After `docker load` of a classic archive, Docker 29 shows a generated digest.
#[test]
fn the_digest_of_a_loaded_image_is_not_a_registrys() {
    let blobs = FakeImages::new();
    let image = blobs.config("app", "amd64");
    let loaded = blobs.loaded(&format!("{NAME}:1.0"), &image);
    let digests = [(LOADED, loaded.hex().to_owned())];
    let answers = [
        ("/version", "version.json"),
        (
            "/images/json?manifests=1",
            "images-loaded-classic-archive.json",
        ),
    ];
    let docker = Docker29::serve(&answers, &digests);
    let here = block_on(ContainerdStore::read(&docker.engine, blobs.content())).unwrap();
    let shown: Digest = loaded;
    assert!(here.is_made_up(&reference(&format!("{NAME}@{shown}"))));
    let claim = format!("{NAME}:1.0@sha256:{}", "c".repeat(64));
    let request = Request {
        claims: vec![claim.parse().unwrap()],
        ..Request::default()
    };
    let plan = Plan::new(&here.store, &here.images, &request);
    assert!(plan.is_ok(), "the plan must not need --replace: {plan:?}");
}
