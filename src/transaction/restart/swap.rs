//! Swap: replaces the reference store by exchanging the names of two files.
//!
//! digestfix writes and syncs the new store beside the old one, while Docker still runs.
//! The commit is then a single exchange of the two names, and the undo is another such
//! exchange. At every instant, `repositories.json` is a complete file, either the old one
//! or the new one.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::state::id::beside;
use crate::state::lock::RootLock;
use crate::store::data_root::ImageDir;
use crate::transaction::restart::exchange::{FileError, exchange, name, sync_directory, write_new};

/// A new reference store that is on disk beside the store in use.
///
/// Dropping this value removes the file, unless the store was swapped in.
#[derive(Debug)]
pub struct Staged {
    live: PathBuf,
    other: Option<PathBuf>,
    written: Written,
}

/// A new reference store that is in use, with the old store on disk beside it.
#[derive(Debug)]
pub struct Swapped {
    live: PathBuf,
    backup: PathBuf,
    written: Written,
}

/// Identifies a file by its device, inode, size, and the time of the last change to its
/// bytes. Renaming the file changes none of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
}

impl Written {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl Staged {
    /// Writes and syncs a new store beside the store in use, with the same owner, mode
    /// and extended attributes (such as an SELinux label). If this fails, leaves no file
    /// behind.
    pub fn write(
        images: &ImageDir,
        lock: &RootLock,
        id: &str,
        pieces: &[&[u8]],
    ) -> Result<Self, FileError> {
        let (live, path) = places(images, lock, id)?;
        let file = write_new(&path, pieces, Some(&live))?;
        Self::of(live, path, &file)
    }

    /// Like [`Staged::write`], for a new store that is already in an unnamed file. `None`
    /// if the file cannot get a name. If this fails, leaves no file behind.
    pub fn name(
        images: &ImageDir,
        lock: &RootLock,
        id: &str,
        written: &File,
    ) -> Result<Option<Self>, FileError> {
        let (live, path) = places(images, lock, id)?;
        if !name(written, &path)? {
            return Ok(None);
        }
        Self::of(live, path, written).map(Some)
    }

    fn of(live: PathBuf, path: PathBuf, file: &File) -> Result<Self, FileError> {
        let metadata = file.metadata();
        if metadata.is_err() {
            let _ = fs::remove_file(&path);
        }
        let metadata = metadata.map_err(FileError::new("look at", &path))?;
        Ok(Self {
            live,
            other: Some(path),
            written: Written::of(&metadata),
        })
    }

    /// Puts the staged store in use. The old store gets the name of the staged file, and
    /// stays on disk. If this fails, the old store is still in use.
    pub fn swap(mut self, lock: &RootLock) -> Result<Swapped, FileError> {
        let Some(other) = self.other.take() else {
            unreachable!("a staged store has a file until the store is swapped in or dropped")
        };
        if let Err(error) = exchange(&self.live, &other) {
            self.other = Some(other);
            return Err(error);
        }
        let swapped = Swapped {
            live: self.live.clone(),
            backup: other,
            written: self.written,
        };
        match sync_directory(&swapped.live) {
            Ok(()) => Ok(swapped),
            Err(error) => {
                swapped.swap_back(lock)?;
                Err(error)
            }
        }
    }
}

/// The path of the store in use, and an unused path beside it.
fn places(images: &ImageDir, lock: &RootLock, id: &str) -> Result<(PathBuf, PathBuf), FileError> {
    let live = images.store_path();
    if lock.data_root() != images.data_root() {
        let error = io::Error::other("digestfix holds the lock of another data root");
        return Err(FileError::new("write beside", &live)(error));
    }
    let mut path = beside(&live, id);
    // Another store of the same transaction may already have this name, because undo
    // writes a second new store.
    while path.symlink_metadata().is_ok() {
        path.as_mut_os_string().push("+");
    }
    Ok((live, path))
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = &self.other {
            let _ = fs::remove_file(path);
        }
    }
}

impl Swapped {
    /// Whether the store in use is the file that was staged, and no program has changed
    /// it.
    pub fn is_in_use(&self) -> Result<bool, FileError> {
        let metadata = fs::symlink_metadata(&self.live);
        let metadata = metadata.map_err(FileError::new("look at", &self.live))?;
        Ok(Written::of(&metadata) == self.written)
    }

    pub fn backup(&self) -> &Path {
        &self.backup
    }

    /// Removes the old store's file.
    pub fn discard(self) -> Result<(), FileError> {
        fs::remove_file(&self.backup).map_err(FileError::new("remove", &self.backup))
    }

    /// Puts the old store back in place, and removes the new one.
    pub fn swap_back(self, _lock: &RootLock) -> Result<(), FileError> {
        exchange(&self.live, &self.backup)?;
        sync_directory(&self.live)?;
        self.discard()
    }
}
