#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::recovery::recover;
use super::work::LoadBlocker;
use super::*;
use crate::claims::evidence::Evidence;
use crate::host::{Flags, Managed, Start};
use crate::image::digest::{Algorithm, Digest, ImageId};
use crate::image::manifest::Manifest;
use crate::image::reference::Reference;
use crate::plan::Plan;
use crate::plan::Request;
use crate::state::history::{self, Side};
use crate::state::history::{End, Kind};
use crate::state::journal::Journal;
use crate::state::lock::RootLock;
use crate::state::retention::Limits;
use crate::store::data_root::ImageDir;
use crate::sys::interrupt::Interrupt;
use crate::systemd::{Service, Unit};
use crate::testing::images::{FakeImages, index, reference, served};
use crate::testing::{FakeSystemd, block_on, scratch};
use crate::transaction::goal::Goal;
use crate::transaction::leftover::Why;
use crate::transaction::outcome::{Ended, Outcome, Progress};

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

/// A host with one loaded image, and the manifest that its registry serves.
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
            root: scratch(),
            systemd: FakeSystemd {
                owner: Some("session-1.scope"),
                ..FakeSystemd::default()
            },
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

    fn pending(&self) -> std::path::PathBuf {
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

    /// A claim, and a manifest that proves the claim.
    fn proven(&self) -> Request {
        self.request(&format!("lab/app:v1@{}", self.digest()), &[&self.manifest])
    }

    fn drawn(&self, request: &Request) -> (ContainerdStore, Plan, Result<Work, Vec<LoadBlocker>>) {
        block_on(async {
            let here = ContainerdStore::read(&self.engine, self.engine.content());
            let here = here.await.unwrap();
            let plan = Goal::Claims(request)
                .plan(&here.store, &here.images)
                .unwrap();
            let work = Work::of(&plan, &here, &request.evidence, &self.engine);
            let work = work.await.unwrap();
            (here, plan, work)
        })
    }

    fn refused(&self, request: &Request) -> String {
        let reasons = self.drawn(request).2.unwrap_err();
        let told = |reason: &LoadBlocker| format!("{reason}. Next: {}", reason.help());
        let reasons: Vec<String> = reasons.iter().map(told).collect();
        reasons.join("; ")
    }

    fn apply(&self, request: &Request) -> (Outcome, Told) {
        let (here, plan, work) = self.drawn(request);
        self.run(&here, plan, work.unwrap())
    }

    fn run(&self, here: &ContainerdStore, plan: Plan, work: Work) -> (Outcome, Told) {
        let (host, content, images) = (host(), self.engine.content(), self.images());
        let mut told = Told::default();
        let pending = self.pending();
        let outcome = block_on(async {
            let interrupt = Interrupt::listen().unwrap();
            let running = self.running(&host, &content, &pending);
            let mut tx = Tx::new(
                &images,
                RootLock::acquire_now(self.root.path()).unwrap(),
                Kind::Apply,
                Limits::default(),
                Some(running.docker.supervised(&images)),
                &interrupt,
                &mut told,
                plan,
            );
            // Give each transaction its own ID, even if two begin in the same second.
            tx.id = format!("T-{}", history::scan(self.root.path(), Some).0.len());
            tx.run(Load::new(running, here, work)).await
        });
        (outcome, told)
    }

    fn running<'a>(
        &'a self,
        host: &'a Managed,
        content: &'a ContentStore,
        pending: &'a Path,
    ) -> Running<'a, FakeSystemd, FakeImages> {
        Running {
            docker: Docker {
                manager: &self.systemd,
                host,
                pending,
            },
            engine: &self.engine,
            content,
            containerd_root: None,
        }
    }

    /// Begins a transaction that is killed as soon as its journal is on disk.
    fn is_killed(&self, request: &Request, is_taken_back: bool) {
        let (here, plan, work) = self.drawn(request);
        let (host, content, images) = (host(), self.engine.content(), self.images());
        let mut told = Told::default();
        let pending = self.pending();
        block_on(async {
            let interrupt = Interrupt::listen().unwrap();
            let running = self.running(&host, &content, &pending);
            let mut tx = Tx::new(
                &images,
                RootLock::acquire_now(self.root.path()).unwrap(),
                Kind::Apply,
                Limits::default(),
                Some(running.docker.supervised(&images)),
                &interrupt,
                &mut told,
                plan,
            );
            let mut load = Load::new(running, &here, work.unwrap());
            tx.begin(&mut load).await.unwrap();
            if is_taken_back {
                tx.load().unwrap().is_taken_back = true;
                tx.write_journal().unwrap();
            }
        });
    }

    fn recover(&self) -> (Result<Vec<String>, Failure>, Told) {
        let lock = RootLock::acquire_now(self.root.path()).unwrap();
        let journal = Journal::read(self.root.path()).unwrap().unwrap();
        let Intent::Load(load) = &journal.intent else {
            panic!("{journal:?}");
        };
        let (host, content, images) = (host(), self.engine.content(), self.images());
        let mut told = Told::default();
        let pending = self.pending();
        let running = self.running(&host, &content, &pending);
        let ended = block_on(recover(&journal, load, &images, &lock, running, &mut told));
        (ended, told)
    }

    /// Asserts that neither a journal nor a pending marker is left.
    #[track_caller]
    fn is_finished(&self) {
        assert!(Journal::read(self.root.path()).unwrap().is_none());
        let pending = std::fs::read_dir(self.pending()).unwrap();
        assert_eq!(pending.count(), 0);
    }

    /// The ID of the killed transaction.
    fn killed(&self) -> String {
        Journal::read(self.root.path()).unwrap().unwrap().id
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
        start: Start::default(),
    }
}

