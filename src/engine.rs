//! The Docker API: the edge to the running engine.
//!
//! Five requests are all that is needed, over HTTP on a Unix socket, each
//! read only as far as a handful of fields. The API's version is negotiated
//! as Docker's own client does it: `/_ping` names the newest that the engine
//! speaks (Docker Engine API, versions 1.41 to 1.51).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::digest::ImageId;
use crate::reference::Reference;

const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The engine could not be asked, or answered what it should not.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nobody listens.
    #[error("no engine answers at {socket}: {error}", socket = socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// An answer that is not one.
    #[error("the engine at {socket} gave no usable answer to {request}: {problem}", socket = socket.display())]
    Answer {
        /// The socket.
        socket: PathBuf,
        /// What was asked for.
        request: String,
        /// What is wrong with the answer.
        problem: String,
    },
}

/// What the engine says about itself (`GET /info`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// The directory that it keeps everything in.
    pub data_root: PathBuf,
    /// Its storage driver.
    pub driver: String,
    /// Images live in containerd, not in the data root.
    pub containerd_image_store: bool,
    /// Running containers survive its stop.
    pub live_restore: bool,
    /// Its version.
    pub version: String,
}

/// A running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its ID.
    pub id: String,
    /// Its name, or its ID where it has none.
    pub name: String,
}

/// The engine's own list of references, and the image each points at.
pub type References = BTreeMap<String, String>;

/// What a transaction needs of the engine, and no more.
#[allow(
    async_fn_in_trait,
    reason = "used by this crate alone, on a runtime of one thread"
)]
pub trait Engine {
    /// Asks whether it is there.
    async fn ping(&self) -> Result<(), EngineError>;
    /// What it says about itself.
    async fn info(&self) -> Result<Info, EngineError>;
    /// The running containers, paused ones included.
    async fn running_containers(&self) -> Result<Vec<Container>, EngineError>;
    /// The image that a reference leads to; none when the engine finds none.
    async fn image(&self, reference: &Reference) -> Result<Option<String>, EngineError>;
    /// Every tag and digest that the engine has.
    async fn references(&self) -> Result<References, EngineError>;
}

/// An engine behind a Unix socket.
#[derive(Debug, Clone)]
pub struct UnixEngine {
    socket: PathBuf,
    timeout: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InfoAnswer {
    docker_root_dir: PathBuf,
    driver: String,
    #[serde(default)]
    driver_status: Option<Vec<Vec<String>>>,
    #[serde(default)]
    live_restore_enabled: bool,
    #[serde(default)]
    server_version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerAnswer {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageAnswer {
    id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
}

impl UnixEngine {
    /// An engine at this socket; nothing is asked yet. Each request may take
    /// up to `timeout`.
    #[must_use]
    pub fn new(socket: &Path, timeout: Duration) -> Self {
        Self {
            socket: socket.to_owned(),
            timeout,
        }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn answer(&self, request: &str, problem: impl ToString) -> EngineError {
        EngineError::Answer {
            socket: self.socket.clone(),
            request: request.to_owned(),
            problem: problem.to_string(),
        }
    }

    /// Sends requests one after another on a connection of their own, each
    /// below the API version that the first one, a ping, negotiated.
    async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), EngineError> {
        match tokio::time::timeout(self.timeout, self.exchange(path)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.answer(
                path,
                format_args!("none within {} s", self.timeout.as_secs()),
            )),
        }
    }

    async fn exchange(&self, path: &str) -> Result<(StatusCode, Bytes), EngineError> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|error| EngineError::Unreachable {
                    socket: self.socket.clone(),
                    error,
                })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.answer(path, error))?;
        tokio::spawn(connection);
        let mut send = async |path: &str| {
            let request = Request::get(path)
                .header(HOST, "docker")
                .body(Empty::<Bytes>::new())
                .map_err(|error| self.answer(path, error))?;
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| self.answer(path, error))?;
            let status = response.status();
            let version = response
                .headers()
                .get("Api-Version")
                .and_then(|version| version.to_str().ok())
                .map(str::to_owned);
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
                .collect()
                .await
                .map_err(|error| self.answer(path, error))?
                .to_bytes();
            Ok((status, version, body))
        };
        let (status, version, body) = send("/_ping").await?;
        if path == "/_ping" || status != StatusCode::OK {
            return Ok((status, body));
        }
        let version = version.ok_or_else(|| self.answer("/_ping", "it names no API version"))?;
        let (status, _, body) = send(&format!("/v{version}{path}")).await?;
        Ok((status, body))
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, EngineError> {
        match self.get(path).await? {
            (StatusCode::OK, body) => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| self.answer(path, error)),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => Err(self.answer(
                path,
                format_args!("{status}: {}", String::from_utf8_lossy(&body).trim()),
            )),
        }
    }

    async fn require_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        self.get_json(path)
            .await?
            .ok_or_else(|| self.answer(path, StatusCode::NOT_FOUND))
    }
}

impl Engine for UnixEngine {
    async fn ping(&self) -> Result<(), EngineError> {
        match self.get("/_ping").await? {
            (StatusCode::OK, _) => Ok(()),
            (status, _) => Err(self.answer("/_ping", status)),
        }
    }

    async fn info(&self) -> Result<Info, EngineError> {
        let answer: InfoAnswer = self.require_json("/info").await?;
        let containerd_image_store = answer.driver_status.unwrap_or_default().iter().any(|pair| {
            pair.first().map(String::as_str) == Some("driver-type")
                && pair
                    .get(1)
                    .is_some_and(|kind| kind.starts_with("io.containerd.snapshotter."))
        });
        Ok(Info {
            data_root: answer.docker_root_dir,
            driver: answer.driver,
            containerd_image_store,
            live_restore: answer.live_restore_enabled,
            version: answer.server_version,
        })
    }

    async fn running_containers(&self) -> Result<Vec<Container>, EngineError> {
        let answer: Vec<ContainerAnswer> = self.require_json("/containers/json").await?;
        Ok(answer
            .into_iter()
            .map(|container| Container {
                name: container
                    .names
                    .unwrap_or_default()
                    .first()
                    .map_or_else(|| container.id.clone(), |name| name.replacen('/', "", 1)),
                id: container.id,
            })
            .collect())
    }

    async fn image(&self, reference: &Reference) -> Result<Option<String>, EngineError> {
        // Of the characters that a reference can have, the brackets of an
        // IPv6 registry are the only ones that a path cannot.
        let name = reference.familiar().replace('[', "%5B").replace(']', "%5D");
        let answer: Option<ImageAnswer> = self.get_json(&format!("/images/{name}/json")).await?;
        Ok(answer.map(|image| image.id))
    }

    async fn references(&self) -> Result<References, EngineError> {
        let answer: Vec<ImageAnswer> = self.require_json("/images/json").await?;
        Ok(answer
            .into_iter()
            .flat_map(|image| {
                let names = [image.repo_tags, image.repo_digests];
                names
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(move |name| (name, image.id.clone()))
            })
            .collect())
    }
}

/// References that the engine should have and does not, or has elsewhere.
#[must_use]
pub fn missing<'a>(
    references: &References,
    expected: impl IntoIterator<Item = &'a (Reference, ImageId)>,
) -> BTreeSet<String> {
    expected
        .into_iter()
        .filter(|(reference, image)| {
            references.get(&reference.familiar()) != Some(&image.to_string())
        })
        .map(|(reference, _)| reference.familiar())
        .collect()
}
