//! Examines Docker on this host: collects all facts, and all reasons why digestfix cannot
//! work on the host. An error does not end the examination.

use std::mem;
use std::path::{Path, PathBuf};

use crate::docker::engine::{Engine, Info};
use crate::host::daemon::{Daemon, finding, note, unit_name};
use crate::host::dockerds::{Away, Dockerd, seen};
use crate::host::image_dir::{DEFAULT_DATA_ROOT, no_data_root};
use crate::host::next_store::{Stopped, Unsure, without_references};
use crate::host::resolve::Finding;
use crate::host::{Flags, Host, HostError, Managed, Management, StoreKind};
use crate::store::data_root::ImageDir;
use crate::systemd::{ServiceManager, Unit};

/// The facts that the examination found.
#[derive(Debug, Default)]
pub struct Examined {
    /// The reasons why digestfix cannot work on the host, in the order in which they were
    /// found.
    pub errors: Vec<HostError>,
    pub unit: Option<Unit>,
    /// The path of dockerd's configuration file, which may be missing.
    pub config_file: Option<PathBuf>,
    pub engine: Option<Info>,
    pub image_store: StoreKind,
    pub images: Option<ImageDir>,
    pub sources: Vec<Finding>,
    /// The daemon. `None` if digestfix knows too little to predict what a stop of the
    /// daemon would affect.
    pub managed: Option<Managed>,
    /// Why a stopped Docker may use another image store at its next start. `None` if
    /// there is no doubt.
    pub stopped: Option<Stopped>,
}

impl Examined {
    async fn of(daemon: Daemon<'_>, manager: Option<&impl ServiceManager>) -> Self {
        let image_store = daemon.image_store();
        let mut found = Self {
            managed: daemon.managed(),
            config_file: daemon
                .config_file
                .as_ref()
                .map(|file| PathBuf::from(&file.value)),
            image_store,
            ..Self::default()
        };
        let mut errors = Vec::new();
        if let Some((images, sources)) = look_for_images(&daemon, image_store, &mut errors) {
            found.images = Some(images);
            found.sources = sources;
        }
        if let (Some(manager), Some(unit), Some(images)) = (manager, &daemon.unit, &found.images)
            && unit.is_settled()
        {
            note(&mut errors, refuse_other_users(manager, unit, images).await);
        }
        if let (Some(managed), Some(images), Some(unit)) =
            (&found.managed, &found.images, daemon.stopped())
        {
            let unit = unit.to_owned();
            let why = managed.doubts(images);
            let program = managed.start.command.first().map(PathBuf::from);
            found.stopped = why.map(|why| Stopped { unit, why, program });
        }
        let unit = daemon
            .unit
            .as_ref()
            .map(|unit| finding("unit", &unit.id, unit_name(daemon.flags).1));
        found.sources.extend(
            unit.into_iter()
                .chain(daemon.socket)
                .chain(daemon.config_file),
        );
        found.errors = daemon.errors;
        found.errors.extend(errors);
        found.unit = daemon.unit;
        found.engine = daemon.engine;
        found
    }

    /// Replaces the first error by another one if it is unclear which Docker the user
    /// means. The new error names the other running dockerds.
    pub fn disambiguate(&mut self, flags: &Flags, dockerds: &[Dockerd]) {
        let first = self.errors.first();
        let away = match &self.unit {
            Some(unit) => Away::unit(unit, first),
            None => first.and_then(Away::error),
        };
        if let Some(error) = away.and_then(|away| away.ambiguity(flags, dockerds)) {
            // The user may not have meant the Docker that the first error is about.
            self.errors.splice(..self.errors.len().min(1), [error]);
        }
        self.errors = mem::take(&mut self.errors).into_iter().map(seen).collect();
    }

    /// Returns the host if enough is known about it, even if the examination found
    /// errors.
    pub fn host(&self) -> Option<Host> {
        Some(Host {
            image_store: self.image_store,
            images: self.images.clone()?,
            management: Management::Managed(Box::new(self.managed.clone()?)),
            sources: self.sources.clone(),
            stopped: self.stopped.clone(),
        })
    }
}

/// Examines a host without changing it. Does not connect to the API of a stopped Docker,
/// because a connection would start Docker. If `manager` is `None`, reads only files.
pub async fn examine<M: ServiceManager, E: Engine>(
    flags: &Flags,
    manager: Option<&M>,
    connect: impl Fn(&Path) -> E,
) -> Examined {
    let mut daemon = Daemon::look(flags, manager).await;
    daemon.ask(connect).await;
    let mut found = Examined::of(daemon, manager).await;
    found
        .errors
        .extend(found.stopped.clone().map(HostError::Stopped));
    found
}

/// Finds Docker on a host with systemd, or returns the first error that [`examine`]
/// finds. If Docker is stopped, [`Host::certain`] shows whether Docker will use the image
/// store that was found.
pub async fn find<M: ServiceManager, E: Engine>(
    flags: &Flags,
    manager: &M,
    connect: impl Fn(&Path) -> E,
) -> Result<Host, HostError> {
    let mut daemon = Daemon::look(flags, Some(manager)).await;
    // After an error, do not ask the engine. Its answer would not help, and a hanging
    // engine would delay the error by the whole timeout.
    if daemon.errors.is_empty() {
        daemon.ask(connect).await;
    }
    let found = Examined::of(daemon, Some(manager)).await;
    let host = found.host();
    match found.errors.into_iter().next() {
        Some(error) => Err(error),
        None => host.ok_or_else(|| {
            let problem = "digestfix does not know whether this is Docker's data root";
            no_data_root(Path::new(DEFAULT_DATA_ROOT), problem)
        }),
    }
}

/// The data root according to all sources except the engine. If the engine does not
/// answer, digestfix looks in this data root for the lock of another run.
pub async fn probable_data_root(flags: &Flags, manager: &impl ServiceManager) -> Option<PathBuf> {
    let daemon = Daemon::look(flags, Some(manager)).await;
    let says = daemon.command.as_ref()?.says_data_root(flags);
    if !daemon.is_known || !says {
        return None;
    }
    Some(daemon.sources().data_root().ok()?.0)
}

/// Finds the image directory. Returns `None` if some source of the data root could not be
/// read, unless the engine or a flag names the data root.
fn look_for_images(
    daemon: &Daemon<'_>,
    image_store: StoreKind,
    errors: &mut Vec<HostError>,
) -> Option<(ImageDir, Vec<Finding>)> {
    let unit = daemon.stopped();
    let is_said = daemon.is_known || daemon.engine.is_some() || daemon.flags.data_root.is_some();
    let found = match (image_store, &daemon.unit) {
        (StoreKind::Containerd, None) => Err(HostError::ContainerdImageStore),
        (StoreKind::Containerd, Some(unit)) if !unit.is_active() => {
            Err(HostError::Stopped(Stopped {
                unit: unit.id.clone(),
                why: Unsure::Containerd,
                program: None,
            }))
        }
        _ if !is_said => return None,
        (StoreKind::Containerd, Some(_)) => daemon.sources().containerd_dir(),
        (StoreKind::Own, _) => {
            let found = daemon.sources().image_dir();
            let program = daemon.command.as_ref().map(|command| &command.program);
            found.map_err(|error| without_references(error, unit, program))
        }
    };
    note(errors, found)
}

/// Refuses a data root that a process outside the unit uses, because that process keeps
/// running when the unit stops.
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
    // If digestfix cannot see the process, assume that the process belongs to the unit.
    // After the unit has stopped, another check detects any process that still uses the
    // data root.
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
