//! Host: finds Docker's directories, files and unit on this host, and records where each
//! of these facts comes from.
//!
//! The facts are the data root, the storage driver, the configuration file and the API
//! socket. A fact comes from the first source that names it: flags, the running engine,
//! the unit's command line, daemon.json, defaults. If two sources disagree, digestfix
//! returns an error, because a restart would change the settings of the running Docker.

pub mod api_clients;
pub mod impact;
pub mod live_restore;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use clap::ValueEnum;

use crate::docker::engine::Info;
use crate::store::data_root::ImageDir;
use crate::systemd::{Service, Unit};

mod client;
mod daemon;
mod daemon_json;
mod daemon_json_edit;
mod dockerd_args;
mod dockerds;
mod engine_start;
mod error;
mod examine;
mod exec_start;
mod image_dir;
mod next_store;
mod node;
mod programs;
mod resolve;
pub mod startable;
#[cfg(test)]
mod tests;

pub use client::goes_elsewhere;
pub use daemon_json::{DaemonJsonError, MAX_DAEMON_JSON};
pub use daemon_json_edit::{says_live_restore, with_live_restore};
pub(crate) use dockerd_args::AUTHORIZATION;
pub use dockerds::{Dockerd, Rootless, beside, own_rootless, rootless_at, unambiguous};
pub use engine_start::{EngineStart, PID_FILE, PROC};
pub use error::HostError;
pub use examine::{Examined, examine, find, probable_data_root};
pub use next_store::{Stopped, start_first};
pub use node::{Node, find_node};
pub use programs::{container, is_dockerd, is_shim, program};
pub use resolve::Finding;
pub use startable::{Doubt, Start, Startable};

use daemon::{config_file, read_config};
use daemon_json::DaemonJson;
use dockerd_args::DockerdArgs;
use image_dir::Sources;

/// The command-line options about the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flags {
    pub data_root: Option<PathBuf>,
    pub driver: Option<String>,
    pub unit: Option<String>,
    pub config_file: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreChoice>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containerd_socket: Option<PathBuf>,
}

impl Flags {
    /// The image store that the flags select. `None` if the flags do not select an image
    /// store.
    pub fn choice(&self) -> Option<StoreChoice> {
        let says_docker = self.data_root.is_some()
            || self.driver.is_some()
            || self.unit.is_some()
            || self.config_file.is_some()
            || self.socket.is_some();
        match self.store {
            None if self.containerd_socket.is_some() => Some(StoreChoice::Kubernetes),
            None if says_docker => Some(StoreChoice::Docker),
            choice => choice,
        }
    }
}

/// The images that a command works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum StoreChoice {
    /// The images of Docker
    Docker,
    /// The images of a Kubernetes node, in containerd
    Kubernetes,
}

/// The store in which an engine keeps its images and their references.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StoreKind {
    #[default]
    Own,
    Containerd,
}

#[derive(Debug, Clone)]
pub struct Host {
    pub image_store: StoreKind,
    pub images: ImageDir,
    pub management: Management,
    /// What digestfix found out about Docker, with the source of each fact, as shown to
    /// the user.
    pub sources: Vec<Finding>,
    /// Why a stopped Docker may use another image store at its next start. `None` if
    /// there is no doubt.
    pub stopped: Option<Stopped>,
}

/// The daemon that digestfix may have to stop and start.
#[derive(Debug, Clone)]
pub enum Management {
    /// No daemon runs, because the data root is on a mounted disk or in a machine image
    /// that is being built.
    Offline,
    Managed(Box<Managed>),
    /// The containerd of a Kubernetes node. digestfix sends requests to it, but never
    /// stops it.
    Node(Node),
}

#[derive(Debug, Clone)]
pub struct Managed {
    pub flags: Flags,
    pub unit: Unit,
    pub service: Service,
    /// The information that the engine reports. `None` if the engine is not running.
    pub engine: Option<Info>,
    pub socket: PathBuf,
    /// The path of dockerd's configuration file, which may be missing.
    pub config_file: PathBuf,
    /// The value of `--live-restore` on dockerd's command line.
    pub live_restore_flag: Option<bool>,
    /// Whether dockerd will have live-restore on after its next start, because of a flag
    /// or its configuration file.
    pub live_restore_at_start: bool,
    /// Command-line options that dockerd forgets when it reloads its configuration.
    /// Without these options, dockerd is only slower.
    pub forgotten_by_reload: Vec<String>,
    /// Command-line options that dockerd also forgets when it reloads its configuration.
    /// Without these options, more than dockerd's speed changes.
    pub undone_by_reload: Vec<String>,
    /// Whether the configuration file has `userland-proxy: true` without a
    /// `userland-proxy-path`.
    pub leaves_proxy_to_be_found: bool,
    /// The command and the configuration with which dockerd will start next.
    pub start: Start,
}

/// Finds the data root for a run with `--offline`. If `--data-root` is given, does not
/// read this host's daemon.json.
pub fn find_offline(flags: &Flags) -> Result<Host, HostError> {
    let args = DockerdArgs::default();
    let config = if flags.data_root.is_some() {
        DaemonJson::default()
    } else {
        read_config(&config_file(flags, &args)?)?
    };
    if config.containerd_image_store() {
        return Err(HostError::ContainerdImageStore);
    }
    let sources = Sources {
        flags,
        engine: None,
        args: &args,
        config: &config,
    };
    let (images, sources) = sources.image_dir()?;
    Ok(Host {
        image_store: StoreKind::Own,
        images,
        management: Management::Offline,
        sources,
        stopped: None,
    })
}
