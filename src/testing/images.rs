//! Fake engine with the containerd image store. The fake keeps its blobs in a directory,
//! and imitates the observed behavior of Docker 26.1 and 28.5.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::docker::content_store::ContentStore;
use crate::docker::engine::EngineError;
use crate::docker::engine::images::{Dropped, Images, Listed, Listing, Resolved};
use crate::image::digest::{Algorithm, Digest, ImageId};
use crate::image::manifest::Manifest;
use crate::image::platform::Platform;
use crate::image::reference::Reference;

const BLOBS: &str = "io.containerd.content.v1.content/blobs/sha256";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

pub(crate) struct FakeImages {
    root: TempDir,
    pub records: RefCell<BTreeMap<Reference, Digest>>,
    /// Behaves like Docker 28.5: also lists images whose layers are missing, and finds a
    /// reference whose manifest is missing.
    pub is_new: Cell<bool>,
    /// Whether digestfix can also ask containerd itself, not only the engine.
    pub has_containerd: Cell<bool>,
    /// Behaves like Docker 29.7: lists an image under its name even if its layers are
    /// missing, and reports that the manifest of this image is not available.
    pub is_29: Cell<bool>,
    /// The name of the request that fails. If a load fails, the fake adds the references
    /// nevertheless.
    pub fails: Cell<Option<&'static str>>,
    /// Whether the engine loses loaded blobs. A real engine loses a blob if the bytes do
    /// not match the digest.
    pub loses_blobs: Cell<bool>,
    /// Whether the layers are in a containerd namespace that Docker does not see.
    pub is_of_another_namespace: Cell<bool>,
    /// Images without any reference.
    pub dangling: RefCell<Vec<Digest>>,
    /// The references that are in use, because a container was created with them.
    pub in_use: RefCell<Vec<Reference>>,
    /// If set, the engine does not answer a load. The load takes effect after this many
    /// lookups.
    pub lands_after: Cell<Option<usize>>,
    late: RefCell<Vec<Reference>>,
    /// A tag that another client adds to an image as soon as the image is loaded.
    pub tagged: RefCell<Option<Reference>>,
    /// If set, the engine runs this image, no matter which image the manifest names.
    pub runs: RefCell<Option<ImageId>>,
    /// An action of another client, right before a request with this name takes effect.
    pub meanwhile: RefCell<Option<(&'static str, Meanwhile)>>,
    pub calls: RefCell<Vec<String>>,
    /// How many image configs were sent to the engine.
    pub sent: Cell<usize>,
    /// How many requests the engine got.
    pub requests: Cell<usize>,
}

type Meanwhile = Box<dyn FnOnce(&FakeImages)>;

pub(crate) fn reference(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

impl FakeImages {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(BLOBS)).unwrap();
        Self {
            root,
            records: RefCell::default(),
            is_new: Cell::new(true),
            has_containerd: Cell::new(false),
            is_29: Cell::new(false),
            fails: Cell::new(None),
            loses_blobs: Cell::new(false),
            is_of_another_namespace: Cell::new(false),
            dangling: RefCell::default(),
            in_use: RefCell::default(),
            lands_after: Cell::new(None),
            late: RefCell::default(),
            tagged: RefCell::new(None),
            runs: RefCell::new(None),
            meanwhile: RefCell::new(None),
            calls: RefCell::default(),
            sent: Cell::new(0),
            requests: Cell::new(0),
        }
    }

    fn counted(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    pub(crate) fn content(&self) -> ContentStore {
        ContentStore::of(Path::new("/nowhere"), Some(self.root.path()))
    }

    pub(crate) fn blob(&self, text: &str) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        fs::write(self.root.path().join(BLOBS).join(digest.hex()), text).unwrap();
        digest
    }

    pub(crate) fn lose(&self, digest: &Digest) {
        fs::remove_file(self.root.path().join(BLOBS).join(digest.hex())).unwrap();
    }

