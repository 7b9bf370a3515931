//! Containers across a restart of Docker. digestfix starts the containers that stopped
//! along with Docker, if the user requested this. digestfix reports every other
//! difference in the containers.

use std::collections::BTreeSet;
use std::path::Path;

use crate::docker::container::{
    Change, Container, Happened, RestartPolicy, Status, in_start_order,
};
use crate::docker::engine::{Engine, EngineError};
use crate::host::impact::{ContainerImpact, ContainerPolicy, some_names};
use crate::state::journal::{Journal, KeptDown, Listed, Phase, Ran};
use crate::systemd::ServiceManager;
use crate::transaction::Tx;
use crate::transaction::outcome::{Failure, Progress, Step};
use crate::transaction::restart::Restart;
use crate::transaction::restart::daemon::Daemon;

impl<M: ServiceManager, E: Engine> Daemon<'_, M, E> {
    /// Removes the restart policies of containers that Docker must not start.
    pub(super) async fn keep_down(&self, containers: &[KeptDown]) -> Result<(), Failure> {
        for container in containers {
            self.engine
                .set_restart_policy(&container.id, RestartPolicy::No, 0)
                .await?;
        }
        Ok(())
    }

    /// Restores all containers listed in a journal, even if some fail. Returns the
    /// problems that the user has to fix. Fails if a container is left without its
    /// restart policy.
    pub(super) async fn settle_containers(
        &self,
        journal: &Journal,
        progress: &mut dyn Progress,
    ) -> Result<Vec<String>, Failure> {
        let Some(restart) = journal.restart() else {
            return Ok(Vec::new());
        };
        // Start no container if digestfix never stopped Docker, because then no container
        // has ended. Start none after a reboot either, because Docker itself has already
        // started containers according to their restart policies.
        let may_have_ended = restart.phase == Phase::Stopping && !journal.is_of_another_boot();
        let mut without_policy = Vec::new();
        for container in &restart.kept_down {
            if let Err(error) = self.give_policy_back(container).await {
                without_policy.push(format!(
                    "the restart policy of container {name} could not be restored: {error}. To \
                     restore it: docker update --restart {policy} {name}",
                    name = container.name,
                    policy = container.policy.word()
                ));
            }
        }
        let mut problems = Vec::new();
        let mut started = Vec::new();
        for container in restart.start_again.iter().filter(|_| may_have_ended) {
            progress.begin(&format!("starting container {}", container.name));
            match self.start_again(container).await {
                Ok(false) => {}
                Ok(true) => started.push(container.name.as_str()),
                Err(error) => problems.push(format!(
                    "container {name} could not be started again: {error}. Check the container, then: docker \
                     start {name}",
                    name = container.name
                )),
            }
        }
        if !started.is_empty() {
            let detail = format!("{} started again", started.join(", "));
            progress.step(Step::StartContainers, &detail);
        }
        for container in restart.health_checked.iter().filter(|_| may_have_ended) {
            if let Err(error) = self.resume_health_check(&container.id).await {
                problems.push(format!(
                    "the health checks of container {name} may not continue: {error}. If the container is \
                     paused: docker unpause {name}",
                    name = container.name
                ));
            }
        }
        if without_policy.is_empty() {
            Ok(problems)
        } else {
            Err(Failure::Containers(without_policy))
        }
    }

    /// Restores a container's restart policy, unless a user has removed the container or
    /// has set another policy meanwhile.
    async fn give_policy_back(&self, container: &KeptDown) -> Result<(), EngineError> {
        let now = self.engine.container(&container.id).await?;
        let needs_none = |now: Container| {
            let is_going = now.status == Status::Down("dead".to_owned())
                || now.status == Status::Down("removing".to_owned());
            is_going || now.restart_policy != RestartPolicy::No
        };
        if now.is_none_or(needs_none) {
            return Ok(());
        }
        self.engine
            .set_restart_policy(&container.id, container.policy, container.max_retries)
            .await
    }

    /// Starts a container if it is down, and returns whether it was down. Pauses the
    /// container again if it was paused before, even if its restart policy has already
    /// started it.
    async fn start_again(&self, ran: &Ran) -> Result<bool, EngineError> {
        let Some(now) = self.engine.container(&ran.id).await? else {
            return Ok(false);
        };
        let down = matches!(now.status, Status::Down(_));
        if down {
            self.engine.start_container(&ran.id).await?;
        }
        if ran.paused && now.status != Status::Paused {
            self.engine.pause_container(&ran.id).await?;
        }
        Ok(down)
    }

    /// Resumes a container's health checks by pausing and unpausing the container,
    /// because Docker starts health checks after a pause.
    async fn resume_health_check(&self, id: &str) -> Result<(), EngineError> {
        let Some(container) = self.engine.container(id).await? else {
            return Ok(());
        };
        // A killed run may have left the container paused.
        match container.status {
            Status::Running => self.engine.pause_container(id).await?,
            Status::Paused => {}
            Status::Restarting | Status::Down(_) => return Ok(()),
        }
        self.engine.unpause_container(id).await
    }

    /// Returns what has changed about the containers in `before`. Leaves out containers
    /// of swarm services, because swarm manages them.
    pub(super) async fn container_changes(
        &self,
        before: &[Container],
    ) -> Result<Vec<Change>, Failure> {
        let mut changes = Vec::new();
        for container in before.iter().filter(|container| !container.swarm_task) {
            let now = self.engine.container(&container.id).await?;
            changes.extend(container.change(now.as_ref()));
        }
        Ok(changes)
    }
}

