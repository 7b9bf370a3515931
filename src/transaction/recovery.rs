//! The last steps of a recovery, which are the same for every killed run.
//!
//! Each method has its own recovery of what it changed:
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

/// Reads the run's history record. If the record cannot be read, warns and returns
/// `None`; recovery then continues without the record.
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

/// Notes in the history record which references are in use after the recovery. The caller
/// must do this before it removes the journal. If there is no journal and a record does
/// not say how its run ended, digestfix assumes that the run changed nothing.
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

/// Ends the recovery of the run that `journal` describes: removes the run's files, and
/// ends its watchdog.
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

/// Removes the files that interrupted runs left on this data root. Removes the journal
/// last.
pub fn end(lock: &RootLock, progress: &mut dyn Progress) -> Result<(), Failure> {
    reserve::sweep(lock.data_root(), &[]);
    end_records(None, lock, progress);
    if let Err(error) = state_file::sweep(lock) {
        progress.warning(&format!(
            "digestfix could not remove half-written files of the interrupted run: {error}"
        ));
    }
    Ok(Journal::close(lock)?)
}

/// Writes how the run ended to each history record that does not say so yet. `broken` is
/// the ID of the run that digestfix recovers. The record of that run may already say that
/// its undo failed.
pub(super) fn end_records(broken: Option<&str>, lock: &RootLock, progress: &mut dyn Progress) {
    for error in history::end_interrupted(lock, broken) {
        progress.warning(&error.to_string());
    }
}
