//! What each transaction did to a data root, one file each: who ran it, on
//! whose word, what it changed and how it ended.
//!
//! A record is there before anything is touched and says in the end what came
//! of it, so it outlives the [`journal`](crate::journal) and the run. People
//! read it, and `digestfix rollback` goes by it. Each has a number, one more
//! than the highest, so that their order survives a clock that jumps.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::data_root::ImageDir;
use crate::digest::{Digest, ImageId};
use crate::directory;
use crate::journal::hash;
use crate::plan::{Change, Plan};
use crate::reference::Reference;
use crate::state_file;
use crate::transaction::lock::RootLock;
use crate::trust::Trust;

pub mod who;

/// The directory beside the journal.
const DIRECTORY: &str = "history";

/// The version of the format.
const VERSION: u32 = 1;

/// The largest record that is read or written, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What one transaction did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    digestfix_history: u32,
    /// The transaction's name: when it began, and in which process.
    pub id: String,
    /// Its place in the order of all.
    pub number: u64,
    /// When it began (RFC 3339).
    pub began: String,
    /// When it ended.
    pub ended: Option<String>,
    /// Who ran it.
    pub by: String,
    /// What for.
    pub kind: Kind,
    /// The storage driver.
    pub driver: String,
    /// The reference store as it was found.
    pub before: Digest,
    /// The reference store as it was to be.
    pub after: Digest,
    /// The claims that did not hold already.
    pub claims: Vec<Claimed>,
    /// What was to change.
    pub changes: Vec<Changed>,
    /// What came of it; none while it has not ended.
    pub result: Option<End>,
}

#[derive(Deserialize)]
struct Version {
    digestfix_history: u32,
}

/// What a transaction is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// To make claims true.
    Apply,
    /// To take back the transaction of this name.
    Rollback(String),
}

/// A claim, and what it rested on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claimed {
    /// The claim as it was given.
    pub claim: String,
    /// The reference that it wants.
    #[serde(with = "familiar")]
    pub reference: Reference,
    /// The image that it should point at.
    pub image_id: ImageId,
    /// How far it was known.
    pub trust: Trust,
    /// Where from.
    pub origin: String,
}

/// A reference that was to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// The reference.
    #[serde(with = "familiar")]
    pub reference: Reference,
    /// What it pointed at; none when it was not there.
    pub from: Option<String>,
    /// What it was to point at; none when it was to go.
    pub to: Option<ImageId>,
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum End {
    /// All of it was done.
    Done,
    /// It failed, and the host was as it was found.
    Undone {
        /// Why it failed.
        why: String,
    },
    /// The references were changed, and something else was not as it had been.
    Incomplete {
        /// What, and why.
        why: String,
    },
    /// It failed, and so did the way back.
    Broken {
        /// Why both did.
        why: String,
    },
    /// It was interrupted, and another run brought it to an end.
    Recovered {
        /// The references that it had left.
        references: Side,
    },
}

/// Which references are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Those from before the transaction.
    Old,
    /// Those that it made.
    New,
    /// Others than either.
    Other,
}

/// A record that cannot be read or written.
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
    #[error("not understood: {0}")]
    Json(#[from] serde_json::Error),
    #[error("of version {0}, and this digestfix knows version {VERSION}")]
    Version(u32),
    #[error("{0:?} is no name of a transaction")]
    Id(String),
    #[error("it speaks of another transaction, {0}")]
    OtherId(String),
    #[error("{0:?} is no time")]
    Time(String),
    #[error("{0:?} is no storage driver")]
    Driver(String),
    #[error("{0} is neither a tag nor a digest")]
    Reference(String),
    #[error(
        "more than {} MiB: give fewer claims at once",
        MAX_BYTES / 1024 / 1024
    )]
    TooLarge,
    #[error("not a directory that only root may write")]
    Directory,
    #[error("there is a transaction of that name already")]
    Exists,
}

impl Problem {
    fn at(path: &Path) -> impl FnOnce(Self) -> HistoryError + '_ {
        move |problem| HistoryError {
            path: path.to_owned(),
            problem,
        }
    }
}

