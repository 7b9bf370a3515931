//! The system's own calls, each done in one place.

pub(crate) mod at_once;
pub(crate) mod plain_file;
pub(crate) mod who;
