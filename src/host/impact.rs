//! Impact: what stopping Docker would do to the host. digestfix assesses the impact
//! before it stops anything.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::docker::container::{Change, Container, Happened, Published, RestartPolicy, Status};
use crate::docker::engine::{Engine, EngineError};
use crate::host::api_clients;
use crate::host::live_restore::{self, LiveRestore, LiveRestoreBlocker};
use crate::host::{Doubt, EngineStart, Managed, Startable, startable};
use crate::image::digest::Digest;
use crate::sys::open_files;
use crate::sys::shell;
use crate::systemd::{ServiceManager, SystemdError, carried_along, runs};

/// What happens to running containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ContainerPolicy {
    /// Keep containers running: switch live-restore on for the restart; if that is not
    /// possible and containers run, refuse the change
    #[default]
    Keep,
    /// Let containers stop with Docker, and start them again
    Restart,
    /// Let containers stop with Docker; their restart policy may start them again
    Ignore,
}

/// The units, containers and clients that stopping and starting Docker would affect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impact {
    pub unit: String,
    /// Whether Docker is running, so that digestfix must stop it and start it again.
    pub running: bool,
    /// The active units that would start Docker when a client connects. digestfix stops
    /// and starts these units together with Docker.
    pub triggers: Vec<String>,
    /// Other units that systemd stops together with Docker. digestfix starts them again.
    pub carried_along: Vec<String>,
    pub containers: Vec<Container>,
    pub policy: ContainerPolicy,
    pub live_restore: LiveRestore,
    /// Whether containers with `--rm` survive a restart of Docker like other containers
    /// ([`Info::keeps_auto_removed`](crate::docker::engine::Info::keeps_auto_removed)).
    pub keeps_auto_removed: bool,
    /// Whether the health checks of surviving containers resume
    /// ([`Info::resumes_health_checks`](crate::docker::engine::Info::resumes_health_checks)).
    pub resumes_health_checks: bool,
    /// The number of clients that are connected to the Docker API.
    pub api_clients: usize,
    /// Whether the engine waits for these clients when it stops
    /// ([`Info::waits_for_clients`](crate::docker::engine::Info::waits_for_clients)).
    pub waits_for_clients: bool,
    /// Containers from `docker create --rm` that have never run, and that Docker
    /// therefore removes when it starts.
    pub removed_at_start: Vec<Container>,
    /// Options of the unit that dockerd forgets at a reload, and reads again only at its
    /// next start.
    pub forgotten_by_reload: Vec<String>,
    pub startable: Startable,
    /// Whether some versions of dockerd refuse to reload the present configuration file.
    pub may_refuse_reload: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allowed {
    pub containers: ContainerPolicy,
    /// Whether to restart Docker even if it may fail to start.
    pub force_restart: bool,
}

/// What happens to a container if Docker is stopped and started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerImpact {
    KeepsRunning,
    /// The container stops, and digestfix starts it again.
    StartedAgain,
    /// The container stops, and Docker starts it again because of its restart policy.
    RestartsByPolicy,
    /// The container stops. The restart policy makes Docker start the container again,
    /// but only if the container exits with an error.
    RestartsIfItFails,
    /// The container stops, and swarm replaces it with another container.
    ReplacedBySwarm,
    StaysDown,
    /// The container stops, and Docker removes it (`--rm`).
    Removed,
}

impl Impact {
    /// An impact on units only, without containers and clients.
    pub fn of_units(
        unit: &str,
        running: bool,
        triggers: Vec<String>,
        carried_along: Vec<String>,
    ) -> Self {
        Self {
            unit: unit.to_owned(),
            running,
            triggers,
            carried_along,
            containers: Vec::new(),
            policy: ContainerPolicy::Ignore,
            live_restore: LiveRestore::On,
            keeps_auto_removed: true,
            resumes_health_checks: true,
            api_clients: 0,
            waits_for_clients: false,
            removed_at_start: Vec::new(),
            forgotten_by_reload: Vec::new(),
            startable: Startable::default(),
            may_refuse_reload: false,
        }
    }

    /// Whether the run must temporarily switch live-restore on.
    pub fn switches_live_restore(&self) -> bool {
        self.policy == ContainerPolicy::Keep
            && !self.containers.is_empty()
            && matches!(self.live_restore, LiveRestore::Switchable(_))
    }

