//! live-restore, switched on in daemon.json for as long as a transaction
//! lasts.
//!
//! The file that is found is never written to. Another one, which differs in
//! the one setting, trades names with it and back, so that in the end the very
//! same file is there, link or not, with its owner, mode, attributes and time.
//!
//! dockerd keeps the value of a setting that is no longer in the file (moby
//! `daemon/reload.go`, `reloadLiveRestore`), so on the way back it is told
//! `false` first, and only then gets back a file that may not have it at all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::digest::Digest;
use crate::engine::{Engine, Reloads};
use crate::host::with_live_restore;
use crate::journal::{self, hash};
use crate::systemd::ServiceManager;
use crate::transaction::daemon::Daemon;
use crate::transaction::exchange::{FileError, exchange, sync_directory, write_new};
use crate::transaction::outcome::Failure;
use crate::transaction::swap::beside;

/// dockerd reloads in milliseconds, and says nothing when it refuses to.
const RELOAD_WITHIN: Duration = Duration::from_secs(10);

/// Between two looks at whether a reload has come through.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The largest daemon.json that is read, in bytes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// What there is to say when all went well.
pub(super) const TAKEN_BACK: &str = "live-restore is off again, and daemon.json what it was";

/// The way from a daemon.json to one with live-restore on, and back.
#[derive(Debug)]
pub struct Switch {
    config_file: PathBuf,
    /// Where the other file is: the new one at first, then the one found.
    aside: PathBuf,
    /// Where the one with live-restore off is until it is needed.
    off: PathBuf,
    contents: journal::LiveRestore,
}

/// What has the name daemon.json now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    Found,
    On,
    Off,
    SomebodyElses,
}

impl Switch {
    /// Reads daemon.json; none when it says `true` already, and only has to be
    /// read by dockerd.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn plan(config_file: &Path, id: &str) -> Result<Option<Self>, FileError> {
        let failed = |error| FileError::new("read", config_file)(error);
        let found = read(config_file).map_err(failed)?;
        let edit = |on| {
            with_live_restore(found.as_deref(), on)
                .map_err(|error| failed(io::Error::other(error.to_string())))
        };
        let (on, off) = (edit(true)?, edit(false)?);
        if found.as_ref() == Some(&on) {
            return Ok(None);
        }
        let contents = journal::LiveRestore {
            before: found.as_deref().map(hash),
            found: is_there(config_file),
            directory: config_file.parent().is_some_and(Path::exists),
            on: hash(&on),
            off: hash(&off),
        };
        Ok(Some(Self::resume(config_file, id, contents)))
    }

    /// The one that a journal tells of.
    #[must_use]
    pub fn resume(config_file: &Path, id: &str, contents: journal::LiveRestore) -> Self {
        let aside = beside(config_file, id);
        let mut off = aside.clone();
        off.as_mut_os_string().push(".off");
        Self {
            config_file: config_file.to_owned(),
            aside,
            off,
            contents,
        }
    }

    /// What the journal is to know of it.
    #[must_use]
    pub fn contents(&self) -> &journal::LiveRestore {
        &self.contents
    }

    /// Puts the file with live-restore on in place.
    ///
    /// # Errors
    /// When the file system refuses, or the file has changed meanwhile. There
    /// may be something to take back then.
    pub fn put_on(&self) -> Result<(), FileError> {
        let found = self.read_as(&self.config_file, self.contents.before.as_ref())?;
        if let Some(directory) = self.config_file.parent()
            && !self.contents.directory
        {
            fs::create_dir_all(directory).map_err(FileError::new("create", directory))?;
        }
        self.write(&self.aside, found.as_deref(), true)?;
        if self.contents.found {
            exchange(&self.config_file, &self.aside)?;
        } else {
            rename(&self.aside, &self.config_file)?;
        }
        sync_directory(&self.config_file)
    }

    /// Puts the file with live-restore off in place, from wherever
    /// [`Switch::put_on`] came to; false when somebody else has changed the
    /// file.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn put_off(&self) -> Result<bool, FileError> {
        match self.now()? {
            Now::Found | Now::Off => return Ok(true),
            Now::SomebodyElses => return Ok(false),
            Now::On => {}
        }
        let found = if self.contents.found {
            self.read_as(&self.aside, self.contents.before.as_ref())?
        } else {
            None
        };
        remove(&self.off)?;
        self.write(&self.off, found.as_deref(), false)?;
        exchange(&self.config_file, &self.off)?;
        if self.hash_at(&self.off)?.as_ref() != Some(&self.contents.on) {
            // Somebody's change came in between: it stays.
            exchange(&self.config_file, &self.off)?;
            remove(&self.off)?;
            return Ok(false);
        }
        sync_directory(&self.config_file)?;
        Ok(true)
    }

    /// Puts back what was found; false when somebody else has changed the file.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn put_back(&self) -> Result<bool, FileError> {
        match self.now()? {
            Now::Found => remove(&self.aside)?,
            Now::On | Now::Off if self.contents.found => rename(&self.aside, &self.config_file)?,
            Now::On | Now::Off => remove(&self.config_file)?,
            Now::SomebodyElses => return Ok(false),
        }
        remove(&self.off)?;
        sync_directory(&self.config_file)?;
        if let Some(directory) = self.config_file.parent()
            && !self.contents.directory
        {
            // Somebody may have put something into it.
            let _ = fs::remove_dir(directory);
        }
        Ok(true)
    }

    fn now(&self) -> Result<Now, FileError> {
        let hash = self.hash_at(&self.config_file)?;
        Ok(match hash {
            hash if hash == self.contents.before && self.is_where_it_was() => Now::Found,
            Some(hash) if hash == self.contents.on => Now::On,
            Some(hash) if hash == self.contents.off => Now::Off,
            _ => Now::SomebodyElses,
        })
    }

    /// `{"live-restore": false}` may be what was found, too: then it is not
    /// aside.
    fn is_where_it_was(&self) -> bool {
        !self.contents.found
            || self.contents.before.as_ref() != Some(&self.contents.off)
            || !self
                .hash_at(&self.aside)
                .is_ok_and(|hash| hash == self.contents.before)
    }

    fn changed(&self) -> String {
        let aside = if is_there(&self.aside) {
            format!("; what it was before is in {}", self.aside.display())
        } else {
            String::new()
        };
        format!(
            "somebody else changed {} meanwhile: it is left as it is{aside}. Look at \"live-restore\" in it, \
             which was switched on for the moment",
            self.config_file.display()
        )
    }

    fn write(&self, path: &Path, found: Option<&[u8]>, on: bool) -> Result<(), FileError> {
        let bytes = with_live_restore(found, on)
            .map_err(|error| FileError::new("edit", path)(io::Error::other(error.to_string())))?;
        let model = [&self.aside, &self.config_file];
        let model = model.into_iter().find(|model| model.is_file());
        write_new(path, &bytes, model.map(PathBuf::as_path))
    }

    fn hash_at(&self, path: &Path) -> Result<Option<Digest>, FileError> {
        let bytes = read(path).map_err(FileError::new("read", path))?;
        Ok(bytes.as_deref().map(hash))
    }

    fn read_as(
        &self,
        path: &Path,
        expected: Option<&Digest>,
    ) -> Result<Option<Vec<u8>>, FileError> {
        let bytes = read(path).map_err(FileError::new("read", path))?;
        if bytes.as_deref().map(hash).as_ref() == expected {
            Ok(bytes)
        } else {
            Err(FileError::new("read", path)(io::Error::other(
                "it is not what it was a moment ago",
            )))
        }
    }
}

