//! History: one record for each transaction on a data root. A record says who ran the
//! transaction, with which claims, what changed, and how the transaction ended.
//!
//! digestfix writes a record before it changes anything, and adds the outcome at the end.
//! The record stays after the [`journal`](crate::state::journal) is removed and the run
//! has ended. Administrators read the records, and `digestfix rollback` uses them. The
//! number of a new record is the highest number so far plus one, so the records stay in
//! order even if the clock jumps.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;

use crate::host::EngineStart;
use crate::image::digest::Digest;
use crate::state::id::is_id;
use crate::state::lock::RootLock;
use crate::state::method::Method;
use crate::state::state_file;
use crate::store::data_root::ImageDir;
use crate::sys::directory;
use crate::sys::json_error::in_words;
use crate::sys::shell;

mod record;

pub use record::{Changed, Claimed, End, How, Kind, Record, Side};

/// The name of the directory with the records. This directory lies beside the journal.
const DIRECTORY: &str = "history";

const VERSION: u32 = 1;

/// The largest record that digestfix reads or writes, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// The precision of times in records. A run may have ended later than its record says, by
/// up to this duration.
const PRECISION: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
#[error("the history, {path}: {problem}", path = path.display())]
pub struct HistoryError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not understood ({})", in_words(.0))]
    Json(#[from] serde_json::Error),
    #[error("the file has version {0}, but this digestfix reads only version {VERSION}")]
    Version(u32),
    #[error("{0:?} is not the ID of a transaction")]
    Id(String),
    #[error("the record is about another transaction, {0}")]
    OtherId(String),
    #[error("{0:?} is not a time")]
    Time(String),
    #[error("{0:?} is not a storage driver")]
    Driver(String),
    #[error("{0} is neither a tag nor a digest")]
    Reference(String),
    #[error(
        "more than {} MiB",
        MAX_BYTES / 1024 / 1024
    )]
    TooLarge,
    #[error("this is not a directory that only root may write to")]
    NoDirectory,
    #[error("this is not a directory that only root may write to")]
    Writable,
    #[error("a transaction with the same ID already exists")]
    Exists,
}

impl HistoryError {
    /// Whether the disk may be the cause of the error.
    pub const fn is_of_disk(&self) -> bool {
        matches!(self.problem, Problem::Io(_))
    }

    pub fn help(&self) -> Option<String> {
        let path = shell::path(&self.path);
        Some(match &self.problem {
            Problem::Writable => format!(
                "check the records in that directory; then: chown root: {path}; chmod 700 {path}"
            ),
            Problem::Id(_) => "to see the transactions: digestfix history".to_owned(),
            Problem::TooLarge => "apply fewer claims at once".to_owned(),
            _ => format!(
                "check what this file is: ls -ld {path}; if no program needs the file: mv {path} {path}.old; \
                 to see the other transactions: digestfix history"
            ),
        })
    }
}

impl Problem {
    fn at(path: &Path) -> impl FnOnce(Self) -> HistoryError + '_ {
        move |problem| HistoryError {
            path: path.to_owned(),
            problem,
        }
    }
}

pub fn directory(data_root: &Path) -> PathBuf {
    state_file::path(data_root, DIRECTORY)
}

pub fn path(data_root: &Path, id: &str) -> PathBuf {
    directory(data_root).join(format!("{id}.json"))
}

fn prepare(lock: &RootLock) -> Result<(), Problem> {
    let path = directory(lock.data_root());
    match DirBuilder::new().mode(0o700).create(&path) {
        Ok(()) => directory::sync(&path)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.into()),
    }
    see_own(&path)
}

/// Fails if users other than root and this process's user may write to the directory. A
/// user who could rename files in the directory could add a forged record.
fn see_own(directory: &Path) -> Result<(), Problem> {
    let metadata = directory.symlink_metadata()?;
    let trusted = [0, geteuid().as_raw()].contains(&metadata.uid());
    if !metadata.is_dir() {
        Err(Problem::NoDirectory)
    } else if trusted && metadata.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(Problem::Writable)
    }
}

