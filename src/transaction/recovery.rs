//! How the recovery of a killed run ends, by whatever method it was.
//!
//! What there is to recover is the method's:
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

/// The run's record in the history. One that cannot be read stops nothing.
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

/// Notes in the record what the recovery made of the references. Without its journal, a
/// record that has not ended counts for one of a run that did nothing.
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

/// Nothing of the run of `journal` is left to be done: its files and its watchdog go.
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

/// Nothing of an interrupted run is left to be done on this data root.
pub fn end(lock: &RootLock, progress: &mut dyn Progress) -> Result<(), Failure> {
    reserve::sweep(lock.data_root(), &[]);
    end_records(None, lock, progress);
    if let Err(error) = state_file::sweep(lock) {
        progress.warning(&format!("what it had begun to write: {error}"));
    }
    Ok(Journal::close(lock)?)
}

/// Writes down of each record without an end what came of it; `broken` is one that
/// could not be brought to an end before, and is now.
pub(super) fn end_records(broken: Option<&str>, lock: &RootLock, progress: &mut dyn Progress) {
    for error in history::end_interrupted(lock, broken) {
        progress.warning(&error.to_string());
    }
}
