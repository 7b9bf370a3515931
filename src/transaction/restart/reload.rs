//! Reload: makes a running dockerd read daemon.json again, with live-restore on or off.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::docker::engine::{Engine, Reloads};
use crate::host::says_live_restore;
use crate::state::journal::Journal;
use crate::state::lock::RootLock;
use crate::systemd::ServiceManager;
use crate::systemd::journal::refused_reload;
use crate::transaction::outcome::{Failure, Progress, Step};
use crate::transaction::restart::daemon::Daemon;
use crate::transaction::restart::daemon_json::{Now, Switch};

/// Timeout for a reload, which normally takes milliseconds. digestfix needs a timeout
/// because dockerd's API does not report a refused reload.
const RELOAD_WITHIN: Duration = Duration::from_secs(10);

/// Pause between two checks whether a reload has taken effect.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Pause between two checks of dockerd's log. If dockerd accepts a reload, the event that
/// reports the reload arrives before the first check.
const LISTEN_AGAIN: Duration = Duration::from_millis(300);

/// Restores the original daemon.json, or warns that another program has changed it.
fn put_back(switch: &Switch, detail: &str, progress: &mut dyn Progress) -> Result<(), Failure> {
    if switch.put_back()? {
        progress.step(Step::TakeBack, detail);
    } else {
        progress.warning(&format!(
            "another process changed {} meanwhile, so digestfix leaves the file unchanged",
            switch.contents().config_file.display()
        ));
    }
    Ok(())
}

/// Restores daemon.json when no running dockerd has to reload it.
pub(super) fn put_file_back(switch: &Switch, progress: &mut dyn Progress) -> Result<(), Failure> {
    put_back(switch, "daemon.json is as it was before", progress)
}

/// Accepts another program's daemon.json as the file to restore in the end.
pub(super) fn adopt(
    switch: &mut Switch,
    theirs: Option<&[u8]>,
    journal: &mut Journal,
    lock: &RootLock,
    progress: &mut dyn Progress,
) -> Result<(), Failure> {
    let kept = switch.adopt(theirs)?;
    journal.note_daemon_json(switch.contents().clone(), lock)?;
    let kept = kept.map(|kept| format!("; the former version is in {}", kept.display()));
    progress.warning(&format!(
        "another process changed {} meanwhile; digestfix keeps the changed version{}",
        switch.contents().config_file.display(),
        kept.unwrap_or_default()
    ));
    Ok(())
}

impl<M: ServiceManager, E: Engine> Daemon<'_, M, E> {
    /// Switches live-restore on. If this fails, the caller may have to undo a part of the
    /// change. If `switch` is `None`, live-restore is already on in the file, and dockerd
    /// only has to reload it.
    pub(super) async fn switch_on(&self, switch: Option<&Switch>) -> Result<(), Failure> {
        if let Some(switch) = switch {
            switch.put_on()?;
        }
        self.reload(true).await
    }

    /// Switches live-restore off again if it is on, and restores the original
    /// daemon.json.
    pub(super) async fn take_back(
        &self,
        switch: &mut Switch,
        journal: &mut Journal,
        lock: &RootLock,
        progress: &mut dyn Progress,
    ) -> Result<(), Failure> {
        let is_heeded = self.engine.info().await?.live_restore && !switch.contents().engine;
        if let Now::SomebodyElses(theirs) = switch.now()?
            && is_heeded
        {
            if says_live_restore(theirs.as_deref()) {
                progress.warning(&format!(
                    "another process changed {} meanwhile. Check the live-restore setting in that file: \
                     the setting may come from digestfix. The former version of the file is in {}",
                    switch.contents().config_file.display(),
                    switch.aside().display()
                ));
                return Ok(());
            }
            adopt(switch, theirs.as_deref(), journal, lock, progress)?;
        }
        if is_heeded {
            progress.begin("switching live-restore off again");
            switch.put_off()?;
            self.reload(false).await?;
        }
        put_back(
            switch,
            "live-restore and daemon.json are as they were before",
            progress,
        )
    }

    /// Makes dockerd reload its unchanged configuration file.
    pub(super) async fn read_again(&self) -> Result<(), Failure> {
        let mut reloads = self.engine.watch_reloads().await?;
        let told = SystemTime::now();
        self.docker.manager.hang_up(self.unit()).await?;
        let says = tokio::select! {
            biased;
            reloaded = reloads.next() => return Ok(reloaded?),
            refused = self.refusal(told) => refused,
        };
        Err(Failure::ConfigurationRefused {
            unit: self.unit().to_owned(),
            path: self.docker.host.config_file.clone(),
            says,
        })
    }

    /// Makes dockerd reload its configuration, and waits until live-restore in dockerd
    /// matches the file.
    async fn reload(&self, on: bool) -> Result<(), Failure> {
        let mut reloads = self.engine.watch_reloads().await?;
        let told = SystemTime::now();
        self.docker.manager.hang_up(self.unit()).await?;
        let mut reloaded = false;
        let takes = async {
            reloads.next().await?;
            reloaded = true;
            // The event may belong to a reload that another client requested a moment
            // earlier. Also, engines from version 25 on may answer simultaneous requests
            // with the same data. The engine may have collected this data before the
            // reload.
            while self.engine.info().await?.live_restore != on {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(())
        };
        let says = tokio::select! {
            biased;
            outcome = takes => return outcome,
            refused = self.refusal(told) => refused,
        };
        Err(Failure::ReloadWithoutEffect {
            unit: self.unit().to_owned(),
            reloaded,
            on,
            says,
        })
    }

    /// Waits for dockerd to refuse its configuration. Returns dockerd's log message, or
    /// `None` if dockerd logs no refusal in time.
    async fn refusal(&self, since: SystemTime) -> Option<String> {
        let deadline = Instant::now() + RELOAD_WITHIN;
        while Instant::now() < deadline {
            tokio::time::sleep(LISTEN_AGAIN).await;
            let said = refused_reload(self.docker.host.service.main_pid, since);
            if said.is_some() {
                return said;
            }
        }
        None
    }
}
