//! The reports of a transaction: the beginning and end of each step, and the outcome.

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
use crate::state::state_file::CHECK_DISK;
use crate::store::data_root::ReadError;
use crate::sys::shell;
use crate::systemd::SystemdError;
use crate::transaction::leftover::{self, Leftover};
use crate::transaction::reserve::ReserveError;
use crate::transaction::restart::exchange::FileError;
use crate::transaction::restart::start_block::StartBlockError;
use crate::transaction::watchdog::WatchdogError;

/// The steps, as reported to people and machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The new reference store is on disk beside the old one.
    Stage,
    /// dockerd has read a configuration file that had changed after dockerd started.
    Reload,
    /// live-restore is on until the transaction ends.
    EnableLiveRestore,
    /// From now on, nothing can start Docker.
    BlockStart,
    /// Docker has stopped.
    Stop,
    /// The reference store has changed since digestfix made the plan, so digestfix has
    /// planned again.
    Reread,
    /// The new reference store is in use.
    Commit,
    /// The engine answers.
    Start,
    /// The references on disk and in the engine match the plan.
    Verify,
    /// The units that stopped along with Docker run again.
    Restore,
    /// Containers that stopped with Docker run again.
    StartContainers,
    /// live-restore and daemon.json are as they were before.
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
    /// Undo: the old reference store is in use again.
    UndoCommit,
    /// Undo: Docker runs again, on the old references.
    UndoStart,
    /// Undo: the running engine has the old references again.
    UndoLoad,
    /// Undo: a node's containerd has the old records again.
    UndoRecord,
}

/// Receives each step. An implementation must not block, because Docker may be stopped
/// while it runs.
pub trait Progress {
    /// Called when work begins that may take long. The work lasts until a step ends or
    /// other work begins.
    fn begin(&mut self, doing: &str);
    /// Called when the transaction with this ID has begun.
    fn transaction_begins(&mut self, id: &str);
    /// Called before digestfix stops a running Docker. Later, [`Step::Start`] or
    /// [`Step::UndoStart`] reports that the engine answers again.
    fn docker_stops(&mut self);
    /// Called when a step has succeeded.
    fn step(&mut self, step: Step, detail: &str);
    /// Called for a problem that does not change the outcome.
    fn warning(&mut self, text: &str);
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0} received")]
    Interrupted(&'static str),
    #[error("could not {0}")]
    File(#[from] FileError),
    /// The journal could not be written.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The pending marker could not be written.
    #[error("{0}")]
    Marker(#[from] MarkerError),
    /// Without a watchdog, nothing would start Docker again if this process were killed.
    #[error("{0}")]
    Watchdog(#[from] WatchdogError),
    /// The machine has rebooted, and Docker is not running.
    #[error(
        "digestfix can restore the restart policies of these containers only once Docker runs: {0}"
    )]
    WaitsForDocker(String),
    /// No copy of the references can be read.
    #[error("the references cannot be read, and no copy of the references is left: {0}")]
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
    /// References that the engine refused to drop, or could drop only together with
    /// something else.
    #[error("{}", leftover::joined(.0))]
    Leftovers(Vec<Leftover>),
    #[error("digestfix could not prevent Docker from starting while the references change: {0}")]
    StartBlock(#[from] StartBlockError),
    /// digestfix told dockerd to reload its configuration, but live-restore in dockerd
    /// differs from the file.
    #[error(
        "live-restore could not be switched {}: {unit} {}{} (see: journalctl -u {unit})",
        if *.on { "on" } else { "off" },
        if *.reloaded { "read its configuration but ignored it" } else { "did not accept its configuration" },
        said(.says)
    )]
    ReloadWithoutEffect {
        unit: String,
        /// dockerd has reloaded its configuration.
        reloaded: bool,
        on: bool,
        /// dockerd's log message.
        says: Option<String>,
    },
    /// digestfix told dockerd to reload its configuration, and dockerd refused. The next
    /// start of dockerd may fail for the same reason.
    #[error("{unit} refuses to reload {}{}, so {unit} may not start with that file", path.display(), said(.says))]
    ConfigurationRefused {
        unit: String,
        path: PathBuf,
        says: Option<String>,
    },
    /// The configuration file has changed since digestfix checked it.
    #[error("another process changed {} a moment ago", .0.display())]
    ConfigurationChanged(PathBuf),
    /// Containers have started since the check, and would stop along with Docker.
    #[error("these containers started a moment ago, and would stop with Docker: {0}")]
    MoreContainers(String),
    #[error("{}", .0.join("; "))]
    Containers(Vec<String>),
    /// Docker was not running when digestfix checked, but has started since.
    #[error("{0} was not running, but was started a moment ago")]
    StartedMeanwhile(String),
    /// Another program has switched live-restore off.
    #[error("another process switched live-restore off a moment ago")]
    SwitchedOff,
    #[error(
        "a dockerd{} still uses the data root, although Docker should be stopped",
        process(*.pid)
    )]
    StillRunning { pid: Option<u32> },
    /// The reference store changed before Docker had stopped, and digestfix cannot apply
    /// the claims to the changed store.
    #[error(
        "the references changed in the meantime, and now digestfix cannot change them as planned: {}",
        joined(.0)
    )]
    NoLongerFits(Vec<Refusal>),
    #[error("{unit} is {state} instead of running (see: journalctl -u {unit})")]
    NotRunning { unit: String, state: String },
    #[error("the engine still does not answer {} s after its start: {last}", .after.as_secs())]
    Silent { after: Duration, last: EngineError },
    /// The file differs from what digestfix wrote.
    #[error("the references on disk differ from what digestfix wrote: {0}")]
    FileDiffers(String),
    /// The engine's answer contradicts what digestfix wrote.
    #[error("the running engine does not match the plan: {0}")]
    EngineDisagrees(String),
    /// A node's containerd or its CRI does not have what digestfix recorded.
    #[error("the node does not match the plan: {0}")]
    NodeDisagrees(String),
}

