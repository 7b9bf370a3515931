#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use tempfile::TempDir;

use super::recovery::recover;
use super::work::Unfit;
use super::*;
use crate::digest::{Algorithm, Digest, ImageId};
use crate::engine::images::fake::{FakeImages, index, reference, served};
use crate::evidence::Evidence;
use crate::history::{self, Side};
use crate::host::Flags;
use crate::manifest::Manifest;
use crate::plan::Request;
use crate::reference::Reference;
use crate::systemd::{QueuedJob, Service, SystemdError, Transient, Unit};
use crate::transaction::aim::Aim;

/// A systemd that starts and stops a guard.
#[derive(Default)]
struct FakeSystemd {
    guards: RefCell<Vec<String>>,
    refuses: Cell<bool>,
}

impl ServiceManager for FakeSystemd {
    async fn start_transient(&self, service: &Transient) -> Result<(), SystemdError> {
        if self.refuses.get() {
            return Err(SystemdError::NoBus);
        }
        self.guards.borrow_mut().push(service.name.clone());
        Ok(())
    }
    async fn stop(&self, unit: &str, _: &[String], _: Duration) -> Result<(), SystemdError> {
        self.guards.borrow_mut().retain(|guard| guard != unit);
        Ok(())
    }
    async fn reset_failed(&self, _: &str) -> Result<(), SystemdError> {
        Ok(())
    }
    async fn active_states(&self) -> Result<BTreeMap<String, String>, SystemdError> {
        unreachable!()
    }
    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>, SystemdError> {
        unreachable!()
    }
    async fn unit(&self, _: &str) -> Result<Unit, SystemdError> {
        unreachable!()
    }
    async fn service(&self, _: &str) -> Result<Service, SystemdError> {
        unreachable!()
    }
    async fn listening_paths(&self, _: &str) -> Result<Vec<String>, SystemdError> {
        unreachable!()
    }
    async fn unit_of_process(&self, _: u32) -> Result<String, SystemdError> {
        unreachable!()
    }
    async fn own_pid(&self) -> Result<u32, SystemdError> {
        unreachable!()
    }
    async fn reload(&self) -> Result<(), SystemdError> {
        unreachable!()
    }
    async fn hang_up(&self, _: &str) -> Result<(), SystemdError> {
        unreachable!()
    }
    async fn start(&self, _: &[String], _: Duration) -> Result<(), SystemdError> {
        unreachable!()
    }
    async fn run_transient(&self, _: &Transient, _: BorrowedFd<'_>) -> Result<(), SystemdError> {
        unreachable!()
    }
    async fn delay_shutdown(&self, _: &str) -> Result<OwnedFd, SystemdError> {
        unreachable!()
    }
    async fn is_shutting_down(&self) -> bool {
        unreachable!()
    }
}

#[derive(Default)]
struct Told(Vec<Step>, Vec<String>);

