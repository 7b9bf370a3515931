#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::docker::container::{RestartPolicy, Status};
use crate::docker::engine::{EngineError, Info, References, Reloads};
use crate::host::impact::{ContainerPolicy, Impact};
use crate::host::live_restore::{LiveRestore, LiveRestoreBlocker};
use crate::host::{Flags, Managed, Start, Startable, says_live_restore, with_live_restore};
use crate::image::digest::ImageId;
use crate::image::reference::Reference;
use crate::plan::Request;
use crate::state::id::{beside, new_id};
use crate::state::journal::{Journal, KeptDown, Ran, hash};
use crate::state::lock::RootLock;
use crate::state::retention::Limits;
use crate::store::data_root::ImageDir;
use crate::sys::interrupt::Interrupt;
use crate::systemd::{OwnService, QueuedJob, Service, SystemdError, Unit};
use crate::testing::{block_on, scratch};
use crate::transaction::Docker;
use crate::transaction::outcome::{DockerNow, Ended, Outcome, Progress};

mod interrupted;
mod record;
mod startable;

mod unread;

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
    containers: RefCell<Vec<Container>>,
    /// A container that is started while the unit is held.
    appears: RefCell<Option<String>>,
    /// A container that is started right after those that run were listed.
    appears_late: RefCell<Option<String>>,
    policy: Cell<ContainerPolicy>,
    /// An engine that does not resume health checks.
    old: Cell<bool>,
    /// The containers that were unpaused.
    resumed: RefCell<Vec<String>>,
    swarm: Cell<bool>,
    /// What is known of the next start.
    startable: RefCell<Startable>,
    live_restore: Cell<bool>,
    reloads: Rc<Cell<u32>>,
    /// What comes of the reloads, one after another; then they take.
    on_reload: RefCell<Vec<OnReload>>,
    /// What the administrator writes.
    edit: RefCell<String>,
    watchdogs: RefCell<Vec<String>>,
    /// How many stops another process's start cancels.
    cancels: Cell<u32>,
    shuts_down: Cell<bool>,
    /// The containers that a start of Docker does not load.
    cannot_load: RefCell<Vec<String>>,
    not_loaded: RefCell<Vec<String>>,
    /// The reserve as the last stop and the last start saw it, in bytes.
    held: Cell<(u64, u64)>,
    /// What the references are once Docker has stopped.
    store_at_stop: RefCell<Option<String>>,
    /// The history goes when Docker starts.
    loses_history: Cell<bool>,
    /// How long a start of Docker takes.
    start_takes: Cell<Duration>,
    /// New connections to published ports are held.
    holds_ports: Cell<bool>,
}

#[derive(Clone, Copy)]
enum OnReload {
    Takes,
    Refuses,
    HasNoEffect,
    Dies,
    /// An administrator edits daemon.json right after it.
    IsFollowedByAnEdit,
}

