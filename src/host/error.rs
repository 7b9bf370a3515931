//! Why a host cannot be worked on as it is, in words for the person who has to
//! mend it.

use std::io;
use std::path::PathBuf;

use crate::docker::engine::EngineError;
use crate::host::DaemonJsonError;
use crate::host::next_store::Stopped;
use crate::host::resolve::FLAG;
use crate::store::data_root::ReadError;
use crate::sys::shell;
use crate::systemd::SystemdError;

/// Why this host cannot be worked on as it is.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// systemd.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// The unit does not exist.
    #[error("there is no unit {unit} here{}", but(.others))]
    NoUnit {
        /// What was looked for.
        unit: String,
        /// What is there instead.
        others: Vec<String>,
    },
    /// The unit exists and systemd will not load it.
    #[error("systemd has {unit} as {load_state}, so Docker would not start again")]
    UnusableUnit {
        /// The unit.
        unit: String,
        /// Its load state.
        load_state: String,
    },
    /// A socket, a target: nothing that is a daemon.
    #[error("{0} is not a service")]
    NotAService(String),
    /// Who knows where a dockerd that does not run would keep its data?
    #[error(
        "{unit} does not run and starts {program}, not dockerd itself, so nobody says where its data root is"
    )]
    Wrapped {
        /// The unit.
        unit: String,
        /// What it starts.
        program: String,
    },
    /// A unit that cannot be started once it has stopped.
    #[error(
        "{unit} is transient (systemd-run): systemd forgets it when it stops, so it could not be \
         started again"
    )]
    Transient {
        /// The unit.
        unit: String,
    },
    /// The unit is between two states.
    #[error("{unit} is {state} ({sub_state})")]
    Unsettled {
        /// The unit.
        unit: String,
        /// Its active state.
        state: String,
        /// The finer one.
        sub_state: String,
    },
    /// The unit runs and its engine does not answer.
    #[error("{unit} is active, but {error}")]
    EngineSilent {
        /// The unit.
        unit: String,
        /// Why.
        error: EngineError,
    },
    /// The API is not on a Unix socket.
    #[error("the engine listens on {0} only, and on no Unix socket")]
    NoUnixSocket(String),
    /// Two sources disagree.
    #[error("{first_source} says that the {fact} is {first}, but {second_source} says {second}")]
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
    #[error("{option} is set in {config_file} and on the command line of {unit} as well: dockerd does not start with both, so a restart would leave Docker down", config_file = config_file.display())]
    SetTwice {
        /// The option.
        option: &'static str,
        /// The configuration file.
        config_file: PathBuf,
        /// The unit.
        unit: String,
    },
    /// dockerd could not start with its configuration file.
    #[error("{path}: {error}. Docker would not start again with it", path = path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: DaemonJsonError,
    },
    /// A configuration file that the command line names is missing.
    #[error("{path}: {named_by} names this configuration file, and it is not there{}", without_file(.named_by), path = path.display())]
    ConfigFileMissing {
        /// The file.
        path: PathBuf,
        /// Who names it.
        named_by: &'static str,
    },
    /// The unit's environment file is missing.
    #[error(
        "an environment file of {unit} cannot be read ({error}), so Docker would not start again"
    )]
    EnvironmentFile {
        /// The unit.
        unit: String,
        /// Why.
        error: io::Error,
    },
    /// Images are in containerd, and `--offline` asks no engine.
    #[error(
        "this Docker keeps its images in containerd (the containerd image store), whose references only a \
         running Docker reads and changes"
    )]
    ContainerdImageStore,
    /// A Docker that does not run, whose image store is not certain.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// No storage driver has references.
    #[error(
        "{}: no storage driver has references here: no image was ever stored, or Docker keeps its images in \
         containerd, or elsewhere", .0.display()
    )]
    NoReferences(PathBuf),
    /// A path that is no data root.
    #[error("{path}: {problem}", path = path.display())]
    DataRoot {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A link where a directory of the data root should be.
    #[error("{path}: {error}", path = path.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// Why it is not followed.
        error: io::Error,
    },
    /// More than one way to read the host.
    #[error("{question}: {}", .candidates.join(", "))]
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
    /// A process that does not belong to the running unit uses the data root.
    #[error("{data_root} is in use by {}{}", user(.pid, .owner), whose(.owner, .unit), data_root = data_root.display())]
    UsedByAnother {
        /// The data root.
        data_root: PathBuf,
        /// The process, where it can be seen.
        pid: Option<u32>,
        /// Its unit, where systemd knows one.
        owner: Option<String>,
        /// The unit that was looked at.
        unit: String,
    },
    /// A dockerd has it open, and none was to have.
    #[error("{data_root} is in use by a running dockerd{}", .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(), data_root = data_root.display())]
    InUse {
        /// The data root.
        data_root: PathBuf,
        /// The process, where it can be seen.
        pid: Option<u32>,
    },
    /// The disk could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl HostError {
    /// What to type next.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let word = shell::word;
        Some(match self {
            Self::Systemd(error) => {
                let first = error.help().map(|help| format!("{help}; ")).unwrap_or_default();
                format!("{first}for a disk that no Docker uses: {OFFLINE}")
            }
            Self::NoUnit { others, .. } if others.is_empty() => format!(
                "if Docker's unit has another name (systemctl list-unit-files '*docker*'): --unit NAME; if no \
                 Docker runs here: {OFFLINE}"
            ),
            Self::NoUnit { others, .. } => one_of("--unit", others),
            Self::UnusableUnit { unit, load_state } if load_state == "masked" => format!(
                "systemctl unmask {}; or, if no Docker is to run here: {OFFLINE}",
                word(unit)
            ),
            Self::UnusableUnit { unit, .. } => format!(
                "systemctl status {}; mend what it names, then: systemctl daemon-reload",
                word(unit)
            ),
            Self::NotAService(_) => {
                "name the service that runs dockerd (systemctl list-units --type=service): --unit NAME.service"
                    .to_owned()
            }
            Self::Wrapped { unit, .. } => {
                format!("systemctl start {}, or say where it is: --data-root DIR", word(unit))
            }
            Self::Transient { unit } => format!("systemctl stop {}; then: {OFFLINE}", word(unit)),
            Self::Unsettled { unit, .. } => format!(
                "wait until it has settled, or look why it does not: systemctl status {}",
                word(unit)
            ),
            Self::EngineSilent { unit, .. } => format!(
                "journalctl -u {} -n 50; if the API listens elsewhere: --socket PATH",
                word(unit)
            ),
            Self::NoUnixSocket(_) => {
                "give dockerd one as well (-H unix:///var/run/docker.sock), or say where one is: --socket PATH"
                    .to_owned()
            }
            Self::Disagreement {
                first_source,
                second_source,
                ..
            } => {
                let first = match [first_source, second_source].contains(&&FLAG) {
                    true => "leave your flag out, or find out which of them is wrong",
                    false => "make them say the same, as Docker would not come back as it is now",
                };
                format!("{first}: docker info, systemctl cat docker.service, daemon.json")
            }
            Self::SetTwice {
                option,
                config_file,
                unit,
            } => format!(
                "take {option} out of {}, or the flag out of the unit: systemctl edit --full {}",
                config_file.display(),
                word(unit)
            ),
            Self::ConfigFile { path, .. } => format!(
                "mend {path}; to check it (Docker 23.0 and later): dockerd --validate --config-file {path}",
                path = shell::path(path)
            ),
            Self::ConfigFileMissing { named_by, .. } if *named_by == FLAG => {
                "name the one that there is, or leave the flag out: --config-file FILE".to_owned()
            }
            Self::ConfigFileMissing { path, .. } => format!("put {} back", path.display()),
            Self::EnvironmentFile { unit, .. } => format!(
                "systemctl cat {}; put the file back that EnvironmentFile= names",
                word(unit)
            ),
            Self::ContainerdImageStore => {
                "systemctl start docker, and leave --offline out".to_owned()
            }
            Self::Stopped(stopped) => stopped.help(),
            Self::DataRoot { .. } | Self::NoReferences(_) => {
                "where that Docker runs: docker info -f '{{.DockerRootDir}} {{.Driver}}'; then: --data-root DIR \
                 --driver NAME"
                    .to_owned()
            }
            Self::Link { path, .. } => format!(
                "with that Docker stopped, put a directory in its place, and mount there what it leads to: mount \
                 --bind DIR {}",
                shell::path(path)
            ),
            Self::Ambiguous {
                flag, candidates, ..
            } => one_of(flag, candidates),
            Self::DriverName(_) => {
                "where that Docker runs: docker info -f '{{.Driver}}'; then: --driver NAME"
                    .to_owned()
            }
            Self::UsedByAnother {
                pid, owner, unit, ..
            } => match (owner, pid) {
                (Some(owner), _) if owner == unit => format!(
                    "see what its process does, and end it first: systemctl status {}",
                    word(unit)
                ),
                (Some(owner), _) if owner.ends_with(".service") => format!(
                    "--unit {owner}, or stop it first: systemctl stop {owner}",
                    owner = word(owner)
                ),
                (_, Some(pid)) => format!("ps -fp {pid}; end it first"),
                _ => "ps -C dockerd -f; end the one first that is not the unit's".to_owned(),
            },
            Self::InUse { .. } => "leave --offline out, or stop that Docker".to_owned(),
            Self::Read(error) => return error.help(),
        })
    }
}

/// Of a disk that was brought along.
const OFFLINE: &str = "--offline --data-root DIR";

fn but(others: &[String]) -> String {
    match others.is_empty() {
        true => String::new(),
        false => format!(", but there is {}", others.join(" and ")),
    }
}

/// A flag with each of its values.
fn one_of(flag: &str, values: &[String]) -> String {
    let flags: Vec<String> = values
        .iter()
        .map(|value| format!("{flag} {}", shell::word(value)))
        .collect();
    format!("say which: {}", flags.join(" or "))
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
        (None, _) => "a process that cannot be seen".to_owned(),
    }
}

fn whose(owner: &Option<String>, unit: &str) -> String {
    match owner {
        Some(owner) if owner == unit => ", and that unit does not run, says systemd".to_owned(),
        _ => format!(", and that is not {unit}"),
    }
}
