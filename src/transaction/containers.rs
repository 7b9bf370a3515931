//! Containers over a restart of Docker: those that stopped with it are started
//! again where that was asked for, and what is not as it was is told.

use crate::container::{Change, Container, Status};
use crate::engine::Engine;
use crate::journal::Ran;
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

    /// What became of containers since they were looked at.
    pub(super) async fn container_changes(
        &self,
        before: &[Container],
    ) -> Result<Vec<Change>, Failure> {
        let mut changes = Vec::new();
        for container in before {
            let now = self.engine.container(&container.id).await?;
            changes.extend(container.change(now.as_ref()));
        }
        Ok(changes)
    }
}
