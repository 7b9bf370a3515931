//! JSON object, as digestfix-json(5) describes it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;
use serde::ser::{SerializeSeq, Serializer};

use crate::claims::trust::Trust;
use crate::docker::container::{Container, RestartPolicy};
use crate::doctor::Finding;
use crate::host::impact::ContainerImpact;
use crate::plan::status::Rows;
use crate::plan::{Change, EntryChange, Plan, Skipped, Target};
use crate::state::history::{Claimed, Record, Side};
use crate::state::method::Method;
use crate::transaction::outcome::Step;

/// The version of the JSON object. A new field does not raise the version. Removing or
/// redefining a field raises the version.
pub const JSON_VERSION: u32 = 1;

/// What went wrong, the state of the host, and the next step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub what: Vec<String>,
    pub state: String,
    pub next: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Document {
    pub version: u32,
    pub command: &'static str,
    pub exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostDocument>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "one_by_one")]
    pub rows: Option<Box<dyn Rows>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checks: Option<Vec<Finding>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<SavedImage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub archives: Vec<LoadedArchive>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transactions: Option<Vec<TransactionDocument>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Vec<ClaimDocument>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Vec<SkippedDocument>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unmet: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<ChangeDocument>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub still_changed: Option<BTreeSet<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "disturbance")]
    pub impact: Option<ImpactDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_changes: Option<Vec<ContainerChangeDocument>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepDocument>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// Serializes rows as a list, one at a time, so that the list is never in memory.
fn one_by_one<S: Serializer>(
    rows: &Option<Box<dyn Rows>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(None)?;
    let mut failed = None;
    if let Some(rows) = rows {
        rows.each(&mut |row| {
            if failed.is_none() {
                failed = list.serialize_element(row).err();
            }
        });
    }
    failed.map_or_else(|| list.end(), Err)
}

#[derive(Debug, Serialize)]
pub(super) struct HostDocument {
    pub data_root: PathBuf,
    pub driver: String,
    pub unit: Option<String>,
    pub config_file: Option<PathBuf>,
    pub engine: Option<String>,
    pub offline: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_store: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containerd_socket: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containerd: Option<String>,
    /// The other image store on this host, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_image_store: Option<&'static str>,
}

/// An image in a saved archive.
#[derive(Debug, Serialize)]
pub struct SavedImage {
    pub image_id: String,
    /// The names under which Docker saved the image.
    pub names: Vec<String>,
    pub digests: Vec<SavedDigest>,
}

/// A digest of a saved image, and the evidence for it.
#[derive(Debug, Serialize)]
pub struct SavedDigest {
    pub reference: String,
    pub known: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct ArchiveDocument {
    pub file: Option<PathBuf>,
    pub bytes: u64,
}

/// An archive whose images are on this host, because Docker loaded them or had them
/// already.
#[derive(Debug, Serialize)]
pub struct LoadedArchive {
    pub file: Option<PathBuf>,
    pub result: ArchiveResult,
    pub images: Vec<String>,
    pub bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveResult {
    Loaded,
    /// The images were already on this host, so digestfix did not send the archive to
    /// Docker.
    Here,
}

#[derive(Debug, Serialize)]
pub(super) struct TransactionDocument {
    pub id: String,
    pub number: u64,
    pub began: String,
    pub ended: Option<String>,
    pub by: String,
    pub kind: &'static str,
    pub rollback_of: Option<String>,
    pub rolled_back_by: Option<String>,
    pub driver: String,
    pub before: String,
    pub after: String,
    pub method: Method,
    pub result: Option<&'static str>,
    pub why: Option<String>,
    pub references: Option<Side>,
    pub backup: Option<PathBuf>,
    pub changes: Vec<ChangedDocument>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<Vec<Claimed>>,
}

/// A change in a transaction: to a reference, or to an entry that Docker ignores.
#[derive(Debug, Serialize)]
pub(super) struct ChangedDocument {
    pub reference: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

impl ChangedDocument {
    pub fn all(record: &Record) -> Vec<Self> {
        let changes = record.changes.iter().map(|change| Self {
            reference: change.reference.familiar(),
            from: change.from.clone(),
            to: change.to.as_ref().map(ToString::to_string),
        });
        let entries = record.entries.iter().map(|entry| Self {
            reference: entry.key.clone(),
            from: entry.from.clone(),
            to: entry.to.clone(),
        });
        changes.chain(entries).collect()
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ClaimDocument {
    pub claim: String,
    pub reference: String,
    pub image_id: String,
    pub trust: Trust,
    pub origin: String,
    pub holds_in_file: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds_in_engine: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(super) struct ChangeDocument {
    pub reference: String,
    pub from: Option<String>,
    pub to: Option<String>,
    pub trust: Option<Trust>,
    pub origin: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct SkippedDocument {
    pub claim: String,
    pub why: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ImpactDocument {
    pub restarts: Vec<String>,
    pub also_restarts: Vec<String>,
    pub running_containers: Vec<String>,
    pub containers_keep_running: bool,
    pub api_clients: usize,
    pub switches_live_restore: bool,
    pub containers: Vec<ContainerDocument>,
}

#[derive(Debug, Serialize)]
pub(super) struct ContainerDocument {
    pub id: String,
    pub name: String,
    pub status: String,
    pub restart_policy: RestartPolicy,
    pub published: BTreeSet<String>,
    #[serde(rename = "fate")]
    pub effect: ContainerImpact,
}

#[derive(Debug, Serialize)]
pub(super) struct ContainerChangeDocument {
    pub name: String,
    pub change: &'static str,
}

#[derive(Debug, Serialize)]
pub(super) struct StepDocument {
    pub step: Step,
    pub seconds: f64,
    pub detail: String,
}

impl ContainerDocument {
    pub fn of(container: &Container, effect: ContainerImpact) -> Self {
        Self {
            id: container.id.clone(),
            name: container.name.clone(),
            status: container.status.to_string(),
            restart_policy: container.restart_policy,
            published: container
                .published
                .iter()
                .map(ToString::to_string)
                .collect(),
            effect,
        }
    }
}

impl From<&Target> for ClaimDocument {
    fn from(target: &Target) -> Self {
        Self {
            claim: target.claim.clone(),
            reference: target.reference.familiar(),
            image_id: target.image.to_string(),
            trust: target.trust,
            origin: target.origin.clone(),
            holds_in_file: target.holds,
            holds_in_engine: None,
        }
    }
}

impl From<&Skipped> for SkippedDocument {
    fn from(skipped: &Skipped) -> Self {
        Self {
            claim: skipped.claim.clone(),
            why: skipped.why.to_string(),
        }
    }
}

impl From<&EntryChange> for ChangeDocument {
    fn from(change: &EntryChange) -> Self {
        Self {
            reference: change.key.clone(),
            from: change.from.clone(),
            to: change.to.clone(),
            trust: None,
            origin: None,
        }
    }
}

impl ChangeDocument {
    pub fn of(change: &Change, plan: &Plan) -> Self {
        let basis = plan.basis(&change.reference);
        Self {
            trust: basis.map(|target| target.trust),
            origin: basis.map(|target| target.origin.clone()),
            reference: change.reference.familiar(),
            from: change.from.clone(),
            to: change.to.as_ref().map(ToString::to_string),
        }
    }
}
