//! A file's name in its directory: taken away, and had on disk.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Removes the file, if it is there.
///
/// # Errors
/// When the file system refuses.
pub fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Linux looks at that first (`fs/namei.c`, `do_unlinkat`).
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            match file.symlink_metadata() {
                Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            }
        }
        removed => removed,
    }
}

/// Has the names in a file's directory on disk.
///
/// # Errors
/// When the file system refuses, or the directory is not there.
pub fn sync(file: &Path) -> io::Result<()> {
    File::open(file.parent().unwrap_or(file))?.sync_all()
}
