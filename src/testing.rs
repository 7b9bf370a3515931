//! Helpers for tests: a fake systemd, a fake engine, a fake containerd image store, a
//! fake Kubernetes node, and an async runtime whose clock skips waiting times.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use tempfile::TempDir;

pub(crate) mod engine;
pub(crate) mod images;
pub(crate) mod node;
mod systemd;

pub(crate) use engine::FakeEngine;
pub(crate) use systemd::FakeSystemd;

/// A directory for a test. If the host has `/dev/shm`, the directory is in memory, where
/// fsync is fast. Test data need not survive a power cut.
pub(crate) fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").unwrap_or_else(|_| TempDir::new().unwrap())
}

/// Runs a future on an async runtime whose clock jumps ahead whenever all tasks are
/// waiting.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}
