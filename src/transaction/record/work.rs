//! Requests that make a node's containerd apply a plan, and the reasons why it cannot
//! apply a plan.

use std::collections::BTreeSet;

use crate::containerd::Record;
use crate::image::reference::Reference;
use crate::plan::Plan;
use crate::state::journal::NodeRecord;
use crate::store::node::{MADE_FOR, MANAGED, NodeStore, maker};

/// Requests to containerd.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// Records to make.
    pub added: Vec<NodeRecord>,
    /// Records to remove.
    pub dropped: Vec<NodeRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordBlocker {
    #[error("{reference}: digestfix does not set tags on a Kubernetes node")]
    SetTag {
        reference: Reference,
        /// A name that the image already has.
        image: Option<Reference>,
    },
    #[error("{reference}: digestfix does not remove tags on a Kubernetes node")]
    RemoveTag { reference: Reference },
    #[error("{reference}: another image here has this digest")]
    Moves { reference: Reference },
    #[error("{reference}: containerd has a record of that name, but the CRI does not list it")]
    Unlisted { reference: Reference },
    #[error("{reference}: no record in containerd points at its image")]
    NoTarget { reference: Reference },
    #[error(
        "{reference}: digestfix did not make that record, or a pull by that name has changed the record since"
    )]
    NotOwn { reference: Reference },
    #[error(
        "{reference}: this is the last record of its image, and containerd would free the image too"
    )]
    Last { reference: Reference },
    #[error(
        "{0}: ctr and crictl show this digest, but an import or docker save made up its manifest. No \
         registry is known to serve it"
    )]
    MadeUp(String),
}

impl RecordBlocker {
    pub fn help(&self) -> String {
        let ctr = "ctr -n k8s.io images";
        match self {
            Self::SetTag { reference, image } => {
                let image = image.as_ref().map(Reference::full);
                let image = image.as_deref().unwrap_or("IMAGE");
                format!("{ctr} tag {image} {}", reference.full())
            }
            Self::RemoveTag { reference } => format!("{ctr} rm {}", reference.full()),
            Self::Moves { reference } => format!(
                "remove that record first: digestfix apply --remove {reference}; or, if digestfix did not make it: {ctr} \
                 rm {}",
                reference.full()
            ),
            Self::Unlisted { reference } => format!(
                "check that record: {ctr} ls name=={name}; if no program needs the record: {ctr} rm {name}",
                name = reference.full()
            ),
            Self::NoTarget { .. } => {
                format!("import the image again ({ctr} import FILE), then run the same command again")
            }
            Self::NotOwn { reference } | Self::Last { reference } => {
                format!("to remove this record anyway: {ctr} rm {}", reference.full())
            }
            Self::MadeUp(_) => {
                "claim the digest that the registry serves, and add its manifest with --from. To record this digest \
                 anyway: --allow-image-id-digest"
                    .to_owned()
            }
        }
    }
}

impl Work {
    /// Turns a plan into requests, or returns every reason why containerd cannot apply
    /// the plan.
    pub fn of(plan: &Plan, here: &NodeStore) -> Result<Self, Vec<RecordBlocker>> {
        let mut work = Self::default();
        let mut reasons = Vec::new();
        for change in &plan.changes {
            let reference = change.reference.clone();
            match (reference.digest(), &change.from, &change.to) {
                (None, _, Some(image)) => reasons.push(RecordBlocker::SetTag {
                    reference,
                    image: plan.name_of(image),
                }),
                (None, _, None) => reasons.push(RecordBlocker::RemoveTag { reference }),
                (Some(_), Some(_), Some(_)) => reasons.push(RecordBlocker::Moves { reference }),
                (Some(_), None, Some(image)) => match here.target_for(&reference, image) {
                    _ if here.record(&reference).is_some() => {
                        reasons.push(RecordBlocker::Unlisted { reference });
                    }
                    None => reasons.push(RecordBlocker::NoTarget { reference }),
                    Some(target) => {
                        let made_for = target.digest.to_string();
                        let labels = [(MANAGED.0, MANAGED.1.to_owned()), (MADE_FOR, made_for)];
                        let labels = labels.map(|(key, value)| (key.to_owned(), value));
                        work.added.push(NodeRecord {
                            record: Record {
                                name: reference.full(),
                                target: target.clone(),
                                labels: labels.into(),
                            },
                            reference,
                            image_id: image.clone(),
                        });
                    }
                },
                (Some(_), from, None) => {
                    let image = from.as_deref().and_then(|image| image.parse().ok());
                    let record = here.record(&reference).filter(|one| maker(one).is_some());
                    match image.zip(record) {
                        Some((image_id, record)) => work.dropped.push(NodeRecord {
                            record: record.clone(),
                            reference,
                            image_id,
                        }),
                        None => reasons.push(RecordBlocker::NotOwn { reference }),
                    }
                }
            }
        }
        let gone = work.dropped.iter().map(|one| one.record.name.clone());
        let gone: BTreeSet<String> = gone.collect();
        for one in &work.dropped {
            if here.another(&one.record, &gone).is_none() {
                let reference = one.reference.clone();
                reasons.push(RecordBlocker::Last { reference });
            }
        }
        match reasons.is_empty() {
            true => Ok(work),
            false => Err(reasons),
        }
    }
}
