//! Start block: keeps docker.service down while digestfix changes the reference store,
//! even if a socket's client, another unit's `Upholds=` or a person requests a start.
//!
//! A runtime drop-in adds `AssertPathExists=!/proc/PID/fd/N` to the unit, where N is a
//! descriptor of this process (`systemd.unit(5)`: a failed assert fails the start job and
//! leaves the unit as it is). The path exists as long as the descriptor is open. So the
//! block ends as soon as the descriptor is closed or this process dies. After that, a
//! drop-in that is left behind cannot prevent Docker from starting.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::io::fcntl_dupfd_cloexec;

use crate::sys::directory;
use crate::sys::plain_file::{self, Links};
use crate::systemd::{ServiceManager, SystemdError, Unit};

pub const DROP_IN: &str = "zz-digestfix-start-block.conf";

/// The maximum number of bytes that digestfix reads from a drop-in.
const MAX_DROP_IN: u64 = 64 * 1024;

/// The lowest number for the descriptor in the start block. Few processes have this many
/// descriptors. So if another process later gets the same process ID, the `/proc` path
/// hardly ever exists again.
const FIRST_DESCRIPTOR: i32 = 200;

#[derive(Debug, thiserror::Error)]
pub enum StartBlockError {
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Systemd(#[from] SystemdError),
    /// systemd knows this process by another ID, because the process runs in its own PID
    /// namespace. So systemd would check the `/proc` path of another process.
    #[error(
        "systemd sees digestfix as process {seen}, but digestfix sees itself as process {own}: run digestfix on \
         the host, not in a container"
    )]
    OtherPidNamespace {
        /// The ID of this process that D-Bus reports.
        seen: u32,
        /// The ID of this process in its own namespace.
        own: u32,
    },
    #[error(
        "{unit} has changed on disk since systemd read it ({changed}), so Docker would start with other \
         settings. Look at the change (systemctl cat {unit}) before you try again"
    )]
    UnitChanged { unit: String, changed: String },
    #[error("systemd ignores {path}", path = .0.display())]
    NotHeeded(PathBuf),
}

/// The start block of one unit.
#[derive(Debug)]
pub struct StartBlock {
    unit: String,
    drop_in: PathBuf,
    number: i32,
    descriptor: Option<OwnedFd>,
}

impl StartBlock {
    /// Writes the drop-in and makes systemd load it, so that the unit cannot start any
    /// more. If this fails, leaves nothing behind.
    pub async fn place(
        manager: &impl ServiceManager,
        runtime_units: &Path,
        unit: &Unit,
    ) -> Result<Self, StartBlockError> {
        let (seen, own) = (manager.own_pid().await?, std::process::id());
        if seen != own {
            return Err(StartBlockError::OtherPidNamespace { seen, own });
        }
        let drop_in = runtime_units.join(format!("{}.d", unit.id)).join(DROP_IN);
        let failed = |error| StartBlockError::Io {
            path: drop_in.clone(),
            error,
        };
        let descriptor = descriptor(FIRST_DESCRIPTOR).map_err(failed)?;
        let hold = Self {
            unit: unit.id.clone(),
            number: descriptor.as_raw_fd(),
            descriptor: Some(descriptor),
            drop_in: drop_in.clone(),
        };
        let placed = match hold.write() {
            Ok(()) => hold.load(manager, unit).await,
            Err(error) => Err(failed(error)),
        };
        match placed {
            Ok(()) => Ok(hold),
            Err(error) => {
                // Ignore a second error, and report the first one.
                let _ = hold.remove(manager).await;
                Err(error)
            }
        }
    }