    /// The message that `plan` and `doctor` print if a restart may fail, and only a
    /// reload of the running dockerd would show this. `plan` and `doctor` never reload
    /// dockerd.
    pub fn not_known(&self) -> Option<String> {
        let path = &self.startable.checked.as_ref()?.path;
        let path = path.display();
        if self.switches_live_restore() && self.may_refuse_reload {
            return Some(format!(
                "it is not known whether Docker accepts a reload of {path}. apply needs this \
                 reload to switch live-restore on. Some versions of Docker refuse a file with \
                 \"userland-proxy\": true but without \"userland-proxy-path\". Remove that line \
                 (\"userland-proxy\": true), because true is the default"
            ));
        }
        self.startable.needs_reload.then(|| {
            format!(
                "it is not known whether Docker would start with {path}, which changed after dockerd \
                 started. Before apply stops Docker, it makes the running dockerd reload the file. If \
                 dockerd refuses the file, apply does not stop Docker"
            )
        })
    }

    /// Whether all running containers keep running while Docker is stopped.
    pub fn containers_survive(&self) -> bool {
        self.live_restore == LiveRestore::On || self.switches_live_restore()
    }

    /// Whether the engine waits for clients, and so keeps running for seconds after
    /// systemd tells it to stop.
    pub fn stops_late(&self) -> bool {
        self.waits_for_clients && self.api_clients > 0
    }

    pub fn on(&self, container: &Container) -> ContainerImpact {
        if container.auto_remove && !(self.containers_survive() && self.keeps_auto_removed) {
            return ContainerImpact::Removed;
        }
        if self.containers_survive() {
            return ContainerImpact::KeepsRunning;
        }
        if container.swarm_task {
            return ContainerImpact::ReplacedBySwarm;
        }
        match (self.policy, container.restart_policy) {
            (ContainerPolicy::Restart, _) => ContainerImpact::StartedAgain,
            (_, RestartPolicy::Always | RestartPolicy::UnlessStopped) => {
                ContainerImpact::RestartsByPolicy
            }
            (_, RestartPolicy::OnFailure) => ContainerImpact::RestartsIfItFails,
            (_, RestartPolicy::No) => ContainerImpact::StaysDown,
        }
    }

    /// The containers whose health checks do not resume by themselves when Docker starts.
    pub fn health_checks_to_resume<'a>(
        &self,
        containers: &'a [Container],
    ) -> impl Iterator<Item = &'a Container> {
        let leaves_off = !self.resumes_health_checks;
        containers.iter().filter(move |container| {
            leaves_off && container.health_check && container.status == Status::Running
        })
    }

    /// Whether the user's choice (`--containers`) allows what has happened to a
    /// container.
    pub fn accepts(&self, change: &Change) -> bool {
        if matches!(change.what, Happened::Unlisted(_)) {
            return false;
        }
        match self.policy {
            ContainerPolicy::Keep => false,
            ContainerPolicy::Restart => {
                !self.containers_survive() && change.what == Happened::Restarted
            }
            ContainerPolicy::Ignore => true,
        }
    }

    /// The published TCP ports of containers that keep running. digestfix can hold back
    /// new connections to these ports.
    pub fn ports_to_hold(&self) -> BTreeSet<Published> {
        let kept = self
            .containers
            .iter()
            .filter(|container| self.on(container) == ContainerImpact::KeepsRunning)
            // While a container is restarting, another process may use its port.
            .filter(|container| container.status != Status::Restarting);
        kept.flat_map(|container| &container.published)
            .filter(|published| published.protocol == "tcp")
            .cloned()
            .collect()
    }
}

