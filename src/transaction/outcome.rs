//! What a transaction tells: its steps as they begin and end, and how it ended.

use std::path::PathBuf;
use std::time::Duration;

use crate::containerd::ContainerdError;
use crate::docker::container::Change;
use crate::docker::engine::EngineError;
use crate::image::oci_archive::ArchiveError;
use crate::image::reference::Reference;
use crate::plan::{Plan, Refusal};
use crate::state::history::HistoryError;
use crate::state::journal::JournalError;
use crate::state::pending::MarkerError;
use crate::store::data_root::ReadError;
use crate::systemd::SystemdError;
use crate::transaction::leftover::{self, Leftover};
use crate::transaction::reserve::ReserveError;
use crate::transaction::restart::exchange::FileError;
use crate::transaction::restart::start_block::StartBlockError;
use crate::transaction::watchdog::WatchdogError;

/// The steps, as they are told to people and machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The new store is on disk beside the old one.
    Stage,
    /// dockerd has read a configuration file that changed after its start.
    Reload,
    /// live-restore is on for the moment.
    EnableLiveRestore,
    /// Nothing can start Docker.
    BlockStart,
    /// Docker has stopped.
    Stop,
    /// The store is what the plan was made of, or was planned again.
    Reread,
    /// The new store is in use.
    Commit,
    /// The engine answers.
    Start,
    /// File and engine have what the plan says.
    Verify,
    /// What stopped along with Docker runs again.
    Restore,
    /// Containers that stopped with Docker run again.
    StartContainers,
    /// live-restore and daemon.json are what they were.
    TakeBack,
    /// The running engine has loaded new references.
    Load,
    /// The running engine has dropped references.
    Untag,
    /// A node's containerd has new records.
    Record,
    /// A node's containerd has dropped records.
    RemoveRecord,
    /// Undo: Docker has stopped again.
    UndoStop,
    /// Undo: the old store is in use.
    UndoCommit,
    /// Undo: Docker runs again, on the old references.
    UndoStart,
    /// Undo: the running engine has the old references again.
    UndoLoad,
    /// Undo: a node's containerd has the old records again.
    UndoRecord,
}

