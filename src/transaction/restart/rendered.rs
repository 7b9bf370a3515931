//! The file that a plan makes, and the hashes that it and the one before it
//! are known by in the journal.

use std::fs::File;
use std::path::Path;

use crate::image::digest::Digest;
use crate::plan::Plan;
use crate::state::journal::{hash, hash_pieces};
use crate::store::repositories::{Store, Text};
use crate::sys::at_once::at_once;
use crate::transaction::restart::exchange::{FileError, write_unnamed};

pub(super) struct Rendered {
    /// The hash of the file as it was read.
    pub before: Digest,
    /// The new file.
    pub text: Text,
    /// The new file's hash.
    pub after: Digest,
    /// The new file on the disk, still without a name; none where it cannot be
    /// written so.
    pub written: Result<Option<File>, FileError>,
}

impl Rendered {
    /// Hashes both files and writes the new one beside `live`, all at the same
    /// time, as these three take longest.
    pub(super) fn new(live: &Path, before: &Store, plan: &Plan) -> Self {
        // Without any change, the very bytes that are there.
        let text = match plan.is_empty() {
            true => before.text_as_read(),
            false => plan.after.text(),
        };
        let pieces = text.pieces();
        let (written, (before, after)) = at_once(
            || write_unnamed(live, &pieces),
            || at_once(|| hash(before.as_read()), || hash_pieces(&pieces)),
        );
        drop(pieces);
        Self {
            before,
            text,
            after,
            written,
        }
    }
}