/// A reason not to stop Docker now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocker {
    #[error(
        "{unit} has changed on disk since systemd read it, so a restart now would start Docker with other \
         settings"
    )]
    UnitChanged { unit: String },
    #[error("another process has queued a {kind} job for {unit}")]
    JobQueued { unit: String, kind: String },
    #[error("{unit} is {state}; stopping Docker now would interrupt this unit")]
    Unsettled { unit: String, state: String },
    #[error("this digestfix runs in {unit}, which systemd stops together with Docker")]
    Ourselves { unit: String },
    #[error(
        "this process may open only {limit} files, and a run needs {}",
        open_files::NEEDED
    )]
    TooFewFiles { limit: u64 },
    #[error(
        "{count} running {noun} would stop with Docker: {names}. digestfix cannot keep them running: {blocker}",
        noun = if *.count == 1 { "container" } else { "containers" }
    )]
    CannotKeep {
        count: usize,
        /// The names of some of the containers that would stop.
        names: String,
        blocker: LiveRestoreBlocker,
    },
    #[error("{unit} would not start again: {doubt}. Docker keeps running until you stop it")]
    WouldNotStart { unit: String, doubt: Doubt },
    #[error(
        "{unit} may move its images to containerd at its next start ({} is on). Docker would \
         then lose all digests that it recorded before that start", features.join(", ")
    )]
    WouldMoveImages {
        unit: String,
        features: Vec<String>,
        config_file: PathBuf,
    },
    #[error("{unit} may not start again: {doubt}")]
    MayNotStart { unit: String, doubt: Doubt },
    #[error(
        "a restart of Docker removes these --rm containers ({}): {}",
        if *.kept { "when Docker starts, it removes --rm containers that never ran; before Docker 24.0.8, it also removes running --rm containers" } else { "because live-restore is off" },
        first_of(.names.iter().map(String::as_str))
    )]
    WouldBeRemoved {
        names: Vec<String>,
        /// Whether containers without `--rm` keep running.
        kept: bool,
    },
}

