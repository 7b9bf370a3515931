//! Loading mark: a file that names the archives that a run makes Docker load. The run
//! writes this file before Docker loads the archives.
//!
//! If a run is killed before it records the digests, or if it removes the recorded
//! digests again, images without digests remain. These images stay, because digestfix
//! cannot know whether they are in use by now. With the mark, the next run can tell the
//! user how to continue. The mark stays until the digests are recorded, so a mark and a
//! journal can exist at the same time.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::state::lock::{LockError, RootLock};
use crate::state::state_file;
use crate::sys::shell;

const NAME: &str = "loading";

const VERSION: u32 = 1;

/// The maximum size of the file that marks a load in progress, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loading {
    digestfix_loading: u32,
    /// The absolute paths of the archives. Empty if the archive came from standard input.
    pub files: Vec<String>,
}

impl Loading {
    pub const fn new(files: Vec<String>) -> Self {
        Self {
            digestfix_loading: VERSION,
            files,
        }
    }

    /// Reads the mark of a killed run, if there is one.
    pub fn read(data_root: &Path) -> Option<Self> {
        let bytes = state_file::read(&state_file::path(data_root, NAME), MAX_BYTES).ok()??;
        let mark: Self = serde_json::from_slice(&bytes).ok()?;
        (mark.digestfix_loading == VERSION).then_some(mark)
    }

    pub fn write(&self, lock: &RootLock) -> Result<(), LockError> {
        let path = state_file::path(lock.data_root(), NAME);
        let bytes = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        let written = bytes.and_then(|bytes| state_file::write(&path, lock, &bytes));
        written.map_err(|error| LockError::Io { path, error })
    }

    /// Removes the mark, if there is one. For callers that know that no claim of the load
    /// is left to apply. An error is a message for the user.
    pub fn end(lock: &RootLock) -> Result<(), String> {
        if Self::read(lock.data_root()).is_none() {
            return Ok(());
        }
        let removed = state_file::remove(&state_file::path(lock.data_root(), NAME), lock);
        removed.map_err(|error| {
            format!("the file that marks an unfinished load could not be removed: {error}")
        })
    }

    /// Whether this mark names archives that the other mark does not name. An archive
    /// from standard input has no name, so it counts as different.
    pub fn waits_besides(&self, other: &Self) -> bool {
        self.files.is_empty() || self.files.iter().any(|file| !other.files.contains(file))
    }

    /// The message that tells the user about the interrupted load.
    pub fn told(&self) -> &'static str {
        "a load was interrupted: the images that Docker has loaded stay, but their digests may be missing"
    }

    /// The command that the user should type next.
    pub fn next(&self) -> String {
        match self.files.as_slice() {
            [] => "run the same load again, from standard input".to_owned(),
            files => {
                let files = files.iter().map(|file| shell::word(file).to_string());
                format!("digestfix load {}", files.collect::<Vec<_>>().join(" "))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_is_there_until_it_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let lock = RootLock::acquire(root.path(), Duration::ZERO);
        let lock = lock.await.unwrap();
        assert_eq!(Loading::read(root.path()), None);
        let mark = Loading::new(vec!["/media/a b.tar".to_owned()]);
        mark.write(&lock).unwrap();
        assert_eq!(Loading::read(root.path()).unwrap(), mark);
        assert_eq!(mark.next(), "digestfix load '/media/a b.tar'");
        Loading::end(&lock).unwrap();
        assert_eq!(Loading::read(root.path()), None);
        Loading::end(&lock).unwrap();
    }

    #[test]
    fn a_mark_of_this_version_loads() {
        let fixture = include_str!("../../tests/formats/loading.json");
        let mark: Loading = serde_json::from_str(fixture).unwrap();
        assert_eq!(mark, Loading::new(vec!["/media/images.tar".to_owned()]));
    }
}
