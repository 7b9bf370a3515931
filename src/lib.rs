//! digestfix gives images on a Docker host their lost digests back.
//!
//! The modules are called rooms, and are listed from top to bottom. A room imports only
//! from rooms below it; tests/rooms.rs checks that:
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`commands`] | one file for each command: load, plan, lock, run, report |
//! | [`report`] | what people and machines read: text, JSON, journald, metrics |
//! | [`cli`] | the command line, and its completion by a shell |
//! | [`doctor`] | what would stop a change, and how to fix that |
//! | [`transaction`] | the engine for all changes, and its methods: begin, apply, undo, restore, conclude, recover |
//! | [`state`] | what digestfix keeps on disk |
//! | [`host`] | where Docker is on this host, and what a restart would affect |
//! | [`plan`] | claims compared with references: changes, conflicts, refusals |
//! | [`claims`] | the claims of users and files about images, and the trust in each claim |
//! | [`store`] | the image stores |
//! | [`docker`] | Docker's API, and its containers |
//! | [`containerd`] | containerd's API, and the CRI |
//! | [`image`] | references, digests, manifests |
//! | [`systemd`] | units and jobs over D-Bus |
//! | [`sys`] | the kernel and the file system |

mod claims;
mod cli;
mod commands;
mod containerd;
mod docker;
mod doctor;
mod host;
mod image;
mod plan;
mod report;
mod state;
mod store;
mod sys;
mod systemd;
mod transaction;

// These exports are for the program, its man pages, the tests in tests/ and the
// benchmarks.
pub use claims::{claim, rewrite, source};
pub use cli::Cli;
pub use commands::run;
pub use image::{digest, manifest, platform, reference};
pub use plan::{Plan, Request};
pub use report::events::Event;
pub use report::output::Output;
pub use store::repositories;
pub use sys::{open_files, printable};
pub use transaction::reserve;

#[cfg(test)]
mod testing;
