//! Methods by which digestfix changes references.

use serde::{Deserialize, Serialize};

/// How digestfix changes references. Each kind of image store needs its own method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The running Docker loads manifests into the containerd image store.
    Load,
    /// On a Kubernetes node, digestfix makes containerd record more names.
    Record,
    /// digestfix stops Docker, changes `repositories.json` and starts Docker again.
    Restart,
}
