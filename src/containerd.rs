//! containerd's API: the edge to the daemon that keeps a Kubernetes node's images, and
//! Docker's from 29 on.
//!
//! gRPC over the Unix socket, of which a handful of calls are used (containerd 1.6 to
//! 2.1, `api/services`; Kubernetes' `runtime.v1`, which containerd answers on the same
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

#[derive(Debug, thiserror::Error)]
pub enum ContainerdError {
    #[error("no containerd answers at {socket}: {error}", socket = socket.display())]
    Unreachable { socket: PathBuf, error: io::Error },
    /// No answer, or half of one: it may still do what it was asked for.
    #[error("containerd at {socket} did not answer {call}: {problem}", socket = socket.display())]
    Unanswered {
        socket: PathBuf,
        call: &'static str,
        problem: String,
    },
    /// It answers that it does not do it.
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

/// gRPC's codes for an answer that another try may change (`codes.go`): cancelled,
/// deadline exceeded, unavailable.
const PASSING: [u32; 3] = [1, 4, 14];

impl ContainerdError {
    /// There was no whole answer: containerd may be about to start, or to do what it was
    /// asked for.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Unanswered { .. } => true,
            Self::Refused { code, .. } => PASSING.contains(code),
            Self::Answer { .. } => false,
        }
    }
}

/// An image record: a name that containerd has for a manifest or index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub name: String,
    pub target: Target,
    pub labels: BTreeMap<String, String>,
}

/// What a record leads to (containerd's `types.Descriptor`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    pub media_type: String,
    pub digest: Digest,
    pub size: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An image as the CRI lists it, which is what a kubelet sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CriImage {
    pub id: ImageId,
    /// Its tags and digests, with domain and namespace.
    pub names: Vec<String>,
}

/// What digestfix asks of the containerd of a node.
pub trait Node {
    /// Every image record.
    async fn records(&self) -> Result<Vec<Record>, ContainerdError>;

    async fn record(&self, name: &str) -> Result<Option<Record>, ContainerdError>;

    /// Makes a record. False where there is one of that name.
    async fn create(&self, record: &Record) -> Result<bool, ContainerdError>;

    /// Removes a record; one that is gone already is no error. containerd 2 removes it
    /// only if it leads to this target.
    async fn remove(&self, record: &Record) -> Result<(), ContainerdError>;

    /// Every image that the CRI has.
    async fn cri_images(&self) -> Result<Vec<CriImage>, ContainerdError>;

    /// The image that the CRI answers for a reference, as a kubelet asks before it pulls.
    async fn cri_image(&self, reference: &str) -> Result<Option<ImageId>, ContainerdError>;

    /// The text of a manifest; none where it is not here, or is no text of its digest.
    async fn manifest(&self, digest: &Digest) -> Result<Option<String>, ContainerdError>;
}
