//! A transaction's record in the history, from its beginning to its end, and
//! what goes once there is a newer one.

use crate::engine::Engine;
use crate::history::{End, Record};
use crate::retention;
use crate::systemd::ServiceManager;
use crate::transaction::Transaction;
use crate::transaction::outcome::{Failure, Progress};

impl<M: ServiceManager, E: Engine, P: Progress> Transaction<'_, M, E, P> {
    pub(super) fn begin_record(&mut self) -> Result<(), Failure> {
        let references = self.references();
        let (lock, id, kind) = (&self.lock, &self.id, self.aim.kind());
        // Where this is killed, daemon.json is put back by another run.
        let startable = self.daemon.map(|daemon| &daemon.disturbance.startable);
        let known = startable
            .filter(|one| one.doubts.is_empty() && !one.needs_reload)
            .and_then(|one| one.checked.as_ref()?.hash.clone());
        let record = Record::begin(lock, id, kind, &references, &self.plan, known)?;
        self.record = Some(record);
        Ok(())
    }

    /// It was planned again.
    pub(super) fn rewrite_record(&mut self) -> Result<(), Failure> {
        let references = self.references();
        if let Some(record) = &mut self.record {
            record.plan(&references, &self.plan);
            record.write(&self.lock)?;
        }
        Ok(())
    }

    /// What is done is done, noted or not.
    pub(super) fn end_record(&mut self, end: End) {
        let Some(record) = &mut self.record else {
            return;
        };
        if let Err(error) = record.end(&self.lock, end) {
            self.progress
                .warning(&format!("how this ended could not be noted: {error}"));
        }
    }

    /// Removes what is too old to be of use, now that there is something newer.
    pub(super) fn retire(&mut self) {
        if self.swapped.is_none() {
            return;
        }
        for problem in retention::enforce(self.images, &self.lock, &self.id, self.limits) {
            self.progress.warning(&problem);
        }
    }
}
