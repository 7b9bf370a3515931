//! References in the file that the running engine has not read: another program has
//! changed the file since the engine started. A transaction without a change makes the
//! engine read it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::docker::engine::{Engine, EngineError, References};
use crate::host::{EngineStart, Managed, PID_FILE, PROC};
use crate::image::reference::Reference;
use crate::plan::Plan;
use crate::store::data_root::ImageDir;
use crate::store::repositories::Store;
use crate::transaction::image_store::PlanError;

/// More references than this are asked for in one listing.
const ONE_BY_ONE: usize = 16;

/// The references of a plan without changes that Docker will have only after a restart.
/// The engine has read what changed before its start. If it lacks such a reference all
/// the same, a restart would not help, and neither would a second one.
pub async fn stale<E: Engine>(
    engine: &E,
    host: &Managed,
    images: &ImageDir,
    plan: &Plan,
) -> Result<BTreeSet<Reference>, PlanError> {
    let start = EngineStart::of(Path::new(PROC), host.service.main_pid, Path::new(PID_FILE));
    let file = fs::symlink_metadata(images.store_path()).ok();
    let may_be_unread = start
        .zip(file)
        .is_some_and(|(start, file)| !start.comes_after_change_of(&file));
    if host.engine.is_none() || !may_be_unread {
        return Ok(BTreeSet::new());
    }
    let unread = unread(engine, plan).await?;
    if unread.is_empty() {
        return Ok(unread);
    }
    let listed = engine.references().await?;
    // Read the file after the listing: by then the engine has written what it lists.
    let file = images.read()?;
    let lost = only_in_engine(&listed, &file, &unread);
    match lost.is_empty() {
        true => Ok(unread),
        false => Err(PlanError::OnlyInEngine(lost)),
    }
}

/// For a plan without changes: the claimed references that the engine lacks or has for
/// another image, and the dropped ones that it still has. Without references whose image
/// the engine does not know: a restart would not make it find them.
pub async fn unread<E: Engine>(
    engine: &E,
    plan: &Plan,
) -> Result<BTreeSet<Reference>, EngineError> {
    let count = plan.targets.len() + plan.removals.len();
    let listed = match count > ONE_BY_ONE {
        true => Some(engine.references().await?),
        false => None,
    };
    let find = async |reference: &Reference| match &listed {
        Some(listed) => Ok(listed.get(&reference.familiar()).cloned()),
        None => engine.image(reference).await,
    };
    let mut unread = BTreeSet::new();
    for target in &plan.targets {
        let (reference, image) = (&target.reference, target.image.to_string());
        if !unread.contains(reference)
            && find(reference).await? != Some(image)
            && engine.has_image(&target.image).await?
        {
            unread.insert(reference.clone());
        }
    }
    for reference in &plan.removals {
        if find(reference).await?.is_some() {
            unread.insert(reference.clone());
        }
    }
    Ok(unread)
}

/// The references that the engine lists and the file does not have alike, each with the
/// engine's image: a restart would lose them. Without those that are `unread`.
pub fn only_in_engine(
    listed: &References,
    file: &Store,
    unread: &BTreeSet<Reference>,
) -> Vec<(String, String)> {
    listed
        .iter()
        .filter(|(name, image)| {
            // The engine lists images without a name under `<none>`, which is no
            // reference.
            Reference::parse(name).is_ok_and(|reference| {
                file.get(&reference) != Some(image.as_str()) && !unread.contains(&reference)
            })
        })
        .map(|(name, image)| (name.clone(), image.clone()))
        .collect()
}
