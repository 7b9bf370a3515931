//! OCI archive (image-spec 1.1, `image-layout.md`): a small tar archive with manifests,
//! configs and image names, but without layers. digestfix builds it for an engine that
//! already has the layers.

use std::collections::BTreeMap;
use std::io;

use serde_json::json;
use tar::{Builder, Header};

use crate::image::digest::Digest;
use crate::image::manifest::{Manifest, ManifestError, OCI_INDEX, media_type};
use crate::image::reference::Reference;

/// The annotation with an image's full name. The engine gives this name to the manifest
/// when it loads the archive (containerd 1.7, `images/annotations.go`).
const NAME: &str = "io.containerd.image.name";

/// The content of an OCI archive.
#[derive(Debug, Clone, Default)]
pub struct OciArchive {
    names: Vec<Reference>,
    blobs: BTreeMap<Digest, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the content that is stored as {named} hashes to {found}")]
    Tampered { named: Digest, found: Digest },
    #[error("the manifest of {0} is missing")]
    Missing(Reference),
    #[error(
        "the image of {0} is not here any more: its config is not in containerd's content store"
    )]
    NoImage(Reference),
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl OciArchive {
    /// Adds a manifest, an index or a config. Returns false if the archive already
    /// contains it.
    pub fn blob(&mut self, digest: &Digest, text: &str) -> bool {
        let is_new = !self.blobs.contains_key(digest);
        if is_new {
            self.blobs.insert(digest.clone(), text.to_owned());
        }
        is_new
    }

    /// Adds a reference with a digest. The engine gives this name to the manifest or
    /// index with the same digest. The caller must add that manifest or index with
    /// [`Self::blob`].
    pub fn name(&mut self, reference: &Reference) {
        self.names.push(reference.clone());
    }

    /// Returns the bytes of the archive. Checks each blob against its digest.
    pub fn build(&self) -> Result<Vec<u8>, ArchiveError> {
        let mut archive = Builder::new(Vec::new());
        let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();
        add(&mut archive, "oci-layout", layout.as_bytes())?;
        for (digest, text) in &self.blobs {
            let found = Digest::of(digest.algorithm(), text.as_bytes());
            if found != *digest {
                return Err(ArchiveError::Tampered {
                    named: digest.clone(),
                    found,
                });
            }
            let path = format!("blobs/{}/{}", digest.algorithm().name(), digest.hex());
            add(&mut archive, &path, text.as_bytes())?;
        }
        let mut manifests = Vec::with_capacity(self.names.len());
        for reference in &self.names {
            let missing = || ArchiveError::Missing(reference.clone());
            let digest = reference.digest().ok_or_else(missing)?;
            let text = self.blobs.get(digest).ok_or_else(missing)?;
            let manifest = Manifest::parse(text.as_bytes())?;
            manifests.push(json!({
                "mediaType": media_type(text.as_bytes(), &manifest),
                "digest": digest.to_string(),
                "size": text.len(),
                "annotations": {NAME: reference.full()},
            }));
        }
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        add(&mut archive, "index.json", index.to_string().as_bytes())?;
        Ok(archive.into_inner()?)
    }
}

fn add(archive: &mut Builder<Vec<u8>>, path: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_size(u64::try_from(bytes.len()).map_err(io::Error::other)?);
    header.set_mode(0o644);
    archive.append_data(&mut header, path, bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::image::digest::Algorithm;
    use crate::image::manifest::OCI_MANIFEST;

    const MANIFEST: &str = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},"layers":[]}"#;

    fn of(text: &str) -> Digest {
        Digest::of(Algorithm::Sha256, text.as_bytes())
    }

    fn archive(reference: &str) -> OciArchive {
        let mut archive = OciArchive::default();
        archive.blob(&of(MANIFEST), MANIFEST);
        archive.blob(&of("{}"), "{}");
        let name = format!("{reference}@{}", of(MANIFEST));
        archive.name(&Reference::parse(&name).unwrap());
        archive
    }

    fn member(bytes: &[u8], wanted: &str) -> Vec<u8> {
        let mut archive = tar::Archive::new(bytes);
        let mut member = archive
            .entries()
            .unwrap()
            .map(Result::unwrap)
            .find(|member| member.path_bytes() == wanted.as_bytes())
            .unwrap();
        let mut content = Vec::new();
        io::Read::read_to_end(&mut member, &mut content).unwrap();
        content
    }

    #[test]
    fn the_engine_reads_the_whole_name_and_the_bytes_of_the_manifest() {
        let bytes = archive("httpd").build().unwrap();
        let index: serde_json::Value =
            serde_json::from_slice(&member(&bytes, "index.json")).unwrap();
        let entry = &index["manifests"][0];
        assert_eq!(
            entry["annotations"]["io.containerd.image.name"],
            format!("docker.io/library/httpd@{}", of(MANIFEST))
        );
        assert_eq!(entry["mediaType"], OCI_MANIFEST);
        assert_eq!(entry["size"], MANIFEST.len());
        let path = format!("blobs/sha256/{}", of(MANIFEST).hex());
        assert_eq!(member(&bytes, &path), MANIFEST.as_bytes());
    }

    /// If the archive's index copied the media type from the manifest's text, Docker
    /// would not recognize the blob as a manifest.
    #[test]
    fn a_manifest_is_called_one_whatever_it_says() {
        let strange = MANIFEST.replacen('{', r#"{"mediaType":"text/plain","#, 1);
        let mut archive = OciArchive::default();
        archive.blob(&of(&strange), &strange);
        archive.name(&Reference::parse(&format!("httpd@{}", of(&strange))).unwrap());
        let bytes = archive.build().unwrap();
        let index: serde_json::Value =
            serde_json::from_slice(&member(&bytes, "index.json")).unwrap();
        assert_eq!(index["manifests"][0]["mediaType"], OCI_MANIFEST);
    }

    #[test]
    fn bytes_that_are_not_what_they_are_called_make_no_archive() {
        let mut archive = archive("httpd");
        archive.blobs.insert(of(MANIFEST), "{ }".to_owned());
        let built = archive.build();
        assert!(
            matches!(&built, Err(ArchiveError::Tampered { named, .. }) if *named == of(MANIFEST))
        );
        archive.blobs.remove(&of(MANIFEST));
        assert!(matches!(archive.build(), Err(ArchiveError::Missing(_))));
    }
}
