//! Host errors: why digestfix cannot work on a host in its present state. The messages
//! address the administrator who has to repair the host.

use std::io;
use std::path::PathBuf;

use crate::docker::engine::EngineError;
use crate::host::DaemonJsonError;
use crate::host::Rootless;
use crate::host::daemon::SNAP_UNIT;
use crate::host::next_store::Stopped;
use crate::host::resolve::FLAG;
use crate::store::data_root::ReadError;
use crate::sys::shell;
use crate::systemd::SystemdError;

/// The reason why digestfix cannot work on this host in its present state.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error("there is no unit {unit} here{}", but(.others, .instead))]
    NoUnit {
        unit: String,
        /// Other units on this host that run Docker, or that have a usual name of
        /// Docker's unit.
        others: Vec<String>,
        /// Other programs on this host that run containers.
        instead: Vec<&'static str>,
    },
    #[error(
        "the Docker here is rootless and belongs to {} ({}), and only that user can stop it{}",
        whom(.rootless), .rootless.data_root.display(), unit_beside(.unit)
    )]
    Rootless {
        rootless: Box<Rootless>,
        /// The stopped unit of the system's own Docker, if there is one.
        unit: Option<String>,
    },
    #[error("digestfix runs in a container ({0}), but must run on the host of Docker")]
    InContainer(String),
    #[error("no containerd of a Kubernetes node answers here ({})", .0.join("; "))]
    NoNode(Vec<String>),
    #[error(
        "{0} is for images of Docker, but --store kubernetes selects the images of a Kubernetes node"
    )]
    OnlyForDocker(&'static str),
    #[error("systemd reports {unit} as {load_state}, so Docker would not start again")]
    UnusableUnit { unit: String, load_state: String },
    #[error("{0} is not a service")]
    NotAService(String),
    #[error(
        "{unit} is stopped, and its ExecStart= is {program} instead of dockerd, so the data root is not known"
    )]
    Wrapped { unit: String, program: String },
    #[error(
        "{unit} is transient (systemd-run): once a transient unit has stopped, systemd cannot start it \
         again"
    )]
    Transient { unit: String },
    #[error("{unit} is {state} ({sub_state})")]
    Unsettled {
        unit: String,
        state: String,
        sub_state: String,
    },
    #[error("{unit} is active, but {error}")]
    EngineSilent { unit: String, error: EngineError },
    #[error("the engine listens on {0} only, and on no Unix socket")]
    NoUnixSocket(String),
    #[error("{first_source} says that the {fact} is {first}, but {second_source} says {second}")]
    Disagreement {
        fact: &'static str,
        first_source: &'static str,
        first: String,
        second_source: &'static str,
        second: String,
    },
    #[error("{option} is set in {config_file} and on the command line of {unit} as well: dockerd does not start with both, so a restart would leave Docker down", config_file = config_file.display())]
    SetTwice {
        option: &'static str,
        config_file: PathBuf,
        unit: String,
    },
    #[error("{path}: {error}. Docker would not start again with this file", path = path.display())]
    ConfigFile {
        path: PathBuf,
        error: DaemonJsonError,
    },
    #[error("{named_by} names the configuration file {path}, but this file does not exist{}", without_file(.named_by), path = path.display())]
    ConfigFileMissing {
        path: PathBuf,
        named_by: &'static str,
    },
    #[error(
        "an environment file of {unit} cannot be read ({error}), so Docker would not start again"
    )]
    EnvironmentFile { unit: String, error: io::Error },
    #[error(
        "this Docker keeps its images in containerd (the containerd image store); only a running Docker can \
         read and change their references"
    )]
    ContainerdImageStore,
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(
        "{}: no storage driver has image references here. Either no image was ever stored, or Docker keeps its \
         images in containerd or in another data root", .0.display()
    )]
    NoReferences(PathBuf),
    #[error("{path}: {problem}", path = path.display())]
    DataRoot { path: PathBuf, problem: String },
    #[error("{path}: {error}", path = path.display())]
    Link { path: PathBuf, error: io::Error },
    #[error("{question}: {}", .candidates.join(", "))]
    Ambiguous {
        question: String,
        flag: &'static str,
        candidates: Vec<String>,
    },
    #[error("{0:?} is not the name of a storage driver")]
    DriverName(String),
    #[error("{data_root} is in use by {}{}", user(.pid, .owner), whose(.owner, .unit), data_root = data_root.display())]
    UsedByAnother {
        data_root: PathBuf,
        pid: Option<u32>,
        owner: Option<String>,
        unit: String,
    },
    #[error("{data_root} is in use by a running dockerd{}", .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), data_root = data_root.display())]
    InUse {
        data_root: PathBuf,
        pid: Option<u32>,
    },
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl HostError {
    /// Whether systemd has no unit with which it could start Docker.
    pub fn is_without_docker(&self) -> bool {
        match self {
            Self::NoUnit { others, .. } => others.is_empty(),
            Self::UnusableUnit { load_state, .. } => load_state == "masked",
            _ => false,
        }
    }

    pub fn help(&self) -> Option<String> {
        let word = shell::word;
        Some(match self {
            Self::Systemd(error) => {
                let first = error.help().map(|help| format!("{help}; ")).unwrap_or_default();
                format!("{first}for a disk that no Docker uses: {OFFLINE}")
            }
            Self::NoUnit {
                others, instead, ..
            } if others.is_empty() && !instead.is_empty() => format!(
                "for a Kubernetes node: --store kubernetes; for Podman and CRI-O: skopeo copy \
                 --preserve-digests; if Docker's unit has another name: --unit NAME; for a data root of \
                 Docker: {OFFLINE}"
            ),
            Self::NoUnit { others, .. } if others.is_empty() => format!(
                "if Docker's unit has another name (systemctl list-unit-files '*docker*'): --unit NAME; if no \
                 Docker runs here: {OFFLINE}"
            ),
            Self::NoUnit { others, .. } if others.iter().any(|unit| unit == SNAP_UNIT) => {
                format!("say which: --unit {SNAP_UNIT}{SNAP_OPTIONS}")
            }
            Self::NoUnit { others, .. } => one_of("--unit", others),
            Self::Rootless { rootless, .. } => {
                let line = format!("digestfix apply CLAIM {}", rootless.options_in_words());
                rootless.commands(&line)
            }
            Self::InContainer(_) => {
                format!("run digestfix on the host; for a data root that is mounted here: {OFFLINE}")
            }
            Self::NoNode(_) => {
                "check containerd (systemctl status containerd) and its CRI (crictl info); if the \
                 socket is elsewhere: --containerd-socket PATH"
                    .to_owned()
            }
            Self::OnlyForDocker(flag) => format!("leave out {flag} or --store kubernetes"),
            Self::UnusableUnit { unit, load_state } if load_state == "masked" => format!(
                "systemctl unmask {}; or, if Docker should not run here: {OFFLINE}",
                word(unit)
            ),
            Self::UnusableUnit { unit, .. } => format!(
                "systemctl status {}; fix the problem that systemctl shows, then: systemctl daemon-reload",
                word(unit)
            ),
            Self::NotAService(_) => {
                "name the service that runs dockerd (systemctl list-units --type=service): --unit NAME.service"
                    .to_owned()
            }
            Self::Wrapped { unit, .. } => {
                format!("start the unit (systemctl start {}), or name the data root: --data-root DIR", word(unit))
            }
            Self::Transient { unit } => format!("systemctl stop {}; then: {OFFLINE}", word(unit)),
            Self::Unsettled { unit, .. } => format!(
                "wait until the unit has started or stopped; to see what it waits for: systemctl status {}",
                word(unit)
            ),
            Self::EngineSilent { unit, .. } => format!(
                "find the cause in the log: journalctl -u {} -n 50; if Docker's API has another socket: --socket PATH",
                word(unit)
            ),
            Self::NoUnixSocket(_) => {
                "let dockerd listen on a Unix socket too (-H unix:///var/run/docker.sock), or name its Unix \
                 socket: --socket PATH"
                    .to_owned()
            }
            Self::Disagreement {
                first_source,
                second_source,
                ..
            } => {
                let first = match [first_source, second_source].contains(&&FLAG) {
                    true => "leave your flag out, or find out which of the two sources is wrong",
                    false => "make the two sources agree, because Docker would start again with other settings",
                };
                format!("{first}: docker info, systemctl cat docker.service, daemon.json")
            }
            Self::SetTwice {
                option,
                config_file,
                unit,
            } => format!(
                "remove {option} from {}, or remove the flag from the unit: systemctl edit --full {}",
                config_file.display(),
                word(unit)
            ),
            Self::ConfigFile { path, .. } => format!(
                "fix {path}; to check it (Docker 23.0 and later): dockerd --validate \
                 --config-file {path}",
                path = shell::path(path)
            ),
            Self::ConfigFileMissing { named_by, .. } if *named_by == FLAG => {
                "leave --config-file out, or name a file that exists: --config-file FILE".to_owned()
            }
            Self::ConfigFileMissing { path, .. } => format!("put {} back", path.display()),
            Self::EnvironmentFile { unit, .. } => format!(
                "restore the file that EnvironmentFile= names; to see its name: systemctl cat {}",
                word(unit)
            ),
            Self::ContainerdImageStore => {
                "systemctl start docker; then run the same command without --offline".to_owned()
            }
            Self::Stopped(stopped) => stopped.help(),
            Self::DataRoot { .. } | Self::NoReferences(_) => {
                "on the host of that Docker: docker info -f '{{.DockerRootDir}} {{.Driver}}'; then here: --data-root \
                 DIR --driver NAME"
                    .to_owned()
            }
            Self::Link { path, .. } => format!(
                "stop that Docker, replace the link by a directory, and mount the link's target on this \
                 directory: mount --bind TARGET {}",
                shell::path(path)
            ),
            Self::Ambiguous {
                flag, candidates, ..
            } => one_of(flag, candidates),
            Self::DriverName(_) => {
                "on the host of that Docker: docker info -f '{{.Driver}}'; then here: --driver NAME"
                    .to_owned()
            }
            Self::UsedByAnother {
                pid, owner, unit, ..
            } => match (owner, pid) {
                (Some(owner), _) if owner == unit => format!(
                    "end that process first; to see what it does: systemctl status {}",
                    word(unit)
                ),
                (Some(owner), _) if owner.ends_with(".service") => format!(
                    "if you mean that Docker: --unit {owner}; if not, stop it first: systemctl stop {owner}",
                    owner = word(owner)
                ),
                (_, Some(pid)) => format!("end that process first; to see what it is: ps -fp {pid}"),
                _ => "first end the dockerd that does not belong to the unit; to see both: ps -C dockerd -f".to_owned(),
            },
            Self::InUse { .. } => "leave --offline out, or stop that Docker".to_owned(),
            Self::Read(error) => return error.help(),
        })
    }
}

