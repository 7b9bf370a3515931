//! Manifests: the JSON documents that a registry serves under a digest. A manifest
//! describes one image, or is an index that lists several manifests.
//!
//! OCI's format (image-spec 1.1, `manifest.md` and `image-index.md`) and Docker's
//! (distribution 2.8, `manifest-v2-2.md`) have the same fields, but different media
//! types.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::image::digest::{Digest, DigestError, ImageId};
use crate::image::platform::Platform;
use crate::sys::strict_json::{self, JsonError};

/// The deepest nesting of indexes that digestfix reads.
pub const MAX_INDEX_DEPTH: usize = 8;

/// The largest manifest that digestfix reads, in bytes. Registries refuse larger
/// manifests (distribution 2.8, `registry/handlers/manifests.go`: 4 MiB).
pub const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The most manifests that an index may list, including those in nested indexes. The
/// largest published indexes list a few dozen.
pub const MAX_INDEX_ENTRIES: usize = 1_000;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Other media types that Docker accepts for an image's config (moby 20.10,
/// `distribution/registry.go`, `defaultImageTypes`). Old manifests use these media types.
const OLD_CONFIGS: [&str; 4] = [
    "application/octet-stream",
    "application/json",
    "text/html",
    "",
];
const OCI_PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const OCI_ZSTD_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const DOCKER_PLAIN_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    Image(ImageManifest),
    /// An index: a list of manifests, for example one for each platform.
    Index(Vec<Descriptor>),
    /// Another object that registries store, such as a chart or a signature.
    Artifact,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// The image's ID, which is the digest of its config.
    pub image: ImageId,
    pub config_size: u64,
    pub format: Format,
    /// Whether containerd accepts the config's media type when it unpacks an image
    /// (containerd 1.7, `images/mediatypes.go`, `IsConfigType`). Docker's classic image
    /// store accepts more media types.
    pub has_known_config: bool,
    /// Whether all layers are uncompressed. `docker save` writes such images (moby 25,
    /// `image/tarexport/save.go`). Registry clients compress the layers before a push,
    /// unless an option forbids it.
    pub plain_layers: bool,
    /// Whether the manifest looks like a manifest that Docker 29 writes when it migrates
    /// images from its data root to containerd (moby
    /// `daemon/containerd/migration/migration.go`).
    pub is_of_a_migration: bool,
}

/// Whether a manifest uses the media types of OCI or of Docker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Oci,
    Docker,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The platform of the manifest, if the descriptor is in an index.
    #[serde(default)]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// Whether the descriptor points at a manifest or an index, according to its media
    /// type.
    pub fn is_of_a_manifest(&self) -> bool {
        matches!(
            self.media_type.as_str(),
            OCI_INDEX | DOCKER_LIST | OCI_MANIFEST | DOCKER_MANIFEST
        )
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    #[error("not a manifest: {0}")]
    Json(String),
    #[error("an ambiguous manifest, which can be read in two ways: {0}")]
    Keys(String),
    /// A manifest in Docker's first format (schema 1). Its digest is not the hash of its
    /// bytes.
    #[error(
        "a manifest of schema 1, which has no config and so does not show the image ID; \
         push the image again with Docker 1.10 or later"
    )]
    Schema1,
    #[error("an ambiguous manifest, both of an image and of an index (CVE-2021-41190)")]
    Ambiguous,
    #[error("an index of {0} manifests; digestfix reads at most {MAX_INDEX_ENTRIES}")]
    TooManyEntries(usize),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Blob>,
    #[serde(default)]
    layers: Option<Vec<Blob>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

/// The descriptor of a config or a layer. The config's media type shows whether the
/// manifest belongs to an image.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blob {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    size: u64,
}

impl From<JsonError> for ManifestError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Json(error) => Self::Json(error.to_string()),
            keys => Self::Keys(keys.to_string()),
        }
    }
}

