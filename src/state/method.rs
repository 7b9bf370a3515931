//! How a change is made.

use serde::{Deserialize, Serialize};

/// How a change is made: each image store has one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The running Docker loads manifests into the containerd image store.
    Load,
    /// digestfix has containerd record names, on a Kubernetes node.
    Record,
    /// digestfix stops Docker, changes `repositories.json` and starts Docker again.
    Restart,
}
