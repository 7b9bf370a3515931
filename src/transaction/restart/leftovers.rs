//! Files that an interrupted run left beside the reference store.
//!
//! The name of each file shows which store it contains. The name with the transaction's
//! ID belongs to the new store before the swap, and to the old store after the swap. If
//! the name also ends in `+`, the file is a store that undo was about to swap in. If the
//! name ends in `.old`, the file is the old store, on a file system that cannot exchange
//! names in one step.

use std::fs;
use std::io;
use std::path::Path;

use crate::image::digest::Digest;
use crate::state::id::{beside, with_suffix};
use crate::state::journal::{Intent, Journal, Phase, hash};
use crate::state::lock::RootLock;
use crate::store::data_root::{ImageDir, ReadError};
use crate::store::repositories::{self, Store};
use crate::sys::directory;
use crate::sys::plain_file::{self, Links};
use crate::transaction::outcome::{Failure, Progress, Step};
use crate::transaction::restart::exchange::{FileError, write_new};

/// Restores the reference store if it is missing or unreadable, for example after a power
/// cut. Sets an unreadable store aside, and writes a complete copy of the old store in
/// its place. If there is no copy of the old store, writes a copy of the new store. Fails
/// if there is no copy of either store.
pub fn mend(
    journal: &Journal,
    images: &ImageDir,
    lock: &RootLock,
    progress: &mut dyn Progress,
) -> Result<(), Failure> {
    if images.driver() != journal.references.driver {
        return Ok(());
    }
    let live = images.store_path();
    let own = beside(&live, &journal.id);
    finish_exchange(&live, &own)?;
    let error = match images.read() {
        Err(error @ (ReadError::Missing { .. } | ReadError::Content { .. })) => error,
        _ => return Ok(()),
    };
    // Restore nothing while a dockerd is running, because dockerd would overwrite the
    // restored store.
    if images.is_in_use()? {
        return Ok(());
    }
    let references = &journal.references;
    let copies = [&references.before, &references.after];
    let Some(copy) = copies.into_iter().find_map(|wanted| read(&own, wanted)) else {
        return Err(Failure::NoReferences(error));
    };
    let mended = with_suffix(&own, "+");
    directory::remove(&mended).map_err(FileError::new("remove", &mended))?;
    write_new(&mended, &[&copy], Some(&own))?;
    if live.symlink_metadata().is_ok() {
        let torn = with_suffix(&own, ".torn");
        fs::rename(&live, &torn).map_err(FileError::new("rename", &live))?;
    }
    fs::rename(&mended, &live).map_err(FileError::new("rename", &mended))?;
    directory::sync(&live).map_err(FileError::new("sync", lock.data_root()))?;
    let detail = format!(
        "the references could not be read ({error}), so digestfix put a complete copy in place"
    );
    progress.step(Step::UndoCommit, &detail);
    Ok(())
}

/// Removes files that no program will read any more. Keeps the old reference store as a
/// backup.
pub fn remove(journal: &Journal, images: &ImageDir) {
    if images.driver() != journal.references.driver || images.read().is_err() {
        return;
    }
    let own = beside(&images.store_path(), &journal.id);
    // Keep the file as a backup only if it is a complete store that was in use.
    if let Ok(bytes) = plain_file::read(&own, Links::Refused, repositories::MAX_BYTES + 1) {
        let found = hash(&bytes);
        let is_former = match &journal.intent {
            Intent::Restart(restart) => restart.phase == Phase::Stopping,
            Intent::Edit => found == journal.references.before,
            Intent::Load(_) | Intent::Record(_) => false,
        };
        let is_backup =
            is_former && found != journal.references.after && Store::parse(bytes).is_ok();
        if !is_backup {
            remove_quietly(&own);
        }
    }
    let mut undo = with_suffix(&own, "+");
    while undo.symlink_metadata().is_ok() && remove_quietly(&undo) {
        undo.as_mut_os_string().push("+");
    }
}

/// Finishes or cancels an interrupted three-step exchange. If the new store is already in
/// use, gives the old store the name of the backup. Otherwise, the old store is still in
/// use, and this function removes the second name of the old store.
fn finish_exchange(live: &Path, own: &Path) -> Result<(), FileError> {
    let mut staged = own.to_owned();
    loop {
        let old = with_suffix(&staged, ".old");
        if old.symlink_metadata().is_ok() {
            let finished = if staged.symlink_metadata().is_ok() {
                fs::remove_file(&old)
            } else {
                fs::rename(&old, &staged)
            };
            finished.map_err(FileError::new("rename", &old))?;
            directory::sync(live).map_err(FileError::new("sync", live))?;
        }
        staged.as_mut_os_string().push("+");
        if staged.symlink_metadata().is_err()
            && with_suffix(&staged, ".old").symlink_metadata().is_err()
        {
            return Ok(());
        }
    }
}

fn read(path: &Path, wanted: &Digest) -> Option<Vec<u8>> {
    let bytes = plain_file::read(path, Links::Refused, repositories::MAX_BYTES + 1).ok()?;
    (hash(&bytes) == *wanted && Store::parse(bytes.as_slice()).is_ok()).then_some(bytes)
}

/// Removes a file that no program reads. Returns false if that fails.
fn remove_quietly(path: &Path) -> bool {
    match fs::remove_file(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