#[test]
fn a_proven_digest_is_loaded_with_its_manifest_and_config() {
    for is_new in [false, true] {
        let world = World::new();
        world.engine.is_new.set(is_new);
        let (outcome, told) = world.apply(&world.proven());
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        assert_eq!(told.0, [Step::Load, Step::Verify]);
        let mut expected = world.before.clone();
        expected.insert(world.pinned(), world.digest());
        assert_eq!(*world.engine.records.borrow(), expected);
        world.is_finished();
        assert_eq!(world.ends(), [Some(End::Done)]);
        assert!(world.systemd.watchdogs.borrow().is_empty());
        let (record, _) = history::scan(world.root.path(), Some);
        assert_eq!(record[0].manifests[&world.digest()], world.manifest);
    }
}

/// The index is loaded along with the manifest that proves it.
#[test]
fn an_index_is_loaded_with_the_way_through_it() {
    let world = World::new();
    let elsewhere = of("another platform's");
    let text = index(&[(elsewhere, "arm64"), (world.digest(), "amd64")]);
    let claim = format!("lab/app:v1@{}", of(&text));
    let (outcome, _) = world.apply(&world.request(&claim, &[&text, &world.manifest]));
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let content = world.engine.content();
    assert!(content.proof(&of(&text), &world.image).is_some());
    // The index alone proves nothing. The refusal names the manifest of this platform
    // that the user must add.
    let refused = World::new().refused(&world.request(&claim, &[&text]));
    let named = format!("linux/amd64 {}", world.digest());
    assert!(refused.contains(&named), "{refused}");
    assert!(refused.contains("docker://lab/app@DIGEST"), "{refused}");
}

/// One request for all references would take longer than the engine's timeout. Asking for
/// each reference takes long too, so digestfix asks for a sample only.
#[test]
fn hundreds_are_made_in_few_requests() {
    for is_new in [true, false] {
        let world = World::new();
        world.engine.is_new.set(is_new);
        world.engine.has_containerd.set(true);
        let target = world.before.values().next().unwrap().clone();
        let names = || (0..300).map(|number| format!("lab/app{number}"));
        let tags = names().map(|name| (reference(&format!("{name}:v1")), target.clone()));
        world.engine.records.borrow_mut().extend(tags);
        let mut request = world.request("", &[&world.manifest]);
        let claims = names().map(|name| format!("{name}:v1@{}", world.digest()));
        request.claims = claims.map(|claim| claim.parse().unwrap()).collect();
        let (here, plan, work) = world.drawn(&request);
        world.engine.requests.set(0);
        let (outcome, _) = world.run(&here, plan, work.unwrap());
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        assert_eq!(outcome.run_only.len(), 300);
        let loads = world.engine.calls.borrow().len();
        assert_eq!(loads, 6);
        // digestfix sends three requests for listings and one request for the platform.
        // It also sends two requests for each of the eight references that it asks for by
        // name.
        let others = world.engine.requests.get() - loads;
        assert!(others <= 4 + 2 * 8, "{others} requests");
        assert_eq!(
            world.engine.sent.get(),
            0,
            "the engine already has the config"
        );
        let records = world.engine.records.borrow();
        assert_eq!(records.len(), 1 + 2 * 300);
    }
}