impl World {
    fn new() -> Self {
        let root = scratch();
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
            containers: RefCell::default(),
            appears: RefCell::default(),
            appears_late: RefCell::default(),
            policy: Cell::new(ContainerPolicy::Keep),
            old: Cell::new(false),
            resumed: RefCell::default(),
            swarm: Cell::new(false),
            startable: RefCell::default(),
            live_restore: Cell::new(false),
            reloads: Rc::default(),
            on_reload: RefCell::default(),
            edit: RefCell::default(),
            watchdogs: RefCell::default(),
            cancels: Cell::default(),
            cannot_load: RefCell::default(),
            not_loaded: RefCell::default(),
            held: Cell::default(),
            shuts_down: Cell::new(false),
            store_at_stop: RefCell::default(),
            loses_history: Cell::new(false),
            start_takes: Cell::default(),
            holds_ports: Cell::new(false),
        };
        world.read_store();
        world
    }

    fn images(&self) -> ImageDir {
        ImageDir::new(self.root.path(), "overlay2")
    }

    /// The bytes that are held for the start of Docker.
    fn reserve(&self) -> u64 {
        let directory = self.root.path().join("digestfix/.digestfix-reserve");
        let parts = fs::read_dir(directory).into_iter().flatten();
        let files = parts.flat_map(|part| fs::read_dir(part.unwrap().path()).unwrap());
        files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum()
    }

    fn store(&self) -> String {
        fs::read_to_string(self.images().store_path()).unwrap()
    }

    fn config_file(&self) -> PathBuf {
        self.root.path().join("etc/daemon.json")
    }

    fn pending(&self) -> PathBuf {
        self.root.path().join("lib/pending")
    }

    fn config(&self) -> Option<String> {
        fs::read_to_string(self.config_file()).ok()
    }

    fn file_says_live_restore(&self) -> bool {
        let bytes = fs::read(self.config_file()).ok();
        says_live_restore(bytes.as_deref())
    }

    fn write_config(&self, text: &str) {
        fs::create_dir_all(self.config_file().parent().unwrap()).unwrap();
        fs::write(self.config_file(), text).unwrap();
    }

    fn run_container(&self, name: &str) {
        let mut container = Container::default();
        name.clone_into(&mut container.id);
        name.clone_into(&mut container.name);
        container.pid = 100;
        self.containers.borrow_mut().push(container);
    }

    fn statuses(&self) -> Vec<(u32, Status)> {
        let containers = self.containers.borrow();
        let statuses = containers.iter();
        statuses.map(|one| (one.pid, one.status.clone())).collect()
    }

    fn answers(&self) -> Result<(), EngineError> {
        if self.runs.get() {
            return Ok(());
        }
        Err(EngineError::Unreachable {
            socket: "/nowhere".into(),
            error: std::io::ErrorKind::NotFound.into(),
        })
    }

    fn reads_config(&self) {
        let config = self.config().unwrap_or_default();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap_or_default();
        // A value that is gone from the file stays what it was.
        if let Some(value) = config["live-restore"].as_bool() {
            self.live_restore.set(value);
        }
    }

    /// What dockerd makes of its containers when it stops.
    fn stops(&self) {
        self.runs.set(false);
        if !self.live_restore.get() {
            for container in self.containers.borrow_mut().iter_mut() {
                container.pid = 0;
                container.status = Status::Down("exited".to_owned());
            }
        }
    }

    fn read_store(&self) {
        let references = self.images().read().unwrap();
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
        if let Some(name) = self.appears.take() {
            self.run_container(&name);
        }
        if self.deaf.get() {
            return Ok(());
        }
        let drop_in = self
            .root
            .path()
            .join("units/docker.service.d/zz-digestfix-start-block.conf");
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

    async fn stop(&self, unit: &str, _: &[String], _: Duration) -> Result<(), SystemdError> {
        if unit != "docker.service" {
            self.watchdogs
                .borrow_mut()
                .retain(|watchdog| watchdog != unit);
            return Ok(());
        }
        self.called("stop")?;
        if let Some(left) = self.cancels.get().checked_sub(1) {
            self.cancels.set(left);
            return Err(SystemdError::Job {
                verb: "stop",
                unit: "docker.socket".to_owned(),
                result: "canceled".to_owned(),
            });
        }
        let (_, start) = self.held.get();
        self.held.set((self.reserve(), start));
        self.stops();
        if let Some(store) = self.store_at_stop.take() {
            fs::write(self.images().store_path(), store).unwrap();
        }
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
        tokio::time::sleep(self.start_takes.get()).await;
        self.called("start")?;
        let (stop, _) = self.held.get();
        self.held.set((stop, self.reserve()));
        *self.not_loaded.borrow_mut() = self.cannot_load.borrow().clone();
        if self.loses_history.get() {
            fs::remove_dir_all(crate::state::history::directory(self.root.path())).unwrap();
        }
        self.runs.set(true);
        for container in self.containers.borrow_mut().iter_mut() {
            if container.pid == 0 && container.restart_policy == RestartPolicy::Always {
                container.pid = 300;
                container.status = Status::Running;
            }
        }
        self.read_store();
        self.live_restore.set(false);
        self.reads_config();
        // dockerd ends what it finds alive then.
        if !self.live_restore.get() {
            for container in self.containers.borrow_mut().iter_mut() {
                if container.pid == 100 {
                    container.pid = 0;
                    container.status = Status::Down("exited".to_owned());
                }
            }
        }
        Ok(())
    }

    async fn forget_lasting(&self, _: &str) -> Result<(), SystemdError> {
        Ok(())
    }
    async fn start_lasting(&self, service: &OwnService) -> Result<(), SystemdError> {
        self.called("watchdog")?;
        self.watchdogs.borrow_mut().push(service.name.clone());
        Ok(())
    }

    async fn run_like(
        &self,
        _: &OwnService,
        _: &Service,
        _: BorrowedFd<'_>,
    ) -> Result<bool, SystemdError> {
        unreachable!()
    }

    async fn delay_shutdown(&self, _: &str) -> Result<OwnedFd, SystemdError> {
        Ok(fs::File::open("/dev/null").unwrap().into())
    }

    async fn is_shutting_down(&self) -> bool {
        self.shuts_down.get()
    }

    async fn hang_up(&self, _: &str) -> Result<(), SystemdError> {
        self.called("hang up")?;
        let next = self.on_reload.borrow_mut().pop();
        match next.unwrap_or(OnReload::Takes) {
            OnReload::Refuses => return Ok(()),
            OnReload::HasNoEffect => {}
            OnReload::Dies => self.runs.set(false),
            OnReload::Takes => self.reads_config(),
            OnReload::IsFollowedByAnEdit => {
                self.reads_config();
                self.write_config(&self.edit.borrow());
            }
        }
        self.reloads.set(self.reloads.get() + 1);
        Ok(())
    }
}

