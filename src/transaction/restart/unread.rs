//! References that are in Docker's reference file but not in the running engine, because
//! another program changed the file after the engine started. Even if the plan changes
//! nothing, digestfix restarts Docker so that the engine reads these references.

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

/// If there are more references than this, digestfix asks the engine to list all its
/// references.
const ONE_BY_ONE: usize = 16;

/// For a plan without changes, returns the references that the running Docker will have
/// only after a restart. Returns no reference if the file has not changed since the
/// engine started. In that case, the engine has read the file, and another restart would
/// add no reference that the engine lacks.
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
    // Read the file only after the engine has listed its references, because by then the
    // engine has written these references to the file.
    let file = images.read()?;
    let lost = only_in_engine(&listed, &file, &unread);
    match lost.is_empty() {
        true => Ok(unread),
        false => Err(PlanError::OnlyInEngine(lost)),
    }
}

/// For a plan without changes, returns the claimed references that the engine lacks or
/// has for another image, and the dropped references that the engine still has. Leaves
/// out references whose image the engine does not know, because a restart would not
/// change that.
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

/// The references that the engine lists, but that are missing in the file or belong to
/// another image there. Returns each reference with the engine's image. A restart would
/// lose these references. Leaves out the references in `unread`.
pub fn only_in_engine(
    listed: &References,
    file: &Store,
    unread: &BTreeSet<Reference>,
) -> Vec<(String, String)> {
    listed
        .iter()
        .filter(|(name, image)| {
            // The engine lists images without a name as `<none>`, which is not a
            // reference.
            Reference::parse(name).is_ok_and(|reference| {
                file.get(&reference) != Some(image.as_str()) && !unread.contains(&reference)
            })
        })
        .map(|(name, image)| (name.clone(), image.clone()))
        .collect()
}