impl<M: ServiceManager, E: Engine> Daemon<'_, M, E> {
    /// Switches live-restore on. There may be something to take back when that
    /// fails.
    pub(super) async fn keep_containers(&self, switch: Option<&Switch>) -> Result<(), Failure> {
        if let Some(switch) = switch {
            switch.put_on()?;
        }
        reload(self, true).await
    }

    /// Switches live-restore off again, as far as it had come on, and puts back
    /// what was found. A file that somebody else has changed meanwhile is left
    /// alone, and why is what is returned.
    pub(super) async fn take_back(&self, switch: &Switch) -> Result<Option<String>, Failure> {
        if self.engine.info().await?.live_restore {
            if !switch.put_off()? {
                return Ok(Some(switch.changed()));
            }
            reload(self, false).await?;
        }
        if switch.put_back()? {
            Ok(None)
        } else {
            Ok(Some(switch.changed()))
        }
    }
}

/// Has dockerd read its configuration, and sees that live-restore is as it is
/// to be.
async fn reload<M: ServiceManager, E: Engine>(
    daemon: &Daemon<'_, M, E>,
    live_restore: bool,
) -> Result<(), Failure> {
    let mut reloads = daemon.engine.watch_reloads().await?;
    daemon.manager.hang_up(daemon.unit()).await?;
    let mut reloaded = false;
    let takes = async {
        reloads.next().await?;
        reloaded = true;
        // The reload may have been somebody else's, a moment before ours; and
        // engines from 25 on give several who ask at once the same, older
        // answer.
        while daemon.engine.info().await?.live_restore != live_restore {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    };
    match tokio::time::timeout(RELOAD_WITHIN, takes).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::ReloadWithoutEffect {
            unit: daemon.unit().to_owned(),
            reloaded,
            live_restore,
        }),
    }
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read;
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a plain file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::new("rename", from))
}

fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::new("remove", path)(error))
        }
        _ => Ok(()),
    }
}
