//! Writes a new file beside an existing one, and exchanges the names of the two files.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, renameat2};
use nix::unistd::linkat;
use xattr::FileExt;

use crate::store::data_root::is_made_of;
use crate::sys::directory;

/// Extended attributes with a hash or signature of the file's content (IMA, EVM). On a
/// file with other content, these attributes would be wrong, and the kernel would allow
/// no process to read that file.
const VOUCHERS: [&str; 2] = ["security.ima", "security.evm"];

#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {error}", path = path.display())]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl FileError {
    pub(super) fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self {
            action,
            path,
            error,
        }
    }
}

/// Writes, syncs and reads back a new file. Copies owner, mode and extended attributes
/// (an SELinux label is one of them) from `model`, if given. Leaves out a security label
/// that the kernel refuses. If this fails, leaves no file behind.
pub(super) fn write_new(
    path: &Path,
    pieces: &[&[u8]],
    model: Option<&Path>,
) -> Result<File, FileError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(if model.is_some() { 0o600 } else { 0o644 })
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .map_err(FileError::new("create", path))?;
    let written = fill(&file, path, pieces, model).and_then(|()| sync_directory(path));
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written.map(|()| file)
}

/// Writes, syncs and reads back an unnamed file in the directory of `model`, with the
/// owner, mode and extended attributes of `model`. The kernel removes the file when the
/// process ends for any reason. `None` if the file system does not support such files
/// (`O_TMPFILE` in `open(2)`).
pub(super) fn write_unnamed(model: &Path, pieces: &[&[u8]]) -> Result<Option<File>, FileError> {
    let directory = model.parent().unwrap_or(model);
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(directory);
    match opened {
        Ok(file) => fill(&file, model, pieces, Some(model)).map(|()| Some(file)),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            // Kernels before 3.11 do not know `O_TMPFILE`. They try to open the directory
            // itself for writing, which fails.
            Some(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => Ok(None),
            _ => Err(FileError::new("write beside", model)(error)),
        },
    }
}

/// Gives an unnamed file its name. Returns false if this process cannot see `/proc`,
/// which the call needs (`AT_SYMLINK_FOLLOW` in `link(2)`).
pub(super) fn name(file: &File, path: &Path) -> Result<bool, FileError> {
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = AtFlags::AT_SYMLINK_FOLLOW;
    match linkat(AT_FDCWD, open.as_str(), AT_FDCWD, path, flags) {
        Ok(()) => {}
        Err(Errno::ENOENT) => return Ok(false),
        Err(errno) => return Err(FileError::new("name", path)(errno.into())),
    }
    let named = file
        .sync_all()
        .map_err(FileError::new("sync", path))
        .and_then(|()| sync_directory(path));
    if named.is_err() {
        let _ = fs::remove_file(path);
    }
    named.map(|()| true)
}

fn fill(
    mut file: &File,
    path: &Path,
    pieces: &[&[u8]],
    model: Option<&Path>,
) -> Result<(), FileError> {
    for piece in pieces {
        file.write_all(piece)
            .map_err(FileError::new("write", path))?;
    }
    if let Some(model) = model {
        take_after(model, file).map_err(FileError::new("set the attributes of", path))?;
    }
    file.sync_all().map_err(FileError::new("sync", path))?;
    match is_made_of(file, pieces) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let error = io::Error::other("the file differs from what digestfix wrote");
            Err(FileError::new("read back", path)(error))
        }
        Err(error) => Err(FileError::new("read back", path)(error)),
    }
}

fn take_after(model: &Path, file: &File) -> io::Result<()> {
    let metadata = fs::metadata(model)?;
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (metadata.uid(), metadata.gid()) {
        fchown(file, Some(metadata.uid()), Some(metadata.gid()))?;
    }
    file.set_permissions(fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    for name in xattr::list_deref(model)? {
        if VOUCHERS.iter().any(|voucher| name == *voucher) {
            continue;
        }
        let Some(value) = xattr::get_deref(model, &name)? else {
            continue;
        };
        match set_attribute(file, &name, &value) {
            Err(error) if is_label(&name) && is_refusal(&error) => tracing::info!(
                "the kernel refused to copy the attribute {name} of {path} to the new file: {error}",
                name = name.display(),
                path = model.display()
            ),
            set => set?,
        }
    }
    Ok(())
}

fn set_attribute(file: &File, name: &OsStr, value: &[u8]) -> io::Result<()> {
    if file.get_xattr(name)?.as_deref() == Some(value) {
        return Ok(());
    }
    file.set_xattr(name, value)
}

/// Whether the attribute belongs to a security module of the kernel.
fn is_label(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"security.")
}

/// Whether the kernel or its security policy refuses a label for a new file. If so, the
/// new file keeps the default label of its directory, as when Docker writes the file. If
/// SELinux was switched off and old labels are still on the disk, the kernel lets only
/// processes with `CAP_SYS_ADMIN` set such labels. digestfix's services do not have this
/// capability. `EACCES` means that the policy forbids the label. `EINVAL` means that the
/// policy does not know the label.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EOPNOTSUPP | Errno::EPERM | Errno::EACCES | Errno::EINVAL)
    )
}

/// Exchanges the names of two files, in one step if possible.
pub(super) fn exchange(live: &Path, other: &Path) -> Result<(), FileError> {
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
        Err(errno) => Err(FileError::new("swap in", live)(errno.into())),
    }
}

/// Exchanges the names of two files in three steps. Only the second step changes which
/// file is `live`, and that step is atomic.
fn exchange_by_link(live: &Path, other: &Path) -> Result<(), FileError> {
    let mut aside = other.as_os_str().to_owned();
    aside.push(".old");
    let aside = PathBuf::from(aside);
    fs::hard_link(live, &aside).map_err(FileError::new("link", &aside))?;
    fs::rename(other, live).map_err(|error| {
        let _ = fs::remove_file(&aside);
        FileError::new("swap in", live)(error)
    })?;
    fs::rename(&aside, other).map_err(|error| {
        let _ = fs::rename(&aside, live);
        FileError::new("rename", &aside)(error)
    })
}

/// Fsyncs the directory that contains a file.
pub(super) fn sync_directory(file: &Path) -> Result<(), FileError> {
    let directory = file.parent().unwrap_or(file);
    directory::sync(file).map_err(FileError::new("sync", directory))
}

#[cfg(test)]
pub(super) mod tests;
