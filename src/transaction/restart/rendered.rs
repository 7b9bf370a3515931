//! The contents of the new reference store according to a plan, and the hashes of the old
//! and the new store for the journal.

use std::fs::File;
use std::path::Path;

use crate::image::digest::Digest;
use crate::plan::Plan;
use crate::state::journal::{hash, hash_pieces};
use crate::store::repositories::{Store, Text};
use crate::sys::at_once::at_once;
use crate::transaction::restart::exchange::{FileError, write_unnamed};

pub(super) struct Rendered {
    /// The hash of the old file, as digestfix read it.
    pub before: Digest,
    /// The new file.
    pub text: Text,
    /// The new file's hash.
    pub after: Digest,
    /// The new file on disk, which has no name yet. `None` if the file system does not
    /// support unnamed files.
    pub written: Result<Option<File>, FileError>,
}

impl Rendered {
    /// Hashes both files, and writes the new file beside `live`. Makes the two hashes and
    /// writes the file in parallel, because these steps take the longest.
    pub(super) fn new(live: &Path, before: &Store, plan: &Plan) -> Self {
        // If the plan changes nothing, keep the bytes of the old file.
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
