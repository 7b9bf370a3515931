//! The record of one transaction, as it lies on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::claims::trust::Trust;
use crate::image::digest::{Digest, ImageId};
use crate::image::reference::{Reference, familiar};
use crate::plan::{Change, Plan};
use crate::state::history::{
    HistoryError, MAX_BYTES, Problem, VERSION, directory, path, prepare, scan,
};
use crate::state::id::is_id;
use crate::state::journal::{References, hash};
use crate::state::lock::RootLock;
use crate::state::method::Method;
use crate::state::state_file;
use crate::store::data_root::is_driver_name;
use crate::sys::who;

/// The most that is kept of a reason, in characters.
const MAX_WHY: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub(super) digestfix_history: u32,
    /// The transaction's name: when it began, and in which process.
    pub id: String,
    /// Its place in the order of all.
    pub number: u64,
    /// When it began (RFC 3339).
    pub began: String,
    pub ended: Option<String>,
    pub by: String,
    pub kind: Kind,
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
    /// How it was made; none where there was no Docker to manage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// The manifests of the references that changed, where the engine was asked
    /// to change them: what it takes to have them back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub manifests: BTreeMap<Digest, String>,
    /// Where containerd kept its blobs, where the user said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containerd_root: Option<PathBuf>,
    /// Docker's configuration file, where the dockerd that ran at the end was
    /// known to start with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon_json: Option<Digest>,
}

/// How a transaction is to change the references: what its undo has to know.
#[derive(Debug, Clone, Default)]
pub struct How {
    pub method: Option<Method>,
    pub manifests: BTreeMap<Digest, String>,
    pub containerd_root: Option<PathBuf>,
    pub daemon_json: Option<Digest>,
}

#[derive(Deserialize)]
struct Version {
    digestfix_history: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    Apply,
    /// To take back the transaction of this name.
    Rollback(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claimed {
    pub claim: String,
    #[serde(with = "familiar")]
    pub reference: Reference,
    pub image_id: ImageId,
    pub trust: Trust,
    pub origin: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    #[serde(with = "familiar")]
    pub reference: Reference,
    /// What it pointed at; none when it was not there.
    pub from: Option<String>,
    /// What it was to point at; none when it was to go.
    pub to: Option<ImageId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum End {
    Done,
    /// It failed, and the host was as it was found.
    Undone {
        why: String,
    },
    /// The references were changed, and something else was not as it had been.
    Incomplete {
        why: String,
    },
    /// It failed, and so did the way back.
    Broken {
        why: String,
    },
    /// It was interrupted, and another run brought it to an end.
    Recovered {
        /// The references that it had left.
        references: Side,
    },
}

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

impl Record {
    /// Begins the record of a transaction that has not touched anything yet.
    pub fn begin(
        lock: &RootLock,
        id: &str,
        kind: Kind,
        references: &References,
        plan: &Plan,
        how: How,
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
            driver: references.driver.clone(),
            before: references.before.clone(),
            after: references.after.clone(),
            claims: Vec::new(),
            changes: Vec::new(),
            result: None,
            method: how.method,
            manifests: how.manifests,
            containerd_root: how.containerd_root,
            daemon_json: how.daemon_json,
        };
        record.plan(references, plan);
        record.write(lock).inspect_err(|_| {
            // A record would say that there was something to record.
            let _ = state_file::remove(&path, lock);
        })?;
        Ok(record)
    }

    /// Takes in what is to be done.
    pub fn plan(&mut self, references: &References, plan: &Plan) {
        self.before.clone_from(&references.before);
        self.after.clone_from(&references.after);
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
    pub fn end(&mut self, lock: &RootLock, mut end: End) -> Result<(), HistoryError> {
        if let End::Undone { why } | End::Incomplete { why } | End::Broken { why } = &mut end
            && let Some((to, _)) = why.char_indices().nth(MAX_WHY)
        {
            why.truncate(to);
            why.push('…');
        }
        self.ended = Some(now());
        self.result = Some(end);
        self.write(lock)
    }

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
    pub(super) fn side(&self, bytes: &[u8]) -> Side {
        match hash(bytes) {
            found if found == self.before => Side::Old,
            found if found == self.after => Side::New,
            _ => Side::Other,
        }
    }

    pub(super) fn parse(bytes: &[u8], id: &str) -> Result<Self, Problem> {
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
        if !is_driver_name(&record.driver) {
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

fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
