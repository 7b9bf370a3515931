//! Containers over a restart of Docker: those that stopped with it are started
//! again where that was asked for, and what is not as it was is told.

use crate::container::{Change, Container, RestartPolicy, Status};
use crate::engine::{Engine, EngineError};
use crate::journal::{KeptDown, Ran};
use crate::systemd::ServiceManager;
use crate::transaction::daemon::Daemon;
use crate::transaction::outcome::Failure;

impl<M: ServiceManager, E: Engine> Daemon<'_, M, E> {
    /// Starts those that are down, in the order given, and pauses what was
    /// paused. Gives the names of those that it started, and what went wrong
    /// with others.
    pub(super) async fn start_again(
        &self,
        ran: &[Ran],
    ) -> Result<(Vec<String>, Vec<String>), Failure> {
        let (mut started, mut problems) = (Vec::new(), Vec::new());
        for container in ran {
            let Some(now) = self.engine.container(&container.id).await? else {
                continue;
            };
            if let Status::Down(_) = now.status {
                match self.engine.start_container(&container.id).await {
                    Ok(()) => started.push(container.name.clone()),
                    Err(error) => {
                        problems.push(format!(
                            "container {} could not be started: {error}",
                            container.name
                        ));
                        continue;
                    }
                }
            }
            if container.paused && now.status != Status::Paused {
                let paused = self.engine.pause_container(&container.id).await;
                if let Err(error) = paused {
                    problems.push(format!(
                        "container {} could not be paused: {error}",
                        container.name
                    ));
                }
            }
        }
        Ok((started, problems))
    }

    /// Takes the restart policy of containers that are to stay down.
    pub(super) async fn keep_down(&self, containers: &[KeptDown]) -> Result<(), Failure> {
        for container in containers {
            self.engine
                .set_restart_policy(&container.id, RestartPolicy::No, 0)
                .await?;
        }
        Ok(())
    }

    /// Gives containers that were kept down their restart policy back; those
    /// that somebody has removed meanwhile have none.
    pub(super) async fn give_policies_back(&self, containers: &[KeptDown]) -> Result<(), Failure> {
        for container in containers {
            if self.engine.container(&container.id).await?.is_some() {
                self.engine
                    .set_restart_policy(&container.id, container.policy, container.max_retries)
                    .await?;
            }
        }
        Ok(())
    }

    /// Has Docker resume health checks. Gives what went wrong.
    pub(super) async fn resume_health_checks(&self, containers: &[Ran]) -> Vec<String> {
        let mut problems = Vec::new();
        for container in containers {
            if let Err(error) = self.resume_health_check(&container.id).await {
                problems.push(format!(
                    "the health checks of container {} may not go on: {error}",
                    container.name
                ));
            }
        }
        problems
    }

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