/// An ID as an engine has it.
fn in_hex(id: &str) -> String {
    id.bytes().map(|byte| format!("{byte:02x}")).collect()
}

struct Counted(Rc<Cell<u32>>, u32);

impl Reloads for Counted {
    async fn next(&mut self) -> Result<(), EngineError> {
        while self.0.get() == self.1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.1 = self.0.get();
        Ok(())
    }
}

impl Engine for World {
    type Reloads = Counted;

    async fn ping(&self) -> Result<(), EngineError> {
        if self.never_answers.take() {
            self.runs.set(false);
        }
        self.answers()
    }

    async fn info(&self) -> Result<Info, EngineError> {
        self.answers()?;
        Ok(Info {
            live_restore: self.live_restore.get(),
            ..Info::default()
        })
    }

    async fn running_containers(&self) -> Result<Vec<Container>, EngineError> {
        self.answers()?;
        let containers = self.containers.borrow();
        let up = containers
            .iter()
            .filter(|one| !matches!(one.status, Status::Down(_)));
        let up = up.cloned().collect();
        drop(containers);
        if let Some(name) = self.appears_late.take() {
            self.run_container(&name);
        }
        Ok(up)
    }

    async fn container(&self, id: &str) -> Result<Option<Container>, EngineError> {
        let containers = self.containers.borrow();
        Ok(containers.iter().find(|one| one.id == id).cloned())
    }

    async fn start_container(&self, id: &str) -> Result<(), EngineError> {
        self.called("start container").unwrap();
        for container in self.containers.borrow_mut().iter_mut() {
            if container.id == id {
                container.pid = 200;
                container.status = Status::Running;
            }
        }
        Ok(())
    }

    async fn pause_container(&self, id: &str) -> Result<(), EngineError> {
        for container in self.containers.borrow_mut().iter_mut() {
            if container.id == id {
                container.status = Status::Paused;
            }
        }
        Ok(())
    }

    async fn unpause_container(&self, id: &str) -> Result<(), EngineError> {
        for container in self.containers.borrow_mut().iter_mut() {
            if container.id == id {
                assert_eq!(container.status, Status::Paused);
                container.status = Status::Running;
                self.resumed.borrow_mut().push(id.to_owned());
            }
        }
        Ok(())
    }

