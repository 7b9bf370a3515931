//! Evidence: what was brought along that tells which image a digest belongs to.
//!
//! A manifest proves: its bytes hash to the digest, and it names its image's
//! ID. Another host's record matches: that host's Docker knew the digest as
//! that of the same image ID.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::claims::trust::Trust;
use crate::image::digest::{Digest, ImageId};
use crate::image::manifest::{Descriptor, Format, MAX_INDEX_DEPTH, MAX_INDEX_ENTRIES, Manifest};
use crate::image::platform::Platform;

/// The most images that one digest may be recorded for: the platforms of an
/// index, each on hosts of its own.
pub const MAX_RECORDS_OF_A_DIGEST: usize = 1_000;

/// The most bytes of manifests that are kept as they came, to be given to an
/// engine.
pub const MAX_KEPT_BYTES: usize = 256 * 1024 * 1024;

/// Manifests and records.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    manifests: BTreeMap<Digest, Brought>,
    texts: BTreeMap<Digest, Arc<str>>,
    kept_bytes: usize,
    records: BTreeMap<Digest, BTreeMap<ImageId, String>>,
    /// Records that have only the first digits of an ID.
    beginnings: BTreeMap<Digest, BTreeMap<String, String>>,
    parts_here: BTreeMap<Digest, BTreeMap<ImageId, String>>,
    /// What indexes say of the manifests that they list.
    listed: BTreeMap<Digest, Listed>,
}

/// What an index says of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub platform: Platform,
    pub index: Digest,
    pub origin: String,
}

#[derive(Debug, Clone)]
struct Brought {
    manifest: Manifest,
    origin: String,
}

/// The images that a digest is proven to be of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof<'a> {
    /// Each with where its manifest is from.
    pub images: BTreeMap<&'a ImageId, &'a str>,
    /// No part of an index is missing: the digest is of no other image.
    pub complete: bool,
    /// Where the manifest or index of the digest itself is from.
    pub origin: &'a str,
}

/// A way through the indexes below a digest.
struct Walk<'a> {
    seen: BTreeSet<&'a Digest>,
    entries_left: usize,
}

/// What the evidence says of a digest and an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They belong together, as far as this.
    Supports(Trust, String),
    /// They do not: the digest is of these images instead.
    Denies(Trust, Vec<String>, String),
    Silent,
}

impl Evidence {
    /// Takes a manifest in. `digest` must be that of its bytes.
    pub fn add_manifest(&mut self, digest: Digest, manifest: Manifest, origin: &str) {
        if let Manifest::Index(children) = &manifest
            && !self.manifests.contains_key(&digest)
        {
            for child in children {
                let known = child.platform.as_ref().filter(|one| !one.is_unknown());
                if let Some(platform) = known {
                    self.listed
                        .entry(child.digest.clone())
                        .or_insert_with(|| Listed {
                            platform: platform.clone(),
                            index: digest.clone(),
                            origin: origin.to_owned(),
                        });
                }
            }
        }
        self.manifests.entry(digest).or_insert_with(|| Brought {
            manifest,
            origin: origin.to_owned(),
        });
    }

    /// Takes manifests in, and keeps their bytes. Each digest must be that of its text.
    pub fn add_texts(&mut self, texts: impl IntoIterator<Item = (Digest, String)>, origin: &str) {
        for (digest, text) in texts {
            if let Ok(manifest) = Manifest::parse(text.as_bytes()) {
                self.keep(&digest, text.as_bytes());
                self.add_manifest(digest, manifest, origin);
            }
        }
    }

    /// Keeps the bytes of a manifest that was taken in, until there are
    /// [`MAX_KEPT_BYTES`] of them.
    pub fn keep(&mut self, digest: &Digest, bytes: &[u8]) {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        let kept = self.kept_bytes.saturating_add(text.len());
        if kept <= MAX_KEPT_BYTES && !self.texts.contains_key(digest) {
            self.texts.insert(digest.clone(), text.into());
            self.kept_bytes = kept;
        }
    }

    /// The manifests that prove a digest to be of an image, as they came: its
    /// own, or an index and the way through it. None when one of them is missing.
    pub fn way(&self, digest: &Digest, image: &ImageId) -> Option<BTreeMap<Digest, Arc<str>>> {
        self.way_below(digest, image, 0, &mut BTreeSet::new())
    }

