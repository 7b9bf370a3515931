//! Runs two functions at the same time, one of them on a second thread. A limit
//! (`RLIMIT_NPROC`, `TasksMax=`) or a system call filter may prevent the start of the
//! second thread.

use std::panic::resume_unwind;
use std::thread::{Builder, scope};

/// Calls both functions at the same time. If no second thread can be started, calls one
/// function after the other.
pub(crate) fn at_once<A: Send, B>(
    mut other: impl FnMut() -> A + Send,
    own: impl FnOnce() -> B,
) -> (A, B) {
    let (done, own) = scope(|scope| {
        let thread = Builder::new().spawn_scoped(scope, &mut other);
        let own = own();
        let done = thread.map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        (done, own)
    });
    (done.unwrap_or_else(|_| other()), own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_done() {
        let mut count = 0;
        assert_eq!(at_once(|| count += 1, || "own"), ((), "own"));
        assert_eq!(count, 1);
    }
}
