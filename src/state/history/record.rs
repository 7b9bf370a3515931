//! The record of one transaction, in the form that it has on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::claims::trust::Trust;
use crate::image::digest::{Digest, ImageId};
use crate::image::reference::{Reference, familiar};
use crate::plan::{Change, EntryChange, Plan};
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

/// The maximum length of a reason in a record, in characters.
const MAX_WHY: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub(super) digestfix_history: u32,
    /// The transaction's ID: the time when the transaction began, and a process ID.
    pub id: String,
    /// The position of the record in the order of all records.
    pub number: u64,
    /// When the transaction began (RFC 3339).
    pub began: String,
    pub ended: Option<String>,
    pub by: String,
    pub kind: Kind,
    pub driver: String,
    /// The hash of the reference store that the transaction found.
    pub before: Digest,
    /// The hash of the reference store that the transaction plans to write.
    pub after: Digest,
    /// The claims that did not hold yet when the transaction was planned.
    pub claims: Vec<Claimed>,
    /// The planned changes.
    pub changes: Vec<Changed>,
    /// The planned changes of entries in `repositories.json` that Docker ignores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<EntryChange>,
    /// The outcome, which is `None` until the transaction ends.
    pub result: Option<End>,
    /// The method, which is `None` if there was no Docker to manage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// The manifests of the references that a load changed. A rollback needs these
    /// manifests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub manifests: BTreeMap<Digest, String>,
    /// containerd's root directory, if the user named this directory in an option.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containerd_root: Option<PathBuf>,
    /// The hash of daemon.json. `None` unless digestfix knew, when the run ended, that
    /// the running dockerd can start with this file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon_json: Option<Digest>,
}

/// How a transaction changes the references, and what a rollback needs to know.
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
    /// Roll back the transaction with this ID.
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
    /// The image that the reference pointed at. `None` if the reference did not exist.
    pub from: Option<String>,
    /// The image that the reference has to point at. `None` if the transaction drops the
    /// reference.
    pub to: Option<ImageId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum End {
    Done,
    /// The transaction failed, and the host was restored to its former state.
    Undone {
        why: String,
    },
    /// The transaction changed the references, but something else on the host was not as
    /// before.
    Incomplete {
        why: String,
    },
    /// The transaction failed, and so did its undo.
    Broken {
        why: String,
    },
    /// The run was interrupted, and a recovery ended the transaction.
    Recovered {
        /// The references after the recovery.
        references: Side,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The references from before the transaction.
    Old,
    /// The references as the transaction planned them.
    New,
    /// The references are neither the old ones nor the new ones.
    Other,
}

impl Record {
    /// Begins the record of a transaction that has not changed anything yet.
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
            entries: Vec::new(),
            result: None,
            method: how.method,
            manifests: how.manifests,
            containerd_root: how.containerd_root,
            daemon_json: how.daemon_json,
        };
        record.plan(references, plan);
        record.write(lock).inspect_err(|_| {
            // Remove the incomplete record, because a record would mean that a
            // transaction took place.
            let _ = state_file::remove(&path, lock);
        })?;
        Ok(record)
    }

    /// Sets the claims and changes of a plan.
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
        self.entries.clone_from(&plan.entries);
    }

    /// Writes the outcome of the transaction.
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

    /// Whether the transaction changed references and did not undo the change.
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
        changed && !self.is_empty()
    }

    /// Whether the transaction planned no change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.entries.is_empty()
    }

    /// Whether these bytes are the reference store from before the transaction, the store
    /// that the transaction made, or neither of the two.
    pub(super) fn side(&self, bytes: &[u8]) -> Side {
        match hash(bytes) {
            found if found == self.before => Side::Old,
            found if found == self.after => Side::New,
            _ => Side::Other,
        }
    }

    pub(super) fn parse(bytes: &[u8], id: &str) -> Result<Self, Problem> {
        // Check the version first, because other versions may have other fields.
        let Version { digestfix_history } = serde_json::from_slice(bytes)?;
        if digestfix_history != VERSION {
            return Err(Problem::Version(digestfix_history));
        }
        let record: Self = serde_json::from_slice(bytes)?;
        if record.id != id {
            return Err(Problem::OtherId(record.id));
        }
        // Check the IDs, because they become part of file names.
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
