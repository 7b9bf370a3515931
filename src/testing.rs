//! What tests share: a fake systemd, a fake engine, its images in containerd, a fake
//! Kubernetes node, and a clock that runs ahead.

#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use tempfile::TempDir;

pub(crate) mod engine;
pub(crate) mod images;
pub(crate) mod node;
mod systemd;

pub(crate) use engine::FakeEngine;
pub(crate) use systemd::FakeSystemd;

/// A directory for a test, in memory if the host has `/dev/shm`: a disk is slow to sync,
/// and nothing here has to outlive a power cut.
pub(crate) fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").unwrap_or_else(|_| TempDir::new().unwrap())
}

/// Runs a future on a runtime whose clock runs ahead when there is nothing to do.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}
