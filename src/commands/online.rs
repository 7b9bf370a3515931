//! The containerd image store, where the running engine makes each change
//! itself: what `status`, `plan`, `apply`, `verify` and `rollback` do there.

use std::path::{Path, PathBuf};

use crate::claims::claim::{Claim, ImageName, Statement};
use crate::claims::evidence::Evidence;
use crate::claims::trust::Trust;
use crate::commands::plan::nothing_to_change;
use crate::commands::{Site, Stop, engine_at, provenance, verify};
use crate::docker::content_store::ContentStore;
use crate::docker::engine::images::Images;
use crate::docker::engine::{EngineError, UnixEngine};
use crate::host::impact::AssessError;
use crate::host::{HostError, Managed, StoreKind};
use crate::image::digest::{Digest, ImageId};
use crate::image::manifest::Manifest;
use crate::image::reference::Reference;
use crate::plan::status::{State, rows};
use crate::plan::{Plan, Request, Why};
use crate::report::Report;
use crate::report::run_result::RunResult;
use crate::state::history::{self, Record};
use crate::state::lock::RootLock;
use crate::state::pending::PENDING;
use crate::state::retention::Limits;
use crate::store::containerd::ContainerdStore;
use crate::sys::interrupt::Interrupt;
use crate::systemd::SystemBus;
use crate::transaction::goal::Goal;
use crate::transaction::load::work::{LoadBlocker, Work};
use crate::transaction::load::{Load, Running, known_references};
use crate::transaction::outcome::{Outcome, Progress};
use crate::transaction::{Docker, Tx};

/// A running engine with the containerd image store.
pub(super) struct Containerd<'a> {
    site: &'a Site,
    bus: &'a SystemBus,
    managed: &'a Managed,
    engine: UnixEngine,
    content: ContentStore,
    containerd_root: Option<PathBuf>,
}

/// What is to be done there.
struct Draft {
    here: ContainerdStore,
    plan: Plan,
    work: Work,
}

impl<'a> Containerd<'a> {
    /// The engine of a site; none where Docker keeps its images itself.
    pub(super) fn of(
        site: &'a Site,
        containerd_root: Option<&'a Path>,
    ) -> Result<Option<Self>, Stop> {
        if site.host.image_store == StoreKind::Own {
            return Ok(None);
        }
        let running = site.managed();
        let running = running.filter(|(_, managed)| managed.engine.is_some());
        let (bus, managed) = running.ok_or(HostError::ContainerdImageStore)?;
        let data_root = site.images().data_root();
        Ok(Some(Self {
            site,
            bus,
            managed,
            engine: engine_at(&managed.socket),
            content: ContentStore::of(data_root, containerd_root),
            containerd_root: containerd_root.map(Path::to_owned),
        }))
    }

    /// A transaction is taken back where it was made, when nothing else is said.
    fn look_where_it_was(&mut self, goal: &Goal<'_>) -> Result<(), Stop> {
        let Goal::TakeBack(reversal) = goal else {
            return Ok(());
        };
        let data_root = self.site.images().data_root();
        let record = history::read(data_root, &reversal.id)?;
        if let (None, Some(root)) = (
            &self.containerd_root,
            record.and_then(|record| record.containerd_root),
        ) {
            self.content = ContentStore::of(data_root, Some(&root));
            self.containerd_root = Some(root);
        }
        Ok(())
    }

