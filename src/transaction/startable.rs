//! That Docker will start again, as far as the running dockerd can tell: it reads
//! its configuration file before it is stopped, and what it was seen to take is
//! recorded for later runs.

use crate::engine::Engine;
use crate::systemd::ServiceManager;
use crate::transaction::Transaction;
use crate::transaction::daemon::Daemon;
use crate::transaction::daemon_json::Now;
use crate::transaction::outcome::{Failure, Progress, Step};

impl<M: ServiceManager, E: Engine, P: Progress> Transaction<'_, M, E, P> {
    /// Has dockerd read a configuration file that changed after its start. A
    /// switch of live-restore has it read, too.
    pub(super) async fn see_taken(&mut self) -> Result<(), Failure> {
        self.heed_interrupt().await?;
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        let disturbance = daemon.disturbance;
        if disturbance.switches_live_restore() {
            return Ok(());
        }
        if disturbance.startable.needs_reload {
            self.progress.begin("having Docker read its configuration");
            daemon.read_again().await?;
            let detail = format!("{} has read its configuration again", daemon.unit());
            self.progress.step(Step::Reload, &detail);
        }
        self.knows_to_start(daemon);
        Ok(())
    }

    /// Records the file where nothing speaks against a start with it.
    pub(super) fn knows_to_start(&mut self, daemon: Daemon<'_, M, E>) {
        if daemon.disturbance.startable.doubts.is_empty() {
            self.has_started(daemon);
        }
    }

    /// Records the file: a dockerd runs that has started with it, or would.
    pub(super) fn has_started(&mut self, daemon: Daemon<'_, M, E>) {
        let checked = daemon.disturbance.startable.checked.as_ref();
        let (Some(record), Some(checked)) = (&mut self.record, checked) else {
            return;
        };
        if record.daemon_json == checked.hash {
            return;
        }
        record.daemon_json.clone_from(&checked.hash);
        if let Err(error) = record.write(&self.lock) {
            self.progress.warning(&format!(
                "that Docker starts with {} could not be noted: {error}",
                checked.path.display()
            ));
        }
    }

    /// The configuration file is still the one that was looked at, or that with
    /// live-restore in it.
    pub(super) fn see_configuration(&self, daemon: Daemon<'_, M, E>) -> Result<(), Failure> {
        let Some(checked) = &daemon.disturbance.startable.checked else {
            return Ok(());
        };
        let is_still = match &self.switch {
            Some(switch) => !matches!(switch.now()?, Now::SomebodyElses(_)),
            None => checked.is_still(),
        };
        if is_still {
            return Ok(());
        }
        Err(Failure::ConfigurationChanged(checked.path.clone()))
    }
}
