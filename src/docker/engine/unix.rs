//! The Docker API over HTTP on a Unix socket.
//!
//! The API version is negotiated as Docker's own client does: `/_ping` returns the newest
//! version that the engine supports.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::UnixStream;

use crate::docker::container::{Container, Inspection, RestartPolicy};
use crate::docker::engine::{Engine, EngineError, Info, References, Reloads};
use crate::image::digest::ImageId;
use crate::image::reference::Reference;

mod archives;
mod containerd;
mod images;
mod loading;

use images::{Kept, in_path};

const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The content type of every request whose body is not an archive.
const JSON: &str = "application/json";

/// The filter for events that report a reload of the configuration, percent-encoded:
/// `{"type":["daemon"],"event":["reload"]}`.
const RELOADS: &str = "%7B%22type%22%3A%5B%22daemon%22%5D%2C%22event%22%3A%5B%22reload%22%5D%7D";

/// The filter for containers that are not running, percent-encoded:
/// `{"status":["created","exited"]}`.
const DOWN: &str = "%7B%22status%22%3A%5B%22created%22%2C%22exited%22%5D%7D";

#[derive(Debug, Clone)]
pub struct UnixEngine {
    socket: PathBuf,
    timeout: Duration,
    kept: Kept,
    /// Whether a check has confirmed that this engine uses the containerd at the known
    /// address.
    has_containerd: Arc<AtomicBool>,
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
    #[serde(default)]
    swarm: SwarmAnswer,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct SwarmAnswer {
    local_node_state: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerAnswer {
    id: String,
    #[serde(default)]
    names: Option<Vec<String>>,
}

impl ContainerAnswer {
    /// The container's ID and name. Docker's list of names also contains link aliases,
    /// which begin with the name of another container.
    fn named(self) -> (String, String) {
        let names = self.names.unwrap_or_default();
        let own = names
            .iter()
            .filter_map(|name| name.strip_prefix('/'))
            .find(|name| !name.contains('/'));
        let name = own.unwrap_or(&self.id).to_owned();
        (self.id, name)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageAnswer {
    id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<ManifestAnswer>>,
}

/// One of an image's manifests, as the engine lists it. If the manifest is an
/// attestation, the engine's answer has additional fields.
#[derive(Deserialize)]
struct ManifestAnswer {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Available")]
    available: Option<bool>,
}

impl UnixEngine {
    /// The engine at this socket. This function does not connect to the engine yet.
    /// `timeout` is the limit for each request.
    pub fn new(socket: &Path, timeout: Duration) -> Self {
        Self {
            socket: socket.to_owned(),
            timeout,
            kept: Kept::default(),
            has_containerd: Arc::default(),
        }
    }

    fn answer(&self, request: &str, problem: impl ToString) -> EngineError {
        EngineError::Answer {
            socket: self.socket.clone(),
            request: request.to_owned(),
            problem: problem.to_string(),
        }
    }

    fn unanswered(&self, request: &str, problem: impl ToString) -> EngineError {
        EngineError::Unanswered {
            socket: self.socket.clone(),
            request: request.to_owned(),
            problem: problem.to_string(),
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, EngineError> {
        let stream =
            UnixStream::connect(&self.socket)
                .await
                .map_err(|error| EngineError::Unreachable {
                    socket: self.socket.clone(),
                    error,
                })?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.answer("a connection", error))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn send(
        &self,
        connection: &mut SendRequest<Full<Bytes>>,
        kind: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, EngineError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "docker")
            .header(CONTENT_TYPE, kind)
            .body(Full::new(body))
            .map_err(|error| self.answer(path, error))?;
        connection
            .send_request(request)
            .await
            .map_err(|error| self.unanswered(path, error))
    }

    async fn body(&self, path: &str, response: Response<Incoming>) -> Result<Bytes, EngineError> {
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let collected = body.collect().await;
        Ok(collected
            .map_err(|error| self.unanswered(path, error))?
            .to_bytes())
    }

    /// Opens a connection and pings the engine. Returns the connection, and the prefix
    /// for the path of each request. The prefix contains the API version.
    async fn negotiate(&self) -> Result<(SendRequest<Full<Bytes>>, String), EngineError> {
        const PING: &str = "/_ping";
        let mut connection = self.connect().await?;
        let response = self
            .send(&mut connection, JSON, Method::GET, PING, Bytes::new())
            .await?;
        let status = response.status();
        let version = response
            .headers()
            .get("Api-Version")
            .and_then(|version| version.to_str().ok())
            .map(|version| format!("/v{version}"));
        self.body(PING, response).await?;
        match (status, version) {
            (StatusCode::OK, Some(version)) => Ok((connection, version)),
            (StatusCode::OK, None) => Err(self.answer(PING, "the answer names no API version")),
            (status, _) => Err(self.answer(PING, status)),
        }
    }

    async fn within<T>(
        &self,
        path: &str,
        exchange: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.unanswered(
                path,
                format_args!("no answer within {} s", self.timeout.as_secs()),
            )),
        }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), EngineError> {
        self.request_as(JSON, method, path, body).await
    }

    async fn request_as(
        &self,
        kind: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), EngineError> {
        let exchange = async {
            let (mut connection, version) = self.negotiate().await?;
            let whole = format!("{version}{path}");
            let response = self
                .send(&mut connection, kind, method, &whole, body)
                .await?;
            Ok((response.status(), self.body(path, response).await?))
        };
        self.within(path, exchange).await
    }

    fn refused(&self, path: &str, status: StatusCode, body: &[u8]) -> EngineError {
        self.answer(
            path,
            format_args!("{status}: {}", String::from_utf8_lossy(body).trim()),
        )
    }

    async fn containers(&self, path: &str) -> Result<Vec<Container>, EngineError> {
        let listed: Vec<ContainerAnswer> = self.require_json(path).await?;
        let mut containers = Vec::with_capacity(listed.len());
        for ContainerAnswer { id, .. } in listed {
            // Leave out a container that the engine is removing at this moment.
            containers.extend(self.container(&id).await?);
        }
        Ok(containers)
    }

    async fn post(&self, path: &str) -> Result<(), EngineError> {
        self.post_body(path, Bytes::new()).await
    }

    /// Sends a command. `NOT_MODIFIED` means that the engine had nothing to do.
    async fn post_body(&self, path: &str, body: Bytes) -> Result<(), EngineError> {
        match self.request(Method::POST, path, body).await? {
            (StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::NOT_MODIFIED, _) => Ok(()),
            (status, body) => Err(self.refused(path, status, &body)),
        }
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, EngineError> {
        match self.request(Method::GET, path, Bytes::new()).await? {
            (StatusCode::OK, body) => serde_json::from_slice(&body)
                .map(Some)
                .map_err(|error| self.answer(path, error)),
            (StatusCode::NOT_FOUND, _) => Ok(None),
            (status, body) => Err(self.refused(path, status, &body)),
        }
    }

    async fn require_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        self.get_json(path)
            .await?
            .ok_or_else(|| self.answer(path, StatusCode::NOT_FOUND))
    }
}

pub struct ReloadEvents {
    engine: UnixEngine,
    events: Incoming,
}

impl Reloads for ReloadEvents {
    async fn next(&mut self) -> Result<(), EngineError> {
        match self.events.frame().await {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) => Err(self.engine.answer("/events", error)),
            None => Err(self.engine.answer("/events", "the stream ended")),
        }
    }
}

impl Engine for UnixEngine {
    type Reloads = ReloadEvents;

    async fn ping(&self) -> Result<(), EngineError> {
        self.within("/_ping", self.negotiate()).await.map(|_| ())
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
            // The possible states of a swarm node are `inactive`, `pending`, `active`,
            // `error` and `locked`.
            swarm: !matches!(answer.swarm.local_node_state.as_str(), "" | "inactive"),
            version: answer.server_version,
        })
    }

