//! What others are told of a transaction before it does anything, and when it
//! has ended: a guard, a notice of where, a record for people, and the journal.
//!
//! In this order there, and in the other one gone, so that there is never a
//! journal that nobody would find.

use crate::engine::Engine;
use crate::guard::{Guard, hold_off_shutdown};
use crate::history::End;
use crate::journal::{self, Journal};
use crate::systemd::ServiceManager;
use crate::transaction::Transaction;
use crate::transaction::daemon::Daemon;
use crate::transaction::daemon_json::Switch;
use crate::transaction::outcome::{Failure, Progress};
use crate::unfinished::{self, Notice};

impl<'a, M: ServiceManager, E: Engine, P: Progress> Transaction<'a, M, E, P> {
    /// From here on, another run can undo this one if it is killed, and one
    /// waits to do so.
    pub(super) async fn announce(&mut self) -> Result<(), Failure> {
        self.progress.transaction_begins(&self.id);
        let references = self.references();
        let mut journal = Journal::new(&self.id, references);
        if let Some(daemon) = self.daemon {
            self.be_guarded(daemon).await?;
            let disturbance = daemon.disturbance;
            if disturbance.switches_live_restore() {
                let engine = daemon.host.engine.as_ref();
                let on = engine.is_some_and(|info| info.live_restore);
                let config_file = &daemon.host.config_file;
                self.switch = Switch::plan(config_file, &self.id, on)?;
            }
            journal.unit = Some(daemon.unit().to_owned());
            journal.running = disturbance.running;
            journal.triggers.clone_from(&disturbance.triggers);
            journal.units.clone_from(&disturbance.carried_along);
            journal.units.extend(daemon.needed_by_nobody_else().await?);
            journal.live_restore_by_file = daemon.lives_by_file();
            journal.live_restore = self.switch.as_ref().map(|switch| switch.contents().clone());
        }
        self.begin_record()?;
        // To be closed even if only half of the write succeeds.
        Ok(self.journal.insert(journal).write(&self.lock)?)
    }

    async fn be_guarded(&mut self, daemon: Daemon<'a, M, E>) -> Result<(), Failure> {
        self.progress.begin("starting a guard");
        let data_root = self.lock.data_root();
        self.guard = Some(Guard::start(daemon.manager, &self.id, data_root).await?);
        self.delays_shutdown = hold_off_shutdown(daemon.manager, "Docker is being restarted").await;
        Ok(Notice::new(self.images, daemon.host).write(daemon.unfinished, &self.id, &self.lock)?)
    }

    pub(super) fn references(&mut self) -> journal::References {
        let driver = self.images.driver().to_owned();
        let rendered = self.rendered();
        journal::References {
            driver,
            before: rendered.before.clone(),
            after: rendered.after.clone(),
        }
    }

    /// Writes down how it ended; what has not ended is left to its guard.
    pub(super) async fn conclude(
        &mut self,
        ended: Result<(), Failure>,
        end: impl Fn(Option<&Failure>) -> End,
    ) -> Result<(), Failure> {
        self.end_record(end(ended.as_ref().err()));
        ended?;
        let closed = self.close().await;
        if let Err(failure) = &closed {
            self.end_record(end(Some(failure)));
        }
        closed
    }

    /// The transaction has ended. Where it has not, its guard goes on.
    async fn close(&mut self) -> Result<(), Failure> {
        if self.journal.is_some() {
            Journal::close(&self.lock)?;
        }
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        unfinished::remove(daemon.unfinished, &self.id, &self.lock)?;
        if let Some(guard) = self.guard.take()
            && let Err(error) = guard.end(daemon.manager).await
        {
            tracing::info!("the guard is left to end by itself: {error}");
        }
        Ok(())
    }
}
