//! A Kubernetes node: the containerd whose CRI a kubelet uses.
//!
//! Every Docker host has a containerd, and Debian's answers the CRI as well. So one
//! counts only if it has the CRI's namespace, which comes with the first image.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::containerd::{Client, ContainerdError};
use crate::host::resolve::Finding;
use crate::host::{Flags, Host, HostError, Management, StoreKind};
use crate::store::data_root::ImageDir;

/// containerd's own socket, and that of k3s and RKE2, which bring their containerd along.
const SOCKETS: [&str; 2] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
];

/// The CRI's namespace, which cannot be set (containerd 1.6 to 2.1,
/// `K8sContainerdNamespace`).
const NAMESPACE: &str = "k8s.io";

/// Where lock, journal, history and provenance are kept, in a directory for each socket.
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

/// What is at a socket.
enum Seen {
    /// A node's containerd, of this version.
    Node(String),
    /// Something else, or nothing: why.
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
            other => Seen::Not(format!("the CRI there is {other:?}'s, not containerd's")),
        })
    };
    let seen: Result<Seen, ContainerdError> = asked.await;
    seen.unwrap_or_else(|error| Seen::Not(without_socket(&error)))
}

/// The reason without the socket, which is named before it.
fn without_socket(error: &ContainerdError) -> String {
    match error {
        ContainerdError::Unreachable { error, .. } if error.kind() == io::ErrorKind::NotFound => {
            "there is no such socket".to_owned()
        }
        ContainerdError::Unreachable { error, .. } => error.to_string(),
        ContainerdError::Refused { call, said, .. } if call.starts_with("/runtime.") => {
            format!("its CRI does not answer: {said}")
        }
        error => error.to_string(),
    }
}

/// What is at each socket that a node may have; at one only, where the flags name it.
async fn look_for_node(flags: &Flags, within: Duration) -> Vec<(PathBuf, Seen)> {
    let sockets = match &flags.containerd_socket {
        Some(socket) => vec![socket.clone()],
        None => SOCKETS.map(PathBuf::from).to_vec(),
    };
    let mut seen: Vec<(PathBuf, Seen)> = Vec::new();
    for socket in sockets {
        // One may be a link to the other.
        let socket = fs::canonicalize(&socket).unwrap_or(socket);
        if seen.iter().all(|(other, _)| *other != socket) {
            let found = look_at(&socket, within).await;
            seen.push((socket, found));
        }
    }
    seen
}

/// The node that this host is.
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
            question: "several containerds here are Kubernetes nodes'".to_owned(),
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

/// `run-k3s-containerd-containerd.sock`
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
