//! Containers over a restart of Docker: those that stopped with it are started
//! again where that was asked for, and what is not as it was is told.

use crate::container::{Change, Container, RestartPolicy, Status};
use crate::engine::{Engine, EngineError};
use crate::journal::{Journal, KeptDown, Ran};
use crate::systemd::ServiceManager;
use crate::transaction::daemon::Daemon;
use crate::transaction::outcome::{Failure, Progress, Step};

impl<M: ServiceManager, E: Engine> Daemon<'_, M, E> {
    /// Takes the restart policy of containers that are to stay down.
    pub(super) async fn keep_down(&self, containers: &[KeptDown]) -> Result<(), Failure> {
        for container in containers {
            self.engine
                .set_restart_policy(&container.id, RestartPolicy::No, 0)
                .await?;
        }
        Ok(())
    }

    /// Brings the containers of a journal to what they were: each is seen to,
    /// whatever became of the others. Gives what a person has to see to.
    ///
    /// # Errors
    /// When a container is left without its restart policy.
    pub(super) async fn settle_containers(
        &self,
        journal: &Journal,
        progress: &mut impl Progress,
    ) -> Result<Vec<String>, Failure> {
        let mut without_policy = Vec::new();
        for container in &journal.kept_down {
            if let Err(error) = self.give_policy_back(container).await {
                without_policy.push(format!(
                    "container {name} could not be given its restart policy back: {error}. Then: docker \
                     update --restart {policy} {name}",
                    name = container.name,
                    policy = container.policy.word()
                ));
            }
        }
        let mut problems = Vec::new();
        let mut started = Vec::new();
        // A Docker that was never stopped has ended none.
        for container in journal.start_again.iter().filter(|_| journal.stopping) {
            match self.start_again(container).await {
                Ok(false) => {}
                Ok(true) => started.push(container.name.as_str()),
                Err(error) => problems.push(format!(
                    "container {name} could not be started again: {error}. Look at it, then: docker start {name}",
                    name = container.name
                )),
            }
        }
        if !started.is_empty() {
            let detail = format!("{} started again", started.join(", "));
            progress.step(Step::StartContainers, &detail);
        }
        for container in journal.health_checked.iter().filter(|_| journal.stopping) {
            if let Err(error) = self.resume_health_check(&container.id).await {
                problems.push(format!(
                    "the health checks of container {name} may not go on: {error}. If it is paused: docker \
                     unpause {name}",
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

    /// One that somebody has removed or given another one meanwhile needs none.
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

    /// True when it was down and is started. What was paused is paused again,
    /// also where its restart policy was faster.
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

    /// Docker resumes them when the container goes on after a pause.
    async fn resume_health_check(&self, id: &str) -> Result<(), EngineError> {
        let Some(container) = self.engine.container(id).await? else {
            return Ok(());
        };
        // A run that was killed may have left it paused.
        match container.status {
            Status::Running => self.engine.pause_container(id).await?,
            Status::Paused => {}
            Status::Restarting | Status::Down(_) => return Ok(()),
        }
        self.engine.unpause_container(id).await
    }

    /// What became of containers since they were looked at; those of swarm's
    /// services are swarm's.
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