    /// The blobs that Docker can read.
    fn blobs(&self) -> BTreeSet<Digest> {
        let directory = self.root.path().join(BLOBS);
        let mut names: Vec<String> = fs::read_dir(&directory)
            .unwrap()
            .map(|blob| blob.unwrap().file_name().into_string().unwrap())
            .collect();
        if self.is_of_another_namespace.get() {
            let is_layer = |name: &String| {
                let text = fs::read_to_string(directory.join(name)).unwrap();
                text.starts_with("sha256:")
            };
            names.retain(|name| !is_layer(name));
        }
        let names = names.into_iter();
        names
            .map(|name| format!("sha256:{name}").parse().unwrap())
            .collect()
    }

    fn has(&self, digest: &Digest) -> bool {
        self.root.path().join(BLOBS).join(digest.hex()).exists()
    }

    /// Adds the config of an image. Returns the ID of the image.
    pub(crate) fn config(&self, name: &str, architecture: &str) -> ImageId {
        let os = match architecture {
            "unknown" => "unknown",
            _ => "linux",
        };
        let text = json!({
            "architecture": architecture,
            "os": os,
            "history": [{"created_by": name}],
        })
        .to_string();
        self.blob(&text).to_string().parse().unwrap()
    }

    /// Adds an image in the state in which `docker load` leaves an image. Its manifest
    /// was made up by `docker save`, and its layer is present.
    pub(crate) fn loaded(&self, tag: &str, image: &ImageId) -> Digest {
        let layer = self.blob(&format!("layer of {image}"));
        let text = manifest(image, &layer, "application/vnd.oci.image.layer.v1.tar");
        let digest = self.blob(&text);
        self.records
            .borrow_mut()
            .insert(reference(tag), digest.clone());
        digest
    }

    /// Whether all layers of a manifest or index are present under the digests that the
    /// manifests name.
    fn has_layers(&self, target: &Digest) -> bool {
        let content = self.content();
        let texts = content.manifests(target);
        let mut layers = texts.values().flat_map(|text| {
            let manifest: Value = serde_json::from_str(text).unwrap();
            let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
            layers
                .into_iter()
                .map(|layer| layer["digest"].as_str().unwrap().parse().unwrap())
        });
        !self.is_of_another_namespace.get() && layers.all(|layer: Digest| self.has(&layer))
            || texts.values().all(|text| !text.contains("gzip"))
    }

    /// Whether this manifest or index has an image in common with a record that is not in
    /// `loaded`.
    fn is_unpacked(&self, target: &Digest, loaded: &[Reference]) -> bool {
        let content = self.content();
        let images = |target: &Digest| {
            let texts = content.manifests(target).into_values();
            let parsed = texts.map(|text| serde_json::from_str::<Value>(&text).unwrap());
            let images = parsed.map(|manifest| manifest["config"]["digest"].clone());
            images.filter(|image| !image.is_null()).collect::<Vec<_>>()
        };
        let wanted = images(target);
        // If the bytes do not match their digest, there is no image, so there is nothing
        // to unpack.
        if wanted.is_empty() {
            return true;
        }
        self.records.borrow().iter().any(|(other, there)| {
            !loaded.contains(other) && images(there).iter().any(|image| wanted.contains(image))
        })
    }

    fn lands(&self) {
        let Some(left) = self.lands_after.get() else {
            return;
        };
        if self.late.borrow().is_empty() {
            return;
        }
        if left > 0 {
            self.lands_after.set(Some(left - 1));
            return;
        }
        for name in self.late.borrow_mut().drain(..) {
            let target = name.digest().unwrap().clone();
            self.records.borrow_mut().insert(name, target);
        }
    }

    fn called(&self, call: &str) -> Result<(), EngineError> {
        self.calls.borrow_mut().push(call.to_owned());
        let word = call.split(' ').next().unwrap();
        let meanwhile = self
            .meanwhile
            .borrow_mut()
            .take_if(|(when, _)| *when == word);
        if let Some((_, act)) = meanwhile {
            act(self);
        }
        if self.fails.get() == Some(word) {
            return Err(EngineError::Answer {
                socket: "/nowhere".into(),
                request: call.to_owned(),
                problem: "the test asked for a failure".to_owned(),
            });
        }
        Ok(())
    }