/// digestfix sends an image config if it cannot tell whether the engine has that config.
#[test]
fn a_config_goes_along_where_it_may_not_be_there() {
    let world = World::new();
    let (outcome, _) = world.apply(&world.proven());
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    assert_eq!(world.engine.sent.get(), 1);
}

/// If an index has several images on this host, the engine chooses one of them, so
/// digestfix asks for each such index.
#[test]
fn each_index_with_a_choice_is_asked_for() {
    let world = World::new();
    let others: Vec<String> = (0..12)
        .map(|number| served(&world.engine.config(&format!("other {number}"), "arm64")))
        .collect();
    let mut request = world.request("", &[&world.manifest]);
    for other in &others {
        world.engine.blob(other);
        let text = index(&[(of(other), "arm64"), (world.digest(), "amd64")]);
        request.evidence.keep(&of(&text), text.as_bytes());
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        request.evidence.add_manifest(of(&text), manifest, "F");
        let claim = format!("lab/app:v1@{}", of(&text));
        request.claims.push(claim.parse().unwrap());
    }
    let (here, plan, work) = world.drawn(&request);
    world.engine.requests.set(0);
    let (outcome, _) = world.run(&here, plan, work.unwrap());
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let requests = world.engine.requests.get();
    assert!(requests >= 2 * 12, "{requests} requests");
}

#[test]
fn a_load_that_fails_leaves_nothing() {
    let world = World::new();
    world.engine.fails.set(Some("load"));
    let (outcome, told) = world.apply(&world.proven());
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
    assert_eq!(told.0, [Step::UndoLoad]);
    assert!(world.is_as_before());
    world.is_finished();
    assert!(matches!(world.ends()[..], [Some(End::Undone { .. })]));
}

/// digestfix notices if the engine runs another image than the one that the manifest
/// names. A real engine did so after it loaded a manifest that lists a config twice.
#[test]
fn an_engine_that_runs_another_image_is_noticed() {
    let world = World::new();
    let other = world.engine.config("other", "amd64");
    *world.engine.runs.borrow_mut() = Some(other);
    let (outcome, _) = world.apply(&world.proven());
    let Ended::Undone {
        failure: Failure::EngineDisagrees(why),
        ..
    } = outcome.ended
    else {
        panic!("{outcome:?}");
    };
    assert!(why.contains("the engine uses another image"), "{why}");
    assert!(world.is_as_before());
    world.is_finished();
}

/// If the loaded bytes do not match the digest, the engine records the name but no
/// manifest.
#[test]
fn an_engine_without_the_manifest_is_not_believed() {
    for is_new in [false, true] {
        let world = World::new();
        world.engine.is_new.set(is_new);
        world.engine.loses_blobs.set(true);
        let (outcome, told) = world.apply(&world.proven());
        assert!(
            matches!(
                outcome.ended,
                Ended::Undone {
                    failure: Failure::EngineDisagrees(_),
                    ..
                }
            ),
            "{outcome:?}"
        );
        assert_eq!(told.0, [Step::Load, Step::UndoLoad]);
        assert!(world.is_as_before());
    }
}

#[test]
fn without_a_watchdog_nothing_is_asked_for() {
    let world = World::new();
    world.systemd.fails.set(Some(("watchdog", 0)));
    let (outcome, _) = world.apply(&world.proven());
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
    assert!(world.engine.calls.borrow().is_empty());
    assert!(Journal::read(world.root.path()).unwrap().is_none());
}

/// Dropping the digest would also drop a tag that another client has set meanwhile.
#[test]
fn what_was_tagged_meanwhile_is_not_taken_back() {
    let world = World::new();
    world.engine.fails.set(Some("load"));
    let tag = reference("lab/app:mine");
    *world.engine.tagged.borrow_mut() = Some(tag.clone());
    let (outcome, _) = world.apply(&world.proven());
    assert!(
        matches!(
            outcome.ended,
            Ended::Undone { ref left, .. } if left[0].why == Why::Tagged(tag.clone())
        ),
        "{outcome:?}"
    );
    assert!(world.engine.records.borrow().contains_key(&tag));
    assert!(world.engine.records.borrow().contains_key(&world.pinned()));
    world.is_finished();
    assert!(matches!(world.ends()[..], [Some(End::Undone { .. })]));
}

