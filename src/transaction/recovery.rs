//! The last steps that every recovery of a killed run has in common.
//!
//! Each method recovers what it changed:
//! [`restart`](crate::transaction::restart::recovery),
//! [`load`](crate::transaction::load::recovery),
//! [`record`](crate::transaction::record::recovery).

use crate::state::history::{self, End, Record, Side};
use crate::state::journal::Journal;
use crate::state::lock::RootLock;
use crate::state::pending;
use crate::state::state_file;
use crate::store::data_root::ImageDir;
use crate::systemd::ServiceManager;
use crate::transaction::Supervisor;
use crate::transaction::outcome::{Failure, Progress};
use crate::transaction::reserve;
use crate::transaction::watchdog;

/// Reads the run's history record. If that fails, warns, and recovery continues without
/// the record.
pub(super) fn record(
    journal: &Journal,
    images: &ImageDir,
    progress: &mut dyn Progress,
) -> Option<Record> {
    match history::read(images.data_root(), &journal.id) {
        Ok(record) => record,
        Err(error) => {
            progress.warning(&error.to_string());
            None
        }
    }
}

/// Writes to the record which references are in use after the recovery. The caller must
/// do this before it removes the journal: without a journal, a record without an end
/// counts as a run that changed nothing.
pub(super) fn note(
    record: Option<Record>,
    references: Side,
    lock: &RootLock,
) -> Result<(), Failure> {
    match record {
        Some(mut record) => Ok(record.end(lock, End::Recovered { references })?),
        None => Ok(()),
    }
}

/// Ends the recovery of the run of `journal`: removes its files and its watchdog.
pub(super) async fn finish<M: ServiceManager>(
    journal: &Journal,
    lock: &RootLock,
    supervisor: Supervisor<'_, M>,
    progress: &mut dyn Progress,
) -> Result<(), Failure> {
    end(lock, progress)?;
    pending::remove(supervisor.pending, &journal.id, lock)?;
    watchdog::dismiss(supervisor.manager, &journal.id).await;
    Ok(())
}

/// Removes the files of interrupted runs on this data root, the journal last.
pub fn end(lock: &RootLock, progress: &mut dyn Progress) -> Result<(), Failure> {
    reserve::sweep(lock.data_root(), &[]);
    end_records(None, lock, progress);
    if let Err(error) = state_file::sweep(lock) {
        progress.warning(&format!(
            "half-written files of the interrupted run could not be removed: {error}"
        ));
    }
    Ok(Journal::close(lock)?)
}

/// Adds an end to each record that has none. `broken` is the ID of the run being
/// recovered, whose record may already say that its undo failed.
pub(super) fn end_records(broken: Option<&str>, lock: &RootLock, progress: &mut dyn Progress) {
    for error in history::end_interrupted(lock, broken) {
        progress.warning(&error.to_string());
    }
}
