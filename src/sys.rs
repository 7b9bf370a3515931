//! System calls, text handling and concurrency, each task in its own module.

pub mod directory;
pub mod in_flight;
pub mod interrupt;
pub mod nf_tables;
pub mod open_files;
pub mod printable;
pub mod shell;
pub mod strict_json;

pub(crate) mod at_once;
pub(crate) mod json_error;
pub(crate) mod plain_file;
pub(crate) mod who;
pub(crate) mod whole_file;
