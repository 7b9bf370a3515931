//! The image store that a stopped Docker will use when it starts.
//!
//! dockerd up to 28 keeps images in its data root, unless
//! `features.containerd-snapshotter` is on. dockerd 29 and later keep them in containerd,
//! unless that feature is off, user namespaces are remapped, or the data root has files
//! of a storage driver (moby `daemon/image_store_choice.go`,
//! `daemon/command/daemon_linux.go`). Starting dockerd 29 may also migrate images
//! (`daemon/daemon.go`, `containerd-migration`). The version of a stopped Docker is
//! unknown, so the store is certain only if every version would use the same one.

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

/// dockerd's default storage driver on every Linux since 18.09. Every build includes it.
const OVERLAY2: &str = "overlay2";
/// Storage drivers with which every version of Docker keeps images in the data root.
/// Since 29, any other name may be that of a containerd snapshotter.
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
    /// The storage driver has this name, which may also be the name of a containerd
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
                "its unit starts {}, which does not exist: Docker was removed, but its unit is still there",
                path.display()
            ),
            Self::Containerd => f.write_str(
                "it keeps its images in containerd (the containerd image store); only a running Docker can \
                 read and change their references",
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
                "its ExecStart= is {program} instead of dockerd, so the options of dockerd are not known"
            ),
            Self::Driver(driver) => write!(
                f,
                "Docker 29 and later may keep its images in containerd with the storage driver {driver}"
            ),
            Self::NoLayers(path) => write!(
                f,
                "{} has no files of this storage driver; then Docker 29 and later keeps its images in \
                 containerd",
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

/// The features concerning containerd that would be on if dockerd started.
fn on(args: &DockerdArgs, config: &DaemonJson) -> Vec<String> {
    let mut on = args.features_of_containerd();
    on.extend(config.features_of_containerd());
    on
}

/// If Docker is stopped, replaces the error about a data root without references, because
/// Docker may use another image store or data root when it starts.
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

/// A stopped unit whose image store is uncertain or unreadable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{unit} is not running, and {why}")]
pub struct Stopped {
    pub unit: String,
    pub why: Unsure,
    /// The program that the unit starts, if known.
    pub program: Option<PathBuf>,
}

impl Stopped {
    /// If the unit's program is gone, makes that the reason, because it is more important
    /// than any other reason.
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
                return "install Docker again; or, for its images as they are: --offline --data-root DIR"
                    .to_owned();
            }
            Unsure::NoReferences(_) => "; if its data root is another one: --data-root DIR",
            _ => "",
        };
        start_first(&self.unit) + elsewhere
    }
}

/// What to type where a command needs a Docker that runs.
pub fn start_first(unit: &str) -> String {
    format!(
        "start it: systemctl start {}; then run the same command again",
        shell::word(unit)
    )
}

impl Host {
    /// The host. An error if Docker is stopped and its image store is uncertain.
    pub fn certain(self) -> Result<Self, HostError> {
        match self.stopped {
            Some(stopped) => Err(HostError::Stopped(stopped)),
            None => Ok(self),
        }
    }
}

impl Managed {
    /// The reason why this stopped Docker may not use this data root with this storage
    /// driver. `None` if Docker certainly will use both.
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
        // An earlier check has refused a unit whose environment file cannot be read.
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

    /// Features that may make this Docker migrate its images to containerd when it
    /// starts.
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

/// Whether the configuration selects the data root: the feature is off, or user
/// namespaces are remapped, which the containerd image store does not support.
fn is_set_to_own_store(args: &DockerdArgs, config: &DaemonJson) -> bool {
    let remaps = [&args.userns_remap, &config.userns_remap];
    let said = args.says_image_store().or(config.says_image_store());
    said == Some(false) || remaps.into_iter().flatten().any(|user| !user.is_empty())
}
