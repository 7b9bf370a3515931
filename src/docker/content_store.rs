//! containerd's content store, where Docker keeps the manifests of images that it pulls
//! (namespace `moby`; moby 20.10, `distribution/manifest.go`).
//!
//! digestfix reads the files below `io.containerd.content.v1.content/blobs/` directly,
//! and hashes each of them. A blob whose bytes do not match the digest in its name counts
//! as missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::image::digest::{Digest, ImageId};
use crate::image::manifest::MAX_INDEX_DEPTH;
use crate::image::manifest::{self, Manifest};
use crate::sys::plain_file::{self, Links};

/// The root directory of a containerd that runs as its own service (`containerd config
/// default`).
const CONTAINERD_ROOT: &str = "/var/lib/containerd";
/// The root directory of a containerd that dockerd starts, relative to Docker's data
/// root.
const DOCKERS_CONTAINERD_ROOT: &str = "containerd/daemon";

#[derive(Debug, Clone)]
pub struct ContentStore {
    directories: Vec<PathBuf>,
}

impl ContentStore {
    /// The existing content stores that a Docker with this data root may use.
    pub fn of(data_root: &Path, containerd_root: Option<&Path>) -> Self {
        let roots = match containerd_root {
            Some(root) => vec![root.to_owned()],
            None => vec![
                PathBuf::from(CONTAINERD_ROOT),
                data_root.join(DOCKERS_CONTAINERD_ROOT),
            ],
        };
        Self {
            directories: roots
                .into_iter()
                .map(|root| root.join("io.containerd.content.v1.content/blobs"))
                .filter(|directory| directory.is_dir())
                .collect(),
        }
    }

    /// The text of a manifest or a config. `None` if the store does not contain this
    /// blob, or if the bytes of the blob do not match the digest.
    pub fn text(&self, digest: &Digest) -> Option<String> {
        self.directories.iter().find_map(|directory| {
            let path = directory.join(digest.algorithm().name()).join(digest.hex());
            let bytes = plain_file::read(&path, Links::Refused, manifest::MAX_BYTES + 1).ok()?;
            let text = String::from_utf8(bytes).ok()?;
            (Digest::of(digest.algorithm(), text.as_bytes()) == *digest).then_some(text)
        })
    }

    pub fn config(&self, image: &ImageId) -> Option<String> {
        self.text(&image.to_string().parse().ok()?)
    }

    /// Whether the store has a file for this digest. Does not read the file, because the
    /// file may be large.
    pub fn has(&self, digest: &Digest) -> bool {
        self.directories.iter().any(|directory| {
            let path = directory.join(digest.algorithm().name()).join(digest.hex());
            path.is_file()
        })
    }

    /// Whether the store has an image for this digest: a manifest with its config. For an
    /// index, one of the manifests below the index is enough. `counts` must accept both
    /// the manifest and the config.
    pub fn has_image(&self, target: &Digest, counts: impl Fn(&Digest) -> bool) -> bool {
        let manifests = self.manifests(target);
        manifests.iter().any(|(digest, text)| {
            let Ok(Manifest::Image(manifest)) = Manifest::parse(text.as_bytes()) else {
                return false;
            };
            let config = manifest.image.to_string().parse();
            counts(digest)
                && config.is_ok_and(|config| counts(&config) && self.text(&config).is_some())
        })
    }

    /// The manifests that prove that an image has a digest. These are the image's own
    /// manifest, or the manifests on a path from an index to the image. Both ends of the
    /// path are included. `None` if one of these manifests is missing.
    pub fn proof(&self, digest: &Digest, image: &ImageId) -> Option<BTreeMap<Digest, String>> {
        self.way(digest, image, 0, &mut BTreeSet::new())
    }

    /// The manifest or index with this digest. For an index, also those manifests below
    /// the index that are in the store.
    pub fn manifests(&self, digest: &Digest) -> BTreeMap<Digest, String> {
        let mut found = BTreeMap::new();
        self.collect(digest, 0, &mut found);
        found
    }

    fn collect(&self, digest: &Digest, depth: usize, found: &mut BTreeMap<Digest, String>) {
        if found.contains_key(digest) {
            return;
        }
        let Some(text) = self.text(digest) else {
            return;
        };
        let Ok(manifest) = Manifest::parse(text.as_bytes()) else {
            return;
        };
        found.insert(digest.clone(), text);
        if let Manifest::Index(children) = manifest
            && depth < MAX_INDEX_DEPTH
        {
            for child in children {
                self.collect(&child.digest, depth + 1, found);
            }
        }
    }

    fn way(
        &self,
        digest: &Digest,
        image: &ImageId,
        depth: usize,
        seen: &mut BTreeSet<Digest>,
    ) -> Option<BTreeMap<Digest, String>> {
        if !seen.insert(digest.clone()) {
            return None;
        }
        let text = self.text(digest)?;
        let mut way = match Manifest::parse(text.as_bytes()).ok()? {
            Manifest::Image(manifest) if manifest.image == *image => BTreeMap::new(),
            Manifest::Index(children) if depth < MAX_INDEX_DEPTH => children
                .iter()
                .find_map(|child| self.way(&child.digest, image, depth + 1, seen))?,
            _ => return None,
        };
        way.insert(digest.clone(), text);
        Some(way)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;
    use crate::image::digest::Algorithm;

    #[test]
    fn a_blob_is_a_plain_file() {
        let root = tempfile::tempdir().unwrap();
        let blobs = root
            .path()
            .join("io.containerd.content.v1.content/blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let digest = Digest::of(Algorithm::Sha256, b"{}");
        let blob = blobs.join(digest.hex());
        let content = ContentStore::of(Path::new("/nowhere"), Some(root.path()));
        fs::write(&blob, "{}").unwrap();
        assert_eq!(content.text(&digest).unwrap(), "{}");
        fs::rename(&blob, blobs.join("elsewhere")).unwrap();
        symlink("elsewhere", &blob).unwrap();
        assert_eq!(content.text(&digest), None);
        fs::remove_file(&blob).unwrap();
        // No process writes to this FIFO, so reading it would block.
        mkfifo(&blob, Mode::S_IRUSR).unwrap();
        assert_eq!(content.text(&digest), None);
    }
}