impl Blocker {
    pub fn help(&self) -> Option<String> {
        let word = shell::word;
        Some(match self {
            Self::UnitChanged { unit } => format!(
                "look at the change (systemctl cat {unit}). Then, at a time when Docker may be down for a \
                 moment: systemctl daemon-reload && systemctl restart {unit}",
                unit = word(unit)
            ),
            Self::JobQueued { .. } => {
                "wait until that job has ended: systemctl list-jobs".to_owned()
            }
            Self::Unsettled { unit, .. } => {
                format!(
                    "wait until the unit has started or stopped: systemctl status {}",
                    word(unit)
                )
            }
            Self::Ourselves { unit } => format!(
                "in that unit, replace Requires=, BindsTo= or PartOf= on Docker by Wants= and After=: \
                 systemctl edit --full {}",
                word(unit)
            ),
            Self::TooFewFiles { .. } => {
                format!("raise the limit: ulimit -n {}", open_files::NEEDED)
            }
            Self::CannotKeep { blocker, .. } => format!(
                "if these containers may stop: --containers restart (apply starts them again), or --containers \
                 ignore (only containers with a restart policy start again){}",
                blocker
                    .help()
                    .map(|help| format!("; or {help}"))
                    .unwrap_or_default()
            ),
            Self::WouldNotStart { unit, .. } => format!(
                "fix the problem in the configuration file or in the unit: systemctl cat {}",
                word(unit)
            ),
            Self::WouldMoveImages {
                unit, config_file, ..
            } => format!(
                "remove that feature from {} or from the unit (systemctl edit --full {unit}); or \
                 first restart Docker (systemctl restart {unit}), then run the same command again \
                 for the images that Docker has after the restart",
                config_file.display(),
                unit = word(unit)
            ),
            Self::MayNotStart { unit, .. } => format!(
                "at a time when Docker may be down for a moment: systemctl restart {}; or restart despite \
                 this doubt: --force-restart",
                word(unit)
            ),
            Self::WouldBeRemoved { names, .. } => format!(
                "remove these containers yourself (docker rm -f {}), or let Docker remove them: --containers ignore",
                names.join(" ")
            ),
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AssessError {
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl AssessError {
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Systemd(error) => error.help(),
            Self::Engine(_) => Some("docker ps; journalctl -u docker.service -n 50".to_owned()),
        }
    }
}

const NAMES_SHOWN: usize = 5;

/// Assesses what a stop of Docker would affect, and collects the reasons not to stop
/// Docker. Changes nothing. For `recorded`, see [`startable::look`].
pub async fn assess(
    manager: &impl ServiceManager,
    engine: &impl Engine,
    host: &Managed,
    allowed: Allowed,
    recorded: impl FnOnce(&EngineStart) -> Option<Digest>,
) -> Result<(Impact, Vec<Blocker>), AssessError> {
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
    let mut blockers = Vec::new();
    if host.unit.need_daemon_reload {
        blockers.push(Blocker::UnitChanged {
            unit: host.unit.id.clone(),
        });
    }
    for job in manager.queued_jobs().await? {
        if job.unit == host.unit.id
            || host.unit.triggered_by.contains(&job.unit)
            || carried.contains(&job.unit)
        {
            blockers.push(Blocker::JobQueued {
                unit: job.unit,
                kind: job.kind,
            });
        }
    }
    for name in &carried {
        if let Some(state) = states.get(name).filter(|state| *state != "active") {
            blockers.push(Blocker::Unsettled {
                unit: name.clone(),
                state: state.clone(),
            });
        }
    }
    if let Some(limit) = open_files::too_few() {
        blockers.push(Blocker::TooFewFiles { limit });
    }
    // If this process belongs to no unit, stopping a unit cannot stop this process.
    let own = manager.unit_of_process(std::process::id()).await;
    if let Some(unit) = own.ok().filter(|unit| carried.contains(unit)) {
        blockers.push(Blocker::Ourselves { unit });
    }
    let startable = match running {
        true => startable::look(manager, host, recorded).await,
        false => Startable::default(),
    };
    let features = host.moves_images();
    if !features.is_empty() {
        blockers.push(Blocker::WouldMoveImages {
            unit: host.unit.id.clone(),
            features,
            config_file: host.config_file.clone(),
        });
    }
    let doubts = startable.doubts.iter().cloned();
    blockers.extend(doubts.filter_map(|doubt| in_doubt(&host.unit.id, doubt, allowed)));
    let (clients, containers, down) = if running {
        let clients = api_clients::count(&host.socket);
        let containers = engine.running_containers().await?;
        (clients, containers, engine.down_containers().await?)
    } else {
        (0, Vec::new(), Vec::new())
    };
    let info = host.engine.clone().unwrap_or_default();
    let impact = Impact {
        unit: host.unit.id.clone(),
        running,
        triggers,
        carried_along: carried.into_iter().collect(),
        containers,
        policy: allowed.containers,
        live_restore: live_restore::look(host),
        keeps_auto_removed: info.keeps_auto_removed(),
        resumes_health_checks: info.resumes_health_checks(),
        api_clients: clients,
        waits_for_clients: info.waits_for_clients(),
        removed_at_start: down.into_iter().filter(|one| one.auto_remove).collect(),
        forgotten_by_reload: host.forgotten_by_reload.clone(),
        startable,
        may_refuse_reload: host.leaves_proxy_to_be_found,
    };
    blockers.extend(containers_at_risk(&impact));
    Ok((impact, blockers))
}

fn in_doubt(unit: &str, doubt: Doubt, allowed: Allowed) -> Option<Blocker> {
    let unit = unit.to_owned();
    if doubt.is_certain() {
        return Some(Blocker::WouldNotStart { unit, doubt });
    }
    (!allowed.force_restart).then_some(Blocker::MayNotStart { unit, doubt })
}

fn containers_at_risk(impact: &Impact) -> Option<Blocker> {
    match (impact.policy, &impact.live_restore) {
        (ContainerPolicy::Keep, LiveRestore::Impossible(blocker))
            if !impact.containers.is_empty() =>
        {
            Some(Blocker::CannotKeep {
                count: impact.containers.len(),
                names: some_names(impact.containers.iter()),
                blocker: blocker.clone(),
            })
        }
        (ContainerPolicy::Keep | ContainerPolicy::Restart, _) => {
            let removed = impact
                .containers
                .iter()
                .filter(|container| impact.on(container) == ContainerImpact::Removed);
            let removed = removed.chain(&impact.removed_at_start);
            let names: Vec<String> = removed.map(|container| container.name.clone()).collect();
            (!names.is_empty()).then(|| Blocker::WouldBeRemoved {
                names,
                kept: impact.containers_survive(),
            })
        }
        (ContainerPolicy::Ignore, _) => None,
    }
}

/// The names of the first few containers.
pub(crate) fn some_names<'a>(containers: impl Iterator<Item = &'a Container>) -> String {
    first_of(containers.map(|container| container.name.as_str()))
}

fn first_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names: Vec<&str> = names.take(NAMES_SHOWN + 1).collect();
    if names.len() > NAMES_SHOWN {
        names[NAMES_SHOWN] = "…";
    }
    names.join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const SWARM: LiveRestore = LiveRestore::Impossible(LiveRestoreBlocker::Swarm);

    fn container(change: impl FnOnce(&mut Container)) -> Container {
        let mut container = Container::default();
        "web".clone_into(&mut container.name);
        change(&mut container);
        container
    }

    fn impact(policy: ContainerPolicy, live_restore: LiveRestore, container: &Container) -> Impact {
        let units = Impact::of_units("docker.service", true, Vec::new(), Vec::new());
        Impact {
            policy,
            live_restore,
            containers: vec![container.clone()],
            ..units
        }
    }

    fn switchable() -> LiveRestore {
        LiveRestore::Switchable("/etc/docker/daemon.json".into())
    }

    #[test]
    fn each_container_has_its_fate() {
        let plain = container(|_| {});
        let always = container(|one| one.restart_policy = RestartPolicy::Always);
        let on_failure = container(|one| one.restart_policy = RestartPolicy::OnFailure);
        let auto_remove = container(|one| one.auto_remove = true);
        let task = container(|one| one.swarm_task = true);
        let (keep, restart, ignore) = (
            ContainerPolicy::Keep,
            ContainerPolicy::Restart,
            ContainerPolicy::Ignore,
        );
        for (policy, live_restore, container, effect) in [
            (keep, switchable(), &plain, ContainerImpact::KeepsRunning),
            (
                keep,
                LiveRestore::On,
                &auto_remove,
                ContainerImpact::KeepsRunning,
            ),
            (
                restart,
                LiveRestore::On,
                &plain,
                ContainerImpact::KeepsRunning,
            ),
            (restart, switchable(), &plain, ContainerImpact::StartedAgain),
            (restart, SWARM, &always, ContainerImpact::StartedAgain),
            (restart, SWARM, &auto_remove, ContainerImpact::Removed),
            (restart, SWARM, &task, ContainerImpact::ReplacedBySwarm),
            (ignore, switchable(), &plain, ContainerImpact::StaysDown),
            (ignore, SWARM, &always, ContainerImpact::RestartsByPolicy),
            (
                ignore,
                SWARM,
                &on_failure,
                ContainerImpact::RestartsIfItFails,
            ),
            (ignore, SWARM, &auto_remove, ContainerImpact::Removed),
        ] {
            let found = impact(policy, live_restore, container).on(container);
            assert_eq!(found, effect, "{policy:?} {container:?}");
        }
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        let plain = container(|_| {});
        let auto_remove = container(|one| one.auto_remove = true);
        let refused = |impact: &Impact| containers_at_risk(impact).is_some();
        let keep = |live_restore, container| {
            refused(&impact(ContainerPolicy::Keep, live_restore, container))
        };
        assert!(!keep(switchable(), &plain) && !keep(LiveRestore::On, &auto_remove));
        assert!(keep(SWARM, &plain));
        let mut old = impact(ContainerPolicy::Keep, LiveRestore::On, &auto_remove);
        old.keeps_auto_removed = false;
        assert!(refused(&old));
        let mut never_ran = impact(ContainerPolicy::Keep, LiveRestore::On, &plain);
        never_ran.removed_at_start.push(auto_remove.clone());
        assert!(refused(&never_ran));
        let restart = impact(ContainerPolicy::Restart, SWARM, &auto_remove);
        assert!(refused(&restart));
        let ignore = impact(ContainerPolicy::Ignore, SWARM, &auto_remove);
        assert!(!refused(&ignore));
        let mut idle = impact(ContainerPolicy::Keep, SWARM, &plain);
        idle.containers.clear();
        assert!(!refused(&idle));
    }

    #[test]
    fn the_command_removes_each_container_that_the_message_counts() {
        let plain = container(|_| {});
        let mut many = impact(ContainerPolicy::Restart, switchable(), &plain);
        many.containers = (1..=7)
            .map(|number| {
                container(|one| {
                    one.name = format!("job-{number}");
                    one.auto_remove = true;
                })
            })
            .collect();
        let blocker = containers_at_risk(&many).unwrap();
        let (message, help) = (blocker.to_string(), blocker.help().unwrap());
        assert!(message.ends_with("job-4, job-5, …"), "{message}");
        assert!(
            help.contains("docker rm -f job-1 job-2 job-3 job-4 job-5 job-6 job-7)"),
            "{help}"
        );
    }

    #[test]
    fn only_what_was_said_is_accepted() {
        let plain = container(|_| {});
        let change = |what| Change {
            name: "web".to_owned(),
            what,
        };
        let stopped = change(Happened::Stopped("exited".to_owned()));
        let restarted = change(Happened::Restarted);
        for (policy, accepts_stopped, accepts_restarted) in [
            (ContainerPolicy::Keep, false, false),
            (ContainerPolicy::Restart, false, true),
            (ContainerPolicy::Ignore, true, true),
        ] {
            let impact = impact(policy, SWARM, &plain);
            assert_eq!(impact.accepts(&stopped), accepts_stopped);
            assert_eq!(impact.accepts(&restarted), accepts_restarted);
        }
    }
}
