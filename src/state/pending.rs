//! Pending markers: files that list the transactions on this host that have not ended.
//! The journal of a transaction is in its data root, which may be anywhere. So the marker
//! of the transaction contains the path of this data root.
//!
//! Each transaction has one small file in `/var/lib/digestfix/pending`. digestfix writes
//! this file before the journal, and removes it after the journal. At boot, systemd
//! checks whether the directory is empty.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf, absolute};

use serde::{Deserialize, Serialize};

use crate::host::{Flags, Managed, Node, StoreChoice};
use crate::state::id::{beside, is_id};
use crate::state::journal::boot_id;
use crate::state::lock::RootLock;
use crate::state::state_file;
use crate::store::data_root::{ImageDir, STATE_DIR};
use crate::sys::directory;
use crate::sys::shell;

pub const PENDING: &str = "/var/lib/digestfix/pending";

const VERSION: u32 = 1;

/// The largest marker that digestfix reads, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

const SUFFIX: &str = ".json";

/// Where the images of a transaction are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    digestfix_pending: u32,
    boot: String,
    /// Docker's data root, or the directory that a Kubernetes node uses in its place.
    /// This directory contains the journal.
    pub data_root: PathBuf,
    /// Docker's configuration file. `None` if there is no Docker.
    pub config_file: Option<PathBuf>,
    pub flags: Flags,
    /// The facts about Docker that digestfix detected. Some of these facts come only from
    /// a running engine.
    pub found: Flags,
}

#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}", path = path.display())]
pub struct MarkerError {
    path: PathBuf,
    error: io::Error,
}

impl MarkerError {
    pub fn help(&self) -> Option<String> {
        Some(format!(
            "read that file: it names the Docker whose data root an interrupted run changed. To recover \
             that run without the file: rm {}; digestfix recover; or, if Docker's unit has another name: \
             digestfix recover --unit UNIT",
            shell::path(&self.path)
        ))
    }
}

impl Marker {
    pub fn new(images: &ImageDir, host: &Managed) -> Self {
        let flags = &host.flags;
        // Make the path absolute, because a later run reads the marker in another working
        // directory.
        let whole = |path: &PathBuf| absolute(path).unwrap_or_else(|_| path.clone());
        Self {
            digestfix_pending: VERSION,
            boot: boot_id(),
            data_root: whole(&images.data_root().to_owned()),
            config_file: Some(whole(&host.config_file)),
            found: Flags {
                data_root: Some(whole(&images.data_root().to_owned())),
                driver: Some(images.driver().to_owned()),
                unit: Some(host.unit.id.clone()),
                // Leave out daemon.json if it does not exist: a recovery fails if a file
                // that the marker names is missing.
                config_file: host.config_file.exists().then(|| whole(&host.config_file)),
                socket: Some(whole(&host.socket)),
                ..Flags::default()
            },
            flags: Flags {
                data_root: flags.data_root.as_ref().map(whole),
                driver: flags.driver.clone(),
                unit: flags.unit.clone(),
                config_file: flags.config_file.as_ref().map(whole),
                socket: flags.socket.as_ref().map(whole),
                ..Flags::default()
            },
        }
    }

    pub fn of_node(images: &ImageDir, node: &Node) -> Self {
        let flags = Flags {
            store: Some(StoreChoice::Kubernetes),
            containerd_socket: Some(node.socket.clone()),
            ..Flags::default()
        };
        Self {
            digestfix_pending: VERSION,
            boot: boot_id(),
            data_root: images.data_root().to_owned(),
            config_file: None,
            found: flags.clone(),
            flags,
        }
    }

    /// Whether the machine has rebooted since the transaction began.
    pub fn is_of_another_boot(&self) -> bool {
        self.boot != boot_id()
    }

    /// Whether the data root is available, which means that it contains digestfix's own
    /// directory. Each run creates this directory before anything else. If the disk of
    /// the data root is not mounted, the directory is missing.
    pub fn leads_to_a_data_root(&self) -> bool {
        self.data_root.join(STATE_DIR).is_dir()
    }

    /// The message for the user if the data root is not available.
    pub fn gone(&self, id: &str) -> String {
        let put_back = self.config_file.as_ref().map_or_else(String::new, |file| {
            let (aside, file) = (beside(file, id), file.display());
            format!(
                "rename {} to {file} (if the first file exists), and ",
                aside.display()
            )
        });
        format!(
            "run {id} was interrupted, and its data root {} is not available. As soon as the data \
             root is available again: digestfix recover, without options. If the data root is \
             lost: {put_back}remove {}",
            self.data_root.display(),
            path(Path::new(PENDING), id).display()
        )
    }

    pub fn write(&self, pending: &Path, id: &str, lock: &RootLock) -> Result<(), MarkerError> {
        let path = path(pending, id);
        let written = make(pending)
            .and_then(|()| Ok(serde_json::to_vec_pretty(self)?))
            .and_then(|bytes| state_file::write(&path, lock, &bytes));
        written.map_err(|error| MarkerError { path, error })
    }

    /// Reads the marker of a transaction that has not ended.
    pub fn read(pending: &Path, id: &str) -> Result<Option<Self>, MarkerError> {
        let path = path(pending, id);
        Self::parse(&path).map_err(|error| MarkerError { path, error })
    }

