//! Fake containerd of a Kubernetes node, with its CRI, in memory. The fake imitates the
//! observed behavior of containerd 1.6 to 2.1, and fails when a test asks for a failure.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::containerd::{ContainerdError, CriImage, Node, Record, Target};
use crate::image::digest::{Algorithm, Digest, ImageId};
use crate::image::manifest::Manifest;
use crate::image::reference::Reference;
use crate::store::node::MANAGED;

type Act = Box<dyn FnMut(&FakeNode)>;

#[derive(Default)]
pub(crate) struct FakeNode {
    pub records: RefCell<BTreeMap<String, Record>>,
    pub blobs: RefCell<BTreeMap<Digest, String>>,
    /// The calls that change something, in order.
    pub calls: RefCell<Vec<String>>,
    /// The name of the call that fails from now on, and whether the failing call takes
    /// effect nevertheless.
    pub fails: Cell<Option<(&'static str, bool)>>,
    /// How many more calls succeed before containerd becomes unavailable, and how many
    /// calls fail after that.
    pub away: Cell<Option<(u32, u32)>>,
    /// For this number of requests, the CRI does not notice recent changes yet.
    pub lags: Cell<u32>,
    /// How many names the CRI lists. Each further request adds 5 names to the list. With
    /// `None`, the CRI lists all names.
    pub lists: Cell<Option<usize>>,
    /// How often the CRI was asked for a reference by name.
    pub questions: Cell<u32>,
    /// An action that runs once, before the call with this name.
    pub meanwhile: RefCell<Option<(&'static str, Act)>>,
}

/// The manifest that containerd makes up when it imports an image.
pub(crate) fn imported(image: &ImageId) -> String {
    let layer = Digest::of(Algorithm::Sha256, image.hex().as_bytes());
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{image}","size":7}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":9}}]}}"#
    )
}

impl FakeNode {
    fn failed(call: &'static str) -> ContainerdError {
        ContainerdError::Unanswered {
            socket: PathBuf::from("/fake"),
            call,
            problem: "it is a test".to_owned(),
        }
    }

    /// Prepares the answer to a call. Returns true if the call has to fail after it has
    /// taken effect.
    fn asked(&self, call: &'static str) -> Result<bool, ContainerdError> {
        if let Some((left, away)) = self.away.get() {
            match (left, away) {
                (0, 0) => self.away.set(None),
                (0, away) => {
                    self.away.set(Some((0, away - 1)));
                    return Err(Self::failed(call));
                }
                (left, away) => self.away.set(Some((left - 1, away))),
            }
        }
        let act = self.meanwhile.take();
        match act {
            Some((at, mut act)) if at == call => act(self),
            other => *self.meanwhile.borrow_mut() = other,
        }
        match self.fails.get() {
            Some((at, does)) if at == call && !does => Err(Self::failed(call)),
            Some((at, _)) => Ok(at == call),
            None => Ok(false),
        }
    }

    pub fn blob(&self, text: &str) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        self.blobs
            .borrow_mut()
            .insert(digest.clone(), text.to_owned());
        digest
    }

    /// Adds an image record, as a client of containerd would.
    pub fn tag(&self, name: &str, target: &Digest) {
        let record = Record {
            name: name.to_owned(),
            target: Target {
                media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                digest: target.clone(),
                size: 7,
                annotations: BTreeMap::new(),
            },
            labels: [(MANAGED.0.to_owned(), MANAGED.1.to_owned())].into(),
        };
        self.records.borrow_mut().insert(name.to_owned(), record);
    }

    /// Adds the image records that containerd creates when it imports a `docker save`
    /// archive.
    pub fn import(&self, name: &str, image: &ImageId) -> Digest {
        let target = self.blob(&imported(image));
        self.tag(name, &target);
        self.tag(&image.to_string(), &target);
        target
    }

    pub fn names(&self) -> Vec<String> {
        self.records.borrow().keys().cloned().collect()
    }

    fn image_of(&self, record: &Record) -> Option<ImageId> {
        let blobs = self.blobs.borrow();
        let text = blobs.get(&record.target.digest)?;
        match Manifest::parse(text.as_bytes()) {
            Ok(Manifest::Image(manifest)) => Some(manifest.image),
            _ => None,
        }
    }

    fn lags(&self) -> bool {
        let left = self.lags.get();
        self.lags.set(left.saturating_sub(1));
        left > 0
    }
}

impl Node for FakeNode {
    async fn records(&self) -> Result<Vec<Record>, ContainerdError> {
        self.asked("list")?;
        Ok(self.records.borrow().values().cloned().collect())
    }

    async fn record(&self, name: &str) -> Result<Option<Record>, ContainerdError> {
        self.asked("get")?;
        Ok(self.records.borrow().get(name).cloned())
    }

    async fn create(&self, record: &Record) -> Result<bool, ContainerdError> {
        let fails = self.asked("create")?;
        let is_new = !self.records.borrow().contains_key(&record.name);
        if is_new {
            self.calls
                .borrow_mut()
                .push(format!("create {}", record.name));
            self.records
                .borrow_mut()
                .insert(record.name.clone(), record.clone());
        }
        match fails {
            true => Err(Self::failed("create")),
            false => Ok(is_new),
        }
    }

    async fn remove(&self, record: &Record) -> Result<(), ContainerdError> {
        let fails = self.asked("remove")?;
        self.calls
            .borrow_mut()
            .push(format!("remove {}", record.name));
        self.records.borrow_mut().remove(&record.name);
        match fails {
            true => Err(Self::failed("remove")),
            false => Ok(()),
        }
    }

    async fn cri_images(&self) -> Result<Vec<CriImage>, ContainerdError> {
        self.asked("cri list")?;
        let known = self.lists.get().unwrap_or(usize::MAX);
        self.lists.set(self.lists.get().map(|known| known + 5));
        let mut images: BTreeMap<ImageId, Vec<String>> = BTreeMap::new();
        for record in self.records.borrow().values().take(known) {
            if let Some(image) = self.image_of(record) {
                let names = images.entry(image).or_default();
                if Reference::parse(&record.name).is_ok_and(|one| one.full() == record.name) {
                    names.push(record.name.clone());
                }
            }
        }
        let images = images.into_iter();
        Ok(images.map(|(id, names)| CriImage { id, names }).collect())
    }

    async fn cri_image(&self, reference: &str) -> Result<Option<ImageId>, ContainerdError> {
        self.asked("cri status")?;
        self.questions.set(self.questions.get() + 1);
        if self.lags() {
            return Ok(None);
        }
        // If a reference has a tag and a digest, the CRI ignores the tag.
        let name = match Reference::parse(reference) {
            Ok(one) => match one.digest() {
                Some(digest) => one.repository().clone().with_digest(digest.clone()).full(),
                None => one.full(),
            },
            Err(_) => return Ok(None),
        };
        let records = self.records.borrow();
        Ok(records.get(&name).and_then(|record| self.image_of(record)))
    }

    async fn manifest(&self, digest: &Digest) -> Result<Option<String>, ContainerdError> {
        self.asked("read")?;
        Ok(self.blobs.borrow().get(digest).cloned())
    }
}
