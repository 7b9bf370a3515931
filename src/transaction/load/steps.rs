//! What the engine is asked for, step by step, there and back.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::content_store::ContentStore;
use crate::digest::Digest;
use crate::engine::EngineError;
use crate::engine::images::{Images, Resolved};
use crate::journal::Pin;
use crate::reference::Reference;
use crate::transaction::leftover::{Leftover, Why, went_along};
use crate::transaction::load::work::archive;
use crate::transaction::outcome::Failure;

/// The engine takes about 20 ms for each, and is given 30 s for a request.
const LOADED_AT_ONCE: usize = 50;

/// How long an engine that did not answer is given to be done with it, or to
/// come back.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Nothing came for so many looks.
const QUIET_LOOKS: u32 = 4;

/// The engine, and what it takes to give it references.
#[derive(Debug)]
pub(super) struct Steps<'a, E> {
    pub engine: &'a E,
    pub content: &'a ContentStore,
    pub manifests: &'a BTreeMap<Digest, String>,
    /// References that the engine may have and not list.
    pub known: &'a [Reference],
}

impl<E: Images> Steps<'_, E> {
    pub(super) async fn load(&self, pins: &[Pin]) -> Result<(), Failure> {
        for pins in pins.chunks(LOADED_AT_ONCE) {
            let archive = archive(pins, self.manifests, |image| self.content.config(image))?;
            self.engine.load(archive).await?;
        }
        Ok(())
    }

    /// The engine finds each, and containerd has the manifests that prove it, and
    /// the config: Docker 28 says to have one whose manifest it lacks.
    pub(super) async fn has(&self, pin: &Pin) -> Result<bool, Failure> {
        let Some(digest) = pin.reference.digest() else {
            return Ok(false);
        };
        let found = self.engine.find(&pin.reference).await?;
        let leads_there = found.and_then(|listed| listed.target()).as_ref() == Some(digest);
        Ok(leads_there
            && self.content.proof(digest, &pin.image_id).is_some()
            && self.content.config(&pin.image_id).is_some())
    }

    pub(super) async fn has_all(&self, pins: &[Pin]) -> Result<(), Failure> {
        for pin in pins {
            if !self.has(pin).await? {
                return Err(Failure::EngineDisagrees(format!(
                    "it does not have {} with its manifest and its image",
                    pin.reference
                )));
            }
            self.runs(pin).await?;
        }
        Ok(())
    }

    /// What the engine reads in the image's config is in the one that was proven.
    async fn runs(&self, pin: &Pin) -> Result<(), Failure> {
        let proven = self.content.config(&pin.image_id);
        let proven = proven.map_or_else(Resolved::default, |text| Resolved::of_config(&text));
        let found = self.engine.resolved(&pin.reference).await?;
        match proven.difference(&found) {
            None => Ok(()),
            Some(what) => Err(Failure::EngineDisagrees(format!(
                "by {} it runs another image than {}, which the manifest proves: the {what} of \
                 the two differ",
                pin.reference, pin.image_id
            ))),
        }
    }

    pub(super) async fn has_none(&self, pins: &[Pin]) -> Result<(), Failure> {
        match self.first_there(pins, &[]).await? {
            None => Ok(()),
            Some(pin) => Err(Failure::EngineDisagrees(format!(
                "it still has {}",
                pin.reference
            ))),
        }
    }

    async fn first_there<'p>(
        &self,
        pins: &'p [Pin],
        left: &[Leftover],
    ) -> Result<Option<&'p Pin>, Failure> {
        let is_left = |pin: &Pin| left.iter().any(|one| one.reference == pin.reference);
        for pin in pins.iter().filter(|pin| !is_left(pin)) {
            if self.engine.find(&pin.reference).await?.is_some() {
                return Ok(Some(pin));
            }
        }
        Ok(None)
    }

    /// Those that are not there already.
    pub(super) async fn missing(&self, pins: &[Pin]) -> Result<Vec<Pin>, Failure> {
        let mut missing = Vec::new();
        for pin in pins {
            if !self.has(pin).await? {
                missing.push(pin.clone());
            }
        }
        Ok(missing)
    }

    /// Has the references again as they were before, and gives those that cannot
    /// be had so.
    pub(super) async fn take_back(
        &self,
        added: &[Pin],
        dropped: &[Pin],
    ) -> Result<Vec<Leftover>, Failure> {
        let mut left = self.restore(dropped).await?;
        left.extend(self.drop_all(added).await?);
        match self.first_there(added, &left).await? {
            None => Ok(left),
            Some(pin) => Err(Failure::EngineDisagrees(format!(
                "it still has {}",
                pin.reference
            ))),
        }
    }

    /// The same, once an engine that did not answer is done with what it may still
    /// have been about to do.
    pub(super) async fn take_back_late(
        &self,
        added: &[Pin],
        dropped: &[Pin],
    ) -> Result<Vec<Leftover>, Failure> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        let mut left = loop {
            match self.take_back(added, dropped).await {
                Err(Failure::Engine(error)) if error.may_pass() && Instant::now() < deadline => {
                    sleep(LOOK_AGAIN).await;
                }
                taken => break taken?,
            }
        };
        let mut along = Vec::new();
        let mut quiet = 0;
        while quiet < QUIET_LOOKS {
            sleep(LOOK_AGAIN).await;
            quiet += 1;
            let is_lost = |pin: &Pin| left.iter().any(|one| one.reference == pin.reference);
            let gone = self.missing(dropped).await?;
            let gone = gone.iter().find(|pin| !is_lost(pin));
            if let Some(pin) = self.first_there(added, &left).await?.or(gone) {
                if Instant::now() > deadline {
                    return Err(Failure::EngineDisagrees(format!(
                        "it goes on changing {}",
                        pin.reference
                    )));
                }
                along.extend(went_along(&left));
                left = self.take_back(added, dropped).await?;
                quiet = 0;
            }
        }
        left.extend(along);
        Ok(left)
    }

    /// Has dropped references again.
    async fn restore(&self, dropped: &[Pin]) -> Result<Vec<Leftover>, Failure> {
        let missing = self.missing(dropped).await?;
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let mut fresh = BTreeSet::new();
        for pin in &missing {
            if self.engine.find(&pin.reference).await?.is_none() {
                fresh.insert(&pin.reference);
            }
        }
        match self.load(&missing).await {
            Ok(()) => {}
            // One of them spoils it for all.
            Err(Failure::Engine(EngineError::Answer { .. }) | Failure::Archive(_)) => {
                return self.restore_each(&missing, &fresh).await;
            }
            Err(failure) => return Err(failure),
        }
        let still = self.missing(&missing).await?.into_iter();
        Ok(still
            .map(|pin| Leftover {
                reference: pin.reference,
                why: Why::Lost("Docker took it, and does not have it".to_owned()),
            })
            .collect())
    }

    /// `fresh` are those that the engine did not even have the names of.
    async fn restore_each(
        &self,
        missing: &[Pin],
        fresh: &BTreeSet<&Reference>,
    ) -> Result<Vec<Leftover>, Failure> {
        let mut left = Vec::new();
        for pin in missing {
            let why = match self.load(slice::from_ref(pin)).await {
                Ok(()) => continue,
                Err(Failure::Engine(error @ EngineError::Answer { .. })) => error.to_string(),
                Err(Failure::Archive(error)) => error.to_string(),
                Err(failure) => return Err(failure),
            };
            // A load that fails leaves a name that nothing can be run by.
            if fresh.contains(&pin.reference) {
                self.engine.untag(&pin.reference).await?;
            }
            left.push(Leftover {
                reference: pin.reference.clone(),
                why: Why::Lost(why),
            });
        }
        Ok(left)
    }
}