/// Whether this data root has a history. Fails if users other than root can add records
/// to the history.
pub fn see_directory(data_root: &Path) -> Result<bool, HistoryError> {
    let path = directory(data_root);
    match see_own(&path) {
        Ok(()) => Ok(true),
        Err(Problem::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(problem) => Err(Problem::at(&path)(problem)),
    }
}

/// The record of a transaction, if there is one.
pub fn read(data_root: &Path, id: &str) -> Result<Option<Record>, HistoryError> {
    if !see_directory(data_root)? {
        return Ok(None);
    }
    let path = path(data_root, id);
    let read = || {
        if !is_id(id) {
            return Err(Problem::Id(id.to_owned()));
        }
        match state_file::read(&path, MAX_BYTES)? {
            Some(bytes) => Record::parse(&bytes, id).map(Some),
            None => Ok(None),
        }
    };
    read().map_err(Problem::at(&path))
}

/// Applies `keep` to each record, oldest first. Returns the results of `keep`, and an
/// error for each record that cannot be read. An unreadable record does not hide the
/// other records.
pub fn scan<T>(
    data_root: &Path,
    mut keep: impl FnMut(Record) -> Option<T>,
) -> (Vec<T>, Vec<HistoryError>) {
    let directory = directory(data_root);
    let listed = see_directory(data_root).and_then(|exists| match exists {
        true => names(&directory, ".json").map_err(|error| Problem::at(&directory)(error.into())),
        false => Ok(Vec::new()),
    });
    let names = match listed {
        Ok(names) => names,
        Err(error) => return (Vec::new(), vec![error]),
    };
    let mut kept = Vec::new();
    let mut broken = Vec::new();
    for id in names {
        match read(data_root, &id) {
            Ok(Some(record)) => {
                let order = (record.number, record.id.clone());
                kept.extend(keep(record).map(|one| (order, one)));
            }
            // Another run removed the record after this run listed the directory.
            Ok(None) => {}
            Err(error) => broken.push(error),
        }
    }
    kept.sort_by(|(one, _), (other, _)| one.cmp(other));
    (kept.into_iter().map(|(_, one)| one).collect(), broken)
}

/// The hash of a daemon.json with which the running dockerd can start. Comes from the
/// newest history record of an ended run that has such a hash. `None` if dockerd started
/// after that run had ended. If digestfix itself restored daemon.json, the file is newer
/// than the running dockerd. Then only this hash shows that dockerd can start with the
/// file.
pub fn known_to_start(data_root: &Path, start: &EngineStart) -> Option<Digest> {
    let (records, _) = scan(data_root, |record| record.ended.zip(record.daemon_json));
    let (ended, daemon_json) = records.into_iter().next_back()?;
    let ended = humantime::parse_rfc3339(&ended).ok()?;
    start.is_before(ended + PRECISION).then_some(daemon_json)
}

/// Finds the files in a directory whose names end with `ending`. Returns these names
/// without the ending.
fn names(directory: &Path, ending: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in fs::read_dir(directory)? {
        let name = file?.file_name();
        let id = name.to_string_lossy();
        names.extend(id.strip_suffix(ending).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Adds an outcome to the records of interrupted runs. While this process holds the lock,
/// only an interrupted run can have a record without an outcome. Also removes the
/// half-written records of such runs. `broken` is the ID of the run that is being
/// recovered. The record of that run may already say that its undo failed. Returns the
/// errors.
pub fn end_interrupted(lock: &RootLock, broken: Option<&str>) -> Vec<HistoryError> {
    let directory = directory(lock.data_root());
    if see_own(&directory).is_ok() {
        for half in names(&directory, ".json.new").unwrap_or_default() {
            // Ignore the error: nothing reads a half-written record.
            let _ = directory::remove(&directory.join(format!("{half}.json.new")));
        }
    }
    let unended = |record: Record| {
        let was_broken = matches!(record.result, Some(End::Broken { .. }));
        let is_unended =
            record.result.is_none() || (was_broken && broken == Some(record.id.as_str()));
        is_unended.then_some(record)
    };
    let (interrupted, _) = scan(lock.data_root(), unended);
    let ended = interrupted.into_iter().map(|mut record| {
        let references = match record.method {
            // A run that may have sent a request to Docker or containerd has a journal,
            // and its recovery writes the outcome. If a record still has no outcome here,
            // its run has changed nothing.
            Some(Method::Load | Method::Record) => Side::Old,
            Some(Method::Restart) | None => ImageDir::new(lock.data_root(), &record.driver)
                .read_bytes()
                .map_or(Side::Other, |bytes| record.side(&bytes)),
        };
        record.end(lock, End::Recovered { references })
    });
    ended.filter_map(Result::err).collect()
}

#[cfg(test)]
pub(crate) mod tests;
