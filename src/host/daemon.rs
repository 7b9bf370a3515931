//! The Docker daemon on this host: its unit, the command that the unit runs, its
//! configuration file and its API socket.

use std::path::{Path, PathBuf};

use crate::docker::engine::{Engine, Info};
use crate::host::daemon_json::DaemonJson;
use crate::host::dockerd_args::DockerdArgs;
use crate::host::engine_start::PROC;
use crate::host::image_dir::Sources;
use crate::host::programs::is_dockerd;
use crate::host::resolve::{DEFAULT, FILE, FLAG, Finding, UNIT, resolved};
use crate::host::{Flags, HostError, Managed, Start, StoreKind, exec_start, image_dir, programs};
use crate::systemd::{Service, ServiceManager, Unit};

pub(super) const DEFAULT_UNIT: &str = "docker.service";
pub(super) const SNAP_UNIT: &str = "snap.docker.dockerd.service";
pub(super) const DEFAULT_CONFIG_FILE: &str = "/etc/docker/daemon.json";
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Information about the daemon from systemd, from files, and from the engine itself.
pub(super) struct Daemon<'a> {
    pub flags: &'a Flags,
    /// The reasons why digestfix cannot work with the daemon, in the order in which they
    /// were found.
    pub errors: Vec<HostError>,
    /// The daemon's unit. `None` if this host has no systemd, or if systemd does not know
    /// the unit.
    pub unit: Option<Unit>,
    pub service: Option<Service>,
    pub command: Option<CommandLine>,
    pub args: DockerdArgs,
    pub config_file: Option<Finding>,
    pub config: DaemonJson,
    /// Whether digestfix could read both dockerd's command line and its configuration
    /// file.
    pub is_known: bool,
    pub socket: Option<Finding>,
    /// The information that the engine reports. `None` if the engine is not running.
    pub engine: Option<Info>,
}

/// Returns the result, or adds the error to `errors`.
pub(super) fn note<T>(errors: &mut Vec<HostError>, found: Result<T, HostError>) -> Option<T> {
    found.map_err(|error| errors.push(error)).ok()
}

impl<'a> Daemon<'a> {
    /// Collects facts about the daemon without connecting to it. If `manager` is `None`,
    /// reads only files.
    pub(super) async fn look(flags: &'a Flags, manager: Option<&impl ServiceManager>) -> Self {
        let mut errors = Vec::new();
        let (mut unit, mut service, mut command) = (None, None, None);
        if let Some(manager) = manager {
            unit = look_at_unit(flags, manager, &mut errors).await;
            if let Some(unit) = &unit {
                let asked = manager.service(&unit.id).await.map_err(HostError::from);
                service = note(&mut errors, asked);
                let line = service
                    .as_ref()
                    .map(|found| command_line(unit, found, flags));
                command = match line {
                    // `look_at_unit` has already reported that the unit is not loaded. A
                    // unit that is not loaded starts no program.
                    Some(Err(_)) if unit.load_state != "loaded" => None,
                    line => line.and_then(|line| note(&mut errors, line)),
                };
            }
        }
        let args = command.as_ref().map(CommandLine::args).unwrap_or_default();
        let config_file = note(&mut errors, config_file(flags, &args));
        let read = config_file.as_ref().map(read_config);
        let config = read.and_then(|read| note(&mut errors, read));
        let is_known = config.is_some() && (command.is_some() || manager.is_none());
        let config = config.unwrap_or_default();
        if let (Some(unit), Some(file)) = (&unit, &config_file) {
            let file = Path::new(&file.value);
            note(
                &mut errors,
                refuse_set_twice(&args, &config, file, &unit.id),
            );
        }
        let socket = match (manager, &unit) {
            (Some(manager), Some(unit)) => {
                let found = socket(flags, manager, unit, &args, &config).await;
                note(&mut errors, found)
            }
            _ => None,
        };
        Self {
            flags,
            errors,
            unit,
            service,
            command,
            args,
            config_file,
            config,
            is_known,
            socket,
            engine: None,
        }
    }

