//! The limit on the number of open files in this process (`ulimit -n`).
//!
//! The start block of a run is a descriptor with a high number, so a low limit would
//! prevent it.

use rustix::process::{Resource, getrlimit, setrlimit};

/// The limit that a run needs: the number of the start block's descriptor, and some more.
pub const NEEDED: u64 = 256;

/// Raises the soft limit to what a run needs, or to the hard limit if that is lower.
/// Never lowers the limit.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|soft| soft < NEEDED) {
        limit.current = Some(limit.maximum.map_or(NEEDED, |hard| hard.min(NEEDED)));
        // Ignore the error: if the limit is too low for a run, digestfix refuses the run
        // later.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// Returns the limit if it is too low for a run.
pub fn too_few() -> Option<u64> {
    getrlimit(Resource::Nofile)
        .current
        .filter(|soft| *soft < NEEDED)
}
