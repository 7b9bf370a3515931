//! What digestfix keeps on disk:
//!
//! - [`lock`]: one digestfix at a time on a data root
//! - [`journal`]: what a transaction that has not ended is about to do
//! - [`pending`]: markers by which a later run finds such transactions
//! - [`loading`]: the archives that a run makes Docker load
//! - [`history`]: the record of each transaction
//! - [`provenance`]: the evidence for each digest that digestfix wrote
//! - [`retention`]: how long records and backups are kept
//!
//! Each format has a version, and a fixture that must remain readable (tests/formats).

pub mod history;
pub mod id;
pub mod journal;
pub mod loading;
pub mod lock;
pub mod method;
pub mod pending;
pub mod provenance;
pub mod retention;
pub mod rollback;
pub mod state_file;
