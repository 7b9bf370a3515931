//! Small files in the data root. digestfix reads or replaces each file completely, or not
//! at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::state::lock::RootLock;
use crate::store::data_root::STATE_DIR;
use crate::sys::directory;
use crate::sys::plain_file::{self, Links};

/// The ending of a file's name while the file is half-written.
const HALF_WRITTEN: &str = ".json.new";

/// The advice if digestfix could not write such a file.
pub const CHECK_DISK: &str = "check the file system (df -h; df -i; dmesg | tail), then try again";

/// The path of a file with this name in a data root.
pub fn path(data_root: &Path, name: &str) -> PathBuf {
    data_root.join(STATE_DIR).join(name)
}

/// Reads the file, if there is one. Fails if the file is not a plain file, has more than
/// `max` bytes, or is writable by users other than root.
pub fn read(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    if let Some(directory) = path.parent() {
        plain_file::refuse_link(directory)?;
    }
    let file = match plain_file::open(path, Links::Refused) {
        Ok(file) => file,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    let trusted = [0, geteuid().as_raw()].contains(&metadata.uid());
    if !trusted || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::other(
            "users other than root can write to the file",
        ));
    }
    if metadata.len() > max {
        return Err(io::Error::other("too large"));
    }
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Replaces the file, and returns once the new file is on disk. On an error, the file is
/// unchanged, with one exception. If digestfix replaced the file but could not fsync its
/// directory, a power cut may bring back the old file.
pub fn write(path: &Path, _lock: &RootLock, bytes: &[u8]) -> io::Result<()> {
    let new = half_written(path);
    // A killed run may have left a half-written file. The lock proves that no other run
    // is active.
    directory::remove(&new)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written?;
    directory::sync(path)
}

/// Removes the file, and the half-written file that a killed run may have left. When this
/// function returns, the removal of both files has reached the disk.
pub fn remove(path: &Path, _lock: &RootLock) -> io::Result<()> {
    directory::remove(path)?;
    directory::remove(&half_written(path))?;
    directory::sync(path)
}

/// Removes the half-written files of killed runs.
pub fn sweep(lock: &RootLock) -> io::Result<()> {
    for file in fs::read_dir(lock.data_root().join(STATE_DIR))? {
        let path = file?.path();
        if path
            .as_os_str()
            .as_bytes()
            .ends_with(HALF_WRITTEN.as_bytes())
        {
            directory::remove(&path)?;
        }
    }
    Ok(())
}

fn half_written(path: &Path) -> PathBuf {
    path.with_extension(&HALF_WRITTEN[1..])
}
