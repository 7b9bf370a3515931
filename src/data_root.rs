//! The part of a data root that references live in:
//! `<data-root>/image/<driver>/`, as it can be read without a lock.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fs2::FileExt;
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::digest::ImageId;
use crate::store::{self, Store, StoreError};

/// How much of a file is read at once where it need not be kept, in bytes.
const AT_ONCE: usize = 256 * 1024;

/// One storage driver's image directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDir {
    data_root: PathBuf,
    driver: String,
}

/// The reference store could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is none.
    #[error("{path}: there is no reference store here (start Docker once, and it writes one)", path = .0.display())]
    Missing(PathBuf),
    /// Something else than a plain file has its name.
    #[error("{path}: not a plain file", path = .0.display())]
    NotAFile(PathBuf),
    /// A user owns the file who is neither root nor the directory's owner.
    #[error("{path}: belongs to user {uid}, who is neither root nor the owner of its directory", path = path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The file is not a reference store.
    #[error("{path}: {error}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: StoreError,
    },
    /// The system refused.
    #[error("{path}: {error}", path = path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
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
    #[must_use]
    pub fn new(data_root: &Path, driver: &str) -> Self {
        Self {
            data_root: data_root.to_owned(),
            driver: driver.to_owned(),
        }
    }

    /// The data root.
    #[must_use]
    pub fn data_root(&self) -> &Path {
        &self.data_root
    }

    /// The storage driver.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.data_root.join("image").join(&self.driver)
    }

    /// The reference store's file.
    #[must_use]
    pub fn store_path(&self) -> PathBuf {
        self.path().join(store::FILE_NAME)
    }

    /// Reads the reference store.
    ///
    /// # Errors
    /// [`ReadError`] when there is none, or it is not what it should be.
    pub fn read(&self) -> Result<Store, ReadError> {
        self.parse(self.read_bytes()?)
    }

    /// What bytes of the reference store's file say.
    ///
    /// # Errors
    /// [`ReadError::Content`] when they are no reference store.
    fn parse(&self, bytes: Vec<u8>) -> Result<Store, ReadError> {
        Store::parse(bytes).map_err(|error| ReadError::Content {
            path: self.store_path(),
            error,
        })
    }

    /// Reads the reference store's file without looking into it.
    ///
    /// # Errors
    /// [`ReadError`] when there is none, or it is no plain file.
    pub fn read_bytes(&self) -> Result<Vec<u8>, ReadError> {
        let path = self.store_path();
        let (file, size) = self.open_store(&path)?;
        // One byte more, so that its end is found without more room.
        let size = usize::try_from(size.min(store::MAX_BYTES)).unwrap_or_default();
        let mut bytes = Vec::with_capacity(size + 1);
        file.take(store::MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .map_err(ReadError::io(&path))?;
        Ok(bytes)
    }

    /// Says whether the reference store's file has these bytes, piece by
    /// piece.
    ///
    /// # Errors
    /// [`ReadError`] when there is none, or it is no plain file.
    pub fn is(&self, pieces: &[&[u8]]) -> Result<bool, ReadError> {
        let path = self.store_path();
        let (mut file, size) = self.open_store(&path)?;
        let wanted: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        if size != wanted {
            return Ok(false);
        }
        let mut buffer = vec![0; AT_ONCE];
        for chunk in pieces.iter().flat_map(|piece| piece.chunks(AT_ONCE)) {
            let read = &mut buffer[..chunk.len()];
            match file.read_exact(read) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                outcome => outcome.map_err(ReadError::io(&path))?,
            }
            if read != chunk {
                return Ok(false);
            }
        }
        // It may have grown since.
        let more = file.read(&mut buffer).map_err(ReadError::io(&path))?;
        Ok(more == 0)
    }

    fn open_store(&self, path: &Path) -> Result<(File, u64), ReadError> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ReadError::Missing(path.to_owned()));
            }
            Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
                return Err(ReadError::NotAFile(path.to_owned()));
            }
            Err(error) => return Err(ReadError::io(path)(error)),
        };
        let metadata = file.metadata().map_err(ReadError::io(path))?;
        if !metadata.is_file() {
            return Err(ReadError::NotAFile(path.to_owned()));
        }
        let directory = self.path();
        let directory_owner = fs::metadata(&directory)
            .map_err(ReadError::io(&directory))?
            .uid();
        if metadata.uid() != 0 && metadata.uid() != directory_owner {
            return Err(ReadError::Owner {
                path: path.to_owned(),
                uid: metadata.uid(),
            });
        }
        Ok((file, metadata.len()))
    }

    /// Where the image store has the config of each image, by the digits of
    /// its ID (moby `image/fs.go`, v28.5).
    #[must_use]
    pub fn configs(&self) -> PathBuf {
        self.path().join("imagedb/content/sha256")
    }

    /// The IDs of the images whose config the image store has.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
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

    /// Says whether a dockerd has this data root open: it keeps its volume
    /// database (`volumes/metadata.db`, a bolt file) locked for as long as it
    /// lives, whatever its name, unit or namespace.
    ///
    /// # Errors
    /// When the database is there and cannot be looked at.
    pub fn is_in_use(&self) -> Result<bool, ReadError> {
        let path = self.data_root.join("volumes/metadata.db");
        let database = match File::open(&path) {
            Ok(database) => database,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(ReadError::io(&path)(error)),
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
    #[must_use]
    pub fn user(&self) -> Option<u32> {
        user_of(&self.data_root.join("volumes/metadata.db"))
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

fn holds_open(pid: u32, sought: &fs::Metadata) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    descriptors.flatten().any(|descriptor| {
        fs::metadata(descriptor.path())
            .is_ok_and(|file| file.dev() == sought.dev() && file.ino() == sought.ino())
    })
}