    pub(super) fn running(&self) -> Running<'_, SystemBus, UnixEngine> {
        Running {
            docker: Docker {
                manager: self.bus,
                host: self.managed,
                pending: Path::new(PENDING),
            },
            engine: &self.engine,
            content: &self.content,
            containerd_root: self.containerd_root.as_deref(),
        }
    }

    /// All that the engine lists, and of what it does not, what digestfix wrote.
    pub(super) async fn read(&self) -> Result<ContainerdStore, Stop> {
        let mut here = ContainerdStore::read(&self.engine, self.content.clone())
            .await
            .map_err(AssessError::from)?;
        let known = known_references(self.site.images());
        here.ask(&self.engine, known)
            .await
            .map_err(AssessError::from)?;
        Ok(here)
    }

    /// The plan for an goal.
    async fn plan(&self, goal: &Goal<'_>) -> Result<(ContainerdStore, Plan), Stop> {
        planned(self.read().await?, goal, &self.engine).await
    }

    async fn draft(&self, goal: &Goal<'_>) -> Result<Draft, Stop> {
        let (here, plan) = self.plan(goal).await?;
        let work = match goal {
            Goal::Claims(request) => Work::of(&plan, &here, &request.evidence, &self.engine).await,
            Goal::TakeBack(reversal) => {
                let record = history::read(self.site.images().data_root(), &reversal.id)?;
                let kept = record.map_or_else(Evidence::default, |record| kept(&record));
                Work::of(&plan, &here, &kept, &self.engine).await
            }
        };
        let work = work.map_err(AssessError::from)?.map_err(Stop::Unloadable)?;
        Ok(Draft { here, plan, work })
    }

    /// `digestfix status`.
    pub(super) async fn status(&self, report: &mut Report) -> Result<(), Stop> {
        let here = self.read().await?;
        let provenance = provenance(self.site.images(), report);
        let known = |reference: &Reference, image: &_| {
            if here.proof(reference.digest()?, image).is_some() {
                return Some((Trust::Proven, "the engine's content store".to_owned()));
            }
            let written = provenance.of(reference, image)?;
            Some((written.trust, written.origin.clone()))
        };
        let mut rows = rows(&here.store, &here.images, known);
        for row in &mut rows {
            let reference = row
                .digest
                .as_ref()
                .and_then(|digest| Reference::parse(&format!("{}@{digest}", row.repository)).ok());
            if row.state == State::Ok && reference.is_some_and(|one| here.is_hollow(&one)) {
                row.state = State::RunsOnly;
            }
        }
        report.status(rows, &[]);
        warn_of_unread(&here, report);
        let nameless: Vec<_> = here.nameless().map(|(_, target)| target).collect();
        warn_of_nameless(&nameless, report);
        Ok(())
    }

    /// `digestfix plan`.
    pub(super) async fn show_plan(
        &self,
        request: &Request,
        report: &mut Report,
    ) -> Result<RunResult, Stop> {
        let draft = self.draft(&Goal::Claims(request)).await?;
        warn_of_unread(&draft.here, report);
        warn_of_nameless(&nameless_in(&draft.here, &draft.plan), report);
        report.plan(&draft.plan);
        report.say_host();
        report.say_plan(&draft.plan);
        report.say_skipped(&draft.plan);
        if draft.plan.is_empty() {
            return Ok(nothing_to_change(&draft.plan, report));
        }
        report.loads();
        warn_of_run_only("may have", &draft.work.run_only, report);
        Ok(RunResult::Pending)
    }

    /// `digestfix verify`.
    pub(super) async fn verify(
        &self,
        request: &Request,
        report: &mut Report,
    ) -> Result<RunResult, Stop> {
        let (here, plan) = self.plan(&Goal::Claims(request)).await?;
        warn_of_unread(&here, report);
        warn_of_nameless(&nameless_in(&here, &plan), report);
        report.plan(&plan);
        let answers = answers(&here, &plan, &self.engine).await;
        let answers = answers.map_err(AssessError::from)?;
        report.verified(&plan, Some(&answers));
        report.say_skipped(&plan);
        if plan.is_empty() && answers.iter().all(|holds| *holds) {
            return Ok(verify::all_holds(&plan, report));
        }
        report.line(&format!(
            "Not all of it holds. To make it so: {}",
            verify::apply()
        ));
        Ok(RunResult::Pending)
    }

    /// A first look without the lock; false when there is nothing to do.
    pub(super) async fn look(mut self, goal: &Goal<'_>, report: &mut Report) -> Result<bool, Stop> {
        self.look_where_it_was(goal)?;
        let draft = self.draft(goal).await?;
        report.plan(&draft.plan);
        if draft.plan.is_empty() {
            warn_of_unread(&draft.here, report);
            warn_of_nameless(&nameless_in(&draft.here, &draft.plan), report);
            report.say_skipped(&draft.plan);
        }
        Ok(!draft.plan.is_empty())
    }

    /// Makes a wanted come true, under the lock. None when there is nothing to do.
    pub(super) async fn change(
        mut self,
        goal: &Goal<'_>,
        lock: RootLock,
        limits: Limits,
        interrupt: &Interrupt,
        report: &mut Report,
    ) -> Result<Option<Outcome>, Stop> {
        self.look_where_it_was(goal)?;
        let Draft { here, plan, work } = self.draft(goal).await?;
        warn_of_unread(&here, report);
        warn_of_nameless(&nameless_in(&here, &plan), report);
        report.plan(&plan);
        if plan.is_empty() {
            return Ok(None);
        }
        report.say_host();
        if let Goal::TakeBack(reversal) = goal {
            report.line(&format!("Taking back transaction {}:", reversal.id));
        }
        report.say_plan(&plan);
        report.say_skipped(&plan);
        report.loads();
        let running = self.running();
        let method = Load::new(running, &here, work);
        let tx = Tx::new(
            self.site.images(),
            lock,
            goal.kind(),
            limits,
            Some(running.docker),
            interrupt,
            report,
            plan,
        );
        Ok(Some(tx.run(method).await))
    }
}

