//! Reserve: disk space that digestfix holds while Docker is stopped, and frees right
//! before it starts Docker. Without the reserve, other programs could fill the disk while
//! Docker is stopped, and Docker would not start.
//!
//! When Docker starts, it writes to one or more file systems. On each of them, a reserve
//! has one directory with named files. Named files outlive digestfix. If digestfix were
//! killed, the kernel would free unnamed files at once, and another process could fill
//! the disk before the watchdog starts Docker. Only the process that holds the data
//! root's lock creates or removes these files: the run itself, or later the watchdog or a
//! recovery.
//!
//! A reserve has two parts. Before it starts Docker on the changed reference store,
//! digestfix frees the first part. Undo and the watchdog free both parts before they
//! start Docker. So even if another process has taken the space of the first part, there
//! is still room for a second start.
//!
//! Each part consists of several files, so that it reserves inodes as well as blocks.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};

use crate::store::data_root::STATE_DIR;

const NAME: &str = ".digestfix-reserve";

/// The number of bytes that a start of Docker writes to its data root, without those for
/// containers. On ext4 with 31 containers, Docker 20.10.24, 26.1 and 28.5 started
/// completely with 128 KiB free. With 64 KiB free, these versions started but listed only
/// 14 to 20 of the 31 containers. With 16 KiB free, Docker did not start. The reserved
/// size is much larger, and also covers digestfix's own small files.
const START: u64 = 4 * MIB;

/// The number of bytes that a start of Docker writes for each container. Docker writes
/// two new files for each container beside the old ones, and does so for all containers
/// at the same time. Docker 26.1 took 254 KB and 62 inodes for 31 containers, which is 8
/// KiB and 2 inodes for each. The reserved size is larger, because a container may have a
/// long configuration.
const PER_CONTAINER: u64 = 32 * KIB;

const FILES_PER_CONTAINER: u64 = 2;

/// The maximum number of containers for which a reserve holds inodes. dockerd restores
/// only a limited number of containers at a time.
const CONTAINERS_AT_ONCE: u64 = 1024;

/// The number of bytes that a start of Docker needs on each file system other than the
/// data root's. There, a start writes sockets, PID files, containerd's metadata and
/// daemon.json.
const ELSEWHERE: u64 = MIB;

/// The number of files in one part of a reserve, without those for containers. Each file
/// takes an inode.
const FILES: u64 = 32;

/// The two parts of a reserve. The first is for the start of Docker on the changed store,
/// and the second is for another start if the first start fails.
const PARTS: [&str; 2] = ["1", "2"];

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The free space that the reserve needs on the file system of one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub path: PathBuf,
    pub bytes: u64,
    pub inodes: u64,
}

/// The space that Docker needs to start, on the file systems of the data root and of the
/// other directories. Skips directories that do not exist. Lists each file system once.
pub fn needs(data_root: &Path, others: &[PathBuf]) -> Vec<Need> {
    let own = (
        data_root,
        needed_by_a_start(data_root),
        files(data_root),
        data_root.join(STATE_DIR),
    );
    let others = others
        .iter()
        .map(|path| (path.as_path(), ELSEWHERE, FILES, path.clone()));
    let mut devices = Vec::new();
    let mut needs = Vec::new();
    for (directory, bytes, files, path) in [own].into_iter().chain(others) {
        let device = match fs::metadata(directory) {
            Ok(found) if found.is_dir() => found.dev(),
            _ => continue,
        };
        if devices.contains(&device) {
            continue;
        }
        devices.push(device);
        let parts = PARTS.len() as u64;
        needs.push(Need {
            path,
            bytes: bytes.saturating_mul(parts),
            // The inodes of the files, of a directory for each part, and of the directory
            // that contains the parts.
            inodes: (files + 1) * parts + 1,
        });
    }
    needs
}

/// The bytes that one start of Docker needs on the file system of its data root.
fn needed_by_a_start(data_root: &Path) -> u64 {
    START.saturating_add(PER_CONTAINER.saturating_mul(containers(data_root)))
}

fn containers(data_root: &Path) -> u64 {
    let found = fs::read_dir(data_root.join("containers"));
    u64::try_from(found.map_or(0, Iterator::count)).unwrap_or(u64::MAX)
}

fn files(data_root: &Path) -> u64 {
    FILES + FILES_PER_CONTAINER * containers(data_root).min(CONTAINERS_AT_ONCE)
}

#[derive(Debug, thiserror::Error)]
#[error(
    "digestfix could not reserve {needed} MiB and {inodes} inodes on the file system of {path} for the start \
     of Docker: {error}",
    path = need.path.display(),
    needed = need.bytes.div_ceil(MIB),
    inodes = need.inodes,
)]
pub struct ReserveError {
    pub need: Need,
    error: io::Error,
}

/// Disk space that digestfix holds until this value is freed or dropped. If digestfix is
/// killed, [`sweep`] frees the space later.
#[derive(Debug, Default)]
pub struct Reserve {
    directories: Vec<PathBuf>,
}

impl Reserve {
    /// Holds space for starts of Docker on the file systems of the data root and of the
    /// other directories. Skips directories that do not exist. If this fails, holds
    /// nothing.
    pub fn hold(data_root: &Path, others: &[PathBuf]) -> Result<Self, ReserveError> {
        let mut reserve = Self::default();
        for need in needs(data_root, others) {
            let directory = need.path.join(NAME);
            reserve.directories.push(directory.clone());
            fill(&directory, &need).map_err(|error| ReserveError { need, error })?;
        }
        Ok(reserve)
    }

