//! Claims about images: what a [`claim`] is, the [`source`] files that contain claims,
//! the [`evidence`] for them, and the [`trust`] that follows from the evidence.

pub mod claim;
pub mod evidence;
mod mistake;
pub mod rewrite;
mod row;
pub mod source;
pub mod trust;
