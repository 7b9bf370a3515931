//! Somebody who is left when a run is killed: a transient unit that waits for
//! the lock on the data root, which the kernel releases with the process that
//! has it, and then brings an unfinished transaction to an end.
//!
//! It is in a control group of its own, so whatever ends the run (a closed
//! session, a stopped unit, the OOM killer) does not end it; and systemd starts
//! it again when it is killed itself.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use std::{env, io};

use crate::systemd::{ServiceManager, SystemdError, Transient};

/// It has nothing to wait for when it is told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// The guard of one transaction.
#[derive(Debug)]
pub struct Guard {
    unit: String,
}

/// There is no guard to be had.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// This program has no name to start it by.
    #[error("this program's own file cannot be named: {0}")]
    Program(io::Error),
    /// systemd does not start it.
    #[error("{0}; systemd has to be able to run this program from where it is installed")]
    Systemd(#[from] SystemdError),
}

impl Guard {
    /// Starts it. It waits from then on.
    ///
    /// # Errors
    /// When systemd does not start it.
    pub async fn start(
        manager: &impl ServiceManager,
        id: &str,
        data_root: &Path,
    ) -> Result<Self, GuardError> {
        let program = env::current_exe().map_err(GuardError::Program)?;
        let unit = unit(id);
        let words = [
            program.as_os_str(),
            "guard".as_ref(),
            data_root.as_os_str(),
            id.as_ref(),
        ];
        let service = Transient {
            name: unit.clone(),
            description: format!("Bring Docker back if digestfix ({id}) is killed"),
            command: words.map(|word| word.to_string_lossy().into_owned()).into(),
        };
        let started = manager.start_transient(&service).await;
        let guard = Self { unit };
        if let Err(error) = started {
            // systemd would go on trying. The first error is the one to tell.
            let unit = guard.unit.clone();
            let _ = guard.end(manager).await;
            let _ = manager.reset_failed(&unit).await;
            return Err(error.into());
        }
        Ok(guard)
    }

    /// Its unit.
    #[must_use]
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Ends it: the transaction has ended.
    ///
    /// # Errors
    /// When systemd does not stop it; it will find nothing to do.
    pub async fn end(self, manager: &impl ServiceManager) -> Result<(), SystemdError> {
        manager.stop(&self.unit, &[], STOP_WITHIN).await
    }
}

/// Has a shutdown wait until what this gives is dropped.
pub async fn hold_off_shutdown(manager: &impl ServiceManager, why: &str) -> Option<OwnedFd> {
    match manager.delay_shutdown(why).await {
        Ok(lock) => Some(lock),
        // Not every host has logind, and a shutdown is undone as well.
        Err(error) => {
            tracing::info!("a shutdown would not be held off: {error}");
            None
        }
    }
}

/// The unit that guards a transaction.
#[must_use]
pub fn unit(id: &str) -> String {
    format!("digestfix-guard-{id}.service")
}