/// The plan for an goal. Each reference that it would add is looked for first: the
/// engine may have it and not list it.
async fn planned(
    mut here: ContainerdStore,
    goal: &Goal<'_>,
    engine: &impl Images,
) -> Result<(ContainerdStore, Plan), Stop> {
    see_root(&here, goal)?;
    let informed;
    let goal = match goal {
        Goal::Claims(request) => {
            informed = informed_by(&here, request);
            &Goal::Claims(&informed)
        }
        Goal::TakeBack(_) => goal,
    };
    loop {
        let plan = goal.plan(&here.store, &here.images);
        let plan = plan.map_err(|refusals| goal.refused(refusals))?;
        let added = plan.changes.iter().filter(|change| change.from.is_none());
        let added = added.map(|change| change.reference.clone());
        let sought: Vec<Reference> = added.chain(plan.removals.iter().cloned()).collect();
        let asked = here.ask(engine, sought).await;
        let is_news = asked.map_err(AssessError::from)?;
        if is_news {
            see_root(&here, goal)?;
        } else if !accepted(&mut here, &plan, goal)? {
            return Ok((here, plan));
        }
    }
}

/// Which targets of a plan the engine finds as they are to be.
async fn answers(
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

/// A request, and what containerd has of the manifests that it is about.
fn informed_by(here: &ContainerdStore, request: &Request) -> Request {
    let mut request = request.clone();
    let claimed = request.claims.iter().filter_map(Claim::digest);
    let parts = request.evidence.indexes();
    let parts = parts.flat_map(|index| request.evidence.missing_parts(index));
    let digests = claimed.chain(parts.map(|part| &part.digest));
    let found: Vec<_> = digests.flat_map(|digest| here.manifests(digest)).collect();
    for (digest, text) in found {
        if let Ok(manifest) = Manifest::parse(text.as_bytes()) {
            request.evidence.keep(&digest, text.as_bytes());
            let place = "containerd's content store";
            request.evidence.add_manifest(digest, manifest, place);
        }
    }
    request
}

/// Counts digests that look made up and are said not to be. Says whether there
/// was one; those that nothing speaks for are refused.
fn accepted(here: &mut ContainerdStore, plan: &Plan, goal: &Goal<'_>) -> Result<bool, Stop> {
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
    if reasons.is_empty() {
        Ok(any)
    } else {
        Err(Stop::Unloadable(reasons))
    }
}

/// Where containerd keeps its blobs is not where they were looked for, or that of
/// a reference that matters.
fn see_root(here: &ContainerdStore, goal: &Goal<'_>) -> Result<(), Stop> {
    if here.nothing_was_read() {
        return Err(Stop::Unloadable(vec![LoadBlocker::NothingRead]));
    }
    let matters = |reference: &&Reference| match goal {
        Goal::Claims(request) => {
            request.removals.contains(reference)
                || request
                    .claims
                    .iter()
                    .any(|claim| is_about(claim, reference))
        }
        Goal::TakeBack(reversal) => {
            let mut changes = reversal.changes.iter();
            changes.any(|change| change.reference == **reference)
        }
    };
    let unread = here.unread().iter().filter(matters);
    let unread: Vec<LoadBlocker> = unread.cloned().map(LoadBlocker::Unread).collect();
    match unread.is_empty() {
        true => Ok(()),
        false => Err(Stop::Unloadable(unread)),
    }
}

/// A claim wants a reference, or goes by it.
fn is_about(claim: &Claim, reference: &Reference) -> bool {
    match &claim.statement {
        Statement::TaggedHasDigest {
            repository,
            tag,
            digest,
        } => {
            reference.repository() == repository
                && (reference.tag() == Some(tag) || reference.digest() == Some(digest))
        }
        Statement::OnlyImageHasDigest { repository, digest } => {
            reference.repository() == repository && reference.digest() == Some(digest)
        }
        Statement::PointsAt {
            reference: wanted,
            image,
        } => {
            let names = match image {
                ImageName::Reference(name) | ImageName::ReferenceOrPrefix(name, _) => {
                    name == reference
                }
                ImageName::Id(_) | ImageName::Prefix(_) => false,
            };
            names || wanted == reference
        }
        // Where it is not said for which, all of them are looked through.
        Statement::ManifestBrought { .. } => false,
    }
}

fn warn_of_unread(here: &ContainerdStore, report: &mut Report) {
    if here.unread().is_empty() {
        return;
    }
    let names: Vec<String> = here.unread().iter().map(Reference::familiar).collect();
    report.warning(&format!(
        "no image for this machine is in containerd's content store for: {} (--containerd-root DIR says \
         where that is)",
        names.join(", ")
    ));
}

/// The images without a name that claims of a plan are about, as Docker calls them.
fn nameless_in<'h>(here: &'h ContainerdStore, plan: &Plan) -> Vec<&'h Digest> {
    let is_skipped = |image: &ImageId| {
        let image = image.to_string();
        let mut skipped = plan.skipped.iter();
        skipped.any(|one| matches!(&one.why, Why::Nameless(other) if *other == image))
    };
    let nameless = here.nameless().filter(|(image, _)| is_skipped(image));
    nameless.map(|(_, target)| target).collect()
}

