//! Planning for the load method, in which the running Docker loads manifests.

use crate::claims::trust::Trust;
use crate::docker::engine::EngineError;
use crate::docker::engine::images::Images;
use crate::image::reference::Reference;
use crate::plan::Plan;
use crate::store::containerd::ContainerdStore;
use crate::transaction::goal::Goal;
use crate::transaction::image_store::PlanError;
use crate::transaction::load::work::LoadBlocker;

/// Plans a goal. Asks the engine for each reference that the plan would add or remove,
/// because the engine may have a reference without listing it.
pub async fn planned(
    here: &mut ContainerdStore,
    goal: &Goal<'_>,
    engine: &impl Images,
) -> Result<Plan, PlanError> {
    see_root(here, goal)?;
    let informed;
    let goal = match goal {
        Goal::Claims(request) => {
            informed = request.with_manifests_of(here);
            &Goal::Claims(&informed)
        }
        Goal::TakeBack(_) => goal,
    };
    loop {
        let plan = goal.plan(&here.store, &here.images);
        let mut plan = plan.map_err(|refusals| goal.refused(refusals))?;
        if let Goal::Claims(_) = goal {
            plan = plan.without_new_tags(|tag, pin| {
                let image = pin.map_or_else(|| "IMAGE".to_owned(), ToString::to_string);
                format!("docker tag {image} {tag}")
            });
        }
        let added = plan.changes.iter().filter(|change| change.from.is_none());
        let added = added.map(|change| change.reference.clone());
        let sought: Vec<Reference> = added.chain(plan.removals.iter().cloned()).collect();
        if here.ask(engine, sought).await? {
            see_root(here, goal)?;
        } else if !accepted(here, &plan, goal)? {
            return Ok(plan);
        }
    }
}

/// For each target of a plan, whether the engine finds the planned image.
pub async fn answers(
    here: &ContainerdStore,
    plan: &Plan,
    engine: &impl Images,
) -> Result<Vec<bool>, EngineError> {
    let mut answers = Vec::with_capacity(plan.targets.len());
    for target in &plan.targets {
        let found = here.find(engine, &target.reference).await?;
        let leads_to = found.and_then(|listed| listed.target());
        answers.push(match target.reference.digest() {
            Some(digest) => {
                leads_to.as_ref() == Some(digest) && here.config(&target.image).is_some()
            }
            None => leads_to.is_some() && target.holds,
        });
    }
    Ok(answers)
}

/// Some digests look as if Docker made up their manifests. Accepts such a digest if a
/// manifest proves it, or if the user allows it with an option. Refuses the other
/// digests. Returns whether it accepted any digest.
fn accepted(here: &mut ContainerdStore, plan: &Plan, goal: &Goal<'_>) -> Result<bool, PlanError> {
    let insists = matches!(goal, Goal::Claims(request) if request.allow_image_id_digest);
    let (mut any, mut reasons) = (false, Vec::new());
    for target in &plan.targets {
        if !here.is_made_up(&target.reference) {
            continue;
        }
        if insists || target.trust == Trust::Proven {
            here.accept(&target.reference);
            any = true;
        } else {
            reasons.push(LoadBlocker::MadeUp(target.claim.clone()));
        }
    }
    refuse(reasons).map(|()| any)
}

/// Fails if digestfix could not read containerd's content store, or could not read the
/// image of a reference that the goal is about.
fn see_root(here: &ContainerdStore, goal: &Goal<'_>) -> Result<(), PlanError> {
    if here.nothing_was_read() {
        return refuse(vec![LoadBlocker::NothingRead]);
    }
    let unread = here.unread().iter().filter(|one| goal.is_about(one));
    refuse(unread.cloned().map(LoadBlocker::Unread).collect())
}

fn refuse(reasons: Vec<LoadBlocker>) -> Result<(), PlanError> {
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(PlanError::Unloadable(reasons)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::image::digest::{Algorithm, Digest};
    use crate::plan::Request;
    use crate::testing::images::{FakeImages, reference, served};

    /// Separate requests would take the engine 50 to 90 ms for each reference.
    #[tokio::test]
    async fn hundreds_are_planned_and_verified_in_two_requests() {
        for (is_new, has_containerd) in [(true, false), (true, true), (false, true)] {
            let engine = FakeImages::new();
            engine.is_new.set(is_new);
            engine.has_containerd.set(has_containerd);
            let image = engine.config("app", "amd64");
            let manifest = served(&image);
            let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
            let mut request = Request::default();
            let texts = [(digest.clone(), manifest.clone())];
            request.evidence.add_texts(texts, "F");
            let loaded = engine.loaded("lab/app:v1", &image);
            for number in 0..300 {
                let tag = reference(&format!("lab/app{number}:v1"));
                engine.records.borrow_mut().insert(tag, loaded.clone());
                let claim = format!("lab/app{number}:v1@{digest}");
                request.claims.push(claim.parse().unwrap());
            }
            for holds in [false, true] {
                engine.requests.set(0);
                let here = ContainerdStore::read(&engine, engine.content());
                let mut here = here.await.unwrap();
                let goal = Goal::Claims(&request);
                let plan = planned(&mut here, &goal, &engine).await.unwrap();
                assert_eq!(plan.is_empty(), holds);
                let answers = answers(&here, &plan, &engine).await.unwrap();
                assert_eq!(answers, vec![holds; 300]);
                assert_eq!(engine.requests.get(), 2, "{is_new}");
                engine.blob(&manifest);
                for change in plan.changes {
                    let records = &engine.records;
                    records
                        .borrow_mut()
                        .insert(change.reference, digest.clone());
                }
            }
        }
    }
}