#[test]
fn a_reference_of_its_own_is_dropped_and_had_back() {
    let world = World::new();
    world.apply(&world.proven());
    let mut request = world.request("", &[]);
    request.removals = vec![world.pinned()];
    let (outcome, told) = world.apply(&request);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    assert_eq!(told.0, [Step::Untag, Step::Verify]);
    assert!(world.is_as_before());

    world.apply(&world.proven());
    world.engine.fails.set(Some("untag"));
    let (outcome, _) = world.apply(&request);
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
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
    assert!(
        refused.contains("docker tag lab/app:v1 lab/app:v2"),
        "{refused}"
    );
    let mut request = world.request("", &[]);
    request.removals = vec![reference("lab/app:v1")];
    let refused = world.refused(&request);
    assert!(refused.contains("docker rmi"), "{refused}");
}

/// A recovery makes the change, no matter whether the run was killed before or after it
/// sent the request. After the run was killed, the engine may still be working on the
/// request.
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
        assert_eq!(
            loads,
            usize::from(!was_loaded),
            "recovery loads only if the run has not loaded"
        );
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
    assert_eq!(told.0, [Step::UndoLoad]);
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
    assert!(recovered.unwrap().is_empty());
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

/// Another client has dropped the tag at the last moment, so only the digest leads to the
/// image.
#[test]
fn the_last_reference_of_an_image_stays() {
    for is_new in [false, true] {
        let world = World::new();
        world.engine.is_new.set(is_new);
        world.is_killed(&world.proven(), true);
        world.engine.blob(&world.manifest);
        let mut records = world.engine.records.borrow_mut();
        records.clear();
        records.insert(world.pinned(), world.digest());
        drop(records);
        let (recovered, _) = world.recover();
        let left = recovered.unwrap();
        assert!(left[0].contains("last reference"), "{left:?}");
        assert!(world.engine.records.borrow().contains_key(&world.pinned()));
        world.is_finished();
        let references = Side::Other;
        assert_eq!(world.ends(), [Some(End::Recovered { references })]);
    }
}

/// The engine has the digest but does not list it.
#[test]
fn a_reference_that_is_not_listed_keeps_its_image() {
    let world = World::new();
    world.engine.is_new.set(false);
    world.apply(&world.proven());
    let text = index(&[(world.digest(), "amd64")]);
    let claim = format!("lab/app:v1@{}", of(&text));
    world.apply(&world.request(&claim, &[&text, &world.manifest]));
    let of_index = reference(&format!("lab/app@{}", of(&text)));
    world
        .engine
        .records
        .borrow_mut()
        .remove(&reference("lab/app:v1"));
    let known = known_references(&world.images());
    let content = world.engine.content();
    let steps = Steps {
        engine: &world.engine,
        content: &content,
        manifests: &BTreeMap::new(),
        known: &known,
    };
    let pin = |reference| Pin {
        reference,
        image_id: world.image.clone(),
    };
    let pins = [pin(of_index.clone()), pin(world.pinned())];
    let left = block_on(steps.drop_all(&pins)).unwrap();
    assert!(
        matches!(&left[..], [one] if one.reference == world.pinned() && one.why == Why::Last),
        "{left:?}"
    );
    let records = world.engine.records.borrow();
    assert!(records.contains_key(&world.pinned()) && !records.contains_key(&of_index));
}

#[test]
fn what_a_container_uses_stays_and_all_else_is_taken_back() {
    let world = World::new();
    world.is_killed(&world.proven(), true);
    world.engine.blob(&world.manifest);
    let mut records = world.engine.records.borrow_mut();
    records.insert(world.pinned(), world.digest());
    drop(records);
    world.engine.in_use.borrow_mut().push(world.pinned());
    let (recovered, told) = world.recover();
    let left = recovered.unwrap();
    assert!(left[0].contains("a container uses it"), "{left:?}");
    assert!(left[0].contains("docker rmi"), "{left:?}");
    assert_eq!(told.0, [Step::UndoLoad]);
    world.is_finished();
}