/// Docker calls an image here by its manifest, and not by the ID that a claim has.
fn warn_of_nameless(images: &[&Digest], report: &mut Report) {
    const NAMED: usize = 3;
    let shown: Vec<String> = images.iter().take(NAMED).map(ToString::to_string).collect();
    let more = match images.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more (docker images -f dangling=true)"),
    };
    if let Some(first) = shown.first() {
        report.warning(&format!(
            "images here have no name to have a digest under: {}{more}. Name one first: docker tag {first} \
             NAME:TAG",
            shown.join(", ")
        ));
    }
}

/// The manifests that a transaction's record has.
fn kept(record: &Record) -> Evidence {
    let mut evidence = Evidence::default();
    for (digest, text) in &record.manifests {
        if let Ok(manifest) = Manifest::parse(text.as_bytes()) {
            evidence.keep(digest, text.as_bytes());
            evidence.add_manifest(digest.clone(), manifest, &record.id);
        }
    }
    evidence
}

/// What looks whole and is not.
pub(super) fn warn_of_run_only(has: &str, references: &[Reference], report: &mut Report) {
    let whose = match references {
        [] => return,
        [one] => format!("of {one}"),
        several => format!("of {} of these digests", several.len()),
    };
    report.warning(&format!(
        "Docker {has} the layers {whose} unpacked, and not as the registry serves them. Containers run by \
         the digest; but docker save and docker commit by it leave the layers out AND SAY NOTHING, and docker \
         push and a BuildKit FROM fail. Before Docker 29, docker images does not list it, or docker image \
         inspect shows no configuration. For those, use the tag"
    ));
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use super::*;
    use crate::image::digest::Algorithm;
    use crate::testing::images::{FakeImages, reference, served};

    /// Each by itself would take the engine 50 to 90 ms.
    #[tokio::test]
    async fn a_thousand_are_planned_and_verified_in_two_requests() {
        for (is_new, has_containerd) in [(true, false), (true, true), (false, true)] {
            let engine = FakeImages::new();
            engine.is_new.set(is_new);
            engine.has_containerd.set(has_containerd);
            let image = engine.config("app", "amd64");
            let manifest = served(&image);
            let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
            let mut request = Request::default();
            request.evidence.keep(&digest, manifest.as_bytes());
            let parsed = Manifest::parse(manifest.as_bytes()).unwrap();
            request.evidence.add_manifest(digest.clone(), parsed, "F");
            let loaded = engine.loaded("lab/app:v1", &image);
            for number in 0..1000 {
                let tag = reference(&format!("lab/app{number}:v1"));
                engine.records.borrow_mut().insert(tag, loaded.clone());
                let claim = format!("lab/app{number}:v1@{digest}");
                request.claims.push(claim.parse().unwrap());
            }
            for holds in [false, true] {
                engine.requests.set(0);
                let here = ContainerdStore::read(&engine, engine.content())
                    .await
                    .unwrap();
                let (here, plan) = planned(here, &Goal::Claims(&request), &engine)
                    .await
                    .unwrap_or_else(|_| panic!("it can be planned"));
                assert_eq!(plan.is_empty(), holds);
                let answers = answers(&here, &plan, &engine).await.unwrap();
                assert_eq!(answers, vec![holds; 1000]);
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