    /// Removes the drop-in of a killed run. If that fails, the drop-in has no effect
    /// anyway, because its descriptor is closed.
    pub async fn sweep(
        manager: &impl ServiceManager,
        runtime_units: &Path,
        unit: &str,
    ) -> Result<(), StartBlockError> {
        let drop_in = runtime_units.join(format!("{unit}.d")).join(DROP_IN);
        // Ask systemd too: it may still have the drop-in loaded although the file is
        // gone.
        let loaded = manager.unit(unit).await?.drop_in_paths;
        if !drop_in.exists() && !loaded.iter().any(|path| drop_in == Path::new(path)) {
            return Ok(());
        }
        take_away(&drop_in)?;
        Ok(manager.reload().await?)
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.number)
    }

    fn write(&self) -> io::Result<()> {
        if let Some(directory) = self.drop_in.parent() {
            directory::make(directory)?;
        }
        // A killed run may have left a drop-in.
        directory::remove(&self.drop_in)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&self.drop_in)?;
        writeln!(
            file,
            "# Written by digestfix, which removes this file at the end of the run. The file has no effect\n\
             # after the digestfix process has ended.\n\
             [Unit]\nAssertPathExists=!{}",
            self.path()
        )
    }

    async fn load(
        &self,
        manager: &impl ServiceManager,
        before: &Unit,
    ) -> Result<(), StartBlockError> {
        manager.reload().await?;
        let unit = manager.unit(&self.unit).await?;
        // Versions of systemd before v255 do not always report drop-ins that they have
        // not read yet (NeedDaemonReload). The reload has made systemd read all drop-ins,
        // so check that no drop-in except digestfix's own is new or gone.
        let own = self.drop_in.to_string_lossy();
        let others = |unit: &Unit| -> BTreeSet<String> {
            let paths = unit.drop_in_paths.iter();
            paths.filter(|path| **path != own).cloned().collect()
        };
        let changed: Vec<String> = others(before)
            .symmetric_difference(&others(&unit))
            .cloned()
            .collect();
        if !changed.is_empty() {
            return Err(StartBlockError::UnitChanged {
                unit: unit.id,
                changed: changed.join(", "),
            });
        }
        if unit.asserted_paths.contains(&self.path()) {
            Ok(())
        } else {
            Err(StartBlockError::NotHeeded(self.drop_in.clone()))
        }
    }

    /// Allows the unit to start again, immediately and without a request to systemd.
    pub fn release(&mut self) {
        self.descriptor = None;
    }

    /// Blocks the unit again after [`StartBlock::release`].
    pub fn renew(&mut self) -> Result<(), StartBlockError> {
        let failed = |error| StartBlockError::Io {
            path: self.drop_in.clone(),
            error,
        };
        if self.descriptor.is_none() {
            let descriptor = descriptor(self.number).map_err(failed)?;
            if descriptor.as_raw_fd() != self.number {
                return Err(failed(io::Error::from(io::ErrorKind::AlreadyExists)));
            }
            self.descriptor = Some(descriptor);
        }
        Ok(())
    }

    /// Removes the drop-in. If that fails, the drop-in has no effect anyway, because its
    /// descriptor is closed.
    pub async fn remove(mut self, manager: &impl ServiceManager) -> Result<(), StartBlockError> {
        self.release();
        take_away(&self.drop_in)?;
        Ok(manager.reload().await?)
    }
}

/// The drop-in on disk, and whether it blocks the unit.
pub fn seen(runtime_units: &Path, unit: &str) -> Option<(PathBuf, bool)> {
    let drop_in = runtime_units.join(format!("{unit}.d")).join(DROP_IN);
    let bytes = plain_file::read(&drop_in, Links::Followed, MAX_DROP_IN).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let held = text
        .lines()
        .filter_map(|line| line.strip_prefix("AssertPathExists=!"))
        .any(|path| Path::new(path).exists());
    Some((drop_in, held))
}

fn take_away(drop_in: &Path) -> Result<(), StartBlockError> {
    directory::remove(drop_in).map_err(|error| StartBlockError::Io {
        path: drop_in.to_owned(),
        error,
    })?;
    if let Some(directory) = drop_in.parent() {
        // Ignore the error: the directory may contain other drop-ins.
        let _ = fs::remove_dir(directory);
    }
    Ok(())
}

/// Returns a descriptor with the lowest free number that is at least `first`.
fn descriptor(first: i32) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(File::open("/dev/null")?, first)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::sys::directory::tests::{modes, with_umask_of_0};
    use crate::testing::scratch;

    #[test]
    fn with_a_umask_of_0_only_root_may_write_the_drop_in() {
        with_umask_of_0(
            "transaction::restart::start_block::tests::with_a_umask_of_0_only_root_may_write_the_drop_in",
            || {
                let root = scratch();
                let hold = StartBlock {
                    unit: "docker.service".to_owned(),
                    drop_in: root.path().join("system/docker.service.d").join(DROP_IN),
                    number: FIRST_DESCRIPTOR,
                    descriptor: None,
                };
                hold.write().unwrap();
                assert_eq!(modes(root.path()), [0o755, 0o755, 0o644]);
            },
        );
    }
}
