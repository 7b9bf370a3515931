//! Docker as a transaction sees it: a systemd unit and an engine. digestfix stops and
//! starts the unit together with the units that depend on it. It asks the engine through
//! Docker's API.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::docker::engine::{Engine, missing};
use crate::host::Managed;
use crate::host::impact::Impact;
use crate::image::digest::ImageId;
use crate::image::reference::Reference;
use crate::plan::Plan;
use crate::store::repositories::Store;
use crate::systemd::{ServiceManager, SystemdError, Unit, is_active, runs};
use crate::transaction::Docker;
use crate::transaction::outcome::{DockerNow, Failure};

/// Timeout for a start of Docker. docker.service has no start timeout
/// (`TimeoutStartSec=0`), and a start takes minutes on hosts with many containers.
const START_WITHIN: Duration = Duration::from_secs(300);

/// Stop timeout for a unit with `TimeoutStopSec=infinity`.
const STOP_WITHIN: Duration = Duration::from_secs(600);

/// Extra time beyond twice the unit's stop timeout. systemd waits for one timeout after
/// SIGTERM, and for another one after SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// How many times digestfix repeats a stop of Docker that another process has canceled
/// with a start request. Docker's own unit cannot start anyway, because the start block
/// prevents that. A socket unit has no start block.
const MOST_CANCELED: u32 = 20;

/// Pause between a canceled stop and the next attempt.
const AGAIN: Duration = Duration::from_millis(100);

/// How long to wait for systemd to notice that dockerd has ended. Usually, systemd
/// notices at once.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);

/// Pause between two pings of the engine. digestfix sends pings because the engine does
/// not announce that it is ready.
const READY_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub struct Daemon<'a, M, E> {
    /// systemd, the detected Docker, and the directory of the pending markers.
    pub docker: Docker<'a, M>,
    pub engine: &'a E,
    pub impact: &'a Impact,
    /// The directory of runtime drop-ins:
    /// [`RUNTIME_UNITS`](crate::systemd::RUNTIME_UNITS), except in tests.
    pub runtime_units: &'a Path,
}

impl<M, E> Clone for Daemon<'_, M, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M, E> Copy for Daemon<'_, M, E> {}

