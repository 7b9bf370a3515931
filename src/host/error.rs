//! Why a host cannot be worked on as it is, in words for the person who has to
//! mend it.

use std::io;
use std::path::PathBuf;

use crate::data_root::ReadError;
use crate::engine::EngineError;
use crate::host::DaemonJsonError;
use crate::host::next_store::Stopped;
use crate::host::settle::FLAG;
use crate::systemd::SystemdError;

/// Why this host cannot be worked on as it is.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// systemd.
    #[error(
        "{0}. Is this host run by systemd? For a disk that no Docker uses: --offline --data-root DIR"
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
    #[error("systemd has {unit} as {load_state}, so Docker would not start again{}", mend(.unit, .load_state))]
    UnusableUnit {
        /// The unit.
        unit: String,
        /// Its load state.
        load_state: String,
    },
    /// A socket, a target: nothing that is a daemon.
    #[error("{0} is not a service; name the service that runs dockerd: --unit NAME.service")]
    NotAService(String),
    /// Who knows where a dockerd that does not run would keep its data?
    #[error(
        "{unit} does not run and starts {program}, not dockerd itself, so nobody says where its data root is: --data-root DIR, or start it first: systemctl start {unit}"
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
        "{first_source} says that the {fact} is {first}, but {second_source} says {second}. {}", reconcile(.first_source, .second_source)
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
    #[error("{path}: {named_by} names this configuration file, and it is not there{}", without_file(.named_by), path = path.display())]
    ConfigFileMissing {
        /// The file.
        path: PathBuf,
        /// Who names it.
        named_by: &'static str,
    },
    /// The unit's environment file is missing.
    #[error("an environment file of {unit} cannot be read ({error}). Docker would not start again")]
    EnvironmentFile {
        /// The unit.
        unit: String,
        /// Why.
        error: io::Error,
    },
    /// Images are in containerd, and `--offline` asks no engine.
    #[error(
        "this Docker keeps its images in containerd (the containerd image store), whose references only a \
         running Docker reads and changes: start it (systemctl start docker), and leave --offline out"
    )]
    ContainerdImageStore,
    /// A Docker that does not run, whose image store is not certain.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// No storage driver has references.
    #[error(
        "{}: no storage driver has references here: no image was ever stored, or Docker keeps its images in \
         containerd, or elsewhere (--data-root DIR)", .0.display()
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
    /// More than one way to read the host.
    #[error("{question}; say which: {flag} one of {}", .candidates.join(", "))]
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
    #[error("{data_root} is in use by {}. {}", user(.pid, .owner), stop_user(.owner, .unit), data_root = data_root.display())]
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
        let flags: Vec<String> = others
            .iter()
            .map(|other| format!("--unit {other}"))
            .collect();
        format!(
            ", but there is {}: {}",
            others.join(" and "),
            flags.join(" or ")
        )
    }
}

fn mend(unit: &str, load_state: &str) -> String {
    if load_state == "masked" {
        format!(
            ". Unmask it: systemctl unmask {unit}; or, if no Docker is to run here: --offline \
             --data-root DIR"
        )
    } else {
        format!(". See why: systemctl status {unit}")
    }
}

fn reconcile(first_source: &str, second_source: &str) -> &'static str {
    if [first_source, second_source].contains(&FLAG) {
        "Leave your flag out, or find out which of them is wrong"
    } else {
        "Docker would not come back as it is now: clear that up first"
    }
}

fn without_file(named_by: &str) -> &'static str {
    if named_by == FLAG {
        ". Name the one that there is, or leave the flag out: --config-file FILE"
    } else {
        ". Docker would not start again: put it back first"
    }
}

fn user(pid: &Option<u32>, owner: &Option<String>) -> String {
    match (pid, owner) {
        (Some(pid), Some(owner)) => format!("process {pid} of {owner}"),
        (Some(pid), None) => format!("process {pid}"),
        (None, _) => "a process that cannot be seen".to_owned(),
    }
}

fn stop_user(owner: &Option<String>, unit: &str) -> String {
    match owner {
        Some(owner) if owner == unit => format!(
            "That unit does not run, says systemd: see what its process does (systemctl status \
             {unit}), and end it first"
        ),
        Some(owner) if owner.ends_with(".service") => {
            format!("That is not {unit}: --unit {owner}, or stop it first: systemctl stop {owner}")
        }
        _ => format!("That is not {unit}: end it first"),
    }
}
