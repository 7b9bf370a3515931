//! What digestfix keeps on disk:
//!
//! - [`lock`] lets only one digestfix at a time work on a data root.
//!
//! - [`journal`] says what an unfinished transaction is about to do.
//!
//! - [`pending`] contains markers, by which a later run finds unfinished transactions.
//!
//! - [`loading`] names the archives that a run makes Docker load.
//!
//! - [`history`] contains the record of each transaction.
//!
//! - [`provenance`] contains the evidence for each digest that digestfix wrote.
//!
//! - [`retention`] decides how long digestfix keeps records and backups.
//!
//! Each file format has a version, and an example in tests/formats that digestfix must
//! always be able to read.

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