impl Record {
    /// Begins the record of a transaction that has not touched anything yet.
    ///
    /// # Errors
    /// When it cannot be had on disk; there is none then.
    pub fn begin(
        lock: &RootLock,
        id: &str,
        kind: Kind,
        driver: &str,
        before: &[u8],
        plan: &Plan,
    ) -> Result<Self, HistoryError> {
        let path = path(lock.data_root(), id);
        prepare(lock).map_err(Problem::at(&directory(lock.data_root())))?;
        if path.symlink_metadata().is_ok() {
            return Err(Problem::at(&path)(Problem::Exists));
        }
        let (numbers, _) = scan(lock.data_root(), |record| Some(record.number));
        let mut record = Self {
            digestfix_history: VERSION,
            id: id.to_owned(),
            number: numbers.last().copied().unwrap_or(0).saturating_add(1),
            began: now(),
            ended: None,
            by: who::am_i(),
            kind,
            driver: driver.to_owned(),
            before: hash(before),
            after: hash(before),
            claims: Vec::new(),
            changes: Vec::new(),
            result: None,
        };
        record.plan(before, plan);
        record.write(lock).inspect_err(|_| {
            // A record would say that there was something to record.
            let _ = state_file::remove(&path, lock);
        })?;
        Ok(record)
    }

    /// Takes in what is to be done.
    pub fn plan(&mut self, before: &[u8], plan: &Plan) {
        self.before = hash(before);
        self.after = hash(&plan.after.to_bytes());
        let targets = plan.targets.iter().filter(|target| !target.holds);
        self.claims = targets
            .map(|target| Claimed {
                claim: target.claim.clone(),
                reference: target.reference.clone(),
                image_id: target.image.clone(),
                trust: target.trust,
                origin: target.origin.clone(),
            })
            .collect();
        let changes = plan.changes.iter().cloned();
        self.changes = changes.map(Changed::from).collect();
    }

    /// Says what came of the transaction.
    ///
    /// # Errors
    /// When that cannot be had on disk.
    pub fn end(&mut self, lock: &RootLock, end: End) -> Result<(), HistoryError> {
        self.ended = Some(now());
        self.result = Some(end);
        self.write(lock)
    }

    /// Puts the record on disk.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, lock: &RootLock) -> Result<(), HistoryError> {
        let path = path(lock.data_root(), &self.id);
        let write = || {
            let bytes = serde_json::to_vec(self)?;
            if bytes.len() as u64 > MAX_BYTES {
                return Err(Problem::TooLarge);
            }
            Ok(state_file::write(&path, lock, &bytes)?)
        };
        write().map_err(Problem::at(&path))
    }

    /// The references were changed by it, and had stayed so when it ended.
    #[must_use]
    pub fn took_effect(&self) -> bool {
        let changed = matches!(
            self.result,
            Some(
                End::Done
                    | End::Incomplete { .. }
                    | End::Recovered {
                        references: Side::New
                    }
            )
        );
        changed && !self.changes.is_empty()
    }

    /// Which references these bytes of the store are.
    fn side(&self, bytes: &[u8]) -> Side {
        match hash(bytes) {
            found if found == self.before => Side::Old,
            found if found == self.after => Side::New,
            _ => Side::Other,
        }
    }

    fn parse(bytes: &[u8], id: &str) -> Result<Self, Problem> {
        // A record of another version may have other fields.
        let Version { digestfix_history } = serde_json::from_slice(bytes)?;
        if digestfix_history != VERSION {
            return Err(Problem::Version(digestfix_history));
        }
        let record: Self = serde_json::from_slice(bytes)?;
        if record.id != id {
            return Err(Problem::OtherId(record.id));
        }
        // They become part of file names.
        let of = match &record.kind {
            Kind::Apply => None,
            Kind::Rollback(of) => Some(of),
        };
        if let Some(id) = [&record.id].into_iter().chain(of).find(|id| !is_id(id)) {
            return Err(Problem::Id(id.clone()));
        }
        let leads_elsewhere =
            |name: &str| matches!(name, "" | "." | "..") || name.contains(['/', '\0']);
        if leads_elsewhere(&record.driver) {
            return Err(Problem::Driver(record.driver));
        }
        let is_no_time = |time: &&String| humantime::parse_rfc3339(time).is_err();
        let times = [&record.began].into_iter().chain(&record.ended);
        if let Some(time) = times.into_iter().find(is_no_time) {
            return Err(Problem::Time(time.clone()));
        }
        let is_neither = |one: &&Reference| one.tag().is_some() == one.digest().is_some();
        let changed = record.changes.iter().map(|change| &change.reference);
        let claimed = record.claims.iter().map(|claim| &claim.reference);
        if let Some(reference) = changed.chain(claimed).into_iter().find(is_neither) {
            return Err(Problem::Reference(reference.familiar()));
        }
        Ok(record)
    }
}

