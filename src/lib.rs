//! digestfix gives images on a Docker host their lost digests back.
//!
//! The rooms, from top to bottom. Each imports from rooms below it only, which
//! tests/rooms.rs checks:
//!
//! | room | what is in it |
//! | --- | --- |
//! | [`commands`] | one file a command: load, plan, lock, run, tell |
//! | [`report`] | what people and machines read: text, JSON, journald, metrics |
//! | [`cli`] | what can be typed, and how a shell goes on with it |
//! | [`doctor`] | what would stop a change, and what to do about it |
//! | [`transaction`] | the one engine and its methods: begin, apply, undo, restore, conclude, recover |
//! | [`state`] | what digestfix keeps on disk |
//! | [`host`] | where Docker lives, and what a restart of it would touch |
//! | [`plan`] | claims against references: changes, conflicts, refusals |
//! | [`claims`] | what is said of images, in which file, and how far it is known |
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

// For the program, its man pages, the tests in tests/ and the benchmarks.
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
