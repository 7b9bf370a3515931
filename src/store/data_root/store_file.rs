//! The file of a reference store: reads it, and compares it with expected content.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::damage::Damage;
use super::{ImageDir, ReadError};
use crate::store::repositories::{self, Store, StoreError};
use crate::sys::at_once::at_once;
use crate::sys::plain_file::{self, Links, PlainFileError};

/// The size in bytes of the buffer for comparing a file piece by piece.
const AT_ONCE: usize = 256 * 1024;

/// The size in bytes from which two threads read a file. Two threads are faster, because
/// most of the time goes into the kernel's setup of the memory that receives the bytes.
const LARGE: usize = 1 << 20;

/// Two changes of a file within this time may have the same timestamp. The kernel's clock
/// for timestamps advances at least every 10 ms.
const TICK: Duration = Duration::from_millis(50);

/// The same time for a file system that stores timestamps in seconds (ext4 with inodes of
/// 128 bytes) or in steps of two seconds (vfat).
const COARSE_TICK: Duration = Duration::from_secs(3);

/// The reference store at one point in time.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub store: Store,
    stamp: Stamp,
}

/// The metadata of a file, from before the file was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// Whether every later change of the file will give the file another timestamp.
    is_settled: bool,
}

impl Stamp {
    fn of(metadata: &Metadata, now: SystemTime) -> Self {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed,
            is_settled: now.is_ok_and(|now| is_past(changed, now)),
        }
    }

    fn shows_no_change(&self, metadata: &Metadata) -> bool {
        let now = Self {
            is_settled: true,
            ..Self::of(metadata, SystemTime::UNIX_EPOCH)
        };
        *self == now
    }
}

/// Whether every change from now on will get a timestamp later than the given timestamp.
/// Both arguments count from the year 1970.
fn is_past((seconds, nanos): (i64, i64), now: Duration) -> bool {
    let tick = if nanos == 0 { COARSE_TICK } else { TICK };
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u32::try_from(nanos)) else {
        return false;
    };
    Duration::new(seconds, nanos) + tick < now
}

impl ImageDir {
    pub fn read(&self) -> Result<Store, ReadError> {
        Ok(self.look()?.store)
    }

    /// Reads the reference store. Later, [`ImageDir::is_still`] can check whether the
    /// file has changed.
    pub fn look(&self) -> Result<Snapshot, ReadError> {
        let path = self.store_path();
        let (file, metadata) = self.open_store(&path)?;
        if metadata.len() > repositories::MAX_BYTES {
            let size = metadata.len();
            return Err(self.unreadable(path, b"{", StoreError::TooLarge { size }));
        }
        let stamp = Stamp::of(&metadata, SystemTime::now());
        let bytes = read(file, metadata.len()).map_err(ReadError::io(&path))?;
        match Store::parse(bytes) {
            Ok(store) => Ok(Snapshot { store, stamp }),
            Err(error) => {
                let bytes = self.read_bytes().unwrap_or_default();
                Err(self.unreadable(path, &bytes, error))
            }
        }
    }

    fn unreadable(&self, path: PathBuf, bytes: &[u8], error: StoreError) -> ReadError {
        ReadError::Content {
            path,
            damage: Damage::of(bytes, &error),
            error,
            former: self.former(),
        }
    }

    /// Reads the reference store's file without parsing it.
    pub fn read_bytes(&self) -> Result<Vec<u8>, ReadError> {
        let path = self.store_path();
        let (file, metadata) = self.open_store(&path)?;
        read(file, metadata.len()).map_err(ReadError::io(&path))
    }

    /// Whether the reference store has not changed since digestfix took the snapshot.
    pub fn is_still(&self, seen: &Snapshot) -> Result<bool, ReadError> {
        let (_, metadata) = self.open_store(&self.store_path())?;
        if seen.stamp.shows_no_change(&metadata) {
            return Ok(true);
        }
        self.is(&[seen.store.as_read()])
    }

    /// Whether the reference store's file is the concatenation of these pieces.
    pub fn is(&self, pieces: &[&[u8]]) -> Result<bool, ReadError> {
        let path = self.store_path();
        let (file, _) = self.open_store(&path)?;
        is_made_of(&file, pieces).map_err(ReadError::io(&path))
    }

    fn open_store(&self, path: &Path) -> Result<(File, Metadata), ReadError> {
        let file = match plain_file::open(path, Links::Refused) {
            Ok(file) => file,
            Err(error) if error.is_missing() => {
                return Err(ReadError::Missing {
                    path: path.to_owned(),
                    images: self.image_count(),
                    former: self.former(),
                });
            }
            Err(PlainFileError::Io(error)) => return Err(ReadError::io(path)(error)),
            Err(_) => return Err(ReadError::NotAFile(path.to_owned())),
        };
        let metadata = file.metadata().map_err(ReadError::io(path))?;
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
        Ok((file, metadata))
    }
}

/// Whether a file is the concatenation of these pieces.
pub(crate) fn is_made_of(file: &File, pieces: &[&[u8]]) -> io::Result<bool> {
    let mut buffer = vec![0; AT_ONCE];
    let mut at = 0;
    for chunk in pieces.iter().flat_map(|piece| piece.chunks(AT_ONCE)) {
        let read = &mut buffer[..chunk.len()];
        match file.read_exact_at(read, at) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            outcome => outcome?,
        }
        if read != chunk {
            return Ok(false);
        }
        at += chunk.len() as u64;
    }
    Ok(file.read_at(&mut buffer, at)? == 0)
}

/// Reads a file to its end, even if it has become longer or shorter than `size`. Stops
/// one byte after the largest allowed size, so that the caller sees that the file is too
/// large.
fn read(mut file: File, size: u64) -> io::Result<Vec<u8>> {
    let size = usize::try_from(size.min(repositories::MAX_BYTES + 1)).unwrap_or_default();
    let mut bytes = Vec::new();
    if size >= LARGE {
        bytes = vec![0; size];
        let (one, other) = bytes.split_at_mut(size / 2);
        let halfway = one.len() as u64;
        let (one, other) = at_once(
            || file.read_exact_at(one, 0),
            || file.read_exact_at(other, halfway),
        );
        match one.and(other) {
            // The file has become shorter since digestfix read its size.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => bytes.clear(),
            read => read?,
        }
        file.seek(SeekFrom::Start(bytes.len() as u64))?;
    } else {
        bytes.reserve_exact(size + 1);
    }
    let rest = repositories::MAX_BYTES + 1 - bytes.len() as u64;
    file.take(rest).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
