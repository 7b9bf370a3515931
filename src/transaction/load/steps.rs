//! The requests to the engine, step by step, forward and back.

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

/// The engine takes about 20 ms for each, and is given 30 s for a request.
const LOADED_AT_ONCE: usize = 50;

/// So many are asked for by name, each by itself.
const ASKED_FOR: usize = 8;

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
    /// A config that the engine has is not sent again: it would be written once more,
    /// and a load takes as long as the disk.
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

    /// The engine has these with what proves them, and runs their images, and has
    /// none of those. Gives those of them that it says not to have the layers of.
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
                    "it does not have {} with its manifest and its image",
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

    /// The engine leads there, and containerd has the manifests that prove it, and
    /// the config: Docker 28 says to have one whose manifest it lacks.
    fn is_whole(&self, pin: &Pin, found: Option<Listed>) -> bool {
        let Some(digest) = pin.reference.digest() else {
            return false;
        };
        found.and_then(|listed| listed.target()).as_ref() == Some(digest)
            && self.content.proof(digest, &pin.image_id).is_some()
            && self.content.config(&pin.image_id).is_some()
    }

    /// The references whose image is asked for by name. A manifest names its config by
    /// hash, so nothing is open. Of an index with several images here, the engine takes
    /// one by its own rules. A few others are asked for too, to notice an engine that
    /// behaves otherwise.
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

    /// What the engine has, where so many are asked for; else nothing is known of it.
    async fn listing(&self, count: usize) -> Result<Listing, Failure> {
        Ok(match count {
            ..=ASKED_FOR => Listing::default(),
            _ => self.engine.listed().await?,
        })
    }

    /// What the engine finds by each of these, in one request for all where that is
    /// less work for it than one for each.
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

    /// Those that are not there already.
    pub(super) async fn missing(&self, pins: &[Pin]) -> Result<Vec<Pin>, Failure> {
        let found = self.found(pins).await?.into_iter();
        let missing = found.filter_map(|(pin, found)| (!self.is_whole(pin, found)).then_some(pin));
        Ok(missing.cloned().collect())
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
            Some(pin) => Err(still_has(pin)),
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
        let found = self.found(&missing).await?.into_iter();
        let fresh = found.filter(|(_, found)| found.is_none());
        let fresh: BTreeSet<&Reference> = fresh.map(|(pin, _)| &pin.reference).collect();
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

fn still_has(pin: &Pin) -> Failure {
    Failure::EngineDisagrees(format!("it still has {}", pin.reference))
}

/// Those that the engine says not to have the layers of.
fn hollow(here: &ContainerdStore, pins: &[Pin]) -> Result<Vec<Reference>, Failure> {
    let mut hollow = Vec::new();
    for pin in pins {
        let reference = &pin.reference;
        // It has each: Docker 26 lists those alone that it has whole.
        if here.store.get(reference).is_some() && !here.is_hollow(reference) {
            continue;
        }
        // Nor is anything unpacked for it then.
        if !here.runs(&pin.image_id) {
            return Err(Failure::EngineDisagrees(format!(
                "it does not have the layers of {reference}, which is for another platform"
            )));
        }
        hollow.push(reference.clone());
    }
    Ok(hollow)
}
