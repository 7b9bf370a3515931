//! daemon.json: dockerd's settings for directories, image store and sockets.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::image::digest::{Algorithm, Digest};
use crate::sys::json_error::in_words;
use crate::sys::plain_file::{self, Links};

/// The maximum size of daemon.json, in bytes.
pub const MAX_DAEMON_JSON: u64 = 16 * 1024 * 1024;

/// The settings of daemon.json that digestfix uses. digestfix ignores all other settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DaemonJson {
    pub data_root: Option<String>,
    /// The value of `graph`, which was the name of `data-root` before Docker 17.05.
    pub graph: Option<String>,
    pub storage_driver: Option<String>,
    pub userns_remap: Option<String>,
    /// The value of `live-restore`. A value that is not a boolean is an error.
    pub live_restore: Option<bool>,
    userland_proxy: Option<bool>,
    userland_proxy_path: Option<String>,
    hosts: Option<Vec<String>>,
    features: Option<BTreeMap<String, bool>>,
    /// All members of the file, with their values.
    #[serde(skip)]
    pub members: Map<String, Value>,
    /// The hash of the file's bytes. `None` if there is no file.
    #[serde(skip)]
    pub hash: Option<Digest>,
}

/// The reason why dockerd would not start with this daemon.json.
#[derive(Debug, thiserror::Error)]
pub enum DaemonJsonError {
    #[error("the file cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The file is empty. Only some versions of dockerd start with an empty file.
    #[error(
        "the file is empty, and some versions of dockerd do not start with an empty file (write {{}} into the file)"
    )]
    Empty,
    #[error("the file is not valid: {}", in_words(.0))]
    Json(#[from] serde_json::Error),
}

impl DaemonJson {
    /// Reads the file. Returns `None` if the file is missing.
    pub fn read(path: &Path) -> Result<Option<Self>, DaemonJsonError> {
        match plain_file::read_whole(path, Links::Followed, MAX_DAEMON_JSON)? {
            Some(bytes) => Self::parse(&bytes).map(Some),
            None => Ok(None),
        }
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, DaemonJsonError> {
        if bytes.trim_ascii().is_empty() {
            return Err(DaemonJsonError::Empty);
        }
        // Parse the file into a `Value` first. If a key appears twice, its last value
        // counts, as in dockerd.
        let value: Value = serde_json::from_slice(bytes)?;
        // Then convert the value to a map, to refuse an array. serde would fill the
        // struct's fields from an array by position.
        let members: Map<String, Value> = serde_json::from_value(value)?;
        let parsed: Self = serde_json::from_value(Value::Object(members.clone()))?;
        Ok(Self {
            members,
            hash: Some(Digest::of(Algorithm::Sha256, bytes)),
            ..parsed
        })
    }

    /// Whether the file contains this key, even with an empty value. When dockerd looks
    /// for options that are set both in the file and on the command line, it compares
    /// only the keys.
    pub fn has(&self, key: &str) -> bool {
        self.members.contains_key(key)
    }

    /// The data root, from `data-root` or from `graph`.
    pub fn root(&self) -> Option<&str> {
        self.data_root.as_deref().or(self.graph.as_deref())
    }

    pub fn hosts(&self) -> &[String] {
        self.hosts.as_deref().unwrap_or_default()
    }

    /// Whether `userland-proxy` is on without a `userland-proxy-path`. At its start,
    /// dockerd finds docker-proxy by itself, but some versions do not find docker-proxy
    /// at a reload.
    pub fn leaves_proxy_to_be_found(&self) -> bool {
        let path = self.userland_proxy_path.as_deref().unwrap_or_default();
        self.userland_proxy == Some(true) && path.is_empty()
    }

    /// The value of `features.containerd-snapshotter`, if it is set.
    pub fn says_image_store(&self) -> Option<bool> {
        let features = self.features.as_ref()?;
        features.get("containerd-snapshotter").copied()
    }

    /// Whether `features.containerd-snapshotter` is on, so that images are in containerd.
    pub fn containerd_image_store(&self) -> bool {
        self.says_image_store() == Some(true)
    }

    /// The enabled features that select the containerd image store or migrate images to
    /// it.
    pub fn features_of_containerd(&self) -> Vec<String> {
        let features = self.features.iter().flatten();
        let on = features.filter(|(name, is_on)| **is_on && name.starts_with("containerd"));
        on.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_read() {
        let config = DaemonJson::parse(
            br#"{"data-root":"/d","storage-driver":"vfs","userns-remap":"default","hosts":["fd://"],
                "live-restore":true,"features":{"containerd-snapshotter":true},"debug":true}"#,
        )
        .unwrap();
        assert_eq!(config.root(), Some("/d"));
        assert_eq!(config.storage_driver.as_deref(), Some("vfs"));
        assert_eq!(config.userns_remap.as_deref(), Some("default"));
        assert_eq!(config.hosts(), ["fd://"]);
        assert!(config.has("live-restore") && config.has("debug") && !config.has("graph"));
        assert!(config.containerd_image_store());
        let old = DaemonJson::parse(br#"{"graph":"/g"}"#).unwrap();
        assert_eq!(old.root(), Some("/g"));
        assert!(!old.containerd_image_store());
    }

    #[test]
    fn a_proxy_that_is_on_has_a_path_or_is_to_be_found() {
        for (text, found) in [
            (r#"{"userland-proxy":true}"#, true),
            (r#"{"userland-proxy":true,"userland-proxy-path":""}"#, true),
            (
                r#"{"userland-proxy":true,"userland-proxy-path":"/p"}"#,
                false,
            ),
            (r#"{"userland-proxy":false}"#, false),
            ("{}", false),
        ] {
            let config = DaemonJson::parse(text.as_bytes()).unwrap();
            assert_eq!(config.leaves_proxy_to_be_found(), found, "{text}");
        }
    }

    #[test]
    fn what_dockerd_takes_is_taken() {
        let twice = DaemonJson::parse(br#"{"data-root":"/a","data-root":"/b"}"#).unwrap();
        assert_eq!(twice.root(), Some("/b"));
        let nulls =
            DaemonJson::parse(br#"{"hosts":null,"features":null,"data-root":null}"#).unwrap();
        assert_eq!((nulls.root(), nulls.hosts().len()), (None, 0));
        assert!(nulls.has("hosts"));
    }

    #[test]
    fn what_keeps_dockerd_from_starting_is_an_error() {
        for text in [
            "",
            " \n",
            "{",
            "{} x",
            "[]",
            r#"{"data-root":5}"#,
            r#"{"hosts":"fd://"}"#,
            r#"{"live-restore":"yes"}"#,
            r#"{"features":{"containerd-snapshotter":"true"}}"#,
        ] {
            assert!(DaemonJson::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
