//! Keeps live-restore on in daemon.json for the duration of a transaction.
//!
//! If dockerd starts without live-restore, it ends every container that still runs. So
//! before each start of dockerd, digestfix ensures that live-restore is `true` in
//! daemon.json.

use std::path::Path;

use crate::docker::engine::Engine;
use crate::host::says_live_restore;
use crate::state::journal::Journal;
use crate::state::lock::RootLock;
use crate::systemd::ServiceManager;
use crate::transaction::Tx;
use crate::transaction::outcome::{Failure, Progress};
use crate::transaction::restart::daemon_json::{Now, Switch};
use crate::transaction::restart::reload::adopt;
use crate::transaction::restart::{Reached, Restart};

/// Ensures that live-restore will be on if dockerd starts now.
pub(super) fn ensure_on(
    switch: &mut Option<Switch>,
    config_file: &Path,
    journal: &mut Journal,
    lock: &RootLock,
    progress: &mut dyn Progress,
) -> Result<(), Failure> {
    if switch.is_none() {
        // daemon.json had live-restore on before the transaction, but another program may
        // have changed that since.
        *switch = Switch::plan(config_file, &journal.id, true)?;
        if let Some(switch) = switch {
            journal.note_daemon_json(switch.contents().clone(), lock)?;
        }
    }
    let Some(switch) = switch else {
        return Ok(());
    };
    if let Now::SomebodyElses(theirs) = switch.now()? {
        if says_live_restore(theirs.as_deref()) {
            return Ok(());
        }
        adopt(switch, theirs.as_deref(), journal, lock, progress)?;
    }
    Ok(switch.put_on()?)
}

impl<M: ServiceManager, E: Engine> Restart<'_, M, E> {
    /// Ensures that live-restore is on before dockerd starts. Otherwise, dockerd would
    /// end the containers that kept running while dockerd was stopped.
    pub(super) fn ensure_on(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        let (Some(daemon), Some(journal)) = (self.daemon, &mut tx.journal) else {
            return Ok(());
        };
        if !daemon.lives_by_file() || self.reached < Reached::Keeping {
            return Ok(());
        }
        let config_file = &daemon.docker.host.config_file;
        ensure_on(
            &mut self.switch,
            config_file,
            journal,
            &tx.lock,
            tx.progress,
        )
    }

    pub(super) async fn take_back(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        let (Some(daemon), Some(switch), Some(journal)) =
            (self.daemon, &mut self.switch, &mut tx.journal)
        else {
            return Ok(());
        };
        if self.reached < Reached::Keeping {
            return Ok(());
        }
        daemon
            .take_back(switch, journal, &tx.lock, tx.progress)
            .await
    }
}
