//! The containerd image store, where the running engine makes each change
//! itself: what `status`, `plan`, `apply`, `verify` and `rollback` do there.

use std::path::Path;

use crate::claim::Claim;
use crate::commands::{Site, Stop, engine_at, grounds};
use crate::containerd_store::ContainerdStore;
use crate::content_store::ContentStore;
use crate::disturbance::AssessError;
use crate::engine::UnixEngine;
use crate::engine::images::Images;
use crate::evidence::Evidence;
use crate::grounds::Grounds;
use crate::history::{self, Record};
use crate::host::{HostError, ImageStore, Managed};
use crate::interrupt::Interrupt;
use crate::manifest::Manifest;
use crate::method::Method;
use crate::online::work::{Unfit, Work};
use crate::online::{OnlineChange, Outcome, Running};
use crate::plan::{Plan, Request};
use crate::reference::Reference;
use crate::report::{Exit, Problem, Report};
use crate::retention::Limits;
use crate::status::{State, rows};
use crate::systemd::SystemBus;
use crate::transaction::aim::Aim;
use crate::transaction::lock::RootLock;
use crate::transaction::outcome::{Failure, Progress};
use crate::trust::Trust;
use crate::unfinished::UNFINISHED;

/// Why it is this method.
const WHY: &str = "images are in containerd, and the running Docker is asked by its API";