impl Progress for Told {
    fn begin(&mut self, _: &str) {}
    fn transaction_begins(&mut self, _: &str) {}
    fn docker_stops(&mut self) {
        unreachable!()
    }
    fn step(&mut self, step: Step, _: &str) {
        self.0.push(step);
    }
    fn warning(&mut self, text: &str) {
        self.1.push(text.to_owned());
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// A host with one image that was loaded, and what its registry serves.
struct World {
    root: TempDir,
    engine: FakeImages,
    systemd: FakeSystemd,
    image: ImageId,
    manifest: String,
    before: BTreeMap<Reference, Digest>,
}

impl World {
    fn new() -> Self {
        let engine = FakeImages::new();
        let image = engine.config("app", "amd64");
        engine.loaded("lab/app:v1", &image);
        let before = engine.records.borrow().clone();
        Self {
            root: tempfile::tempdir().unwrap(),
            systemd: FakeSystemd::default(),
            manifest: served(&image),
            engine,
            image,
            before,
        }
    }

    fn digest(&self) -> Digest {
        of(&self.manifest)
    }

    fn pinned(&self) -> Reference {
        reference(&format!("lab/app@{}", self.digest()))
    }

    fn images(&self) -> ImageDir {
        ImageDir::new(self.root.path(), "overlayfs")
    }

    fn unfinished(&self) -> std::path::PathBuf {
        self.root.path().join("unfinished")
    }

    fn request(&self, claim: &str, manifests: &[&str]) -> Request {
        let mut evidence = Evidence::default();
        for text in manifests {
            evidence.keep(&of(text), text.as_bytes());
            let manifest = Manifest::parse(text.as_bytes()).unwrap();
            evidence.add_manifest(of(text), manifest, "F");
        }
        Request {
            claims: [claim]
                .into_iter()
                .filter(|claim| !claim.is_empty())
                .map(|claim| claim.parse().unwrap())
                .collect(),
            evidence,
            ..Request::default()
        }
    }

    /// A claim that its manifest proves.
    fn proven(&self) -> Request {
        self.request(&format!("lab/app:v1@{}", self.digest()), &[&self.manifest])
    }

    fn drawn(&self, request: &Request) -> (ContainerdStore, Plan, Result<Work, Vec<Unfit>>) {
        block_on(async {
            let here = ContainerdStore::read(&self.engine, self.engine.content());
            let here = here.await.unwrap();
            let plan = Aim::Claims(request)
                .plan(&here.store, &here.images)
                .unwrap();
            let work = Work::of(&plan, &here, &request.evidence, &self.engine);
            let work = work.await.unwrap();
            (here, plan, work)
        })
    }

    fn refused(&self, request: &Request) -> String {
        let reasons = self.drawn(request).2.unwrap_err();
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        reasons.join("; ")
    }

    fn apply(&self, request: &Request) -> (Outcome, Told) {
        let (here, plan, work) = self.drawn(request);
        let (host, content, images) = (host(), self.engine.content(), self.images());
        let mut told = Told::default();
        let unfinished = self.unfinished();
        let outcome = block_on(async {
            let interrupt = Interrupt::listen().unwrap();
            let mut change = OnlineChange::new(
                &images,
                RootLock::acquire_now(self.root.path()).unwrap(),
                Kind::Apply,
                self.running(&host, &content, &unfinished),
                &interrupt,
                &mut told,
                &here,
                plan,
                work.unwrap(),
            );
            // Each has a name of its own, even within a second.
            change.id = format!("T-{}", history::scan(self.root.path(), Some).0.len());
            change.run().await
        });
        (outcome, told)
    }

    fn running<'a>(
        &'a self,
        host: &'a Managed,
        content: &'a ContentStore,
        unfinished: &'a Path,
    ) -> Running<'a, FakeSystemd, FakeImages> {
        Running {
            manager: &self.systemd,
            engine: &self.engine,
            host,
            content,
            containerd_root: None,
            unfinished,
        }
    }

    /// Gets as far as its journal, and is killed.
    fn is_killed(&self, request: &Request, is_taken_back: bool) {
        let (here, plan, work) = self.drawn(request);
        let (host, content, images) = (host(), self.engine.content(), self.images());
        let mut told = Told::default();
        let unfinished = self.unfinished();
        block_on(async {
            let interrupt = Interrupt::listen().unwrap();
            let mut change = OnlineChange::new(
                &images,
                RootLock::acquire_now(self.root.path()).unwrap(),
                Kind::Apply,
                self.running(&host, &content, &unfinished),
                &interrupt,
                &mut told,
                &here,
                plan,
                work.unwrap(),
            );
            change.announce().await.unwrap();
            if is_taken_back {
                let journal = change.journal.as_mut().unwrap();
                journal.online.as_mut().unwrap().is_taken_back = true;
                journal.write(&change.lock).unwrap();
            }
        });
    }

    fn recover(&self) -> (Result<(), Failure>, Told) {
        let lock = RootLock::acquire_now(self.root.path()).unwrap();
        let mut journal = Journal::read(self.root.path()).unwrap().unwrap();
        let online = journal.online.take().unwrap();
        let (host, content, images) = (host(), self.engine.content(), self.images());
        let mut told = Told::default();
        let unfinished = self.unfinished();
        let running = self.running(&host, &content, &unfinished);
        let ended = block_on(recover(
            &journal, &online, &images, &lock, running, &mut told,
        ));
        (ended, told)
    }

    /// Nothing is left for anybody to do.
    #[track_caller]
    fn is_finished(&self) {
        assert!(Journal::read(self.root.path()).unwrap().is_none());
        let unfinished = std::fs::read_dir(self.unfinished()).unwrap();
        assert_eq!(unfinished.count(), 0);
    }

    fn is_as_before(&self) -> bool {
        *self.engine.records.borrow() == self.before
    }

    fn ends(&self) -> Vec<Option<End>> {
        history::scan(self.root.path(), |record| Some(record.result)).0
    }
}

fn of(text: &str) -> Digest {
    Digest::of(Algorithm::Sha256, text.as_bytes())
}

fn host() -> Managed {
    Managed {
        unit: Unit {
            id: "docker.service".to_owned(),
            ..Unit::default()
        },
        service: Service::default(),
        engine: None,
        socket: "/nowhere".into(),
        config_file: "/nowhere".into(),
        flags: Flags::default(),
        live_restore_flag: None,
        live_restore_at_start: false,
        forgotten_by_reload: Vec::new(),
        undone_by_reload: Vec::new(),
        leaves_proxy_to_be_found: false,
        has_mirror_flag: false,
    }
}