    /// Frees the part of the reserve that is for the start of Docker on the changed
    /// store.
    pub fn free_first(&self) {
        for directory in &self.directories {
            // Ignore the error, because the start may succeed without this space.
            let _ = fs::remove_dir_all(directory.join(PARTS[0]));
        }
    }

    /// Frees both parts. If a directory cannot be removed, the next call tries again.
    pub fn free(&mut self) {
        self.directories
            .retain(|directory| remove(directory).is_err());
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.free();
    }
}

/// Frees the disk space that a killed run held.
pub fn sweep(data_root: &Path, others: &[PathBuf]) {
    let own = data_root.join(STATE_DIR);
    for directory in [&own].into_iter().chain(others) {
        let _ = remove(&directory.join(NAME));
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn fill(directory: &Path, need: &Need) -> io::Result<()> {
    remove(directory)?;
    let builder = || {
        let mut builder = DirBuilder::new();
        builder.mode(0o700);
        builder
    };
    builder().create(directory)?;
    let parts = PARTS.len() as u64;
    let files = (need.inodes - 1) / parts - 1;
    let each = need.bytes.div_ceil(parts * files);
    for part in PARTS {
        let part = directory.join(part);
        builder().create(&part)?;
        for number in 0..files {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(part.join(number.to_string()))?;
            take(&file, each)?;
        }
    }
    Ok(())
}

/// Allocates this many bytes on the file system.
fn take(file: &File, bytes: u64) -> io::Result<()> {
    let length = i64::try_from(bytes).unwrap_or(i64::MAX);
    // Skip `fallocate` on ZFS, which accepts the call but reserves nothing. Other file
    // systems may not support the call.
    if allocates(fstatfs(file)?.filesystem_type()) {
        match fallocate(file, FallocateFlags::empty(), 0, length) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {}
            allocated => return Ok(allocated?),
        }
    }
    write(file, bytes)
}

fn allocates(kind: FsType) -> bool {
    [
        EXT4_SUPER_MAGIC,
        XFS_SUPER_MAGIC,
        BTRFS_SUPER_MAGIC,
        TMPFS_MAGIC,
    ]
    .contains(&kind)
}

/// Writes bytes that a compressing file system cannot shrink.
fn write(mut file: &File, bytes: u64) -> io::Result<()> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut left = bytes;
    while left > 0 {
        // Marsaglia's xorshift.
        let block: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_ne_bytes()
        })
        .take(8 * 1024)
        .flatten()
        .collect();
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        file.write_all(&block[..length])?;
        left -= length as u64;
    }
    file.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn data_root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join(STATE_DIR)).unwrap();
        root
    }

    fn blocks(directory: &Path) -> u64 {
        let entries = fs::read_dir(directory).into_iter().flatten();
        entries
            .map(|entry| {
                let (path, found) = entry
                    .map(|entry| (entry.path(), entry.metadata().unwrap()))
                    .unwrap();
                match found.is_dir() {
                    true => blocks(&path),
                    false => found.blocks() * 512,
                }
            })
            .sum()
    }

    fn held(data_root: &Path) -> u64 {
        needs(data_root, &[])[0].bytes
    }

    #[test]
    fn it_holds_blocks_in_two_parts_until_it_goes() {
        let root = data_root();
        let directory = root.path().join(STATE_DIR).join(NAME);
        let mut reserve = Reserve::hold(root.path(), &[root.path().to_owned()]).unwrap();
        assert!(blocks(&directory) >= held(root.path()));
        assert!(
            !root.path().join(NAME).exists(),
            "a file system has only one reserve"
        );
        reserve.free_first();
        let left = blocks(&directory);
        assert!(left >= needed_by_a_start(root.path()) && left < held(root.path()));
        reserve.free();
        assert!(!directory.exists());
        drop(Reserve::hold(root.path(), &[]).unwrap());
        assert!(!directory.exists());
    }

    #[test]
    fn what_a_killed_run_held_is_swept_and_held_anew() {
        let root = data_root();
        let directory = root.path().join(STATE_DIR).join(NAME);
        for _ in 0..2 {
            std::mem::forget(Reserve::hold(root.path(), &[]).unwrap());
        }
        assert!(directory.exists());
        sweep(root.path(), &[]);
        assert!(!directory.exists());
    }

    #[test]
    fn what_does_not_go_at_once_is_tried_again() {
        let root = data_root();
        let mut reserve = Reserve::hold(root.path(), &[]).unwrap();
        let directory = root.path().join(STATE_DIR).join(NAME);
        let aside = root.path().join("aside");
        fs::rename(&directory, &aside).unwrap();
        fs::write(&directory, "what no directory is").unwrap();
        reserve.free();
        fs::remove_file(&directory).unwrap();
        fs::rename(&aside, &directory).unwrap();
        drop(reserve);
        assert!(!directory.exists());
    }

    #[test]
    fn what_cannot_be_allocated_is_written() {
        let root = data_root();
        let path = root.path().join("file");
        let bytes = 100_000;
        write(&File::create(&path).unwrap(), bytes).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert!(found.len() == bytes && found.blocks() * 512 >= bytes);
    }

    #[test]
    fn more_containers_need_more() {
        let root = data_root();
        let without = needed_by_a_start(root.path());
        fs::create_dir_all(root.path().join("containers/one")).unwrap();
        assert_eq!(needed_by_a_start(root.path()), without + PER_CONTAINER);
        assert_eq!(files(root.path()), FILES + FILES_PER_CONTAINER);
    }
}
