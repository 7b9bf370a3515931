//! Requests to the engine: load, drop, verify and undo.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::docker::content_store::ContentStore;
use crate::docker::engine::EngineError;
use crate::docker::engine::images::{Images, Listed, Listing, Resolved};
use crate::image::digest::{Digest, ImageId};
use crate::image::manifest::Manifest;
use crate::image::reference::Reference;
use crate::state::journal::Pin;
use crate::store::containerd::ContainerdStore;
use crate::transaction::leftover::{Leftover, Why, went_along};
use crate::transaction::load::work::archive;
use crate::transaction::outcome::Failure;

/// The maximum number of references in one load request. The engine takes about 20 ms for
/// each reference, and has to answer the request within 30 s.
const LOADED_AT_ONCE: usize = 50;

/// digestfix asks the engine for at most this many references by name. If there are more
/// references, digestfix asks for a sample.
const ASKED_FOR: usize = 8;

/// If the engine does not answer a request, undo waits at most this long for the engine
/// to answer again and to finish the request.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Once this many checks in a row find no change, undo assumes that the engine has
/// finished the request.
const QUIET_LOOKS: u32 = 4;

/// The engine, and the data that requests to the engine need.
#[derive(Debug)]
pub(super) struct Steps<'a, E> {
    pub engine: &'a E,
    pub content: &'a ContentStore,
    pub manifests: &'a BTreeMap<Digest, String>,
    /// References that the engine may have without listing them.
    pub known: &'a [Reference],
}

