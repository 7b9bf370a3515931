//! A setting of daemon.json that a running dockerd is to have for the moment.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::engine::{Engine, Info, Reloads};
use crate::host::{says_live_restore, says_mirror, with_live_restore, with_mirror};
use crate::journal::{self, Journal, StandIn};
use crate::systemd::ServiceManager;
use crate::transaction::daemon::Daemon;
use crate::transaction::daemon_json::{Now, Switch};
use crate::transaction::exchange::FileError;
use crate::transaction::lock::RootLock;
use crate::transaction::outcome::{Failure, Progress, Step};

/// dockerd reloads in milliseconds, and says nothing when it refuses to.
const RELOAD_WITHIN: Duration = Duration::from_secs(10);

/// Between two looks at whether a reload has come through.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What is set for the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `live-restore`.
    LiveRestore,
    /// One more of the `registry-mirrors`, by its address.
    Mirror(String),
}

impl Setting {
    /// A file says that it is on.
    pub(super) fn is_said_by(&self, file: Option<&[u8]>) -> bool {
        match self {
            Self::LiveRestore => says_live_restore(file),
            Self::Mirror(address) => says_mirror(file, address),
        }
    }

    /// Nobody else would set this: where a file says it, it is a copy of
    /// digestfix's.
    pub(super) const fn is_known_by_its_value(&self) -> bool {
        matches!(self, Self::Mirror(_))
    }

    /// An engine that says this of itself has it on.
    fn is_heeded_by(&self, info: &Info) -> bool {
        match self {
            Self::LiveRestore => info.live_restore,
            // It writes them with a slash at the end.
            Self::Mirror(address) => {
                let mut mirrors = info.mirrors.iter();
                mirrors.any(|mirror| mirror.trim_end_matches('/') == address)
            }
        }
    }

    /// Tells the journal what there is to take back.
    fn note(&self, journal: &mut Journal, contents: &journal::DaemonJson) {
        match (self, &mut journal.stand_in) {
            (Self::LiveRestore, _) => journal.live_restore = Some(contents.clone()),
            (
                Self::Mirror(_),
                Some(StandIn {
                    mirror: Some(mirror),
                    ..
                }),
            ) => {
                mirror.daemon_json = contents.clone();
            }
            (Self::Mirror(_), _) => {}
        }
    }

    pub(super) fn edit(
        &self,
        path: &Path,
        bytes: Option<&[u8]>,
        on: bool,
    ) -> Result<Vec<u8>, FileError> {
        let edited = match self {
            Self::LiveRestore => with_live_restore(bytes, on),
            Self::Mirror(address) => with_mirror(bytes, address, on),
        };
        edited.map_err(|error| FileError::new("edit", path)(io::Error::other(error.to_string())))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::LiveRestore => f.write_str("live-restore"),
            Self::Mirror(address) => write!(f, "the mirror {address}"),
        }
    }
}

/// Puts back what was found, or says that it is not there any more.
fn put_back(switch: &Switch, detail: &str, progress: &mut impl Progress) -> Result<(), Failure> {
    if switch.put_back()? {
        progress.step(Step::TakeBack, detail);
    } else {
        progress.warning(&format!(
            "somebody else changed {} meanwhile: it is left as it is",
            switch.contents().config_file.display()
        ));
    }
    Ok(())
}

/// Puts daemon.json back where no dockerd runs that heeds it.
pub(super) fn put_file_back(
    switch: &mut Switch,
    progress: &mut impl Progress,
) -> Result<(), Failure> {
    if let Now::SomebodyElses(Some(theirs)) = switch.now()?
        && switch.setting().is_known_by_its_value()
        && switch.setting().is_said_by(Some(&theirs))
    {
        let kept = switch.take_out(&theirs)?;
        tell_of_theirs(switch, kept.as_deref(), progress);
        return Ok(());
    }
    put_back(switch, "daemon.json is what it was", progress)
}