/// The containers that Docker listed before it stopped and does not list now, although
/// their files still exist. If a client had removed a container, Docker would have
/// removed its files.
pub(super) async fn unlisted(
    engine: &impl Engine,
    before: &[Listed],
    data_root: &Path,
) -> Result<Vec<Change>, EngineError> {
    if before.is_empty() {
        return Ok(Vec::new());
    }
    let now = engine.listed_containers().await?;
    let missing = before.iter().filter(|one| !now.contains_key(&one.id));
    let changes = missing.filter_map(|one| {
        let files = data_root.join("containers").join(&one.id);
        files.join("config.v2.json").exists().then(|| Change {
            name: one.name.clone(),
            what: Happened::Unlisted(files),
        })
    });
    Ok(changes.collect())
}

impl<'a, M: ServiceManager, E: Engine> Restart<'a, M, E> {
    /// Removes the restart policies of containers that are down. Otherwise, Docker would
    /// start these containers when Docker itself starts.
    pub(super) async fn keep_down(
        &mut self,
        tx: &mut Tx<'_, M>,
        daemon: Daemon<'a, M, E>,
    ) -> Result<(), Failure> {
        let Some(restart) = tx.restart().filter(|restart| restart.running) else {
            return Ok(());
        };
        let down = daemon.engine.down_containers().await?;
        let kept_down: Vec<KeptDown> = down
            .iter()
            .filter(|container| container.restart_policy != RestartPolicy::No)
            .map(KeptDown::from)
            .collect();
        restart.kept_down.clone_from(&kept_down);
        if kept_down.is_empty() {
            return Ok(());
        }
        tx.write_journal()?;
        daemon.keep_down(&kept_down).await
    }

    /// Records the containers that run now, because they must also run after the restart
    /// of Docker. Fails if the stop of Docker would end a container that must keep
    /// running.
    pub(super) async fn look_at_containers(
        &mut self,
        tx: &mut Tx<'_, M>,
        daemon: Daemon<'a, M, E>,
    ) -> Result<(), Failure> {
        let impact = daemon.impact;
        if impact.running {
            self.ran = daemon.engine.running_containers().await?;
        }
        let at_risk = self.ran.iter().filter(|container| {
            let effect = impact.on(container);
            match impact.policy {
                ContainerPolicy::Keep => effect != ContainerImpact::KeepsRunning,
                ContainerPolicy::Restart => effect == ContainerImpact::Removed,
                ContainerPolicy::Ignore => false,
            }
        });
        let names = some_names(at_risk);
        if !names.is_empty() {
            return Err(Failure::MoreContainers(names));
        }
        let Some(restart) = tx.restart() else {
            return Ok(());
        };
        if impact.containers_survive() {
            restart.health_checked = impact
                .health_checks_to_resume(&self.ran)
                .map(Ran::from)
                .collect();
        } else if impact.policy == ContainerPolicy::Restart {
            let again = self.ran.iter().filter(|container| !container.swarm_task);
            let again = in_start_order(again.cloned().collect());
            restart.start_again = again.iter().map(Ran::from).collect();
        }
        if impact.running {
            let listed = daemon.engine.listed_containers().await?;
            let listed = listed.into_iter().map(|(id, name)| Listed { id, name });
            restart.listed = listed.collect();
        }
        restart.phase = Phase::Stopping;
        tx.write_journal()
    }

