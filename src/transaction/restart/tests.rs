#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::docker::container::{RestartPolicy, Status};
use crate::docker::engine::References;
use crate::host::impact::{ContainerPolicy, Impact};
use crate::host::live_restore::{LiveRestore, LiveRestoreBlocker};
use crate::host::{Flags, Managed, Start, Startable, says_live_restore, with_live_restore};
use crate::image::reference::Reference;
use crate::plan::Request;
use crate::state::id::{beside, new_id};
use crate::state::journal::{Journal, KeptDown, Ran, hash};
use crate::state::loading::Loading;
use crate::state::lock::RootLock;
use crate::state::retention::Limits;
use crate::store::data_root::ImageDir;
use crate::sys::interrupt::Interrupt;
use crate::systemd::{Service, Unit};
use crate::testing::engine::{FakeEngine, OnReload, in_hex};
use crate::testing::{FakeSystemd, block_on, scratch};
use crate::transaction::Docker;
use crate::transaction::outcome::{DockerNow, Ended, Outcome, Progress};

mod interrupted;
mod record;
mod startable;

mod unread;

const STORE: &str = r#"{"Repositories":{"a":{"a:1":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}}"#;
const DIGEST: &str = "sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";

/// A host whose Docker has one reference, and what digestfix knows about the host before
/// the restart.
struct World {
    root: TempDir,
    systemd: FakeSystemd,
    engine: Rc<FakeEngine>,
    pending: PathBuf,
    units: PathBuf,
    policy: ContainerPolicy,
    swarm: bool,
    /// Whether the engine is so old that it does not resume health checks after a
    /// restart.
    old: bool,
    /// What digestfix knows about the next start of Docker.
    startable: Startable,
    /// Whether digestfix holds back new connections to published ports.
    holds_ports: bool,
}

impl World {
    fn engine_has_the_digest(&self) -> bool {
        let has = self.engine.has.borrow();
        has.contains_key(&format!("a@{DIGEST}"))
    }

    fn new() -> Self {
        let root = scratch();
        let images = ImageDir::new(root.path(), "overlay2");
        fs::create_dir_all(images.path().join("imagedb/content/sha256")).unwrap();
        fs::write(images.store_path(), STORE).unwrap();
        let [pending, units] = ["lib/pending", "units"].map(|name| root.path().join(name));
        fs::create_dir(&units).unwrap();
        let engine = Rc::new(FakeEngine {
            runs: Cell::new(true),
            images: Some(images),
            config_file: root.path().join("etc/daemon.json"),
            ..FakeEngine::default()
        });
        let mut systemd = FakeSystemd {
            docker: Some(Rc::clone(&engine)),
            runtime_units: Some(units.clone()),
            owner: Some("docker.service"),
            ..FakeSystemd::default()
        };
        for unit in ["docker.service", "docker.socket", "unrelated.service"] {
            systemd.add(unit, "active");
        }
        let world = Self {
            root,
            systemd,
            engine,
            pending,
            units,
            policy: ContainerPolicy::Keep,
            swarm: false,
            old: false,
            startable: Startable::default(),
            holds_ports: false,
        };
        world.has_image('a');
        world.engine.reads_store();
        world
    }

    /// Adds an image whose ID is a repetition of one digit.
    fn has_image(&self, digit: char) {
        let ids = self.images().path().join("imagedb/content/sha256");
        fs::write(ids.join(digit.to_string().repeat(64)), "").unwrap();
    }

    fn images(&self) -> ImageDir {
        ImageDir::new(self.root.path(), "overlay2")
    }

    fn store(&self) -> String {
        fs::read_to_string(self.images().store_path()).unwrap()
    }

    fn write_store(&self, text: &str) {
        fs::write(self.images().store_path(), text).unwrap();
    }

    fn config_file(&self) -> PathBuf {
        self.engine.config_file.clone()
    }

    fn config(&self) -> Option<String> {
        fs::read_to_string(self.config_file()).ok()
    }

    fn write_config(&self, text: &str) {
        fs::create_dir_all(self.config_file().parent().unwrap()).unwrap();
        fs::write(self.config_file(), text).unwrap();
    }

    fn statuses(&self) -> Vec<(u32, Status)> {
        let containers = self.engine.containers.borrow();
        let statuses = containers.iter();
        statuses.map(|one| (one.pid, one.status.clone())).collect()
    }

    fn daemon<'a>(
        &'a self,
        host: &'a Managed,
        impact: &'a Impact,
    ) -> Daemon<'a, FakeSystemd, FakeEngine> {
        Daemon {
            docker: Docker {
                manager: &self.systemd,
                host,
                pending: &self.pending,
            },
            engine: &self.engine,
            impact,
            runtime_units: &self.units,
        }
    }
}

