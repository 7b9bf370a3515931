//! A running Docker as files alone tell of it, without asking systemd or the
//! engine: enough to say that there is nothing to do, and for nothing else.
//!
//! Each fact is judged as [`find_managed`](crate::host::find_managed) judges it,
//! with the process in the place of its unit. What the engine would say of
//! itself, its traces say:
//!
//! - it is the dockerd of this data root: the process of the pid file has the
//!   volume database in it open;
//! - it is at work with this storage driver, not with containerd: it has made
//!   something in the driver's own directory since it began. overlay2 tries
//!   there at each start whether the kernel can do what it needs (moby
//!   `daemon/graphdriver/overlay2/overlay.go`, `Init`: seen on 20.10, 26.1 and
//!   28.5), whatever daemon.json, `DOCKER_DRIVER` or, from 29 on, earlier starts
//!   made it choose. With the containerd image store nothing is made there (seen
//!   on 26.1 and 28.5), but for a start that migrates images to it
//!   (`containerd-migration`, moby 29 `daemon/daemon.go`), so nothing of
//!   containerd may be switched on;
//! - it has read the references: they last changed before it began
//!   ([`EngineStart`]). To go by the opposite, a file that changed since, and so
//!   would be the engine's own, would take a hand edit for what the engine has.
//!
//! What is not plain is left to those who can be asked: the reasons are for the
//! log. Whether the process sees the same mounts cannot be told from within a
//! service's sandbox, which has mounts of its own; the lock and the trace are on
//! the very directories that are read here.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
};

use crate::data_root::{ImageDir, holds_open};
use crate::host::daemon::{
    config_file, finding, read_config, refuse_set_twice, running_command, unit_name,
};
use crate::host::dockerd_args::DockerdArgs;
use crate::host::engine_start::{EngineStart, PID_FILE, PROC, read_pid};
use crate::host::image_dir::Sources;
use crate::host::next_store::on;
use crate::host::settle::Finding;
use crate::host::{Flags, HostError};
use crate::journal::Journal;

/// A running Docker whose references are those of the file.
#[derive(Debug, Clone)]
pub struct Glance {
    /// Where the references are.
    pub images: ImageDir,
    /// Its unit.
    pub unit: String,
    /// Its configuration file, whether it is there or not.
    pub config_file: PathBuf,
    /// What was found where, for people.
    pub sources: Vec<Finding>,
    references: Stamp,
}

/// Why somebody has to be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unclear {
    /// What files say already speaks against working on this host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// There is no pid file.
    #[error("{} names no process", .0.display())]
    NoPid(PathBuf),
    /// It is another program's.
    #[error("process {0} is no dockerd")]
    NotDockerd(u32),
    /// It is not the unit's, or that cannot be told.
    #[error("process {pid} is not known to be that of {unit}")]
    Unit {
        /// The process.
        pid: u32,
        /// The unit that it should be of.
        unit: String,
    },
    /// The data root is `UID.GID` in another one.
    #[error("user namespaces are remapped")]
    Remapped,
    /// Images may be there.
    #[error("something of containerd is switched on")]
    Containerd,
    /// Another process may have the data root.
    #[error("process {pid} does not have {path} open", path = path.display())]
    NotItsDataRoot {
        /// The process.
        pid: u32,
        /// The volume database.
        path: PathBuf,
    },
    /// Time stamps are another machine's.
    #[error("the clock of the file system of {} may be another one", .0.display())]
    Clock(PathBuf),
    /// The start of the process is not told by two clocks.
    #[error("when process {0} began is not known")]
    Start(u32),
    /// It may be at work with another driver, or with containerd.
    #[error("the engine has made nothing in {} since it began", .0.display())]
    NoTrace(PathBuf),
    /// The engine may not have what it says.
    #[error("{} has changed since the engine began", .0.display())]
    Changed(PathBuf),
    /// A transaction is under way, or was interrupted.
    #[error("a run has not ended")]
    Unfinished,
}

/// What tells one state of a file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            changed: (file.ctime(), file.ctime_nsec()),
        }
    }
}

/// Where the kernel and dockerd tell of a process.
struct Places {
    proc: PathBuf,
    pid_file: PathBuf,
    /// Time stamps of files there are of this machine's clock.
    is_of_own_clock: fn(&Path) -> bool,
}

