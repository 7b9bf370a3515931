//! Goal: what a transaction has to achieve. At the beginning, digestfix plans how to
//! reach the goal. It plans again if the references change before the commit.

use std::path::Path;

use crate::claims::evidence::Evidence;
use crate::image::reference::Reference;
use crate::plan::{Plan, Refusal, Request, Reversal};
use crate::state::history::Kind;
use crate::store::images::Images;
use crate::store::repositories::Store;
use crate::transaction::image_store::PlanError;

#[derive(Debug)]
pub enum Goal<'a> {
    /// Make claims true.
    Claims(&'a Request),
    /// Revert the changes of another transaction.
    TakeBack(Reversal),
}

impl Goal<'_> {
    /// Plans the changes of a reference store that reach the goal.
    pub fn plan(&self, store: &Store, images: &dyn Images) -> Result<Plan, Vec<Refusal>> {
        match self {
            Self::Claims(request) => Plan::new(store, images, request),
            Self::TakeBack(reversal) => Plan::reversing(store, images, reversal),
        }
    }

    /// Whether the goal changes the reference, or contains a claim about it.
    pub fn is_about(&self, reference: &Reference) -> bool {
        match self {
            Self::Claims(request) => {
                let mut claims = request.claims.iter();
                request.removals.contains(reference)
                    || claims.any(|claim| claim.is_about(reference))
            }
            Self::TakeBack(reversal) => {
                let mut changes = reversal.changes.iter();
                changes.any(|change| change.reference == *reference)
            }
        }
    }

    /// The evidence that came with the claims. For a rollback, the evidence from the
    /// history.
    pub fn evidence(&self) -> &Evidence {
        match self {
            Self::Claims(request) => &request.evidence,
            Self::TakeBack(reversal) => &reversal.evidence,
        }
    }

    /// containerd's root directory, if the user named one for the transaction that this
    /// goal reverts.
    pub fn containerd_root(&self) -> Option<&Path> {
        match self {
            Self::Claims(_) => None,
            Self::TakeBack(reversal) => reversal.containerd_root.as_deref(),
        }
    }

    pub fn refused(&self, refusals: Vec<Refusal>) -> PlanError {
        match self {
            Self::Claims(_) => PlanError::Refused(refusals),
            Self::TakeBack(reversal) => PlanError::InTheWay {
                id: reversal.id.clone(),
                first: reversal.first_in_the_way(&refusals).map(str::to_owned),
                refusals,
            },
        }
    }

    /// The kind of transaction that the history shows for this goal.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Claims(_) => Kind::Apply,
            Self::TakeBack(reversal) => Kind::Rollback(reversal.id.clone()),
        }
    }
}
