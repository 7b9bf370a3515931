//! Disk: whether a run could write its files. Checks permissions, space and inodes in
//! each place, without writing anything.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use crate::doctor::{Check, Finding};
use crate::sys::shell;
use crate::transaction::reserve::Need;

/// The size of a run's small files in bytes: journal, record, marker, drop-in.
const SMALL_FILES: u64 = 1024 * 1024;

/// The maximum number of files that a run creates on one file system at a time.
const FILES: u64 = 16;

const MIB: u64 = 1024 * 1024;

/// A place to which a run writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, or its nearest existing parent directory.
    pub path: PathBuf,
    /// Why a run cannot write to the place: read-only, immutable, no permission. `None`
    /// if a run can write to it.
    pub refused: Option<String>,
    pub free: u64,
    /// The number of free inodes. `None` if the file system creates inodes as needed.
    pub free_inodes: Option<u64>,
    pub needed: Need,
}

/// The space that a run needs: for the new store, for the backup, for a third store that
/// undo may write, and for the small files. `store` is the size of the present store.
/// Does not include the reserve.
pub fn beside(path: &Path, store: u64) -> Need {
    let small = small_files(path);
    Need {
        bytes: store.saturating_mul(3).saturating_add(small.bytes),
        ..small
    }
}

pub fn small_files(path: &Path) -> Need {
    Need {
        path: path.to_owned(),
        bytes: SMALL_FILES,
        inodes: FILES,
    }
}

/// Checks a file or directory. If it does not exist, checks its nearest existing parent
/// directory.
pub fn look(needed: &Need) -> io::Result<Place> {
    let there = needed.path.ancestors().find(|path| path.exists());
    let path = there.unwrap_or(Path::new("/")).to_owned();
    let refused = access(&path, AccessFlags::W_OK).err();
    let volume = statvfs(&path)?;
    Ok(Place {
        refused: refused.map(|error| io::Error::from(error).to_string()),
        free: volume.blocks_free() * volume.fragment_size(),
        free_inodes: (volume.files() > 0).then(|| volume.files_free()),
        needed: needed.clone(),
        path,
    })
}

pub fn judge(places: &[Place]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = places.iter().filter_map(lack).collect();
    if findings.is_empty() {
        let tightest = places.iter().min_by_key(|place| place.free);
        findings.extend(tightest.map(|place| {
            Finding::ok(
                Check::Disk,
                format!(
                    "writable, at least {} MiB free ({})",
                    place.free / MIB,
                    place.path.display()
                ),
            )
        }));
    }
    findings
}

fn lack(place: &Place) -> Option<Finding> {
    let (path, word) = (place.path.display(), shell::path(&place.path));
    if let Some(refused) = &place.refused {
        return Some(Finding::problem(
            Check::Disk,
            format!("{path} cannot be written: {refused}"),
            format!(
                "find out why: findmnt -T {word}; lsattr -d {word} (if lsattr shows an i: chattr \
                 -i {word}); dmesg | tail (a failing disk becomes read-only). If the file system \
                 is only mounted read-only: mount -o remount,rw \"$(findmnt -n -o TARGET -T \
                 {word})\""
            ),
        ));
    }
    if place.free < place.needed.bytes {
        return Some(Finding::problem(
            Check::Disk,
            format!(
                "{path} has {} KiB free, but {} KiB are needed",
                place.free / 1024,
                place.needed.bytes.div_ceil(1024)
            ),
            format!("df -h {word}; make room there"),
        ));
    }
    let inodes = place
        .free_inodes
        .filter(|free| *free < place.needed.inodes)?;
    Some(Finding::problem(
        Check::Disk,
        format!(
            "{path} has {inodes} free inodes, but {} are needed",
            place.needed.inodes
        ),
        format!("df -i {word}; make room there"),
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::doctor::State;

    fn place() -> Place {
        Place {
            path: "/data".into(),
            refused: None,
            free: 100 * MIB,
            free_inodes: Some(1000),
            needed: beside(Path::new("/data"), MIB),
        }
    }

    #[test]
    fn what_lacks_is_told() {
        let state = |place: Place| judge(&[place])[0].state;
        assert_eq!(state(place()), State::Ok);
        let none = Place {
            free_inodes: None,
            ..place()
        };
        assert_eq!(state(none), State::Ok);
        for lacking in [
            Place {
                refused: Some("read-only".to_owned()),
                ..place()
            },
            Place {
                free: 3 * MIB,
                ..place()
            },
            Place {
                free_inodes: Some(3),
                ..place()
            },
        ] {
            assert_eq!(state(lacking.clone()), State::Problem, "{lacking:?}");
            let spaced = Place {
                path: "/a b".into(),
                ..lacking
            };
            let next = judge(&[spaced])[0].next.clone().unwrap();
            assert!(next.contains("'/a b'") && !next.contains(" /a b"), "{next}");
        }
    }

    #[test]
    fn what_is_not_there_is_looked_for_further_up() {
        let root = tempfile::tempdir().unwrap();
        let found = look(&small_files(&root.path().join("a/b"))).unwrap();
        assert_eq!(found.path, root.path());
        assert!(found.refused.is_none() && found.free > 0);
        let found = look(&small_files(Path::new("/proc/sys/x"))).unwrap();
        assert!(found.refused.is_some());
    }
}
