//! systemd: its units and jobs, and the requests that digestfix sends to it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

mod bus;
pub mod journal;
mod lasting;
pub mod setting;

pub use bus::SystemBus;
pub use lasting::{PREFIX as LASTING, names as lasting_units, remove as forget_lasting};

/// The directory of units and drop-ins that exist until the next boot.
pub const RUNTIME_UNITS: &str = "/run/systemd/system";

#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// The connection failed or broke.
    #[error("systemd cannot be reached over D-Bus: {0}")]
    Bus(zbus::Error),
    /// The socket accepts a connection, but systemd does not answer.
    #[error("systemd cannot be reached over D-Bus: no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// digestfix can reach systemd, but only over systemd's private socket.
    #[error("the D-Bus system bus is not available")]
    NoBus,
    /// systemd answered with a refusal.
    #[error("systemd refused: {0}")]
    Refused(zbus::Error),
    #[error("{path}: {error}", path = path.display())]
    UnitFile { path: PathBuf, error: io::Error },
    #[error("systemd's job to {verb} {unit} ended with {result:?} (see: journalctl -u {unit})")]
    Job {
        /// `start` or `stop`.
        verb: &'static str,
        unit: String,
        /// systemd's name for the job's result, or `lost` if no signal reported a result
        /// and the unit is not in the expected state.
        result: String,
    },
    #[error("systemd's job to {verb} {unit} has not ended after {} s", .after.as_secs())]
    Deadline {
        verb: &'static str,
        unit: String,
        after: Duration,
    },
}

impl SystemdError {
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Bus(_) | Self::Silent(_) | Self::NoBus => {
                "if systemd runs this host: systemctl start dbus.socket"
            }
            Self::Refused(_) | Self::UnitFile { .. } | Self::Job { .. } | Self::Deadline { .. } => {
                "systemctl status; journalctl -b -p err"
            }
        };
        Some(help.to_owned())
    }
}

impl From<zbus::Error> for SystemdError {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(..) => Self::Refused(error),
            // Errors that the D-Bus specification defines.
            zbus::Error::FDO(_) if !bus::is_absent(&error) => Self::Refused(error),
            _ => Self::Bus(error),
        }
    }
}

/// The properties of a unit that matter for stopping and starting the unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// The unit's canonical name.
    pub id: String,
    /// `loaded`, `not-found`, `masked`, …
    pub load_state: String,
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, `reloading`.
    pub active_state: String,
    pub sub_state: String,
    /// `enabled`, `disabled`, `static`, …; empty if the unit has no file.
    pub file_state: String,
    pub need_daemon_reload: bool,
    /// Whether this is a transient unit, which has no file and disappears when it stops.
    pub transient: bool,
    /// The unit file that systemd has read. Empty if the unit has no file.
    pub fragment_path: String,
    pub drop_in_paths: Vec<String>,
    /// Units that can activate this unit: sockets, paths, timers.
    pub triggered_by: Vec<String>,
    /// Units that systemd stops when this unit stops.
    pub takes_along: Vec<String>,
    /// Units that systemd starts before this unit.
    pub after: Vec<String>,
    /// Units that this unit requires, wants, or is bound to (`BindsTo=`).
    pub needs: Vec<String>,
    pub stop_when_unneeded: bool,
    /// The paths of the unit's `AssertPathExists=` settings.
    pub asserted_paths: Vec<String>,
}

impl Unit {
    pub fn is_active(&self) -> bool {
        is_active(&self.active_state)
    }

    /// Whether the unit's state is stable: active, inactive or failed.
    pub fn is_settled(&self) -> bool {
        matches!(self.active_state.as_str(), "active" | "inactive" | "failed")
    }
}

/// Whether a unit in this state is active and not about to stop.
pub fn is_active(active_state: &str) -> bool {
    matches!(active_state, "active" | "reloading" | "refreshing")
}

/// Whether a unit runs, according to [`ServiceManager::active_states`].
pub fn runs(active_states: &BTreeMap<String, String>, unit: &str) -> bool {
    active_states
        .get(unit)
        .is_some_and(|state| is_active(state))
}

