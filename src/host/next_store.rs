//! The image store that a stopped Docker will use when it starts.
//!
//! Up to version 28, dockerd keeps images in its data root, unless
//! `features.containerd-snapshotter` is on. Since version 29, dockerd keeps images in
//! containerd, with three exceptions: `features.containerd-snapshotter` is off, user
//! namespaces are remapped, or the data root has files of a storage driver (moby
//! `daemon/image_store_choice.go`, `daemon/command/daemon_linux.go`). At its start,
//! dockerd 29 may also migrate images (`daemon/daemon.go`, `containerd-migration`). If
//! Docker is stopped, its version is unknown. So its image store is certain only if every
//! version would use the same store.

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

/// The default storage driver since Docker 18.09, on every Linux. Every build of dockerd
/// includes this driver.
const OVERLAY2: &str = "overlay2";
/// With these storage drivers, every version of Docker keeps images in the data root.
/// Since Docker 29, any other name may be the name of a containerd snapshotter.
const NAMED_DRIVERS: [&str; 2] = [OVERLAY2, "vfs"];
/// Environment variables that select an image store or a storage driver.
const VARIABLES: [&str; 3] = [
    "DOCKER_DRIVER",
    "TEST_INTEGRATION_USE_GRAPHDRIVER",
    "TEST_INTEGRATION_USE_SNAPSHOTTER",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsure {
    /// Docker was removed, but its unit is still installed.
    NoProgram(PathBuf),
    Containerd,
    Feature(String),
    Variable(&'static str),
    Wrapped(String),
    /// The name of the storage driver, which may also be the name of a containerd
    /// snapshotter.
    Driver(String),
    /// The data root contains references, but no files of the storage driver.
    NoLayers(PathBuf),
    NoReferences(PathBuf),
}

impl fmt::Display for Unsure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::NoProgram(path) => write!(
                f,
                "its program {} does not exist: Docker was removed, but its unit is still there",
                path.display()
            ),
            Self::Containerd => f.write_str(
                "Docker keeps its images in containerd (the containerd image store); only a running Docker can \
                 read and change their references",
            ),
            Self::Feature(name) => {
                write!(f, "the feature {name} may make Docker move its images at the next start")
            }
            Self::Variable(name) => write!(
                f,
                "the variable {name} of this unit may select another image store at the next start"
            ),
            Self::Wrapped(program) => write!(
                f,
                "its ExecStart= is {program} instead of dockerd, so the options of dockerd are not known"
            ),
            Self::Driver(driver) => write!(
                f,
                "Docker 29 and later, with the storage driver {driver}, may keep its images in containerd"
            ),
            Self::NoLayers(path) => write!(
                f,
                "{} has no files of this storage driver, so Docker 29 and later would keep its images in \
                 containerd",
                path.display()
            ),
            Self::NoReferences(path) => write!(
                f,
                "no storage driver has image references in {}. Docker may keep its images in containerd (the \
                 default since Docker 29), or Docker may never have run",
                path.display()
            ),
        }
    }
}

/// The features for containerd that would be on after the next start of dockerd.
fn on(args: &DockerdArgs, config: &DaemonJson) -> Vec<String> {
    let mut on = args.features_of_containerd();
    on.extend(config.features_of_containerd());
    on
}

/// Turns [`HostError::NoReferences`] into [`HostError::Stopped`] if Docker is stopped. A
/// stopped Docker may use another image store or data root when it starts.
pub(super) fn without_references(
    error: HostError,
    stopped: Option<&str>,
    program: Option<&String>,
) -> HostError {
    match (error, stopped) {
        (HostError::NoReferences(path), Some(unit)) => HostError::Stopped(Stopped {
            unit: unit.to_owned(),
            why: Unsure::NoReferences(path),
            program: program.map(PathBuf::from),
        }),
        (error, _) => error,
    }
}

/// A stopped Docker whose image store is uncertain, or cannot be read while Docker is
/// stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{unit} is not running, and {why}")]
pub struct Stopped {
    pub unit: String,
    pub why: Unsure,
    /// The program that the unit starts, if known.
    pub program: Option<PathBuf>,
}

impl Stopped {
    /// Replaces the reason if the unit's program no longer exists. A missing program
    /// matters more than any other reason.
    pub(super) fn or_removed(self) -> Self {
        match self.program {
            Some(program) if program.is_absolute() && !program.exists() => Self {
                unit: self.unit,
                why: Unsure::NoProgram(program),
                program: None,
            },
            _ => self,
        }
    }

    pub(super) fn help(&self) -> String {
        let elsewhere = match self.why {
            Unsure::NoProgram(_) => {
                return "install Docker again; or, to work on its images without Docker: --offline --data-root DIR"
                    .to_owned();
            }
            Unsure::NoReferences(_) => "; if Docker has another data root: --data-root DIR",
            _ => "",
        };
        start_first(&self.unit) + elsewhere
    }
}

/// The advice to the user if a command needs a running Docker.
pub fn start_first(unit: &str) -> String {
    format!(
        "start Docker: systemctl start {}; then run the same command again",
        shell::word(unit)
    )
}

impl Host {
    /// Returns the host, or an error if Docker is stopped and its image store is
    /// uncertain.
    pub fn certain(self) -> Result<Self, HostError> {
        match self.stopped {
            Some(stopped) => Err(HostError::Stopped(stopped)),
            None => Ok(self),
        }
    }
}

impl Managed {
    /// The reason why a stopped Docker, once it starts, may use another image store than
    /// the directory `images`. `None` if Docker will certainly use that directory.
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
        // If the environment file cannot be read, an earlier check has already refused
        // the unit.
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

    /// Features that may make Docker move its images to containerd when it starts.
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

/// Whether the configuration makes every version of Docker keep images in the data root.
/// Either the feature for the containerd image store is off, or user namespaces are
/// remapped, which that store does not support.
fn is_set_to_own_store(args: &DockerdArgs, config: &DaemonJson) -> bool {
    let remaps = [&args.userns_remap, &config.userns_remap];
    let said = args.says_image_store().or(config.says_image_store());
    said == Some(false) || remaps.into_iter().flatten().any(|user| !user.is_empty())
}
