//! Reads and changes references through the Docker API.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use super::containerd::{self, Records};
use super::{ImageAnswer, JSON, ManifestAnswer, UnixEngine};
use crate::docker::engine::EngineError;
use crate::docker::engine::images::{Dropped, Images, Listed, Listing, Made, Resolved};
use crate::image::digest::Digest;
use crate::image::platform::Platform;
use crate::image::reference::Reference;

/// A connection with a negotiated API version, and the prefix for the path of each
/// request. The connection carries several requests, one after another. Only requests
/// about images use the connection, because a stopping engine waits until all connections
/// are closed.
pub(super) type Kept = Arc<Mutex<Option<(SendRequest<Full<Bytes>>, String)>>>;

/// The prefix of Docker's name for an image without a name (moby
/// `daemon/containerd/image_delete.go`, `danglingImageName`).
const DANGLING: &str = "moby-dangling@";

pub(super) const LOAD: &str = "/images/load?quiet=1";

/// The text in the engine's message about a loaded image that cannot run. The engine puts
/// this message into the answer to a successful load (moby 28.5,
/// `daemon/containerd/image_exporter.go`).
const NOT_UNPACKED: &str = "Error unpacking";

/// A message in the answer to a load.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    error: Option<String>,
}

/// A reference or image that a deletion removed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Gone {
    #[serde(default)]
    untagged: Option<String>,
    #[serde(default)]
    deleted: Option<String>,
}