#[test]
fn a_proven_digest_is_loaded_with_its_manifest_and_config() {
    for is_new in [false, true] {
        let world = World::new();
        world.engine.is_new.set(is_new);
        let (outcome, told) = world.apply(&world.proven());
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
        assert_eq!(told.0, [Step::Load, Step::Verify]);
        let mut expected = world.before.clone();
        expected.insert(world.pinned(), world.digest());
        assert_eq!(*world.engine.records.borrow(), expected);
        world.is_finished();
        assert_eq!(world.ends(), [Some(End::Done)]);
        assert!(world.systemd.guards.borrow().is_empty());
        let (record, _) = history::scan(world.root.path(), Some);
        assert_eq!(record[0].manifests[&world.digest()], world.manifest);
    }
}

/// The index is loaded along with the manifest that proves it.
#[test]
fn an_index_is_loaded_with_the_way_through_it() {
    let world = World::new();
    let elsewhere = of("another platform's");
    let text = index(&[elsewhere, world.digest()]);
    let claim = format!("lab/app:v1@{}", of(&text));
    let (outcome, _) = world.apply(&world.request(&claim, &[&text, &world.manifest]));
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    let content = world.engine.content();
    assert!(content.proof(&of(&text), &world.image).is_some());
    // Alone, it proves nothing.
    let refused = World::new().refused(&world.request(&claim, &[&text]));
    assert!(refused.contains("it is asserted"), "{refused}");
}

/// The engine would not answer in time for all of them.
#[test]
fn many_are_loaded_in_several_requests() {
    let world = World::new();
    let target = world.before.values().next().unwrap().clone();
    let names = || (0..120).map(|number| format!("lab/app{number}"));
    let tags = names().map(|name| (reference(&format!("{name}:v1")), target.clone()));
    world.engine.records.borrow_mut().extend(tags);
    let mut request = world.request("", &[&world.manifest]);
    let claims = names().map(|name| format!("{name}:v1@{}", world.digest()));
    request.claims = claims.map(|claim| claim.parse().unwrap()).collect();
    let (outcome, _) = world.apply(&request);
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!(world.engine.calls.borrow().len(), 3);
    let records = world.engine.records.borrow();
    assert_eq!(records.len(), 1 + 2 * 120);
}

#[test]
fn a_load_that_fails_leaves_nothing() {
    let world = World::new();
    world.engine.fails.set(Some("load"));
    let (outcome, told) = world.apply(&world.proven());
    assert!(matches!(outcome, Outcome::Undone { .. }), "{outcome:?}");
    assert_eq!(told.0, [Step::UndoOnline]);
    assert!(world.is_as_before());
    world.is_finished();
    assert!(matches!(world.ends()[..], [Some(End::Undone { .. })]));
}

/// As it is with bytes that are not the manifest's: the engine takes the name,
/// and has nothing behind it.
#[test]
fn an_engine_without_the_manifest_is_not_believed() {
    for is_new in [false, true] {
        let world = World::new();
        world.engine.is_new.set(is_new);
        world.engine.loses_blobs.set(true);
        let (outcome, told) = world.apply(&world.proven());
        assert!(
            matches!(
                outcome,
                Outcome::Undone {
                    failure: Failure::EngineDisagrees(_)
                }
            ),
            "{outcome:?}"
        );
        assert_eq!(told.0, [Step::Load, Step::UndoOnline]);
        assert!(world.is_as_before());
    }
}

#[test]
fn without_a_guard_nothing_is_asked_for() {
    let world = World::new();
    world.systemd.refuses.set(true);
    let (outcome, _) = world.apply(&world.proven());
    assert!(matches!(outcome, Outcome::Undone { .. }), "{outcome:?}");
    assert!(world.engine.calls.borrow().is_empty());
    assert!(Journal::read(world.root.path()).unwrap().is_none());
}

/// Dropping the digest would drop what somebody has tagged meanwhile.
#[test]
fn what_was_tagged_meanwhile_is_not_taken_back() {
    let world = World::new();
    world.engine.fails.set(Some("load"));
    let tag = reference("lab/app:mine");
    *world.engine.tagged.borrow_mut() = Some(tag.clone());
    let (outcome, _) = world.apply(&world.proven());
    assert!(
        matches!(
            outcome,
            Outcome::Broken {
                undo: Failure::TaggedSince(_),
                guard: Some(_),
                ..
            }
        ),
        "{outcome:?}"
    );
    assert!(world.engine.records.borrow().contains_key(&tag));
    assert!(Journal::read(world.root.path()).unwrap().is_some());
}

