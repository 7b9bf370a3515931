//! Lock: allows only one digestfix at a time to work on a data root.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use fs2::FileExt;
use nix::fcntl::OFlag;

use crate::store::data_root::{STATE_DIR, user_of};
use crate::sys::directory;
use crate::sys::plain_file::{self, Links, PlainFileError};
use crate::sys::shell;
use crate::sys::who::own_service;
use crate::systemd::setting;

const LOCK_FILE: &str = "lock";
const RETRY: Duration = Duration::from_millis(50);
const HOLDER_MAX_BYTES: u64 = 1024;

/// Proof that no other digestfix works on the data root. Dropping this value releases the
/// lock. If the process ends, the kernel releases the lock.
#[derive(Debug)]
pub struct RootLock {
    file: File,
    data_root: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("another digestfix works on {data_root}: {holder}", data_root = data_root.display())]
    Held { data_root: PathBuf, holder: String },
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
}

impl LockError {
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Held { .. } => Some(
                "wait until the other run ends, or let digestfix wait: --wait SECONDS".to_owned(),
            ),
            Self::Io { path, .. } if is_barred(path) => {
                let path = shell::path(path);
                Some(format!(
                    "check what this file is: ls -ld {path}; if no program needs the file: \
                              mv {path} {path}.old"
                ))
            }
            Self::Io { path, error } => sandbox(path, error).or_else(|| {
                // A run that cannot write may have failed to make the directory.
                let mut above = path.ancestors().skip(1);
                let directory = above.find(|one| one.exists()).unwrap_or(path);
                let directory = shell::path(directory);
                Some(format!(
                    "check the file system (ls -ld {directory}; df -h {directory}), then run the \
                     same command again"
                ))
            }),
        }
    }
}

/// Advice if digestfix cannot write a file in a data root. The cause may be the sandbox
/// of a service (`ProtectSystem=` in `systemd.exec(5)`).
fn sandbox(path: &Path, error: &io::Error) -> Option<String> {
    let data_root = path.parent()?.parent()?;
    if error.kind() != io::ErrorKind::ReadOnlyFilesystem {
        return None;
    }
    let service = own_service()?;
    Some(format!(
        "if the disk itself is writable, the sandbox of {service} forbids writes there: systemctl edit {service}, \
         add [Service] and ReadWriteDirectories={}, then: systemctl start {service}",
        setting::path(data_root)
    ))
}

/// Creates the directory that a Kubernetes node uses in place of Docker's data root.
pub fn make_root(data_root: &Path) -> Result<(), LockError> {
    if data_root.is_dir() {
        return Ok(());
    }
    let mut make = DirBuilder::new();
    let made = make.mode(0o700).recursive(true).create(data_root);
    let on_disk = made.and_then(|()| {
        let above = data_root.ancestors().take(3);
        above.into_iter().try_for_each(directory::sync)
    });
    on_disk.map_err(|error| LockError::Io {
        path: data_root.to_owned(),
        error,
    })
}

impl RootLock {
    /// Takes the lock. If another run holds the lock, waits for at most `wait`.
    pub async fn acquire(data_root: &Path, wait: Duration) -> Result<Self, LockError> {
        let deadline = Instant::now() + wait;
        loop {
            match Self::acquire_now(data_root) {
                Err(LockError::Held { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(RETRY).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Takes the lock, or fails immediately if another process holds it.
    pub fn acquire_now(data_root: &Path) -> Result<Self, LockError> {
        Self::take(data_root, FileExt::try_lock_exclusive)
    }

    /// Waits until the run that holds the lock ends for any reason, and then takes the
    /// lock. Blocks this thread while it waits.
    pub fn await_end(data_root: &Path) -> Result<Self, LockError> {
        Self::take(data_root, |file| {
            loop {
                match FileExt::lock_exclusive(file) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    outcome => return outcome,
                }
            }
        })
    }

    fn take(data_root: &Path, lock: impl Fn(&File) -> io::Result<()>) -> Result<Self, LockError> {
        let own = data_root.join(STATE_DIR);
        let path = own.join(LOCK_FILE);
        let failed = |error| LockError::Io {
            path: path.clone(),
            error,
        };
        match DirBuilder::new().mode(0o700).create(&own) {
            Ok(()) => directory::sync(&own).map_err(failed)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        plain_file::refuse_link(&own).map_err(|error| LockError::Io {
            path: own.clone(),
            error,
        })?;
        // Do not open the path if it is a device, because that may have side effects.
        if is_barred(&path) {
            return Err(barred(path));
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .map_err(failed)?;
        match lock(&file) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
                return Err(LockError::Held {
                    data_root: data_root.to_owned(),
                    holder: holder(&mut file),
                });
            }
            Err(error) => return Err(failed(error)),
        }
        // Another process may have deleted the lock file after this process opened it. A
        // lock on a deleted file is useless, because no other process will ever find the
        // file.
        let locked = file.metadata().map_err(failed)?;
        match fs::symlink_metadata(&path) {
            Ok(found) if found.ino() == locked.ino() && found.dev() == locked.dev() => {}
            _ => return Self::take(data_root, lock),
        }
        // Ignore the error: a full disk must not prevent a recovery.
        let _ = introduce(&mut file);
        Ok(Self {
            file,
            data_root: data_root.to_owned(),
        })
    }

    pub fn data_root(&self) -> &Path {
        &self.data_root
    }
}

impl Drop for RootLock {
    fn drop(&mut self) {
        // Remove the text about the run that held the lock. Ignore an error: the kernel
        // releases the lock anyway when the file is closed.
        let _ = self.file.set_len(0);
    }
}

/// Describes the run that holds the lock, or that waits for the lock. Does not try to
/// take the lock, because that could disturb a run that is just beginning.
pub fn seen_at_work(data_root: &Path) -> Option<String> {
    let path = data_root.join(STATE_DIR).join(LOCK_FILE);
    let pid = user_of(&path)?;
    let text = plain_file::open(&path, Links::Refused).map(|mut file| holder(&mut file));
    let known = text.ok().filter(|text| text.starts_with("process "));
    Some(known.unwrap_or_else(|| format!("process {pid}")))
}

/// Returns an error if the path of the lock is not a plain file.
pub fn seen_barred(data_root: &Path) -> Option<LockError> {
    let path = data_root.join(STATE_DIR).join(LOCK_FILE);
    is_barred(&path).then(|| barred(path))
}

fn is_barred(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| !found.is_file())
}

fn barred(path: PathBuf) -> LockError {
    LockError::Io {
        path,
        error: PlainFileError::NotPlain.into(),
    }
}

fn introduce(file: &mut File) -> io::Result<()> {
    let since = humantime::format_rfc3339_seconds(SystemTime::now());
    file.set_len(0)?;
    write!(file, "process {}, since {since}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(HOLDER_MAX_BYTES).read_to_string(&mut text));
    match read {
        Ok(_) if !text.is_empty() => text.escape_debug().to_string(),
        _ => "the process ID of that digestfix is not known".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_seen_at_work_for_as_long_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(seen_at_work(root.path()), None);
        let lock = RootLock::acquire_now(root.path()).unwrap();
        let own = format!("process {}, since ", std::process::id());
        assert!(seen_at_work(root.path()).unwrap().starts_with(&own));
        drop(lock);
        assert_eq!(seen_at_work(root.path()), None);
        // The run that wrote this text about itself was killed.
        fs::write(root.path().join("digestfix/lock"), "process 1").unwrap();
        assert_eq!(seen_at_work(root.path()), None);
    }
}
