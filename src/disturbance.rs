//! What a stop of Docker would do to the host, found out before anything is
//! stopped.

use std::fs;
use std::path::Path;

use crate::engine::{Container, Engine, EngineError};
use crate::host::Managed;
use crate::systemd::{ServiceManager, SystemdError, carried_along, runs};

/// What is to become of running containers that a stop would end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ContainerPolicy {
    /// Do nothing while there are any.
    Refuse,
    /// Let them end; their restart policy may bring them back.
    Ignore,
}

/// What a stop of Docker, and its start, would touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disturbance {
    /// Docker's unit.
    pub unit: String,
    /// It runs, so it would be stopped and started again.
    pub running: bool,
    /// The active units that would start it for a client; stopped and started
    /// with it.
    pub triggers: Vec<String>,
    /// Other units that systemd stops along with it; started again.
    pub carried_along: Vec<String>,
    /// The running containers.
    pub containers: Vec<Container>,
    /// They stay up while the engine is away.
    pub containers_survive: bool,
}

/// Why Docker should not be stopped now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// A start would use other settings than the running daemon was started with.
    #[error(
        "{unit} has changed on disk since systemd read it, so a restart now would start another \
         Docker than the one that runs. Look at the change (systemctl cat {unit}), then: \
         systemctl daemon-reload"
    )]
    UnitChanged {
        /// The unit.
        unit: String,
    },
    /// Somebody else is at work on a unit.
    #[error(
        "{unit} has a {kind} job of somebody else's queued; wait until it has ended (systemctl list-jobs)"
    )]
    JobQueued {
        /// The unit.
        unit: String,
        /// The job's type.
        kind: String,
    },
    /// A unit would be killed half-way.
    #[error(
        "{unit} is {state}, and would be stopped along with Docker half-way; wait until it has settled (systemctl status {unit})"
    )]
    Unsettled {
        /// The unit.
        unit: String,
        /// Its active state.
        state: String,
    },
    /// Containers would end.
    #[error(
        "{count} running {noun} would be stopped with Docker: {names}. Switch on live-restore (\"live-restore\": true in \
         daemon.json, then systemctl reload {unit}) and they keep running, or say \
         --containers ignore to let them stop",
        noun = if *.count == 1 { "container" } else { "containers" }
    )]
    Containers {
        /// How many.
        count: usize,
        /// Some of their names.
        names: String,
        /// Docker's unit.
        unit: String,
    },
    /// Live-restore is on, and systemd would kill the containers all the same.
    #[error(
        "live-restore is on, but KillMode={kill_mode} of {unit} makes systemd kill the containers with Docker: \
         {names}. Set KillMode=process (systemctl edit {unit}), or say --containers ignore to let \
         them stop"
    )]
    KillMode {
        /// Docker's unit.
        unit: String,
        /// Its `KillMode=`.
        kill_mode: String,
        /// Some of the containers' names.
        names: String,
    },
}

/// The host could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum AssessError {
    /// systemd.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

const NAMES_SHOWN: usize = 5;

/// Looks at everything that a stop of Docker would touch, and at what speaks
/// against it. Touches nothing.
///
/// # Errors
/// When systemd or the engine cannot be asked.
pub async fn assess(
    manager: &impl ServiceManager,
    engine: &impl Engine,
    host: &Managed,
    policy: ContainerPolicy,
) -> Result<(Disturbance, Vec<Obstacle>), AssessError> {
    let states = manager.active_states().await?;
    let running = host.engine.is_some();
    let triggers: Vec<String> = host
        .unit
        .triggered_by
        .iter()
        .filter(|name| runs(&states, name))
        .cloned()
        .collect();
    let carried = carried_along(manager, &host.unit, &triggers).await?;
    let mut obstacles = Vec::new();
    if host.unit.need_daemon_reload {
        obstacles.push(Obstacle::UnitChanged {
            unit: host.unit.id.clone(),
        });
    }
    for job in manager.queued_jobs().await? {
        if job.unit == host.unit.id
            || host.unit.triggered_by.contains(&job.unit)
            || carried.contains(&job.unit)
        {
            obstacles.push(Obstacle::JobQueued {
                unit: job.unit,
                kind: job.kind,
            });
        }
    }
    for name in &carried {
        if let Some(state) = states.get(name).filter(|state| *state != "active") {
            obstacles.push(Obstacle::Unsettled {
                unit: name.clone(),
                state: state.clone(),
            });
        }
    }
    let containers = if running {
        engine.running_containers().await?
    } else {
        Vec::new()
    };
    let live_restore = host.engine.as_ref().is_some_and(|info| info.live_restore);
    let killed_by_systemd = kills_shims(host);
    if policy == ContainerPolicy::Refuse && !containers.is_empty() {
        if !live_restore {
            obstacles.push(Obstacle::Containers {
                count: containers.len(),
                names: some_names(&containers),
                unit: host.unit.id.clone(),
            });
        } else if killed_by_systemd {
            obstacles.push(Obstacle::KillMode {
                unit: host.unit.id.clone(),
                kill_mode: host.service.kill_mode.clone(),
                names: some_names(&containers),
            });
        }
    }
    let disturbance = Disturbance {
        unit: host.unit.id.clone(),
        running,
        triggers,
        carried_along: carried.into_iter().collect(),
        containers,
        containers_survive: live_restore && !killed_by_systemd,
    };
    Ok((disturbance, obstacles))
}

fn some_names(containers: &[Container]) -> String {
    let mut names: Vec<&str> = containers
        .iter()
        .take(NAMES_SHOWN)
        .map(|container| container.name.as_str())
        .collect();
    if containers.len() > NAMES_SHOWN {
        names.push("…");
    }
    names.join(", ")
}

/// Where dockerd runs containerd as its own child, the containers' shims live
/// in the unit's control group, and `KillMode=` decides whether a stop kills
/// them (`systemd.kill(5)`).
fn kills_shims(host: &Managed) -> bool {
    matches!(host.service.kill_mode.as_str(), "control-group" | "mixed")
        && !host.service.control_group.is_empty()
        && [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/systemd",
            "/sys/fs/cgroup/unified",
        ]
        .iter()
        .any(|mount| has_shim(Path::new(&format!("{mount}{}", host.service.control_group))))
}

fn has_shim(control_group: &Path) -> bool {
    let Ok(processes) = fs::read_to_string(control_group.join("cgroup.procs")) else {
        return false;
    };
    processes.lines().any(|pid| {
        fs::read_to_string(format!("/proc/{pid}/comm"))
            .is_ok_and(|name| name.starts_with("containerd-shim"))
    })
}
