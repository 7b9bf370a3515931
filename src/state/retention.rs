//! Retention: how many backups of the reference store digestfix keeps, and how many
//! records in the [`history`].
//!
//! `Limits::expendable` decides which files to remove. The other functions read the
//! directories and remove the files. The newest good backup always stays, regardless of
//! the limits and the clock.

use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::unistd::geteuid;

use crate::state::history;
use crate::state::id::beside;
use crate::state::lock::RootLock;
use crate::store::data_root::ImageDir;
use crate::store::repositories::{self, Store};
use crate::sys::directory;
use crate::sys::plain_file::{self, Links};

/// How many of the newest backups digestfix keeps regardless of their age.
const WHATEVER_THEIR_AGE: usize = 3;

/// How many of the newest records digestfix keeps, with or without a backup.
const RECORDS: usize = 200;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub backups: usize,
    pub days: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            backups: 10,
            days: 90,
        }
    }
}

/// A backup is a former reference store.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Backup {
    /// The ID of the transaction that made the backup.
    id: String,
    /// When the transaction that made the backup began, according to the clock at that
    /// time.
    began: SystemTime,
    /// The number of the transaction's record, if the history has one.
    number: Option<u64>,
}

impl Limits {
    /// The IDs of the backups to remove. `is_good` returns whether a backup is a complete
    /// reference store.
    fn expendable(
        self,
        mut backups: Vec<Backup>,
        present: &str,
        now: SystemTime,
        is_good: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        newest_first(&mut backups);
        // The position of the newest good backup. digestfix looks for it only if a backup
        // is about to be removed, because `is_good` reads whole files.
        let ids: Vec<String> = backups.iter().map(|backup| backup.id.clone()).collect();
        let last_good = LazyCell::new(|| ids.iter().position(|id| is_good(id)));
        let longest = DAY * self.days;
        let stays = |at: usize, backup: &Backup| {
            let is_old = now
                .duration_since(backup.began)
                .is_ok_and(|age| age > longest);
            backup.id == present
                || at < self.backups && (at < WHATEVER_THEIR_AGE || !is_old)
                || Some(at) == *last_good
        };
        let kept = |(at, backup): (usize, Backup)| (!stays(at, &backup)).then_some(backup.id);
        backups.into_iter().enumerate().filter_map(kept).collect()
    }
}

/// Sorts backups by the numbers of their records, newest first. For a backup without a
/// number, digestfix finds the highest number among the backups with smaller IDs. The
/// backup without a number counts as newer than the backup that has this number.
fn newest_first(backups: &mut [Backup]) {
    let mut by_id: Vec<(String, Option<u64>)> = backups
        .iter()
        .map(|backup| (backup.id.clone(), backup.number))
        .collect();
    by_id.sort();
    let mut newest = 0;
    let mut places = BTreeMap::new();
    for (id, number) in by_id {
        newest = newest.max(number.unwrap_or(0));
        places.insert(id, (number.unwrap_or(newest), number.is_none()));
    }
    backups.sort_by_cached_key(|backup| {
        let place = places.get(&backup.id).copied();
        std::cmp::Reverse((place, backup.id.clone()))
    });
}

/// When a transaction began, according to its ID, such as `20261124T113000Z-7`.
fn began(id: &str) -> Option<SystemTime> {
    let (time, process) = id.split_once("Z-")?;
    let (date, time) = time.split_once('T')?;
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = [date, time, process].iter().all(|text| is_number(text));
    if !digits || date.len() != 8 || time.len() != 6 || process.is_empty() {
        return None;
    }
    let [date, time] = [date, time].map(|text| text.split_at(text.len() - 4));
    let ((year, date), (hours, time)) = (date, time);
    let ((month, day), (minutes, seconds)) = (date.split_at(2), time.split_at(2));
    let rfc_3339 = format!("{year}-{month}-{day}T{hours}:{minutes}:{seconds}Z");
    humantime::parse_rfc3339(&rfc_3339).ok()
}

/// Removes old backups and records. Returns an error for each file that could not be
/// removed. `present` is the ID of the transaction that has just ended. If `limits` is
/// `None`, every backup stays. This is so after a failed transaction.
pub fn enforce(
    images: &ImageDir,
    lock: &RootLock,
    present: &str,
    limits: Option<Limits>,
) -> Vec<String> {
    let (mut records, _) = history::scan(lock.data_root(), |record| {
        Some((record.id, record.number, record.driver))
    });
    let mut problems = Vec::new();
    if let Some(limits) = limits {
        let numbers = records.iter().map(|(id, number, _)| (id.as_str(), *number));
        let backups = backups(images, &numbers.collect());
        let path = |id: &str| beside(&images.store_path(), id);
        let now = SystemTime::now();
        let expendable = limits.expendable(backups, present, now, |id| is_store(&path(id)));
        problems.extend(expendable.iter().filter_map(|id| remove(&path(id))));
    }
    let old = records.len().saturating_sub(RECORDS);
    for (id, _, driver) in records.drain(..old) {
        let images = ImageDir::new(lock.data_root(), &driver);
        let has_backup = beside(&images.store_path(), &id).symlink_metadata().is_ok();
        if id != present && !has_backup {
            problems.extend(remove(&history::path(lock.data_root(), &id)));
        }
    }
    problems
}

fn remove(path: &Path) -> Option<String> {
    let error = directory::remove(path).err()?;
    Some(format!(
        "{} is no longer needed and could not be removed: {error}",
        path.display()
    ))
}

/// The backups of this reference store: plain files that have the name and the owner of a
/// backup by digestfix.
fn backups(images: &ImageDir, numbers: &BTreeMap<&str, u64>) -> Vec<Backup> {
    let Ok(listing) = fs::read_dir(images.path()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for file in listing.flatten() {
        let name = file.file_name();
        let id = name.to_str().and_then(id_of);
        // `DirEntry::metadata` does not follow links, so a link is not counted.
        let Some((id, metadata)) = id.zip(file.metadata().ok()) else {
            continue;
        };
        let own = [0, geteuid().as_raw()].contains(&metadata.uid());
        if let (true, true, Some(began)) = (own, metadata.is_file(), began(id)) {
            found.push(Backup {
                id: id.to_owned(),
                began,
                number: numbers.get(id).copied(),
            });
        }
    }
    found
}

/// The number of backups of this reference store.
pub fn count(images: &ImageDir) -> usize {
    backups(images, &BTreeMap::new()).len()
}

fn id_of(name: &str) -> Option<&str> {
    name.strip_prefix(repositories::FILE_NAME)?
        .strip_prefix(".digestfix-")
}

fn is_store(path: &Path) -> bool {
    plain_file::read(path, Links::Refused, repositories::MAX_BYTES + 1)
        .is_ok_and(|bytes| Store::parse(bytes).is_ok())
}

#[cfg(test)]
mod tests;