    /// Asks a running engine for its information. Does not connect if the unit is
    /// stopped, because a connection to the socket would start Docker.
    pub(super) async fn ask<E: Engine>(&mut self, connect: impl Fn(&Path) -> E) {
        let running = self.unit.as_ref().filter(|unit| unit.is_active());
        if let (Some(unit), Some(socket)) = (running, &self.socket) {
            let asked = connect(Path::new(&socket.value)).info().await;
            let asked = asked.map_err(|error| HostError::EngineSilent {
                unit: unit.id.clone(),
                error,
            });
            self.engine = note(&mut self.errors, asked);
        }
    }

    pub(super) const fn sources(&self) -> Sources<'_> {
        Sources {
            flags: self.flags,
            engine: self.engine.as_ref(),
            args: &self.args,
            config: &self.config,
        }
    }

    /// The name of the daemon's unit if the unit is stopped. `None` if the unit is
    /// running or unknown.
    pub(super) fn stopped(&self) -> Option<&str> {
        let unit = self.unit.as_ref().filter(|unit| !unit.is_active())?;
        Some(&unit.id)
    }

    /// The daemon. `None` if digestfix knows too little to predict what a stop of the
    /// daemon would affect.
    pub(super) fn managed(&self) -> Option<Managed> {
        let (unit, service) = (self.unit.as_ref()?, self.service.as_ref()?);
        let (config_file, socket) = (self.config_file.as_ref()?, self.socket.as_ref()?);
        if !unit.is_settled() || unit.is_active() != self.engine.is_some() {
            return None;
        }
        Some(Managed {
            flags: self.flags.clone(),
            unit: unit.clone(),
            service: service.clone(),
            engine: self.engine.clone(),
            socket: PathBuf::from(&socket.value),
            config_file: PathBuf::from(&config_file.value),
            live_restore_flag: self.args.live_restore,
            live_restore_at_start: self.args.live_restore.or(self.config.live_restore)
                == Some(true),
            forgotten_by_reload: self.args.forgotten_by_reload.clone(),
            undone_by_reload: self.args.undone_by_reload.clone(),
            leaves_proxy_to_be_found: self.config.leaves_proxy_to_be_found(),
            start: Start {
                command: self
                    .command
                    .as_ref()
                    .map(CommandLine::words)
                    .unwrap_or_default(),
                names_config_file: self.args.config_file.is_some(),
                config: self.config.clone(),
            },
        })
    }

    /// The image store that the engine reports or, if the engine is not running, that its
    /// configuration selects.
    pub(super) fn image_store(&self) -> StoreKind {
        let in_containerd = self.engine.as_ref().map_or_else(
            || self.args.containerd_image_store() || self.config.containerd_image_store(),
            |info| info.containerd_image_store,
        );
        match in_containerd {
            true => StoreKind::Containerd,
            false => StoreKind::Own,
        }
    }
}

/// Examines the unit. Returns `None` if systemd does not know the unit, or if the unit is
/// not a service.
async fn look_at_unit(
    flags: &Flags,
    manager: &impl ServiceManager,
    errors: &mut Vec<HostError>,
) -> Option<Unit> {
    let (name, _) = unit_name(flags);
    let unit = manager.unit(&name).await.map_err(HostError::from);
    let unit = note(errors, unit)?;
    note(errors, check_unit(manager, &name, &unit).await);
    (unit.load_state != "not-found" && unit.id.ends_with(".service")).then_some(unit)
}

pub(super) fn finding(fact: &'static str, value: &str, source: &'static str) -> Finding {
    Finding {
        fact,
        value: value.to_owned(),
        source,
    }
}

const UNIT_TYPES: [&str; 11] = [
    ".service",
    ".socket",
    ".target",
    ".timer",
    ".path",
    ".mount",
    ".automount",
    ".scope",
    ".slice",
    ".swap",
    ".device",
];

