//! Lookups in the reference store that read only what a claim needs. A store may have a
//! hundred thousand references, while a request may have only one claim.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::image::digest::ImageId;
use crate::image::reference::{Reference, Repository};
use crate::store::repositories::{Entry, Store};

/// The images of a repository, each with its references in that repository, sorted.
pub(super) type Group = BTreeMap<ImageId, Vec<Reference>>;

/// If a request has at most this number of claims, each lookup searches the references of
/// the claim's repository. For more claims, digestfix groups each repository's references
/// by image once, and reuses the groups.
const FEW: usize = 16;

pub(super) struct Lookup<'a> {
    store: &'a Store,
    for_few: bool,
    groups: RefCell<HashMap<Repository, Rc<Group>>>,
    homes: RefCell<HashMap<ImageId, Rc<BTreeSet<Repository>>>>,
    by_value: OnceCell<HashMap<&'a str, Vec<Entry<'a>>>>,
}

impl<'a> Lookup<'a> {
    /// Prepares lookups for the given number of claims.
    pub(super) fn new(store: &'a Store, claims: usize) -> Self {
        Self {
            store,
            for_few: claims <= FEW,
            groups: RefCell::default(),
            homes: RefCell::default(),
            by_value: OnceCell::new(),
        }
    }

    /// The image that the engine finds by a reference.
    pub(super) fn find(&self, reference: &Reference) -> Option<ImageId> {
        let (repository, key) = (reference.repository().familiar(), reference.familiar());
        let value = self.store.get(reference)?;
        let entry = Entry {
            repository: &repository,
            key: &key,
            value,
        };
        let (found, image) = entry.meaning().ok()?;
        (found == *reference).then_some(image)
    }

    /// The images of a repository.
    pub(super) fn group(&self, repository: &Repository) -> Rc<Group> {
        if let Some(group) = self.groups.borrow().get(repository) {
            return Rc::clone(group);
        }
        let mut group = Group::new();
        for entry in self.store.entries_of(&repository.familiar()) {
            if let Some((reference, image)) = meant(&entry, repository) {
                group.entry(image).or_default().push(reference);
            }
        }
        for references in group.values_mut() {
            references.sort_unstable();
        }
        let group = Rc::new(group);
        let mut groups = self.groups.borrow_mut();
        groups.insert(repository.clone(), Rc::clone(&group));
        group
    }

    /// An image's references in a repository, sorted.
    pub(super) fn references_to(&self, image: &ImageId, repository: &Repository) -> Vec<Reference> {
        if !self.for_few {
            let group = self.group(repository);
            return group.get(image).cloned().unwrap_or_default();
        }
        let (name, value) = (repository.familiar(), image.to_string());
        let entries = self.store.entries_of(&name);
        let references = entries
            .filter(|entry| entry.value == value)
            .filter_map(|entry| meant(&entry, repository));
        let mut references: Vec<Reference> = references.map(|(reference, _)| reference).collect();
        references.sort_unstable();
        references
    }

    /// The repositories in which an image has a reference.
    pub(super) fn homes(&self, image: &ImageId) -> Rc<BTreeSet<Repository>> {
        if let Some(homes) = self.homes.borrow().get(image) {
            return Rc::clone(homes);
        }
        let by_value = self.by_value.get_or_init(|| {
            let mut by_value: HashMap<&str, Vec<Entry>> = HashMap::new();
            for entry in self.store.entries() {
                by_value.entry(entry.value).or_default().push(entry);
            }
            by_value
        });
        let entries = by_value.get(image.to_string().as_str());
        let references = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.meaning().ok());
        let homes = Rc::new(
            references
                .map(|(reference, _)| reference.repository().clone())
                .collect(),
        );
        let mut known = self.homes.borrow_mut();
        known.insert(image.clone(), Rc::clone(&homes));
        homes
    }
}

/// The reference and image of an entry. `None` if the entry belongs to another
/// repository, because two repositories may have the same short name.
fn meant(entry: &Entry<'_>, repository: &Repository) -> Option<(Reference, ImageId)> {
    let meaning = entry.meaning().ok();
    meaning.filter(|(reference, _)| reference.repository() == repository)
}