/// The options that name the data root and the configuration file of Docker's snap
/// package.
const SNAP_OPTIONS: &str = " --data-root /var/snap/docker/common/var-lib-docker --config-file \
    /var/snap/docker/current/config/daemon.json";

/// The command-line options for a disk that belongs to another host.
const OFFLINE: &str = "--offline --data-root DIR";

fn but(others: &[String], instead: &[&str]) -> String {
    match (others.is_empty(), instead.is_empty()) {
        (false, _) => format!(", but there is {}", others.join(" and ")),
        (true, false) => format!(", but there is {}", instead.join(" and ")),
        (true, true) => String::new(),
    }
}

fn unit_beside(unit: &Option<String>) -> String {
    unit.as_ref().map_or_else(String::new, |unit| {
        format!(
            "; {unit} is not running (to use its images: --unit {})",
            shell::word(unit)
        )
    })
}

fn whom(rootless: &Rootless) -> String {
    match rootless.is_own {
        true => "you".to_owned(),
        false => rootless.user.clone(),
    }
}

/// Advice that shows the flag with each of its possible values.
fn one_of(flag: &str, values: &[String]) -> String {
    let flags: Vec<String> = values
        .iter()
        .map(|value| format!("{flag} {}", shell::word(value)))
        .collect();
    format!("say which: {}", flags.join("; or: "))
}

fn without_file(named_by: &str) -> &'static str {
    match named_by == FLAG {
        true => "",
        false => ", so Docker would not start again",
    }
}

fn user(pid: &Option<u32>, owner: &Option<String>) -> String {
    match (pid, owner) {
        (Some(pid), Some(owner)) => format!("process {pid} of {owner}"),
        (Some(pid), None) => format!("process {pid}"),
        (None, _) => "a process that digestfix cannot see".to_owned(),
    }
}

fn whose(owner: &Option<String>, unit: &str) -> String {
    match owner {
        Some(owner) if owner == unit => {
            ", although systemd says that this unit is not running".to_owned()
        }
        _ => format!(", which does not belong to {unit}"),
    }
}
