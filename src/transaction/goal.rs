//! Goal: what a transaction is to bring about. It plans at the beginning, and again
//! when the references change under it.

use crate::plan::{Plan, Refusal, Request, Reversal};
use crate::state::history::Kind;
use crate::store::images::Images;
use crate::store::repositories::Store;

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

    /// What the history calls it.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Claims(_) => Kind::Apply,
            Self::TakeBack(reversal) => Kind::Rollback(reversal.id.clone()),
        }
    }
}
