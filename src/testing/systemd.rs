//! A systemd that does what the real one was seen to do, as far as tests ask it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{PipeReader, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::systemd::{OwnService, QueuedJob, Service, ServiceManager, SystemdError, Unit};

/// Units, and services that outlive a run.
#[derive(Default)]
pub(crate) struct FakeSystemd {
    pub units: BTreeMap<String, Unit>,
    /// The service part of Docker's unit.
    pub service: Service,
    /// Where each socket listens.
    pub listening: BTreeMap<String, String>,
    /// The unit that processes belong to.
    pub owner: Option<&'static str>,
    /// How `dockerd --validate` ends, and what it says.
    pub validates: Option<(bool, &'static str)>,
    /// What was run to validate.
    pub validated: RefCell<Vec<Vec<String>>>,
    /// The watchdogs that run.
    pub watchdogs: RefCell<Vec<String>>,
    /// It starts no watchdog.
    pub refuses: Cell<bool>,
    /// The other end of what a shutdown waits for.
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
        self.units.insert(name.to_owned(), unit);
        self.units.get_mut(name).unwrap()
    }
}

impl ServiceManager for FakeSystemd {
    async fn unit(&self, name: &str) -> Result<Unit, SystemdError> {
        Ok(self.units.get(name).cloned().unwrap_or_else(|| Unit {
            id: name.to_owned(),
            load_state: "not-found".to_owned(),
            active_state: "inactive".to_owned(),
            ..Unit::default()
        }))
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
    async fn active_states(&self) -> Result<BTreeMap<String, String>, SystemdError> {
        unreachable!()
    }
    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>, SystemdError> {
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
    async fn reset_failed(&self, _: &str) -> Result<(), SystemdError> {
        Ok(())
    }
    async fn stop(&self, unit: &str, _: &[String], _: Duration) -> Result<(), SystemdError> {
        let mut watchdogs = self.watchdogs.borrow_mut();
        let before = watchdogs.len();
        watchdogs.retain(|watchdog| watchdog != unit);
        assert!(
            watchdogs.len() < before,
            "{unit} is none of digestfix's own"
        );
        Ok(())
    }
    async fn start(&self, _: &[String], _: Duration) -> Result<(), SystemdError> {
        unreachable!()
    }
    async fn forget_lasting(&self, _: &str) -> Result<(), SystemdError> {
        Ok(())
    }
    async fn start_lasting(&self, service: &OwnService) -> Result<(), SystemdError> {
        if self.refuses.get() {
            return Err(SystemdError::NoBus);
        }
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
        unreachable!()
    }
}