/// Collects the steps that ended, the warnings, and the descriptions of the work that
/// began.
#[derive(Default)]
struct Steps(Vec<Step>, Vec<String>, Vec<String>);

impl Progress for Steps {
    fn begin(&mut self, doing: &str) {
        self.2.push(doing.to_owned());
    }

    fn transaction_begins(&mut self, _: &str) {}

    fn docker_stops(&mut self) {}

    fn step(&mut self, step: Step, _: &str) {
        self.0.push(step);
    }

    fn warning(&mut self, text: &str) {
        self.1.push(text.to_owned());
    }
}

fn host(world: &World) -> Managed {
    Managed {
        unit: Unit {
            id: "docker.service".to_owned(),
            ..Unit::default()
        },
        service: Service::default(),
        engine: Some(world.engine.info.borrow().clone()),
        socket: "/nowhere".into(),
        config_file: world.config_file(),
        flags: Flags::default(),
        live_restore_flag: None,
        live_restore_at_start: false,
        forgotten_by_reload: Vec::new(),
        undone_by_reload: Vec::new(),
        leaves_proxy_to_be_found: false,
        start: Start::default(),
    }
}

fn impact(world: &World) -> Impact {
    let file = fs::read(world.config_file()).ok();
    Impact {
        unit: "docker.service".to_owned(),
        running: true,
        triggers: vec!["docker.socket".to_owned()],
        carried_along: Vec::new(),
        containers: world.engine.containers.borrow().clone(),
        policy: world.policy,
        live_restore: if world.swarm {
            LiveRestore::Impossible(LiveRestoreBlocker::Swarm)
        } else if world.engine.live_restore() && says_live_restore(file.as_deref()) {
            LiveRestore::On
        } else {
            LiveRestore::Switchable(world.config_file())
        },
        keeps_auto_removed: true,
        resumes_health_checks: !world.old,
        api_clients: 0,
        waits_for_clients: true,
        removed_at_start: Vec::new(),
        forgotten_by_reload: Vec::new(),
        startable: world.startable.clone(),
        may_refuse_reload: false,
    }
}

/// Lets only one test run at a time. A start block depends on the number of a file
/// descriptor of this process, and another test could get the same number.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Recovers the run whose journal is on disk.
fn recover(world: &World) -> Result<Vec<String>, Failure> {
    let _alone = alone();
    block_on(async {
        let images = world.images();
        let lock = RootLock::acquire(images.data_root(), Duration::ZERO)
            .await
            .unwrap();
        let mut journal = Journal::read(images.data_root()).unwrap().unwrap();
        let (host, impact) = (host(world), impact(world));
        let daemon = world.daemon(&host, &impact);
        recovery::recover(&mut journal, &images, &lock, daemon, &mut Steps::default()).await
    })
}

/// Runs a whole transaction in this world.
fn transact(world: &World) -> (Outcome, Vec<Step>) {
    let (outcome, told) = transact_all(world);
    (outcome, told.0)
}

fn transact_all(world: &World) -> (Outcome, Steps) {
    let request = Request {
        claims: vec![format!("a:1@{DIGEST}").parse().unwrap()],
        ..Request::default()
    };
    transact_for(world, &Goal::Claims(&request), &new_id())
}

/// Runs a transaction with this ID. After the run, digestfix keeps at most two backups.
fn transact_for(world: &World, goal: &Goal<'_>, id: &str) -> (Outcome, Steps) {
    let _alone = alone();
    block_on(async {
        let images = world.images();
        let before = images.look().unwrap();
        let plan = goal
            .plan(&before.store, &images.image_ids().unwrap())
            .unwrap();
        let lock = RootLock::acquire(images.data_root(), Duration::ZERO)
            .await
            .unwrap();
        let (host, impact) = (host(world), impact(world));
        let daemon = world.daemon(&host, &impact);
        let interrupt = Interrupt::listen().unwrap();
        let mut steps = Steps::default();
        let limits = Limits {
            backups: 2,
            days: 90,
        };
        let mut tx = Tx::new(
            &images,
            lock,
            goal.kind(),
            limits,
            Some(daemon.docker.supervised(&images)),
            &interrupt,
            &mut steps,
            plan,
        );
        id.clone_into(&mut tx.id);
        let mut restart = Restart::new(goal, Some(daemon), before);
        // This file takes the place of the socket that owns the nf_tables table.
        let held = || fs::File::open("/dev/null").unwrap().into();
        restart.held_ports = world.holds_ports.then(held);
        let outcome = tx.run(restart).await;
        (outcome, steps)
    })
}

