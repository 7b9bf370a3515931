//! The files that the CI system Concourse writes for an image: `repository`, `tag` and
//! `digest`. Concourse's `docker-image` resource also writes `image-id`.

use std::io::Read;
use std::path::Path;

use crate::claims::row::Row;
use crate::claims::source::Problem;
use crate::claims::source::collected::Collected;
use crate::sys::plain_file::{self, Links};

/// The most bytes to read from a file. All texts that Concourse writes are shorter.
const LONGEST: u64 = 1024;

/// Adds the claim of these files. Does nothing if the directory has no such files.
pub(super) fn read(
    directory: &Path,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    let text = |name: &str| {
        let path = directory.join(name);
        let file = plain_file::open(&path, Links::Refused).ok()?;
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned())
    };
    let (Some(name), Some(digest)) = (text("repository"), text("digest")) else {
        return Ok(());
    };
    let row = Row {
        name: &name,
        tag: &text("tag").unwrap_or_default(),
        digest: &digest,
        id: &text("image-id").unwrap_or_default(),
    };
    collected.row(&row, place, None)?;
    Ok(())
}
