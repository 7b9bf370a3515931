//! digestfix gives images on a Docker host their lost digests back.
//!
//! The way of the data, and where to find it:
//!
//! 1. `claim`: what somebody says should be true of which image, typed or
//!    out of a file (`source`), with the `evidence` for it: each digest is
//!    proven, matched or asserted (`trust`);
//! 2. [`host`]: where Docker lives here, and whether it runs;
//! 3. `data_root` and `store`: the references as they are;
//! 4. [`plan`]: claims against the store, as a list of changes or refusals;
//! 5. `impact`: what a stop of Docker would touch, each `container`
//!    above all, and whether `live_restore` can keep it;
//! 6. [`transaction`]: under a `lock`, with a `journal` for a run that is killed:
//!    Docker is stopped and its file exchanged, or, where images are in containerd
//!    (`containerd_store`), the running engine loads an `oci_archive` of manifests;
//! 7. `history`: what each transaction did, for `rollback` to take one
//!    back, and `retention` to end it;
//! 8. [`report`]: what people and machines read, by way of `output`, which
//!    keeps nobody waiting; `provenance` keeps what each digest was written on;
//!    `events` go to `journald`, and `metrics` to node_exporter, each with
//!    its `run_result`.
//!
//! [`doctor`] looks at all of that, and tells what would stop a change.
//!
//! [`commands`] puts these together, one file a command, from what [`cli`]
//! understood; `completion` tells a shell how a line may go on. [`systemd`] and `engine` are the edges to the two daemons,
//! `nf_tables` is the one to the kernel's packet filter.

pub mod claims;
pub mod cli;
pub mod commands;
pub mod docker;
pub mod doctor;
pub mod host;
pub mod image;
pub mod plan;
pub mod report;
pub mod state;
pub mod store;
pub mod sys;
pub mod systemd;
#[cfg(test)]
mod testing;
pub mod transaction;
