//! Where Docker lives on this host, and who says so.
//!
//! Each fact (data root, storage driver, configuration file, API socket) is
//! taken from the first source that has it, in the order of trust: flags, the
//! running engine, the unit's command line, daemon.json, defaults. Two sources
//! that say different things are not weighed against each other: a restart
//! would start another Docker than the one that runs, so that is an error.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::data_root::{ImageDir, ReadError};
use crate::engine::{Engine, EngineError, Info};
use crate::store;
use crate::systemd::{Service, ServiceManager, SystemdError, Unit, is_active};

mod daemon_json;
mod dockerd_args;
mod exec_start;

use daemon_json::{DaemonJson, DaemonJsonError};
use dockerd_args::DockerdArgs;

const DEFAULT_UNIT: &str = "docker.service";
const SNAP_UNIT: &str = "snap.docker.dockerd.service";
const DEFAULT_CONFIG_FILE: &str = "/etc/docker/daemon.json";
const DEFAULT_DATA_ROOT: &str = "/var/lib/docker";
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// What the command line says about the host.
#[derive(Debug, Clone, Default)]
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

/// Docker on this host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where the references are.
    pub images: ImageDir,
    /// What to do about the daemon.
    pub management: Management,
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
}

/// Why this host cannot be worked on as it is.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// systemd.
    #[error(
        "{0}\n  Is this host run by systemd? For a disk that no Docker uses: --offline --data-root DIR"
    )]
    Systemd(#[from] SystemdError),
    /// The unit does not exist.
    #[error("there is no unit {unit} here{}", hint(.others))]
    NoUnit {
        /// What was looked for.
        unit: String,
        /// What is there instead.
        others: Vec<String>,
    },
    /// The unit exists and systemd will not load it.
    #[error("systemd has {unit} as {load_state}: look at it with: systemctl status {unit}")]
    UnusableUnit {
        /// The unit.
        unit: String,
        /// Its load state.
        load_state: String,
    },
    /// A unit that cannot be started once it has stopped.
    #[error(
        "{unit} is transient (systemd-run): systemd forgets it when it stops, so it could not be \
         started again. Stop that Docker yourself, and use --offline"
    )]
    Transient {
        /// The unit.
        unit: String,
    },
    /// The unit is between two states.
    #[error(
        "{unit} is {state} ({sub_state}): wait until it has settled, or look why it does not: systemctl status {unit}"
    )]
    Unsettled {
        /// The unit.
        unit: String,
        /// Its active state.
        state: String,
        /// The finer one.
        sub_state: String,
    },
    /// The unit runs and its engine does not answer.
    #[error("{unit} is active, but {error}. If the API listens elsewhere: --socket PATH")]
    EngineSilent {
        /// The unit.
        unit: String,
        /// Why.
        error: EngineError,
    },
    /// The API is not on a Unix socket.
    #[error(
        "the engine listens on {0} only; give it a Unix socket as well (-H unix:///var/run/docker.sock), or say where one is: --socket PATH"
    )]
    NoUnixSocket(String),
    /// Two sources disagree.
    #[error(
        "{first_source} says that the {fact} is {first}, but {second_source} says {second}. Docker would not come back as it is now: clear that up first"
    )]
    Disagreement {
        /// What about.
        fact: &'static str,
        /// Who says the one thing.
        first_source: &'static str,
        /// The one thing.
        first: String,
        /// Who says the other.
        second_source: &'static str,
        /// The other.
        second: String,
    },
    /// The same option as a flag and in the file: dockerd does not start so.
    #[error("{option} is set in {config_file} and on the command line of {unit} as well: dockerd does not start with both, so a restart would leave Docker down. Remove one of them first", config_file = config_file.display())]
    SetTwice {
        /// The option.
        option: &'static str,
        /// The configuration file.
        config_file: PathBuf,
        /// The unit.
        unit: String,
    },
    /// dockerd could not start with its configuration file.
    #[error("{path}: {error}. Docker would not start again with it: mend it first", path = path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: DaemonJsonError,
    },
    /// A configuration file that the command line names is missing.
    #[error("{path}: {unit} names this configuration file, and it is not there. Docker would not start again", path = path.display())]
    ConfigFileMissing {
        /// The file.
        path: PathBuf,
        /// The unit.
        unit: String,
    },
    /// The unit's environment file is missing.
    #[error("an environment file of {unit} cannot be read ({error}). Docker would not start again")]
    EnvironmentFile {
        /// The unit.
        unit: String,
        /// Why.
        error: io::Error,
    },
    /// Images are in containerd.
    #[error(
        "this Docker keeps its images in containerd (the containerd image store), not in \
         repositories.json, so there is nothing to patch.\n  A digest comes back there by loading \
         an OCI archive that holds the original manifest: docker load -i ARCHIVE (made by \
         skopeo copy --preserve-digests docker://NAME@DIGEST oci-archive:ARCHIVE)"
    )]
    ContainerdImageStore,
    /// A path that is no data root.
    #[error("{path}: {problem}", path = path.display())]
    DataRoot {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// More than one way to read the host.
    #[error("{question}; say which: {flag} one of\n    {}", .candidates.join("\n    "))]
    Ambiguous {
        /// What is not clear.
        question: String,
        /// The flag that answers it.
        flag: &'static str,
        /// The answers.
        candidates: Vec<String>,
    },
    /// A driver's name that leads out of the image directory.
    #[error("{0:?} is not the name of a storage driver")]
    DriverName(String),
    /// A dockerd that does not belong to the unit uses the data root.
    #[error("{data_root} is in use by {user}, which is not {unit}. Name its unit (--unit NAME), or stop it first", data_root = data_root.display())]
    UsedByAnother {
        /// The data root.
        data_root: PathBuf,
        /// Who uses it.
        user: String,
        /// The unit that was looked at.
        unit: String,
    },
    /// The disk could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

fn hint(others: &[String]) -> String {
    if others.is_empty() {
        ". If Docker's unit has another name: --unit NAME; if no Docker runs here: --offline \
         --data-root DIR"
            .to_owned()
    } else {
        format!(", but there is {}: --unit NAME", others.join(", "))
    }
}

/// A source, and what it says.
type Said<'a> = (&'static str, Option<&'a str>);

const FLAG: &str = "your flag";
const ENGINE: &str = "the running engine";
const UNIT: &str = "the unit's command line";
const FILE: &str = "daemon.json";

/// The first thing that is said, when nothing else that is said differs.
fn settled<'a>(
    fact: &'static str,
    said: &[Said<'a>],
    same: impl Fn(&str, &str) -> bool,
) -> Result<Option<&'a str>, HostError> {
    let mut voices = said
        .iter()
        .filter_map(|(source, value)| Some((*source, (*value)?)));
    let Some((first_source, first)) = voices.next() else {
        return Ok(None);
    };
    match voices.find(|(_, value)| !same(first, value)) {
        None => Ok(Some(first)),
        Some((second_source, second)) => Err(HostError::Disagreement {
            fact,
            first_source,
            first: first.to_owned(),
            second_source,
            second: second.to_owned(),
        }),
    }
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
    let name = flags.unit.as_deref().unwrap_or(DEFAULT_UNIT);
    let unit = manager.unit(name).await?;
    check_unit(manager, name, &unit).await?;
    let service = manager.service(&unit.id).await?;
    let args = DockerdArgs::parse(&command_line(&unit, &service)?);
    let config_file = config_file(flags, &args)?;
    let config = read_config(&config_file, &args, &unit.id)?;
    refuse_set_twice(&args, &config, &config_file, &unit.id)?;
    let socket = socket(flags, manager, &unit, &args, &config).await?;
    let engine = if unit.is_active() {
        let asked = connect(&socket).info().await;
        Some(asked.map_err(|error| HostError::EngineSilent {
            unit: unit.id.clone(),
            error,
        })?)
    } else {
        None
    };
    let in_containerd = engine.as_ref().map_or_else(
        || config.containerd_image_store(),
        |info| info.containerd_image_store,
    );
    if in_containerd {
        return Err(HostError::ContainerdImageStore);
    }
    let images = image_dir(flags, engine.as_ref(), &args, &config)?;
    refuse_other_users(manager, &unit, &images).await?;
    Ok(Host {
        images,
        management: Management::Managed(Box::new(Managed {
            unit,
            service,
            engine,
            socket,
            config_file,
        })),
    })
}

