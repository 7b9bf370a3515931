//! daemon.json with live-restore switched on for the duration of a transaction.
//!
//! digestfix never writes to the original file. It writes a second file that differs only
//! in the live-restore setting, and exchanges the names of the two files. Later,
//! digestfix exchanges the names back. So in the end, the original file or symbolic link
//! is back in place, with its owner, mode, attributes and time.
//!
//! When dockerd reloads a file that no longer contains live-restore, it keeps the former
//! value (moby `daemon/reload.go`, `reloadLiveRestore`). So before digestfix restores a
//! file that may not contain the setting, it makes dockerd read a file in which
//! live-restore is off.
//!
//! If another process replaces daemon.json in the meantime, digestfix restores that
//! replacement in the end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::host::{MAX_DAEMON_JSON, with_live_restore};
use crate::image::digest::Digest;
use crate::state::id::{beside, with_suffix};
use crate::state::journal::{self, hash};
use crate::sys::directory;
use crate::sys::plain_file::{self, Links};
use crate::transaction::restart::exchange::{FileError, exchange, sync_directory, write_new};

/// Switches daemon.json to a file with live-restore on, and back.
#[derive(Debug)]
pub struct Switch {
    /// The path of the original file while a file of digestfix is in place as
    /// daemon.json. Until digestfix has put its file in place, the file to put in place
    /// has this path.
    aside: PathBuf,
    /// The path at which digestfix writes a file before it becomes daemon.json.
    next: PathBuf,
    contents: journal::DaemonJson,
}

/// Which file is in place as daemon.json now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Now {
    Found,
    On,
    Off,
    /// A file of another program. `None` if no file exists.
    SomebodyElses(Option<Vec<u8>>),
}

impl Switch {
    /// Reads daemon.json. Returns `None` if live-restore is already on in the file, so
    /// that dockerd only has to reload it. `engine` is true if live-restore is on in the
    /// running engine.
    pub fn plan(config_file: &Path, id: &str, engine: bool) -> Result<Option<Self>, FileError> {
        let found = read(config_file)?;
        let on = edit(config_file, found.as_deref(), true)?;
        if found.as_ref() == Some(&on) {
            return Ok(None);
        }
        let contents = journal::DaemonJson {
            config_file: config_file.to_owned(),
            engine,
            before: found.as_deref().map(hash),
            found: is_there(config_file),
            directory: config_file.parent().is_some_and(Path::exists),
            off: hash(&edit(config_file, found.as_deref(), false)?),
            on: hash(&on),
        };
        Ok(Some(Self::resume(id, contents)))
    }

    /// Creates a switch again from the data that a journal contains about the switch.
    pub fn resume(id: &str, contents: journal::DaemonJson) -> Self {
        let aside = beside(&contents.config_file, id);
        Self {
            next: with_suffix(&aside, ".next"),
            aside,
            contents,
        }
    }

    /// The data about the switch for the journal.
    pub fn contents(&self) -> &journal::DaemonJson {
        &self.contents
    }

    /// The path of the original file while a file of digestfix is in place as
    /// daemon.json.
    pub(super) fn aside(&self) -> &Path {
        &self.aside
    }

    /// Puts the file with live-restore on in place. If this fails, for example because
    /// another process has changed the file, the caller may have to undo a part of the
    /// change.
    pub fn put_on(&self) -> Result<(), FileError> {
        match self.now()? {
            Now::Found => self.put_in_place(true),
            Now::Off => self.replace(true),
            Now::On => Ok(()),
            Now::SomebodyElses(_) => Err(self.changed_just_now()),
        }
    }

    /// Puts the file with live-restore off in place.
    pub(super) fn put_off(&self) -> Result<(), FileError> {
        match self.now()? {
            Now::Found if self.contents.before.as_ref() == Some(&self.contents.off) => Ok(()),
            Now::Found => self.put_in_place(false),
            Now::On => self.replace(false),
            Now::Off => Ok(()),
            Now::SomebodyElses(_) => Err(self.changed_just_now()),
        }
    }

