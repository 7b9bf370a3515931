//! Evidence: facts from files that show which image a digest belongs to.
//!
//! A manifest is proof, because its bytes hash to the digest, and it contains the image's
//! ID (the digest of the image's config). A record from another host is a match, because
//! Docker on that host recorded the digest for the same image ID.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::claims::trust::Trust;
use crate::image::digest::{Digest, ImageId};
use crate::image::manifest::{Descriptor, Format, MAX_INDEX_DEPTH, MAX_INDEX_ENTRIES, Manifest};
use crate::image::platform::Platform;

/// The most images that the records of other hosts may give for one digest. Several images
/// can share the digest of an index, because an index has one image for each platform.
pub const MAX_RECORDS_OF_A_DIGEST: usize = 1_000;

/// The most bytes of manifests to keep in memory. digestfix keeps the exact bytes,
/// because an engine may have to load them.
pub const MAX_KEPT_BYTES: usize = 256 * 1024 * 1024;

/// All evidence: manifests, and the digests that other hosts recorded.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    manifests: BTreeMap<Digest, Brought>,
    texts: BTreeMap<Digest, Arc<str>>,
    kept_bytes: usize,
    records: BTreeMap<Digest, BTreeMap<ImageId, String>>,
    /// Digests that other hosts recorded, with only the first digits of the image ID.
    beginnings: BTreeMap<Digest, BTreeMap<String, String>>,
    parts_here: BTreeMap<Digest, BTreeMap<ImageId, String>>,
    /// For each manifest that an index lists: the entry in the index.
    listed: BTreeMap<Digest, Listed>,
}

/// An index's entry for one manifest.
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

/// The images to which a digest belongs, as proven by manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof<'a> {
    /// The images, each with the file that contains its manifest.
    pub images: BTreeMap<&'a ImageId, &'a str>,
    /// Whether digestfix has every manifest below an index. If so, no other image can
    /// have the digest.
    pub complete: bool,
    /// The file that contains the manifest or index with this digest.
    pub origin: &'a str,
}

/// The state while digestfix visits an index and the indexes that it lists.
struct Walk<'a> {
    seen: BTreeSet<&'a Digest>,
    entries_left: usize,
}

/// What the evidence says about one digest and one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// This file shows that the image has the digest.
    Supports(Trust, String),
    /// This file shows that the digest belongs to the listed images, and not to this image.
    Denies(Trust, Vec<String>, String),
    Silent,
}

impl Evidence {
    /// Adds a manifest. The caller must compute `digest` from the manifest's bytes.
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

    /// Adds manifests and keeps their bytes. The caller must compute each digest from the
    /// manifest's text.
    pub fn add_texts(&mut self, texts: impl IntoIterator<Item = (Digest, String)>, origin: &str) {
        for (digest, text) in texts {
            if let Ok(manifest) = Manifest::parse(text.as_bytes()) {
                self.keep(&digest, text.as_bytes());
                self.add_manifest(digest, manifest, origin);
            }
        }
    }

    /// Keeps the bytes of a manifest, unless the kept manifests would exceed
    /// [`MAX_KEPT_BYTES`].
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

    /// The manifests that prove that a digest belongs to an image. These are the image's
    /// own manifest, or the manifests on a path from an index to the image. Both ends of
    /// the path are included. `None` if one of these manifests is missing.
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

    /// The entry for this manifest in an index. `None` if no known index lists the
    /// manifest.
    pub fn listed(&self, digest: &Digest) -> Option<&Listed> {
        self.listed.get(digest)
    }

    /// The entries of an index. Empty if the digest does not belong to an index.
    pub fn children(&self, digest: &Digest) -> &[Descriptor] {
        match self.manifests.get(digest) {
            Some(Brought {
                manifest: Manifest::Index(children),
                ..
            }) => children,
            _ => &[],
        }
    }

    /// Adds a record: Docker on another host recorded the digest for this image ID.
    /// Returns false if the digest has too many records.
    #[must_use]
    pub fn add_record(&mut self, digest: Digest, image: ImageId, origin: &str) -> bool {
        let images = self.records.entry(digest).or_default();
        images.entry(image).or_insert_with(|| origin.to_owned());
        images.len() <= MAX_RECORDS_OF_A_DIGEST
    }

    /// Adds a record of another host that contains only the first digits of the image ID.
    /// Returns false if the digest has too many such records.
    #[must_use]
    pub fn add_beginning(&mut self, digest: Digest, id: &str, origin: &str) -> bool {
        let images = self.beginnings.entry(digest).or_default();
        images
            .entry(id.to_owned())
            .or_insert_with(|| origin.to_owned());
        images.len() <= MAX_RECORDS_OF_A_DIGEST
    }

    /// The first digits of the image IDs that other hosts recorded for the digest.
    pub fn recorded_beginnings(&self, digest: &Digest) -> impl Iterator<Item = &str> {
        let images = self.beginnings.get(digest).into_iter();
        images.flat_map(BTreeMap::keys).map(String::as_str)
    }

    /// Adds the fact that the index lists a digest of this image, and that the image is
    /// on this host.
    pub fn add_part_here(&mut self, index: Digest, image: ImageId, origin: String) {
        let images = self.parts_here.entry(index).or_default();
        images.entry(image).or_insert(origin);
    }

    /// The images on this host whose digest the index lists.
    pub fn parts_here(&self, index: &Digest) -> impl Iterator<Item = &ImageId> {
        let images = self.parts_here.get(index).into_iter();
        images.flat_map(BTreeMap::keys)
    }

    /// The manifests that an index lists but no file contains, in the index's order.
    /// Omits attestations, because an attestation is not an image.
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

    /// The images to which the digest provably belongs. `None` if no file contains the
    /// digest's manifest.
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

    /// The image IDs that other hosts recorded for the digest.
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

    /// Compares the digest and the image only with the records of other hosts.
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

    /// Whether the digest's manifest is in OCI's format. If a tool converted the image
    /// from Docker's format, the digest of the OCI manifest differs from the digest in
    /// the registry.
    pub fn is_oci(&self, digest: &Digest) -> bool {
        matches!(
            self.manifests.get(digest),
            Some(Brought { manifest: Manifest::Image(image), .. }) if image.format == Format::Oci
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
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
