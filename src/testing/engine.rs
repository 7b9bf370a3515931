//! An engine that tells of itself, and is asked for nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::docker::container::{Container, RestartPolicy};
use crate::docker::engine::{Engine, EngineError, Info, References, Reloads};
use crate::image::digest::ImageId;
use crate::image::reference::Reference;

/// The socket, and what it says of itself: nothing where it does not run.
pub(crate) struct FakeEngine(pub PathBuf, pub Option<Info>);

pub(crate) struct NoReloads;

impl Reloads for NoReloads {
    async fn next(&mut self) -> Result<(), EngineError> {
        unreachable!()
    }
}

impl Engine for FakeEngine {
    type Reloads = NoReloads;

    async fn container(&self, _: &str) -> Result<Option<Container>, EngineError> {
        unreachable!()
    }
    async fn start_container(&self, _: &str) -> Result<(), EngineError> {
        unreachable!()
    }
    async fn pause_container(&self, _: &str) -> Result<(), EngineError> {
        unreachable!()
    }
    async fn unpause_container(&self, _: &str) -> Result<(), EngineError> {
        unreachable!()
    }
    async fn listed_containers(&self) -> Result<BTreeMap<String, String>, EngineError> {
        unreachable!()
    }

    async fn running_ids(&self) -> Result<BTreeSet<String>, EngineError> {
        unreachable!()
    }
    async fn down_containers(&self) -> Result<Vec<Container>, EngineError> {
        unreachable!()
    }
    async fn set_restart_policy(
        &self,
        _: &str,
        _: RestartPolicy,
        _: u32,
    ) -> Result<(), EngineError> {
        unreachable!()
    }
    async fn watch_reloads(&self) -> Result<NoReloads, EngineError> {
        unreachable!()
    }
    async fn info(&self) -> Result<Info, EngineError> {
        self.1.clone().ok_or_else(|| EngineError::Unreachable {
            socket: self.0.clone(),
            error: std::io::ErrorKind::ConnectionRefused.into(),
        })
    }
    async fn ping(&self) -> Result<(), EngineError> {
        unreachable!()
    }
    async fn running_containers(&self) -> Result<Vec<Container>, EngineError> {
        unreachable!()
    }
    async fn image(&self, _: &Reference) -> Result<Option<String>, EngineError> {
        unreachable!()
    }
    async fn has_image(&self, _: &ImageId) -> Result<bool, EngineError> {
        unreachable!()
    }
    async fn references(&self) -> Result<References, EngineError> {
        unreachable!()
    }
}