    /// Restores the original file. Returns false if another program has changed or
    /// removed the file.
    pub(super) fn put_back(&self) -> Result<bool, FileError> {
        let config_file = &self.contents.config_file;
        match self.now()? {
            Now::Found => remove(&self.aside)?,
            Now::On | Now::Off if self.contents.found && !is_there(&self.aside) => {
                // Another program has removed the original file. digestfix's file has the
                // same settings except live-restore, so leave that file in place, and
                // switch live-restore off in it.
                self.put_off()?;
                return Ok(false);
            }
            Now::On | Now::Off if self.contents.found => rename(&self.aside, config_file)?,
            Now::On | Now::Off => remove(config_file)?,
            Now::SomebodyElses(_) => return Ok(false),
        }
        remove(&self.next)?;
        let Some(directory) = config_file.parent().filter(|directory| directory.exists()) else {
            return Ok(true);
        };
        sync_directory(config_file)?;
        if !self.contents.directory {
            // Ignore the error: another program may have put files into the directory.
            let _ = fs::remove_dir(directory);
        }
        Ok(true)
    }

    /// Replaces the original daemon.json with a file of digestfix.
    fn put_in_place(&self, on: bool) -> Result<(), FileError> {
        let config_file = &self.contents.config_file;
        if let Some(directory) = config_file.parent() {
            directory::make(directory).map_err(FileError::new("create", directory))?;
        }
        let found = read(config_file)?;
        // Write the file under another name first, so that the file at `aside` is always
        // complete.
        remove(&self.next)?;
        self.write(&self.next, found.as_deref(), on)?;
        rename(&self.next, &self.aside)?;
        if !self.contents.found {
            rename(&self.aside, config_file)?;
            return sync_directory(config_file);
        }
        exchange(config_file, &self.aside)?;
        if hash_at(&self.aside)? != self.contents.before {
            exchange(config_file, &self.aside)?;
            return Err(self.changed_just_now());
        }
        sync_directory(config_file)
    }

    /// Replaces digestfix's own daemon.json with a version in which live-restore is on or
    /// off. The original file stays set aside.
    fn replace(&self, on: bool) -> Result<(), FileError> {
        let config_file = &self.contents.config_file;
        let ours = read(config_file)?;
        remove(&self.next)?;
        self.write(&self.next, ours.as_deref(), on)?;
        exchange(config_file, &self.next)?;
        if hash_at(&self.next)? != ours.as_deref().map(hash) {
            exchange(config_file, &self.next)?;
            return Err(self.changed_just_now());
        }
        remove(&self.next)?;
        sync_directory(config_file)
    }

    pub(super) fn now(&self) -> Result<Now, FileError> {
        self.tidy()?;
        let Some(bytes) = read(&self.contents.config_file)? else {
            // daemon.json is a dangling link, or does not exist.
            let as_found = self.contents.before.is_none();
            return Ok(if as_found {
                Now::Found
            } else {
                Now::SomebodyElses(None)
            });
        };
        let hash = hash(&bytes);
        Ok(
            if Some(&hash) == self.contents.before.as_ref() && !self.is_aside()? {
                Now::Found
            } else if hash == self.contents.on {
                Now::On
            } else if hash == self.contents.off {
                Now::Off
            } else {
                Now::SomebodyElses(Some(bytes))
            },
        )
    }

    /// Whether daemon.json is a file of digestfix with live-restore off that has the same
    /// contents as the original file. If the function returns true, the original file is
    /// at `aside`.
    fn is_aside(&self) -> Result<bool, FileError> {
        if self.contents.before.as_ref() != Some(&self.contents.off) {
            return Ok(false);
        }
        let aside = hash_at(&self.aside)?;
        Ok(aside.is_some() && aside.as_ref() != Some(&self.contents.on))
    }

    /// Where a killed run could not exchange two names in one step, it may have left a
    /// file under a third name. Renames or removes that file.
    fn tidy(&self) -> Result<(), FileError> {
        remove(&with_suffix(&self.next, ".old"))?;
        let old = with_suffix(&self.aside, ".old");
        if !is_there(&old) {
            return Ok(());
        }
        if is_there(&self.aside) {
            remove(&old)
        } else {
            rename(&old, &self.aside)
        }
    }

