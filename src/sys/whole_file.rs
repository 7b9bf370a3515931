//! Whole file: other programs see the file when it is complete, or not at all.
//!
//! Until the file is complete, it has no name (`O_TMPFILE`), so nothing remains if the
//! process is killed. On a file system that does not support `O_TMPFILE` (a FAT stick,
//! NFS), the file has a hidden name in the same directory instead.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::unistd::linkat;

use crate::sys::directory;

/// Only the owner may read the file, as with `docker save -o`.
const MODE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub(crate) enum WholeFileError {
    #[error("the path exists already, and is not a plain file")]
    NotPlain,
    #[error("this is a link that leads nowhere")]
    LeadsNowhere,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct WholeFile {
    file: File,
    /// The final path of the file. If the user's path is a link, this is the path that
    /// the link leads to.
    path: PathBuf,
    /// The hidden name that the file has before it gets its final name. An unnamed file
    /// gets the hidden name just before the final name.
    hidden: PathBuf,
    is_named: bool,
}

impl WholeFile {
    /// Begins the file for `path`. An existing file at that path stays until
    /// [`WholeFile::finish`].
    pub(crate) fn begin(path: &Path) -> Result<Self, WholeFileError> {
        let path = destination(path)?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let hidden = directory.join(format!(".digestfix-{:x}", now.as_nanos()));
        let (file, is_named) = match nameless(&directory) {
            Some(file) => (file?, false),
            None => (named(&hidden)?, true),
        };
        Ok(Self {
            file,
            path: directory.join(path.file_name().unwrap_or_default()),
            hidden,
            is_named,
        })
    }

    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its final name, and replaces any file that has this name. Returns
    /// once the new name is on disk.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if !self.is_named {
            linkat(
                AT_FDCWD,
                &by_handle(&self.file),
                AT_FDCWD,
                &self.hidden,
                AtFlags::AT_SYMLINK_FOLLOW,
            )?;
            self.is_named = true;
        }
        fs::rename(&self.hidden, &self.path)?;
        self.is_named = false;
        directory::sync(&self.path)
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if self.is_named {
            let _ = fs::remove_file(&self.hidden);
        }
    }
}

/// The final path of a file. Follows a link, as `docker save -o` does.
fn destination(path: &Path) -> Result<PathBuf, WholeFileError> {
    match path.metadata() {
        Ok(found) if found.is_file() => Ok(path.canonicalize()?),
        Ok(_) => Err(WholeFileError::NotPlain),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.symlink_metadata() {
            Ok(_) => Err(WholeFileError::LeadsNowhere),
            Err(_) if path.file_name().is_none() => Err(WholeFileError::NotPlain),
            Err(_) => Ok(path.to_owned()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Creates an unnamed file in this directory. `None` if the file system does not support
/// unnamed files. Also `None` if there is no /proc, because digestfix then cannot give
/// the file a name.
fn nameless(directory: &Path) -> Option<io::Result<File>> {
    let opened = OpenOptions::new()
        .write(true)
        .mode(MODE)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(directory);
    match opened {
        Ok(file) => by_handle(&file).exists().then_some(Ok(file)),
        Err(error) => {
            let without = [Errno::EOPNOTSUPP, Errno::EISDIR, Errno::EINVAL];
            let number = error.raw_os_error().map(Errno::from_raw);
            let is_without = number.is_some_and(|number| without.contains(&number));
            (!is_without).then_some(Err(error))
        }
    }
}

fn named(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(path)
}

fn by_handle(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Begins an unnamed file, or one with a hidden name.
    fn begun(path: &Path, is_named: bool) -> WholeFile {
        let mut begun = WholeFile::begin(path).unwrap();
        if is_named {
            begun.file = named(&begun.hidden).unwrap();
            begun.is_named = true;
        }
        begun
    }

    #[test]
    fn it_is_there_when_it_is_complete() {
        for is_named in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("images.tar");
            fs::write(&path, "former").unwrap();
            let new = begun(&path, is_named);
            new.file().write_all(b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"former");
            new.finish().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            let mode = path.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
            assert_eq!(names(root.path()), ["images.tar"]);
        }
    }

    #[test]
    fn nothing_is_left_of_one_that_is_given_up() {
        for is_named in [false, true] {
            let root = tempfile::tempdir().unwrap();
            let path = root.path().join("images.tar");
            begun(&path, is_named).file().write_all(b"half").unwrap();
            assert!(names(root.path()).is_empty());
        }
    }

    #[test]
    fn a_link_is_followed_and_anything_else_refused() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("disk")).unwrap();
        fs::write(at("disk/a.tar"), "former").unwrap();
        symlink("disk/a.tar", at("link")).unwrap();
        symlink("disk/none", at("dangling")).unwrap();
        WholeFile::begin(&at("link")).unwrap().finish().unwrap();
        assert!(at("link").is_symlink());
        assert_eq!(fs::read(at("disk/a.tar")).unwrap(), b"");
        let refused = WholeFile::begin(&at("dangling")).unwrap_err();
        assert!(matches!(refused, WholeFileError::LeadsNowhere), "{refused}");
        for odd in [at("disk"), PathBuf::from("/dev/null"), PathBuf::new()] {
            let refused = WholeFile::begin(&odd).unwrap_err();
            assert!(matches!(refused, WholeFileError::NotPlain), "{refused}");
        }
    }
}
