//! Data root: reads the directory of Docker's reference store,
//! `<data-root>/image/<driver>/`, without locking it.

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

mod damage;
mod store_file;

use damage::Damage;
pub use store_file::Snapshot;
pub(crate) use store_file::is_made_of;

/// The directory in a data root for digestfix's own files.
pub const STATE_DIR: &str = "digestfix";

/// The image directory of one storage driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDir {
    data_root: PathBuf,
    driver: String,
}

/// Whether a storage driver's name is safe as the name of a direct subdirectory.
pub fn is_driver_name(driver: &str) -> bool {
    !matches!(driver, "" | "." | "..") && !driver.contains(['/', '\0'])
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{path}: {}", missing(*.images), path = .path.display())]
    Missing {
        path: PathBuf,
        images: usize,
        former: Option<PathBuf>,
    },
    #[error("{path} is not a plain file", path = .0.display())]
    NotAFile(PathBuf),
    /// The file belongs neither to root nor to the owner of its directory.
    #[error("{path} belongs to user {uid}, who is neither root nor the owner of its directory", path = path.display())]
    Owner { path: PathBuf, uid: u32 },
    #[error("{path}: {damage} ({error})", path = path.display())]
    Content {
        path: PathBuf,
        error: StoreError,
        damage: Damage,
        former: Option<PathBuf>,
    },
    #[error("{path}: {error}", path = path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// Advice while Docker is running. Docker read the file before the file was damaged.
const WHILE_IT_RUNS: &str = "if Docker is running, make it write the file again: docker tag $(docker images -q | \
                             head -n 1) digestfix:now && docker rmi digestfix:now; if Docker is stopped: ";

/// What Docker does after a file was damaged, and how to recover the names of the images.
const NAMES_BACK: &str = "after that, the images have no names; to get the names back from an older \
                          repositories.json: digestfix apply --from OLD --tags";

fn former_or(former: Option<&Path>, path: &Path, otherwise: impl FnOnce() -> String) -> String {
    former.map_or_else(otherwise, |former| {
        format!(
            "restore the newest complete backup (cp -p {} {}), and start Docker",
            shell::path(former),
            shell::path(path)
        )
    })
}

fn missing(images: usize) -> String {
    match images {
        0 => "the reference store does not exist".to_owned(),
        1 => "the reference store is missing, but the data root has 1 image".to_owned(),
        several => {
            format!("the reference store is missing, but the data root has {several} images")
        }
    }
}

impl ReadError {
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Missing { images: 0, .. } => {
                "load an image, and Docker writes a reference store: docker load -i FILE; if Docker is stopped, it \
                 writes one when it starts: systemctl start docker.service"
                    .to_owned()
            }
            Self::Missing { path, former, .. } => {
                let otherwise = former_or(former.as_deref(), path, || {
                    format!("start Docker, which writes an empty reference store; {NAMES_BACK}")
                });
                format!("{WHILE_IT_RUNS}{otherwise}")
            }
            Self::NotAFile(path) => format!(
                "ls -l {path}; if the file is a link, replace the link by its target: cp --remove-destination \
                 \"$(readlink -f {path})\" {path}",
                path = shell::path(path)
            ),
            Self::Owner { path, .. } => format!("chown root: {}", shell::path(path)),
            Self::Content {
                path,
                damage,
                former,
                ..
            } => {
                let quoted = shell::path(path);
                let otherwise = match damage {
                    Damage::Marked => format!(
                        "remove the byte-order mark, then start Docker: sed -i \
                         '1s/^\\xEF\\xBB\\xBF//' {quoted}"
                    ),
                    _ => former_or(former.as_deref(), path, || {
                        format!(
                            "fix the file, or mv {quoted} {quoted}.broken and start Docker; \
                             {NAMES_BACK}"
                        )
                    }),
                };
                format!("{WHILE_IT_RUNS}{otherwise}")
            }
            Self::Io { path, .. } => format!(
                "look for a failing disk: ls -ld {}; dmesg | tail",
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
    /// The image directory of a storage driver. This function does not read the directory
    /// yet.
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

    /// The directory that contains the config of each image. A config's file name is the
    /// hexadecimal part of the image ID (moby `image/fs.go`, v28.5).
    pub fn configs(&self) -> PathBuf {
        self.path().join("imagedb/content/sha256")
    }

    /// The IDs of the images whose config the image store contains.
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

    /// The images that are not the parent of another image. `docker build` leaves an
    /// image for each of its steps (moby `image/fs.go`, v28.5,
    /// `metadata/sha256/ID/parent`).
    pub fn leaves(&self) -> Result<BTreeSet<ImageId>, ReadError> {
        let mut leaves = self.image_ids()?;
        let path = self.path().join("imagedb/metadata/sha256");
        let listing = match fs::read_dir(&path) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(leaves),
            Err(error) => return Err(ReadError::io(&path)(error)),
        };
        for image in listing {
            let parent = image.map_err(ReadError::io(&path))?.path().join("parent");
            let text = fs::read_to_string(&parent).unwrap_or_default();
            if let Ok(parent) = text.trim().parse::<ImageId>() {
                leaves.remove(&parent);
            }
        }
        Ok(leaves)
    }

    /// The volume database, which dockerd keeps locked while it runs.
    pub fn volume_database(&self) -> PathBuf {
        self.data_root.join("volumes/metadata.db")
    }

    /// Whether a dockerd uses this data root. Every dockerd keeps its volume database
    /// (`volumes/metadata.db`, a bolt file) locked while it runs. The name, unit or
    /// namespace of the dockerd does not matter.
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

    /// The ID of the process that uses this data root. `None` if digestfix cannot see
    /// such a process.
    pub fn user(&self) -> Option<u32> {
        user_of(&self.volume_database())
    }
}

/// The ID of a process that has this file open. `None` if digestfix cannot see such a
/// process.
pub(crate) fn user_of(path: &Path) -> Option<u32> {
    let file = fs::metadata(path).ok()?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .find(|pid| holds_open(*pid, &file))
}

/// Whether a process has a file open. Also false if digestfix has no permission to see
/// this, for example in a service with few capabilities (`ptrace(2)`, access mode
/// checking).
fn holds_open(pid: u32, sought: &fs::Metadata) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        fs::metadata(descriptor.path())
            .is_ok_and(|file| (file.dev(), file.ino()) == (sought.dev(), sought.ino()))
    })
}