/// The media type with which a registry serves a manifest or an index. Usually, the
/// manifest's text contains its media type. OCI allows a manifest to omit the media type.
/// In that case, the manifest's other fields show the media type.
pub fn media_type(bytes: &[u8], manifest: &Manifest) -> &'static str {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Says {
        media_type: Option<String>,
    }
    let says = strict_json::read(bytes).map(|says: Says| says.media_type);
    let says = says.ok().flatten().unwrap_or_default();
    let known = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];
    known
        .into_iter()
        .find(|known| *known == says)
        .unwrap_or(match manifest {
            Manifest::Index(_) => OCI_INDEX,
            _ => OCI_MANIFEST,
        })
}

impl ImageManifest {
    /// Whether an engine seems to have generated the manifest. No registry serves such a
    /// manifest.
    pub const fn is_made_up(&self) -> bool {
        self.plain_layers || self.is_of_a_migration
    }
}

/// Whether a manifest looks like one that Docker's migration writes: three spaces of
/// indentation, no annotations, and all layers compressed with zstd. Builders and
/// registry clients that use zstd indent differently.
fn looks_migrated(bytes: &[u8], layers: &[Blob]) -> bool {
    let head = format!(
        "{{\n   \"schemaVersion\": 2,\n   \"mediaType\": \"{OCI_MANIFEST}\",\n   \"config\": {{\n      \
         \"mediaType\": \"{OCI_CONFIG}\","
    );
    bytes.starts_with(head.as_bytes())
        && bytes.ends_with(b"\n   ]\n}")
        && !layers.is_empty()
        && layers
            .iter()
            .all(|layer| layer.media_type == OCI_ZSTD_LAYER)
}

impl Manifest {
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let document: Document = strict_json::read(bytes)?;
        if document.schema_version == 1 {
            return Err(ManifestError::Schema1);
        }
        let media_type = document.media_type.as_deref();
        match (document.config, document.manifests) {
            (Some(_), Some(_)) => Err(ManifestError::Ambiguous),
            (None, Some(mut manifests)) => match media_type {
                Some(OCI_MANIFEST | DOCKER_MANIFEST) => Err(ManifestError::Ambiguous),
                _ if manifests.len() > MAX_INDEX_ENTRIES => {
                    Err(ManifestError::TooManyEntries(manifests.len()))
                }
                _ => {
                    // Drop the annotations, because no caller reads them, and they can be
                    // large.
                    for descriptor in &mut manifests {
                        descriptor.annotations = None;
                    }
                    Ok(Self::Index(manifests))
                }
            },
            (Some(config), None) => {
                if matches!(media_type, Some(OCI_INDEX | DOCKER_LIST)) {
                    return Err(ManifestError::Ambiguous);
                }
                let kind = config.media_type.as_str();
                let is_old = OLD_CONFIGS.contains(&kind) && media_type == Some(DOCKER_MANIFEST);
                if !matches!(kind, OCI_CONFIG | DOCKER_CONFIG) && !is_old {
                    return Ok(Self::Artifact);
                }
                let image = config.digest.parse();
                let image: ImageId =
                    image.map_err(|error: DigestError| ManifestError::Json(error.to_string()))?;
                let layers = document.layers.unwrap_or_default();
                Ok(Self::Image(ImageManifest {
                    is_of_a_migration: looks_migrated(bytes, &layers),
                    image,
                    config_size: config.size,
                    has_known_config: !is_old,
                    format: if kind == OCI_CONFIG {
                        Format::Oci
                    } else {
                        Format::Docker
                    },
                    plain_layers: layers.iter().all(|layer| {
                        [OCI_PLAIN_LAYER, DOCKER_PLAIN_LAYER].contains(&layer.media_type.as_str())
                    }),
                }))
            }
            (None, None) => Ok(Self::Artifact),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn hex(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    /// Formats manifests as moby 29 does: `json.MarshalIndent(manifest, "", "   ")`.
    #[test]
    fn what_a_migration_made_up_is_told_from_what_was_pushed() {
        let migrated = format!(
            r#"{{
   "schemaVersion": 2,
   "mediaType": "application/vnd.oci.image.manifest.v1+json",
   "config": {{
      "mediaType": "application/vnd.oci.image.config.v1+json",
      "digest": "sha256:{a}",
      "size": 1465
   }},
   "layers": [
      {{
         "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd",
         "digest": "sha256:{b}",
         "size": 1138743
      }}
   ]
}}"#,
            a = hex('a'),
            b = hex('b')
        );
        let is_made_up = |text: &str| match Manifest::parse(text.as_bytes()) {
            Ok(Manifest::Image(manifest)) => manifest.is_made_up(),
            other => panic!("{other:?}"),
        };
        assert!(is_made_up(&migrated));
        for pushed in [
            migrated.replace("zstd", "gzip"),
            // BuildKit indents by two spaces; skopeo and crane do not indent.
            migrated.replace("   ", "  "),
            migrated.split_whitespace().collect(),
            migrated.replace("\n   ]\n", "\n   ],\n   \"annotations\": {}\n"),
        ] {
            assert!(!is_made_up(&pushed), "{pushed}");
        }
    }

