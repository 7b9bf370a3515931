//! Damage: what is wrong with a reference store that cannot be read, and which backup to
//! restore.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::ImageDir;
use crate::store::repositories::{FILE_NAME, MAX_BYTES, Store, StoreError};
use crate::sys::plain_file::{self, Links};

/// In the name of a backup, the text between the name of the file and the ID of the
/// transaction.
const BACKUP: &str = ".digestfix-";

/// The number of backups to check, beginning with the newest.
const MOST_BACKUPS: usize = 10;

/// The kind of damage, according to the content of the unreadable file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    Empty,
    /// The file contains only zeros: the file system allocated space, but no data reached
    /// the disk.
    Zeros,
    CutShort,
    /// The file begins with a byte-order mark, which Docker cannot parse.
    Marked,
    /// The file is not JSON, or is JSON with other content than a reference store.
    Other,
}

impl Damage {
    pub(super) fn of(bytes: &[u8], error: &StoreError) -> Self {
        match error {
            _ if bytes.is_empty() => Self::Empty,
            _ if bytes.iter().all(|byte| *byte == 0) => Self::Zeros,
            _ if bytes.starts_with(b"\xef\xbb\xbf") => Self::Marked,
            StoreError::Json(error) if error.is_eof() => Self::CutShort,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the file is empty, as after a power cut or on a full disk",
            Self::Zeros => "the file contains only zeros, as after a power cut",
            Self::CutShort => "the file is cut short",
            Self::Marked => "the file begins with a byte-order mark, which Docker cannot read",
            Self::Other => "the file is not a reference store as Docker writes it",
        })
    }
}

impl ImageDir {
    /// The newest backup that is complete and contains a reference.
    pub(crate) fn former(&self) -> Option<PathBuf> {
        let names = fs::read_dir(self.path()).ok()?.flatten();
        let is_backup = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            let rest = name.and_then(|name| name.strip_prefix(FILE_NAME));
            rest.is_some_and(|rest| rest.starts_with(BACKUP))
        };
        let mut found: Vec<(SystemTime, PathBuf)> = names
            .map(|entry| entry.path())
            .filter(is_backup)
            .filter_map(|path| Some((fs::symlink_metadata(&path).ok()?.modified().ok()?, path)))
            .collect();
        found.sort_unstable_by(|one, other| other.cmp(one));
        let mut newest = found.into_iter().take(MOST_BACKUPS).map(|(_, path)| path);
        newest.find(|path| is_whole(path))
    }

    /// The number of images. 0 if the image store cannot be read.
    pub(crate) fn image_count(&self) -> usize {
        self.image_ids().map_or(0, |ids| ids.len())
    }
}

fn is_whole(path: &Path) -> bool {
    let is_small = fs::symlink_metadata(path).is_ok_and(|file| file.len() <= MAX_BYTES);
    let store = is_small.then(|| {
        let mut bytes = Vec::new();
        let mut file = plain_file::open(path, Links::Refused).ok()?;
        std::io::Read::read_to_end(&mut file, &mut bytes).ok()?;
        Store::parse(bytes).ok()
    });
    store
        .flatten()
        .is_some_and(|store| store.references().next().is_some())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn bytes_are_told_for_what_they_are() {
        for (bytes, expected) in [
            (&b""[..], Damage::Empty),
            (b"\0\0\0", Damage::Zeros),
            (b"\xef\xbb\xbf{}", Damage::Marked),
            (b"{\"Repositories\":{\"a\":{\"a:1", Damage::CutShort),
            (b"{\"Repositories\":{},}", Damage::Other),
            (b"sha256:abc", Damage::Other),
            (b"{\"repositories\":{}}", Damage::Other),
        ] {
            let error = Store::parse(bytes).unwrap_err();
            assert_eq!(Damage::of(bytes, &error), expected, "{bytes:?}");
        }
    }

    #[test]
    fn only_a_whole_backup_is_promised() {
        let root = TempDir::new().unwrap();
        let images = ImageDir::new(root.path(), "overlay2");
        assert_eq!(images.former(), None);
        fs::create_dir_all(images.path()).unwrap();
        let name = |id: &str| images.path().join(format!("{FILE_NAME}{BACKUP}{id}"));
        fs::write(name("1"), "").unwrap();
        fs::write(name("2"), "{\"Repositories\":{}}").unwrap();
        symlink(name("2"), name("3")).unwrap();
        assert_eq!(images.former(), None);
        let id = format!("sha256:{}", "a".repeat(64));
        let whole = format!("{{\"Repositories\":{{\"a\":{{\"a:1\":\"{id}\"}}}}}}");
        fs::write(name("0"), whole).unwrap();
        assert_eq!(images.former(), Some(name("0")));
    }
}