impl Glance {
    /// Looks at this host.
    ///
    /// # Errors
    /// [`Unclear`] when somebody has to be asked.
    pub fn new(flags: &Flags) -> Result<Self, Unclear> {
        let places = Places {
            proc: PROC.into(),
            pid_file: PID_FILE.into(),
            is_of_own_clock: |path| {
                // Those that the kernel itself stamps. Of others, a server may.
                statfs(path).is_ok_and(|found| {
                    [
                        EXT4_SUPER_MAGIC,
                        XFS_SUPER_MAGIC,
                        BTRFS_SUPER_MAGIC,
                        F2FS_SUPER_MAGIC,
                        TMPFS_MAGIC,
                    ]
                    .contains(&found.filesystem_type())
                })
            },
        };
        Self::by(flags, &places)
    }

    fn by(flags: &Flags, places: &Places) -> Result<Self, Unclear> {
        let no_pid = || Unclear::NoPid(places.pid_file.clone());
        let pid = read_pid(&places.pid_file).ok_or_else(no_pid)?;
        let command = running_command(&places.proc, pid).ok_or(Unclear::NotDockerd(pid))?;
        let args = DockerdArgs::parse(&command.arguments);
        let (unit, named_by) = unit_name(flags);
        if unit_of(&places.proc, pid).as_ref() != Some(&unit) {
            return Err(Unclear::Unit { pid, unit });
        }
        let file = config_file(flags, &args)?;
        let config = read_config(&file)?;
        let path = PathBuf::from(&file.value);
        refuse_set_twice(&args, &config, &path, &unit)?;
        let remap = [&args.userns_remap, &config.userns_remap];
        if remap.into_iter().flatten().any(|user| !user.is_empty()) {
            return Err(Unclear::Remapped);
        }
        if !on(&args, &config).is_empty() {
            return Err(Unclear::Containerd);
        }
        let sources = Sources {
            flags,
            engine: None,
            args: &args,
            config: &config,
        };
        let (images, mut sources) = sources.image_dir()?;
        sources.extend([finding("unit", &unit, named_by), file]);
        if !has_data_root(places, pid, &images) {
            let path = images.volume_database();
            return Err(Unclear::NotItsDataRoot { pid, path });
        }
        let references = look_at_references(places, pid, &images)?;
        if !matches!(Journal::read(images.data_root()), Ok(None)) {
            return Err(Unclear::Unfinished);
        }
        Ok(Self {
            images,
            unit,
            config_file: path,
            sources,
            references,
        })
    }

    /// The references are what they were, so whoever read them since has read
    /// what the engine has.
    #[must_use]
    pub fn still_holds(&self) -> bool {
        let file = fs::symlink_metadata(self.images.store_path());
        file.is_ok_and(|file| Stamp::from(&file) == self.references)
    }
}

/// The references' file as it was before the engine began.
fn look_at_references(places: &Places, pid: u32, images: &ImageDir) -> Result<Stamp, Unclear> {
    let path = images.store_path();
    let driver = images.data_root().join(images.driver());
    for path in [&driver, &images.path()] {
        if !(places.is_of_own_clock)(path) {
            return Err(Unclear::Clock(path.clone()));
        }
    }
    let start = EngineStart::of(&places.proc, pid, &places.pid_file)
        .filter(EngineStart::is_told_by_two_clocks)
        .ok_or(Unclear::Start(pid))?;
    let has_trace =
        fs::metadata(&driver).is_ok_and(|directory| start.comes_before_write_to(&directory));
    let is_in_use = fs::read_dir(&driver).is_ok_and(|mut layers| layers.next().is_some());
    if !has_trace || !is_in_use {
        return Err(Unclear::NoTrace(driver));
    }
    match fs::symlink_metadata(&path) {
        Ok(file) if start.comes_after_change_of(&file) => Ok(Stamp::from(&file)),
        _ => Err(Unclear::Changed(path)),
    }
}

/// The unit of a process, as its control group is named after it.
fn unit_of(proc: &Path, pid: u32) -> Option<String> {
    let groups = fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).ok()?;
    let services: BTreeSet<&str> = groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            // Of version 1, systemd has a hierarchy of its own.
            let is_of_systemd = matches!(controllers, "" | "name=systemd");
            path.rsplit('/')
                .next()
                .filter(|name| is_of_systemd && name.ends_with(".service"))
        })
        .collect();
    match services.len() {
        1 => services.first().map(|name| (*name).to_owned()),
        _ => None,
    }
}

/// The process is the dockerd of this data root: it has the volume database
/// open. Where that is hidden, somebody has it locked, and by flags and files it
/// is this one. (`/proc/locks` would tell who; to read it makes the kernel wait
/// for all its processors, for 20 ms and more.)
fn has_data_root(places: &Places, pid: u32, images: &ImageDir) -> bool {
    let database = fs::metadata(images.volume_database());
    database.is_ok_and(|database| {
        holds_open(&places.proc, pid, &database)
            .unwrap_or_else(|| images.is_in_use().unwrap_or_default())
    })
}

#[cfg(test)]
mod tests;
