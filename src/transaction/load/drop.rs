//! Drops references without removing an image or a layer.
//!
//! The engine removes an image along with its last reference, and layers along with the
//! last manifest that names them. Other clients may drop references at the same time. So
//! just before each drop, digestfix checks that another reference or manifest exists.

use std::collections::BTreeSet;

use crate::docker::engine::images::{Dropped, Images};
use crate::state::journal::Pin;
use crate::store::containerd::ContainerdStore;
use crate::transaction::leftover::{Leftover, Why};
use crate::transaction::load::steps::Steps;
use crate::transaction::outcome::Failure;

impl<E: Images> Steps<'_, E> {
    /// Drops references. Returns the references that stay, and the dropped references
    /// along with which Docker dropped others.
    pub(super) async fn drop_all(&self, pins: &[Pin]) -> Result<Vec<Leftover>, Failure> {
        let mut left = Vec::new();
        if pins.is_empty() {
            return Ok(left);
        }
        let mut here = self.look(false).await?;
        for pin in pins {
            let reference = pin.reference.clone();
            let why = match self.speaks_against(pin, &mut here).await? {
                Some(why) => Some(why),
                None => match self.engine.untag(&pin.reference).await? {
                    Dropped::Alone => None,
                    Dropped::InUse(conflict) => Some(Why::InUse(conflict)),
                    Dropped::Along(along) => Some(Why::TookAlong(along)),
                },
            };
            if !matches!(
                why,
                Some(Why::InUse(_) | Why::Tagged(_) | Why::Last | Why::HasLayers)
            ) {
                here.forget(&pin.reference);
            }
            left.extend(why.map(|why| Leftover { reference, why }));
        }
        Ok(left)
    }

    async fn speaks_against(
        &self,
        pin: &Pin,
        here: &mut ContainerdStore,
    ) -> Result<Option<Why>, Failure> {
        let Some(digest) = pin.reference.digest() else {
            return Ok(Some(Why::Last));
        };
        // Docker 26 does not find a reference whose manifest is missing, although it has
        // recorded the reference.
        let Some(found) = self.engine.find(&pin.reference).await? else {
            return Ok(None);
        };
        if let Some(tag) = found.tag_beside(&pin.reference) {
            return Ok(Some(Why::Tagged(tag)));
        }
        // Docker 28 finds a reference whose manifest is missing.
        if self.content.text(digest).is_none() && !here.nothing_was_read() {
            return Ok(None);
        }
        if !self.another_stands(pin, here).await? {
            *here = self.look(true).await?;
            if !self.another_stands(pin, here).await? {
                return Ok(Some(Why::Last));
            }
        }
        let this = BTreeSet::from([&pin.reference]);
        if here.holds_layers(digest) {
            *here = self.look(false).await?;
            here.ask(self.engine, [pin.reference.clone()]).await?;
            // Also ask Docker, because layers in the content store may belong to another
            // namespace of containerd.
            if !here.is_hollow(&pin.reference) && here.loses_layers(digest, &this) {
                return Ok(Some(Why::HasLayers));
            }
        }
        Ok(None)
    }

    /// Asks the engine once more whether another reference points at the image.
    async fn another_stands(&self, pin: &Pin, here: &ContainerdStore) -> Result<bool, Failure> {
        for (other, target) in here.others(&pin.reference, &pin.image_id) {
            let found = self.engine.find(other).await?;
            if found.and_then(|listed| listed.target()).as_ref() == Some(target) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Fails unless the image of each of these references is on this host. The image may
    /// have another reference.
    pub(super) async fn see_images(&self, pins: &[Pin]) -> Result<(), Failure> {
        let here = self.look(true).await?;
        for pin in pins {
            if !here.images.contains(&pin.image_id) {
                return Err(Failure::EngineDisagrees(format!(
                    "the image of {} is no longer on this host",
                    pin.reference
                )));
            }
        }
        Ok(())
    }

    /// Reads the references that the engine lists. If `all` is set, also asks for the
    /// references that the engine may have without listing them.
    pub(super) async fn look(&self, all: bool) -> Result<ContainerdStore, Failure> {
        let mut here = ContainerdStore::read(self.engine, self.content.clone()).await?;
        if all {
            let known = self.known.iter().cloned();
            here.ask(self.engine, known).await?;
        }
        Ok(here)
    }
}
