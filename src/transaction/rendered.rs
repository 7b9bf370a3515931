//! The file that a plan makes, and the hashes that it and the one before it
//! are known by in the journal.

use std::panic::resume_unwind;
use std::thread;

use crate::digest::Digest;
use crate::journal::{hash, hash_pieces};
use crate::plan::Plan;
use crate::store::{Store, Text};

pub(super) struct Rendered {
    /// The hash of the file as it was read.
    pub before: Digest,
    /// The new file.
    pub text: Text,
    /// The new file's hash.
    pub after: Digest,
}

impl Rendered {
    /// Both files are hashed at the same time, which is what takes longest.
    pub(super) fn new(before: &Store, plan: &Plan) -> Self {
        let text = plan.after.text();
        let (before, after) = thread::scope(|scope| {
            let before = scope.spawn(|| hash(before.as_read()));
            let after = hash_pieces(&text.pieces());
            match before.join() {
                Ok(before) => (before, after),
                Err(panic) => resume_unwind(panic),
            }
        });
        Self {
            before,
            text,
            after,
        }
    }
}
