//! How the recovery of a killed run ends, by whatever method it was.
//!
//! What there is to recover is the method's:
//! [`restart`](crate::transaction::restart::recovery),
//! [`load`](crate::transaction::load::recovery),
//! [`record`](crate::transaction::record::recovery).

use crate::state::history;
use crate::state::journal::Journal;
use crate::state::lock::RootLock;
use crate::state::pending;
use crate::state::state_file;
use crate::systemd::ServiceManager;
use crate::transaction::Supervisor;
use crate::transaction::outcome::{Failure, Progress};
use crate::transaction::reserve;
use crate::transaction::watchdog;

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
