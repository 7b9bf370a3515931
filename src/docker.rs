//! Docker as it answers: its API ([`engine`]) and its [`container`]s.

pub mod container;
pub mod content_store;
pub mod engine;
