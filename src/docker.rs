//! Docker's API ([`engine`]), its [`container`]s, and the [`content_store`] that it uses.

pub mod container;
pub mod content_store;
pub mod engine;
