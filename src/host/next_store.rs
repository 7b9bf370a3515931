//! Which image store a stopped Docker will use at its next start.
//!
//! Up to 28, dockerd keeps images in its data root unless
//! `features.containerd-snapshotter` is on. From 29 on it keeps them in
//! containerd, unless that feature is off, user namespaces are remapped, or the
//! data root has files of a storage driver (moby `daemon/image_store_choice.go`,
//! `daemon/command/daemon_linux.go`); and a start may move images over (29,
//! `daemon/daemon.go`, `containerd-migration`). A stopped Docker does not tell
//! its version, so a store is certain only where every version agrees.

use std::fmt;
use std::fs;
use std::path::PathBuf;

use crate::docker::engine::Info;
use crate::host::daemon_json::DaemonJson;
use crate::host::dockerd_args::DockerdArgs;
use crate::host::exec_start::variables;
use crate::host::programs::{is_dockerd, is_old_dockerd};
use crate::host::{Host, HostError, Managed};
use crate::store::data_root::ImageDir;
use crate::sys::shell;

/// dockerd's own storage driver on every Linux since 18.09; each build has it.
const OVERLAY2: &str = "overlay2";
/// From 29 on, these names of a storage driver mean the data root. Others may
/// mean a snapshotter of containerd.
const NAMED_DRIVERS: [&str; 2] = [OVERLAY2, "vfs"];
/// Variables that choose a store or a driver.
const VARIABLES: [&str; 3] = [
    "DOCKER_DRIVER",
    "TEST_INTEGRATION_USE_GRAPHDRIVER",
    "TEST_INTEGRATION_USE_SNAPSHOTTER",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsure {
    Containerd,
    Feature(String),
    Variable(&'static str),
    Wrapped(String),
    /// A storage driver that may be a snapshotter of containerd.
    Driver(String),
    /// The data root has references, and no files of this storage driver.
    NoLayers(PathBuf),
    NoReferences(PathBuf),
}

impl fmt::Display for Unsure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Containerd => f.write_str(
                "it keeps its images in containerd (the containerd image store), whose references only a \
                 running Docker reads and changes",
            ),
            Self::Feature(name) => {
                write!(f, "the feature {name} may move its images at the next start")
            }
            Self::Variable(name) => write!(
                f,
                "the variable {name} of its unit may choose another image store at the next start"
            ),
            Self::Wrapped(program) => write!(
                f,
                "its unit starts {program} and not dockerd itself, so the options of dockerd are not known"
            ),
            Self::Driver(driver) => write!(
                f,
                "Docker 29 and later may keep its images in containerd with the storage driver {driver}"
            ),
            Self::NoLayers(path) => write!(
                f,
                "{} has no files of this storage driver: Docker 29 and later keeps its images in containerd \
                 then",
                path.display()
            ),
            Self::NoReferences(path) => write!(
                f,
                "no storage driver has references in {}: Docker 29 and later keeps its images in containerd \
                 by default, and a Docker that has never run has none",
                path.display()
            ),
        }
    }
}

/// Features of containerd that a dockerd would start with.
fn on(args: &DockerdArgs, config: &DaemonJson) -> Vec<String> {
    let mut on = args.features_of_containerd();
    on.extend(config.features_of_containerd());
    on
}

/// A data root without references says nothing of a Docker that does not run.
pub(super) fn without_references(error: HostError, stopped: Option<&str>) -> HostError {
    match (error, stopped) {
        (HostError::NoReferences(path), Some(unit)) => HostError::Stopped(Stopped {
            unit: unit.to_owned(),
            why: Unsure::NoReferences(path),
        }),
        (error, _) => error,
    }
}

/// A unit that does not run, and whose image store is not certain or cannot be
/// read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{unit} does not run, and {why}")]
pub struct Stopped {
    pub unit: String,
    pub why: Unsure,
}

impl Stopped {
    pub(super) fn help(&self) -> String {
        let elsewhere = match self.why {
            Unsure::NoReferences(_) => "; if its data root is another one: --data-root DIR",
            _ => "",
        };
        format!(
            "start it first, then the same command again: systemctl start {}{elsewhere}",
            shell::word(&self.unit)
        )
    }
}

impl Host {
    /// The host, where it is certain which image store its Docker uses.
    pub fn certain(self) -> Result<Self, HostError> {
        match self.stopped {
            Some(stopped) => Err(HostError::Stopped(stopped)),
            None => Ok(self),
        }
    }
}

impl Managed {
    /// Why this Docker, which does not run, is not certain to use the store of this
    /// driver in this data root; none where it is.
    pub(super) fn doubts(&self, images: &ImageDir) -> Option<Unsure> {
        let program = self.start.command.first();
        if let Some(program) = program
            && !is_dockerd(program)
        {
            return Some(Unsure::Wrapped(program.clone()));
        }
        let (args, config) = (self.args(), &self.start.config);
        if let Some(name) = on(&args, config).into_iter().next() {
            return Some(Unsure::Feature(name));
        }
        // One that cannot be read was refused before.
        let set = variables(&self.service).unwrap_or_default();
        let is_set = |name: &&str| set.get(*name).is_some_and(|value| !value.is_empty());
        if let Some(name) = VARIABLES.into_iter().find(is_set) {
            return Some(Unsure::Variable(name));
        }
        let is_old = program.is_some_and(|program| is_old_dockerd(program));
        if is_old || is_set_to_own_store(&args, config) {
            return None;
        }
        let named = [&args.driver, &config.storage_driver];
        let mut named = named.into_iter().flatten().filter(|name| !name.is_empty());
        match named.next() {
            Some(name) if NAMED_DRIVERS.contains(&name.as_str()) => None,
            Some(name) => Some(Unsure::Driver(name.clone())),
            None if images.driver() != OVERLAY2 => Some(Unsure::Driver(images.driver().to_owned())),
            None => {
                let layers = images.data_root().join(OVERLAY2);
                let any = fs::read_dir(&layers).is_ok_and(|mut files| files.next().is_some());
                (!any).then_some(Unsure::NoLayers(layers))
            }
        }
    }

    /// Features that may move the images of this Docker to containerd when it
    /// starts again.
    pub fn moves_images(&self) -> Vec<String> {
        let in_containerd = |info: &Info| info.containerd_image_store;
        if self.engine.as_ref().is_some_and(in_containerd) {
            return Vec::new();
        }
        on(&self.args(), &self.start.config)
    }

    fn args(&self) -> DockerdArgs {
        DockerdArgs::parse(self.start.command.get(1..).unwrap_or_default())
    }
}

/// The data root is what was chosen: the feature is off, or user namespaces
/// are remapped, which the containerd image store cannot do.
fn is_set_to_own_store(args: &DockerdArgs, config: &DaemonJson) -> bool {
    let remaps = [&args.userns_remap, &config.userns_remap];
    let said = args.says_image_store().or(config.says_image_store());
    said == Some(false) || remaps.into_iter().flatten().any(|user| !user.is_empty())
}
