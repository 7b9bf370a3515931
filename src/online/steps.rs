//! What the engine is asked for, step by step, there and back.

use std::collections::BTreeMap;

use crate::content_store::ContentStore;
use crate::digest::{Digest, ImageId};
use crate::engine::images::Images;
use crate::online::work::{Pin, archive, tag_beside};
use crate::transaction::outcome::Failure;

/// The engine takes about 20 ms for each, and is given 30 s for a request.
const LOADED_AT_ONCE: usize = 50;

/// The engine, and what it takes to give it references.
#[derive(Debug)]
pub(super) struct Steps<'a, E> {
    pub engine: &'a E,
    pub content: &'a ContentStore,
    pub manifests: &'a BTreeMap<Digest, String>,
}

impl<E: Images> Steps<'_, E> {
    pub(super) async fn load(&self, pins: &[Pin]) -> Result<(), Failure> {
        let config = |image: &ImageId| {
            let digest = image.to_string().parse().ok()?;
            self.content.text(&digest)
        };
        for pins in pins.chunks(LOADED_AT_ONCE) {
            let archive = archive(pins, self.manifests, config)?;
            self.engine.load(archive).await?;
        }
        Ok(())
    }

    /// Drops references, but none that a tag would go with.
    pub(super) async fn drop_all(&self, pins: &[Pin]) -> Result<(), Failure> {
        for pin in pins {
            if tag_beside(&pin.reference, self.engine).await?.is_some() {
                return Err(Failure::TaggedSince(pin.reference.clone()));
            }
            self.engine.untag(&pin.reference).await?;
        }
        Ok(())
    }

    /// The engine finds each, and containerd has the manifests that prove it:
    /// Docker 28 says to have one whose manifest it lacks.
    pub(super) async fn has(&self, pin: &Pin) -> Result<bool, Failure> {
        let Some(digest) = pin.reference.digest() else {
            return Ok(false);
        };
        let found = self.engine.find(&pin.reference).await?;
        let leads_there = found.and_then(|listed| listed.target()).as_ref() == Some(digest);
        Ok(leads_there && self.content.proof(digest, &pin.image_id).is_some())
    }

    pub(super) async fn has_all(&self, pins: &[Pin]) -> Result<(), Failure> {
        for pin in pins {
            if !self.has(pin).await? {
                return Err(Failure::EngineDisagrees(format!(
                    "it does not have {} with its manifest",
                    pin.reference
                )));
            }
        }
        Ok(())
    }

    pub(super) async fn has_none(&self, pins: &[Pin]) -> Result<(), Failure> {
        for pin in pins {
            if self.engine.find(&pin.reference).await?.is_some() {
                return Err(Failure::EngineDisagrees(format!(
                    "it still has {}",
                    pin.reference
                )));
            }
        }
        Ok(())
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

    /// Has the references again as they were before.
    pub(super) async fn take_back(&self, added: &[Pin], dropped: &[Pin]) -> Result<(), Failure> {
        let missing = self.missing(dropped).await?;
        if !missing.is_empty() {
            self.load(&missing).await?;
        }
        self.drop_all(added).await?;
        self.has_none(added).await?;
        self.has_all(dropped).await
    }
}
