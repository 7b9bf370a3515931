//! Kubernetes node: the containerd that a kubelet uses through the CRI.
//!
//! Every Docker host has a containerd, and Debian's containerd answers CRI calls too. So
//! digestfix accepts a containerd as the containerd of a Kubernetes node only if it has
//! the CRI's namespace. This namespace exists as soon as the Kubernetes node has an
//! image.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::containerd::{Client, ContainerdError};
use crate::host::resolve::Finding;
use crate::host::{Flags, Host, HostError, Management, StoreKind};
use crate::store::data_root::ImageDir;

/// containerd's default socket, and the socket of k3s and RKE2, which bundle containerd.
const SOCKETS: [&str; 2] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
];

/// The CRI's namespace, which is fixed (containerd 1.6 to 2.1, `K8sContainerdNamespace`).
const NAMESPACE: &str = "k8s.io";

/// The directory for the lock, the journal, the history and the provenance. Each
/// containerd socket has a subdirectory of its own.
const STATE: &str = "/var/lib/digestfix/kubernetes";

#[derive(Debug, Clone)]
pub struct Node {
    pub socket: PathBuf,
    pub version: String,
}

impl Node {
    pub fn client(&self, within: Duration) -> Client {
        Client::new(&self.socket, NAMESPACE, within)
    }
}

/// The service that answers at a socket.
enum Seen {
    /// The containerd of a Kubernetes node, with its version.
    Node(String),
    /// The reason why the socket does not belong to the containerd of a Kubernetes node.
    Not(String),
}

async fn look_at(socket: &Path, within: Duration) -> Seen {
    let client = Client::new(socket, NAMESPACE, within);
    let asked = async {
        if !client.has_namespace().await? {
            return Ok(Seen::Not(format!(
                "containerd has no namespace {NAMESPACE}"
            )));
        }
        let (runtime, version) = client.cri_version().await?;
        Ok(match runtime.as_str() {
            "containerd" => Seen::Node(client.version().await.unwrap_or(version)),
            other => Seen::Not(format!(
                "the CRI at this socket belongs to {other:?}, not to containerd"
            )),
        })
    };
    let seen: Result<Seen, ContainerdError> = asked.await;
    seen.unwrap_or_else(|error| Seen::Not(without_socket(&error)))
}

/// The error message without the socket's path, because the caller's message already
/// contains the path.
fn without_socket(error: &ContainerdError) -> String {
    match error {
        ContainerdError::Unreachable { error, .. } if error.kind() == io::ErrorKind::NotFound => {
            "there is no such socket".to_owned()
        }
        ContainerdError::Unreachable { error, .. } => error.to_string(),
        ContainerdError::Refused { call, said, .. } if call.starts_with("/runtime.") => {
            format!("the CRI at this socket does not answer: {said}")
        }
        error => error.to_string(),
    }
}

/// Examines the socket that the flags name. If no flag names a socket, examines every
/// socket at which a node's containerd may listen.
async fn look_for_node(flags: &Flags, within: Duration) -> Vec<(PathBuf, Seen)> {
    let sockets = match &flags.containerd_socket {
        Some(socket) => vec![socket.clone()],
        None => SOCKETS.map(PathBuf::from).to_vec(),
    };
    let mut seen: Vec<(PathBuf, Seen)> = Vec::new();
    for socket in sockets {
        // One of the sockets may be a symbolic link to the other.
        let socket = fs::canonicalize(&socket).unwrap_or(socket);
        if seen.iter().all(|(other, _)| *other != socket) {
            let found = look_at(&socket, within).await;
            seen.push((socket, found));
        }
    }
    seen
}

/// Finds the Kubernetes node on this host.
pub async fn find_node(flags: &Flags, within: Duration) -> Result<Host, HostError> {
    let (mut found, mut tried) = (Vec::new(), Vec::new());
    for (socket, seen) in look_for_node(flags, within).await {
        match seen {
            Seen::Node(version) => found.push((socket, version)),
            Seen::Not(why) => tried.push(format!("{}: {why}", socket.display())),
        }
    }
    if found.len() > 1 {
        let sockets = found.iter().map(|(socket, _)| socket.display().to_string());
        return Err(HostError::Ambiguous {
            question: "several containerds on this host serve a Kubernetes node".to_owned(),
            flag: "--containerd-socket",
            candidates: sockets.collect(),
        });
    }
    let Some((socket, version)) = found.pop() else {
        return Err(HostError::NoNode(tried));
    };
    let finding = Finding {
        fact: "containerd socket",
        value: socket.display().to_string(),
        source: match flags.containerd_socket {
            Some(_) => super::resolve::FLAG,
            None => super::resolve::DISK,
        },
    };
    Ok(Host {
        image_store: StoreKind::Containerd,
        images: ImageDir::new(&Path::new(STATE).join(state_name(&socket)), NAMESPACE),
        management: Management::Node(Node { socket, version }),
        sources: vec![finding],
        stopped: None,
    })
}

/// Turns the socket's path into a directory name, for example
/// `run-k3s-containerd-containerd.sock`.
fn state_name(socket: &Path) -> String {
    let name = socket.to_string_lossy();
    name.trim_start_matches('/').replace('/', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_has_a_directory_of_its_own() {
        let names = SOCKETS.map(|socket| state_name(Path::new(socket)));
        assert_eq!(
            names,
            [
                "run-containerd-containerd.sock",
                "run-k3s-containerd-containerd.sock"
            ]
        );
    }
}