fn tell_of_theirs(switch: &Switch, kept: Option<&Path>, progress: &mut impl Progress) {
    let kept = kept.map(|kept| format!("; what it was before is in {}", kept.display()));
    progress.warning(&format!(
        "somebody else changed {} meanwhile: theirs is what stays{}",
        switch.contents().config_file.display(),
        kept.unwrap_or_default()
    ));
}

/// Takes what somebody else has put in place for the file to be put back.
pub(super) fn adopt(
    switch: &mut Switch,
    theirs: Option<&[u8]>,
    journal: &mut Journal,
    lock: &RootLock,
    progress: &mut impl Progress,
) -> Result<(), Failure> {
    let kept = match theirs {
        Some(theirs)
            if switch.setting().is_known_by_its_value()
                && switch.setting().is_said_by(Some(theirs)) =>
        {
            switch.take_out(theirs)?
        }
        theirs => switch.adopt(theirs)?,
    };
    switch.setting().note(journal, switch.contents());
    journal.write(lock)?;
    tell_of_theirs(switch, kept.as_deref(), progress);
    Ok(())
}

impl<M: ServiceManager, E: Engine> Daemon<'_, M, E> {
    /// Switches a setting on. There may be something to take back when that
    /// fails. Without a switch, the file has it on already.
    pub(super) async fn switch_on(
        &self,
        setting: &Setting,
        switch: Option<&Switch>,
    ) -> Result<(), Failure> {
        if let Some(switch) = switch {
            switch.put_on()?;
        }
        self.reload(setting, true).await
    }

    /// Switches a setting off again, as far as it had come on, and puts back
    /// what was found.
    pub(super) async fn take_back(
        &self,
        switch: &mut Switch,
        journal: &mut Journal,
        lock: &RootLock,
        progress: &mut impl Progress,
    ) -> Result<(), Failure> {
        let setting = switch.setting().clone();
        let is_heeded =
            setting.is_heeded_by(&self.engine.info().await?) && !switch.contents().engine;
        if let Now::SomebodyElses(theirs) = switch.now()? {
            let is_said = setting.is_said_by(theirs.as_deref());
            if is_heeded && is_said && !setting.is_known_by_its_value() {
                progress.warning(&format!(
                    "somebody else changed {} meanwhile, and it says live-restore, which may be from \
                     digestfix: look at it. What was found is in {}",
                    switch.contents().config_file.display(),
                    switch.aside().display()
                ));
                return Ok(());
            }
            if is_heeded || is_said && setting.is_known_by_its_value() {
                adopt(switch, theirs.as_deref(), journal, lock, progress)?;
            }
        }
        if is_heeded {
            progress.begin(&format!("switching {setting} off again"));
            let told = match switch.put_off() {
                Ok(()) => self.reload(&setting, false).await,
                Err(error) => Err(error.into()),
            };
            if told.is_err() && setting.is_known_by_its_value() {
                // A full disk refuses a file, and hardly a name: the next dockerd
                // at least reads what was found.
                switch.put_back()?;
            }
            told?;
        }
        let detail = match setting {
            Setting::LiveRestore => "live-restore and daemon.json are what they were",
            Setting::Mirror(_) => "Docker's mirrors and daemon.json are what they were",
        };
        put_back(switch, detail, progress)
    }

    /// Has dockerd read its configuration, and sees that it heeds it.
    async fn reload(&self, setting: &Setting, on: bool) -> Result<(), Failure> {
        let mut reloads = self.engine.watch_reloads().await?;
        self.manager.hang_up(self.unit()).await?;
        let mut reloaded = false;
        let takes = async {
            reloads.next().await?;
            reloaded = true;
            // The reload may have been somebody else's, a moment before ours; and
            // engines from 25 on give several who ask at once the same, older
            // answer.
            while setting.is_heeded_by(&self.engine.info().await?) != on {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Ok(())
        };
        match tokio::time::timeout(RELOAD_WITHIN, takes).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::ReloadWithoutEffect {
                unit: self.unit().to_owned(),
                reloaded,
                setting: setting.clone(),
                on,
            }),
        }
    }
}