/// The config that an engine shows for an image. Docker 28 shows no layers if layer blobs
/// are missing.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigAnswer {
    #[serde(default, rename = "RootFS")]
    root_fs: Option<RootFsAnswer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFsAnswer {
    #[serde(default)]
    layers: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HistoryAnswer {
    created_by: String,
    #[serde(default)]
    comment: String,
}

#[derive(Deserialize)]
struct Told {
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersionAnswer {
    os: String,
    arch: String,
}

/// The number of images of an engine, and the address of its containerd.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CountAnswer {
    images: usize,
    #[serde(default)]
    containerd: Option<ContainerdAnswer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerdAnswer {
    address: PathBuf,
    namespaces: NamespacesAnswer,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct NamespacesAnswer {
    containers: String,
}

impl CountAnswer {
    /// Whether the engine reports as many images as containerd has. Docker before version
    /// 29 counts names. Docker 29 counts manifests and indexes.
    fn counts(&self, records: &Records) -> bool {
        let targets: BTreeSet<&Digest> = records.images.values().collect();
        self.images == records.images.len() || self.images == targets.len()
    }
}

impl From<ImageAnswer> for Listed {
    fn from(answer: ImageAnswer) -> Self {
        Self {
            id: answer.id,
            tags: answer.repo_tags.unwrap_or_default(),
            digests: answer.repo_digests.unwrap_or_default(),
            architecture: answer.architecture,
            unavailable: unavailable(answer.manifests.unwrap_or_default()),
        }
    }
}

fn unavailable(manifests: Vec<ManifestAnswer>) -> Vec<Digest> {
    let missing = manifests
        .into_iter()
        .filter(|one| one.available == Some(false));
    missing.filter_map(|one| one.id.parse().ok()).collect()
}

impl From<HistoryAnswer> for Made {
    fn from(answer: HistoryAnswer) -> Self {
        Self {
            by: answer.created_by,
            comment: answer.comment,
        }
    }
}

/// The error message in the answer to a load. `None` if the load succeeded.
pub(super) fn failed(answer: &[u8]) -> Option<String> {
    for message in serde_json::Deserializer::from_slice(answer).into_iter() {
        match message {
            Ok(Message {
                error: Some(error), ..
            }) => return Some(error),
            Ok(Message { stream, .. }) if stream.trim_start().starts_with(NOT_UNPACKED) => {
                return Some(stream.trim().to_owned());
            }
            Ok(_) => {}
            Err(error) => return Some(error.to_string()),
        }
    }
    None
}

/// The names or IDs of the loaded images in the answer to a load.
pub(super) fn loaded(answer: &[u8]) -> Vec<String> {
    let messages = serde_json::Deserializer::from_slice(answer).into_iter::<Message>();
    let mut names = Vec::new();
    for message in messages.flatten() {
        let lines = message.stream.lines();
        let found = lines.filter_map(|line| {
            let rest = line.strip_prefix("Loaded image")?;
            Some(
                rest.trim_start_matches(" ID")
                    .strip_prefix(": ")?
                    .to_owned(),
            )
        });
        names.extend(found);
    }
    names
}

impl UnixEngine {
    /// Sends a request on the connection that is kept open. If no connection is open, this
    /// function opens one.
    async fn request_kept(
        &self,
        method: Method,
        path: &str,
    ) -> Result<(StatusCode, Bytes), EngineError> {
        let exchange = async {
            let mut kept = self.kept.lock().await;
            let usable = match kept.take() {
                Some((mut connection, version)) => {
                    let is_ready = connection.ready().await.is_ok();
                    is_ready.then_some((connection, version))
                }
                None => None,
            };
            let (mut connection, version) = match usable {
                Some(usable) => usable,
                None => self.negotiate().await?,
            };
            let whole = format!("{version}{path}");
            let response = self
                .send(&mut connection, JSON, method, &whole, Bytes::new())
                .await?;
            let answer = (response.status(), self.body(path, response).await?);
            *kept = Some((connection, version));
            Ok(answer)
        };
        self.within(path, exchange).await
    }

    async fn look_up<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, EngineError> {
        match self.request_kept(Method::GET, path).await? {
            (StatusCode::OK, body) => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| self.answer(path, error)),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => Err(self.refused(path, status, &body)),
        }
    }

    /// The records in this engine's containerd. `None` if containerd does not answer, or
    /// if this containerd may belong to another engine.
    async fn by_containerd(&self) -> Result<Option<Listing>, EngineError> {
        const INFO: &str = "/info";
        let Some(told) = self.look_up::<CountAnswer>(INFO).await? else {
            return Ok(None);
        };
        // Since 27.0, the engine reports the address of its containerd.
        let places: Vec<(&Path, &str)> = match &told.containerd {
            Some(told) => vec![(&told.address, &told.namespaces.containers)],
            None => {
                let sockets = containerd::SOCKETS.map(Path::new);
                sockets.map(|one| (one, containerd::NAMESPACE)).into()
            }
        };
        for (socket, namespace) in places {
            let records = containerd::records(socket, namespace, self.timeout).await;
            let Some(records) = records.filter(|records| told.counts(records)) else {
                continue;
            };
            let images = named(&records);
            let is_known = self.has_containerd.load(Ordering::Relaxed);
            if is_known || self.has_some_of(&images, &records).await? {
                self.has_containerd.store(true, Ordering::Relaxed);
                return Ok(Some(Listing::by_containerd(images, records.blobs)));
            }
        }
        Ok(None)
    }

    /// Whether the engine finds at least one of these images, and each image that the
    /// engine finds has the expected ID. Checks only a sample of the images.
    async fn has_some_of(&self, images: &[Listed], records: &Records) -> Result<bool, EngineError> {
        const ASKED_FOR: usize = 3;
        let is_whole = |one: &&Listed| {
            one.target()
                .is_some_and(|target| records.blobs.contains(&target))
        };
        let named = images.iter().filter(is_whole);
        let named: Vec<(Reference, &Listed)> = named
            .filter_map(|one| Some((one.references().next()?, one)))
            .collect();
        let mut any = false;
        for (reference, one) in named.iter().step_by(named.len().div_ceil(ASKED_FOR).max(1)) {
            match self.find(reference).await? {
                Some(found) if found.id != one.id => return Ok(false),
                found => any |= found.is_some(),
            }
        }
        Ok(any)
    }
}

impl Images for UnixEngine {
    async fn listed(&self) -> Result<Listing, EngineError> {
        const LIST: &str = "/images/json?manifests=1";
        if let Some(listing) = self.by_containerd().await? {
            return Ok(listing);
        }
        let answer: Option<Vec<ImageAnswer>> = self.look_up(LIST).await?;
        let answer = answer.ok_or_else(|| self.answer(LIST, StatusCode::NOT_FOUND))?;
        let images = answer.into_iter().map(Listed::from).collect();
        let kept = self.kept.lock().await;
        let version = kept.as_ref().map(|(_, version)| version.as_str());
        Ok(Listing::new(images, version.is_some_and(lists_everything)))
    }

    async fn find(&self, reference: &Reference) -> Result<Option<Listed>, EngineError> {
        let path = format!("/images/{}/json", in_path(reference));
        let answer: Option<ImageAnswer> = self.look_up(&path).await?;
        Ok(answer.map(Listed::from))
    }

    /// Some engines do not show the history of an image that is for another platform or
    /// was never unpacked (moby 26.1, `daemon/containerd/image_history.go`).
    async fn resolved(&self, reference: &Reference) -> Result<Resolved, EngineError> {
        let path = format!("/images/{}/json", in_path(reference));
        let shown: Option<ConfigAnswer> = self.look_up(&path).await?;
        let path = format!("/images/{}/history", in_path(reference));
        let history = match self.request_kept(Method::GET, &path).await? {
            (StatusCode::OK, body) => {
                let made = serde_json::from_slice(&body);
                let made: Option<Vec<HistoryAnswer>> =
                    made.map_err(|error| self.answer(&path, error))?;
                let made = made.unwrap_or_default().into_iter().rev();
                Some(made.map(Made::from).collect())
            }
            _ => None,
        };
        Ok(Resolved {
            layers: shown.and_then(|shown| shown.root_fs?.layers),
            history,
        })
    }

    async fn load(&self, archive: Vec<u8>) -> Result<(), EngineError> {
        let request = self.request_as(
            "application/x-tar",
            Method::POST,
            LOAD,
            Bytes::from(archive),
        );
        match request.await? {
            (StatusCode::OK, answer) => match failed(&answer) {
                None => Ok(()),
                Some(problem) => Err(self.answer(LOAD, problem)),
            },
            (status, answer) => Err(self.refused(LOAD, status, &answer)),
        }
    }

    async fn untag(&self, reference: &Reference) -> Result<Dropped, EngineError> {
        // Without noprune, the engine would also delete the parents of the image.
        let path = format!("/images/{}?noprune=1", in_path(reference));
        match self.request_kept(Method::DELETE, &path).await? {
            (StatusCode::OK, answer) => {
                let gone = serde_json::from_slice(&answer);
                let gone: Vec<Gone> = gone.map_err(|error| self.answer(&path, error))?;
                Ok(dropped(reference, gone))
            }
            (StatusCode::NOT_FOUND, _) => Ok(Dropped::Alone),
            (StatusCode::CONFLICT, answer) => Ok(Dropped::InUse(told(&answer))),
            (status, answer) => Err(self.refused(&path, status, &answer)),
        }
    }

    async fn platform(&self) -> Result<Platform, EngineError> {
        const VERSION: &str = "/version";
        let answer: Option<VersionAnswer> = self.look_up(VERSION).await?;
        let answer = answer.ok_or_else(|| self.answer(VERSION, StatusCode::NOT_FOUND))?;
        Ok(Platform::new(&answer.os, &answer.arch, ""))
    }
}

/// Groups containerd's names by image, as the engine's own list does. Each manifest or
/// index is one image.
fn named(records: &Records) -> Vec<Listed> {
    let mut images: BTreeMap<&Digest, Listed> = BTreeMap::new();
    for (name, target) in &records.images {
        let is_nameless = name.starts_with(DANGLING);
        if is_nameless && records.parents.contains(&target.to_string()) {
            continue;
        }
        let listed = images.entry(target).or_insert_with(|| Listed {
            id: target.to_string(),
            ..Listed::default()
        });
        if let Some(name) = Reference::parse(name).ok().filter(|_| !is_nameless) {
            let digest = name.repository().clone().with_digest(target.clone());
            listed.tags.push(name.familiar());
            listed.digests.push(digest.familiar());
        }
    }
    images.into_values().collect()
}

/// Whether an engine with this API version lists every reference, even if parts of an
/// image are missing. True since Docker 27.2 (moby `daemon/containerd/image_list.go`,
/// `imageSummary`).
fn lists_everything(version: &str) -> bool {
    const FIRST: (u32, u32) = (1, 47);
    let numbers = version.trim_start_matches("/v").split_once('.');
    let numbers =
        numbers.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    numbers.is_some_and(|numbers: (u32, u32)| numbers >= FIRST)
}

/// The references and images that a deletion removed besides the reference. With the
/// containerd image store, a manifest or index counts as an image, and is removed with
/// its last reference (seen on 26.1 and 28.5).
fn dropped(reference: &Reference, gone: Vec<Gone>) -> Dropped {
    let is_other_name = |name: &String| Reference::parse(name).as_ref() != Ok(reference);
    let is_other_manifest = |id: &String| {
        let id: Option<Digest> = id.parse().ok();
        id.is_none() || id.as_ref() != reference.digest()
    };
    let along = gone.into_iter().flat_map(|Gone { untagged, deleted }| {
        let name = untagged.filter(is_other_name);
        name.into_iter().chain(deleted.filter(is_other_manifest))
    });
    let along: Vec<String> = along.collect();
    match along.is_empty() {
        true => Dropped::Alone,
        false => Dropped::Along(along),
    }
}

/// The error message in an answer of the engine.
pub(super) fn told(answer: &[u8]) -> String {
    match serde_json::from_slice(answer) {
        Ok(Told { message }) => message,
        Err(_) => String::from_utf8_lossy(answer).trim().to_owned(),
    }
}

/// Escapes the brackets in the name of an IPv6 registry. All other characters of a
/// reference may appear in a path as they are.
pub(super) fn in_path(reference: &Reference) -> String {
    escaped(&reference.familiar())
}

pub(super) fn escaped(name: &str) -> String {
    name.replace('[', "%5B").replace(']', "%5D")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;

    /// Answers up to `requests` requests on each connection, and counts the connections.
    fn serve(listener: &UnixListener, requests: usize, connections: &AtomicUsize) {
        for stream in listener.incoming() {
            connections.fetch_add(1, Ordering::SeqCst);
            let mut stream = BufReader::new(stream.unwrap());
            for _ in 0..requests {
                let mut asked = String::new();
                while !asked.ends_with("\r\n\r\n") && stream.read_line(&mut asked).unwrap() > 0 {}
                let status = match asked.starts_with("GET /_ping ") {
                    true => "200 OK\r\nApi-Version: 1.41",
                    false => "404 Not Found",
                };
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                // Ignore the error: the client closes the connection after its last
                // request.
                let _ = stream.get_mut().write_all(answer.as_bytes());
            }
        }
    }

    #[test]
    fn a_connection_serves_until_it_is_closed() {
        for (requests, expected) in [(7, 1), (3, 3)] {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("docker.sock");
            let listener = UnixListener::bind(&socket).unwrap();
            let connections = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&connections);
            std::thread::spawn(move || serve(&listener, requests, &counted));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let engine = UnixEngine::new(&socket, Duration::from_secs(5));
                let reference = Reference::parse("lab/app:v1").unwrap();
                for _ in 0..6 {
                    assert_eq!(engine.find(&reference).await.unwrap(), None);
                    // Give the client time to notice that the server has closed the
                    // connection.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            assert_eq!(connections.load(Ordering::SeqCst), expected);
        }
    }

    /// `named` lists images in the form of Docker 28.5's own list. Both lists omit images
    /// that the classic builder left behind.
    #[test]
    fn containerds_names_are_the_engines() {
        let [app, other, parent, nameless] = ["a", "b", "c", "d"].map(|digit| {
            let digest: Digest = format!("sha256:{}", digit.repeat(64)).parse().unwrap();
            digest
        });
        let mut records = Records::default();
        for (name, target) in [
            ("docker.io/library/app:v1".to_owned(), &app),
            ("localhost:5000/app:v1".to_owned(), &app),
            (format!("{DANGLING}{app}"), &app),
            (format!("docker.io/lab/other@{other}"), &other),
            (format!("{DANGLING}{parent}"), &parent),
            (format!("{DANGLING}{nameless}"), &nameless),
        ] {
            records.images.insert(name, target.clone());
        }
        records.parents.insert(parent.to_string());
        let listed = named(&records);
        let names: Vec<(&str, String)> = listed
            .iter()
            .map(|one| {
                (
                    one.id.as_str(),
                    [&one.tags[..], &one.digests[..]].concat().join(" "),
                )
            })
            .collect();
        assert_eq!(
            names,
            [
                (
                    app.to_string().as_str(),
                    format!("app:v1 localhost:5000/app:v1 app@{app} localhost:5000/app@{app}")
                ),
                (
                    other.to_string().as_str(),
                    format!("lab/other@{other} lab/other@{other}")
                ),
                (nameless.to_string().as_str(), String::new()),
            ]
        );
        let count = |images| CountAnswer {
            images,
            containerd: None,
        };
        for (images, expected) in [(6, true), (4, true), (5, false)] {
            assert_eq!(count(images).counts(&records), expected, "{images}");
        }
    }

    /// The API versions of Docker 26.1, 27.1, 27.2, 28.5 and 29.7.
    #[test]
    fn an_engine_that_lists_everything_is_known_by_its_version() {
        for (version, expected) in [
            ("/v1.45", false),
            ("/v1.46", false),
            ("/v1.47", true),
            ("/v1.51", true),
            ("/v1.55", true),
            ("/v2.0", true),
            ("", false),
        ] {
            assert_eq!(lists_everything(version), expected, "{version}");
        }
    }

    /// The answers to a deletion, as Docker 26.1 and 28.5 send them.
    #[test]
    fn what_goes_along_with_a_reference_is_told() {
        let [own, other] =
            ['a', 'b'].map(|digit| format!("sha256:{}", digit.to_string().repeat(64)));
        let reference = Reference::parse(&format!("lab/app@{own}")).unwrap();
        let alone = format!(r#"[{{"Untagged":"lab/app@{own}"}},{{"Deleted":"{own}"}}]"#);
        let of = |answer: &str| dropped(&reference, serde_json::from_str(answer).unwrap());
        assert_eq!(of(&alone), Dropped::Alone);
        assert_eq!(of("[]"), Dropped::Alone);
        for more in [
            r#"{"Untagged":"lab/app:v1"}"#.to_owned(),
            format!(r#"{{"Deleted":"{other}"}}"#),
            r#"{"Deleted":"what is this"}"#.to_owned(),
        ] {
            let answer = alone.replace(']', &format!(",{more}]"));
            assert!(
                matches!(of(&answer), Dropped::Along(along) if along.len() == 1),
                "{answer}"
            );
        }
        assert_eq!(
            told(br#"{"message":"conflict: in use"}"#),
            "conflict: in use"
        );
        assert_eq!(told(b"busy\n"), "busy");
    }

    #[test]
    fn a_load_that_failed_says_so_in_one_of_three_ways() {
        let loaded = "{\"stream\":\"Loaded image: lab/app:v1\\n\"}\n";
        assert_eq!(failed(loaded.as_bytes()), None);
        assert_eq!(failed(b""), None);
        for (more, word) in [
            (
                r#"{"errorDetail":{"message":"unexpected EOF"},"error":"unexpected EOF"}"#,
                "EOF",
            ),
            (
                r#"{"stream":"Error unpacking image lab/app:v1: layer gone\n"}"#,
                "layer gone",
            ),
            ("{", "EOF"),
        ] {
            let problem = failed(format!("{loaded}{more}").as_bytes());
            assert!(
                problem.as_ref().is_some_and(|text| text.contains(word)),
                "{more}: {problem:?}"
            );
        }
    }
}