    fn listed_as(&self, target: &Digest) -> Listed {
        let mut listed = self.listed_by(target, self.is_new.get());
        if self.is_29.get() {
            let manifests = self.content().manifests(target);
            listed.unavailable = manifests
                .into_keys()
                .filter(|one| !self.has_layers(one))
                .collect();
        } else if self.is_new.get() && !self.has_layers(target) {
            listed.digests = vec![target.to_string()];
        }
        listed
    }

    fn listed_by(&self, target: &Digest, with_digests: bool) -> Listed {
        let mut listed = Listed {
            id: target.to_string(),
            ..Listed::default()
        };
        for (reference, other) in &*self.records.borrow() {
            if other != target {
                continue;
            }
            if reference.tag().is_some() || with_digests {
                listed.tags.push(reference.familiar());
            }
            let digest = reference.repository().clone().with_digest(target.clone());
            listed.digests.push(digest.familiar());
        }
        listed
    }

    /// The digest that a reference points at. A reference by digest is valid if any
    /// record of its repository has that digest.
    fn target(&self, reference: &Reference) -> Option<Digest> {
        let records = self.records.borrow();
        let same = |(other, target): &(&Reference, &Digest)| {
            other.repository() == reference.repository() && reference.digest() == Some(target)
        };
        let derived = || records.iter().find(same).map(|(_, target)| target);
        let target = match reference.digest() {
            None => records.get(reference),
            Some(_) => derived(),
        };
        target.cloned()
    }
}

/// The manifest that a registry serves for an image, with a compressed layer.
pub(crate) fn served(image: &ImageId) -> String {
    let layer = Digest::of(Algorithm::Sha256, image.to_string().as_bytes());
    manifest(image, &layer, "application/vnd.oci.image.layer.v1.tar+gzip")
}

fn manifest(image: &ImageId, layer: &Digest, kind: &str) -> String {
    json!({
        "schemaVersion": 2,
        "config": {"mediaType": OCI_CONFIG, "size": 2, "digest": image.to_string()},
        "layers": [{"mediaType": kind, "size": 2, "digest": layer.to_string()}],
    })
    .to_string()
}

/// An index that contains these manifests, each with its architecture.
pub(crate) fn index(manifests: &[(Digest, &str)]) -> String {
    let manifests: Vec<Value> = manifests
        .iter()
        .map(|(digest, architecture)| {
            let platform = json!({"os": "linux", "architecture": architecture});
            json!({"size": 2, "digest": digest.to_string(), "platform": platform})
        })
        .collect();
    json!({"schemaVersion": 2, "manifests": manifests}).to_string()
}

impl Images for FakeImages {
    async fn listed(&self) -> Result<Listing, EngineError> {
        self.counted();
        let targets: BTreeSet<Digest> = self.records.borrow().values().cloned().collect();
        let is_listed =
            |target: &Digest| self.is_new.get() || self.has(target) && self.has_layers(target);
        let dangling = self.dangling.borrow();
        let all = targets.iter().chain(dangling.iter());
        if self.has_containerd.get() {
            let images = all.map(|target| Listed {
                unavailable: Vec::new(),
                ..self.listed_by(target, true)
            });
            return Ok(Listing::by_containerd(images.collect(), self.blobs()));
        }
        let listed = all.filter(|target| is_listed(target));
        let listed = listed.map(|target| self.listed_as(target)).collect();
        Ok(Listing::new(listed, self.is_new.get()))
    }

    async fn find(&self, reference: &Reference) -> Result<Option<Listed>, EngineError> {
        self.counted();
        self.lands();
        let target = self.target(reference);
        let target = target.filter(|target| self.is_new.get() || self.has(target));
        Ok(target.map(|target| self.listed_as(&target)))
    }

