//! The one change on disk: two files trade names.
//!
//! The new store is written and synced beside the old one, while Docker still
//! runs. The commit is then a single exchange of the two names, and so is
//! taking it back. Whatever happens in between, the name `repositories.json`
//! always leads to a whole file, the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use xattr::FileExt;

use crate::data_root::ImageDir;
use crate::transaction::lock::RootLock;

/// A change on disk that failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {error}", path = path.display())]
pub struct SwapError {
    action: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl SwapError {
    fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self {
            action,
            path,
            error,
        }
    }
}

/// A new store, on disk beside the one in use.
///
/// Removed when dropped, unless it was swapped in.
#[derive(Debug)]
pub struct Staged {
    live: PathBuf,
    other: Option<PathBuf>,
}

/// A new store in use, the old one beside it.
#[derive(Debug)]
pub struct Swapped {
    live: PathBuf,
    backup: PathBuf,
}

impl Staged {
    /// Writes and syncs a new store beside the one in use, with its owner,
    /// mode and extended attributes (an SELinux label is one of them).
    ///
    /// # Errors
    /// When the file system refuses; nothing is left behind then.
    pub fn write(images: &ImageDir, lock: &RootLock, bytes: &[u8]) -> Result<Self, SwapError> {
        let live = images.store_path();
        if lock.data_root() != images.data_root() {
            let error = io::Error::other("another data root is locked than the one to be written");
            return Err(SwapError::new("write beside", &live)(error));
        }
        let (path, mut file) = create_beside(&live)?;
        let staged = Self {
            live,
            other: Some(path.clone()),
        };
        file.write_all(bytes)
            .map_err(SwapError::new("write", &path))?;
        take_after(&staged.live, &file).map_err(SwapError::new("set the attributes of", &path))?;
        file.sync_all().map_err(SwapError::new("sync", &path))?;
        sync_directory(&path)?;
        Ok(staged)
    }

    /// Makes the staged store the one in use. The old one takes its name and
    /// stays there.
    ///
    /// # Errors
    /// When the file system refuses; the old store is then in use.
    pub fn swap(mut self, lock: &RootLock) -> Result<Swapped, SwapError> {
        let Some(other) = self.other.take() else {
            unreachable!("a staged store is there until it is swapped in or dropped")
        };
        if let Err(error) = exchange(&self.live, &other) {
            self.other = Some(other);
            return Err(error);
        }
        let swapped = Swapped {
            live: self.live.clone(),
            backup: other,
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

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = &self.other {
            let _ = fs::remove_file(path);
        }
    }
}

impl Swapped {
    /// Where the old store is kept.
    #[must_use]
    pub fn backup(&self) -> &Path {
        &self.backup
    }

    /// Drops the old store's file.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn discard(self) -> Result<(), SwapError> {
        fs::remove_file(&self.backup).map_err(SwapError::new("remove", &self.backup))
    }

    /// Puts the old store back in use and drops the new one.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn swap_back(self, _lock: &RootLock) -> Result<(), SwapError> {
        exchange(&self.live, &self.backup)?;
        sync_directory(&self.live)?;
        self.discard()
    }
}

/// A file whose name says what it is once it is the old store: when it was
/// put aside, and by which process.
fn create_beside(live: &Path) -> Result<(PathBuf, File), SwapError> {
    let now: String = humantime::format_rfc3339_seconds(SystemTime::now())
        .to_string()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let mut name = live.as_os_str().to_owned();
    name.push(format!(".digestfix-{now}-{}", std::process::id()));
    loop {
        let path = PathBuf::from(&name);
        let created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path);
        match created {
            Ok(file) => return Ok((path, file)),
            // The second one within a second: an undo, say.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => name.push("+"),
            Err(error) => return Err(SwapError::new("create", &path)(error)),
        }
    }
}

fn take_after(model: &Path, file: &File) -> io::Result<()> {
    let metadata = fs::symlink_metadata(model)?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
        fchown(file, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    for name in xattr::list(model)? {
        if let Some(value) = xattr::get(model, &name)?
            && file.get_xattr(&name)?.as_deref() != Some(value.as_slice())
        {
            file.set_xattr(&name, &value)?;
        }
    }
    Ok(())
}

fn exchange(live: &Path, other: &Path) -> Result<(), SwapError> {
    match renameat2(
        AT_FDCWD,
        live,
        AT_FDCWD,
        other,
        RenameFlags::RENAME_EXCHANGE,
    ) {
        Ok(()) => Ok(()),
        // Kernels before 3.15 and some file systems (NFS among them) cannot
        // exchange names.
        Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => exchange_by_link(live, other),
        Err(errno) => Err(SwapError::new("swap in", live)(errno.into())),
    }
}

/// The same outcome in three steps, of which only the second changes what
/// `live` leads to, and does so at once.
fn exchange_by_link(live: &Path, other: &Path) -> Result<(), SwapError> {
    let mut aside = other.as_os_str().to_owned();
    aside.push(".old");
    let aside = PathBuf::from(aside);
    fs::hard_link(live, &aside).map_err(SwapError::new("link", &aside))?;
    fs::rename(other, live).map_err(|error| {
        let _ = fs::remove_file(&aside);
        SwapError::new("swap in", live)(error)
    })?;
    fs::rename(&aside, other).map_err(|error| {
        let _ = fs::rename(&aside, live);
        SwapError::new("rename", &aside)(error)
    })
}

fn sync_directory(file: &Path) -> Result<(), SwapError> {
    let directory = file.parent().unwrap_or(file);
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(SwapError::new("sync", directory))
}