/// The data root that everything but the engine speaks of: where to look for
/// another run's lock while the engine is away.
pub async fn probable_data_root(flags: &Flags, manager: &impl ServiceManager) -> Option<PathBuf> {
    let name = flags.unit.as_deref().unwrap_or(DEFAULT_UNIT);
    let unit = manager.unit(name).await.ok()?;
    let service = manager.service(&unit.id).await.ok()?;
    let args = DockerdArgs::parse(&command_line(&unit, &service).ok()?);
    let config = read_config(&config_file(flags, &args).ok()?, &args, name).ok()?;
    let images = image_dir(flags, None, &args, &config).ok()?;
    Some(images.data_root().to_owned())
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
        read_config(&config_file(flags, &args)?, &args, DEFAULT_UNIT)?
    };
    if config.containerd_image_store() {
        return Err(HostError::ContainerdImageStore);
    }
    Ok(Host {
        images: image_dir(flags, None, &args, &config)?,
        management: Management::Offline,
    })
}

async fn check_unit(
    manager: &impl ServiceManager,
    name: &str,
    unit: &Unit,
) -> Result<(), HostError> {
    match unit.load_state.as_str() {
        "loaded" => {}
        "not-found" => {
            let states = manager.active_states().await?;
            let others = [DEFAULT_UNIT, SNAP_UNIT]
                .into_iter()
                .filter(|other| {
                    *other != name && states.get(*other).is_some_and(|state| is_active(state))
                })
                .map(str::to_owned)
                .collect();
            return Err(HostError::NoUnit {
                unit: name.to_owned(),
                others,
            });
        }
        load_state => {
            return Err(HostError::UnusableUnit {
                unit: name.to_owned(),
                load_state: load_state.to_owned(),
            });
        }
    }
    if unit.transient {
        return Err(HostError::Transient {
            unit: unit.id.clone(),
        });
    }
    match unit.active_state.as_str() {
        "active" | "inactive" | "failed" => Ok(()),
        state => Err(HostError::Unsettled {
            unit: unit.id.clone(),
            state: state.to_owned(),
            sub_state: unit.sub_state.clone(),
        }),
    }
}

