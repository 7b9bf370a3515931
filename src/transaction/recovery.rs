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
use crate::transaction::live_restore::{Switch, TAKEN_BACK};
use crate::transaction::lock::RootLock;
use crate::transaction::outcome::{Failure, Progress, Step};
use crate::transaction::swap::beside;

/// Brings the host back from where `journal` says a run may have left it. The
/// daemon's triggers and other units are those of the journal.
///
/// # Errors
/// When something could not be brought back; the journal stays then.
pub async fn recover<M: ServiceManager, E: Engine>(
    journal: &Journal,
    images: &ImageDir,
    lock: &RootLock,
    daemon: Daemon<'_, M, E>,
    progress: &mut impl Progress,
) -> Result<(), Failure> {
    if let Err(error) = Hold::sweep(daemon.manager, daemon.runtime_units, daemon.unit()).await {
        progress.warning(&format!("the hold of the interrupted run: {error}"));
    }
    if journal.running && daemon.has_ended().await {
        // live-restore is still on, if it was, for the sake of the containers.
        daemon.start().await?;
        progress.step(Step::Start, &format!("{} started", daemon.unit()));
    } else {
        daemon.start_triggers().await?;
    }
    daemon.start_inactive(&journal.units).await?;
    daemon.give_policies_back(&journal.kept_down).await?;
    let (started, mut problems) = daemon.start_again(&journal.start_again).await?;
    problems.extend(daemon.resume_health_checks(&journal.health_checked).await);
    for problem in problems {
        progress.warning(&problem);
    }
    if !started.is_empty() {
        progress.step(
            Step::StartContainers,
            &format!("{} started again", started.join(", ")),
        );
    }
    if let Some(contents) = &journal.live_restore {
        let switch = Switch::resume(&daemon.host.config_file, &journal.id, contents.clone());
        match daemon.take_back(&switch).await? {
            None => progress.step(Step::TakeBack, TAKEN_BACK),
            Some(changed) => progress.warning(&changed),
        }
    }
    remove_staged(journal, images);
    Ok(Journal::close(lock)?)
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
