//! Fake engine: reads its files when it starts and when it gets SIGHUP, like dockerd.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use tokio::sync::watch;

use crate::docker::container::{Container, RestartPolicy, Status};
use crate::docker::engine::{Engine, EngineError, Info, References, Reloads};
use crate::image::digest::ImageId;
use crate::image::reference::Reference;
use crate::store::data_root::ImageDir;

/// What happens at a reload.
#[derive(Clone)]
pub(crate) enum OnReload {
    Takes,
    Refuses,
    HasNoEffect,
    Dies,
    /// An administrator writes this text to daemon.json right after the reload.
    IsFollowedByAnEdit(&'static str),
}

/// A dockerd, with the state that it keeps in memory.
#[derive(Default)]
pub(crate) struct FakeEngine {
    pub socket: PathBuf,
    /// Whether the engine runs. A running engine answers, unless it hangs.
    pub runs: Cell<bool>,
    pub hangs: Cell<bool>,
    /// The engine's answer to an info request.
    pub info: RefCell<Info>,
    /// The store from which the engine reads the references when it starts.
    pub images: Option<ImageDir>,
    /// The configuration file that the engine reads when it starts and when it reloads.
    pub config_file: PathBuf,
    /// The references that the engine has read.
    pub has: RefCell<References>,
    /// Whether the engine reports a wrong image for each reference.
    pub lies: Cell<bool>,
    /// How many pings fail before the engine answers.
    pub early_pings: Cell<u32>,
    /// Whether the engine process ends at the next ping.
    pub dies_at_ping: Cell<bool>,
    pub containers: RefCell<Vec<Container>>,
    /// A container that starts right after the engine has listed the running containers.
    pub appears_late: Cell<Option<&'static str>>,
    /// The IDs of the containers that were unpaused.
    pub resumed: RefCell<Vec<String>>,
    /// The containers that the engine cannot load at its next start.
    pub cannot_load: RefCell<Vec<String>>,
    pub not_loaded: RefCell<Vec<String>>,
    /// The outcomes of the next reloads, in reverse order. All later reloads succeed.
    pub on_reload: RefCell<Vec<OnReload>>,
    pub reloads: watch::Sender<()>,
}

impl FakeEngine {
    pub fn run_container(&self, name: &str) {
        let mut container = Container::default();
        name.clone_into(&mut container.id);
        name.clone_into(&mut container.name);
        container.pid = 100;
        self.containers.borrow_mut().push(container);
    }

    pub fn live_restore(&self) -> bool {
        self.info.borrow().live_restore
    }

    pub fn set_live_restore(&self, on: bool) {
        self.info.borrow_mut().live_restore = on;
    }

    pub fn reads_store(&self) {
        let store = self.images.as_ref().unwrap().read().unwrap();
        *self.has.borrow_mut() = store
            .references()
            .map(|(reference, image)| (reference.familiar(), image.to_string()))
            .collect();
    }

    /// Reads the configuration file. If the file does not contain a setting, the engine
    /// keeps the old value.
    fn reads_config(&self) {
        let text = fs::read_to_string(&self.config_file).unwrap_or_default();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        if let Some(on) = config["live-restore"].as_bool() {
            self.set_live_restore(on);
        }
    }

    /// Ends the engine process. The containers keep running only if live-restore is on.
    pub fn stops(&self) {
        self.runs.set(false);
        if !self.live_restore() {
            self.end_containers(|_| true);
        }
    }

    pub fn starts(&self) {
        *self.not_loaded.borrow_mut() = self.cannot_load.borrow().clone();
        self.runs.set(true);
        for container in self.containers.borrow_mut().iter_mut() {
            if container.pid == 0 && container.restart_policy == RestartPolicy::Always {
                container.pid = 300;
                container.status = Status::Running;
            }
        }
        self.reads_store();
        self.set_live_restore(false);
        self.reads_config();
        // Without live-restore, a starting dockerd ends the containers that are still
        // running.
        if !self.live_restore() {
            self.end_containers(|container| container.pid == 100);
        }
    }

    pub fn is_hung_up(&self) {
        let next = self.on_reload.borrow_mut().pop();
        match next.unwrap_or(OnReload::Takes) {
            OnReload::Refuses => return,
            OnReload::HasNoEffect => {}
            OnReload::Dies => self.runs.set(false),
            OnReload::Takes => self.reads_config(),
            OnReload::IsFollowedByAnEdit(text) => {
                self.reads_config();
                fs::write(&self.config_file, text).unwrap();
            }
        }
        self.reloads.send_replace(());
    }

    fn end_containers(&self, ends: impl Fn(&Container) -> bool) {
        let mut containers = self.containers.borrow_mut();
        for container in containers.iter_mut().filter(|one| ends(one)) {
            container.pid = 0;
            container.status = Status::Down("exited".to_owned());
        }
    }

