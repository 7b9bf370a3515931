//! Reads Docker's records directly from containerd. Two requests return every name and
//! every blob. dockerd would be slower, because dockerd asks containerd about each image
//! separately (some milliseconds each). Also, dockerd before 27.2 does not list all
//! images.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;

use crate::containerd::{Client, Node, Record};
use crate::image::digest::Digest;

/// The socket of a containerd that runs as its own service, and the socket of a
/// containerd that dockerd starts (moby 26.1, `cmd/dockerd/daemon_unix.go`).
pub(super) const SOCKETS: [&str; 2] = [
    "/run/containerd/containerd.sock",
    "/run/docker/containerd/containerd.sock",
];

/// The namespace that Docker uses by default (`dockerd --containerd-namespace`).
pub(super) const NAMESPACE: &str = "moby";

/// The label with which the classic builder records the parent of an image (moby 26.1 to
/// 29, `daemon/containerd/image_builder.go`).
const PARENT: &str = "org.mobyproject.image.parent";

/// containerd's records in Docker's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Records {
    /// Each image name, as containerd stores it, with the digest of the image's manifest
    /// or index.
    pub images: BTreeMap<String, Digest>,
    /// The images that are the parent of another image.
    pub parents: BTreeSet<String>,
    pub blobs: BTreeSet<Digest>,
}

impl Records {
    fn of(records: Vec<Record>, blobs: BTreeSet<Digest>) -> Self {
        let parents = records.iter().filter_map(|one| one.labels.get(PARENT));
        Self {
            parents: parents.cloned().collect(),
            images: records
                .into_iter()
                .map(|one| (one.name, one.target.digest))
                .collect(),
            blobs,
        }
    }
}

/// Reads containerd's records. `None` if reading fails for any reason.
pub(super) async fn records(socket: &Path, namespace: &str, within: Duration) -> Option<Records> {
    let client = Client::new(socket, namespace, within);
    let asked = async {
        let records = client.records().await.ok()?;
        Some(Records::of(records, client.blobs().await.ok()?))
    };
    timeout(within, asked).await.ok()?
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::containerd::Target;

    #[test]
    fn a_parent_is_known_by_a_label() {
        let digest: Digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let record = Record {
            name: "docker.io/lab/app:v1".to_owned(),
            target: Target {
                media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                digest: digest.clone(),
                size: 7,
                annotations: BTreeMap::new(),
            },
            labels: [PARENT, "other"]
                .map(|key| (key.to_owned(), format!("of {key}")))
                .into(),
        };
        let records = Records::of(vec![record], [digest.clone()].into());
        assert_eq!(
            records.images,
            [("docker.io/lab/app:v1".to_owned(), digest)].into()
        );
        assert_eq!(records.parents, [format!("of {PARENT}")].into());
    }

    #[tokio::test]
    async fn where_it_is_not_nothing_is_known() {
        let within = Duration::from_secs(5);
        assert_eq!(
            records(Path::new("/nowhere"), NAMESPACE, within).await,
            None
        );
    }
}
