//! Reversal: plans how to undo the changes of a transaction.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::claims::claim::Origin;
use crate::claims::evidence::Evidence;
use crate::claims::trust::Trust;
use crate::image::digest::ImageId;
use crate::image::reference::Reference;
use crate::plan::{Change, EntryChange, Plan, Refusal, Since, Target};
use crate::store::images::Images;
use crate::store::repositories::Store;
use crate::sys::shell;

/// The changes of one transaction, and the later changes to the same references.
#[derive(Debug, Clone, Default)]
pub struct Reversal {
    pub id: String,
    pub changes: Vec<Change>,
    /// The changes to reference store entries that Docker ignores.
    pub entries: Vec<EntryChange>,
    /// The changes of later transactions, newest first.
    pub later: Vec<Later>,
    /// For each reference that the rollback restores: the claim for which an earlier
    /// transaction wrote this reference.
    pub bases: BTreeMap<(Reference, ImageId), Basis>,
    /// The manifests of the changed references. Empty unless the transaction used `docker
    /// load`.
    pub evidence: Box<Evidence>,
    /// containerd's root directory, if the user named it.
    pub containerd_root: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Later {
    pub id: String,
    pub change: Change,
}

/// The claim for which an earlier transaction wrote a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Basis {
    pub claim: String,
    pub trust: Trust,
    pub origin: String,
}

impl Reversal {
    /// The newest of the later transactions that these refusals name. The user must undo
    /// that transaction first.
    pub fn first_in_the_way(&self, refusals: &[Refusal]) -> Option<&str> {
        let named = |id: &str| {
            refusals.iter().any(
                |refusal| matches!(refusal, Refusal::ChangedSince(since) if since.by.as_deref() == Some(id)),
            )
        };
        let mut ids = self.later.iter().map(|later| later.id.as_str());
        ids.find(|id| named(id))
    }

    fn maker(&self, reference: &Reference, now: Option<&str>) -> Option<String> {
        let made_it_so = |later: &&Later| {
            later.change.reference == *reference
                && later.change.to.as_ref().map(ToString::to_string).as_deref() == now
        };
        self.later
            .iter()
            .find(made_it_so)
            .map(|later| later.id.clone())
    }

    fn target(&self, reference: &Reference, image: &ImageId) -> Option<Target> {
        let basis = self.bases.get(&(reference.clone(), image.clone()))?;
        Some(Target {
            claim: basis.claim.clone(),
            reference: reference.clone(),
            image: image.clone(),
            holds: false,
            trust: basis.trust,
            origin: basis.origin.clone(),
            typed: [Origin::Typed, Origin::Pasted]
                .iter()
                .any(|origin| basis.origin == origin.to_string()),
        })
    }
}

impl Plan {
    /// Plans how to undo a transaction's changes in this store. `images` contains every
    /// image whose config is in Docker's image store.
    pub fn reversing(
        store: &Store,
        images: &dyn Images,
        reversal: &Reversal,
    ) -> Result<Self, Vec<Refusal>> {
        let mut after = store.clone();
        let mut changes = Vec::new();
        let mut targets = Vec::new();
        let mut refusals = Vec::new();
        for change in &reversal.changes {
            let reference = &change.reference;
            let now = store.get(reference);
            if now == change.from.as_deref() {
                continue;
            }
            let made = change.to.as_ref().map(ToString::to_string);
            if now != made.as_deref() {
                refusals.push(Refusal::ChangedSince(Box::new(Since {
                    reference: reference.familiar(),
                    transaction: reversal.id.clone(),
                    made,
                    now: now.map(str::to_owned),
                    first: match &change.from {
                        None => format!("--remove {reference}"),
                        Some(former) => format!("{reference}={former} --replace"),
                    },
                    by: reversal.maker(reference, now),
                })));
                continue;
            }
            let former = match &change.from {
                None => None,
                Some(former) => match former.parse::<ImageId>() {
                    Ok(image) if images.has(&image) => Some(image),
                    _ => {
                        refusals.push(Refusal::FormerImageGone {
                            reference: reference.familiar(),
                            transaction: reversal.id.clone(),
                            image: former.clone(),
                        });
                        continue;
                    }
                },
            };
            let from = after.remove(reference);
            if let Some(image) = &former {
                after.put_back(reference, &image.to_string());
                targets.extend(reversal.target(reference, image));
            }
            changes.push(Change {
                reference: reference.clone(),
                from,
                to: former,
            });
        }
        let mut entries = Vec::new();
        for entry in &reversal.entries {
            let now = entry.now(store);
            if now == entry.from.as_deref() {
                continue;
            }
            if now != entry.to.as_deref() {
                refusals.push(Refusal::ChangedSince(Box::new(Since {
                    reference: entry.key.clone(),
                    transaction: reversal.id.clone(),
                    made: entry.to.clone(),
                    now: now.map(str::to_owned),
                    first: format!("--remove {}", shell::word(&entry.key)),
                    by: None,
                })));
                continue;
            }
            entry.set(&mut after, entry.from.as_deref());
            entries.push(EntryChange {
                from: entry.to.clone(),
                to: entry.from.clone(),
                ..entry.clone()
            });
        }
        if !refusals.is_empty() {
            return Err(refusals);
        }
        Ok(Self::of(
            after,
            changes.into_iter(),
            entries,
            targets,
            Vec::new(),
            &[],
        ))
    }
}