impl<M: ServiceManager, E: Engine> Daemon<'_, M, E> {
    pub(super) fn unit(&self) -> &str {
        &self.docker.host.unit.id
    }

    /// The names of Docker's unit and of the active units that trigger it.
    pub(super) fn units(&self) -> String {
        let triggers = self.impact.triggers.iter().map(String::as_str);
        let unit = self.impact.running.then(|| self.unit());
        let units: Vec<&str> = unit.into_iter().chain(triggers).collect();
        units.join(", ")
    }

    /// The text that reports which units digestfix has stopped. Perhaps Docker's own unit
    /// was not running before.
    pub(super) fn stopped(&self) -> String {
        match (self.impact.running, self.units()) {
            (false, none) if none.is_empty() => format!("{} is not running", self.unit()),
            (false, units) => format!("{units} stopped, {} is not running", self.unit()),
            (true, units) => format!("{units} stopped"),
        }
    }

    /// The directories other than the data root that a start of Docker writes to.
    pub(super) fn writes_at_start(&self) -> Vec<PathBuf> {
        writes_at_start(self.docker.host)
    }

    /// Whether Docker runs. Returns false if systemd does not answer.
    pub(super) async fn is_active(&self) -> bool {
        let unit = self.docker.manager.unit(self.unit()).await;
        unit.is_ok_and(|unit| unit.is_active())
    }

    /// The state of Docker after a failed undo.
    pub(super) async fn now(&self) -> DockerNow {
        if self.is_active().await {
            DockerNow::Runs
        } else if !self.impact.running {
            DockerNow::AsBefore
        } else if self.docker.manager.is_shutting_down().await {
            DockerNow::ShuttingDown
        } else {
            DockerNow::Down
        }
    }

    /// Whether containers survive a stop of Docker because of live-restore in the
    /// configuration file, not because of a command-line flag.
    pub(super) fn lives_by_file(&self) -> bool {
        self.docker.host.live_restore_flag.is_none() && self.impact.containers_survive()
    }

    /// The active units that may stop along with Docker because nothing else needs them
    /// (`StopWhenUnneeded=` in `systemd.unit(5)`).
    pub(super) async fn needed_by_nobody_else(&self) -> Result<Vec<String>, Failure> {
        let states = self.docker.manager.active_states().await?;
        let mut found: Vec<String> = Vec::new();
        let stops = &self.impact.carried_along;
        let mut queue: Vec<String> = stops
            .iter()
            .chain([&self.docker.host.unit.id])
            .cloned()
            .collect();
        while let Some(name) = queue.pop() {
            for needed in self.docker.manager.unit(&name).await?.needs {
                if runs(&states, &needed)
                    && !found.contains(&needed)
                    && !stops.contains(&needed)
                    && self.docker.manager.unit(&needed).await?.stop_when_unneeded
                {
                    found.push(needed.clone());
                    queue.push(needed);
                }
            }
        }
        Ok(found)
    }

    /// Whether Docker has ended, so that the engine cannot answer until Docker is
    /// started.
    pub(super) async fn has_ended(&self) -> Result<bool, Failure> {
        let deadline = Instant::now() + NOTICED_WITHIN;
        // Ask systemd first: a ping would start Docker through its socket unit.
        while self.docker.manager.unit(self.unit()).await?.is_active() && Instant::now() < deadline
        {
            if self.engine.ping().await.is_ok() {
                return Ok(false);
            }
            tokio::time::sleep(READY_AGAIN).await;
        }
        Ok(true)
    }

    /// Stops Docker and the units that trigger it. systemd reports a stop job as `done`
    /// as soon as the unit is inactive or failed. So this function also checks that
    /// dockerd is gone.
    pub(super) async fn stop(&self) -> Result<(), Failure> {
        let within = self
            .docker
            .host
            .service
            .timeout_stop
            .map_or(STOP_WITHIN, |timeout| timeout * 2 + STOP_GRACE);
        let triggers = &self.impact.triggers;
        let mut canceled = 0;
        loop {
            match self
                .docker
                .manager
                .stop(self.unit(), triggers, within)
                .await
            {
                Err(SystemdError::Job { result, .. })
                    if result == "canceled" && canceled < MOST_CANCELED =>
                {
                    canceled += 1;
                    tokio::time::sleep(AGAIN).await;
                }
                stopped => break stopped?,
            }
        }
        match self.docker.manager.service(self.unit()).await?.main_pid {
            0 => Ok(()),
            pid => Err(Failure::StillRunning { pid: Some(pid) }),
        }
    }

    /// Starts Docker and the units that trigger it, and waits until the engine answers.
    pub(super) async fn start(&self) -> Result<(), Failure> {
        // Start the sockets first, because systemd refuses to start a socket whose
        // service is already running.
        let sockets = self.impact.triggers.iter();
        let mut units: Vec<String> = sockets
            .filter(|name| name.ends_with(".socket"))
            .cloned()
            .collect();
        units.push(self.unit().to_owned());
        self.start_all(&units).await?;
        self.wait_for_engine().await?;
        self.start_triggers().await
    }

    async fn wait_for_engine(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + START_WITHIN;
        while let Err(last) = self.engine.ping().await {
            let state = self.docker.manager.unit(self.unit()).await?.active_state;
            if !is_active(&state) {
                return Err(Failure::NotRunning {
                    unit: self.unit().to_owned(),
                    state,
                });
            }
            if Instant::now() >= deadline {
                return Err(Failure::Silent {
                    after: START_WITHIN,
                    last,
                });
            }
            tokio::time::sleep(READY_AGAIN).await;
        }
        Ok(())
    }

    /// Starts the units that trigger Docker, if they were active before and are not
    /// active now.
    pub(super) async fn start_triggers(&self) -> Result<(), Failure> {
        self.start_inactive(&self.impact.triggers).await
    }

    /// Starts those units that are not running, in the order of their `After=`
    /// dependencies.
    pub(super) async fn start_inactive(&self, units: &[String]) -> Result<(), Failure> {
        let states = self.docker.manager.active_states().await?;
        let mut inactive = Vec::new();
        for name in units {
            if !runs(&states, name) {
                inactive.push(self.docker.manager.unit(name).await?);
            }
        }
        self.start_all(&in_start_order(inactive)).await
    }

    async fn start_all(&self, units: &[String]) -> Result<(), Failure> {
        for unit in units {
            self.docker.manager.reset_failed(unit).await?;
        }
        Ok(self.docker.manager.start(units, START_WITHIN).await?)
    }

    /// The units that ran before and are down now because Docker was stopped. These are
    /// units that depend on Docker, and units that systemd stopped because no other unit
    /// needed them.
    pub(super) async fn lost(
        &self,
        before: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, Failure> {
        if before.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.docker.manager.active_states().await?;
        let mut lost = Vec::new();
        for (name, state) in before {
            let is_dockers = name == self.unit() || self.impact.triggers.contains(name);
            if is_active(state)
                && !runs(&now, name)
                && !is_dockers
                && (self.impact.carried_along.contains(name)
                    || self.docker.manager.unit(name).await?.stop_when_unneeded)
            {
                lost.push(name.clone());
            }
        }
        Ok(lost)
    }

    /// Fails unless the engine finds the planned image for every claimed or changed
    /// reference, finds no dropped reference, and lists all other references.
    pub(super) async fn agrees(
        &self,
        plan: &Plan,
        images: &BTreeSet<ImageId>,
    ) -> Result<(), Failure> {
        let claimed = plan.targets.iter();
        let mut expected: BTreeMap<&Reference, &ImageId> = claimed
            .map(|target| (&target.reference, &target.image))
            .collect();
        let changes = plan.changes.iter();
        expected
            .extend(changes.filter_map(|change| Some((&change.reference, change.to.as_ref()?))));
        for (reference, image) in expected {
            self.finds(reference, image).await?;
        }
        let gone: BTreeSet<_> = plan.dropped().chain(&plan.removals).collect();
        for reference in gone {
            if let Some(image) = self.engine.image(reference).await? {
                return Err(Failure::EngineDisagrees(format!(
                    "the engine still finds {image} for {reference}, although digestfix dropped that reference"
                )));
            }
        }
        self.lists(&plan.after, images).await
    }

    /// Fails unless the engine finds this image for a reference.
    pub(super) async fn finds(
        &self,
        reference: &Reference,
        image: &ImageId,
    ) -> Result<(), Failure> {
        let answer = self.engine.image(reference).await?;
        if answer.as_deref() != Some(image.to_string().as_str()) {
            return Err(Failure::EngineDisagrees(format!(
                "for {reference}, the engine finds {} instead of {image}",
                answer.as_deref().unwrap_or("no image"),
            )));
        }
        Ok(())
    }

    /// Fails unless the engine lists every reference whose image is on disk.
    pub(super) async fn lists(
        &self,
        store: &Store,
        images: &BTreeSet<ImageId>,
    ) -> Result<(), Failure> {
        let expected: Vec<_> = store
            .references()
            .filter(|(_, image)| images.contains(image))
            .collect();
        let missing = missing(&self.engine.references().await?, &expected);
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<String> = missing.into_iter().collect();
        Err(Failure::EngineDisagrees(format!(
            "the engine does not list {}",
            missing.join(", ")
        )))
    }
}

