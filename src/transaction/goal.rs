//! Goal: what a transaction is to bring about. It plans at the beginning, and again
//! when the references change under it.

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
    /// That claims are true.
    Claims(&'a Request),
    /// That another transaction's changes are gone.
    TakeBack(Reversal),
}

impl Goal<'_> {
    /// What that comes down to on a store.
    pub fn plan(&self, store: &Store, images: &dyn Images) -> Result<Plan, Vec<Refusal>> {
        match self {
            Self::Claims(request) => Plan::new(store, images, request),
            Self::TakeBack(reversal) => Plan::reversing(store, images, reversal),
        }
    }

    /// A reference that it wants to change, or that one of its claims goes by.
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

    /// What was brought along with it.
    pub fn evidence(&self) -> &Evidence {
        match self {
            Self::Claims(request) => &request.evidence,
            Self::TakeBack(reversal) => &reversal.evidence,
        }
    }

    /// Where containerd keeps its blobs, where the transaction to take back was told.
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
                first: reversal.first_in_the_way(&refusals).map(str::to_owned),
                refusals,
            },
        }
    }

    /// What the history calls it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Claims(_) => Kind::Apply,
            Self::TakeBack(reversal) => Kind::Rollback(reversal.id.clone()),
        }
    }
}
