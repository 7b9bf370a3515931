//! OCI layouts and directories of skopeo's `dir:`. Reads each manifest that `index.json`
//! or `manifest.json` names, directly or through indexes, and checks the manifest's
//! digest.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::claims::source::blobs::Blobs;
use crate::claims::source::claims_file::{self, MEMBER};
use crate::claims::source::collected::{Came, Collected, Whole};
use crate::claims::source::{Problem, text_of};
use crate::image::digest::{Algorithm, Digest, ImageId};
use crate::image::manifest::MAX_INDEX_DEPTH;
use crate::image::manifest::{self, Descriptor, Manifest};
use crate::image::reference::{Reference, Repository};
use crate::sys::strict_json;

/// The most manifests to read in one layout.
pub const MAX_MANIFESTS: usize = 100_000;

/// The annotation in which containerd and BuildKit write the full name of an image.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The annotation in which some tools write a tag, and other tools write a name with a
/// tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The advice that digestfix prints if an archive proves no digest.
const BRING: &str = "docker save on the classic image store does not keep the registry's manifest, so its \
                     archive proves no digest. Use instead: digestfix save or export, docker image inspect, \
                     or skopeo copy to dir:DIR";

fn images_in_words(count: usize) -> String {
    match count {
        1 => "1 image".to_owned(),
        many => format!("{many} images"),
    }
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// One image in `manifest.json`, which `docker save` adds to the OCI layout.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The part of an image's config that lists the layers (image-spec 1.1, `config.md`).
#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

impl SavedImage {
    /// The image's ID, from the file name of the config.
    fn image(&self) -> Option<ImageId> {
        let hex = self.config.rsplit('/').next().unwrap_or_default();
        let hex = hex.strip_suffix(".json").unwrap_or(hex);
        format!("sha256:{hex}").parse().ok()
    }
}

/// Reads an OCI layout from a directory or an archive.
pub(super) fn read_layout(
    blobs: &mut impl Blobs,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    let saved = match blobs.file("manifest.json")? {
        Some(bytes) => strict_json::read(&bytes).map_err(Problem::in_file("manifest.json"))?,
        None => Vec::<SavedImage>::new(),
    };
    for image in &saved {
        take_whole(image, blobs, collected)?;
    }
    let carried = read_carried(blobs, place, collected)?;
    let Some(index) = blobs.file("index.json")? else {
        if carried {
            return Ok(());
        }
        if saved.is_empty() {
            return Err(Problem::Unknown);
        }
        let images = images_in_words(saved.len());
        collected.remark(format!(
            "{place}: {images} from docker save, without the registry's manifest"
        ));
        collected.remark(BRING.to_owned());
        return Ok(());
    };
    let index: Index = strict_json::read(&index).map_err(Problem::in_file("index.json"))?;
    let mut walk = Walk {
        blobs,
        place,
        collected,
        seen: BTreeMap::new(),
        named: BTreeSet::new(),
        from_an_engine: !saved.is_empty(),
        made_up: 0,
    };
    let mut named: BTreeMap<String, BTreeSet<Digest>> = BTreeMap::new();
    for descriptor in &index.manifests {
        let name = name_of(descriptor);
        if let Some(name) = &name {
            named
                .entry(name.familiar())
                .or_default()
                .insert(descriptor.digest.clone());
        }
        walk.visit(descriptor, name.as_ref().map(Reference::repository), 0)?;
    }
    if !carried {
        walk.tell_of_made_up();
    }
    agree(&saved, &named, collected)
}

/// Adds an image that `docker save` lists in `manifest.json`. Checks that the image's
/// config has the digest in the config's file name.
fn take_whole(
    saved: &SavedImage,
    blobs: &mut impl Blobs,
    collected: &mut Collected,
) -> Result<(), Problem> {
    let Some(image) = saved.image() else {
        return Ok(());
    };
    if let Some(bytes) = blobs.file(&saved.config)? {
        let found = Digest::of(Algorithm::Sha256, &bytes);
        if found.to_string() != image.to_string() {
            return Err(Problem::Tampered {
                named: saved.config.clone(),
                found: found.to_string(),
            });
        }
        check_layers(saved, &bytes, blobs)?;
    }
    let tags = saved.repo_tags.iter().flatten();
    let tags = tags.filter_map(|tag| Reference::parse(tag).ok()).collect();
    collected.whole.push(Whole { image, tags });
    Ok(())
}

/// Checks the layers of an archive from Docker before 25 against the digests in the
/// image's config.
fn check_layers(saved: &SavedImage, config: &[u8], blobs: &impl Blobs) -> Result<(), Problem> {
    let Ok(Config { rootfs }) = serde_json::from_slice(config) else {
        return Ok(());
    };
    for (name, expected) in saved.layers.iter().flatten().zip(&rootfs.diff_ids) {
        match blobs.layer(name).map(Digest::to_string) {
            Some(found) if found != *expected => {
                return Err(Problem::Tampered {
                    named: format!("{expected} ({name})"),
                    found,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads the claims file that `digestfix save` adds to the archive. Returns false if the
/// archive has no such file.
fn read_carried(
    blobs: &mut impl Blobs,
    place: &str,
    collected: &mut Collected,
) -> Result<bool, Problem> {
    let Some(bytes) = blobs.file(MEMBER)? else {
        return Ok(false);
    };
    let place = format!("{place}:{MEMBER}");
    claims_file::read(text_of(&bytes)?, &place, collected)?;
    Ok(true)
}

pub(super) fn read_skopeo_dir(
    blobs: &mut impl Blobs,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    let bytes = blobs.file("manifest.json")?.ok_or(Problem::Unknown)?;
    let mut walk = Walk {
        blobs,
        place,
        collected,
        seen: BTreeMap::new(),
        named: BTreeSet::new(),
        from_an_engine: true,
        made_up: 0,
    };
    let digest = Digest::of(Algorithm::Sha256, &bytes);
    let repository = scoped(place, &digest);
    walk.take(&digest, &bytes, repository.as_ref(), 0)?;
    walk.tell_of_made_up();
    Ok(())
}

/// The repository in a path that `skopeo sync --scoped` wrote, such as
/// `REGISTRY/PATH@DIGEST`. `digest` is the digest of the manifest in the directory. `None`
/// if the path does not contain this digest.
fn scoped(place: &str, digest: &Digest) -> Option<Repository> {
    let is_registry = |name: &str| name == "localhost" || name.contains(['.', ':']);
    let starts = place.rmatch_indices('/').map(|(at, _)| at + 1).chain([0]);
    let mut names = starts.map(|start| &place[start..]);
    let name = names.find(|name| {
        let mut parts = name.split('/');
        parts.next().is_some_and(is_registry) && parts.next().is_some()
    })?;
    let reference = Reference::parse(name).ok()?;
    (reference.digest() == Some(digest)).then(|| reference.repository().clone())
}

/// Checks that `manifest.json` and `index.json` agree. For each tag, `docker save` writes
/// a config in `manifest.json`, and a manifest in `index.json`. If the config and the
/// manifest belong to different images, someone changed the archive.
fn agree(
    saved: &[SavedImage],
    named: &BTreeMap<String, BTreeSet<Digest>>,
    collected: &Collected,
) -> Result<(), Problem> {
    let mut proofs = BTreeMap::new();
    let mut agreed = BTreeSet::new();
    for image in saved {
        let Some(config) = image.image() else {
            continue;
        };
        for tag in image.repo_tags.iter().flatten() {
            let name = Reference::parse(tag).map_or_else(|_| tag.clone(), |tag| tag.familiar());
            if !agreed.insert((name.clone(), config.clone())) {
                continue;
            }
            for digest in named.get(&name).into_iter().flatten() {
                let proof = proofs
                    .entry(digest)
                    .or_insert_with(|| collected.evidence.proof(digest));
                let Some(proof) = proof else {
                    continue;
                };
                if proof.complete && !proof.images.contains_key(&config) {
                    let images: Vec<String> =
                        proof.images.keys().map(ToString::to_string).collect();
                    return Err(Problem::Exchanged {
                        name,
                        config: config.to_string(),
                        digest: digest.to_string(),
                        images: images.join(", "),
                    });
                }
            }
        }
    }
    Ok(())
}

fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let annotations = descriptor.annotations.as_ref()?;
    let name = annotations.get(CONTAINERD_NAME).or_else(|| {
        annotations
            .get(REF_NAME)
            .filter(|name| name.contains(['/', ':']))
    })?;
    Reference::parse(name).ok()
}

struct Walk<'a, B> {
    blobs: &'a mut B,
    place: &'a str,
    collected: &'a mut Collected,
    seen: BTreeMap<Digest, Seen>,
    /// The manifests visited so far, each with the repository that the index names for
    /// it.
    named: BTreeSet<(Digest, Option<Repository>)>,
    /// Whether a local engine may have written the layout. A classic Docker engine does
    /// not keep the registry's manifest, and creates a new manifest.
    from_an_engine: bool,
    /// The number of manifests that a local engine created.
    made_up: usize,
}

/// A manifest that digestfix has read and checked. Several index entries may name the
/// same manifest.
#[derive(Clone, Copy)]
struct Seen {
    size: u64,
    claimed: bool,
}

impl<B: Blobs> Walk<'_, B> {
    fn tell_of_made_up(&mut self) {
        if self.made_up == 0 {
            return;
        }
        let images = images_in_words(self.made_up);
        self.collected.remark(format!(
            "{}: docker save made up the manifest of {images}: the layers in the archive are not compressed, unlike \
             those in a registry. No registry serves such a manifest, so digestfix does not use its digest",
            self.place
        ));
        self.collected.remark(BRING.to_owned());
    }

    fn visit(
        &mut self,
        descriptor: &Descriptor,
        repository: Option<&Repository>,
        depth: usize,
    ) -> Result<(), Problem> {
        let digest = &descriptor.digest;
        if !descriptor.is_of_a_manifest() || descriptor.size > manifest::MAX_BYTES {
            return Ok(());
        }
        if let Some(seen) = self.seen.get(digest).copied() {
            has_size(digest, seen.size, descriptor.size)?;
            // Another entry gives a second name to this manifest. If the manifest is an
            // index, the second name also applies to the manifests that it lists.
            if !seen.claimed || !self.named.insert((digest.clone(), repository.cloned())) {
                return Ok(());
            }
            for child in self.collected.evidence.children(digest).to_vec() {
                self.visit(&child, repository, depth + 1)?;
            }
            return self.claim(digest, true, repository, depth);
        }
        let Some(bytes) = self.blobs.blob(digest)? else {
            // A manifest below an index may be missing, because some tools save only one
            // platform.
            if depth == 0 {
                self.collected.remark(format!(
                    "{}: the index names {digest}, but that manifest is missing",
                    self.place
                ));
            }
            return Ok(());
        };
        let found = Digest::of(digest.algorithm(), &bytes);
        if found != *digest {
            return Err(Problem::Tampered {
                named: digest.to_string(),
                found: found.to_string(),
            });
        }
        has_size(digest, bytes.len() as u64, descriptor.size)?;
        self.take(digest, &bytes, repository, depth)
    }

    /// Adds a new manifest. The caller must check that the bytes hash to `digest`.
    fn take(
        &mut self,
        digest: &Digest,
        bytes: &[u8],
        repository: Option<&Repository>,
        depth: usize,
    ) -> Result<(), Problem> {
        if self.seen.len() >= MAX_MANIFESTS {
            return Err(Problem::TooMany {
                what: "manifests",
                limit: MAX_MANIFESTS,
            });
        }
        let manifest = Manifest::parse(bytes)?;
        let evidence = &mut self.collected.evidence;
        evidence.keep(digest, bytes);
        evidence.add_manifest(digest.clone(), manifest.clone(), self.place);
        let claimed = match &manifest {
            Manifest::Image(image) => {
                self.check_config(digest, &image.image, image.config_size)?;
                let made_up = self.from_an_engine && image.is_made_up();
                self.made_up += usize::from(made_up);
                !made_up
            }
            Manifest::Index(_) => true,
            Manifest::Artifact => false,
        };
        let size = bytes.len() as u64;
        self.seen.insert(digest.clone(), Seen { size, claimed });
        self.named.insert((digest.clone(), repository.cloned()));
        if let Manifest::Index(children) = &manifest {
            if depth >= MAX_INDEX_DEPTH {
                return Err(Problem::TooDeep {
                    what: "indexes",
                    limit: MAX_INDEX_DEPTH,
                });
            }
            for child in children {
                self.visit(child, repository, depth + 1)?;
            }
        }
        self.claim(digest, claimed, repository, depth)
    }

    fn claim(
        &mut self,
        digest: &Digest,
        claimed: bool,
        repository: Option<&Repository>,
        depth: usize,
    ) -> Result<(), Problem> {
        if !claimed {
            return Ok(());
        }
        let came = Came {
            repository,
            in_index: depth > 0,
            place: self.place,
        };
        self.collected.manifest(digest, came)
    }

    /// Checks that the config hashes to the digest that the manifest names, if the layout
    /// contains the config.
    fn check_config(
        &mut self,
        manifest: &Digest,
        image: &ImageId,
        size: u64,
    ) -> Result<(), Problem> {
        // An image's ID is the digest of its config.
        let Ok(digest) = image.to_string().parse::<Digest>() else {
            return Ok(());
        };
        if size > manifest::MAX_BYTES {
            return Ok(());
        }
        let Some(bytes) = self.blobs.blob(&digest)? else {
            return Ok(());
        };
        let found = Digest::of(digest.algorithm(), &bytes);
        if found == digest {
            return Ok(());
        }
        Err(Problem::ConfigSwapped {
            manifest: manifest.to_string(),
            image: image.to_string(),
            found: found.to_string(),
        })
    }
}

fn has_size(digest: &Digest, found: u64, said: u64) -> Result<(), Problem> {
    if found == said {
        return Ok(());
    }
    Err(Problem::WrongSize {
        digest: digest.to_string(),
        said,
        found,
    })
}