    fn parse(path: &Path) -> io::Result<Option<Self>> {
        let Some(bytes) = state_file::read(path, MAX_BYTES)? else {
            return Ok(None);
        };
        let marker: Self = serde_json::from_slice(&bytes)?;
        if marker.digestfix_pending != VERSION {
            return Err(io::Error::other(format!(
                "the file has version {}, but this digestfix reads only version {VERSION}",
                marker.digestfix_pending
            )));
        }
        let config_file = marker.config_file.as_ref();
        if marker.data_root.is_relative() || config_file.is_some_and(|path| path.is_relative()) {
            return Err(io::Error::other("the paths in the file are not absolute"));
        }
        Ok(Some(marker))
    }
}

/// The transactions that have not ended, in the order of their IDs, and the errors for
/// markers that cannot be read.
pub fn read_all(pending: &Path) -> (Vec<(String, Marker)>, Vec<MarkerError>) {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| MarkerError { path, error }
    };
    let listing = match fs::read_dir(pending) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Default::default(),
        Err(error) => return (Vec::new(), vec![failed(pending)(error)]),
    };
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for file in listing {
        let path = match file {
            Ok(file) => file.path(),
            Err(error) => {
                errors.push(failed(pending)(error));
                continue;
            }
        };
        let name = path.file_name().and_then(|name| name.to_str());
        let id = name.and_then(|name| name.strip_suffix(SUFFIX));
        let Some(id) = id.filter(|id| is_id(id)) else {
            continue;
        };
        match Marker::read(pending, id) {
            Ok(marker) => found.extend(marker.map(|marker| (id.to_owned(), marker))),
            Err(error) => errors.push(error),
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    (found, errors)
}

/// Removes the half-written markers of killed runs. Must not be called while another run
/// is active.
pub fn sweep(pending: &Path) {
    for file in fs::read_dir(pending).into_iter().flatten().flatten() {
        let path = file.path();
        if path.as_os_str().as_bytes().ends_with(b".json.new") {
            // Ignore the error: nothing reads a half-written marker.
            let _ = directory::remove(&path);
        }
    }
}

/// Removes the marker of a transaction.
pub fn remove(pending: &Path, id: &str, lock: &RootLock) -> Result<(), MarkerError> {
    let path = path(pending, id);
    if !pending.exists() {
        return Ok(());
    }
    state_file::remove(&path, lock).map_err(|error| MarkerError { path, error })
}

pub(crate) fn path(pending: &Path, id: &str) -> PathBuf {
    pending.join(format!("{id}{SUFFIX}"))
}

fn make(pending: &Path) -> io::Result<()> {
    if pending.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(pending)?;
    directory::sync(pending)?;
    match pending.parent() {
        Some(parent) => directory::sync(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;

    fn marker() -> Marker {
        Marker {
            digestfix_pending: VERSION,
            boot: boot_id(),
            data_root: "/data/docker".into(),
            config_file: Some("/etc/docker/daemon.json".into()),
            flags: Flags::default(),
            found: Flags::default(),
        }
    }

    #[tokio::test]
    async fn a_notice_is_there_until_it_is_removed() {
        let root = TempDir::new().unwrap();
        let lock = RootLock::acquire(root.path(), Duration::ZERO)
            .await
            .unwrap();
        let pending = root.path().join("lib/pending");
        marker().write(&pending, "b-1", &lock).unwrap();
        marker().write(&pending, "a-1", &lock).unwrap();
        fs::write(pending.join("a-1.json.new"), "").unwrap();
        let (found, errors) = read_all(&pending);
        let ids: Vec<&str> = found.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["a-1", "b-1"]);
        assert_eq!(found[0].1, marker());
        assert!(errors.is_empty());
        remove(&pending, "a-1", &lock).unwrap();
        remove(&pending, "a-1", &lock).unwrap();
        fs::write(pending.join("c-1.json.new"), "").unwrap();
        sweep(&pending);
        assert_eq!(fs::read_dir(&pending).unwrap().count(), 1);
        assert_eq!(read_all(&pending).0.len(), 1);
    }

    /// The fixture has every field that a marker can have.
    #[test]
    fn a_marker_of_this_version_loads() {
        let flags = Flags {
            data_root: Some("/data/docker".into()),
            driver: Some("overlay2".to_owned()),
            unit: Some("docker.service".to_owned()),
            config_file: Some("/etc/docker/daemon.json".into()),
            socket: Some("/run/docker.sock".into()),
            store: Some(StoreChoice::Docker),
            containerd_socket: Some("/run/containerd/containerd.sock".into()),
        };
        let written = Marker {
            boot: "0b7f6f0e-6f0c-4d6f-9f5d-2b1d6a1c7e55 21".to_owned(),
            flags: flags.clone(),
            found: flags,
            ..marker()
        };
        let fixture = include_str!("../../tests/formats/pending-marker.json");
        assert_eq!(serde_json::from_str::<Marker>(fixture).unwrap(), written);
        let bytes = serde_json::to_vec_pretty(&written).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), fixture.trim_end());
    }

    #[test]
    fn what_is_no_notice_is_told() {
        let root = TempDir::new().unwrap();
        let text = serde_json::to_string(&marker()).unwrap();
        for (from, to) in [
            ("\"digestfix_pending\":1", "\"digestfix_pending\":2"),
            ("/data/docker", "data/docker"),
            ("/etc/docker/daemon.json", "daemon.json"),
            ("\"driver\"", "\"restore\":1,\"driver\""),
            ("{", "["),
        ] {
            let broken = text.replacen(from, to, 1);
            assert_ne!(broken, text);
            fs::write(root.path().join("a.json"), &broken).unwrap();
            let (found, errors) = read_all(root.path());
            assert_eq!((found.len(), errors.len()), (0, 1), "{broken}");
        }
        assert!(read_all(&root.path().join("nowhere")).0.is_empty());
    }
}