impl<E: Images> Steps<'_, E> {
    /// Loads references. Does not send an image config that the engine already has: the
    /// engine would write the config again, and the load would have to wait for the disk.
    pub(super) async fn load(&self, pins: &[Pin]) -> Result<(), Failure> {
        let listing = self.listing(pins.len()).await?;
        let config = |image: &ImageId| self.content.config(image);
        let is_there = |config: &Digest| listing.is_known_to_read(config);
        for pins in pins.chunks(LOADED_AT_ONCE) {
            let archive = archive(pins, self.manifests, config, is_there)?;
            self.engine.load(archive).await?;
        }
        Ok(())
    }

    /// Checks that the engine has the added references with their manifests, and would
    /// run the right image for each. Also checks that the engine has none of the dropped
    /// references. Returns the added references whose layers are missing, according to
    /// the engine.
    pub(super) async fn verify(
        &self,
        added: &[Pin],
        dropped: &[Pin],
    ) -> Result<Vec<Reference>, Failure> {
        let here = self.look(false).await?;
        for pin in added {
            let found = here.find(self.engine, &pin.reference).await?;
            if !self.is_whole(pin, found) || here.config(&pin.image_id).is_none() {
                return Err(Failure::EngineDisagrees(format!(
                    "{} is missing, or its manifest or its image is missing",
                    pin.reference
                )));
            }
        }
        for pin in self.to_be_asked_for(added) {
            self.runs(pin).await?;
        }
        for pin in dropped {
            if here.find(self.engine, &pin.reference).await?.is_some() {
                return Err(still_has(pin));
            }
        }
        hollow(&here, added)
    }

    /// Whether the engine finds the reference under its digest, and containerd has the
    /// config and the manifests that prove the image. Docker 28 also finds a reference
    /// whose manifest is missing, so this function checks the contents too.
    fn is_whole(&self, pin: &Pin, found: Option<Listed>) -> bool {
        let Some(digest) = pin.reference.digest() else {
            return false;
        };
        found.and_then(|listed| listed.target()).as_ref() == Some(digest)
            && self.content.proof(digest, &pin.image_id).is_some()
            && self.content.config(&pin.image_id).is_some()
    }

    /// The references for which digestfix asks the engine by name. For most references,
    /// digestfix need not ask, because the manifest contains the hash of the image's
    /// config. But if an index contains several images on this host, the engine picks an
    /// image by its own rules, so digestfix asks. digestfix also asks for a few other
    /// references, to notice an engine that behaves differently.
    fn to_be_asked_for<'p>(&self, pins: &'p [Pin]) -> impl Iterator<Item = &'p Pin> {
        let every = pins.len().div_ceil(ASKED_FOR);
        let pins = pins.iter().enumerate();
        pins.filter(move |(place, pin)| place % every == 0 || self.has_a_choice(pin))
            .map(|(_, pin)| pin)
    }

    fn has_a_choice(&self, pin: &Pin) -> bool {
        let manifests = pin
            .reference
            .digest()
            .map(|one| self.content.manifests(one));
        let texts = manifests.iter().flat_map(BTreeMap::values);
        let is_image =
            |text: &&String| matches!(Manifest::parse(text.as_bytes()), Ok(Manifest::Image(_)));
        texts.filter(is_image).count() > 1
    }

    /// Checks that the engine would run a reference with the image config that the
    /// manifest names.
    async fn runs(&self, pin: &Pin) -> Result<(), Failure> {
        let proven = self.content.config(&pin.image_id);
        let proven = proven.map_or_else(Resolved::default, |text| Resolved::of_config(&text));
        let found = self.engine.resolved(&pin.reference).await?;
        match proven.difference(&found) {
            None => Ok(()),
            Some(what) => Err(Failure::EngineDisagrees(format!(
                "for {}, the manifest proves the image {}, but the engine uses another image: \
                 the {what} of the two images differ",
                pin.reference, pin.image_id
            ))),
        }
    }

    /// Lists all references that the engine has, if `count` is high. If `count` is low,
    /// returns an empty listing, and the caller asks for each reference separately.
    async fn listing(&self, count: usize) -> Result<Listing, Failure> {
        Ok(match count {
            ..=ASKED_FOR => Listing::default(),
            _ => self.engine.listed().await?,
        })
    }

    /// Returns what the engine finds for each reference. Sends a single request if there
    /// are many references, or one request for each reference if there are few.
    async fn found<'p>(
        &self,
        pins: impl IntoIterator<Item = &'p Pin>,
    ) -> Result<Vec<(&'p Pin, Option<Listed>)>, Failure> {
        let pins: Vec<&Pin> = pins.into_iter().collect();
        let listing = self.listing(pins.len()).await?;
        let mut all = Vec::with_capacity(pins.len());
        for pin in pins {
            let found = listing.find_or_ask(self.engine, self.content, &pin.reference);
            all.push((pin, found.await?));
        }
        Ok(all)
    }

    async fn first_there<'p>(
        &self,
        pins: &'p [Pin],
        left: &[Leftover],
    ) -> Result<Option<&'p Pin>, Failure> {
        let is_left = |pin: &&Pin| left.iter().any(|one| one.reference == pin.reference);
        let found = self.found(pins.iter().filter(|pin| !is_left(pin))).await?;
        let mut there = found.into_iter().filter(|(_, found)| found.is_some());
        Ok(there.next().map(|(pin, _)| pin))
    }

    /// The references that the engine does not have yet.
    pub(super) async fn missing(&self, pins: &[Pin]) -> Result<Vec<Pin>, Failure> {
        let found = self.found(pins).await?.into_iter();
        let missing = found.filter_map(|(pin, found)| (!self.is_whole(pin, found)).then_some(pin));
        Ok(missing.cloned().collect())
    }

    /// Restores the former state of the references. Returns the references that it could
    /// not restore.
    pub(super) async fn take_back(
        &self,
        added: &[Pin],
        dropped: &[Pin],
    ) -> Result<Vec<Leftover>, Failure> {
        let mut left = self.restore(dropped).await?;
        left.extend(self.drop_all(added).await?);
        match self.first_there(added, &left).await? {
            None => Ok(left),
            Some(pin) => Err(still_has(pin)),
        }
    }

    /// Does the same as [`Steps::take_back`] after a request that the engine did not
    /// answer and may still carry out. Repeats the undo until the engine makes no more
    /// changes.
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
                        "the engine keeps changing {}",
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

    /// Loads dropped references again.
    async fn restore(&self, dropped: &[Pin]) -> Result<Vec<Leftover>, Failure> {
        let missing = self.missing(dropped).await?;
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.found(&missing).await?.into_iter();
        let fresh = found.filter(|(_, found)| found.is_none());
        let fresh: BTreeSet<&Reference> = fresh.map(|(pin, _)| &pin.reference).collect();
        match self.load(&missing).await {
            Ok(()) => {}
            // One bad reference makes the whole load fail, so load each reference
            // separately.
            Err(Failure::Engine(EngineError::Answer { .. }) | Failure::Archive(_)) => {
                return self.restore_each(&missing, &fresh).await;
            }
            Err(failure) => return Err(failure),
        }
        let still = self.missing(&missing).await?.into_iter();
        Ok(still
            .map(|pin| Leftover {
                reference: pin.reference,
                why: Why::Lost(
                    "Docker accepted the request, but does not have the reference".to_owned(),
                ),
            })
            .collect())
    }

    /// Loads each reference separately. `fresh` contains the references that the engine
    /// did not have before.
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
            // After a failed load, the engine may have a reference that it cannot run, so
            // remove it.
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

fn still_has(pin: &Pin) -> Failure {
    Failure::EngineDisagrees(format!("the engine still has {}", pin.reference))
}

/// The references whose layers are missing, according to the engine.
fn hollow(here: &ContainerdStore, pins: &[Pin]) -> Result<Vec<Reference>, Failure> {
    let mut hollow = Vec::new();
    for pin in pins {
        let reference = &pin.reference;
        // The engine has each of these references, but Docker 26 lists only complete
        // references.
        if here.store.get(reference).is_some() && !here.is_hollow(reference) {
            continue;
        }
        // The engine does not unpack images for a platform that it does not run.
        if !here.runs(&pin.image_id) {
            return Err(Failure::EngineDisagrees(format!(
                "the engine does not have the layers of {reference}, which is for another platform"
            )));
        }
        hollow.push(reference.clone());
    }
    Ok(hollow)
}
