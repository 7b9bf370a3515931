//! The size of an archive of images: the sum of the sizes of their layers, each layer
//! counted once. The size is an estimate, to predict how long saving takes.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;

use crate::docker::content_store::ContentStore;
use crate::docker::engine::images::Resolved;
use crate::image::digest::{Algorithm, Digest, ImageId};
use crate::store::data_root::ImageDir;

/// The layers of a manifest (image-spec 1.1, `manifest.md`).
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    digest: Digest,
    size: u64,
}

/// The size of an archive from Docker's classic image store, which saves layers
/// uncompressed. The layer database of this store contains the sizes of the layers (moby
/// `layer/filestore.go`).
pub fn unpacked<'a>(
    store: &ImageDir,
    images: impl IntoIterator<Item = &'a ImageId>,
) -> Option<u64> {
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    for image in images {
        let config = fs::read_to_string(store.configs().join(image.hex())).ok()?;
        let mut chain: Option<String> = None;
        for layer in Resolved::of_config(&config).layers? {
            // The name of a layer is a hash over this layer and all layers below it
            // (image-spec 1.1, `config.md`, ChainID).
            let name = match chain {
                Some(below) => {
                    let both = format!("{below} {layer}");
                    Digest::of(Algorithm::Sha256, both.as_bytes()).to_string()
                }
                None => layer,
            };
            let hex = name.parse::<Digest>().ok()?.hex().to_owned();
            let path = store.path().join("layerdb/sha256").join(hex).join("size");
            let size = fs::read_to_string(path).ok()?.trim().parse().ok()?;
            sizes.insert(name.clone(), size);
            chain = Some(name);
        }
    }
    Some(sizes.values().sum())
}

/// The size of an archive from the containerd image store, which saves blobs without
/// changing them.
pub fn packed<'a>(
    content: &ContentStore,
    targets: impl IntoIterator<Item = &'a Digest>,
) -> Option<u64> {
    let mut sizes: BTreeMap<Digest, u64> = BTreeMap::new();
    for target in targets {
        for text in content.manifests(target).values() {
            let manifest: Manifest = serde_json::from_str(text).ok()?;
            let layers = manifest.layers.into_iter();
            let here = layers.filter(|layer| content.has(&layer.digest));
            sizes.extend(here.map(|layer| (layer.digest, layer.size)));
        }
    }
    (!sizes.is_empty()).then(|| sizes.values().sum())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn write(path: &std::path::Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_layer_of_two_images_counts_once() {
        let root = tempfile::tempdir().unwrap();
        let store = ImageDir::new(root.path(), "overlay2");
        let layer = |digit: char| format!("sha256:{}", String::from_iter([digit; 64]));
        let chain = |below: &str, layer: &str| {
            Digest::of(Algorithm::Sha256, format!("{below} {layer}").as_bytes()).to_string()
        };
        let (base, one, other) = (layer('1'), layer('2'), layer('3'));
        for (name, size) in [
            (&base, "1000"),
            (&chain(&base, &one), "20"),
            (&chain(&base, &other), "3\n"),
        ] {
            let hex = name.strip_prefix("sha256:").unwrap();
            write(
                &store.path().join(format!("layerdb/sha256/{hex}/size")),
                size,
            );
        }
        let images = [('a', &one), ('b', &other)].map(|(digit, top)| {
            let id: ImageId = layer(digit).parse().unwrap();
            let config = format!(r#"{{"rootfs":{{"diff_ids":["{base}","{top}"]}}}}"#);
            write(&store.configs().join(id.hex()), &config);
            id
        });
        assert_eq!(unpacked(&store, &images), Some(1023));
        assert_eq!(unpacked(&store, &images[..1]), Some(1020));
        let absent: ImageId = layer('c').parse().unwrap();
        assert_eq!(unpacked(&store, [&absent]), None);
    }

    #[test]
    fn a_blob_that_is_not_here_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        let blobs = root
            .path()
            .join("io.containerd.content.v1.content/blobs/sha256");
        let hex = "d".repeat(64);
        write(&blobs.join(&hex), "a layer");
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
               "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{}","size":2}},
               "layers":[{{"digest":"sha256:{hex}","size":7}},{{"digest":"sha256:{}","size":90}}]}}"#,
            "a".repeat(64),
            "e".repeat(64)
        );
        let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
        write(&blobs.join(digest.hex()), &manifest);
        let content = ContentStore::of(root.path(), Some(root.path()));
        assert_eq!(packed(&content, [&digest]), Some(7));
        assert_eq!(packed(&content, [] as [&Digest; 0]), None);
    }
}
