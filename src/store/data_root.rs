//! The part of a data root that references live in:
//! `<data-root>/image/<driver>/`, as it can be read without a lock.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs2::FileExt;

use crate::image::digest::ImageId;
use crate::store::repositories::{self, StoreError};
use crate::sys::plain_file::{self, Links};
use crate::sys::shell;

mod store_file;

pub use store_file::Snapshot;
pub(crate) use store_file::is_made_of;

/// The directory in a data root that digestfix keeps its own files in.
pub const STATE_DIR: &str = "digestfix";

/// One storage driver's image directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDir {
    data_root: PathBuf,
    driver: String,
}

/// A storage driver's name becomes a directory's, and leads nowhere else.
pub fn is_driver_name(driver: &str) -> bool {
    !matches!(driver, "" | "." | "..") && !driver.contains(['/', '\0'])
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{path}: there is no reference store here", path = .0.display())]
    Missing(PathBuf),
    #[error("{path}: not a plain file", path = .0.display())]
    NotAFile(PathBuf),
    /// A user owns the file who is neither root nor the directory's owner.
    #[error("{path}: belongs to user {uid}, who is neither root nor the owner of its directory", path = path.display())]
    Owner { path: PathBuf, uid: u32 },
    #[error("{path}: {error}", path = path.display())]
    Content { path: PathBuf, error: StoreError },
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
}

impl ReadError {
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Missing(_) => {
                "start Docker once, and it writes one: systemctl start docker.service".to_owned()
            }
            Self::NotAFile(path) => format!(
                "ls -l {path}; if it is a link, put what it leads to in its place: cp --remove-destination \"$(readlink -f \
                 {path})\" {path}",
                path = shell::path(path)
            ),
            Self::Owner { path, .. } => format!("chown root: {}", shell::path(path)),
            Self::Content { path, .. } => format!(
                "ls -lt {path}.digestfix-*; a former one of them is whole. Docker does not start with this \
                 one: stop it, cp -p FORMER {path}, start it",
                path = shell::path(path)
            ),
            Self::Io { path, .. } => format!(
                "ls -ld {}; dmesg | tail (a disk that fails)",
                shell::path(path)
            ),
        })
    }
}

impl ReadError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self::Io {
            path: path.to_owned(),
            error,
        }
    }
}

impl ImageDir {
    /// The image directory of a driver; nothing is looked at yet.
    pub fn new(data_root: &Path, driver: &str) -> Self {
        Self {
            data_root: data_root.to_owned(),
            driver: driver.to_owned(),
        }
    }

    pub fn data_root(&self) -> &Path {
        &self.data_root
    }

    pub fn driver(&self) -> &str {
        &self.driver
    }

    pub fn path(&self) -> PathBuf {
        self.data_root.join("image").join(&self.driver)
    }

    pub fn store_path(&self) -> PathBuf {
        self.path().join(repositories::FILE_NAME)
    }

    /// Where the image store has the config of each image, by the digits of
    /// its ID (moby `image/fs.go`, v28.5).
    pub fn configs(&self) -> PathBuf {
        self.path().join("imagedb/content/sha256")
    }

    /// The IDs of the images whose config the image store has.
    pub fn image_ids(&self) -> Result<BTreeSet<ImageId>, ReadError> {
        let path = self.configs();
        let listing = match fs::read_dir(&path) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(ReadError::io(&path)(error)),
        };
        let mut ids = BTreeSet::new();
        for file in listing {
            let name = file.map_err(ReadError::io(&path))?.file_name();
            ids.extend(
                name.to_str()
                    .and_then(|hex| format!("sha256:{hex}").parse().ok()),
            );
        }
        Ok(ids)
    }

    /// The volume database, which a dockerd keeps locked for as long as it lives.
    pub fn volume_database(&self) -> PathBuf {
        self.data_root.join("volumes/metadata.db")
    }

    /// Says whether a dockerd has this data root open. A dockerd with any name, unit or
    /// namespace keeps its volume database (`volumes/metadata.db`, a bolt file) locked
    /// for as long as it lives.
    pub fn is_in_use(&self) -> Result<bool, ReadError> {
        let path = self.volume_database();
        let database = match plain_file::open(&path, Links::Followed) {
            Ok(database) => database,
            Err(error) if error.is_missing() => return Ok(false),
            Err(error) => return Err(ReadError::io(&path)(error.into())),
        };
        match FileExt::try_lock_shared(&database) {
            Ok(()) => Ok(false),
            Err(error) if error.raw_os_error() == fs2::lock_contended_error().raw_os_error() => {
                Ok(true)
            }
            Err(error) => Err(ReadError::io(&path)(error)),
        }
    }

    /// The process that has this data root open, where that can be seen.
    pub fn user(&self) -> Option<u32> {
        user_of(&self.volume_database())
    }
}

/// A process that has a file open, where that can be seen.
pub(crate) fn user_of(path: &Path) -> Option<u32> {
    let file = fs::metadata(path).ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .find(|pid| holds_open(*pid, &file))
}

/// Says whether a process can be seen to have a file open. From a service with
/// few capabilities it cannot (`ptrace(2)`, access mode checking).
fn holds_open(pid: u32, sought: &fs::Metadata) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        fs::metadata(descriptor.path())
            .is_ok_and(|file| (file.dev(), file.ino()) == (sought.dev(), sought.ino()))
    })
}