    fn way_below<'a>(
        &'a self,
        digest: &'a Digest,
        image: &ImageId,
        depth: usize,
        seen: &mut BTreeSet<&'a Digest>,
    ) -> Option<BTreeMap<Digest, Arc<str>>> {
        if !seen.insert(digest) {
            return None;
        }
        let text = self.texts.get(digest)?;
        let mut way = match &self.manifests.get(digest)?.manifest {
            Manifest::Image(manifest) if manifest.image == *image => BTreeMap::new(),
            Manifest::Index(children) if depth < MAX_INDEX_DEPTH => children
                .iter()
                .find_map(|child| self.way_below(&child.digest, image, depth + 1, seen))?,
            _ => return None,
        };
        way.insert(digest.clone(), Arc::clone(text));
        Some(way)
    }

    /// What an index that was brought says of a manifest.
    pub fn listed(&self, digest: &Digest) -> Option<&Listed> {
        self.listed.get(digest)
    }

    /// What an index lists; nothing for anything else.
    pub fn children(&self, digest: &Digest) -> &[Descriptor] {
        match self.manifests.get(digest) {
            Some(Brought {
                manifest: Manifest::Index(children),
                ..
            }) => children,
            _ => &[],
        }
    }

    /// Takes in what another host's Docker recorded; false when there is too
    /// much of it for one digest.
    #[must_use]
    pub fn add_record(&mut self, digest: Digest, image: ImageId, origin: &str) -> bool {
        let images = self.records.entry(digest).or_default();
        images.entry(image).or_insert_with(|| origin.to_owned());
        images.len() <= MAX_RECORDS_OF_A_DIGEST
    }

    /// Takes in a record that has the first digits of the ID only. False when there is too
    /// much of it for one digest.
    #[must_use]
    pub fn add_beginning(&mut self, digest: Digest, id: &str, origin: &str) -> bool {
        let images = self.beginnings.entry(digest).or_default();
        images
            .entry(id.to_owned())
            .or_insert_with(|| origin.to_owned());
        images.len() <= MAX_RECORDS_OF_A_DIGEST
    }

    /// The first digits of the images that another host recorded for the digest.
    pub fn recorded_beginnings(&self, digest: &Digest) -> impl Iterator<Item = &str> {
        let images = self.beginnings.get(digest).into_iter();
        images.flat_map(BTreeMap::keys).map(String::as_str)
    }

    /// Takes in that this host has a digest of an image, and that an index that
    /// was brought lists it.
    pub fn add_part_here(&mut self, index: Digest, image: ImageId, origin: String) {
        let images = self.parts_here.entry(index).or_default();
        images.entry(image).or_insert(origin);
    }

    /// The images here that an index leads to by digests that this host has.
    pub fn parts_here(&self, index: &Digest) -> impl Iterator<Item = &ImageId> {
        let images = self.parts_here.get(index).into_iter();
        images.flat_map(BTreeMap::keys)
    }

    /// The manifests that an index lists, in its order, and that were not brought.
    /// An attestation is no image's.
    pub fn missing_parts(&self, index: &Digest) -> impl Iterator<Item = &Descriptor> {
        let of_no_platform = |child: &Descriptor| {
            let platform = child.platform.as_ref();
            platform.is_some_and(Platform::is_unknown)
        };
        self.children(index)
            .iter()
            .filter(move |child| !self.manifests.contains_key(&child.digest))
            .filter(move |child| !of_no_platform(child))
    }

    pub fn indexes(&self) -> impl Iterator<Item = &Digest> {
        let is_index = |brought: &Brought| matches!(brought.manifest, Manifest::Index(_));
        let brought = self.manifests.iter();
        brought
            .filter(move |(_, brought)| is_index(brought))
            .map(|(digest, _)| digest)
    }

    /// Whose the digest is proven to be; none without its manifest.
    pub fn proof(&self, digest: &Digest) -> Option<Proof<'_>> {
        let (digest, brought) = self.manifests.get_key_value(digest)?;
        let mut proof = Proof {
            images: BTreeMap::new(),
            complete: true,
            origin: &brought.origin,
        };
        let mut walk = Walk {
            seen: BTreeSet::new(),
            entries_left: MAX_INDEX_ENTRIES,
        };
        self.collect(digest, 0, &mut walk, &mut proof);
        Some(proof)
    }

    fn collect<'a>(
        &'a self,
        digest: &'a Digest,
        depth: usize,
        walk: &mut Walk<'a>,
        proof: &mut Proof<'a>,
    ) {
        if !walk.seen.insert(digest) {
            return;
        }
        match self.manifests.get(digest) {
            Some(Brought { manifest, origin }) => match manifest {
                Manifest::Image(image) => {
                    proof.images.insert(&image.image, origin);
                }
                Manifest::Index(children) if depth < MAX_INDEX_DEPTH => {
                    for child in children {
                        let Some(left) = walk.entries_left.checked_sub(1) else {
                            proof.complete = false;
                            return;
                        };
                        walk.entries_left = left;
                        self.collect(&child.digest, depth + 1, walk, proof);
                    }
                }
                Manifest::Index(_) => proof.complete = false,
                Manifest::Artifact => {}
            },
            None => proof.complete = false,
        }
    }

    /// The images that another host recorded for the digest.
    pub fn recorded(&self, digest: &Digest) -> impl Iterator<Item = &ImageId> {
        self.records
            .get(digest)
            .into_iter()
            .flat_map(BTreeMap::keys)
    }

    pub fn verdict(&self, digest: &Digest, image: &ImageId) -> Verdict {
        let proof = self.proof(digest);
        if let Some(origin) = proof.as_ref().and_then(|proof| proof.images.get(image)) {
            return Verdict::Supports(Trust::Proven, (*origin).to_owned());
        }
        if let Some(proof) = proof
            && proof.complete
            && !proof.images.is_empty()
        {
            let images = proof.images.into_keys().map(ToString::to_string).collect();
            return Verdict::Denies(Trust::Proven, images, proof.origin.to_owned());
        }
        let part = self.parts_here.get(digest);
        if let Some(origin) = part.and_then(|images| images.get(image)) {
            return Verdict::Supports(Trust::Matched, origin.clone());
        }
        self.recorded_verdict(digest, image)
    }

    /// What the records of other hosts say alone.
    fn recorded_verdict(&self, digest: &Digest, image: &ImageId) -> Verdict {
        let whole = self.records.get(digest);
        let beginnings = self.beginnings.get(digest);
        let origin = whole.and_then(|images| images.get(image)).or_else(|| {
            let mut fitting = beginnings.into_iter().flatten();
            let fits = |(id, _): &(&String, &String)| image.hex().starts_with(id.as_str());
            fitting.find(fits).map(|(_, origin)| origin)
        });
        if let Some(origin) = origin {
            return Verdict::Supports(Trust::Matched, origin.clone());
        }
        let whole = whole.into_iter().flatten();
        let whole = whole.map(|(image, origin)| (image.to_string(), origin));
        let beginnings = beginnings.into_iter().flatten();
        let beginnings = beginnings.map(|(id, origin)| (format!("sha256:{id}"), origin));
        let (others, origins): (Vec<String>, Vec<&String>) = whole.chain(beginnings).unzip();
        match origins.first() {
            Some(origin) => Verdict::Denies(Trust::Matched, others, (*origin).clone()),
            None => Verdict::Silent,
        }
    }

    /// The manifest of the digest is in OCI's format; so is what a conversion
    /// from Docker's leaves behind, under another digest.
    pub fn is_oci(&self, digest: &Digest) -> bool {
        matches!(
            self.manifests.get(digest),
            Some(Brought { manifest: Manifest::Image(image), .. }) if image.format == Format::Oci
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use super::*;
    use crate::image::digest::Algorithm;

    fn taken(evidence: &mut Evidence, text: &str) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        evidence.add_manifest(digest.clone(), manifest, "F");
        evidence.keep(&digest, text.as_bytes());
        digest
    }

    fn manifest(image: &ImageId) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","size":1,"digest":"{image}"}},"layers":[]}}"#
        )
    }

    fn index(children: &[&Digest]) -> String {
        let children = children
            .iter()
            .map(|child| format!(r#"{{"size":1,"digest":"{child}"}}"#));
        let children: Vec<String> = children.collect();
        format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            children.join(",")
        )
    }

    fn image(digit: char) -> ImageId {
        format!("sha256:{}", digit.to_string().repeat(64))
            .parse()
            .unwrap()
    }

    #[test]
    fn the_way_to_an_image_leads_through_indexes() {
        let mut evidence = Evidence::default();
        let one = taken(&mut evidence, &manifest(&image('a')));
        let two = taken(&mut evidence, &manifest(&image('b')));
        let strange = Digest::of(Algorithm::Sha256, b"elsewhere");
        let inner = taken(&mut evidence, &index(&[&strange, &two]));
        let outer = taken(&mut evidence, &index(&[&one, &inner]));
        let way = |digest: &Digest, wanted| {
            let way = evidence.way(digest, &image(wanted))?;
            Some(way.into_keys().collect::<BTreeSet<_>>())
        };
        assert_eq!(way(&one, 'a'), Some([one.clone()].into()));
        assert_eq!(way(&one, 'b'), None);
        assert_eq!(way(&outer, 'a'), Some([outer.clone(), one.clone()].into()));
        let all = [outer.clone(), inner.clone(), two.clone()].into();
        assert_eq!(way(&outer, 'b'), Some(all));
        assert_eq!(way(&outer, 'c'), None);
        assert_eq!(way(&strange, 'a'), None);
    }

    #[test]
    fn bytes_are_kept_up_to_a_bound() {
        let mut evidence = Evidence::default();
        let text = manifest(&image('a'));
        let digest = taken(&mut evidence, &text);
        let way = evidence.way(&digest, &image('a')).unwrap();
        assert_eq!(*way[&digest], *text);
        let mut full = Evidence::default();
        let other = Digest::of(Algorithm::Sha256, b"other");
        full.keep(&other, &vec![b'x'; MAX_KEPT_BYTES]);
        let digest = taken(&mut full, &text);
        assert!(full.proof(&digest).is_some());
        assert!(full.way(&digest, &image('a')).is_none());
    }
}