    /// Makes a short last check before the stop of Docker. Fails if another program has
    /// switched live-restore off, or if another container has started.
    pub(super) async fn see_no_more_containers(
        &self,
        daemon: Daemon<'a, M, E>,
    ) -> Result<(), Failure> {
        let impact = daemon.impact;
        if !impact.running || impact.policy == ContainerPolicy::Ignore {
            return Ok(());
        }
        if impact.containers_survive() {
            if daemon.engine.info().await?.live_restore {
                return Ok(());
            }
            return Err(Failure::SwitchedOff);
        }
        let known: BTreeSet<String> = self.ran.iter().map(|one| one.id.clone()).collect();
        let running = daemon.engine.running_ids().await?;
        match running.difference(&known).next() {
            None => Ok(()),
            Some(id) => Err(Failure::MoreContainers(id.clone())),
        }
    }

    /// Before undo stops Docker, looks for containers that clients have started since the
    /// first check.
    pub(super) async fn look_for_more_containers(
        &mut self,
        tx: &mut Tx<'_, M>,
        daemon: Daemon<'a, M, E>,
    ) -> Result<(), Failure> {
        let impact = daemon.impact;
        // Ignore an error: if the engine does not answer, it has started no container for
        // a client.
        let running = daemon.engine.running_containers().await.unwrap_or_default();
        let known: BTreeSet<String> = self.ran.iter().map(|one| one.id.clone()).collect();
        let more: Vec<Container> = running
            .into_iter()
            .filter(|container| !known.contains(&container.id))
            .collect();
        if more.is_empty() || impact.containers_survive() {
            return Ok(());
        }
        match (impact.policy, tx.restart()) {
            (ContainerPolicy::Keep, _) => Err(Failure::MoreContainers(some_names(more.iter()))),
            (ContainerPolicy::Restart, Some(restart)) => {
                restart.start_again.extend(more.iter().map(Ran::from));
                tx.write_journal()?;
                self.ran.extend(more);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn settle_containers(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        let (Some(daemon), Some(journal)) = (self.daemon, &tx.journal) else {
            return Ok(());
        };
        let settled = daemon.settle_containers(journal, tx.progress).await;
        for problem in settled? {
            tx.progress.warning(&problem);
        }
        Ok(())
    }

    /// Returns what has changed about the containers that ran before the stop of Docker.
    /// Warns if digestfix cannot check these containers.
    pub(super) async fn container_changes(&mut self, tx: &mut Tx<'_, M>) -> Vec<Change> {
        let Some(daemon) = self.daemon else {
            return Vec::new();
        };
        let restart = tx.journal.as_ref().and_then(Journal::restart);
        let listed = restart.map(|restart| restart.listed.as_slice());
        let listed = listed.unwrap_or_default();
        let data_root = tx.images.data_root();
        let unlisted = unlisted(daemon.engine, listed, data_root).await;
        let changes = daemon.container_changes(&self.ran).await;
        match unlisted.map_err(Failure::from).and_then(|mut found| {
            let known: BTreeSet<String> = found.iter().map(|one| one.name.clone()).collect();
            found.extend(
                changes?
                    .into_iter()
                    .filter(|one| !known.contains(&one.name)),
            );
            Ok(found)
        }) {
            Ok(changes) => changes,
            Err(error) => {
                tx.progress.warning(&format!(
                    "digestfix could not check whether every container is as before: {error}. To check: docker ps -a"
                ));
                Vec::new()
            }
        }
    }
}
