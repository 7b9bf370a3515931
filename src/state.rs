//! What digestfix keeps on disk:
//!
//! - [`lock`]: one digestfix at a time on a data root
//! - [`journal`]: a transaction that has not ended
//! - [`pending`]: markers that lead to such transactions
//! - [`loading`]: the archives that Docker is loading
//! - [`history`]: the record of each transaction
//! - [`provenance`]: how digestfix knew each digest that it wrote
//! - [`retention`]: how long records and backups are kept
//!
//! Each format has a version, and a fixture that has to load (tests/formats).

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