    async fn listed_containers(&self) -> Result<BTreeMap<String, String>, EngineError> {
        self.answers()?;
        let containers = self.containers.borrow();
        let missing = self.not_loaded.borrow();
        let listed = containers.iter().filter(|one| !missing.contains(&one.id));
        Ok(listed
            .map(|one| (in_hex(&one.id), one.name.clone()))
            .collect())
    }

    async fn running_ids(&self) -> Result<BTreeSet<String>, EngineError> {
        let running = self.running_containers().await?;
        Ok(running.into_iter().map(|container| container.id).collect())
    }

    async fn down_containers(&self) -> Result<Vec<Container>, EngineError> {
        self.answers()?;
        let containers = self.containers.borrow();
        let down = containers
            .iter()
            .filter(|one| matches!(one.status, Status::Down(_)));
        Ok(down.cloned().collect())
    }

    async fn set_restart_policy(
        &self,
        id: &str,
        policy: RestartPolicy,
        max_retries: u32,
    ) -> Result<(), EngineError> {
        for container in self.containers.borrow_mut().iter_mut() {
            if container.id == id {
                container.restart_policy = policy;
                container.max_retries = max_retries;
            }
        }
        Ok(())
    }

    async fn watch_reloads(&self) -> Result<Counted, EngineError> {
        self.answers()?;
        Ok(Counted(Rc::clone(&self.reloads), self.reloads.get()))
    }

    async fn image(&self, reference: &Reference) -> Result<Option<String>, EngineError> {
        if self.engine_lies.get() {
            return Ok(Some(format!("sha256:{}", "b".repeat(64))));
        }
        Ok(self.has.borrow().get(&reference.familiar()).cloned())
    }

    async fn has_image(&self, id: &ImageId) -> Result<bool, EngineError> {
        let has = self.has.borrow();
        Ok(has.values().any(|image| *image == id.to_string()))
    }

    async fn references(&self) -> Result<References, EngineError> {
        Ok(self.has.borrow().clone())
    }
}

/// The steps that ended, the warnings, and what was said to begin.
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
        engine: Some(Info {
            live_restore: world.live_restore.get(),
            ..Info::default()
        }),
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
    Impact {
        unit: "docker.service".to_owned(),
        running: true,
        triggers: vec!["docker.socket".to_owned()],
        carried_along: Vec::new(),
        containers: world.containers.borrow().clone(),
        policy: world.policy.get(),
        live_restore: if world.swarm.get() {
            LiveRestore::Impossible(LiveRestoreBlocker::Swarm)
        } else if world.live_restore.get() && world.file_says_live_restore() {
            LiveRestore::On
        } else {
            LiveRestore::Switchable(world.config_file())
        },
        keeps_auto_removed: true,
        resumes_health_checks: !world.old.get(),
        api_clients: 0,
        waits_for_clients: true,
        removed_at_start: Vec::new(),
        forgotten_by_reload: Vec::new(),
        startable: world.startable.borrow().clone(),
        may_refuse_reload: false,
    }
}

/// A hold is by the number of a descriptor of this process: another test could
/// have it the moment that it is released.
fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a recovery by the journal that is there.
fn recover(world: &World) -> Result<Vec<String>, Failure> {
    let _alone = alone();
    block_on(async {
        let images = world.images();
        let lock = RootLock::acquire(images.data_root(), Duration::ZERO)
            .await
            .unwrap();
        let mut journal = Journal::read(images.data_root()).unwrap().unwrap();
        let (host, impact) = (host(world), impact(world));
        let daemon = Daemon {
            docker: Docker {
                manager: world,
                host: &host,
                pending: &world.pending(),
            },
            engine: world,
            impact: &impact,
            runtime_units: &world.root.path().join("units"),
        };
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

/// Runs a transaction of this name, which keeps two backups.
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
        let units = world.root.path().join("units");
        let daemon = Daemon {
            docker: Docker {
                manager: world,
                host: &host,
                pending: &world.pending(),
            },
            engine: world,
            impact: &impact,
            runtime_units: &units,
        };
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
            Some(daemon.docker),
            &interrupt,
            &mut steps,
            plan,
        );
        id.clone_into(&mut tx.id);
        let mut restart = Restart::new(goal, Some(daemon), before);
        // The kernel lets go of a table when its socket is closed.
        let held = || fs::File::open("/dev/null").unwrap().into();
        restart.held_ports = world.holds_ports.get().then(held);
        let outcome = tx.run(restart).await;
        (outcome, steps)
    })
}

