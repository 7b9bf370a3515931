//! The limit on the number of open files in this process (`ulimit -n`).
//!
//! During a run, an open file descriptor (the start block) keeps Docker from starting.
//! This descriptor has a high number, so digestfix could not open it if the limit were
//! low.

use rustix::process::{Resource, getrlimit, setrlimit};

/// The limit that a run needs. The limit has to be higher than the number of the
/// descriptor that keeps Docker from starting.
pub const NEEDED: u64 = 256;

/// Raises the soft limit to the number that a run needs, or to the hard limit if the hard
/// limit is lower. Never lowers the soft limit.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|soft| soft < NEEDED) {
        limit.current = Some(limit.maximum.map_or(NEEDED, |hard| hard.min(NEEDED)));
        // Ignore the error: if the limit is too low for a run, digestfix refuses the run
        // later.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// Returns the limit on open files if it is too low for a run.
pub fn too_few() -> Option<u64> {
    getrlimit(Resource::Nofile)
        .current
        .filter(|soft| *soft < NEEDED)
}
