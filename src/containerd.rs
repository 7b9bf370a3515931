//! The containerd API, with which digestfix reads and changes the images of a Kubernetes
//! node. With the containerd image store, Docker keeps its images in containerd too.
//!
//! digestfix makes gRPC calls over a Unix socket. Some calls belong to containerd's own
//! API (1.6 to 2.1, `api/services`). The other calls belong to Kubernetes' `runtime.v1`,
//! which containerd serves on the same socket.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::image::digest::{Digest, ImageId};

mod client;
mod grpc;
mod messages;

pub use client::Client;

/// The maximum number of simultaneous requests.
pub const AT_ONCE: usize = 16;

#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    #[error("no containerd answers at {socket}: {error}", socket = socket.display())]
    Unreachable { socket: PathBuf, error: io::Error },
    /// The answer is missing or incomplete. containerd may still execute the call.
    #[error("containerd at {socket} did not answer {call}: {problem}", socket = socket.display())]
    Unanswered {
        socket: PathBuf,
        call: &'static str,
        problem: String,
    },
    /// containerd received the call and refused it.
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

/// The gRPC codes of temporary errors (`codes.go`): cancelled, deadline exceeded,
/// unavailable.
const PASSING: [u32; 3] = [1, 4, 14];

impl ContainerdError {
    /// Whether another attempt may succeed, because containerd may be starting or may
    /// still execute the call.
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

/// The manifest or index that an image record points at (containerd's
/// `types.Descriptor`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub media_type: String,
    pub digest: Digest,
    pub size: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An image in the CRI's list, as a kubelet sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriImage {
    pub id: ImageId,
    /// The image's full references, by tag and by digest.
    pub names: Vec<String>,
}

/// The calls to a node's containerd that digestfix makes.
pub trait Node {
    /// All image records.
    async fn records(&self) -> Result<Vec<Record>, ContainerdError>;

    async fn record(&self, name: &str) -> Result<Option<Record>, ContainerdError>;

    /// Creates a record. Returns false if a record with this name already exists.
    async fn create(&self, record: &Record) -> Result<bool, ContainerdError>;

    /// Removes a record. Succeeds even if the record does not exist. containerd 2 removes
    /// the record only if the record still has the same target.
    async fn remove(&self, record: &Record) -> Result<(), ContainerdError>;

    /// All images that the CRI lists.
    async fn cri_images(&self) -> Result<Vec<CriImage>, ContainerdError>;

    /// The image that the CRI finds by a reference. A kubelet asks the CRI in the same
    /// way before it pulls an image.
    async fn cri_image(&self, reference: &str) -> Result<Option<ImageId>, ContainerdError>;

    /// The text of a manifest. `None` if containerd does not have the manifest, or if its
    /// bytes do not match the digest.
    async fn manifest(&self, digest: &Digest) -> Result<Option<String>, ContainerdError>;
}