#[track_caller]
fn is_undone(world: &World, outcome: &Outcome) {
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
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
    assert!(Journal::read(world.root.path()).unwrap().is_none());
    assert_eq!(*world.watchdogs.borrow(), Vec::<String>::new());
    let markers = fs::read_dir(world.pending());
    assert_eq!(markers.map_or(0, Iterator::count), 0);
    let etc = fs::read_dir(world.root.path().join("etc"));
    assert!(
        etc.map_or(0, |etc| etc
            .filter(|one| one.as_ref().unwrap().file_name() != "hosts")
            .count())
            <= 1,
        "nothing beside daemon.json and hosts"
    );
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
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let backup = outcome.backup;
    assert_eq!(fs::read_to_string(backup.unwrap()).unwrap(), STORE);
    assert!(world.has.borrow().contains_key(&format!("a@{DIGEST}")));
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
        *world.calls.borrow(),
        ["watchdog", "reload", "stop", "start", "reload"],
        "nothing is asked of systemd twice"
    );
}

#[test]
fn space_is_held_while_docker_is_stopped_and_freed_before_its_start() {
    let world = World::new();
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let all = crate::transaction::reserve::needs(world.root.path(), &[])[0].bytes;
    let (stopped, started) = world.held.get();
    assert!(stopped >= all, "{stopped}");
    assert!(started > 0 && started <= all / 2 + all / 8, "{started}");
    assert_eq!(world.reserve(), 0);

    // The way back has all of it, and nothing stays.
    let world = World::new();
    world.engine_lies.set(true);
    let (outcome, _) = transact(&world);
    is_undone(&world, &outcome);
    assert_eq!(world.held.get().1, 0);
    assert_eq!(world.reserve(), 0);
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
    assert!(!world.calls.borrow().contains(&"stop".to_owned()));
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
    world.runs.set(false);
    world.held.set((0, 1));
    assert_eq!(recover(&world).unwrap(), [""; 0]);
    assert!(world.runs.get());
    assert_eq!(world.held.get().1, 0, "freed before the start");
    assert_eq!(world.reserve(), 0);
}

/// Docker answers, and has not loaded a container that was not running either.
#[test]
fn a_container_that_docker_does_not_list_any_more_is_told() {
    let world = World::new();
    for name in ["web", "down", "gone"] {
        world.run_container(name);
    }
    world.policy.set(ContainerPolicy::Ignore);
    let ids: Vec<String> = world
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
    // The files of the third are gone: a client has removed it.
    for id in &ids[..2] {
        let files = world.root.path().join("containers").join(in_hex(id));
        fs::create_dir_all(&files).unwrap();
        fs::write(files.join("config.v2.json"), "{}").unwrap();
    }
    world.cannot_load.replace(ids[1..].to_vec());
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
            "keeping docker.service from being started",
            "stopping docker.service, docker.socket",
            "changing the references",
            "starting docker.service, docker.socket",
            "asking the running engine",
        ]
    );
    let world = World::new();
    world.engine_lies.set(true);
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
    assert!(world.runs.get(), "and Docker runs all the same");
}

#[test]
fn a_stop_that_others_cancel_is_asked_for_again() {
    let world = World::new();
    world.cancels.set(3);
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let world = World::new();
    world.cancels.set(21);
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
    is_clean(&world);
}

#[test]
fn a_docker_that_never_starts_again() {
    let world = World::new();
    world.fails.set(Some(("start", 0)));
    world.fails_for_good.set(true);
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

    assert_eq!(world.watchdogs.borrow().len(), 1, "which tries as well");

    world.fails.set(None);
    assert!(
        matches!(recover(&world), Ok(problems) if problems.is_empty()),
        "once that is mended"
    );
    assert!(world.runs.get());
    assert_eq!(
        world.watchdogs.borrow().len(),
        0,
        "it is not needed any more"
    );
    is_clean(&world);
}