/// The name of the unit. Adds `.service` to a name without a unit type, as systemctl
/// does.
pub(super) fn unit_name(flags: &Flags) -> (String, &'static str) {
    match flags.unit.as_deref() {
        None => (DEFAULT_UNIT.to_owned(), DEFAULT),
        Some(name) if UNIT_TYPES.iter().any(|kind| name.ends_with(kind)) => (name.to_owned(), FLAG),
        Some(name) => (format!("{name}.service"), FLAG),
    }
}

async fn check_unit(
    manager: &impl ServiceManager,
    name: &str,
    unit: &Unit,
) -> Result<(), HostError> {
    match unit.load_state.as_str() {
        "loaded" => {}
        "not-found" => {
            let mut others = Vec::new();
            for other in [DEFAULT_UNIT, SNAP_UNIT] {
                if other != name && manager.unit(other).await?.load_state == "loaded" {
                    others.push(other.to_owned());
                }
            }
            return Err(HostError::NoUnit {
                unit: name.to_owned(),
                others,
                instead: programs::instead_of_docker(),
            });
        }
        load_state => {
            return Err(HostError::UnusableUnit {
                unit: name.to_owned(),
                load_state: load_state.to_owned(),
            });
        }
    }
    if !unit.id.ends_with(".service") {
        return Err(HostError::NotAService(unit.id.clone()));
    }
    if unit.transient {
        return Err(HostError::Transient {
            unit: unit.id.clone(),
        });
    }
    if unit.is_settled() {
        return Ok(());
    }
    Err(HostError::Unsettled {
        unit: unit.id.clone(),
        state: unit.active_state.clone(),
        sub_state: unit.sub_state.clone(),
    })
}

/// The command that a unit runs.
pub(super) struct CommandLine {
    pub program: String,
    arguments: Vec<String>,
}

impl CommandLine {
    fn new(words: Vec<String>) -> Self {
        let mut words = words.into_iter();
        Self {
            program: words.next().unwrap_or_default(),
            arguments: words.collect(),
        }
    }

    /// The program and its arguments as one list.
    fn words(&self) -> Vec<String> {
        [std::slice::from_ref(&self.program), &self.arguments].concat()
    }

    fn args(&self) -> DockerdArgs {
        DockerdArgs::parse(&self.arguments)
    }

    fn is_dockerd(&self) -> bool {
        is_dockerd(&self.program)
    }

    /// Whether digestfix can tell the data root. Either an option names the data root, or
    /// the command is dockerd itself, which has a known default.
    pub(super) fn says_data_root(&self, flags: &Flags) -> bool {
        self.is_dockerd() || flags.data_root.is_some() || self.args().data_root.is_some()
    }
}

/// The unit's command line. If the unit starts dockerd through another program (snap),
/// the command line comes from the running dockerd process. If dockerd is not running,
/// returns an error unless an option names the data root.
fn command_line(unit: &Unit, service: &Service, flags: &Flags) -> Result<CommandLine, HostError> {
    let words = exec_start::words(service).map_err(|error| HostError::EnvironmentFile {
        unit: unit.id.clone(),
        error,
    })?;
    let mut command = CommandLine::new(words);
    if !command.is_dockerd()
        && service.main_pid != 0
        && let Some(running) = running_command(service.main_pid)
    {
        command = running;
    }
    if unit.is_active() || command.says_data_root(flags) {
        return Ok(command);
    }
    Err(HostError::Wrapped {
        unit: unit.id.clone(),
        program: command.program,
    })
}

/// The command line of a process. `None` if the process is not a dockerd.
fn running_command(pid: u32) -> Option<CommandLine> {
    let words = programs::words(&Path::new(PROC).join(format!("{pid}/cmdline")))?;
    let running = CommandLine::new(words);
    running.is_dockerd().then_some(running)
}

pub(super) fn config_file(flags: &Flags, args: &DockerdArgs) -> Result<Finding, HostError> {
    const FACT: &str = "configuration file";
    let flag = flags
        .config_file
        .as_ref()
        .map(|path| path.to_string_lossy());
    let said = [(FLAG, flag.as_deref()), (UNIT, args.config_file.as_deref())];
    let (source, path) =
        resolved(FACT, &said, image_dir::same_path)?.unwrap_or((DEFAULT, DEFAULT_CONFIG_FILE));
    Ok(finding(FACT, path, source))
}