/// The unit's command line without the program. Where the unit runs dockerd
/// by way of something else (snap), the running process says more.
fn command_line(unit: &Unit, service: &Service) -> Result<Vec<String>, HostError> {
    let mut words = exec_start::words(service).map_err(|error| HostError::EnvironmentFile {
        unit: unit.id.clone(),
        error,
    })?;
    let runs_dockerd = words
        .first()
        .is_some_and(|program| program.rsplit('/').next() == Some("dockerd"));
    if !runs_dockerd
        && service.main_pid != 0
        && let Ok(bytes) = fs::read(format!("/proc/{}/cmdline", service.main_pid))
    {
        words = bytes
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
    }
    Ok(words.into_iter().skip(1).collect())
}

fn config_file(flags: &Flags, args: &DockerdArgs) -> Result<PathBuf, HostError> {
    let flag = flags
        .config_file
        .as_ref()
        .map(|path| path.to_string_lossy());
    let said = [(FLAG, flag.as_deref()), (UNIT, args.config_file.as_deref())];
    let path = settled("configuration file", &said, same_path)?;
    Ok(PathBuf::from(path.unwrap_or(DEFAULT_CONFIG_FILE)))
}

fn read_config(path: &Path, args: &DockerdArgs, unit: &str) -> Result<DaemonJson, HostError> {
    match DaemonJson::read(path) {
        Ok(Some(config)) => Ok(config),
        Ok(None) if args.config_file.is_some() => Err(HostError::ConfigFileMissing {
            path: path.to_owned(),
            unit: unit.to_owned(),
        }),
        Ok(None) => Ok(DaemonJson::default()),
        Err(error) => Err(HostError::ConfigFile {
            path: path.to_owned(),
            error,
        }),
    }
}