impl From<Change> for Changed {
    fn from(change: Change) -> Self {
        Self {
            reference: change.reference,
            from: change.from,
            to: change.to,
        }
    }
}

impl From<Changed> for Change {
    fn from(changed: Changed) -> Self {
        Self {
            reference: changed.reference,
            from: changed.from,
            to: changed.to,
        }
    }
}

/// References as the store has them.
mod familiar {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use crate::reference::Reference;

    pub fn serialize<S: Serializer>(reference: &Reference, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&reference.familiar())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Reference, D::Error> {
        let text = String::deserialize(from)?;
        Reference::parse(&text).map_err(de::Error::custom)
    }
}

/// A name that a transaction may have: it becomes part of file names.
#[must_use]
pub fn is_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Where the records of a data root are kept.
#[must_use]
pub fn directory(data_root: &Path) -> PathBuf {
    state_file::path(data_root, DIRECTORY)
}

/// Where the record of one transaction is kept.
#[must_use]
pub fn path(data_root: &Path, id: &str) -> PathBuf {
    directory(data_root).join(format!("{id}.json"))
}

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
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

/// Whoever can rename in a directory can put a record there.
fn see_own(directory: &Path) -> Result<(), Problem> {
    let metadata = directory.symlink_metadata()?;
    let trusted = [0, geteuid().as_raw()].contains(&metadata.uid());
    if metadata.is_dir() && trusted && metadata.mode() & 0o022 == 0 {
        Ok(())
    } else {
        Err(Problem::Directory)
    }
}

/// The record of a transaction, if there is one.
///
/// # Errors
/// When it is there and cannot be understood.
pub fn read(data_root: &Path, id: &str) -> Result<Option<Record>, HistoryError> {
    let path = path(data_root, id);
    let read = || {
        match see_own(&directory(data_root)) {
            Err(Problem::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            own => own?,
        }
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

/// What `keep` takes of each record, oldest first, and the records that cannot
/// be read: they hide no others.
pub fn scan<T>(
    data_root: &Path,
    mut keep: impl FnMut(Record) -> Option<T>,
) -> (Vec<T>, Vec<HistoryError>) {
    let directory = directory(data_root);
    let names = see_own(&directory).and_then(|()| Ok(names(&directory)?));
    let names = match names {
        Ok(names) => names,
        Err(Problem::Io(error)) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(problem) => return (Vec::new(), vec![Problem::at(&directory)(problem)]),
    };
    let mut kept = Vec::new();
    let mut broken = Vec::new();
    for id in names {
        match read(data_root, &id) {
            Ok(Some(record)) => {
                let order = (record.number, record.id.clone());
                kept.extend(keep(record).map(|one| (order, one)));
            }
            // Taken away since.
            Ok(None) => {}
            Err(error) => broken.push(error),
        }
    }
    kept.sort_by(|(one, _), (other, _)| one.cmp(other));
    (kept.into_iter().map(|(_, one)| one).collect(), broken)
}

/// What precedes `.json` in the names of a directory.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for file in fs::read_dir(directory)? {
        let name = file?.file_name();
        let id = name.to_string_lossy();
        names.extend(id.strip_suffix(".json").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Ends the records of runs that were interrupted: under the lock, there is no
/// other kind of record without an end. Gives what did not go well.
pub fn end_interrupted(lock: &RootLock) -> Vec<HistoryError> {
    let unended = |record: Record| record.result.is_none().then_some(record);
    let (interrupted, _) = scan(lock.data_root(), unended);
    let ended = interrupted.into_iter().map(|mut record| {
        let images = ImageDir::new(lock.data_root(), &record.driver);
        let references = images
            .read_bytes()
            .map_or(Side::Other, |bytes| record.side(&bytes));
        record.end(lock, End::Recovered { references })
    });
    ended.filter_map(Result::err).collect()
}

#[cfg(test)]
pub(crate) mod tests;
