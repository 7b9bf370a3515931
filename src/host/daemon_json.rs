//! daemon.json, as far as it says where dockerd keeps things.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use serde::Deserialize;

/// The settings that matter here; the others are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DaemonJson {
    /// `data-root`.
    pub data_root: Option<String>,
    /// `graph`, the same before 17.05.
    pub graph: Option<String>,
    /// `storage-driver`.
    pub storage_driver: Option<String>,
    /// `userns-remap`.
    pub userns_remap: Option<String>,
    /// `hosts`.
    pub hosts: Vec<String>,
    /// `live-restore`.
    pub live_restore: Option<bool>,
    /// `features`.
    pub features: BTreeMap<String, serde_json::Value>,
}

/// The file is there, and dockerd would not start with it.
#[derive(Debug, thiserror::Error)]
pub enum DaemonJsonError {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is not what dockerd takes.
    #[error("it is not valid: {0}")]
    Json(#[from] serde_json::Error),
}

impl DaemonJson {
    /// Reads the file; none when it is not there.
    ///
    /// # Errors
    /// When dockerd could not read it either.
    pub fn read(path: &Path) -> Result<Option<Self>, DaemonJsonError> {
        match fs::read(path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// `data-root`, under either name.
    #[must_use]
    pub fn root(&self) -> Option<&str> {
        self.data_root.as_deref().or(self.graph.as_deref())
    }

    /// Images live in containerd (`features.containerd-snapshotter`).
    #[must_use]
    pub fn containerd_image_store(&self) -> bool {
        self.features.get("containerd-snapshotter") == Some(&serde_json::Value::Bool(true))
    }
}
