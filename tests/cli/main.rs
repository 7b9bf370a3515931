//! The program as a user types it, on data roots that no daemon uses.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cures;
mod data_root;
mod exit_codes;
mod files;
mod fleet;
mod foreign;
mod kernels;
mod labels;
mod open_files;
mod references;
mod sources;
mod terminal;