    fn answers(&self) -> Result<(), EngineError> {
        if self.runs.get() && !self.hangs.get() {
            return Ok(());
        }
        Err(self.unreachable())
    }

    fn unreachable(&self) -> EngineError {
        EngineError::Unreachable {
            socket: self.socket.clone(),
            error: std::io::ErrorKind::ConnectionRefused.into(),
        }
    }

    fn those(&self, are_down: bool) -> Result<Vec<Container>, EngineError> {
        self.answers()?;
        let containers = self.containers.borrow();
        let is_down = |one: &&Container| matches!(one.status, Status::Down(_)) == are_down;
        Ok(containers.iter().filter(is_down).cloned().collect())
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Container)) -> Result<(), EngineError> {
        self.answers()?;
        let mut containers = self.containers.borrow_mut();
        change(containers.iter_mut().find(|one| one.id == id).unwrap());
        Ok(())
    }
}

/// An ID in hexadecimal digits, like the IDs of a real engine.
pub(crate) fn in_hex(id: &str) -> String {
    id.bytes().map(|byte| format!("{byte:02x}")).collect()
}

impl Reloads for watch::Receiver<()> {
    async fn next(&mut self) -> Result<(), EngineError> {
        self.changed().await.unwrap();
        Ok(())
    }
}

impl Engine for FakeEngine {
    type Reloads = watch::Receiver<()>;

    async fn ping(&self) -> Result<(), EngineError> {
        if self.dies_at_ping.take() {
            self.runs.set(false);
        }
        if let Some(early) = self.early_pings.get().checked_sub(1) {
            self.early_pings.set(early);
            return Err(self.unreachable());
        }
        self.answers()
    }

    async fn info(&self) -> Result<Info, EngineError> {
        self.answers()?;
        Ok(self.info.borrow().clone())
    }

    async fn running_containers(&self) -> Result<Vec<Container>, EngineError> {
        let up = self.those(false)?;
        if let Some(name) = self.appears_late.take() {
            self.run_container(name);
        }
        Ok(up)
    }

    async fn container(&self, id: &str) -> Result<Option<Container>, EngineError> {
        self.answers()?;
        let containers = self.containers.borrow();
        Ok(containers.iter().find(|one| one.id == id).cloned())
    }

    async fn start_container(&self, id: &str) -> Result<(), EngineError> {
        self.change(id, |container| {
            container.pid = 200;
            container.status = Status::Running;
        })
    }

    async fn pause_container(&self, id: &str) -> Result<(), EngineError> {
        self.change(id, |container| container.status = Status::Paused)
    }

    async fn unpause_container(&self, id: &str) -> Result<(), EngineError> {
        self.resumed.borrow_mut().push(id.to_owned());
        self.change(id, |container| {
            assert_eq!(container.status, Status::Paused);
            container.status = Status::Running;
        })
    }

    async fn listed_containers(&self) -> Result<BTreeMap<String, String>, EngineError> {
        self.answers()?;
        let containers = self.containers.borrow();
        let not_loaded = self.not_loaded.borrow();
        let listed = containers
            .iter()
            .filter(|one| !not_loaded.contains(&one.id));
        Ok(listed
            .map(|one| (in_hex(&one.id), one.name.clone()))
            .collect())
    }

    async fn running_ids(&self) -> Result<BTreeSet<String>, EngineError> {
        let running = self.running_containers().await?;
        Ok(running.into_iter().map(|container| container.id).collect())
    }

    async fn down_containers(&self) -> Result<Vec<Container>, EngineError> {
        self.those(true)
    }

    async fn set_restart_policy(
        &self,
        id: &str,
        policy: RestartPolicy,
        max_retries: u32,
    ) -> Result<(), EngineError> {
        self.change(id, |container| {
            container.restart_policy = policy;
            container.max_retries = max_retries;
        })
    }

    async fn watch_reloads(&self) -> Result<Self::Reloads, EngineError> {
        self.answers()?;
        Ok(self.reloads.subscribe())
    }

    async fn image(&self, reference: &Reference) -> Result<Option<String>, EngineError> {
        self.answers()?;
        if self.lies.get() {
            return Ok(Some(format!("sha256:{}", "b".repeat(64))));
        }
        Ok(self.has.borrow().get(&reference.familiar()).cloned())
    }

    async fn has_image(&self, id: &ImageId) -> Result<bool, EngineError> {
        self.answers()?;
        let has = self.has.borrow();
        Ok(has.values().any(|image| *image == id.to_string()))
    }

    async fn references(&self) -> Result<References, EngineError> {
        self.answers()?;
        Ok(self.has.borrow().clone())
    }
}