    fn image(config_type: &str, layer_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config_type}","size":7,"digest":"sha256:{}"}},
               "layers":[{{"mediaType":"{layer_type}","size":1,"digest":"sha256:{}"}}]}}"#,
            hex('a'),
            hex('b')
        )
    }

    fn parsed(text: &str) -> Result<Manifest, ManifestError> {
        Manifest::parse(text.as_bytes())
    }

    #[test]
    fn both_formats_name_the_image() {
        let cases = [
            (
                OCI_CONFIG,
                "application/vnd.oci.image.layer.v1.tar+gzip",
                Format::Oci,
                false,
            ),
            (OCI_CONFIG, OCI_PLAIN_LAYER, Format::Oci, true),
            (
                DOCKER_CONFIG,
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                Format::Docker,
                false,
            ),
        ];
        for (config, layer, format, plain_layers) in cases {
            assert_eq!(
                parsed(&image(config, layer)),
                Ok(Manifest::Image(ImageManifest {
                    image: format!("sha256:{}", hex('a')).parse().unwrap(),
                    config_size: 7,
                    has_known_config: true,
                    format,
                    plain_layers,
                    is_of_a_migration: false,
                }))
            );
        }
    }

    #[test]
    fn what_is_no_image_proves_none() {
        let chart = image("application/vnd.cncf.helm.config.v1+json", OCI_PLAIN_LAYER);
        assert_eq!(parsed(&chart), Ok(Manifest::Artifact));
        assert_eq!(parsed(r#"{"schemaVersion":2}"#), Ok(Manifest::Artifact));
    }

    #[test]
    fn what_says_nothing_of_itself_is_oci() {
        let plain = image(OCI_CONFIG, OCI_PLAIN_LAYER);
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let says =
            |text: &str, kind: &str| text.replacen('{', &format!(r#"{{"mediaType":"{kind}","#), 1);
        for (text, expected) in [
            (plain.clone(), OCI_MANIFEST),
            (says(&plain, DOCKER_MANIFEST), DOCKER_MANIFEST),
            (says(&plain, "text/html\\r\\nX: y"), OCI_MANIFEST),
            (index.to_owned(), OCI_INDEX),
            (says(index, DOCKER_LIST), DOCKER_LIST),
        ] {
            let manifest = parsed(&text).unwrap();
            assert_eq!(media_type(text.as_bytes(), &manifest), expected, "{text}");
        }
    }

    #[test]
    fn an_index() {
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{OCI_MANIFEST}","size":3,"digest":"sha256:{}"}}]}}"#,
            hex('c')
        );
        let Ok(Manifest::Index(children)) = parsed(&text) else {
            panic!("{:?}", parsed(&text));
        };
        assert_eq!(children[0].digest.hex(), hex('c'));
        assert!(children[0].is_of_a_manifest());
    }

    #[test]
    fn an_index_of_more_than_the_bound() {
        let entry = format!(r#"{{"size":3,"digest":"sha256:{}"}}"#, hex('c'));
        let of = |entries: usize| {
            let entries = vec![entry.as_str(); entries].join(",");
            parsed(&format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#))
        };
        assert!(of(MAX_INDEX_ENTRIES).is_ok());
        let more = MAX_INDEX_ENTRIES + 1;
        assert_eq!(of(more), Err(ManifestError::TooManyEntries(more)));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let both = image(OCI_CONFIG, OCI_PLAIN_LAYER).replacen('{', r#"{"manifests":[],"#, 1);
        assert_eq!(parsed(&both), Err(ManifestError::Ambiguous));
        let says_index = image(OCI_CONFIG, OCI_PLAIN_LAYER).replacen(
            '{',
            &format!(r#"{{"mediaType":"{OCI_INDEX}","#),
            1,
        );
        assert_eq!(parsed(&says_index), Err(ManifestError::Ambiguous));
    }

    /// An engine ignores the letter case of keys, so it would read the value B where
    /// digestfix reads A.
    #[test]
    fn a_key_that_an_engine_takes_for_another_is_refused() {
        let a = image(OCI_CONFIG, OCI_PLAIN_LAYER);
        let b = format!(r#""sha256:{}""#, hex('c'));
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"size":3,"digest":"sha256:{}","platform":{{"os":"linux"}}}}]}}"#,
            hex('a')
        );
        parsed(&a).unwrap();
        parsed(&index).unwrap();
        let with = |text: &str, after: &str, more: String| {
            assert!(text.contains(after));
            text.replacen(after, &format!("{after}{more},"), 1)
        };
        for text in [
            with(&a, "{", format!(r#""Config":{{"digest":{b}}}"#)),
            with(&a, "{", format!(r#""con\u0046ig":{{"digest":{b}}}"#)),
            with(&a, "{", format!(r#""config":{{"digest":{b}}}"#)),
            with(&a, "{", r#""Manifests":[]"#.to_owned()),
            with(&a, "{", r#""\u017fchemaVersion":2"#.to_owned()),
            with(&a, "{", r#""MediaType":"x""#.to_owned()),
            with(&a, "{", r#""Layers":[]"#.to_owned()),
            with(&a, r#""config":{"#, format!(r#""Digest":{b}"#)),
            with(&a, r#""config":{"#, format!(r#""dige\u017ft":{b}"#)),
            with(&a, r#""config":{"#, format!(r#""digest":{b}"#)),
            with(&a, r#""config":{"#, r#""Size":1"#.to_owned()),
            with(&a, r#""layers":[{"#, format!(r#""Digest":{b}"#)),
            with(&index, "{", r#""Manifests":[]"#.to_owned()),
            with(&index, r#""manifests":[{"#, format!(r#""Digest":{b}"#)),
            with(&index, r#""manifests":[{"#, r#""Platform":{}"#.to_owned()),
            with(&index, r#""platform":{"#, r#""OS":"x""#.to_owned()),
            with(
                &index,
                r#""platform":{"#,
                r#""Architecture":"x""#.to_owned(),
            ),
        ] {
            let error = parsed(&text).unwrap_err();
            assert!(matches!(error, ManifestError::Keys(_)), "{text}: {error}");
        }
    }

    #[test]
    fn schema_1_and_no_json() {
        assert_eq!(
            parsed(r#"{"schemaVersion":1,"name":"a"}"#),
            Err(ManifestError::Schema1)
        );
        for text in ["", "{", "[]", "{}", r#"{"schemaVersion":"2"}"#] {
            assert!(
                matches!(parsed(text), Err(ManifestError::Json(_))),
                "{text}"
            );
        }
    }
}
