//! Planning for the record method, which adds records to a node's containerd.

use crate::claims::claim::Claim;
use crate::claims::trust::Trust;
use crate::containerd::{AT_ONCE, ContainerdError, Node};
use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::plan::{Plan, Target};
use crate::store::node::NodeStore;
use crate::sys::in_flight::all;
use crate::transaction::goal::Goal;
use crate::transaction::image_store::PlanError;
use crate::transaction::record::steps::{forms, to_be_asked_for};
use crate::transaction::record::work::RecordBlocker;

/// Plans a goal. First reads the manifests of the digests in the goal from the node. A
/// manifest proves its digest, or shows that an import made the digest up.
pub async fn planned(
    here: &mut NodeStore,
    goal: &Goal<'_>,
    node: &impl Node,
) -> Result<Plan, PlanError> {
    let informed;
    let goal = match goal {
        Goal::Claims(request) => {
            let claimed = request.claims.iter().filter_map(Claim::digest);
            let indexes = request.evidence.indexes();
            let parts = indexes.flat_map(|index| request.evidence.missing_parts(index));
            let digests = claimed.chain(parts.map(|part| &part.digest));
            let digests: Vec<Digest> = digests.cloned().collect();
            here.learn(node, digests).await?;
            informed = request.with_manifests(here.manifests());
            &Goal::Claims(&informed)
        }
        Goal::TakeBack(_) => goal,
    };
    let mut plan = goal.plan(&here.store, &here.images);
    if plan.is_err() {
        // A digest that an import made up may stay on the node. Such a digest must not
        // prevent a claim, so plan as if the node did not have this digest.
        here.learn_all(node).await?;
        let store = here.without_made_up(|reference| goal.is_about(reference));
        plan = goal.plan(&store, &here.images);
    }
    let mut plan = plan.map_err(|refusals| goal.refused(refusals))?;
    if let Goal::Claims(_) = goal {
        plan = plan.without_new_tags(|tag, pin| {
            let image = pin.map_or_else(|| "IMAGE".to_owned(), Reference::full);
            format!("ctr -n k8s.io images tag {image} {}", tag.full())
        });
    }
    let insists = matches!(goal, Goal::Claims(request) if request.allow_image_id_digest);
    let made_up = |target: &&Target| {
        let digest = target.reference.digest();
        target.trust < Trust::Proven && digest.is_some_and(|digest| here.is_made_up(digest))
    };
    let made_up = plan.targets.iter().filter(made_up);
    let reasons: Vec<RecordBlocker> = made_up
        .map(|target| RecordBlocker::MadeUp(target.claim.clone()))
        .collect();
    match insists || reasons.is_empty() {
        true => Ok(plan),
        false => Err(PlanError::Unrecordable(reasons)),
    }
}

/// For each target of a plan, whether the CRI lists the planned image. For a sample of
/// the targets, also asks the CRI by name, in each form that a pod may use.
pub async fn answers(
    here: &NodeStore,
    plan: &Plan,
    node: &impl Node,
) -> Result<Vec<bool>, ContainerdError> {
    let targets = &plan.targets;
    let is_listed = |target: &Target| here.store.points_at(&target.reference, &target.image);
    let mut answers: Vec<bool> = targets.iter().map(is_listed).collect();
    let places: Vec<usize> = (0..targets.len()).collect();
    let asked = to_be_asked_for(&places).map(async |place| {
        let target = &targets[*place];
        let tag = here.tag_beside(&target.reference);
        let mut holds = true;
        for form in forms(&target.reference, tag.as_deref()) {
            holds &= node.cri_image(&form).await?.as_ref() == Some(&target.image);
        }
        Ok::<_, ContainerdError>((*place, holds))
    });
    for (place, holds) in all(asked, AT_ONCE).await? {
        answers[place] &= holds;
    }
    Ok(answers)
}
