//! References in the file that the running engine has not read: another program has
//! changed the file since the engine started. A transaction without a change makes the
//! engine read it.

use std::collections::BTreeSet;

use crate::docker::engine::{Engine, EngineError, References};
use crate::image::reference::Reference;
use crate::plan::Plan;
use crate::store::repositories::Store;

/// More references than this are asked for in one listing.
const ONE_BY_ONE: usize = 16;

/// Of a plan without changes: the claimed references that the engine has not or has
/// otherwise, and the dropped ones that it still has. Not those whose image the engine
/// does not know: a new start would not make it find them.
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

/// What the engine lists otherwise than the file has it, but for what is
/// `unread`: it would be lost at a new start. Each with its image.
pub fn only_in_engine(
    listed: &References,
    file: &Store,
    unread: &BTreeSet<Reference>,
) -> Vec<(String, String)> {
    listed
        .iter()
        .filter(|(name, image)| {
            // Images without a name are listed under `<none>`, which is none.
            Reference::parse(name).is_ok_and(|reference| {
                file.get(&reference) != Some(image.as_str()) && !unread.contains(&reference)
            })
        })
        .map(|(name, image)| (name.clone(), image.clone()))
        .collect()
}