/// digestfix delays a shutdown during the whole run. The delay begins before the first
/// request.
#[test]
fn a_shutdown_waits_for_the_end() {
    let world = World::new();
    world.apply(&world.proven());
    let calls = world.engine.calls.borrow();
    assert!(
        calls.iter().any(|call| call.starts_with("load")),
        "{calls:?}"
    );
    let mut waits = world.systemd.shutdown_waits.borrow_mut().take().unwrap();
    let mut rest = Vec::new();
    // The read ends only if digestfix has closed the other end of the pipe.
    std::io::Read::read_to_end(&mut waits, &mut rest).unwrap();
    assert_eq!(rest, b"");
}

/// Once the image of a dropped reference is gone, the reference cannot be restored. The
/// engine still accepts a request to create the reference, so digestfix must not leave
/// the name behind.
#[test]
fn what_cannot_be_had_back_is_named_and_leaves_no_name() {
    let config = |world: &World| world.image.to_string().parse().unwrap();
    for config_stays in [false, true] {
        let world = World::new();
        world.apply(&world.proven());
        let mut request = world.request("", &[]);
        request.removals = vec![world.pinned()];
        world.is_killed(&request, true);
        world.engine.records.borrow_mut().clear();
        if !config_stays {
            world.engine.lose(&config(&world));
        }
        let (recovered, _) = world.recover();
        let left = recovered.unwrap();
        assert!(left[0].contains("could not be restored"), "{left:?}");
        assert!(world.engine.records.borrow().is_empty());
        world.is_finished();
    }
}

#[test]
fn a_killed_change_of_an_image_that_is_gone_is_not_made() {
    let world = World::new();
    world.is_killed(&world.proven(), false);
    world.engine.records.borrow_mut().clear();
    world.engine.lose(&world.image.to_string().parse().unwrap());
    let (recovered, told) = world.recover();
    assert!(recovered.unwrap().is_empty());
    assert!(told.1[0].contains("no longer on this host"), "{:?}", told.1);
    assert!(
        world
            .engine
            .calls
            .borrow()
            .iter()
            .all(|call| !call.starts_with("load"))
    );
    let references = Side::Old;
    assert_eq!(
        world.ends().last(),
        Some(&Some(End::Recovered { references }))
    );
}

/// Docker 28 claims to have a digest even if its image is missing.
#[test]
fn a_digest_without_its_image_is_not_believed() {
    let world = World::new();
    world.apply(&world.proven());
    let content = world.engine.content();
    let steps = Steps {
        engine: &world.engine,
        content: &content,
        manifests: &BTreeMap::new(),
        known: &[],
    };
    let pin = Pin {
        reference: world.pinned(),
        image_id: world.image.clone(),
    };
    let missing = || block_on(steps.missing(std::slice::from_ref(&pin))).unwrap();
    assert!(missing().is_empty());
    world.engine.lose(&world.image.to_string().parse().unwrap());
    assert_eq!(missing(), std::slice::from_ref(&pin));
    let loaded = block_on(steps.load(&[pin]));
    assert!(matches!(loaded, Err(Failure::Archive(_))), "{loaded:?}");
}

/// If a connection breaks, the engine still carries out the request that it received.
#[test]
fn what_lands_late_is_taken_back_too() {
    let world = World::new();
    // The load takes effect after the first undo.
    world.engine.lands_after.set(Some(3));
    let (outcome, _) = world.apply(&world.proven());
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
    let calls = world.engine.calls.borrow().clone();
    assert_eq!(
        calls.len(),
        2,
        "undo drops the reference once more: {calls:?}"
    );
    assert!(world.is_as_before());
    world.is_finished();
}

/// Another client pulls the digest after digestfix has made its plan.
#[test]
fn what_somebody_pulls_meanwhile_is_not_taken_back() {
    let world = World::new();
    let (here, plan, work) = world.drawn(&world.proven());
    world.engine.blob(&world.manifest);
    world
        .engine
        .records
        .borrow_mut()
        .insert(world.pinned(), world.digest());
    world.engine.fails.set(Some("load"));
    let (outcome, _) = world.run(&here, plan, work.unwrap());
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    assert!(world.engine.calls.borrow().is_empty());
    assert!(world.engine.records.borrow().contains_key(&world.pinned()));
}

