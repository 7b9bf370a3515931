//! `/etc/hosts` with other addresses for registries, for as long as it takes
//! Docker to ask them.
//!
//! The file that is found is never written to: another one, with lines added,
//! trades names with it and back, so that in the end the very same file is
//! there. After each trade what came out is looked at. Is it not what was read
//! a moment before, somebody has edited the file in between; then the names are
//! traded back, and nobody's edit is lost.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::journal::{self, hash};
use crate::stand_in::hosts::{has_names, with_names, without_names};
use crate::transaction::daemon_json::{is_there, read, remove, rename};
use crate::transaction::exchange::{FileError, exchange, sync_directory, write_new};
use crate::transaction::swap::{beside, with_suffix};

/// How often somebody may edit the file between a look at it and the trade.
const TRIES: u32 = 20;

/// The way from the file that is found to the one with more names, and back.
#[derive(Debug)]
pub struct HostsFile {
    path: PathBuf,
    id: String,
    /// Where the file that was found is while the other one has its name; until
    /// then, that other one.
    aside: PathBuf,
    contents: journal::Hosts,
}

/// What became of the file.
#[derive(Debug, PartialEq, Eq)]
pub enum PutBack {
    /// What is there is what was found, or somebody else's: nothing of this
    /// transaction was in it.
    Nothing,
    /// What was found is there.
    Found,
    /// What somebody else made of it meanwhile is there, without the lines that
    /// were added. What was found is there, if that is not in it.
    Theirs(Option<PathBuf>),
}

impl HostsFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or is not there.
    pub fn plan(path: &Path, id: &str, names: &[String]) -> Result<Self, FileError> {
        let found = read(path)?.ok_or_else(|| {
            FileError::new("read", path)(io::Error::from(io::ErrorKind::NotFound))
        })?;
        let with = with_names(&found, Ipv4Addr::LOCALHOST, names, id);
        let contents = journal::Hosts {
            before: hash(&found),
            with: hash(&with),
        };
        Ok(Self::resume(path, id, contents))
    }

    /// The one that a journal tells of.
    #[must_use]
    pub fn resume(path: &Path, id: &str, contents: journal::Hosts) -> Self {
        Self {
            path: path.to_owned(),
            id: id.to_owned(),
            aside: beside(path, id),
            contents,
        }
    }

    /// What the journal is to know of it.
    #[must_use]
    pub const fn contents(&self) -> &journal::Hosts {
        &self.contents
    }

    /// What its lines are marked with.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Puts the file with the names in place.
    ///
    /// # Errors
    /// When the file system refuses, or somebody has changed the file.
    pub fn add(&self, names: &[String]) -> Result<(), FileError> {
        let found = read(&self.path)?.unwrap_or_default();
        if hash(&found) != self.contents.before {
            return Err(self.changed());
        }
        let with = with_names(&found, Ipv4Addr::LOCALHOST, names, &self.id);
        // Only what is whole is ever aside.
        let new = self.new_name();
        remove(&new)?;
        write_new(&new, &[&with], Some(&self.path))?;
        rename(&new, &self.aside)?;
        exchange(&self.path, &self.aside)?;
        if !self.is_found(&self.aside)? {
            exchange(&self.path, &self.aside)?;
            return Err(self.changed());
        }
        sync_directory(&self.path)
    }

    /// Puts back what was found; or, where somebody else has changed the file
    /// since, takes the added names out of that.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn put_back(&self) -> Result<PutBack, FileError> {
        self.tidy()?;
        for _ in 0..TRIES {
            let live = read(&self.path)?;
            let is_ours = live.as_deref().map(hash).as_ref() == Some(&self.contents.with);
            match live {
                Some(_) if is_ours && is_there(&self.aside) => {
                    exchange(&self.path, &self.aside)?;
                    if self.is_ours(&self.aside)? {
                        remove(&self.aside)?;
                        sync_directory(&self.path)?;
                        return Ok(PutBack::Found);
                    }
                    exchange(&self.path, &self.aside)?;
                }
                Some(theirs) if has_names(&theirs, &self.id) => {
                    if self.replace(&theirs)? {
                        return Ok(PutBack::Theirs(self.forget_found()?));
                    }
                }
                None if self.is_found(&self.aside)? => {
                    rename(&self.aside, &self.path)?;
                    sync_directory(&self.path)?;
                    return Ok(PutBack::Found);
                }
                _ => return self.leave(),
            }
        }
        Err(self.changed())
    }

    /// What is there has none of the added names: nothing was done yet, or
    /// somebody has taken them out.
    fn leave(&self) -> Result<PutBack, FileError> {
        let aside = read(&self.aside)?;
        let is_ours = aside.is_some_and(|aside| has_names(&aside, &self.id));
        if is_ours {
            remove(&self.aside)?;
        }
        if is_ours || !is_there(&self.aside) {
            return Ok(PutBack::Nothing);
        }
        Ok(PutBack::Theirs(self.forget_found()?))
    }

    /// Puts a text without the added names in place of the one with them; false
    /// when that is another by now.
    fn replace(&self, theirs: &[u8]) -> Result<bool, FileError> {
        let next = self.next_name();
        remove(&next)?;
        let without = without_names(theirs, &self.id);
        write_new(&next, &[&without], Some(&self.path))?;
        exchange(&self.path, &next)?;
        if read(&next)?.as_deref() != Some(theirs) {
            exchange(&self.path, &next)?;
            return Ok(false);
        }
        remove(&next)?;
        sync_directory(&self.path)?;
        Ok(true)
    }

    /// The file that was found has had its day. Where it was written to while
    /// it was aside, it stays there for somebody to look at.
    fn forget_found(&self) -> Result<Option<PathBuf>, FileError> {
        if !is_there(&self.aside) {
            return Ok(None);
        }
        if self.is_found(&self.aside)? {
            remove(&self.aside)?;
            return Ok(None);
        }
        let kept = with_suffix(&self.aside, ".found");
        rename(&self.aside, &kept)?;
        Ok(Some(kept))
    }

    fn is_found(&self, path: &Path) -> Result<bool, FileError> {
        Ok(read(path)?.as_deref().map(hash).as_ref() == Some(&self.contents.before))
    }

    fn is_ours(&self, path: &Path) -> Result<bool, FileError> {
        Ok(read(path)?.as_deref().map(hash).as_ref() == Some(&self.contents.with))
    }

    /// A run that was killed may have left a file that was not whole yet, or
    /// that was traded out; and, where names cannot be exchanged in one step, one
    /// under a third name.
    fn tidy(&self) -> Result<(), FileError> {
        remove(&self.new_name())?;
        let next = self.next_name();
        for name in [&self.aside, &next] {
            let old = with_suffix(name, ".old");
            if is_there(&old) && !is_there(name) {
                rename(&old, name)?;
            } else {
                remove(&old)?;
            }
        }
        remove(&next)
    }

    /// The file with the names, until it is whole.
    fn new_name(&self) -> PathBuf {
        with_suffix(&self.aside, ".new")
    }

    /// Somebody else's without the names, until it is in place.
    fn next_name(&self) -> PathBuf {
        with_suffix(&self.aside, ".next")
    }

    fn changed(&self) -> FileError {
        let error = io::Error::other("somebody else has changed it just now");
        FileError::new("replace", &self.path)(error)
    }
}