/// The directories other than the data root that a start of Docker writes to.
pub fn writes_at_start(host: &Managed) -> Vec<PathBuf> {
    let config = host.config_file.parent().map(Path::to_owned);
    let containerd = ["/var/lib/containerd", "/run/containerd"].map(PathBuf::from);
    let own = [host.start.exec_root()].into_iter().chain(config);
    own.chain(containerd).collect()
}

/// Orders units by their `After=` dependencies.
fn in_start_order(mut units: Vec<Unit>) -> Vec<String> {
    let mut ordered = Vec::with_capacity(units.len());
    while !units.is_empty() {
        let waits = |unit: &Unit| {
            units
                .iter()
                .any(|other| other.id != unit.id && unit.after.contains(&other.id))
        };
        // systemd does not let units wait for each other in a circle, so at least one
        // unit waits for no other unit. If there is a circle anyway, any order is as good
        // as another.
        let next = units.iter().position(|unit| !waits(unit)).unwrap_or(0);
        ordered.push(units.remove(next).id);
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_start_after_those_they_come_after() {
        let unit = |id: &str, after: &[&str]| Unit {
            id: id.to_owned(),
            after: after.iter().map(ToString::to_string).collect(),
            ..Unit::default()
        };
        let units = vec![
            unit("c", &["b", "elsewhere"]),
            unit("a", &[]),
            unit("b", &["a"]),
        ];
        assert_eq!(in_start_order(units), ["a", "b", "c"]);
        let circle = vec![unit("x", &["y"]), unit("y", &["x"])];
        assert_eq!(in_start_order(circle).len(), 2);
    }
}
