//! containerd API: the boundary to the daemon that keeps the images of a Kubernetes node,
//! and those of Docker with the containerd image store.
//!
//! gRPC over a Unix socket. digestfix uses a handful of calls (containerd 1.6 to 2.1,
//! `api/services`; Kubernetes' `runtime.v1`, which containerd answers on the same
//! socket).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::image::digest::{Digest, ImageId};

mod client;
mod grpc;
mod messages;

pub use client::Client;

/// The most requests in flight at the same time.
pub const AT_ONCE: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    #[error("no containerd answers at {socket}: {error}", socket = socket.display())]
    Unreachable { socket: PathBuf, error: io::Error },
    /// No answer, or only part of one. containerd may still execute the call.
    #[error("containerd at {socket} did not answer {call}: {problem}", socket = socket.display())]
    Unanswered {
        socket: PathBuf,
        call: &'static str,
        problem: String,
    },
    /// containerd answers that it refuses the call.
    #[error("containerd at {socket} refused {call}: {said}", socket = socket.display())]
    Refused {
        socket: PathBuf,
        call: &'static str,
        code: u32,
        said: String,
    },
    #[error("containerd at {socket} gave no usable answer to {call}: {problem}", socket = socket.display())]
    Answer {
        socket: PathBuf,
        call: &'static str,
        problem: String,
    },
}

/// gRPC's codes for errors that may pass (`codes.go`): cancelled, deadline exceeded,
/// unavailable.
const PASSING: [u32; 3] = [1, 4, 14];

impl ContainerdError {
    /// Whether another try may succeed: containerd may be starting, or still execute the
    /// call.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Unanswered { .. } => true,
            Self::Refused { code, .. } => PASSING.contains(code),
            Self::Answer { .. } => false,
        }
    }
}

/// An image record: containerd's name for a manifest or index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub name: String,
    pub target: Target,
    pub labels: BTreeMap<String, String>,
}

/// The manifest or index that a record leads to (containerd's `types.Descriptor`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub media_type: String,
    pub digest: Digest,
    pub size: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An image in the CRI's list, which is what a kubelet sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriImage {
    pub id: ImageId,
    /// The image's tags and digests, with domain and namespace.
    pub names: Vec<String>,
}

/// The calls to a node's containerd that digestfix needs.
pub trait Node {
    /// Every image record.
    async fn records(&self) -> Result<Vec<Record>, ContainerdError>;

    async fn record(&self, name: &str) -> Result<Option<Record>, ContainerdError>;

    /// Creates a record. Returns false if there is one with that name.
    async fn create(&self, record: &Record) -> Result<bool, ContainerdError>;

    /// Removes a record. A record that does not exist is no error. containerd 2 removes
    /// it only if it leads to this target.
    async fn remove(&self, record: &Record) -> Result<(), ContainerdError>;

    /// Every image of the CRI.
    async fn cri_images(&self) -> Result<Vec<CriImage>, ContainerdError>;

    /// The CRI's image for a reference. A kubelet asks this before it pulls.
    async fn cri_image(&self, reference: &str) -> Result<Option<ImageId>, ContainerdError>;

    /// The text of a manifest. `None` if it is not here, or its bytes do not match the
    /// digest.
    async fn manifest(&self, digest: &Digest) -> Result<Option<String>, ContainerdError>;
}
