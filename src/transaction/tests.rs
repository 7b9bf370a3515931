#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::disturbance::Disturbance;
use crate::engine::{Container, EngineError, Info, References};
use crate::host::Managed;
use crate::reference::Reference;
use crate::systemd::{QueuedJob, Service, SystemdError, Unit};

const STORE: &str = r#"{"Repositories":{"a":{"a:1":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}}"#;
const DIGEST: &str = "sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";

/// A systemd and an engine that fail where they are told to. The engine reads
/// the file at its start, as the real one does.
struct World {
    root: TempDir,
    runs: Cell<bool>,
    main_pid: Cell<u32>,
    has: RefCell<References>,
    calls: RefCell<Vec<String>>,
    /// The call that fails, and how often it works before.
    fails: Cell<Option<(&'static str, u32)>>,
    fails_for_good: Cell<bool>,
    asserted: RefCell<Vec<String>>,
    engine_lies: Cell<bool>,
    never_answers: Cell<bool>,
    /// Drop-ins are not read.
    deaf: Cell<bool>,
}

impl World {
    fn new() -> Self {
        let root = TempDir::new().unwrap();
        let images = root.path().join("image/overlay2");
        fs::create_dir_all(images.join("imagedb/content/sha256")).unwrap();
        fs::write(
            images.join("imagedb/content/sha256").join("a".repeat(64)),
            "",
        )
        .unwrap();
        fs::write(images.join("repositories.json"), STORE).unwrap();
        fs::create_dir(root.path().join("units")).unwrap();
        let world = Self {
            root,
            runs: Cell::new(true),
            main_pid: Cell::new(0),
            has: RefCell::default(),
            calls: RefCell::default(),
            fails: Cell::new(None),
            fails_for_good: Cell::new(false),
            asserted: RefCell::default(),
            engine_lies: Cell::new(false),
            never_answers: Cell::new(false),
            deaf: Cell::new(false),
        };
        world.read_store();
        world
    }

    fn images(&self) -> ImageDir {
        ImageDir::new(self.root.path(), "overlay2")
    }

    fn store(&self) -> String {
        fs::read_to_string(self.images().store_path()).unwrap()
    }

    fn read_store(&self) {
        let references = self.images().read().unwrap().store;
        *self.has.borrow_mut() = references
            .references()
            .map(|(reference, image)| (reference.familiar(), image.to_string()))
            .collect();
    }