/// A running engine with the containerd image store.
pub(super) struct Containerd<'a> {
    site: &'a Site,
    bus: &'a SystemBus,
    managed: &'a Managed,
    engine: UnixEngine,
    content: ContentStore,
    containerd_root: Option<&'a Path>,
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
        if site.host.image_store == ImageStore::Own {
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
            containerd_root,
        }))
    }

    pub(super) fn running(&self) -> Running<'_, SystemBus, UnixEngine> {
        Running {
            manager: self.bus,
            engine: &self.engine,
            host: self.managed,
            content: &self.content,
            containerd_root: self.containerd_root,
            unfinished: Path::new(UNFINISHED),
        }
    }

    /// All that the engine lists, and of what it does not, what digestfix wrote.
    pub(super) async fn read(&self) -> Result<ContainerdStore, Stop> {
        let mut here = ContainerdStore::read(&self.engine, self.content.clone())
            .await
            .map_err(AssessError::from)?;
        let made = |record: Record| record.took_effect().then_some(record.changes);
        let (changes, _) = history::scan(self.site.images().data_root(), made);
        let changed = changes.into_iter().flatten();
        let made = changed.filter(|change| change.to.is_some());
        let made: Vec<Reference> = made.map(|change| change.reference).collect();
        let noted = Grounds::read(self.site.images()).unwrap_or_default();
        here.ask(&self.engine, made.into_iter().chain(noted.references()))
            .await
            .map_err(AssessError::from)?;
        Ok(here)
    }

    /// The plan for an aim. Each reference that it would add is asked for first:
    /// the engine may have it and not list it.
    async fn plan(&self, aim: &Aim<'_>) -> Result<(ContainerdStore, Plan), Stop> {
        let mut here = self.read().await?;
        let informed;
        let aim = match aim {
            Aim::Claims(request) => {
                informed = informed_by(&here, request);
                &Aim::Claims(&informed)
            }
            Aim::TakeBack(_) => aim,
        };
        loop {
            let plan = aim.plan(&here.store, &here.images);
            let plan = plan.map_err(|refusals| aim.refused(refusals))?;
            let added = plan.changes.iter().filter(|change| change.from.is_none());
            let added = added.map(|change| change.reference.clone());
            let sought: Vec<Reference> = added.chain(plan.removals.iter().cloned()).collect();
            let asked = here.ask(&self.engine, sought).await;
            let is_news = asked.map_err(AssessError::from)?;
            if !is_news && !accepted(&mut here, &plan, aim)? {
                return Ok((here, plan));
            }
        }
    }

    async fn draft(&self, aim: &Aim<'_>) -> Result<Draft, Stop> {
        let (here, plan) = self.plan(aim).await?;
        let work = match aim {
            Aim::Claims(request) => Work::of(&plan, &here, &request.evidence, &self.engine).await,
            Aim::TakeBack(reversal) => {
                let record = history::read(self.site.images().data_root(), &reversal.id)?;
                let kept = record.map_or_else(Evidence::default, |record| kept(&record));
                Work::of(&plan, &here, &kept, &self.engine).await
            }
        };
        let work = work.map_err(AssessError::from)?.map_err(Stop::Online)?;
        Ok(Draft { here, plan, work })
    }

    /// `digestfix status`.
    pub(super) async fn status(&self, report: &mut Report) -> Result<(), Stop> {
        let here = self.read().await?;
        let grounds = grounds(self.site.images(), report);
        let known = |reference: &Reference, image: &_| {
            if here.proof(reference.digest()?, image).is_some() {
                return Some((Trust::Proven, "the engine's content store".to_owned()));
            }
            let ground = grounds.of(reference, image)?;
            Some((ground.trust, ground.origin.clone()))
        };
        let mut rows = rows(&here.store, &here.images, known);
        for row in &mut rows {
            let (Some(digest), Ok(image)) = (&row.digest, row.image_id.parse()) else {
                continue;
            };
            let proof = digest.parse().ok();
            let proof = proof.and_then(|digest| here.proof(&digest, &image));
            if row.state == State::Ok
                && proof.is_some_and(|manifests| !here.has_layers(&manifests, &image))
            {
                row.state = State::RunsOnly;
            }
        }
        report.status(rows, &[]);
        let unread: Vec<&str> = here.unread().collect();
        if !unread.is_empty() {
            report.warning(&format!(
                "no image for this machine is in containerd's content store for: {} \
                 (--containerd-root DIR says where that is)",
                unread.join(", ")
            ));
        }
        Ok(())
    }

    /// `digestfix plan`.
    pub(super) async fn show_plan(
        &self,
        request: &Request,
        report: &mut Report,
    ) -> Result<Exit, Stop> {
        let draft = self.draft(&Aim::Claims(request)).await?;
        report.plan(&draft.plan);
        report.say_host();
        report.say_plan(&draft.plan);
        report.say_skipped(&draft.plan);
        if draft.plan.is_empty() {
            report.line("\nNothing to do.");
            return Ok(Exit::Done);
        }
        report.method(Method::Online, WHY);
        report.say_method();
        warn_of_run_only(&draft.work, report);
        Ok(Exit::Pending)
    }

    /// `digestfix verify`.
    pub(super) async fn verify(
        &self,
        request: &Request,
        report: &mut Report,
    ) -> Result<Exit, Stop> {
        let (_, plan) = self.plan(&Aim::Claims(request)).await?;
        report.plan(&plan);
        let mut answers = Vec::new();
        for target in &plan.targets {
            let found = self.engine.find(&target.reference).await;
            let found = found.map_err(AssessError::from)?;
            let leads_to = found.and_then(|listed| listed.target());
            answers.push(match target.reference.digest() {
                Some(digest) => leads_to.as_ref() == Some(digest),
                None => leads_to.is_some() && target.holds,
            });
        }
        report.verified(&plan, Some(&answers));
        report.say_skipped(&plan);
        if plan.is_empty() && answers.iter().all(|holds| *holds) {
            report.line("All of it holds.");
            return Ok(Exit::Done);
        }
        report.line("Not all of it holds. To make it so: digestfix apply, with the same claims.");
        Ok(Exit::Pending)
    }

    /// A first look without the lock; false when there is nothing to do.
    pub(super) async fn look(&self, aim: &Aim<'_>, report: &mut Report) -> Result<bool, Stop> {
        let draft = self.draft(aim).await?;
        report.plan(&draft.plan);
        if draft.plan.is_empty() {
            report.say_skipped(&draft.plan);
        }
        Ok(!draft.plan.is_empty())
    }

    /// Makes a wish come true, under the lock. None when there is nothing to do.
    pub(super) async fn change(
        &self,
        aim: &Aim<'_>,
        lock: RootLock,
        limits: Limits,
        interrupt: &Interrupt,
        report: &mut Report,
    ) -> Result<Option<Outcome>, Stop> {
        let Draft { here, plan, work } = self.draft(aim).await?;
        report.plan(&plan);
        if plan.is_empty() {
            return Ok(None);
        }
        report.say_host();
        if let Aim::TakeBack(reversal) = aim {
            report.line(&format!("Taking back transaction {}:", reversal.id));
        }
        report.say_plan(&plan);
        report.say_skipped(&plan);
        report.method(Method::Online, WHY);
        report.say_method();
        warn_of_run_only(&work, report);
        let change = OnlineChange::new(
            self.site.images(),
            lock,
            aim.kind(),
            self.running(),
            interrupt,
            report,
            &here,
            plan,
            work,
        )
        .keeping(limits);
        Ok(Some(change.run().await))
    }
}

