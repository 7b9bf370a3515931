//! The file that a plan makes, and the hashes that it and the one before it
//! are known by in the journal.

use std::panic::resume_unwind;
use std::thread;

use crate::digest::Digest;
use crate::journal::hash;
use crate::plan::Plan;
use crate::store::Store;

pub(super) struct Rendered {
    /// The hash of the file as it was read.
    pub before: Digest,
    /// The new file.
    pub bytes: Vec<u8>,
    /// The new file's hash.
    pub after: Digest,
}

impl Rendered {
    /// Both files are hashed at the same time, which is what takes longest.
    pub(super) fn new(before: &Store, plan: &Plan) -> Self {
        thread::scope(|scope| {
            let before = scope.spawn(|| hash(before.as_read()));
            let bytes = plan.after.to_bytes();
            let after = hash(&bytes);
            match before.join() {
                Ok(before) => Self {
                    before,
                    bytes,
                    after,
                },
                Err(panic) => resume_unwind(panic),
            }
        })
    }
}
