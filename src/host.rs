//! Where Docker lives on this host, and who says so.
//!
//! Each fact (data root, storage driver, configuration file, API socket) is
//! taken from the first source that has it, in the order of trust: flags, the
//! running engine, the unit's command line, daemon.json, defaults. Two sources
//! that say different things are not weighed against each other: a restart
//! would start another Docker than the one that runs, so that is an error.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data_root::ImageDir;
use crate::engine::{Engine, Info};
use crate::systemd::{Service, ServiceManager, Unit};

mod daemon;
mod daemon_json;
mod daemon_json_edit;
mod dockerd_args;
mod engine_start;
mod error;
mod examine;
mod exec_start;
mod image_dir;
mod next_store;
mod programs;
mod settle;
pub mod startable;
#[cfg(test)]
mod tests;

pub use daemon_json::{DaemonJsonError, MAX_DAEMON_JSON};
pub use daemon_json_edit::{says_live_restore, with_live_restore};
pub(crate) use dockerd_args::AUTHORIZATION;
pub use engine_start::{EngineStart, PID_FILE, PROC};
pub use error::HostError;
pub use examine::{Examined, examine};
pub use next_store::{Stopped, Unsure};
pub use programs::{is_dockerd, is_shim, program};
pub use settle::Finding;
pub use startable::{Doubt, Start, Startable};

use daemon::{
    DEFAULT_CONFIG_FILE, command_line, config_file, find_daemon, finding, read_config, unit_name,
};
use daemon_json::DaemonJson;
use dockerd_args::DockerdArgs;
use image_dir::Sources;
use next_store::without_references;

/// What the command line says about the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flags {
    /// `--data-root`.
    pub data_root: Option<PathBuf>,
    /// `--driver`.
    pub driver: Option<String>,
    /// `--unit`.
    pub unit: Option<String>,
    /// `--config-file`.
    pub config_file: Option<PathBuf>,
    /// `--socket`.
    pub socket: Option<PathBuf>,
}

/// Where an engine keeps its images and their references.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ImageStore {
    /// In the data root.
    #[default]
    Own,
    /// In containerd.
    Containerd,
}

/// Docker on this host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where its images are.
    pub image_store: ImageStore,
    /// Where the references are.
    pub images: ImageDir,
    /// What to do about the daemon.
    pub management: Management,
    /// What was found where, for people.
    pub sources: Vec<Finding>,
    /// Docker does not run, and may use another image store once it does.
    pub stopped: Option<Stopped>,
}

/// Whether there is a daemon to stop and start.
#[derive(Debug, Clone)]
pub enum Management {
    /// None: a mounted disk, an image being built.
    Offline,
    /// A systemd unit.
    Managed(Box<Managed>),
}

/// The daemon, as it was found.
#[derive(Debug, Clone)]
pub struct Managed {
    /// What it was found by.
    pub flags: Flags,
    /// Its unit.
    pub unit: Unit,
    /// The service part of it.
    pub service: Service,
    /// What the running engine says of itself; none when it does not run.
    pub engine: Option<Info>,
    /// Where it answers.
    pub socket: PathBuf,
    /// Its configuration file, whether it is there or not.
    pub config_file: PathBuf,
    /// `--live-restore` of its command line.
    pub live_restore_flag: Option<bool>,
    /// What the next dockerd would start with, by flag or file.
    pub live_restore_at_start: bool,
    /// Options of its command line that it forgets at a reload.
    pub forgotten_by_reload: Vec<String>,
    /// The same for those that one cannot do without for a moment.
    pub undone_by_reload: Vec<String>,
    /// Its configuration file has docker-proxy on, and not where it is.
    pub leaves_proxy_to_be_found: bool,
    /// What the next dockerd would start with.
    pub start: Start,
}

/// Finds a host whose daemon systemd runs. Touches nothing; above all it does
/// not speak to the API of a Docker that is not running, as that would start
/// it.
///
/// # Errors
/// [`HostError`] for everything that speaks against working on it.
pub async fn find_managed<M: ServiceManager, E: Engine>(
    flags: &Flags,
    manager: &M,
    connect: impl Fn(&Path) -> E,
) -> Result<Host, HostError> {
    let daemon = find_daemon(flags, manager, connect).await?;
    let sources = Sources {
        flags,
        engine: daemon.engine.as_ref(),
        args: &daemon.args,
        config: &daemon.config,
    };
    let in_containerd = daemon.keeps_images_in_containerd();
    let unit = &daemon.unit.id;
    let stopped = daemon.engine.is_none().then_some(unit.as_str());
    let (image_store, (images, mut findings)) = if in_containerd {
        (ImageStore::Containerd, sources.containerd_dir()?)
    } else {
        let found = sources.image_dir();
        let found = found.map_err(|error| without_references(error, stopped));
        (ImageStore::Own, found?)
    };
    let stopped = stopped.and_then(|_| daemon.stopped(&images));
    refuse_other_users(manager, &daemon.unit, &images).await?;
    let managed = daemon.managed(flags);
    let unit = finding("unit", &managed.unit.id, daemon.named_by);
    findings.extend([unit, daemon.socket, daemon.config_file]);
    Ok(Host {
        image_store,
        images,
        management: Management::Managed(Box::new(managed)),
        sources: findings,
        stopped,
    })
}

/// The data root that everything but the engine speaks of: where to look for
/// another run's lock while the engine is away.
pub async fn probable_data_root(flags: &Flags, manager: &impl ServiceManager) -> Option<PathBuf> {
    let unit = manager.unit(&unit_name(flags).0).await.ok()?;
    let service = manager.service(&unit.id).await.ok()?;
    let command = command_line(&unit, &service).ok()?;
    let args = DockerdArgs::parse(&command.arguments);
    if !command.says_data_root(flags, &args) {
        return None;
    }
    let config = read_config(&config_file(flags, &args).ok()?).ok()?;
    let sources = Sources {
        flags,
        engine: None,
        args: &args,
        config: &config,
    };
    Some(sources.data_root().ok()?.0)
}

/// Finds a data root that no daemon is to be managed for. With a data root
/// given, this host's own configuration does not count.
///
/// # Errors
/// [`HostError`] when the flags do not lead to one image directory.
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
        image_store: ImageStore::Own,
        images,
        management: Management::Offline,
        sources,
        stopped: None,
    })
}

/// Nobody but the unit may have the data root open, or stopping the unit
/// would not be enough.
async fn refuse_other_users(
    manager: &impl ServiceManager,
    unit: &Unit,
    images: &ImageDir,
) -> Result<(), HostError> {
    if !images.is_in_use()? {
        return Ok(());
    }
    let pid = images.user();
    let owner = match pid {
        Some(pid) => manager.unit_of_process(pid).await.ok(),
        None => None,
    };
    // Hidden from us: the unit is what was said to be Docker, and the stop is
    // checked once more when it is done.
    let is_ours = pid.is_none() || owner.as_ref() == Some(&unit.id);
    if unit.is_active() && is_ours {
        return Ok(());
    }
    Err(HostError::UsedByAnother {
        data_root: images.data_root().to_owned(),
        pid,
        owner,
        unit: unit.id.clone(),
    })
}