/// If there is no journal and a history record does not say how its run ended, digestfix
/// assumes that the run changed nothing. So the journal stays until the record is
/// written.
#[test]
fn an_end_that_cannot_be_noted_leaves_the_journal() {
    let world = World::new();
    world.is_killed(&world.proven(), false);
    let history = history::directory(world.root.path());
    // Put a directory in place of the record's temporary file, so that digestfix cannot
    // write the record.
    let name = history::path(world.root.path(), &world.killed());
    let in_the_way = name.with_extension("json.new");
    std::fs::create_dir_all(in_the_way.join("full")).unwrap();
    let (recovered, _) = world.recover();
    assert!(
        matches!(recovered, Err(Failure::History(_))),
        "{recovered:?}"
    );
    assert!(Journal::read(world.root.path()).unwrap().is_some());
    std::fs::remove_dir_all(in_the_way).unwrap();
    assert!(history.is_dir());
    world.recover().0.unwrap();
    let references = Side::New;
    assert_eq!(world.ends(), [Some(End::Recovered { references })]);
}

#[test]
fn layers_that_are_here_by_a_digest_alone_are_not_dropped() {
    let world = World::new();
    world.apply(&world.proven());
    // A pull leaves a layer blob in the content store.
    let layer = world.engine.blob(&world.image.to_string());
    let mut request = world.request("", &[]);
    request.removals = vec![world.pinned()];
    let refused = world.refused(&request);
    assert!(
        refused.contains("only this reference keeps the layers of its image"),
        "{refused}"
    );
    let other = reference(&format!("lab/other@{}", world.digest()));
    world
        .engine
        .records
        .borrow_mut()
        .insert(other, world.digest());
    assert!(world.drawn(&request).2.is_ok(), "another has them");
    world.engine.lose(&layer);
    assert!(world.drawn(&request).2.is_ok(), "there are none");
}

#[test]
fn layers_that_came_meanwhile_are_not_taken_back() {
    let world = World::new();
    world.is_killed(&world.proven(), true);
    world.engine.blob(&world.manifest);
    world.engine.blob(&world.image.to_string());
    let mut records = world.engine.records.borrow_mut();
    records.insert(world.pinned(), world.digest());
    drop(records);
    let (recovered, _) = world.recover();
    let left = recovered.unwrap();
    assert!(
        left[0].contains("only this reference keeps the layers of its image"),
        "{left:?}"
    );
    assert!(world.engine.records.borrow().contains_key(&world.pinned()));
}

#[test]
fn an_image_that_the_engine_would_not_run_is_refused() {
    let world = World::new();
    let foreign = world.engine.config("foreign", "arm64");
    world.engine.loaded("lab/foreign:v1", &foreign);
    let text = served(&foreign);
    let request = world.request(&format!("lab/foreign:v1@{}", of(&text)), &[&text]);
    let refused = world.refused(&request);
    assert!(refused.contains("another platform"), "{refused}");
    world.engine.blob(&foreign.to_string());
    assert!(world.drawn(&request).2.is_ok(), "the image has its layers");

    let better = index(&[(of("its own"), "amd64"), (world.digest(), "386")]);
    let claim = format!("lab/app:v1@{}", of(&better));
    let refused = world.refused(&world.request(&claim, &[&better, &world.manifest]));
    assert!(
        refused.contains("Docker would choose another image"),
        "{refused}"
    );

    let old = world
        .manifest
        .replace(
            "application/vnd.oci.image.config.v1+json",
            "application/octet-stream",
        )
        .replacen(
            '{',
            r#"{"mediaType":"application/vnd.docker.distribution.manifest.v2+json","#,
            1,
        );
    let request = world.request(&format!("lab/app:v1@{}", of(&old)), &[&old]);
    let refused = world.refused(&request);
    assert!(refused.contains("unpacks no layers"), "{refused}");
    world.engine.blob(&world.image.to_string());
    assert!(world.drawn(&request).2.is_ok(), "the image has its layers");
}

