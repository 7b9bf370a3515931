//! References that digestfix has recorded, but that the engine may not list.

use crate::image::reference::Reference;
use crate::state::history::{self, End, Record};
use crate::state::provenance::Provenance;
use crate::store::data_root::ImageDir;

/// The references that digestfix has added. The engine may have them without listing
/// them.
pub fn known_references(images: &ImageDir) -> Vec<Reference> {
    // A transaction that was interrupted may have added some of its references.
    let made = |record: Record| match record.result {
        Some(End::Undone { .. }) => None,
        _ => Some(record.changes),
    };
    let (changes, _) = history::scan(images.data_root(), made);
    let made = changes
        .into_iter()
        .flatten()
        .filter(|change| change.to.is_some());
    let mut known: Vec<Reference> = made.map(|change| change.reference).collect();
    let noted = Provenance::read(images).unwrap_or_default();
    known.extend(noted.references());
    known
}
