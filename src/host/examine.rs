//! All that can be found of Docker on this host, and all that speaks against
//! working on it: one thing that is broken hides no other.
//!
//! Goes the way of [`find_managed`](crate::host::find_managed), in its order,
//! and goes on where that stops.

use std::path::{Path, PathBuf};

use crate::data_root::ImageDir;
use crate::engine::{Engine, Info};
use crate::host::daemon::{
    Daemon, check_unit, command_line, config_file, read_config, refuse_set_twice, socket,
    unit_name, wrapped,
};
use crate::host::daemon_json::DaemonJson;
use crate::host::dockerd_args::DockerdArgs;
use crate::host::image_dir::Sources;
use crate::host::next_store::{Stopped, Unsure, without_references};
use crate::host::settle::{DEFAULT, Finding};
use crate::host::{Flags, HostError, Managed, refuse_other_users};
use crate::systemd::{Service, ServiceManager, Unit};

/// What was found, as far as it could be.
#[derive(Debug, Default)]
pub struct Examined {
    /// What speaks against working on the host. The first is what
    /// [`find_managed`](crate::host::find_managed) would stop at.
    pub errors: Vec<HostError>,
    /// Docker's unit.
    pub unit: Option<Unit>,
    /// Its configuration file, whether it is there or not.
    pub config_file: Option<PathBuf>,
    /// What the running engine says of itself.
    pub engine: Option<Info>,
    /// Its images are in containerd.
    pub containerd: bool,
    /// Where the references are.
    pub images: Option<ImageDir>,
    /// Who said so.
    pub sources: Vec<Finding>,
    /// The daemon, where enough of it is known to tell what a stop of it would
    /// disturb.
    pub managed: Option<Managed>,
}

impl Examined {
    fn take<T>(&mut self, looked: Result<T, HostError>) -> Option<T> {
        looked.map_err(|error| self.errors.push(error)).ok()
    }
}

/// Looks at a host. Without a `manager`, at its files alone.
pub async fn examine<M: ServiceManager, E: Engine>(
    flags: &Flags,
    manager: Option<&M>,
    connect: impl Fn(&Path) -> E,
) -> Examined {
    let mut found = Examined::default();
    let daemon = match manager {
        Some(manager) => look_at_unit(flags, manager, &mut found).await,
        None => None,
    };
    // Of a unit that cannot be looked at, nobody knows the command line.
    let command = match (&daemon, manager) {
        (Some((_, _, command)), _) => command.clone(),
        (None, Some(_)) => None,
        (None, None) => Some(Default::default()),
    };
    let is_known = command.is_some();
    let (command, args) = command.unwrap_or_default();
    let file = found.take(config_file(flags, &args));
    found.config_file = file.as_ref().map(|file| PathBuf::from(&file.value));
    let config = file.as_ref().and_then(|file| found.take(read_config(file)));
    let is_known = is_known && config.is_some();
    let config = config.unwrap_or_default();
    if let (Some((unit, ..)), Some(file)) = (&daemon, found.config_file.clone()) {
        found.take(refuse_set_twice(&args, &config, &file, &unit.id));
    }
    let mut answers_at = None;
    if let (Some((unit, ..)), Some(manager)) = (&daemon, manager) {
        let socket = socket(flags, manager, unit, &args, &config).await;
        answers_at = found.take(socket);
        if let (true, Some(socket)) = (unit.is_active(), &answers_at) {
            let asked = connect(Path::new(&socket.value)).info().await;
            found.engine = found.take(asked.map_err(|error| HostError::EngineSilent {
                unit: unit.id.clone(),
                error,
            }));
        }
    }
    look_for_images(flags, &args, &config, is_known, &mut found);
    let Some((unit, service, _)) = daemon else {
        return found;
    };
    if let (Some(manager), Some(images), true) = (manager, found.images.clone(), unit.is_settled())
    {
        let used = refuse_other_users(manager, &unit, &images).await;
        found.take(used);
    }
    let is_clear = unit.is_active() == found.engine.is_some() && unit.is_settled();
    if let (true, Some(config_file), Some(socket), Some(service)) =
        (is_clear, file, answers_at, service)
    {
        let daemon = Daemon {
            unit,
            named_by: DEFAULT,
            service,
            command,
            args,
            config_file,
            config,
            socket,
            engine: found.engine.clone(),
        };
        if let (None, Some(images), false) = (&found.engine, &found.images, found.containerd)
            && let Some(stopped) = daemon.stopped(images)
        {
            found.errors.push(HostError::Stopped(stopped));
        }
        found.managed = Some(daemon.managed(flags));
    }
    found
}

/// A unit, its service, and what that starts: all words, and what dockerd makes of
/// them.
type Looked = (Unit, Option<Service>, Option<(Vec<String>, DockerdArgs)>);

/// The unit, and what it starts; none when there is no such unit.
async fn look_at_unit(
    flags: &Flags,
    manager: &impl ServiceManager,
    found: &mut Examined,
) -> Option<Looked> {
    let (name, _) = unit_name(flags);
    let unit = manager.unit(&name).await.map_err(HostError::from);
    let unit = found.take(unit)?;
    let checked = check_unit(manager, &name, &unit).await;
    found.take(checked);
    if unit.load_state == "not-found" || !unit.id.ends_with(".service") {
        return None;
    }
    found.unit = Some(unit.clone());
    let service = manager.service(&unit.id).await.map_err(HostError::from);
    let service = found.take(service);
    let command = service
        .as_ref()
        .and_then(|service| found.take(command_line(&unit, service)));
    let args = command.and_then(|command| {
        let args = DockerdArgs::parse(&command.arguments);
        let known = wrapped(&unit, &command, flags, &args);
        found.take(known).map(|()| (command.words(), args))
    });
    Some((unit, service, args))
}

/// Only what all that may say it has said, or the engine itself, leads to where
/// the images are.
fn look_for_images(
    flags: &Flags,
    args: &DockerdArgs,
    config: &DaemonJson,
    is_known: bool,
    found: &mut Examined,
) {
    found.containerd = found.engine.as_ref().map_or_else(
        || args.containerd_image_store() || config.containerd_image_store(),
        |info| info.containerd_image_store,
    );
    let stopped = match (&found.unit, &found.engine) {
        (Some(unit), None) => Some(unit.id.clone()),
        _ => None,
    };
    if found.containerd && found.engine.is_none() {
        found.errors.push(match stopped {
            Some(unit) => HostError::Stopped(Stopped {
                unit,
                why: Unsure::Containerd,
            }),
            None => HostError::ContainerdImageStore,
        });
        return;
    }
    if !is_known && found.engine.is_none() && flags.data_root.is_none() {
        return;
    }
    let engine = found.engine.clone();
    let sources = Sources {
        flags,
        engine: engine.as_ref(),
        args,
        config,
    };
    let dir = if found.containerd {
        sources.containerd_dir()
    } else {
        let found = sources.image_dir();
        found.map_err(|error| without_references(error, stopped.as_deref()))
    };
    if let Some((images, sources)) = found.take(dir) {
        found.images = Some(images);
        found.sources = sources;
    }
}