/// The engine's answer decides whether layers are missing, regardless of the blobs on
/// disk.
#[test]
fn what_runs_only_is_told_after_the_load() {
    for (is_new, has_layers) in [(false, false), (true, false), (true, true), (false, true)] {
        let world = World::new();
        world.engine.is_new.set(is_new);
        world.engine.blob(&world.image.to_string());
        world.engine.is_of_another_namespace.set(!has_layers);
        let (outcome, _) = world.apply(&world.proven());
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        let run_only = outcome.run_only;
        assert_eq!(run_only.is_empty(), has_layers);
    }
}

#[test]
fn a_change_that_failed_makes_room_too() {
    let world = World::new();
    world.engine.fails.set(Some("load"));
    world.apply(&world.proven());
    let (first, _) = history::scan(world.root.path(), Some);
    let text = serde_json::to_string(&first[0]).unwrap();
    for number in 2..250 {
        let id = format!("T-{number}");
        let text = text
            .replace(&format!("\"{}\"", first[0].id), &format!("\"{id}\""))
            .replace("\"number\":1,", &format!("\"number\":{number},"));
        let path = history::path(world.root.path(), &id);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(world.ends().len(), 249);
    let (outcome, _) = world.apply(&world.proven());
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
    assert!(world.ends().len() < 210, "{}", world.ends().len());
}

#[test]
fn a_store_that_was_switched_off_keeps_nothing_waiting() {
    let world = World::new();
    world.is_killed(&world.proven(), false);
    let lock = RootLock::acquire_now(world.root.path()).unwrap();
    let journal = Journal::read(world.root.path()).unwrap().unwrap();
    let mut told = Told::default();
    block_on(recovery::abandon(
        &journal,
        &world.images(),
        &lock,
        Docker {
            manager: &world.systemd,
            host: &host(),
            pending: &world.pending(),
        },
        &mut told,
    ))
    .unwrap();
    world.is_finished();
    let references = Side::Other;
    assert_eq!(world.ends(), [Some(End::Recovered { references })]);
}

/// Tests the same as `an_end_that_cannot_be_noted_leaves_the_journal`, with a run that is
/// not killed.
#[test]
fn a_disk_that_is_full_at_the_end_leaves_the_journal() {
    for fails in [false, true] {
        let world = World::new();
        let in_the_way = history::path(world.root.path(), "T-0").with_extension("json.new");
        let full = in_the_way.join("full");
        let act = move |_: &FakeImages| std::fs::create_dir_all(full).unwrap();
        *world.engine.meanwhile.borrow_mut() = Some(("load", Box::new(act)));
        world.engine.fails.set(fails.then_some("load"));
        let (outcome, told) = world.apply(&world.proven());
        if fails {
            // If a history record does not say how its run ended, digestfix assumes that
            // the run changed nothing. This run did change nothing.
            assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
            assert!(
                told.1
                    .last()
                    .unwrap()
                    .contains("could not record how this run ended")
            );
            world.is_finished();
            std::fs::remove_dir_all(in_the_way).unwrap();
            assert!(world.is_as_before());
            continue;
        }
        let Ended::Incomplete { problem } = outcome.ended else {
            panic!("{outcome:?}");
        };
        assert!(matches!(problem, Failure::History(_)), "{problem:?}");
        assert!(outcome.watchdog.is_some());
        assert_eq!(world.killed(), "T-0", "the journal is still on disk");
        std::fs::remove_dir_all(in_the_way).unwrap();
        world.recover().0.unwrap();
        world.is_finished();
        let references = Side::New;
        assert_eq!(world.ends(), [Some(End::Recovered { references })]);
    }
}

/// digestfix cannot prevent other clients from using the engine. In this test, a client
/// sets a tag just before the drop.
#[test]
fn what_went_along_is_told() {
    let world = World::new();
    world.is_killed(&world.proven(), true);
    world.engine.blob(&world.manifest);
    let mut records = world.engine.records.borrow_mut();
    records.insert(world.pinned(), world.digest());
    drop(records);
    let digest = world.digest();
    let act = move |engine: &FakeImages| {
        let mut records = engine.records.borrow_mut();
        records.insert(reference("lab/app:mine"), digest);
    };
    *world.engine.meanwhile.borrow_mut() = Some(("untag", Box::new(act)));
    let left = world.recover().0.unwrap();
    assert!(
        left[0].contains("also dropped these references: lab/app:mine"),
        "{left:?}"
    );
    let references = Side::Other;
    assert_eq!(world.ends(), [Some(End::Recovered { references })]);
}

/// Undo restores the dropped digest, but not the tag that Docker dropped along with it.
#[test]
fn what_went_along_on_the_way_is_told_too() {
    let world = World::new();
    world.apply(&world.proven());
    let mut request = world.request("", &[]);
    request.removals = vec![world.pinned()];
    let digest = world.digest();
    let act = move |engine: &FakeImages| {
        let mut records = engine.records.borrow_mut();
        records.insert(reference("lab/app:mine"), digest);
    };
    *world.engine.meanwhile.borrow_mut() = Some(("untag", Box::new(act)));
    let (outcome, _) = world.apply(&request);
    let Ended::Undone { left, .. } = outcome.ended else {
        panic!("{outcome:?}");
    };
    assert!(!left.is_empty());
    assert!(world.engine.records.borrow().contains_key(&world.pinned()));
    let told = left[0].to_string();
    assert!(told.starts_with("lab/app:mine is gone"), "{told}");
    assert!(matches!(
        world.ends()[..],
        [Some(End::Done), Some(End::Undone { .. })]
    ));
}

/// The engine's listing contains a tag that is gone when digestfix sends the DELETE
/// request.
#[test]
fn another_reference_is_looked_for_just_before_each_is_dropped() {
    let world = World::new();
    let text = index(&[(world.digest(), "amd64")]);
    let of_index = reference(&format!("lab/app@{}", of(&text)));
    let request = world.request(
        &format!("lab/app:v1@{}", of(&text)),
        &[&text, &world.manifest],
    );
    world.is_killed(&request, true);
    world.engine.blob(&world.manifest);
    world.engine.blob(&text);
    let mut records = world.engine.records.borrow_mut();
    records.insert(world.pinned(), world.digest());
    records.insert(of_index.clone(), of(&text));
    drop(records);
    // During the first drop, the tag disappears. After that, digestfix must not drop the
    // second digest, because it is the image's last reference.
    let content = world.engine.content();
    let steps = Steps {
        engine: &world.engine,
        content: &content,
        manifests: &BTreeMap::new(),
        known: &[],
    };
    let act = |engine: &FakeImages| {
        engine.records.borrow_mut().remove(&reference("lab/app:v1"));
    };
    *world.engine.meanwhile.borrow_mut() = Some(("untag", Box::new(act)));
    let pin = |reference: &Reference| Pin {
        reference: reference.clone(),
        image_id: world.image.clone(),
    };
    let pins = [pin(&of_index), pin(&world.pinned())];
    let left = block_on(steps.drop_all(&pins)).unwrap();
    assert!(
        matches!(&left[..], [one] if one.why == Why::Last && one.reference == world.pinned()),
        "{left:?}"
    );
    assert!(world.engine.records.borrow().contains_key(&world.pinned()));
}

/// Another client has pulled the digest meanwhile, so undo keeps the digest.
#[test]
fn what_was_never_asked_for_is_not_taken_back() {
    let world = World::new();
    let in_the_way = journal::path(world.root.path()).with_extension("json.new");
    std::fs::create_dir_all(in_the_way.join("full")).unwrap();
    let (here, plan, work) = world.drawn(&world.proven());
    world.engine.blob(&world.manifest);
    let mut records = world.engine.records.borrow_mut();
    records.insert(world.pinned(), world.digest());
    drop(records);
    let (outcome, _) = world.run(&here, plan, work.unwrap());
    assert!(!matches!(outcome.ended, Ended::Done), "{outcome:?}");
    assert!(world.engine.calls.borrow().is_empty());
    assert!(world.engine.records.borrow().contains_key(&world.pinned()));
}

/// The layers of the image belong to another containerd namespace, so Docker has no
/// unpacked layers.
#[test]
fn an_image_for_another_platform_has_to_be_whole() {
    let world = World::new();
    let foreign = world.engine.config("foreign", "arm64");
    world.engine.loaded("lab/foreign:v1", &foreign);
    world.engine.blob(&foreign.to_string());
    world.engine.is_of_another_namespace.set(true);
    let before = world.engine.records.borrow().clone();
    let text = served(&foreign);
    let request = world.request(&format!("lab/foreign:v1@{}", of(&text)), &[&text]);
    let (outcome, _) = world.apply(&request);
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
    assert_eq!(*world.engine.records.borrow(), before);
}