/// moby `daemon/config/config.go`, `findConfigurationConflicts`.
fn refuse_set_twice(
    args: &DockerdArgs,
    config: &DaemonJson,
    config_file: &Path,
    unit: &str,
) -> Result<(), HostError> {
    let twice = [
        (
            "data-root",
            args.data_root.is_some() && config.root().is_some(),
        ),
        (
            "storage-driver",
            args.driver.is_some() && config.storage_driver.is_some(),
        ),
        (
            "userns-remap",
            args.userns_remap.is_some() && config.userns_remap.is_some(),
        ),
        ("hosts", !args.hosts.is_empty() && !config.hosts.is_empty()),
        (
            "live-restore",
            args.live_restore && config.live_restore.is_some(),
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

async fn socket(
    flags: &Flags,
    manager: &impl ServiceManager,
    unit: &Unit,
    args: &DockerdArgs,
    config: &DaemonJson,
) -> Result<PathBuf, HostError> {
    if let Some(socket) = &flags.socket {
        return Ok(socket.clone());
    }
    let hosts = if args.hosts.is_empty() {
        &config.hosts
    } else {
        &args.hosts
    };
    if hosts.is_empty() {
        return Ok(PathBuf::from(DEFAULT_SOCKET));
    }
    if let Some(path) = hosts.iter().find_map(|host| host.strip_prefix("unix://")) {
        return Ok(PathBuf::from(if path.is_empty() {
            DEFAULT_SOCKET
        } else {
            path
        }));
    }
    if hosts.iter().any(|host| host.starts_with("fd:")) {
        for trigger in &unit.triggered_by {
            if trigger.ends_with(".socket")
                && let Some(path) = manager.listening_paths(trigger).await?.into_iter().next()
            {
                return Ok(PathBuf::from(path));
            }
        }
    }
    Err(HostError::NoUnixSocket(hosts.join(", ")))
}

fn image_dir(
    flags: &Flags,
    engine: Option<&Info>,
    args: &DockerdArgs,
    config: &DaemonJson,
) -> Result<ImageDir, HostError> {
    let userns = [&args.userns_remap, &config.userns_remap]
        .into_iter()
        .flatten()
        .any(|user| !user.is_empty());
    let flag = flags.data_root.as_ref().map(|path| path.to_string_lossy());
    let reported = engine.map(|info| info.data_root.to_string_lossy());
    let said = [
        (ENGINE, reported.as_deref()),
        (FLAG, flag.as_deref()),
        (UNIT, args.data_root.as_deref()),
        (FILE, config.root()),
    ];
    let root = settled("data root", &said, |one, other| {
        same_path(one, other) || (userns && is_remapped(one, other))
    })?;
    let root = existing_directory(Path::new(root.unwrap_or(DEFAULT_DATA_ROOT)))?;
    let root = if userns && engine.is_none() {
        remapped(&root)?
    } else {
        root
    };
    let said = [
        (FLAG, flags.driver.as_deref()),
        (ENGINE, engine.map(|info| info.driver.as_str())),
        (UNIT, args.driver.as_deref()),
        (FILE, config.storage_driver.as_deref()),
    ];
    let driver = match settled("storage driver", &said, |one, other| one == other)? {
        Some(driver) => driver.to_owned(),
        None => only_driver(&root)?,
    };
    if !matches!(
        Path::new(&driver).components().collect::<Vec<_>>()[..],
        [Component::Normal(_)]
    ) {
        return Err(HostError::DriverName(driver));
    }
    let images = ImageDir::new(&root, &driver);
    if !images.path().is_dir() {
        return Err(HostError::DataRoot {
            path: images.path(),
            problem: format!(
                "there is no such directory, so no image was ever stored by driver {driver} \
                 in this data root"
            ),
        });
    }
    Ok(images)
}

fn same_path(one: &str, other: &str) -> bool {
    let real = |path: &str| fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
    real(one) == real(other)
}

/// The engine's data root under user namespaces is `UID.GID` in the configured
/// one (moby `daemon/daemon_unix.go`, `setupDaemonRoot`).
fn is_remapped(effective: &str, configured: &str) -> bool {
    let effective = fs::canonicalize(effective).unwrap_or_else(|_| PathBuf::from(effective));
    let named_so = effective
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(is_uid_gid);
    named_so
        && effective
            .parent()
            .is_some_and(|parent| same_path(&parent.to_string_lossy(), configured))
}

fn is_uid_gid(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.split_once('.')
        .is_some_and(|(uid, gid)| number(uid) && number(gid))
}

fn existing_directory(path: &Path) -> Result<PathBuf, HostError> {
    let failed = |problem: String| HostError::DataRoot {
        path: path.to_owned(),
        problem,
    };
    if !path.is_absolute() {
        return Err(failed("a data root is an absolute path".to_owned()));
    }
    let real = fs::canonicalize(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failed(
            "there is no such directory; if Docker keeps its data elsewhere: --data-root DIR"
                .to_owned(),
        ),
        io::ErrorKind::PermissionDenied => failed("only root may look at it: use sudo".to_owned()),
        _ => failed(error.to_string()),
    })?;
    if real.is_dir() {
        Ok(real)
    } else {
        Err(failed("not a directory".to_owned()))
    }
}

fn children(path: &Path) -> Result<Vec<String>, HostError> {
    let failed = |error: io::Error| HostError::DataRoot {
        path: path.to_owned(),
        problem: match error.kind() {
            io::ErrorKind::NotFound => "there is no such directory: no image was ever stored \
                                        here, or this is not Docker's data root"
                .to_owned(),
            io::ErrorKind::PermissionDenied => "only root may look into it: use sudo".to_owned(),
            _ => error.to_string(),
        },
    };
    let mut names = Vec::new();
    for child in fs::read_dir(path).map_err(failed)? {
        names.extend(child.map_err(failed)?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

fn remapped(root: &Path) -> Result<PathBuf, HostError> {
    let mut candidates: Vec<String> = children(root)?
        .into_iter()
        .filter(|name| is_uid_gid(name) && root.join(name).join("image").is_dir())
        .map(|name| root.join(name).display().to_string())
        .collect();
    match (candidates.pop(), candidates.is_empty()) {
        (Some(only), true) => Ok(PathBuf::from(only)),
        (None, _) => Err(HostError::DataRoot {
            path: root.to_owned(),
            problem: "userns-remap is set, and there is no UID.GID directory with images in it"
                .to_owned(),
        }),
        (Some(last), false) => {
            candidates.push(last);
            Err(HostError::Ambiguous {
                question: "userns-remap is set, and several users have images".to_owned(),
                flag: "--data-root",
                candidates,
            })
        }
    }
}

fn only_driver(root: &Path) -> Result<String, HostError> {
    let image = root.join("image");
    let mut drivers: Vec<String> = children(&image)?
        .into_iter()
        .filter(|driver| image.join(driver).join(store::FILE_NAME).exists())
        .collect();
    match (drivers.pop(), drivers.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(HostError::DataRoot {
            path: image,
            problem: "no storage driver has references here".to_owned(),
        }),
        (Some(last), false) => {
            drivers.push(last);
            Err(HostError::Ambiguous {
                question: format!(
                    "several storage drivers have references in {}, and Docker does not run to \
                     say which is its own",
                    image.display()
                ),
                flag: "--driver",
                candidates: drivers,
            })
        }
    }
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
    let Some(pid) = images.user() else {
        // Hidden from us; the unit is what was said to be Docker, and the
        // stop is checked once more when it is done.
        return if unit.is_active() {
            Ok(())
        } else {
            Err(used_by_another(
                images,
                "a process that cannot be seen".to_owned(),
                unit,
            ))
        };
    };
    match manager.unit_of_process(pid).await {
        Ok(owner) if owner == unit.id && unit.is_active() => Ok(()),
        Ok(owner) => Err(used_by_another(
            images,
            format!("process {pid} of {owner}"),
            unit,
        )),
        Err(_) => Err(used_by_another(images, format!("process {pid}"), unit)),
    }
}

fn used_by_another(images: &ImageDir, user: String, unit: &Unit) -> HostError {
    HostError::UsedByAnother {
        data_root: images.data_root().to_owned(),
        user,
        unit: unit.id.clone(),
    }
}
