//! Claims about images: a [`claim`], the [`source`] that contains it, the [`evidence`]
//! for it, and the [`trust`] that follows from the evidence.

pub mod claim;
pub mod evidence;
pub mod rewrite;
mod row;
pub mod source;
pub mod trust;
