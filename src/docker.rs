//! Docker: its API ([`engine`]), its [`container`]s, and the [`content_store`] in which
//! Docker keeps manifests.

pub mod container;
pub mod content_store;
pub mod engine;