    /// Accepts that another process has replaced the file, so that digestfix restores the
    /// replacement in the end. Keeps the original file under another name, and returns
    /// that name.
    pub(super) fn adopt(&mut self, theirs: Option<&[u8]>) -> Result<Option<PathBuf>, FileError> {
        let config_file = self.contents.config_file.clone();
        let on = hash(&edit(&config_file, theirs, true)?);
        let off = hash(&edit(&config_file, theirs, false)?);
        let kept = self.keep_found()?;
        self.contents.before = theirs.map(hash);
        self.contents.found = is_there(&config_file);
        self.contents.on = on;
        self.contents.off = off;
        Ok(kept)
    }

    fn keep_found(&self) -> Result<Option<PathBuf>, FileError> {
        if !is_there(&self.aside) {
            return Ok(None);
        }
        let mut kept = with_suffix(&self.aside, ".found");
        while is_there(&kept) {
            kept = with_suffix(&kept, "+");
        }
        rename(&self.aside, &kept)?;
        Ok(Some(kept))
    }

    fn write(&self, path: &Path, bytes: Option<&[u8]>, on: bool) -> Result<(), FileError> {
        let edited = edit(path, bytes, on)?;
        let model = [&self.aside, &self.contents.config_file];
        let model = model.into_iter().find(|model| model.is_file());
        write_new(path, &[&edited], model.map(PathBuf::as_path)).map(drop)
    }

    fn changed_just_now(&self) -> FileError {
        let error = io::Error::other("another process changed the file just now");
        FileError::new("replace", &self.contents.config_file)(error)
    }
}

fn edit(path: &Path, bytes: Option<&[u8]>, on: bool) -> Result<Vec<u8>, FileError> {
    with_live_restore(bytes, on)
        .map_err(|error| FileError::new("edit", path)(io::Error::other(error.to_string())))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    plain_file::read_whole(path, Links::Followed, MAX_DAEMON_JSON)
        .map_err(FileError::new("read", path))
}

pub(super) fn hash_at(path: &Path) -> Result<Option<Digest>, FileError> {
    Ok(read(path)?.as_deref().map(hash))
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(FileError::new("rename", from))
}

fn remove(path: &Path) -> Result<(), FileError> {
    directory::remove(path).map_err(FileError::new("remove", path))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::sys::directory::tests::{modes, with_umask_of_0};
    use crate::testing::scratch;
    use crate::transaction::restart::exchange::tests::Labels;

    #[test]
    fn with_a_umask_of_0_only_root_may_write_a_new_daemon_json() {
        with_umask_of_0(
            "transaction::restart::daemon_json::tests::\
             with_a_umask_of_0_only_root_may_write_a_new_daemon_json",
            || {
                let root = scratch();
                let file = root.path().join("docker/daemon.json");
                let switch = Switch::plan(&file, "a-1", false).unwrap().unwrap();
                switch.put_on().unwrap();
                assert_eq!(modes(root.path()), [0o755, 0o644]);
            },
        );
    }

    #[test]
    fn each_daemon_json_has_the_label_of_the_one_that_was_found() {
        let labels = Labels::find();
        let file = labels.directory.path().join("daemon.json");
        fs::write(&file, "{}").unwrap();
        labels.set(&file);
        let switch = Switch::plan(&file, "a-1", false).unwrap().unwrap();
        for (step, bytes) in [
            (Switch::put_on as fn(&Switch) -> _, true),
            (Switch::put_off, false),
            (Switch::put_on, true),
        ] {
            step(&switch).unwrap();
            let expected = edit(&file, Some(b"{}"), bytes).unwrap();
            assert_eq!(fs::read(&file).unwrap(), expected);
            labels.is_on(&file);
            labels.is_on(switch.aside());
        }
        assert!(switch.put_back().unwrap());
        assert_eq!(fs::read(&file).unwrap(), b"{}");
        labels.is_on(&file);
    }
}