    /// Counts two requests, because a real engine needs two requests to resolve a
    /// reference.
    async fn resolved(&self, reference: &Reference) -> Result<Resolved, EngineError> {
        self.counted();
        self.counted();
        let content = self.content();
        let texts = self
            .target(reference)
            .map(|target| content.manifests(&target));
        let images = texts.into_iter().flatten().filter_map(|(_, text)| {
            match Manifest::parse(text.as_bytes()) {
                Ok(Manifest::Image(manifest)) => Some(manifest.image),
                _ => None,
            }
        });
        let config = match &*self.runs.borrow() {
            Some(image) => content.config(image),
            None => {
                let configs: Vec<String> =
                    images.filter_map(|image| content.config(&image)).collect();
                let own = configs.iter().find(|config| config.contains("amd64"));
                own.or(configs.first()).cloned()
            }
        };
        Ok(config.map_or_else(Resolved::default, |text| Resolved::of_config(&text)))
    }

    async fn load(&self, archive: Vec<u8>) -> Result<(), EngineError> {
        self.counted();
        let mut names = Vec::new();
        let mut members = tar::Archive::new(archive.as_slice());
        for member in members.entries().unwrap() {
            let mut member = member.unwrap();
            let path = member.path().unwrap().display().to_string();
            let mut text = String::new();
            member.read_to_string(&mut text).unwrap();
            if path.starts_with("blobs/") && !self.loses_blobs.get() {
                self.blob(&text);
                let is_config = text.contains("architecture");
                self.sent.set(self.sent.get() + usize::from(is_config));
            } else if path == "index.json" {
                let index: Value = serde_json::from_str(&text).unwrap();
                for entry in index["manifests"].as_array().unwrap() {
                    let name = &entry["annotations"]["io.containerd.image.name"];
                    names.push(reference(name.as_str().unwrap()));
                }
            }
        }
        if self.lands_after.get().is_some() {
            self.late.borrow_mut().extend(names);
            return Err(EngineError::Unanswered {
                socket: "/nowhere".into(),
                request: "load".to_owned(),
                problem: "it was cut off".to_owned(),
            });
        }
        for name in &names {
            let target = name.digest().unwrap().clone();
            if let Some(tag) = self.tagged.borrow_mut().take() {
                self.records.borrow_mut().insert(tag, target.clone());
            }
            self.records.borrow_mut().insert(name.clone(), target);
        }
        let is_here = |name: &Reference| self.is_unpacked(name.digest().unwrap(), &names);
        let all_are_here = names.iter().all(is_here);
        let names: Vec<String> = names.iter().map(Reference::familiar).collect();
        self.called(&format!("load {}", names.join(" ")))?;
        if all_are_here {
            Ok(())
        } else {
            Err(EngineError::Answer {
                socket: "/nowhere".into(),
                request: "load".to_owned(),
                problem: "Error unpacking image".to_owned(),
            })
        }
    }

    async fn untag(&self, reference: &Reference) -> Result<Dropped, EngineError> {
        self.counted();
        self.called(&format!("untag {reference}"))?;
        if self.in_use.borrow().contains(reference) {
            return Ok(Dropped::InUse("a container uses it".to_owned()));
        }
        let Some(target) = self.target(reference) else {
            return Ok(Dropped::Alone);
        };
        let goes = |other: &Reference, other_target: &Digest| {
            *other_target == target && other.repository() == reference.repository()
        };
        let mut others = Vec::new();
        self.records.borrow_mut().retain(|other, other_target| {
            let goes = goes(other, other_target);
            if goes && other != reference {
                others.push(other.familiar());
            }
            !goes
        });
        match others.is_empty() {
            true => Ok(Dropped::Alone),
            false => Ok(Dropped::Along(others)),
        }
    }

    async fn platform(&self) -> Result<Platform, EngineError> {
        self.counted();
        Ok(Platform::new("linux", "amd64", ""))
    }
}
