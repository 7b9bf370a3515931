//! Fake systemd: imitates the observed behavior of the real systemd, and fails when a
//! test asks for a failure.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{PipeReader, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use super::FakeEngine;
use crate::systemd::{LASTING, OwnService, QueuedJob, Service, ServiceManager, SystemdError, Unit};

const DOCKER: &str = "docker.service";

type Act = Box<dyn FnMut()>;

/// A fake systemd with units, and with services that outlive a run.
#[derive(Default)]
pub(crate) struct FakeSystemd {
    pub units: RefCell<BTreeMap<String, Unit>>,
    /// The service properties of Docker's unit.
    pub service: Service,
    /// The engine of docker.service, if the test stops and starts Docker.
    pub docker: Option<Rc<FakeEngine>>,
    /// The directory in which a daemon-reload looks for Docker's drop-in.
    pub runtime_units: Option<PathBuf>,
    /// The path at which each socket unit listens.
    pub listening: BTreeMap<String, String>,
    /// The unit to which all processes belong.
    pub owner: Option<&'static str>,
    /// Whether `dockerd --validate` succeeds, and what it prints.
    pub validates: Option<(bool, &'static str)>,
    /// The validation commands that were run.
    pub validated: RefCell<Vec<Vec<String>>>,
    /// The calls that change something, in order.
    pub calls: RefCell<Vec<&'static str>>,
    /// The name of the call that fails, and how many times it succeeds first.
    pub fails: Cell<Option<(&'static str, u32)>>,
    /// Whether the failing call fails every time from then on, not only once.
    pub fails_for_good: Cell<bool>,
    /// Actions that the fake runs at certain calls, each with the name of the call.
    pub meanwhile: RefCell<Vec<(&'static str, Act)>>,
    /// How many stops fail because another process starts the unit at the same time.
    pub cancels: Cell<u32>,
    /// How long a start of Docker takes.
    pub start_takes: Cell<Duration>,
    pub shuts_down: Cell<bool>,
    /// The watchdogs that run.
    pub watchdogs: RefCell<Vec<String>>,
    /// The reading end of a pipe that delays a shutdown. The shutdown waits as long as
    /// the other end is open.
    pub shutdown_waits: RefCell<Option<PipeReader>>,
}

impl FakeSystemd {
    /// Adds a unit, or replaces it.
    pub fn add(&mut self, name: &str, active_state: &str) -> &mut Unit {
        let unit = Unit {
            id: name.to_owned(),
            load_state: "loaded".to_owned(),
            active_state: active_state.to_owned(),
            ..Unit::default()
        };
        let units = self.units.get_mut();
        units.insert(name.to_owned(), unit);
        units.get_mut(name).unwrap()
    }

    /// Runs `act` at each call with this name, before the call takes effect.
    pub fn at(&self, call: &'static str, act: impl FnMut() + 'static) {
        self.meanwhile.borrow_mut().push((call, Box::new(act)));
    }

    fn called(&self, call: &'static str) -> Result<(), SystemdError> {
        self.calls.borrow_mut().push(call);
        for (at, act) in self.meanwhile.borrow_mut().iter_mut() {
            if *at == call {
                act();
            }
        }
        match self.fails.get() {
            Some((name, 0)) if name == call => {
                if !self.fails_for_good.get() {
                    self.fails.set(None);
                }
                Err(job("start", DOCKER, "failed"))
            }
            Some((name, left)) if name == call => {
                self.fails.set(Some((name, left - 1)));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn docker(&self) -> &FakeEngine {
        self.docker.as_ref().unwrap()
    }

    fn set<'a>(&self, names: impl IntoIterator<Item = &'a String>, active_state: &str) {
        let mut units = self.units.borrow_mut();
        for name in names {
            active_state.clone_into(&mut units.get_mut(name).unwrap().active_state);
        }
    }
}

fn job(verb: &'static str, unit: &str, result: &str) -> SystemdError {
    SystemdError::Job {
        verb,
        unit: unit.to_owned(),
        result: result.to_owned(),
    }
}

impl ServiceManager for FakeSystemd {
    async fn active_states(&self) -> Result<BTreeMap<String, String>, SystemdError> {
        let names: Vec<String> = self.units.borrow().keys().cloned().collect();
        let mut states = BTreeMap::new();
        for name in names {
            let state = self.unit(&name).await?.active_state;
            states.insert(name, state);
        }
        Ok(states)
    }

    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>, SystemdError> {
        unreachable!()
    }

    async fn unit(&self, name: &str) -> Result<Unit, SystemdError> {
        let unit = self.units.borrow().get(name).cloned();
        let mut unit = unit.unwrap_or_else(|| Unit {
            id: name.to_owned(),
            load_state: "not-found".to_owned(),
            active_state: "inactive".to_owned(),
            ..Unit::default()
        });
        if name == DOCKER
            && let Some(docker) = &self.docker
        {
            let state = if docker.runs.get() {
                "active"
            } else {
                "inactive"
            };
            state.clone_into(&mut unit.active_state);
        }
        Ok(unit)
    }

    async fn service(&self, _: &str) -> Result<Service, SystemdError> {
        Ok(self.service.clone())
    }

    async fn listening_paths(&self, socket: &str) -> Result<Vec<String>, SystemdError> {
        Ok(self.listening.get(socket).cloned().into_iter().collect())
    }

    async fn unit_of_process(&self, _: u32) -> Result<String, SystemdError> {
        match self.owner {
            Some(owner) => Ok(owner.to_owned()),
            None => Err(SystemdError::Bus(zbus::Error::Unsupported)),
        }
    }

    async fn own_pid(&self) -> Result<u32, SystemdError> {
        Ok(std::process::id())
    }

    async fn reload(&self) -> Result<(), SystemdError> {
        self.called("reload")?;
        if let Some(directory) = &self.runtime_units {
            let drop_in = directory.join("docker.service.d/zz-digestfix-start-block.conf");
            let text = fs::read_to_string(drop_in).unwrap_or_default();
            let asserted = text
                .lines()
                .filter_map(|line| line.strip_prefix("AssertPathExists=!"));
            let asserted = asserted.map(str::to_owned).collect();
            let mut units = self.units.borrow_mut();
            units.get_mut(DOCKER).unwrap().asserted_paths = asserted;
        }
        Ok(())
    }

    async fn hang_up(&self, _: &str) -> Result<(), SystemdError> {
        self.called("hang up")?;
        self.docker().is_hung_up();
        Ok(())
    }

    async fn reset_failed(&self, _: &str) -> Result<(), SystemdError> {
        Ok(())
    }

    async fn stop(&self, unit: &str, triggers: &[String], _: Duration) -> Result<(), SystemdError> {
        if unit != DOCKER || self.docker.is_none() {
            assert!(unit.starts_with(LASTING), "{unit} is not digestfix's own");
            let mut watchdogs = self.watchdogs.borrow_mut();
            let before = watchdogs.len();
            watchdogs.retain(|watchdog| watchdog != unit);
            return match watchdogs.len() < before {
                true => Ok(()),
                false => Err(job("stop", unit, "not loaded")),
            };
        }
        self.called("stop")?;
        if let Some(left) = self.cancels.get().checked_sub(1) {
            self.cancels.set(left);
            return Err(job("stop", "docker.socket", "canceled"));
        }
        self.docker().stops();
        self.set(triggers, "inactive");
        Ok(())
    }

    async fn start(&self, units: &[String], _: Duration) -> Result<(), SystemdError> {
        if units.is_empty() {
            return Ok(());
        }
        let blocks = self.unit(DOCKER).await?.asserted_paths;
        let is_blocked = blocks.iter().any(|path| Path::new(path).exists());
        assert!(!is_blocked, "started while held");
        tokio::time::sleep(self.start_takes.get()).await;
        self.called("start")?;
        self.set(units, "active");
        if units.iter().any(|unit| unit == DOCKER) {
            self.docker().starts();
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
        service: &OwnService,
        other: &Service,
        output: BorrowedFd<'_>,
    ) -> Result<bool, SystemdError> {
        assert_eq!(*other, self.service, "Docker's own environment");
        self.validated.borrow_mut().push(service.command.clone());
        let (well, says) = self.validates.unwrap();
        let mut output = File::from(output.try_clone_to_owned().unwrap());
        output.write_all(says.as_bytes()).unwrap();
        Ok(well)
    }

    async fn delay_shutdown(&self, _: &str) -> Result<OwnedFd, SystemdError> {
        let (reader, writer) = std::io::pipe().unwrap();
        *self.shutdown_waits.borrow_mut() = Some(reader);
        Ok(writer.into())
    }

    async fn is_shutting_down(&self) -> bool {
        self.shuts_down.get()
    }
}