#[track_caller]
fn is_undone(world: &World, outcome: &Outcome) {
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
    let states = block_on(world.systemd.active_states()).unwrap();
    assert!(states.values().all(|state| state == "active"), "{states:?}");
    assert_eq!(world.store(), STORE);
    is_clean(world);
}

#[track_caller]
fn is_clean(world: &World) {
    let left: Vec<_> = fs::read_dir(world.images().path())
        .unwrap()
        .map(|child| child.unwrap().file_name())
        .filter(|name| name.to_string_lossy().contains("digestfix"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(Journal::read(world.root.path()).unwrap().is_none());
    assert_eq!(*world.systemd.watchdogs.borrow(), Vec::<String>::new());
    let markers = fs::read_dir(&world.pending);
    assert_eq!(markers.map_or(0, Iterator::count), 0);
    let etc = fs::read_dir(world.root.path().join("etc"));
    assert!(
        etc.map_or(0, |etc| etc
            .filter(|one| one.as_ref().unwrap().file_name() != "hosts")
            .count())
            <= 1,
        "etc contains no file except daemon.json and hosts"
    );
    assert_eq!(fs::read_dir(&world.units).unwrap().count(), 0);
}

#[test]
fn all_goes_well() {
    let world = World::new();
    let (outcome, steps) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let backup = outcome.backup;
    assert_eq!(fs::read_to_string(backup.unwrap()).unwrap(), STORE);
    assert!(world.engine_has_the_digest());
    assert_eq!(
        steps,
        [
            Step::Stage,
            Step::BlockStart,
            Step::Stop,
            Step::Commit,
            Step::Start,
            Step::Verify
        ]
    );
    assert_eq!(
        *world.systemd.calls.borrow(),
        ["watchdog", "reload", "stop", "start", "reload"],
        "digestfix sends systemd no other requests"
    );
}

/// The number of bytes that the reserve holds for the start of Docker.
fn reserve(data_root: &Path) -> u64 {
    let directory = data_root.join("digestfix/.digestfix-reserve");
    let parts = fs::read_dir(directory).into_iter().flatten();
    let files = parts.flat_map(|part| fs::read_dir(part.unwrap().path()).unwrap());
    files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

/// The number of bytes that the reserve holds when systemd's method `call` is called.
fn reserve_at(world: &World, call: &'static str) -> Rc<Cell<Option<u64>>> {
    let (found, root) = (Rc::default(), world.root.path().to_owned());
    let finds: Rc<Cell<_>> = Rc::clone(&found);
    let look = move || finds.set(Some(reserve(&root)));
    world.systemd.at(call, look);
    found
}

#[test]
fn space_is_held_while_docker_is_stopped_and_freed_before_its_start() {
    let world = World::new();
    let [stopped, started] = ["stop", "start"].map(|call| reserve_at(&world, call));
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let all = crate::transaction::reserve::needs(world.root.path(), &[])[0].bytes;
    let (stopped, started) = (stopped.get().unwrap(), started.get().unwrap());
    assert!(stopped >= all, "{stopped}");
    assert!(started > 0 && started <= all / 2 + all / 8, "{started}");
    assert_eq!(reserve(world.root.path()), 0);

    // Undo frees the whole reserve before it starts Docker.
    let world = World::new();
    world.engine.lies.set(true);
    let started = reserve_at(&world, "start");
    let (outcome, _) = transact(&world);
    is_undone(&world, &outcome);
    assert_eq!(started.get(), Some(0));
    assert_eq!(reserve(world.root.path()), 0);
}

#[test]
fn a_reserve_that_cannot_be_held_is_refused_before_the_stop() {
    let world = World::new();
    let state = world.root.path().join("digestfix");
    fs::create_dir(&state).unwrap();
    fs::write(state.join(".digestfix-reserve"), "in its way").unwrap();
    let (outcome, _) = transact(&world);
    let Ended::Undone {
        failure: Failure::Reserve(error),
        ..
    } = &outcome.ended
    else {
        panic!("{outcome:?}");
    };
    assert_eq!(error.need.path, state);
    assert!(!world.systemd.calls.borrow().contains(&"stop"));
}

#[test]
fn what_a_killed_run_held_is_freed_before_docker_is_started() {
    let world = World::new();
    let (images, id) = (world.images(), new_id());
    let lock = RootLock::acquire_now(images.data_root()).unwrap();
    let references = journal::References {
        driver: "overlay2".to_owned(),
        before: hash(STORE.as_bytes()),
        after: hash(b"new"),
    };
    let mut restart = journal::Restart::new("docker.service");
    restart.running = true;
    restart.phase = Phase::Stopping;
    let journal = Journal::new(&id, references, Intent::Restart(restart));
    journal.write(&lock).unwrap();
    drop(lock);
    std::mem::forget(Reserve::hold(images.data_root(), &[]).unwrap());
    world.engine.runs.set(false);
    let started = reserve_at(&world, "start");
    assert_eq!(recover(&world).unwrap(), [""; 0]);
    assert!(world.engine.runs.get());
    assert_eq!(
        started.get(),
        Some(0),
        "recovery frees the reserve before the start"
    );
    assert_eq!(reserve(world.root.path()), 0);
}

/// Docker answers, but has not loaded a container that was not running before.
#[test]
fn a_container_that_docker_does_not_list_any_more_is_told() {
    let mut world = World::new();
    for name in ["web", "down", "gone"] {
        world.engine.run_container(name);
    }
    world.policy = ContainerPolicy::Ignore;
    let ids: Vec<String> = world
        .engine
        .containers
        .borrow_mut()
        .iter_mut()
        .map(|one| {
            if one.name == "down" {
                one.status = Status::Down("exited".to_owned());
            }
            one.id.clone()
        })
        .collect();
    // The files of the third container are missing, as if a client had removed it.
    for id in &ids[..2] {
        let files = world.root.path().join("containers").join(in_hex(id));
        fs::create_dir_all(&files).unwrap();
        fs::write(files.join("config.v2.json"), "{}").unwrap();
    }
    world.engine.cannot_load.replace(ids[1..].to_vec());
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let containers = outcome.containers;
    let unlisted: Vec<_> = containers
        .iter()
        .filter(|one| matches!(one.what, crate::docker::container::Happened::Unlisted(_)))
        .collect();
    assert_eq!(unlisted.len(), 1, "{containers:?}");
    assert_eq!(unlisted[0].name, "down");
    assert!(unlisted.iter().all(|one| !impact(&world).accepts(one)));
}

#[test]
fn what_is_waited_for_is_said_before() {
    let (_, steps) = transact_all(&World::new());
    assert_eq!(
        steps.2,
        [
            "starting a watchdog",
            "writing the new references",
            "blocking starts of docker.service",
            "stopping docker.service, docker.socket",
            "changing the references",
            "starting docker.service, docker.socket",
            "asking the running engine",
        ]
    );
    let world = World::new();
    world.engine.lies.set(true);
    let (_, steps) = transact_all(&world);
    assert_eq!(
        steps.2[7..],
        [
            "undoing",
            "stopping Docker again",
            "starting docker.service, docker.socket"
        ]
    );
}

#[test]
fn a_failing_call_is_undone_wherever_it_is() {
    for call in ["reload", "stop", "start"] {
        let world = World::new();
        world.systemd.fails.set(Some((call, 0)));
        let (outcome, _) = transact(&world);
        is_undone(&world, &outcome);
    }
}

/// The mark of an interrupted load stays on disk until the claims are recorded, so the
/// mark is still there after a run is killed.
#[test]
fn the_mark_of_a_load_goes_once_its_claims_are_recorded() {
    for (fails, is_there) in [(None, false), (Some(("stop", 0)), true)] {
        let world = World::new();
        let data_root = world.root.path().to_owned();
        let lock = RootLock::acquire_now(&data_root).unwrap();
        let mark = Loading::new(vec!["/a.tar".to_owned()]);
        mark.write(&lock).unwrap();
        drop(lock);
        let seen = Rc::new(Cell::new(false));
        let (sees, root) = (Rc::clone(&seen), data_root.clone());
        world.systemd.at("stop", move || {
            let journal = Journal::read(&root).unwrap();
            sees.set(journal.is_some() && Loading::read(&root).is_some());
        });
        world.systemd.fails.set(fails);
        transact(&world);
        assert!(seen.get(), "the journal and the mark are both on disk");
        assert_eq!(Loading::read(&data_root).is_some(), is_there);
        assert!(Journal::read(&data_root).unwrap().is_none());
    }
}

#[test]
fn docker_that_does_not_stop_is_not_written_under() {
    let mut world = World::new();
    world.systemd.service.main_pid = 1;
    let (outcome, steps) = transact(&world);
    is_undone(&world, &outcome);
    assert!(!steps.contains(&Step::Commit));
}

#[test]
fn docker_that_is_still_there_is_not_written_under() {
    use fs2::FileExt;
    let world = World::new();
    fs::create_dir(world.root.path().join("volumes")).unwrap();
    let database = fs::File::create(world.root.path().join("volumes/metadata.db")).unwrap();
    FileExt::lock_exclusive(&database).unwrap();
    let (outcome, steps) = transact(&world);
    is_undone(&world, &outcome);
    assert!(!steps.contains(&Step::Commit));
}

#[test]
fn an_engine_that_ends_instead_of_answering() {
    let world = World::new();
    world.engine.dies_at_ping.set(true);
    let (outcome, steps) = transact(&world);
    is_undone(&world, &outcome);
    assert!(steps.contains(&Step::UndoCommit));
}

/// A systemd service of type `simple` is active before dockerd answers.
#[test]
fn an_engine_that_answers_late_is_waited_for() {
    let world = World::new();
    world.engine.early_pings.set(3);
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    assert_eq!(world.engine.early_pings.get(), 0);
}

#[test]
fn an_engine_that_never_answers_is_given_up() {
    let world = World::new();
    for (call, hangs) in [("start", true), ("stop", false)] {
        let engine = Rc::clone(&world.engine);
        let change = move || engine.hangs.set(hangs);
        world.systemd.at(call, change);
    }
    let (outcome, steps) = transact(&world);
    let Ended::Broken { failure, undo, .. } = outcome.ended else {
        panic!("{outcome:?}");
    };
    for failure in [failure, undo] {
        assert!(matches!(failure, Failure::Silent { .. }), "{failure}");
    }
    assert!(steps.contains(&Step::UndoCommit) && world.store() == STORE);
}

#[test]
fn an_engine_that_answers_otherwise() {
    let world = World::new();
    world.engine.lies.set(true);
    let (outcome, steps) = transact(&world);
    is_undone(&world, &outcome);
    assert!(steps.contains(&Step::UndoStop));
}

/// The second stop of Docker fails: the stop during undo. digestfix cannot restore the
/// file while Docker runs, so the outcome names the file with the old store.
#[test]
fn an_undo_that_cannot_stop_docker() {
    let world = World::new();
    world.engine.lies.set(true);
    world.systemd.fails.set(Some(("stop", 1)));
    let (outcome, _) = transact(&world);
    let Ended::Broken {
        now:
            HostNow {
                store,
                docker: Some(DockerNow::Runs),
                ..
            },
        ..
    } = outcome.ended
    else {
        panic!("{outcome:?}");
    };
    let StoreNow::New(backup) = store else {
        panic!("{store:?}");
    };
    assert_eq!(fs::read_to_string(backup).unwrap(), STORE);
    assert!(world.engine.runs.get(), "Docker runs although undo failed");
}

#[test]
fn a_stop_that_others_cancel_is_asked_for_again() {
    let world = World::new();
    world.systemd.cancels.set(3);
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let world = World::new();
    world.systemd.cancels.set(21);
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
    is_clean(&world);
}

#[test]
fn a_docker_that_never_starts_again() {
    let world = World::new();
    world.systemd.fails.set(Some(("start", 0)));
    world.systemd.fails_for_good.set(true);
    let (outcome, _) = transact(&world);
    let Ended::Broken {
        now:
            HostNow {
                store,
                docker: Some(DockerNow::Down),
                ..
            },
        ..
    } = outcome.ended
    else {
        panic!("{outcome:?}");
    };
    assert_eq!(store, StoreNow::Old);
    assert_eq!(world.store(), STORE);

    assert_eq!(
        world.systemd.watchdogs.borrow().len(),
        1,
        "the watchdog keeps trying"
    );

    world.systemd.fails.set(None);
    assert!(
        matches!(recover(&world), Ok(problems) if problems.is_empty()),
        "recovery succeeds once systemd starts Docker"
    );
    assert!(world.engine.runs.get());
    assert_eq!(
        world.systemd.watchdogs.borrow().len(),
        0,
        "the recovery ends the watchdog"
    );
    is_clean(&world);
}

#[test]
fn clients_that_are_let_go_are_told_of() {
    for (holds_ports, seconds, told) in [(true, 9, 0), (true, 11, 1), (false, 11, 0)] {
        let mut world = World::new();
        world.holds_ports = holds_ports;
        world.systemd.start_takes.set(Duration::from_secs(seconds));
        let (outcome, steps) = transact_all(&world);
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        let warnings = steps.1.iter();
        let of_ports = warnings.filter(|text| {
            text.as_str()
                == "Docker has been down for 10 s: new connections to published ports are \
                    refused until Docker answers"
        });
        assert_eq!(
            of_ports.count(),
            told,
            "{holds_ports} {seconds} {:?}",
            steps.1
        );
    }
}

#[test]
fn a_hold_that_systemd_does_not_heed_is_no_hold() {
    let mut world = World::new();
    world.systemd.runtime_units = None;
    let (outcome, steps) = transact(&world);
    is_undone(&world, &outcome);
    assert_eq!(steps, [Step::Stage]);
    assert!(!world.systemd.calls.borrow().contains(&"stop"));
}

/// The contents of daemon.json before a run.
const CONFIGS: [Option<&str>; 4] = [
    None,
    Some("{}"),
    Some("{\"debug\": true}\n"),
    Some("{\"live-restore\": false}"),
];

#[track_caller]
fn keeps(world: &World, config: Option<&str>) {
    assert_eq!(world.config().as_deref(), config, "daemon.json");
    let name = world.config_file().symlink_metadata();
    let directory = world.config_file().parent().unwrap().exists();
    assert_eq!(
        directory,
        name.is_ok(),
        "a directory that digestfix created is gone"
    );
    assert!(!world.engine.live_restore());
    assert_eq!(world.statuses(), [(100, Status::Running)]);
}

fn world_with(config: Option<&str>) -> World {
    let world = World::new();
    world.engine.run_container("web");
    if let Some(config) = config {
        world.write_config(config);
    }
    world
}

#[test]
fn containers_keep_running() {
    for config in CONFIGS {
        let world = world_with(config);
        let (outcome, steps) = transact(&world);
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        let containers = outcome.containers;
        assert_eq!(containers, []);
        assert!(steps.contains(&Step::EnableLiveRestore) && steps.contains(&Step::TakeBack));
        keeps(&world, config);
        assert!(world.engine_has_the_digest());
    }
}

#[test]
fn daemon_json_is_the_very_same_file_afterwards() {
    use std::os::unix::fs::MetadataExt;
    for config in CONFIGS.into_iter().flatten() {
        let world = world_with(Some(config));
        let look = || {
            let metadata = fs::metadata(world.config_file()).unwrap();
            (metadata.ino(), metadata.mtime_nsec(), metadata.mode())
        };
        let before = look();
        transact(&world);
        assert_eq!(look(), before, "{config}");
    }
}

#[test]
fn an_empty_directory_stays() {
    let world = world_with(Some("{}"));
    fs::remove_file(world.config_file()).unwrap();
    transact(&world);
    assert!(world.config_file().parent().unwrap().exists());
}

#[test]
fn a_link_stays_a_link() {
    let elsewhere = scratch();
    let target = elsewhere.path().join("docker.json");
    for content in [Some("{\"debug\":true}"), None] {
        let world = world_with(Some("{}"));
        fs::remove_file(world.config_file()).unwrap();
        if let Some(content) = content {
            fs::write(&target, content).unwrap();
        } else {
            fs::remove_file(&target).unwrap();
        }
        std::os::unix::fs::symlink(&target, world.config_file()).unwrap();
        let (outcome, _) = transact(&world);
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        assert_eq!(fs::read_link(world.config_file()).unwrap(), target);
        keeps(&world, content);
    }
}

#[test]
fn a_setting_that_only_has_to_be_read_stays() {
    let world = world_with(Some("{\"live-restore\": true}"));
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    assert!(world.engine.live_restore());
    assert_eq!(world.config().unwrap(), "{\"live-restore\": true}");
    assert_eq!(world.statuses(), [(100, Status::Running)]);
}

#[test]
fn each_failing_call_leaves_daemon_json_and_containers() {
    for config in CONFIGS {
        for call in ["reload", "hang up", "stop", "start"] {
            let world = world_with(config);
            world.systemd.fails.set(Some((call, 0)));
            let (outcome, _) = transact(&world);
            is_undone(&world, &outcome);
            keeps(&world, config);
        }
    }
}

#[test]
fn each_failing_reload_leaves_daemon_json_and_containers() {
    for config in CONFIGS {
        for failure in [OnReload::Refuses, OnReload::HasNoEffect, OnReload::Dies] {
            let world = world_with(config);
            *world.engine.on_reload.borrow_mut() = vec![failure];
            let (outcome, steps) = transact(&world);
            is_undone(&world, &outcome);
            assert!(!steps.contains(&Step::Stop));
            keeps(&world, config);
        }
    }
}

/// The reload fails after digestfix has changed the references. The outcome reports this,
/// and the journal stays for `digestfix recover`.
#[test]
fn a_reload_that_fails_on_the_way_back() {
    let world = world_with(Some("{}"));
    *world.engine.on_reload.borrow_mut() = vec![OnReload::Refuses, OnReload::Takes];
    let (outcome, _) = transact(&world);
    assert!(
        matches!(outcome.ended, Ended::Incomplete { .. }),
        "{outcome:?}"
    );
    assert!(Journal::read(world.root.path()).unwrap().is_some());
    assert_eq!(world.statuses(), [(100, Status::Running)]);
    assert!(matches!(recover(&world), Ok(problems) if problems.is_empty()));
    keeps(&world, Some("{}"));
}

#[test]
fn somebody_elses_edit_stays_and_containers_too() {
    let texts = [r#"{"debug": true}"#, r#"{ "live-restore":false }"#];
    for (theirs, failing) in texts.into_iter().zip([None, Some("stop")]) {
        let world = world_with(Some("{}"));
        world.systemd.fails.set(failing.map(|call| (call, 0)));
        *world.engine.on_reload.borrow_mut() = vec![OnReload::IsFollowedByAnEdit(theirs)];
        let (outcome, _) = transact(&world);
        assert_eq!(matches!(outcome.ended, Ended::Done), failing.is_none());
        assert_eq!(world.config().unwrap(), theirs);
        assert!(!world.engine.live_restore());
        assert_eq!(world.statuses(), [(100, Status::Running)]);
        assert!(Journal::read(world.root.path()).unwrap().is_none());
        let kept: Vec<String> = fs::read_dir(world.root.path().join("etc"))
            .unwrap()
            .map(|child| fs::read_to_string(child.unwrap().path()).unwrap())
            .collect();
        assert!(
            kept.contains(&"{}".to_owned()),
            "digestfix keeps the original file"
        );
        assert_eq!(kept.len(), 2, "{kept:?}");
    }
}

/// If a setting is removed from daemon.json, dockerd keeps the value until dockerd starts
/// again.
#[test]
fn an_engine_that_says_otherwise_than_its_file() {
    for config in CONFIGS {
        let world = world_with(config);
        world.engine.set_live_restore(true);
        let (outcome, _) = transact(&world);
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        assert_eq!(world.statuses(), [(100, Status::Running)]);
        assert_eq!(world.config().as_deref(), config);
        assert!(world.engine.live_restore(), "as it was");
    }
}

/// A killed run may leave daemon.json and dockerd in any of several states. For each
/// state, a recovery restores the original file, and so does a second recovery.
#[test]
fn every_state_of_daemon_json_is_recovered() {
    let variants = |config: Option<&str>| {
        [true, false].map(|on| with_live_restore(config.map(str::as_bytes), on).unwrap())
    };
    for config in CONFIGS {
        let [on, off] = variants(config);
        let found = config.map(|text| text.as_bytes().to_vec());
        // The contents of four files: daemon.json, the file set aside, the next file, and
        // the file under the third name.
        let states = [
            (found.clone(), None, None, None),
            (found.clone(), Some(on.clone()), None, None),
            (found.clone(), Some(on.clone()), None, found.clone()),
            (Some(on.clone()), None, None, found.clone()),
            (Some(on.clone()), found.clone(), None, None),
            (Some(on.clone()), found.clone(), Some(off.clone()), None),
            (Some(off.clone()), found.clone(), Some(on.clone()), None),
            (Some(off.clone()), found.clone(), None, None),
            (found.clone(), Some(off.clone()), None, None),
        ];
        for (number, state) in states.into_iter().enumerate() {
            for (engine, runs, stopping) in [
                (false, true, false),
                (true, true, false),
                (true, true, true),
                (true, false, true),
            ] {
                let says_on = state.0.as_ref() == Some(&on);
                if !runs && !says_on && number != 0 {
                    // While Docker is down, live-restore in daemon.json is always `true`,
                    // unless another program has restored the file. So skip the states
                    // that cannot occur.
                    continue;
                }
                let world = world_with(config);
                fs::create_dir_all(world.config_file().parent().unwrap()).unwrap();
                leave(&world, "digestfix-x", &state, [&on, &off], config);
                mark(&world, stopping);
                world.engine.set_live_restore(engine);
                world.engine.runs.set(runs);
                let case = format!("{config:?}, state {number}, {engine} {runs} {stopping}");
                assert!(
                    matches!(recover(&world), Ok(problems) if problems.is_empty()),
                    "{case}"
                );
                assert_eq!(world.config().as_deref(), config, "{case}");
                assert!(!world.engine.live_restore(), "{case}");
                assert_eq!(world.statuses(), [(100, Status::Running)], "{case}");
                assert!(world.engine.runs.get(), "{case}");
                is_clean(&world);
            }
        }
    }
}

type State = (
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Option<Vec<u8>>,
);

/// Writes the files that a killed run may leave, and its journal.
fn leave(world: &World, id: &str, state: &State, [on, off]: [&Vec<u8>; 2], config: Option<&str>) {
    let id = id.trim_start_matches("digestfix-");
    let beside = |suffix: &str| {
        let mut path = beside(&world.config_file(), id);
        path.as_mut_os_string().push(suffix);
        path
    };
    let names = [
        world.config_file(),
        beside(""),
        beside(".next"),
        beside(".old"),
    ];
    let contents = [&state.0, &state.1, &state.2, &state.3];
    for (name, content) in names.iter().zip(contents) {
        match content {
            Some(bytes) => fs::write(name, bytes).unwrap(),
            None => drop(fs::remove_file(name)),
        }
    }
    let references = journal::References {
        driver: "overlay2".to_owned(),
        before: hash(STORE.as_bytes()),
        after: hash(b""),
    };
    let mut restart = journal::Restart::new("docker.service");
    restart.running = true;
    restart.live_restore = Some(journal::DaemonJson {
        config_file: world.config_file(),
        engine: false,
        before: config.map(|text| hash(text.as_bytes())),
        found: config.is_some(),
        directory: config.is_some(),
        on: hash(on),
        off: hash(off),
    });
    write_journal(
        world,
        &Journal::new(id, references, Intent::Restart(restart)),
    );
}

fn write_journal(world: &World, journal: &Journal) {
    block_on(async {
        let lock = RootLock::acquire(world.root.path(), Duration::ZERO)
            .await
            .unwrap();
        journal.write(&lock).unwrap();
    });
}

fn mark(world: &World, stopping: bool) {
    let mut journal = Journal::read(world.root.path()).unwrap().unwrap();
    if stopping {
        journal.restart_mut().unwrap().phase = Phase::Stopping;
    }
    write_journal(world, &journal);
}

#[test]
fn containers_that_stop_are_started_again() {
    let mut world = world_with(None);
    world.engine.run_container("frozen");
    world.engine.containers.borrow_mut()[1].status = Status::Paused;
    world.policy = ContainerPolicy::Restart;
    let (outcome, steps) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    assert!(steps.contains(&Step::StartContainers) && !steps.contains(&Step::EnableLiveRestore));
    assert_eq!(
        world.statuses(),
        [(200, Status::Running), (200, Status::Paused)]
    );
}

#[test]
fn they_are_after_a_failure_too() {
    let mut world = world_with(None);
    world.policy = ContainerPolicy::Restart;
    world.systemd.fails.set(Some(("start", 0)));
    let (outcome, _) = transact(&world);
    is_undone(&world, &outcome);
    assert_eq!(world.statuses(), [(200, Status::Running)]);
}

#[test]
fn ignored_containers_stay_down_and_are_told() {
    let mut world = world_with(None);
    world.policy = ContainerPolicy::Ignore;
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let containers = outcome.containers;
    assert_eq!(containers[0].name, "web");
}

/// The container starts after digestfix has checked which containers the stop would end.
#[test]
fn a_container_that_comes_in_between_is_not_lost() {
    for (swarm, late) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut world = World::new();
        world.swarm = swarm;
        if late {
            world.engine.appears_late.set(Some("late"));
        } else {
            let (engine, mut name) = (Rc::clone(&world.engine), Some("late"));
            let appears = move || {
                name.take()
                    .into_iter()
                    .for_each(|name| engine.run_container(name))
            };
            world.systemd.at("reload", appears);
        }
        let (outcome, steps) = transact(&world);
        is_undone(&world, &outcome);
        assert!(!steps.contains(&Step::Stop));
        assert_eq!(world.statuses(), [(100, Status::Running)]);
    }
}

/// Docker starts a container with the restart policy `always` whenever Docker itself
/// starts.
#[test]
fn what_is_down_stays_down() {
    for failing in [None, Some("stop"), Some("start")] {
        let world = world_with(None);
        world.engine.run_container("down");
        {
            let mut containers = world.engine.containers.borrow_mut();
            containers[1].pid = 0;
            containers[1].status = Status::Down("exited".to_owned());
            containers[1].restart_policy = RestartPolicy::Always;
            containers[1].max_retries = 3;
        }
        world.systemd.fails.set(failing.map(|call| (call, 0)));
        transact(&world);
        let containers = world.engine.containers.borrow();
        assert_eq!(containers[1].pid, 0);
        assert_eq!(containers[1].restart_policy, RestartPolicy::Always);
        assert_eq!(containers[1].max_retries, 3);
        assert!(Journal::read(world.root.path()).unwrap().is_none());
    }
}

#[test]
fn health_checks_are_resumed_where_docker_does_not() {
    for old in [false, true] {
        let mut world = world_with(None);
        world.old = old;
        world.engine.run_container("unchecked");
        world.engine.containers.borrow_mut()[0].health_check = true;
        let (outcome, _) = transact(&world);
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        let containers = outcome.containers;
        assert_eq!(containers, []);
        let resumed: &[&str] = if old { &["web"] } else { &[] };
        assert_eq!(*world.engine.resumed.borrow(), resumed);
    }
}
