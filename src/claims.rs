//! What is said of images, and how far it is known: a [`claim`], the [`source`] that
//! it is from, the [`evidence`] for it and the [`trust`] that this gives.

pub mod claim;
pub mod evidence;
pub mod rewrite;
mod row;
pub mod source;
pub mod trust;