pub(super) fn read_config(file: &Finding) -> Result<DaemonJson, HostError> {
    let path = PathBuf::from(&file.value);
    match DaemonJson::read(&path) {
        Ok(Some(config)) => Ok(config),
        Ok(None) if file.source == DEFAULT => Ok(DaemonJson::default()),
        Ok(None) => Err(HostError::ConfigFileMissing {
            path,
            named_by: file.source,
        }),
        Err(error) => Err(HostError::ConfigFile { path, error }),
    }
}

/// Refuses options that are set both on the command line and in daemon.json, as dockerd
/// does (moby `daemon/config/config.go`, `findConfigurationConflicts`).
fn refuse_set_twice(
    args: &DockerdArgs,
    config: &DaemonJson,
    config_file: &Path,
    unit: &str,
) -> Result<(), HostError> {
    let twice = [
        (
            "data-root",
            args.data_root.is_some() && (config.has("data-root") || config.has("graph")),
        ),
        (
            "storage-driver",
            args.driver.is_some() && config.has("storage-driver"),
        ),
        (
            "userns-remap",
            args.userns_remap.is_some() && config.has("userns-remap"),
        ),
        ("hosts", !args.hosts.is_empty() && config.has("hosts")),
        (
            "live-restore",
            args.live_restore.is_some() && config.has("live-restore"),
        ),
        (
            "features",
            !args.features.is_empty() && config.has("features"),
        ),
    ];
    match twice.into_iter().find(|(_, is_set_twice)| *is_set_twice) {
        None => Ok(()),
        Some((option, _)) => Err(HostError::SetTwice {
            option,
            config_file: config_file.to_owned(),
            unit: unit.to_owned(),
        }),
    }
}

/// The API socket, which must be a Unix socket. digestfix ignores `DOCKER_HOST`, because
/// that variable is for the user's client, and may name an engine on another host.
async fn socket(
    flags: &Flags,
    manager: &impl ServiceManager,
    unit: &Unit,
    args: &DockerdArgs,
    config: &DaemonJson,
) -> Result<Finding, HostError> {
    const FACT: &str = "API socket";
    if let Some(socket) = &flags.socket {
        return Ok(finding(FACT, &socket.to_string_lossy(), FLAG));
    }
    let (hosts, source) = if args.hosts.is_empty() {
        (config.hosts(), FILE)
    } else {
        (&args.hosts[..], UNIT)
    };
    if hosts.is_empty() {
        return Ok(finding(FACT, DEFAULT_SOCKET, DEFAULT));
    }
    match hosts.iter().find_map(|host| host.strip_prefix("unix://")) {
        // If the path is empty, dockerd listens on its default socket.
        Some("") => return Ok(finding(FACT, DEFAULT_SOCKET, source)),
        Some(path) => return Ok(finding(FACT, path, source)),
        None => {}
    }
    if hosts.iter().any(|host| host.starts_with("fd:"))
        && let Some(path) = trigger_socket(manager, unit).await?
    {
        return Ok(finding(FACT, &path, "the unit's socket"));
    }
    Err(HostError::NoUnixSocket(hosts.join(", ")))
}

/// The path at which one of the unit's socket units listens. Prefers active socket units
/// to inactive ones.
async fn trigger_socket(
    manager: &impl ServiceManager,
    unit: &Unit,
) -> Result<Option<String>, HostError> {
    let mut found = None;
    for name in &unit.triggered_by {
        if !name.ends_with(".socket") {
            continue;
        }
        let trigger = manager.unit(name).await?;
        if trigger.load_state != "loaded" || (found.is_some() && !trigger.is_active()) {
            continue;
        }
        let path = manager.listening_paths(name).await?.into_iter().next();
        if path.is_some() && trigger.is_active() {
            return Ok(path);
        }
        found = found.or(path);
    }
    Ok(found)
}