/// The properties that only a service unit has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// The ID of the main process. 0 if no main process runs.
    pub main_pid: u32,
    /// Which processes systemd kills when the service stops (`systemd.kill(5)`).
    pub kill_mode: String,
    /// The control group below `/sys/fs/cgroup`. Empty if the unit has no control group.
    pub control_group: String,
    /// The timeout after which systemd kills a service that does not stop. `None` if
    /// there is no timeout.
    pub timeout_stop: Option<Duration>,
    /// The command line before systemd expands its variables.
    pub exec_start: Vec<String>,
    pub environment: Vec<String>,
    /// The files of `EnvironmentFile=`, and whether each file may be missing.
    pub environment_files: Vec<(String, bool)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedJob {
    pub unit: String,
    /// `start`, `stop`, `restart`, …
    pub kind: String,
}

/// A service that digestfix defines, and that disappears when it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnService {
    pub name: String,
    pub description: String,
    /// The program's full path, and its arguments.
    pub command: Vec<String>,
}

/// The calls to systemd that a transaction needs.
pub trait ServiceManager {
    /// Every loaded unit with its active state.
    async fn active_states(&self) -> Result<BTreeMap<String, String>, SystemdError>;
    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>, SystemdError>;
    /// The properties of a unit. systemd loads the unit if necessary.
    async fn unit(&self, name: &str) -> Result<Unit, SystemdError>;
    async fn service(&self, name: &str) -> Result<Service, SystemdError>;
    /// The paths at which a socket unit listens.
    async fn listening_paths(&self, socket: &str) -> Result<Vec<String>, SystemdError>;
    async fn unit_of_process(&self, pid: u32) -> Result<String, SystemdError>;
    /// The process ID under which the D-Bus daemon, and therefore systemd, knows this
    /// process.
    async fn own_pid(&self) -> Result<u32, SystemdError>;
    /// Makes systemd read unit files again (`systemctl daemon-reload`).
    async fn reload(&self) -> Result<(), SystemdError>;
    /// Sends SIGHUP to a unit's main process.
    async fn hang_up(&self, unit: &str) -> Result<(), SystemdError>;
    /// Makes systemd forget that a unit has failed, and how often it was started
    /// recently.
    async fn reset_failed(&self, unit: &str) -> Result<(), SystemdError>;
    /// Stops a unit and its active triggers together. Waits until systemd has finished
    /// all stop jobs.
    async fn stop(
        &self,
        unit: &str,
        triggers: &[String],
        within: Duration,
    ) -> Result<(), SystemdError>;
    /// Starts units in the given order, unless systemd's dependencies require another
    /// order. Waits for each job.
    async fn start(&self, units: &[String], within: Duration) -> Result<(), SystemdError>;
    /// Starts a service that outlives this process. If the service fails, systemd
    /// restarts it. Waits until the service reports that it is ready.
    async fn start_lasting(&self, service: &OwnService) -> Result<(), SystemdError>;
    /// Removes the unit file of a service that [`Self::start_lasting`] started. The
    /// service keeps running until it ends by itself.
    async fn forget_lasting(&self, name: &str) -> Result<(), SystemdError>;
    /// Runs a program once with the environment of another service, and writes its output
    /// to `output`. Waits until the program has ended, and returns whether it succeeded.
    async fn run_like(
        &self,
        service: &OwnService,
        other: &Service,
        output: BorrowedFd<'_>,
    ) -> Result<bool, SystemdError>;
    /// Makes logind delay a shutdown until the returned descriptor is closed, but no
    /// longer than `InhibitDelayMaxSec=`.
    async fn delay_shutdown(&self, why: &str) -> Result<OwnedFd, SystemdError>;
    /// Whether the machine is shutting down. During a shutdown, systemd starts no more
    /// units.
    async fn is_shutting_down(&self) -> bool;
}

/// The active units that systemd would stop if `unit` and its active triggers were
/// stopped, without these units themselves. The list follows the dependencies that
/// systemd has loaded.
pub async fn carried_along(
    manager: &impl ServiceManager,
    unit: &Unit,
    triggers: &[String],
) -> Result<BTreeSet<String>, SystemdError> {
    let mut found = BTreeSet::new();
    let mut queue = unit.takes_along.clone();
    queue.extend(triggers.iter().cloned());
    while let Some(name) = queue.pop() {
        if name == unit.id || found.contains(&name) {
            continue;
        }
        let next = manager.unit(&name).await?;
        if next.active_state == "inactive" || next.active_state == "failed" {
            continue;
        }
        queue.extend(next.takes_along);
        found.insert(name);
    }
    for trigger in triggers {
        found.remove(trigger);
    }
    Ok(found)
}
