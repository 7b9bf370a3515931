//! The Docker API: the boundary to the running engine.
//!
//! digestfix sends a few different requests, and reads only a few fields of each answer
//! (Docker Engine API, versions 1.41 to 1.51).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::docker::container::{Container, RestartPolicy};
use crate::image::digest::ImageId;
use crate::image::reference::Reference;

pub mod archives;
pub mod images;
mod unix;

pub use unix::UnixEngine;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("no engine answers at {socket}: {error}", socket = socket.display())]
    Unreachable {
        socket: PathBuf,
        error: std::io::Error,
    },
    #[error("the engine at {socket} gave no usable answer to {request}: {problem}", socket = socket.display())]
    Answer {
        socket: PathBuf,
        request: String,
        problem: String,
    },
    /// The answer is missing or incomplete. The engine may still execute the request.
    #[error("the engine at {socket} did not answer {request}: {problem}", socket = socket.display())]
    Unanswered {
        socket: PathBuf,
        request: String,
        problem: String,
    },
}

impl EngineError {
    /// Whether another attempt may succeed, because the engine may be starting or may
    /// still execute the request.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unanswered { .. })
    }
}

/// The engine's information about itself (`GET /info`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    pub data_root: PathBuf,
    pub driver: String,
    /// Whether the engine keeps images in containerd instead of the data root.
    pub containerd_image_store: bool,
    /// Whether running containers keep running while the engine is stopped.
    pub live_restore: bool,
    /// Whether the host is part of a swarm, or is joining one.
    pub swarm: bool,
    pub version: String,
}

impl Info {
    /// Whether a container with `--rm` survives a restart of Docker with live-restore. At
    /// its start, dockerd before 24.0.8 removes such a container, although the container
    /// is running (moby issue 46308, `daemon/daemon.go`, `restore`).
    pub fn keeps_auto_removed(&self) -> bool {
        self.is_at_least([24, 0, 8])
    }

    /// Whether health checks resume in a container that survived a restart of Docker.
    /// Before Docker 23.0, the checks resume only after the container is paused and
    /// unpaused (moby issue 41871).
    pub fn resumes_health_checks(&self) -> bool {
        self.is_at_least([23, 0, 0])
    }

    /// Whether a stopping engine waits up to 5 s for connected clients (seen on Docker
    /// 26.1 and 28.5, not on 20.10).
    pub fn waits_for_clients(&self) -> bool {
        self.is_at_least([23, 0, 0])
    }

    fn is_at_least(&self, version: [u32; 3]) -> bool {
        let is_digit = |character: char| character.is_ascii_digit();
        let numbers: Vec<u32> = self
            .version
            .splitn(3, '.')
            .map(|part| part.split(|c| !is_digit(c)).next().unwrap_or_default())
            .map(|digits| digits.parse().unwrap_or_default())
            .collect();
        numbers.as_slice() >= version.as_slice()
    }
}

/// The references that the engine lists, each with its image's ID.
pub type References = BTreeMap<String, String>;

/// The part of the API that a transaction needs.
pub trait Engine {
    type Reloads: Reloads;

    async fn ping(&self) -> Result<(), EngineError>;
    async fn info(&self) -> Result<Info, EngineError>;
    /// The running containers, including paused and restarting ones.
    async fn running_containers(&self) -> Result<Vec<Container>, EngineError>;
    async fn container(&self, id: &str) -> Result<Option<Container>, EngineError>;
    /// Starts a container. Does nothing if the container already runs.
    async fn start_container(&self, id: &str) -> Result<(), EngineError>;
    async fn pause_container(&self, id: &str) -> Result<(), EngineError>;
    async fn unpause_container(&self, id: &str) -> Result<(), EngineError>;
    /// The ID and the name of each container, including containers that are not running.
    async fn listed_containers(&self) -> Result<BTreeMap<String, String>, EngineError>;
    async fn running_ids(&self) -> Result<BTreeSet<String>, EngineError>;
    /// The containers that exited or were never started.
    async fn down_containers(&self) -> Result<Vec<Container>, EngineError>;
    async fn set_restart_policy(
        &self,
        id: &str,
        policy: RestartPolicy,
        max_retries: u32,
    ) -> Result<(), EngineError>;
    /// Subscribes to reloads of the engine's configuration that happen from now on.
    async fn watch_reloads(&self) -> Result<Self::Reloads, EngineError>;
    async fn image(&self, reference: &Reference) -> Result<Option<String>, EngineError>;
    /// Whether the engine has an image with this ID, with or without a name.
    async fn has_image(&self, id: &ImageId) -> Result<bool, EngineError>;
    /// Every tag and digest that the engine lists.
    async fn references(&self) -> Result<References, EngineError>;
}

/// Events that report a reload of the engine's configuration.
pub trait Reloads {
    /// Waits for the next successful reload. The engine sends no event if it refuses to
    /// reload.
    async fn next(&mut self) -> Result<(), EngineError>;
}

/// The expected references that the engine does not have, or that point at another image
/// than expected.
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod docker29;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_that_remove_what_runs_are_known() {
        for (version, keeps) in [
            ("20.10.24+dfsg1", false),
            ("23.0.15", false),
            ("24.0.7-ce", false),
            ("24.0.8", true),
            ("24.0.9-1", true),
            ("25.0.0-rc.1", true),
            ("28.5.2+dfsg3", true),
            ("library-import", false),
            ("", false),
        ] {
            let info = Info {
                version: version.to_owned(),
                ..Info::default()
            };
            assert_eq!(info.keeps_auto_removed(), keeps, "{version}");
        }
    }
}
