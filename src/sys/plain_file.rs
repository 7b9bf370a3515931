//! Plain file: opens files in directories where other users may have put a link, a pipe
//! or a device. No other module opens such files.
//!
//! Opening a device may have side effects, opening a pipe may block, and a link may point
//! anywhere. So digestfix first opens a path as a handle (`O_PATH` in `open(2)`), which
//! has no side effects. Through this handle, digestfix checks the type of the file, and
//! opens the file only if it is plain. If a process replaces the file in the meantime,
//! digestfix does not read the new file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

/// Which symbolic links are allowed in the path of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links<'a> {
    /// The last part of the path must be the file itself, not a link.
    Refused,
    Followed,
    /// digestfix follows links if they lead to a file below this directory, which has to
    /// be a canonical path.
    Beneath(&'a Path),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PlainFileError {
    /// The path is a pipe, a device, a directory, or a link that digestfix does not
    /// follow.
    #[error("this is not a plain file")]
    NotPlain,
    #[error("this is a link that leads out of the directory")]
    Outside,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<PlainFileError> for io::Error {
    fn from(error: PlainFileError) -> Self {
        match error {
            PlainFileError::Io(error) => error,
            other => Self::other(other.to_string()),
        }
    }
}

impl PlainFileError {
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Opens a plain file for reading.
pub(crate) fn open(path: &Path, links: Links<'_>) -> Result<File, PlainFileError> {
    let mut flags = OFlag::O_PATH;
    if links == Links::Refused {
        flags |= OFlag::O_NOFOLLOW;
    }
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    let found = handle.metadata()?;
    if let Links::Beneath(directory) = links
        && !place_of(&handle, path)?.starts_with(directory)
    {
        return Err(PlainFileError::Outside);
    }
    if !found.is_file() {
        return Err(PlainFileError::NotPlain);
    }
    // Without O_NONBLOCK, a lease of another process could make the open call wait.
    let mut reopened = OpenOptions::new();
    reopened.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    match reopened.open(by_handle(&handle)) {
        // Without /proc, open the file by its path, and check that it is the file to
        // which the handle belongs.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = reopened.open(path)?;
            let opened = file.metadata()?;
            match (opened.dev(), opened.ino()) == (found.dev(), found.ino()) {
                true => Ok(file),
                false => Err(PlainFileError::NotPlain),
            }
        }
        opened => Ok(opened?),
    }
}

/// Reads the beginning of a plain file, up to `at_most` bytes.
pub(crate) fn read(path: &Path, links: Links<'_>, at_most: u64) -> Result<Vec<u8>, PlainFileError> {
    let mut bytes = Vec::new();
    open(path, links)?.take(at_most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a plain file of at most `at_most` bytes. `None` if the file does not exist.
pub(crate) fn read_whole(
    path: &Path,
    links: Links<'_>,
    at_most: u64,
) -> io::Result<Option<Vec<u8>>> {
    match read(path, links, at_most.saturating_add(1)) {
        Ok(bytes) if bytes.len() as u64 > at_most => Err(io::Error::from(Errno::EFBIG)),
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Refuses a link where a data root should contain a directory. On a disk from another
/// host, such a link could lead into the running system.
pub(crate) fn refuse_link(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_symlink() => Err(io::Error::other(
            "this is a link, and digestfix follows no link below a data root (use a bind mount instead)",
        )),
        _ => Ok(()),
    }
}

fn by_handle(handle: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
}

/// The path of the open file. Without /proc, this is the canonical form of `path`.
fn place_of(handle: &File, path: &Path) -> io::Result<PathBuf> {
    fs::read_link(by_handle(handle)).or_else(|_| path.canonicalize())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_a_plain_file_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::write(at("file"), "text").unwrap();
        symlink("file", at("link")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        assert_eq!(read(&at("file"), Links::Refused, 9).unwrap(), b"text");
        assert_eq!(read(&at("file"), Links::Refused, 2).unwrap(), b"te");
        assert_eq!(read(&at("link"), Links::Followed, 9).unwrap(), b"text");
        for links in [Links::Refused, Links::Followed] {
            for odd in ["fifo", "socket", "zero", "."] {
                let refused = open(&at(odd), links).unwrap_err();
                assert!(
                    matches!(refused, PlainFileError::NotPlain),
                    "{odd}: {refused}"
                );
            }
        }
        let refused = open(&at("link"), Links::Refused).unwrap_err();
        assert!(matches!(refused, PlainFileError::NotPlain), "{refused}");
        assert!(open(&at("none"), Links::Followed).unwrap_err().is_missing());
    }

    #[test]
    fn a_link_may_stay_below_its_directory_and_not_leave_it() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("inner");
        fs::create_dir_all(inner.join("..data")).unwrap();
        fs::write(inner.join("..data/a.yaml"), "in").unwrap();
        fs::write(root.path().join("secret"), "out").unwrap();
        symlink("..data/a.yaml", inner.join("a.yaml")).unwrap();
        symlink("../secret", inner.join("b.yaml")).unwrap();
        symlink("..", inner.join("up")).unwrap();
        let inner = inner.canonicalize().unwrap();
        let beneath = Links::Beneath(&inner);
        assert_eq!(read(&inner.join("a.yaml"), beneath, 9).unwrap(), b"in");
        for out in ["b.yaml", "up/secret"] {
            let refused = open(&inner.join(out), beneath).unwrap_err();
            assert!(matches!(refused, PlainFileError::Outside), "{out}");
        }
    }

    #[test]
    fn what_is_too_large_is_not_cut_off() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        assert_eq!(read_whole(&path, Links::Followed, 4).unwrap(), None);
        fs::write(&path, "text").unwrap();
        let whole = read_whole(&path, Links::Followed, 4).unwrap();
        assert_eq!(whole.as_deref(), Some(&b"text"[..]));
        read_whole(&path, Links::Followed, 3).unwrap_err();
    }
}
