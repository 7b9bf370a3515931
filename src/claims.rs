//! A [`claim`] states which image has a digest. This module reads claims from [`source`]
//! files, collects [`evidence`] for the claims, and derives the [`trust`] in each claim.

pub mod claim;
pub mod evidence;
mod mistake;
pub mod rewrite;
mod row;
pub mod source;
pub mod trust;
