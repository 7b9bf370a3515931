//! What digestfix keeps on disk: the [`lock`] on a data root, the [`journal`] of a
//! transaction that has not ended and the marker of [where it is](pending), the mark of
//! archives that Docker [is loading](loading), the [`history`] of those that have, what each digest [was written on](provenance), and
//! how long all that [is kept](retention). Each format has a version, and a fixture
//! that has to load (tests/formats).

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
