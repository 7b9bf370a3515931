//! Images as a host has them after `docker load`, and the manifests that their registry
//! serves.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, Header};

const OCI: &str = "application/vnd.oci.image";
const DOCKER: &str = "application/vnd.docker";

/// One image, whose layer no other image has.
pub struct Image {
    name: String,
    layer: Vec<u8>,
    config: String,
    /// The manifest that `docker save` creates.
    made_up: String,
    /// The manifest that the registry serves. It names a compressed layer, which this
    /// host does not have.
    served: String,
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

impl Image {
    pub fn number(number: usize) -> Self {
        let mut layer = Builder::new(Vec::new());
        add(&mut layer, "file", format!("image {number}\n").as_bytes());
        let layer = layer.into_inner().unwrap();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-05-01T10:00:00Z",
            "config": {"Cmd": ["/file"], "Env": ["PATH=/usr/sbin:/usr/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
            "history": [{"created": "2024-05-01T10:00:00Z", "created_by": format!("COPY {number}")}],
        })
        .to_string();
        let made_up = json!({
            "schemaVersion": 2,
            "mediaType": format!("{OCI}.manifest.v1+json"),
            "config": descriptor(&format!("{OCI}.config.v1+json"), config.as_bytes()),
            "layers": [descriptor(&format!("{OCI}.layer.v1.tar"), &layer)],
        })
        .to_string();
        let compressed = format!("the same layer, compressed: {number}");
        let served = json!({
            "schemaVersion": 2,
            "mediaType": format!("{DOCKER}.distribution.manifest.v2+json"),
            "config": descriptor(&format!("{DOCKER}.container.image.v1+json"), config.as_bytes()),
            "layers": [descriptor(&format!("{DOCKER}.image.rootfs.diff.tar.gzip"), compressed.as_bytes())],
        })
        .to_string();
        Self {
            name: format!("registry.example/team-{}/app-{number}", number % 20),
            layer,
            config,
            made_up,
            served,
        }
    }

    /// The digest reference that this host has lost.
    pub fn pinned(&self) -> String {
        format!("{}@{}", self.name, digest(self.served.as_bytes()))
    }
}

/// A claims file that contains every manifest.
pub fn claims(images: &[Image]) -> String {
    let claims = images.iter().map(
        |image| json!({"reference": image.pinned(), "image_id": digest(image.config.as_bytes())}),
    );
    let manifests: BTreeMap<String, &String> = images
        .iter()
        .map(|image| (digest(image.served.as_bytes()), &image.served))
        .collect();
    let claims: Vec<Value> = claims.collect();
    json!({"digestfix_claims": 1, "claims": claims, "manifests": manifests}).to_string()
}

/// An archive like those that `docker save` writes.
pub fn archive_of_images(images: &[Image]) -> Vec<u8> {
    let named = images
        .iter()
        .map(|image| (format!("{}:v1", image.name), &image.made_up));
    let blobs = images.iter().flat_map(|image| {
        let texts = [&image.config, &image.made_up].map(|text| text.as_bytes());
        texts.into_iter().chain([image.layer.as_slice()])
    });
    archive(named, blobs, "oci.image.manifest.v1+json")
}

/// An archive of manifests and configs, stored under their digests. It has a few hundred
/// bytes for each image.
pub fn archive_of_manifests(images: &[Image]) -> Vec<u8> {
    let named = images.iter().map(|image| (image.pinned(), &image.served));
    let blobs = images
        .iter()
        .flat_map(|image| [image.config.as_bytes(), image.served.as_bytes()]);
    archive(named, blobs, "docker.distribution.manifest.v2+json")
}

fn archive<'a>(
    named: impl Iterator<Item = (String, &'a String)>,
    blobs: impl Iterator<Item = &'a [u8]>,
    kind: &str,
) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    add(
        &mut archive,
        "oci-layout",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    );
    for blob in blobs {
        let path = format!("blobs/{}", digest(blob).replace(':', "/"));
        add(&mut archive, &path, blob);
    }
    let manifests = named.map(|(name, text)| {
        let mut entry = descriptor(&format!("application/vnd.{kind}"), text.as_bytes());
        entry["annotations"] = json!({"io.containerd.image.name": name});
        entry
    });
    let manifests: Vec<Value> = manifests.collect();
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    add(&mut archive, "index.json", index.as_bytes());
    archive.into_inner().unwrap()
}

fn add(archive: &mut Builder<Vec<u8>>, path: &str, bytes: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o755);
    archive.append_data(&mut header, path, bytes).unwrap();
}
