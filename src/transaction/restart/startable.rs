//! Checks, before the stop of Docker, that Docker will be able to start again: digestfix
//! makes the running dockerd reload its configuration file. If dockerd accepts the file,
//! digestfix records that for later runs.

use crate::docker::engine::Engine;
use crate::image::digest::Digest;
use crate::systemd::ServiceManager;
use crate::transaction::Tx;
use crate::transaction::outcome::{Failure, Step};
use crate::transaction::restart::Restart;
use crate::transaction::restart::daemon::Daemon;
use crate::transaction::restart::daemon_json::Now;

impl<M: ServiceManager, E: Engine> Restart<'_, M, E> {
    /// Makes dockerd reload a configuration file that changed after dockerd started.
    /// Skips this reload if live-restore is about to be switched, because switching it
    /// includes a reload.
    pub(super) async fn see_taken(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        tx.heed_interrupt().await?;
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        let impact = daemon.impact;
        if impact.switches_live_restore() {
            return Ok(());
        }
        if impact.startable.needs_reload {
            tx.progress.begin("making Docker reload its configuration");
            daemon.read_again().await?;
            let detail = format!("{} has reloaded its configuration", daemon.unit());
            tx.progress.step(Step::Reload, &detail);
        }
        self.knows_to_start(tx, daemon);
        Ok(())
    }

    /// The hash of the configuration file for the history record, if Docker is known to
    /// start with this file. If this run is killed, recovery restores daemon.json. The
    /// file's times are then later than the start of dockerd, so a later run needs the
    /// hash.
    pub(super) fn known_to_start(&self) -> Option<Digest> {
        let startable = &self.daemon?.impact.startable;
        let is_known = startable.doubts.is_empty() && !startable.needs_reload;
        let checked = startable.checked.as_ref().filter(|_| is_known)?;
        checked.hash.clone()
    }

    /// Records that dockerd starts with this configuration file, unless there are doubts
    /// about that.
    pub(super) fn knows_to_start(&mut self, tx: &mut Tx<'_, M>, daemon: Daemon<'_, M, E>) {
        if daemon.impact.startable.doubts.is_empty() {
            self.has_started(tx, daemon);
        }
    }

    /// Records that dockerd starts with this configuration file.
    pub(super) fn has_started(&mut self, tx: &mut Tx<'_, M>, daemon: Daemon<'_, M, E>) {
        let checked = daemon.impact.startable.checked.as_ref();
        let (Some(record), Some(checked)) = (&mut tx.record, checked) else {
            return;
        };
        if record.daemon_json == checked.hash {
            return;
        }
        record.daemon_json.clone_from(&checked.hash);
        if let Err(error) = record.write(&tx.lock) {
            tx.progress.warning(&format!(
                "digestfix could not record that Docker starts with {}: {error}",
                checked.path.display()
            ));
        }
    }

    /// Fails if another program has changed the configuration file since digestfix
    /// checked it. Accepts digestfix's own version of the file, which has another value
    /// of live-restore.
    pub(super) fn see_configuration(&self, daemon: Daemon<'_, M, E>) -> Result<(), Failure> {
        let Some(checked) = &daemon.impact.startable.checked else {
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