    fn called(&self, call: &'static str) -> Result<(), SystemdError> {
        self.calls.borrow_mut().push(call.to_owned());
        match self.fails.get() {
            Some((name, 0)) if name == call => {
                if !self.fails_for_good.get() {
                    self.fails.set(None);
                }
                Err(SystemdError::Job {
                    verb: "start",
                    unit: "docker.service".to_owned(),
                    result: "failed".to_owned(),
                })
            }
            Some((name, left)) if name == call => {
                self.fails.set(Some((name, left - 1)));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl ServiceManager for World {
    async fn active_states(&self) -> Result<BTreeMap<String, String>, SystemdError> {
        let docker = if self.runs.get() {
            "active"
        } else {
            "inactive"
        };
        Ok([
            ("docker.service", docker),
            ("docker.socket", docker),
            ("unrelated.service", "active"),
        ]
        .map(|(name, state)| (name.to_owned(), state.to_owned()))
        .into())
    }

    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>, SystemdError> {
        Ok(Vec::new())
    }

    async fn unit(&self, name: &str) -> Result<Unit, SystemdError> {
        Ok(Unit {
            id: name.to_owned(),
            active_state: self.active_states().await?[name].clone(),
            asserted_paths: self.asserted.borrow().clone(),
            ..Unit::default()
        })
    }

    async fn service(&self, _: &str) -> Result<Service, SystemdError> {
        Ok(Service {
            main_pid: self.main_pid.get(),
            ..Service::default()
        })
    }

    async fn listening_paths(&self, _: &str) -> Result<Vec<String>, SystemdError> {
        Ok(Vec::new())
    }

    async fn unit_of_process(&self, _: u32) -> Result<String, SystemdError> {
        Ok("docker.service".to_owned())
    }

    async fn own_pid(&self) -> Result<u32, SystemdError> {
        Ok(std::process::id())
    }

    async fn reload(&self) -> Result<(), SystemdError> {
        self.called("reload")?;
        if self.deaf.get() {
            return Ok(());
        }
        let drop_in = self
            .root
            .path()
            .join("units/docker.service.d/zz-digestfix-hold.conf");
        let text = fs::read_to_string(drop_in).unwrap_or_default();
        *self.asserted.borrow_mut() = text
            .lines()
            .filter_map(|line| line.strip_prefix("AssertPathExists=!"))
            .map(str::to_owned)
            .collect();
        Ok(())
    }

    async fn reset_failed(&self, _: &str) -> Result<(), SystemdError> {
        Ok(())
    }

    async fn stop(&self, _: &str, _: &[String], _: Duration) -> Result<(), SystemdError> {
        self.called("stop")?;
        self.runs.set(false);
        Ok(())
    }

    async fn start(&self, units: &[String], _: Duration) -> Result<(), SystemdError> {
        if units.is_empty() {
            return Ok(());
        }
        let held = self
            .asserted
            .borrow()
            .iter()
            .any(|path| Path::new(path).exists());
        assert!(!held, "started while held");
        self.called("start")?;
        self.runs.set(true);
        self.read_store();
        Ok(())
    }
}

impl Engine for World {
    async fn ping(&self) -> Result<(), EngineError> {
        if self.never_answers.take() {
            self.runs.set(false);
        }
        if self.runs.get() {
            Ok(())
        } else {
            Err(EngineError::Unreachable {
                socket: "/nowhere".into(),
                error: std::io::ErrorKind::NotFound.into(),
            })
        }
    }

    async fn info(&self) -> Result<Info, EngineError> {
        Ok(Info::default())
    }

    async fn running_containers(&self) -> Result<Vec<Container>, EngineError> {
        Ok(Vec::new())
    }

    async fn image(&self, reference: &Reference) -> Result<Option<String>, EngineError> {
        if self.engine_lies.get() {
            return Ok(Some(format!("sha256:{}", "b".repeat(64))));
        }
        Ok(self.has.borrow().get(&reference.familiar()).cloned())
    }

    async fn references(&self) -> Result<References, EngineError> {
        Ok(self.has.borrow().clone())
    }
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Progress for Steps {
    fn step(&mut self, step: Step, _: &str) {
        self.0.push(step);
    }

    fn warning(&mut self, _: &str) {}
}

/// Runs a whole transaction in this world.
fn transact(world: &World) -> (Outcome, Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let images = world.images();
        let request = Request {
            claims: vec![format!("a:1@{DIGEST}").parse().unwrap()],
            ..Request::default()
        };
        let before = images.read().unwrap();
        let plan = Plan::new(&before.store, &images.image_ids().unwrap(), &request).unwrap();
        let lock = RootLock::acquire(images.data_root(), Duration::ZERO)
            .await
            .unwrap();
        let unit = Unit {
            id: "docker.service".to_owned(),
            ..Unit::default()
        };
        let host = Managed {
            unit,
            service: Service::default(),
            engine: Some(Info::default()),
            socket: "/nowhere".into(),
            config_file: "/nowhere".into(),
        };
        let disturbance = Disturbance {
            unit: "docker.service".to_owned(),
            running: true,
            triggers: vec!["docker.socket".to_owned()],
            ..Disturbance::default()
        };
        let units = world.root.path().join("units");
        let daemon = Daemon {
            manager: world,
            engine: world,
            host: &host,
            disturbance: &disturbance,
            runtime_units: &units,
        };
        let interrupt = Interrupt::listen().unwrap();
        let mut steps = Steps::default();
        let outcome = Transaction::new(
            &images,
            lock,
            &request,
            Some(daemon),
            &interrupt,
            &mut steps,
            before,
            plan,
        )
        .run()
        .await;
        (outcome, steps.0)
    })
}

#[track_caller]
fn is_undone(world: &World, outcome: &Outcome) {
    assert!(matches!(outcome, Outcome::Undone { .. }), "{outcome:?}");
    assert!(world.runs.get(), "Docker runs");
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
    assert_eq!(
        fs::read_dir(world.root.path().join("units"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn all_goes_well() {
    let world = World::new();
    let (outcome, steps) = transact(&world);
    let Outcome::Done { backup, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(fs::read_to_string(backup.unwrap()).unwrap(), STORE);
    assert!(world.has.borrow().contains_key(&format!("a@{DIGEST}")));
    assert_eq!(
        steps,
        [
            Step::Stage,
            Step::Hold,
            Step::Stop,
            Step::Commit,
            Step::Start,
            Step::Verify
        ]
    );
    assert_eq!(
        *world.calls.borrow(),
        ["reload", "stop", "start", "reload"],
        "nothing is asked of systemd twice"
    );
}

#[test]
fn a_failing_call_is_undone_wherever_it_is() {
    for call in ["reload", "stop", "start"] {
        let world = World::new();
        world.fails.set(Some((call, 0)));
        let (outcome, _) = transact(&world);
        is_undone(&world, &outcome);
    }
}

#[test]
fn docker_that_does_not_stop_is_not_written_under() {
    let world = World::new();
    world.main_pid.set(1);
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
    world.never_answers.set(true);
    let (outcome, steps) = transact(&world);
    is_undone(&world, &outcome);
    assert!(steps.contains(&Step::UndoCommit));
}

#[test]
fn an_engine_that_answers_otherwise() {
    let world = World::new();
    world.engine_lies.set(true);
    let (outcome, steps) = transact(&world);
    is_undone(&world, &outcome);
    assert!(steps.contains(&Step::UndoStop));
}

/// The second stop, the undo's, fails: the file cannot be put back under a
/// running Docker, and whoever reads the outcome is told where it is.
#[test]
fn an_undo_that_cannot_stop_docker() {
    let world = World::new();
    world.engine_lies.set(true);
    world.fails.set(Some(("stop", 1)));
    let (outcome, _) = transact(&world);
    let Outcome::Broken {
        store,
        docker_runs: true,
        ..
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    let StoreNow::New(backup) = store else {
        panic!("{store:?}");
    };
    assert_eq!(fs::read_to_string(backup).unwrap(), STORE);
    assert!(world.runs.get(), "and Docker runs all the same");
}

#[test]
fn a_docker_that_never_starts_again() {
    let world = World::new();
    world.fails.set(Some(("start", 0)));
    world.fails_for_good.set(true);
    let (outcome, _) = transact(&world);
    let Outcome::Broken {
        store,
        docker_runs: false,
        ..
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    assert_eq!(store, StoreNow::Old);
    assert_eq!(world.store(), STORE);
    is_clean(&world);
}

#[test]
fn a_hold_that_systemd_does_not_heed_is_no_hold() {
    let world = World::new();
    world.deaf.set(true);
    let (outcome, steps) = transact(&world);
    is_undone(&world, &outcome);
    assert_eq!(steps, [Step::Stage]);
    assert!(!world.calls.borrow().contains(&"stop".to_owned()));
}
