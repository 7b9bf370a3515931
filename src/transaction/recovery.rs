//! What a run that was killed left half-way, brought to an end.
//!
//! The reference store is whole at every instant, old or new, so that is not
//! touched. Docker runs again, with everything that stopped along with it, and
//! daemon.json is what it was. Each part looks at what there is and does what
//! is missing, so this can itself be killed, and run again.

use std::fs;

use crate::data_root::ImageDir;
use crate::engine::Engine;
use crate::journal::{Journal, hash};
use crate::systemd::ServiceManager;
use crate::transaction::daemon::Daemon;
use crate::transaction::hold::Hold;
use crate::transaction::live_restore::{Switch, ensure_on};
use crate::transaction::lock::RootLock;
use crate::transaction::outcome::{Failure, Progress, Step};
use crate::transaction::swap::beside;

/// Brings the host back from where `journal` says a run may have left it. The
/// daemon's triggers and other units are those of the journal. Gives what a
/// person has to see to: units and containers that do not start.
///
/// # Errors
/// When something else could not be brought back; the journal stays then.
pub async fn recover<M: ServiceManager, E: Engine>(
    journal: &mut Journal,
    images: &ImageDir,
    lock: &RootLock,
    daemon: Daemon<'_, M, E>,
    progress: &mut impl Progress,
) -> Result<Vec<String>, Failure> {
    if let Err(error) = Hold::sweep(daemon.manager, daemon.runtime_units, daemon.unit()).await {
        progress.warning(&format!("the hold of the interrupted run: {error}"));
    }
    let mut switch = journal
        .live_restore
        .clone()
        .map(|contents| Switch::resume(&journal.id, contents));
    if journal.running && daemon.has_ended().await {
        if let Some(switch) = &mut switch {
            ensure_on(switch, journal, lock, progress)?;
        }
        daemon.start().await?;
        progress.step(Step::Start, &format!("{} started", daemon.unit()));
    }
    let triggers = daemon.start_triggers().await;
    let units = daemon.start_inactive(&journal.units).await;
    let containers = daemon.settle_containers(journal, progress).await;
    if let Some(switch) = &mut switch {
        daemon.take_back(switch, journal, lock, progress).await?;
    }
    let mut problems = containers?;
    remove_staged(journal, images);
    Journal::close(lock)?;
    // What is broken for reasons of its own is told, and keeps nothing back.
    problems.extend(
        [triggers, units]
            .into_iter()
            .filter_map(|one| one.err().map(|error| error.to_string())),
    );
    Ok(problems)
}

/// A new store that was never in use; the old one is a backup, and stays.
fn remove_staged(journal: &Journal, images: &ImageDir) {
    if images.driver() != journal.references.driver {
        return;
    }
    let staged = beside(&images.store_path(), &journal.id);
    let is_new = fs::read(&staged).is_ok_and(|bytes| hash(&bytes) == journal.references.after);
    if is_new {
        // Whatever it is, nothing reads it.
        let _ = fs::remove_file(staged);
    }
}
