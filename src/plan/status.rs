//! Status: lists a host's references as rows, one for each combination of a tag and a
//! digest, with the state of each row.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::claims::trust::Trust;
use crate::image::digest::ImageId;
use crate::image::reference::Reference;
use crate::plan::digest_is_image_id;
use crate::store::images::Images;
use crate::store::repositories::{Entry, Store};
use crate::sys::shell;

/// One row, like those of `docker images --digests`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The repository's short name, such as `httpd`.
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<String>,
    /// The image ID, as the reference store contains it.
    pub image_id: String,
    pub state: State,
    /// The trust in the digest. `None` if digestfix did not record the digest and no
    /// manifest proves the digest.
    pub trust: Option<Trust>,
    pub origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The key of an entry that Docker cannot use. `None` if this key does not name the
    /// entry alone, because it is also a reference of the store.
    #[serde(skip)]
    pub key: Option<String>,
}

impl Row {
    /// The arguments of `digestfix apply` that remove what makes this row a problem,
    /// quoted for a shell. `None` if nothing has to be removed, or no argument names it.
    pub fn removal(&self) -> Option<String> {
        let name = &self.repository;
        let removed = match (self.state, &self.tag, &self.digest) {
            (State::DigestIsImageId | State::ImageMissing, _, Some(digest)) => {
                format!("{name}@{digest}")
            }
            (State::ImageMissing, Some(tag), None) => format!("{name}:{tag}"),
            (State::Unparsable, ..) => self.key.clone()?,
            _ => return None,
        };
        // An argument that begins with a hyphen would be taken for an option.
        let between = if removed.starts_with('-') { '=' } else { ' ' };
        Some(format!("--remove{between}{}", shell::word(&removed)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ok,
    /// The image has no digest in this repository.
    NoDigest,
    /// This host has the unpacked layers, but not the compressed layers that the registry
    /// serves. Docker can run the image by its digest, but cannot save or push it by its
    /// digest.
    RunsOnly,
    /// An import or `docker save` generated the manifest with this digest, so no registry
    /// has the digest.
    MadeUp,
    /// The digest is the ID of an image on this host.
    DigestIsImageId,
    ImageMissing,
    /// Docker cannot parse this entry of the reference store.
    Unparsable,
    /// The image has no reference, and is not the parent of another image.
    Nameless,
}

/// The text that `status` shows in place of a name for an image without a name.
const NO_NAME: &str = "<none>";

/// The images that have no reference and are not the parent of another image.
pub(crate) fn nameless(store: &Store, images: &dyn Images) -> Vec<ImageId> {
    let mut leaves = images.leaves();
    for entry in store.entries() {
        if leaves.is_empty() {
            break;
        }
        if let Ok(image) = entry.value.parse::<ImageId>() {
            leaves.remove(&image);
        }
    }
    leaves.into_iter().collect()
}

impl State {
    /// All states except [`State::Ok`], beginning with the worst.
    pub const ODD: [Self; 7] = [
        Self::ImageMissing,
        Self::DigestIsImageId,
        Self::MadeUp,
        Self::Unparsable,
        Self::NoDigest,
        Self::RunsOnly,
        Self::Nameless,
    ];

    /// Whether the state means that Docker cannot run the image, or cannot find the image
    /// by a digest.
    pub const fn is_problem(self) -> bool {
        match self {
            Self::Ok | Self::RunsOnly | Self::Nameless => false,
            Self::NoDigest
            | Self::MadeUp
            | Self::DigestIsImageId
            | Self::ImageMissing
            | Self::Unparsable => true,
        }
    }
}

/// A source of rows. A caller can read all rows more than once.
pub trait Rows: fmt::Debug {
    /// Passes each row to `give`, sorted by repository, tag and digest.
    fn each(&self, give: &mut dyn FnMut(&Row));
}

impl Rows for Vec<Row> {
    fn each(&self, give: &mut dyn FnMut(&Row)) {
        self.iter().for_each(give);
    }
}

/// Which rows to show.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The names to show. If empty, all names are shown.
    pub names: Vec<Reference>,
    /// Show only rows with a problem.
    pub problems: bool,
}

impl Selection {
    /// Whether to show a row.
    pub fn has(&self, row: &Row) -> bool {
        (row.state.is_problem() || !self.problems)
            && (self.names.is_empty() || self.names.iter().any(|name| names(name, row)))
    }
}

/// Whether the name matches the row. The name may omit the first parts of the row's
/// repository.
pub fn names(name: &Reference, row: &Row) -> bool {
    let repository = name.repository().familiar();
    let begins = row.repository.strip_suffix(repository.as_str());
    let tag = name.tag().map(|tag| tag.as_str());
    let digest = name.digest().map(ToString::to_string);
    begins.is_some_and(|begins| begins.is_empty() || begins.ends_with('/'))
        && (tag.is_none() || tag == row.tag.as_deref())
        && (digest.is_none() || digest == row.digest)
}

/// The rows that the user selected.
#[derive(Debug)]
pub struct Selected<R> {
    pub rows: R,
    pub selection: Selection,
}

impl<R: Rows> Rows for Selected<R> {
    fn each(&self, give: &mut dyn FnMut(&Row)) {
        self.rows.each(&mut |row| {
            if self.selection.has(row) {
                give(row);
            }
        });
    }
}

/// The rows of a store, created one repository at a time. A store may have a million
/// references, so the rows of only one repository are in memory.
#[derive(Debug)]
pub struct Listing {
    store: Store,
    images: BTreeSet<ImageId>,
    /// The references (with short names such as `httpd`) whose image exists on this host
    /// only as unpacked layers.
    hollow: BTreeSet<String>,
    /// The references (with short names such as `httpd`) in state [`State::MadeUp`].
    made_up: BTreeSet<String>,
    /// The images without a name, whose rows come last.
    nameless: Vec<ImageId>,
    /// The trust and origin of each row's digest, in the order of the rows.
    known: Vec<Option<(Trust, Arc<str>)>>,
}

impl Listing {
    /// Lists the rows of a store. Calls `known` once for each digest, to get the digest's
    /// trust and origin.
    pub fn new(
        store: Store,
        images: BTreeSet<ImageId>,
        hollow: BTreeSet<String>,
        known: impl Fn(&Reference, &ImageId) -> Option<(Trust, String)>,
    ) -> Self {
        let mut origins: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut found = Vec::new();
        for_each_row(&store, &images, known, |row| {
            let origin = row.origin.map(|origin| match origins.get(origin.as_str()) {
                Some(origin) => Arc::clone(origin),
                None => {
                    let origin: Arc<str> = origin.into();
                    origins.insert(Arc::clone(&origin));
                    origin
                }
            });
            found.push(row.trust.zip(origin));
        });
        Self {
            store,
            images,
            hollow,
            made_up: BTreeSet::new(),
            nameless: Vec::new(),
            known: found,
        }
    }

    /// Returns the same rows, plus a row for each of these images without a name.
    pub(crate) fn with_nameless(mut self, nameless: Vec<ImageId>) -> Self {
        self.nameless = nameless;
        self
    }

    /// Returns the same rows, with these references marked as [`State::MadeUp`].
    pub fn with_made_up(mut self, made_up: BTreeSet<String>) -> Self {
        self.made_up = made_up;
        self
    }
}

impl Rows for Listing {
    fn each(&self, give: &mut dyn FnMut(&Row)) {
        let mut known = self.known.iter();
        for_each_row(
            &self.store,
            &self.images,
            |_, _| None,
            |mut row| {
                if let Some(Some((trust, origin))) = known.next() {
                    row.trust = Some(*trust);
                    row.origin = Some(origin.to_string());
                }
                // Skip this check if no reference needs it, because a store may have a
                // million rows.
                if !(self.hollow.is_empty() && self.made_up.is_empty())
                    && let (State::Ok, Some(digest)) = (row.state, &row.digest)
                {
                    let reference = format!("{}@{digest}", row.repository);
                    if self.hollow.contains(&reference) {
                        row.state = State::RunsOnly;
                    } else if self.made_up.contains(&reference) {
                        row.state = State::MadeUp;
                    }
                }
                give(&row);
            },
        );
        for image in &self.nameless {
            give(&Row {
                repository: NO_NAME.to_owned(),
                tag: None,
                digest: None,
                image_id: image.to_string(),
                state: State::Nameless,
                trust: None,
                origin: None,
                note: None,
                key: None,
            });
        }
    }
}

/// Returns all rows of the store. `known` returns the trust and origin of a digest.
pub fn rows(
    store: &Store,
    images: &BTreeSet<ImageId>,
    known: impl Fn(&Reference, &ImageId) -> Option<(Trust, String)>,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for_each_row(store, images, known, |row| rows.push(row));
    rows
}

/// Passes every row of the store to `give`. The store lists its entries by repository.
pub fn for_each_row(
    store: &Store,
    images: &BTreeSet<ImageId>,
    known: impl Fn(&Reference, &ImageId) -> Option<(Trust, String)>,
    give: impl FnMut(Row),
) {
    let mut give = give;
    let mut entries = store.entries().peekable();
    while let Some(first) = entries.next() {
        let repository = first.repository;
        let mut rows = Vec::new();
        let mut groups: BTreeMap<ImageId, Vec<Reference>> = BTreeMap::new();
        let mut next = Some(first);
        while let Some(entry) = next {
            match entry.meaning() {
                Ok((reference, image)) => groups.entry(image).or_default().push(reference),
                Err(misfit) => rows.push(Row {
                    repository: repository.to_owned(),
                    tag: None,
                    digest: None,
                    image_id: entry.value.to_owned(),
                    state: State::Unparsable,
                    trust: None,
                    origin: None,
                    note: Some(format!("{:?}: {misfit}", entry.key)),
                    key: key_of(store, &entry),
                }),
            }
            next = entries.next_if(|entry| entry.repository == repository);
        }
        for (image, references) in &groups {
            rows.extend(of_image(repository, image, references, images, &known));
        }
        rows.sort_by(|one, other| (&one.tag, &one.digest).cmp(&(&other.tag, &other.digest)));
        rows.into_iter().for_each(&mut give);
    }
}

/// The key by which `--remove` finds this entry. `None` if the key is also a reference of
/// the store.
fn key_of(store: &Store, entry: &Entry<'_>) -> Option<String> {
    let reference = Reference::parse(entry.key).ok();
    let is_reference = reference.is_some_and(|one| store.get(&one).is_some());
    (!entry.is_passed_over() || !is_reference).then(|| entry.key.to_owned())
}

/// The rows of an image in a repository: one for each combination of a tag and a digest.
fn of_image(
    repository: &str,
    image: &ImageId,
    references: &[Reference],
    images: &BTreeSet<ImageId>,
    known: impl Fn(&Reference, &ImageId) -> Option<(Trust, String)>,
) -> Vec<Row> {
    let tags = some_or_none(references.iter().filter_map(Reference::tag));
    let digests = some_or_none(references.iter().filter(|one| one.digest().is_some()));
    let digests: Vec<_> = digests
        .into_iter()
        .map(|reference| {
            let known = reference.and_then(|reference| known(reference, image));
            (reference.and_then(Reference::digest), known)
        })
        .collect();
    let mut rows = Vec::new();
    for tag in &tags {
        for (digest, known) in &digests {
            let state = match digest {
                _ if !images.contains(image) => State::ImageMissing,
                None => State::NoDigest,
                Some(digest) if digest_is_image_id(digest, images) => State::DigestIsImageId,
                Some(_) => State::Ok,
            };
            rows.push(Row {
                repository: repository.to_owned(),
                tag: tag.map(|tag| tag.as_str().to_owned()),
                digest: digest.map(ToString::to_string),
                image_id: image.to_string(),
                state,
                trust: known.as_ref().map(|(trust, _)| *trust),
                origin: known.as_ref().map(|(_, origin)| origin.clone()),
                note: None,
                key: None,
            });
        }
    }
    rows
}

/// The values, or a single `None` if there are no values. The `None` becomes the row of
/// an image that has no tag or no digest.
fn some_or_none<T>(values: impl Iterator<Item = T>) -> Vec<Option<T>> {
    let mut found: Vec<Option<T>> = values.map(Some).collect();
    if found.is_empty() {
        found.push(None);
    }
    found
}