#[test]
fn clients_that_are_let_go_are_told_of() {
    for (holds_ports, seconds, told) in [(true, 9, 0), (true, 11, 1), (false, 11, 0)] {
        let world = World::new();
        world.holds_ports.set(holds_ports);
        world.start_takes.set(Duration::from_secs(seconds));
        let (outcome, steps) = transact_all(&world);
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        let warnings = steps.1.iter();
        let of_ports = warnings.filter(|text| {
            text.as_str()
                == "Docker has not come back for 10 s: new connections to published ports are \
                    refused until it has"
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
    let world = World::new();
    world.deaf.set(true);
    let (outcome, steps) = transact(&world);
    is_undone(&world, &outcome);
    assert_eq!(steps, [Step::Stage]);
    assert!(!world.calls.borrow().contains(&"stop".to_owned()));
}

/// daemon.json as it may be found.
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
    assert_eq!(directory, name.is_ok(), "nothing that was not there");
    assert!(!world.live_restore.get());
    assert_eq!(world.statuses(), [(100, Status::Running)]);
}

fn world_with(config: Option<&str>) -> World {
    let world = World::new();
    world.run_container("web");
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
        assert!(world.has.borrow().contains_key(&format!("a@{DIGEST}")));
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
    assert!(world.live_restore.get());
    assert_eq!(world.config().unwrap(), "{\"live-restore\": true}");
    assert_eq!(world.statuses(), [(100, Status::Running)]);
}

#[test]
fn each_failing_call_leaves_daemon_json_and_containers() {
    for config in CONFIGS {
        for call in ["reload", "hang up", "stop", "start"] {
            let world = world_with(config);
            world.fails.set(Some((call, 0)));
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
            *world.on_reload.borrow_mut() = vec![failure];
            let (outcome, steps) = transact(&world);
            is_undone(&world, &outcome);
            assert!(!steps.contains(&Step::Stop));
            keeps(&world, config);
        }
    }
}

/// The references are changed by then: that is told as it is, and the journal
/// stays for `digestfix recover`.
#[test]
fn a_reload_that_fails_on_the_way_back() {
    let world = world_with(Some("{}"));
    *world.on_reload.borrow_mut() = vec![OnReload::Refuses, OnReload::Takes];
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
        world.fails.set(failing.map(|call| (call, 0)));
        *world.edit.borrow_mut() = theirs.to_owned();
        *world.on_reload.borrow_mut() = vec![OnReload::IsFollowedByAnEdit];
        let (outcome, _) = transact(&world);
        assert_eq!(matches!(outcome.ended, Ended::Done), failing.is_none());
        assert_eq!(world.config().unwrap(), theirs);
        assert!(!world.live_restore.get());
        assert_eq!(world.statuses(), [(100, Status::Running)]);
        assert!(Journal::read(world.root.path()).unwrap().is_none());
        let kept: Vec<String> = fs::read_dir(world.root.path().join("etc"))
            .unwrap()
            .map(|child| fs::read_to_string(child.unwrap().path()).unwrap())
            .collect();
        assert!(kept.contains(&"{}".to_owned()), "what was found is kept");
        assert_eq!(kept.len(), 2, "{kept:?}");
    }
}

/// dockerd keeps a setting that is no longer in its file, until it starts
/// again.
#[test]
fn an_engine_that_says_otherwise_than_its_file() {
    for config in CONFIGS {
        let world = world_with(config);
        world.live_restore.set(true);
        let (outcome, _) = transact(&world);
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        assert_eq!(world.statuses(), [(100, Status::Running)]);
        assert_eq!(world.config().as_deref(), config);
        assert!(world.live_restore.get(), "as it was");
    }
}

/// Whatever a run that was killed has left of daemon.json, and whatever dockerd
/// knows of it: a recovery, and a second one, bring back what was found.
#[test]
fn every_state_of_daemon_json_is_recovered() {
    let variants = |config: Option<&str>| {
        [true, false].map(|on| with_live_restore(config.map(str::as_bytes), on).unwrap())
    };
    for config in CONFIGS {
        let [on, off] = variants(config);
        let found = config.map(|text| text.as_bytes().to_vec());
        // What has the name, what is aside, under the next name, under a third.
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
                    // Docker is down only while the file says true, or when
                    // somebody has put it back.
                    continue;
                }
                let world = world_with(config);
                fs::create_dir_all(world.config_file().parent().unwrap()).unwrap();
                leave(&world, "digestfix-x", &state, [&on, &off], config);
                mark(&world, stopping);
                world.live_restore.set(engine);
                world.runs.set(runs);
                let case = format!("{config:?}, state {number}, {engine} {runs} {stopping}");
                assert!(
                    matches!(recover(&world), Ok(problems) if problems.is_empty()),
                    "{case}"
                );
                assert_eq!(world.config().as_deref(), config, "{case}");
                assert!(!world.live_restore.get(), "{case}");
                assert_eq!(world.statuses(), [(100, Status::Running)], "{case}");
                assert!(world.runs.get(), "{case}");
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

/// Leaves files as a killed run may have, and its journal.
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
    let world = world_with(None);
    world.run_container("frozen");
    world.containers.borrow_mut()[1].status = Status::Paused;
    world.policy.set(ContainerPolicy::Restart);
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
    let world = world_with(None);
    world.policy.set(ContainerPolicy::Restart);
    world.fails.set(Some(("start", 0)));
    let (outcome, _) = transact(&world);
    is_undone(&world, &outcome);
    assert_eq!(world.statuses(), [(200, Status::Running)]);
}

#[test]
fn ignored_containers_stay_down_and_are_told() {
    let world = world_with(None);
    world.policy.set(ContainerPolicy::Ignore);
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let containers = outcome.containers;
    assert_eq!(containers[0].name, "web");
}

/// It was not there when what could be lost was looked at.
#[test]
fn a_container_that_comes_in_between_is_not_lost() {
    for (swarm, late) in [(false, false), (true, false), (false, true), (true, true)] {
        let world = World::new();
        world.swarm.set(swarm);
        let appears = if late {
            &world.appears_late
        } else {
            &world.appears
        };
        *appears.borrow_mut() = Some("late".to_owned());
        let (outcome, steps) = transact(&world);
        is_undone(&world, &outcome);
        assert!(!steps.contains(&Step::Stop));
        assert_eq!(world.statuses(), [(100, Status::Running)]);
    }
}

/// Docker starts a container of this policy at each of its starts.
#[test]
fn what_is_down_stays_down() {
    for failing in [None, Some("stop"), Some("start")] {
        let world = world_with(None);
        world.run_container("down");
        {
            let mut containers = world.containers.borrow_mut();
            containers[1].pid = 0;
            containers[1].status = Status::Down("exited".to_owned());
            containers[1].restart_policy = RestartPolicy::Always;
            containers[1].max_retries = 3;
        }
        world.fails.set(failing.map(|call| (call, 0)));
        transact(&world);
        let containers = world.containers.borrow();
        assert_eq!(containers[1].pid, 0);
        assert_eq!(containers[1].restart_policy, RestartPolicy::Always);
        assert_eq!(containers[1].max_retries, 3);
        assert!(Journal::read(world.root.path()).unwrap().is_none());
    }
}

#[test]
fn health_checks_are_resumed_where_docker_does_not() {
    for old in [false, true] {
        let world = world_with(None);
        world.old.set(old);
        world.run_container("unchecked");
        world.containers.borrow_mut()[0].health_check = true;
        let (outcome, _) = transact(&world);
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        let containers = outcome.containers;
        assert_eq!(containers, []);
        let resumed: &[&str] = if old { &["web"] } else { &[] };
        assert_eq!(*world.resumed.borrow(), resumed);
    }
}
