//! Whether the running engine has read what the file says.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::commands::{Draft, Site, Stop, engine_at};
use crate::docker::engine::Engine;
use crate::host::impact::AssessError;
use crate::host::{EngineStart, Managed, PID_FILE, PROC};
use crate::image::reference::Reference;
use crate::transaction::restart::unread::{only_in_engine, unread};

/// The references of a draft without changes that only a new start of Docker
/// makes true. What changed before the engine's start, it has read: where it
/// does not have that all the same, a new start would not help, and the one
/// after that not either.
pub(super) async fn of_draft(site: &Site, draft: &Draft) -> Result<BTreeSet<Reference>, Stop> {
    let Some((_, managed)) = site.managed() else {
        return Ok(BTreeSet::new());
    };
    if !draft.plan.is_empty() || managed.engine.is_none() || !may_be_unread(site, managed) {
        return Ok(BTreeSet::new());
    }
    let engine = engine_at(&managed.socket);
    let unread = unread(&engine, &draft.plan).await;
    let unread = unread.map_err(AssessError::from)?;
    if unread.is_empty() {
        return Ok(unread);
    }
    let listed = engine.references().await.map_err(AssessError::from)?;
    // In this order: what the engine lists, it has written down by then.
    let file = site.images().read()?;
    let lost = only_in_engine(&listed, &file, &unread);
    if lost.is_empty() {
        Ok(unread)
    } else {
        Err(Stop::OnlyInEngine(lost))
    }
}

fn may_be_unread(site: &Site, managed: &Managed) -> bool {
    let start = EngineStart::of(
        Path::new(PROC),
        managed.service.main_pid,
        Path::new(PID_FILE),
    );
    let file = fs::symlink_metadata(site.images().store_path());
    match (start, file) {
        (Some(start), Ok(file)) => !start.comes_after_change_of(&file),
        _ => false,
    }
}