    async fn running_containers(&self) -> Result<Vec<Container>, EngineError> {
        self.containers("/containers/json").await
    }

    async fn listed_containers(&self) -> Result<BTreeMap<String, String>, EngineError> {
        let listed: Vec<ContainerAnswer> = self.require_json("/containers/json?all=1").await?;
        Ok(listed.into_iter().map(ContainerAnswer::named).collect())
    }

    async fn running_ids(&self) -> Result<BTreeSet<String>, EngineError> {
        let running: Vec<ContainerAnswer> = self.require_json("/containers/json").await?;
        Ok(running.into_iter().map(|container| container.id).collect())
    }

    async fn down_containers(&self) -> Result<Vec<Container>, EngineError> {
        self.containers(&format!("/containers/json?all=1&filters={DOWN}"))
            .await
    }

    async fn container(&self, id: &str) -> Result<Option<Container>, EngineError> {
        let answer: Option<Inspection> = self.get_json(&format!("/containers/{id}/json")).await?;
        Ok(answer.map(Container::from))
    }

    async fn start_container(&self, id: &str) -> Result<(), EngineError> {
        self.post(&format!("/containers/{id}/start")).await
    }

    async fn pause_container(&self, id: &str) -> Result<(), EngineError> {
        self.post(&format!("/containers/{id}/pause")).await
    }

    async fn unpause_container(&self, id: &str) -> Result<(), EngineError> {
        self.post(&format!("/containers/{id}/unpause")).await
    }

    async fn set_restart_policy(
        &self,
        id: &str,
        policy: RestartPolicy,
        max_retries: u32,
    ) -> Result<(), EngineError> {
        let body = json!({
            "RestartPolicy": {"Name": policy.word(), "MaximumRetryCount": max_retries}
        });
        let path = format!("/containers/{id}/update");
        self.post_body(&path, body.to_string().into()).await
    }

    async fn watch_reloads(&self) -> Result<ReloadEvents, EngineError> {
        // dockerd answers this request before it subscribes to its own events (moby
        // `api/server/router/system`, `getEvents`). With the parameter `since`, dockerd
        // also sends the events that happened in between.
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let path = format!(
            "/events?since={}.{:09}&filters={RELOADS}",
            since.as_secs(),
            since.subsec_nanos()
        );
        let exchange = async {
            let (mut connection, version) = self.negotiate().await?;
            let whole = format!("{version}{path}");
            let response = self
                .send(&mut connection, JSON, Method::GET, &whole, Bytes::new())
                .await?;
            match response.status() {
                StatusCode::OK => Ok(response.into_body()),
                status => Err(self.answer("/events", status)),
            }
        };
        Ok(ReloadEvents {
            engine: self.clone(),
            events: self.within("/events", exchange).await?,
        })
    }

    async fn image(&self, reference: &Reference) -> Result<Option<String>, EngineError> {
        let path = format!("/images/{}/json", in_path(reference));
        let answer: Option<ImageAnswer> = self.get_json(&path).await?;
        Ok(answer.map(|image| image.id))
    }

    async fn has_image(&self, id: &ImageId) -> Result<bool, EngineError> {
        let answer: Option<ImageAnswer> = self.get_json(&format!("/images/{id}/json")).await?;
        Ok(answer.is_some())
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