/// Hears of each step, and may keep none waiting: Docker may be stopped.
pub trait Progress {
    /// Something begins that may take its time; until a step has ended or
    /// something else begins, it is what is waited for.
    fn begin(&mut self, doing: &str);
    /// The transaction of this name has begun.
    fn transaction_begins(&mut self, id: &str);
    /// A Docker that runs is about to be stopped. [`Step::Start`] or
    /// [`Step::UndoStart`] says when its engine answers again.
    fn docker_stops(&mut self);
    /// A step has ended well.
    fn step(&mut self, step: Step, detail: &str);
    /// Something did not go well, and does not change the outcome.
    fn warning(&mut self, text: &str);
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0} received")]
    Interrupted(&'static str),
    #[error("could not {0}")]
    File(#[from] FileError),
    /// What is about to be done could not be noted.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// Where it is about to be done could not be noted.
    #[error("{0}")]
    Marker(#[from] MarkerError),
    /// Nothing would bring Docker back if this process is killed.
    #[error("{0}")]
    Watchdog(#[from] WatchdogError),
    /// The machine was started anew, and Docker was not.
    #[error("containers wait for their restart policies until Docker runs: {0}")]
    WaitsForDocker(String),
    /// No copy of the references can be read.
    #[error("the references cannot be read, and no copy of them is left: {0}")]
    NoReferences(ReadError),
    #[error("{0}")]
    History(#[from] HistoryError),
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Reserve(#[from] ReserveError),
    #[error("{0}")]
    Systemd(#[from] SystemdError),
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("{0}")]
    Containerd(#[from] ContainerdError),
    #[error("{0}")]
    Archive(#[from] ArchiveError),
    /// References that the engine cannot drop, or not without harm.
    #[error("{}", leftover::joined(.0))]
    Leftovers(Vec<Leftover>),
    #[error("Docker could not be held while the references change: {0}")]
    StartBlock(#[from] StartBlockError),
    /// dockerd was told to read its configuration, and live-restore is not as it
    /// says.
    #[error(
        "live-restore could not be switched {}: {unit} {}{} (see: journalctl -u {unit})",
        if *.on { "on" } else { "off" },
        if *.reloaded { "read its configuration and did not heed it" } else { "did not take its configuration" },
        said(.says)
    )]
    ReloadWithoutEffect {
        unit: String,
        /// The configuration was taken.
        reloaded: bool,
        on: bool,
        /// dockerd's words.
        says: Option<String>,
    },
    /// dockerd was told to read its configuration, and did not take it: a start
    /// may fail on the same.
    #[error("{unit} refuses to read {} again{}, so it may not start with it", path.display(), said(.says))]
    ConfigurationRefused {
        unit: String,
        path: PathBuf,
        says: Option<String>,
    },
    /// It is not what was looked at.
    #[error("somebody else has changed {} a moment ago", .0.display())]
    ConfigurationChanged(PathBuf),
    /// Containers run that did not a moment ago, and would stop with Docker.
    #[error("started a moment ago, and would stop with Docker: {0}")]
    MoreContainers(String),
    #[error("{}", .0.join("; "))]
    Containers(Vec<String>),
    /// Docker was not to be stopped, as it did not run.
    #[error("{0} did not run, and was started a moment ago")]
    StartedMeanwhile(String),
    /// Another program changes the configuration.
    #[error("somebody else has switched live-restore off a moment ago")]
    SwitchedOff,
    #[error("a dockerd{} has the data root open although Docker was to be stopped", process(*.pid))]
    StillRunning { pid: Option<u32> },
    /// The store changed before Docker had stopped, and the claims no longer fit.
    #[error("the references changed in the meantime, and now: {}", joined(.0))]
    NoLongerFits(Vec<Refusal>),
    #[error("{unit} is {state} instead of running (see: journalctl -u {unit})")]
    NotRunning { unit: String, state: String },
    #[error("the engine does not answer {} s after its start: {last}", .after.as_secs())]
    Silent { after: Duration, last: EngineError },
    /// The file is not what was written.
    #[error("the references on disk are not what was written: {0}")]
    FileDiffers(String),
    /// The engine answers otherwise than the file.
    #[error("the running engine disagrees: {0}")]
    EngineDisagrees(String),
    /// A node's containerd or its CRI answers otherwise than it was asked for.
    #[error("the node disagrees: {0}")]
    NodeDisagrees(String),
}

impl Failure {
    /// What to do after a transaction that was undone for it.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Leftovers(left) => return Some(what_stays(left)),
            Self::Reserve(error) => {
                let path = error.need.path.display();
                return Some(format!(
                    "df -h {path}; df -i {path}; make room there, then the same command again"
                ));
            }
            Self::Interrupted(_) => "run the same command again when it suits",
            Self::File(_) | Self::Journal(_) | Self::Marker(_) | Self::History(_) => {
                "see to the file system (space, permissions, errors), then try again"
            }
            Self::NoLongerFits(_) => "look at the references (digestfix status), then try again",
            Self::Engine(_) | Self::EngineDisagrees(_) => {
                "look at what Docker says (its journal), then try again"
            }
            Self::Containerd(_) | Self::NodeDisagrees(_) => {
                "look at containerd (systemctl status containerd, crictl info), then try again"
            }
            Self::Systemd(_) | Self::StartBlock(_) | Self::Watchdog(_) => {
                "see to systemd, then try again"
            }
            Self::NotRunning { .. } | Self::Silent { .. } => {
                "look why Docker did not start (its journal), then try again"
            }
            Self::ReloadWithoutEffect { .. } | Self::ConfigurationRefused { .. } => {
                "mend Docker's configuration file, then the same command again. Docker would perhaps not start \
                 with it: do not restart it before. Where all that it says is userland-proxy-path, take \
                 \"userland-proxy\": true out: it is the default"
            }
            Self::MoreContainers(_)
            | Self::SwitchedOff
            | Self::StartedMeanwhile(_)
            | Self::ConfigurationChanged(_) => "run the same command again",
            _ => "try again with -v; if it fails again, it is worth a report",
        };
        Some(help.to_owned())
    }
}

/// What to type about references that the engine would not drop.
fn what_stays(left: &[Leftover]) -> String {
    let mut containers: Vec<&str> = left.iter().filter_map(Leftover::container).collect();
    containers.sort_unstable();
    containers.dedup();
    if containers.is_empty() {
        return "do what is said above of each reference, then the same command again".to_owned();
    }
    let names = containers.join(" ");
    format!(
        "a container still uses the digest: remove it once it is not needed (docker ps -a shows it: docker rm \
         {names}), then the same command again"
    )
}

fn said(words: &Option<String>) -> String {
    let said = words.as_ref().map(|words| format!(" ({words})"));
    said.unwrap_or_default()
}

fn process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}

fn joined(refusals: &[Refusal]) -> String {
    let lines: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// How a transaction ended, and what it has left.
#[derive(Debug)]
pub struct Outcome {
    pub id: String,
    pub ended: Ended,
    /// What was to be changed in the end.
    pub plan: Box<Plan>,
    /// The containers that are not what they were.
    pub containers: Vec<Change>,
    /// Where the former file of references is kept; none where no file was changed.
    pub backup: Option<PathBuf>,
    /// Of what was loaded, the references whose layers the engine has unpacked
    /// only, by its own word.
    pub run_only: Vec<Reference>,
    /// It failed, and Docker was stopped and started again on the way.
    pub restarted: bool,
    /// The unit that goes on trying, where something is left to do.
    pub watchdog: Option<String>,
}

#[derive(Debug)]
pub enum Ended {
    /// The references are changed, and everything else is as it was.
    Done,
    /// The references are changed and Docker runs; something else is not as it was.
    Incomplete { problem: Failure },
    /// It failed, and the host is as it was found.
    Undone {
        failure: Failure,
        /// The references that are not as they were all the same.
        left: Vec<Leftover>,
    },
    /// It failed, and so did the way back.
    Broken {
        /// Why the way back was taken.
        failure: Failure,
        /// Why it failed.
        undo: Failure,
        now: HostNow,
    },
}

/// The host after a way back that failed.
#[derive(Debug)]
pub struct HostNow {
    pub store: StoreNow,
    /// What else may be other than it was.
    pub left: Vec<String>,
    pub docker: Option<DockerNow>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DockerNow {
    /// There is none: it is a Kubernetes node's containerd.
    None,
    /// It was not to be stopped.
    NotStopped,
    Runs,
    /// It ran before, and does not now.
    Down,
    /// It did not run before, and does not now.
    AsBefore,
    /// It is down, and so is the machine in a moment.
    ShuttingDown,
}

/// Which references are in use after a way back that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreNow {
    /// Those that were found.
    Old,
    /// The new ones; the old ones are in this file.
    New(PathBuf),
    /// Some of the new ones may be.
    Mixed,
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::leftover::Why;

    #[test]
    fn a_container_in_the_way_is_named_with_what_to_type() {
        let digest = format!("lab/app@sha256:{}", "a".repeat(64));
        let Ok(reference) = crate::image::reference::Reference::parse(&digest) else {
            unreachable!()
        };
        let left = |why| {
            let reference = reference.clone();
            let failure = Failure::Leftovers(vec![Leftover { reference, why }]);
            failure.help().unwrap_or_default()
        };
        let says = "conflict: unable to delete lab/app (must be forced) - container 0123456789ab is using its \
                    referenced image 801bebe93492";
        let told = left(Why::InUse(says.to_owned()));
        assert!(told.contains("docker rm 0123456789ab"), "{told}");
        for why in [Why::Last, Why::HasLayers, Why::InUse("busy".to_owned())] {
            let told = left(why);
            assert!(!told.contains("report") && told.contains("again"), "{told}");
        }
    }

    #[test]
    fn a_refused_configuration_is_never_led_to_a_restart() {
        let unit = "docker.service".to_owned();
        for failure in [
            Failure::ConfigurationRefused {
                unit: unit.clone(),
                path: "/etc/docker/daemon.json".into(),
                says: Some("invalid mirror".to_owned()),
            },
            Failure::ReloadWithoutEffect {
                unit,
                reloaded: false,
                on: true,
                says: None,
            },
        ] {
            let help = failure.help().unwrap_or_default();
            let leads_there = help.contains("--containers") || help.contains("--force");
            assert!(!leads_there, "{help}");
        }
    }
}