#[test]
fn a_reference_of_its_own_is_dropped_and_had_back() {
    let world = World::new();
    world.apply(&world.proven());
    let mut request = world.request("", &[]);
    request.removals = vec![world.pinned()];
    let (outcome, told) = world.apply(&request);
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!(told.0, [Step::Untag, Step::Verify]);
    assert!(world.is_as_before());

    world.apply(&world.proven());
    world.engine.fails.set(Some("untag"));
    let (outcome, _) = world.apply(&request);
    assert!(matches!(outcome, Outcome::Undone { .. }), "{outcome:?}");
    assert!(world.engine.records.borrow().contains_key(&world.pinned()));
}

#[test]
fn what_docker_would_drop_more_of_is_refused() {
    let world = World::new();
    world.apply(&world.proven());
    let mut request = world.request("", &[]);
    request.removals = vec![world.pinned()];
    let tag = reference("lab/app:v2");
    let mut records = world.engine.records.borrow_mut();
    records.insert(tag.clone(), world.digest());
    drop(records);
    let refused = world.refused(&request);
    assert!(refused.contains("lab/app:v2"), "{refused}");

    let mut records = world.engine.records.borrow_mut();
    records.remove(&tag);
    records.remove(&reference("lab/app:v1"));
    drop(records);
    let refused = world.refused(&request);
    assert!(refused.contains("last reference"), "{refused}");
}

#[test]
fn what_is_not_for_digestfix_is_refused_with_what_to_do() {
    let world = World::new();
    let refused = world.refused(&world.request(&format!("lab/app:v1@{}", world.digest()), &[]));
    assert!(refused.contains("skopeo inspect --raw"), "{refused}");
    let tag = format!("lab/app:v2={}", world.image);
    let refused = world.refused(&world.request(&tag, &[]));
    assert!(refused.contains("docker tag"), "{refused}");
    let mut request = world.request("", &[]);
    request.removals = vec![reference("lab/app:v1")];
    let refused = world.refused(&request);
    assert!(refused.contains("docker rmi"), "{refused}");
}

/// Where it was killed before the engine was asked, or while it answers, the
/// change is made; the engine may be about to.
#[test]
fn a_killed_change_is_made() {
    for was_loaded in [false, true] {
        let world = World::new();
        world.is_killed(&world.proven(), false);
        if was_loaded {
            world.engine.blob(&world.manifest);
            let mut records = world.engine.records.borrow_mut();
            records.insert(world.pinned(), world.digest());
        }
        let (recovered, told) = world.recover();
        recovered.unwrap();
        assert_eq!(told.0, [Step::Verify]);
        assert!(world.engine.records.borrow().contains_key(&world.pinned()));
        let loads = world.engine.calls.borrow().len();
        assert_eq!(loads, usize::from(!was_loaded), "none that is not needed");
        world.is_finished();
        let references = Side::New;
        assert_eq!(world.ends(), [Some(End::Recovered { references })]);
    }
}

#[test]
fn a_killed_change_that_cannot_be_made_is_taken_back() {
    let world = World::new();
    world.is_killed(&world.proven(), false);
    world.engine.fails.set(Some("load"));
    let (recovered, told) = world.recover();
    recovered.unwrap();
    assert_eq!(told.0, [Step::UndoOnline]);
    assert!(world.is_as_before());
    world.is_finished();
    let references = Side::Old;
    assert_eq!(world.ends(), [Some(End::Recovered { references })]);
}

#[test]
fn a_change_killed_on_its_way_back_goes_back() {
    let world = World::new();
    world.is_killed(&world.proven(), true);
    world.engine.blob(&world.manifest);
    world
        .engine
        .records
        .borrow_mut()
        .insert(world.pinned(), world.digest());
    let (recovered, _) = world.recover();
    recovered.unwrap();
    assert!(world.is_as_before());
    world.is_finished();
}

#[test]
fn a_recovery_that_fails_leaves_the_journal() {
    let world = World::new();
    world.is_killed(&world.proven(), true);
    world
        .engine
        .records
        .borrow_mut()
        .insert(world.pinned(), world.digest());
    world.engine.fails.set(Some("untag"));
    let (recovered, _) = world.recover();
    assert!(recovered.is_err());
    assert!(Journal::read(world.root.path()).unwrap().is_some());
    world.engine.fails.set(None);
    world.recover().0.unwrap();
    assert!(world.is_as_before());
}
