//! What Docker recorded, dropped again: by the API, or in its file.
//!
//! A reference that was to be recorded may point at another image by now, where
//! Docker came to another registry. That goes as well, and is told of; but never
//! with the last reference of an image, whose it may be.

use crate::digest::ImageId;
use crate::engine::{Engine, References};
use crate::journal::Recorded;
use crate::reference::Reference;
use crate::store::{Entry, Store};
use crate::systemd::ServiceManager;
use crate::transaction::daemon::Daemon;
use crate::transaction::outcome::{Failure, Progress};

/// What became of references that were to be dropped.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    /// How many went.
    pub count: usize,
    /// What is to be said of each of the others.
    pub stay: Vec<String>,
}

impl<M: ServiceManager, E: Engine> Daemon<'_, M, E> {
    /// Drops those of the references that are there. One stays that is the last of
    /// its image by now, as the image would go with it.
    pub(super) async fn drop_recorded<'r>(
        &self,
        references: impl Iterator<Item = (&'r Reference, &'r ImageId)>,
        progress: &mut impl Progress,
    ) -> Result<Dropped, Failure> {
        let there = self.engine.references().await?;
        let mut all = Dropped::default();
        for (reference, image) in references {
            let name = reference.familiar();
            if !there.contains_key(&name) {
                continue;
            }
            // Docker goes on running, and others drop references as well.
            let now = self.engine.references().await?;
            let Some(found) = now.get(&name) else {
                continue;
            };
            let elsewhere = *found != image.to_string();
            if !others_lead_to(&now, &name) {
                all.stay.push(stays(&name, elsewhere.then_some(found)));
                continue;
            }
            self.engine.untag(reference).await?;
            if self.engine.image(reference).await?.is_some() {
                return Err(Failure::EngineDisagrees(format!(
                    "{reference} was dropped, and it still finds it"
                )));
            }
            if elsewhere {
                progress.warning(&format!(
                    "{name} pointed at {found} instead of {image}: dropped"
                ));
            }
            all.count += 1;
        }
        Ok(all)
    }
}

/// Drops what is there, unless that is all of it as it was to be. False when
/// nothing is dropped.
pub(super) fn drop_from(
    store: &mut Store,
    references: &[Recorded],
    progress: &mut impl Progress,
) -> bool {
    if (references.iter()).all(|one| store.points_at(&one.reference, &one.image)) {
        return false;
    }
    let mut any = false;
    for one in references {
        let Some(image) = store.get(&one.reference).map(ToString::to_string) else {
            continue;
        };
        let name = one.reference.familiar();
        let elsewhere = image != one.image.to_string();
        let is_another = |entry: Entry<'_>| entry.key != name && entry.value == image;
        if !store.entries().any(is_another) {
            progress.warning(&stays(&name, elsewhere.then_some(&image)));
            continue;
        }
        if elsewhere {
            progress.warning(&format!(
                "{name} pointed at {image} instead of {}: dropped",
                one.image
            ));
        }
        store.remove(&one.reference);
        any = true;
    }
    any
}

/// The image of a reference has another one besides.
fn others_lead_to(references: &References, name: &str) -> bool {
    let image = references.get(name);
    let mut others = references.iter().filter(|(other, _)| *other != name);
    others.any(|(other, of)| Some(of) == image && !other.contains("<none>"))
}

/// What is said of a reference that cannot be dropped, and of its image where
/// that is not the one it was to be.
fn stays(name: &str, elsewhere: Option<&String>) -> String {
    let elsewhere = elsewhere.map(|image| format!(", and points at {image}"));
    format!(
        "{name} stays{}: it is the only reference of that image by now, which would go with it",
        elsewhere.unwrap_or_default()
    )
}
