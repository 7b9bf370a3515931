//! The program as it is typed, on data roots that no daemon uses.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

mod cures;
mod data_root;
mod doctor;
mod exit_codes;
mod files;
mod fleet;
mod foreign;
mod history;
mod index_alone;
mod kernels;
mod labels;
mod metrics;
mod open_files;
mod references;
mod sources;
mod terminal;
