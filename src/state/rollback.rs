//! Finds in the history the transaction to roll back, and plans its reversal.

use std::collections::BTreeMap;

use crate::plan::{Basis, Later, Reversal};
use crate::state::history::{Changed, End, Kind, Record, Side};
use crate::sys::shell;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RollbackBlocker {
    #[error("there is no transaction to roll back")]
    None,
    #[error("there is no transaction {0} in the history of this data root")]
    NotFound(String),
    #[error("transaction {0} has not ended: it is running, or it was interrupted")]
    NotEnded(String),
    #[error("transaction {id} did not change anything: {why}")]
    ChangedNothing { id: String, why: String },
    #[error("transaction {by} has already rolled back transaction {id}")]
    RolledBack { id: String, by: String },
    #[error("transaction {id} changed the references of storage driver {driver}")]
    OtherDriver { id: String, driver: String },
}

impl RollbackBlocker {
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::NotEnded(_) => {
                "wait until the transaction has ended; if its run was interrupted: digestfix recover".to_owned()
            }
            Self::RolledBack { by, .. } => {
                format!(
                    "to make the changes again, roll back the rollback: digestfix rollback {by}"
                )
            }
            Self::OtherDriver { id, driver } => {
                let driver = shell::word(driver);
                format!("if Docker uses that storage driver: digestfix rollback --driver {driver} {id}")
            }
            Self::None | Self::NotFound(_) | Self::ChangedNothing { .. } => {
                "to see the transactions: digestfix history".to_owned()
            }
        })
    }
}

/// For each transaction that was rolled back, the ID of its rollback. Leaves out
/// rollbacks that were rolled back themselves. `records` begins with the oldest record.
pub fn rolled_back(records: &[Record]) -> BTreeMap<&str, &str> {
    let mut found = BTreeMap::new();
    for record in records.iter().rev() {
        if let Kind::Rollback(of) = &record.kind
            && record.took_effect()
            && !found.contains_key(record.id.as_str())
        {
            found.entry(of.as_str()).or_insert(record.id.as_str());
        }
    }
    found
}

/// Plans how to roll back the transaction with this ID. Without an ID, plans to roll back
/// the newest transaction that is in effect. `records` begins with the oldest record.
pub fn reversal(
    records: &[Record],
    id: Option<&str>,
    driver: &str,
) -> Result<Reversal, RollbackBlocker> {
    let back = rolled_back(records);
    if let Some(record) = records.iter().find(|record| record.result.is_none()) {
        return Err(RollbackBlocker::NotEnded(record.id.clone()));
    }
    let at = match id {
        Some(id) => {
            let at = records.iter().position(|record| record.id == id);
            at.ok_or_else(|| RollbackBlocker::NotFound(id.to_owned()))?
        }
        None => {
            let stands = |record: &Record| {
                record.driver == driver
                    && record.kind == Kind::Apply
                    && record.took_effect()
                    && !back.contains_key(record.id.as_str())
            };
            records
                .iter()
                .rposition(stands)
                .ok_or(RollbackBlocker::None)?
        }
    };
    let record = &records[at];
    let id = record.id.clone();
    if record.driver != driver {
        let driver = record.driver.clone();
        return Err(RollbackBlocker::OtherDriver { id, driver });
    }
    if let Some(by) = back.get(id.as_str()) {
        let by = (*by).to_owned();
        return Err(RollbackBlocker::RolledBack { id, by });
    }
    if let Some(why) = changed_nothing(record) {
        return Err(RollbackBlocker::ChangedNothing { id, why });
    }
    let (earlier, later) = (&records[..at], &records[at + 1..]);
    let own = |record: &&Record| record.driver == driver;
    let mut reversal = Reversal {
        id,
        changes: record.changes.iter().cloned().map(Changed::into).collect(),
        entries: record.entries.clone(),
        containerd_root: record.containerd_root.clone(),
        ..Reversal::default()
    };
    reversal
        .evidence
        .add_texts(record.manifests.clone(), &record.id);
    for record in later
        .iter()
        .rev()
        .filter(own)
        .filter(|one| one.took_effect())
    {
        let changes = record.changes.iter().cloned();
        reversal.later.extend(changes.map(|change| Later {
            id: record.id.clone(),
            change: change.into(),
        }));
    }
    // A later claim about a reference replaces an earlier claim about it.
    for claim in earlier.iter().filter(own).flat_map(|record| &record.claims) {
        let basis = Basis {
            claim: claim.claim.clone(),
            trust: claim.trust,
            origin: claim.origin.clone(),
        };
        let of = (claim.reference.clone(), claim.image_id.clone());
        reversal.bases.insert(of, basis);
    }
    Ok(reversal)
}

fn changed_nothing(record: &Record) -> Option<String> {
    match &record.result {
        Some(End::Undone { why }) => Some(format!("the transaction failed and was undone ({why})")),
        Some(End::Recovered {
            references: Side::Old,
        }) => Some("the transaction was interrupted and undone".to_owned()),
        _ if record.is_empty() => Some("there was nothing left to do".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