impl Failure {
    /// What to do after a transaction that was undone because of this failure. `unit` is
    /// the name of Docker's systemd unit.
    pub fn help(&self, unit: &str) -> Option<String> {
        let unit = shell::word(unit);
        let help = match self {
            Self::Leftovers(left) => return Some(what_stays(left)),
            Self::Read(error) => return error.help(),
            Self::History(error) if !error.is_of_disk() => return error.help(),
            Self::Journal(error) => return error.help(),
            Self::Reserve(error) => {
                let path = shell::path(&error.need.path);
                return Some(format!(
                    "df -h {path}; df -i {path}; make room there, then run the same command again"
                ));
            }
            Self::StillRunning { pid: Some(pid) } => {
                return Some(format!(
                    "end that process (ps -fp {pid}), then run the same command again"
                ));
            }
            Self::Engine(_) | Self::EngineDisagrees(_) => {
                return Some(format!(
                    "read Docker's log (journalctl -u {unit} -n 50), then try again"
                ));
            }
            Self::NotRunning { .. } | Self::Silent { .. } => {
                return Some(format!(
                    "find out why Docker did not start (journalctl -u {unit} -n 50), then try again"
                ));
            }
            Self::Interrupted(_) => "run the same command again at any time",
            Self::File(_) | Self::Marker(_) | Self::History(_) => CHECK_DISK,
            Self::NoLongerFits(_) => "check the references (digestfix status), then try again",
            Self::Containerd(_) | Self::NodeDisagrees(_) => {
                "check containerd (systemctl status containerd, crictl info), then try again"
            }
            Self::Systemd(_) | Self::StartBlock(_) | Self::Watchdog(_) => {
                "check systemd (systemctl status), then try again"
            }
            Self::ReloadWithoutEffect { .. } | Self::ConfigurationRefused { .. } => {
                "fix Docker's configuration file, then run the same command again. Do not restart Docker \
                 before that, because Docker may not start. If Docker complains only about userland-proxy-path, \
                 remove \"userland-proxy\": true from the file (true is the default)"
            }
            Self::MoreContainers(_)
            | Self::SwitchedOff
            | Self::StartedMeanwhile(_)
            | Self::ConfigurationChanged(_) => "run the same command again",
            _ => {
                "run the same command again with -v; if the command fails again, report the failure"
            }
        };
        Some(help.to_owned())
    }
}