/// A request, and what containerd has of the manifests that it is about.
fn informed_by(here: &ContainerdStore, request: &Request) -> Request {
    let mut request = request.clone();
    let digests = request.claims.iter().filter_map(Claim::digest);
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
fn accepted(here: &mut ContainerdStore, plan: &Plan, aim: &Aim<'_>) -> Result<bool, Stop> {
    let insists = matches!(aim, Aim::Claims(request) if request.allow_image_id_digest);
    let (mut any, mut reasons) = (false, Vec::new());
    for target in &plan.targets {
        if !here.is_made_up(&target.reference) {
            continue;
        }
        if insists || target.trust == Trust::Proven {
            here.accept(&target.reference);
            any = true;
        } else {
            reasons.push(Unfit::MadeUp(target.claim.clone()));
        }
    }
    if reasons.is_empty() {
        Ok(any)
    } else {
        Err(Stop::Online(reasons))
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
fn warn_of_run_only(work: &Work, report: &mut Report) {
    let whose = match work.run_only.as_slice() {
        [] => return,
        [one] => format!("of {one}"),
        several => format!("of {} of these digests", several.len()),
    };
    report.warning(&format!(
        "Docker has the layers {whose} unpacked, and not as the registry serves them. Containers run by \
         the digest; but docker save and docker commit by it leave the layers out AND SAY NOTHING, docker \
         push and a BuildKit FROM fail, docker images does not list it, and docker image inspect may show \
         no configuration. For those, use the tag"
    ));
}

/// Tells how it ended.
pub(super) fn tell(outcome: Outcome, mut report: Report) -> Exit {
    match outcome {
        Outcome::Done { plan } => {
            report.plan(&plan);
            report.speak_of_change(&plan);
            report.line("\nDone. Docker was not stopped.");
            report.say_way_back();
            report.done(true, None);
            report.end(Exit::Done)
        }
        Outcome::Undone { failure } => {
            report.done(false, None);
            report.problem(
                "failed",
                Problem {
                    what: vec![failure.to_string()],
                    state: "the references are as they were, and Docker was not stopped".to_owned(),
                    next: Some(super::outcome::advice(&failure)),
                },
            );
            report.end(Exit::Failed)
        }
        Outcome::Broken {
            failure,
            undo,
            guard,
        } => {
            let next = match guard {
                Some(guard) => format!(
                    "look at what is there (docker image inspect), then: digestfix recover (which {guard} \
                     now tries as well: journalctl -u {guard})"
                ),
                None => "look at what is there (docker image inspect), then: digestfix recover"
                    .to_owned(),
            };
            report.problem(
                "COULD NOT RESTORE THE HOST",
                Problem {
                    what: vec![failure.to_string(), format!("and then, undoing it: {undo}")],
                    state: "some of the references may be new; Docker was not stopped".to_owned(),
                    next: Some(next),
                },
            );
            report.end(Exit::Broken)
        }
    }
}

/// What there is to say of a recovery that failed.
pub(super) fn problem(failure: &Failure) -> Problem {
    Problem {
        what: vec![format!(
            "an interrupted run could not be brought to an end: {failure}"
        )],
        state: "some of its references may be there; Docker was not stopped".to_owned(),
        next: Some("see that Docker runs and answers, then: digestfix recover".to_owned()),
    }
}
