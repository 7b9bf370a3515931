//! How many files this process may have open (`ulimit -n`).
//!
//! The start block of a run is a descriptor with a high number, which a low limit does
//! not allow.

use rustix::process::{Resource, getrlimit, setrlimit};

/// What a run needs: the number of the start block's descriptor, and room above
/// it.
pub const NEEDED: u64 = 256;

/// Raises the soft limit to what a run needs, or to the hard limit where that is lower.
/// Never lowers it.
pub fn raise() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|soft| soft < NEEDED) {
        limit.current = Some(limit.maximum.map_or(NEEDED, |hard| hard.min(NEEDED)));
        // Ignored: a run for which the limit is too low is refused later.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

/// The limit, if it is too low for a run.
pub fn too_few() -> Option<u64> {
    getrlimit(Resource::Nofile)
        .current
        .filter(|soft| *soft < NEEDED)
}