/// The commands with which the user can drop the references that the engine did not drop.
fn what_stays(left: &[Leftover]) -> String {
    let mut containers: Vec<&str> = left.iter().filter_map(Leftover::container).collect();
    containers.sort_unstable();
    containers.dedup();
    if containers.is_empty() {
        return "follow the advice above for each reference, then run the same command again"
            .to_owned();
    }
    let names = containers.join(" ");
    format!(
        "a container still uses the digest (see docker ps -a). When you no longer need that container: docker rm \
         {names}; then run the same command again"
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

/// How a transaction ended, and what it leaves on the host.
#[derive(Debug)]
pub struct Outcome {
    pub id: String,
    pub ended: Ended,
    /// The last plan of the transaction.
    pub plan: Box<Plan>,
    /// The containers that the transaction has changed.
    pub containers: Vec<Change>,
    /// The path of the former reference store, kept as a backup. `None` if no file
    /// changed.
    pub backup: Option<PathBuf>,
    /// The loaded references whose layers exist only in unpacked form, as the engine
    /// reports.
    pub run_only: Vec<Reference>,
    /// Whether the transaction failed after it had stopped Docker. If so, undo has
    /// started Docker again.
    pub restarted: bool,
    /// The unit name of the watchdog, if work remains that the watchdog keeps trying to
    /// finish.
    pub watchdog: Option<String>,
}

#[derive(Debug)]
pub enum Ended {
    /// The references are changed, and everything else is as it was.
    Done,
    /// The references are changed and Docker runs, but something else is not as it was.
    Incomplete { problem: Failure },
    /// The transaction failed, and the host is as it was before.
    Undone {
        failure: Failure,
        /// The references that could not be restored.
        left: Vec<Leftover>,
    },
    /// The transaction failed, and so did its undo.
    Broken {
        /// Why the transaction was undone.
        failure: Failure,
        /// Why undo failed.
        undo: Failure,
        now: HostNow,
    },
}

/// The host after a failed undo.
#[derive(Debug)]
pub struct HostNow {
    pub store: StoreNow,
    /// Other things that may differ from the state before the transaction.
    pub left: Vec<String>,
    pub docker: Option<DockerNow>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DockerNow {
    /// No Docker: the images are in a Kubernetes node's containerd.
    None,
    /// The method does not stop Docker.
    NotStopped,
    Runs,
    /// Docker ran before the transaction, and is down now.
    Down,
    /// Docker was down before the transaction, and still is.
    AsBefore,
    /// Docker is down, and the machine is shutting down.
    ShuttingDown,
}

/// Which references are in use after a failed undo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreNow {
    /// The old references.
    Old,
    /// The new references. The old references are in the file with this path.
    New(PathBuf),
    /// Some of the new references may be in use.
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
            failure.help("docker.service").unwrap_or_default()
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
    fn a_failure_names_the_unit_and_the_process() {
        let failure = Failure::NotRunning {
            unit: "my docker.service".to_owned(),
            state: "failed".to_owned(),
        };
        let help = failure.help("my docker.service").unwrap_or_default();
        let log = "journalctl -u 'my docker.service' -n 50";
        assert!(help.contains(log), "{help}");
        let failure = Failure::StillRunning { pid: Some(7) };
        let help = failure.help("docker.service").unwrap_or_default();
        assert!(help.contains("ps -fp 7"), "{help}");
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
            let help = failure.help("docker.service").unwrap_or_default();
            let leads_there = help.contains("--containers") || help.contains("--force");
            assert!(!leads_there, "{help}");
        }
    }
}
