//! The part of the Docker API that reads and changes references while the engine runs.

use crate::docker::engine::EngineError;
use crate::image::digest::Digest;
use crate::image::platform::Platform;
use crate::image::reference::Reference;

mod listing;
mod resolved;

pub use listing::Listing;
pub use resolved::{Made, Resolved};

/// An image in the engine's list. With the containerd image store, an image is one
/// manifest or index together with all references to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// The image's ID. With the containerd image store, the ID is the digest of the
    /// image's manifest or index.
    pub id: String,
    /// The image's tags. Docker 28 and later also list a digest reference here if
    /// containerd has a record of this reference.
    pub tags: Vec<String>,
    /// The image's digest references, including those that the engine derives from the
    /// image's tags.
    pub digests: Vec<String>,
    /// The architecture in the image's config, which is known only if digestfix asked for
    /// the image by name. Empty if the engine does not have the complete image.
    pub architecture: Option<String>,
    /// The manifests for which the engine reports missing layer blobs. Only Docker 29
    /// reports this for each manifest.
    pub unavailable: Vec<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dropped {
    /// The reference is removed, or did not exist.
    Alone,
    /// The engine keeps the reference because a container uses it. The text is the
    /// engine's message.
    InUse(String),
    /// The reference is removed. Together with the reference, the engine removed these
    /// other references or images.
    Along(Vec<String>),
}

impl Listed {
    /// The digest of the image's manifest or index.
    pub fn target(&self) -> Option<Digest> {
        self.id.parse().ok()
    }

    /// The image's tags and digest references. If layers are missing, Docker 28 also
    /// lists digests without a name, which are not references.
    pub fn references(&self) -> impl Iterator<Item = Reference> {
        let tags = self.tags.iter().filter_map(|name| parsed(name));
        let digests = self.digests.iter().filter_map(|name| parsed(name));
        tags.chain(digests.filter(|one| one.digest().is_some()))
    }

    /// Whether the engine reports that layer blobs are missing. A layer blob is a
    /// compressed layer from the registry, not an unpacked layer. If layer blobs are
    /// missing, Docker 28 lists a digest without a name, and shows no architecture (seen
    /// on 28.5, for manifests and indexes). Docker 26 does not list the image at all.
    pub fn is_hollow(&self) -> bool {
        let is_nameless = |digest: &String| digest.parse::<Digest>().is_ok();
        self.digests.iter().any(is_nameless) || self.architecture.as_deref() == Some("")
    }

    /// A tag of this image in the repository of `reference`, which is a digest reference.
    /// The engine finds the digest through this tag, and can only remove the tag and the
    /// digest together (moby 26.1 and 28.5, `daemon/containerd/image_delete.go`,
    /// `getSameReferences`).
    pub fn tag_beside(&self, reference: &Reference) -> Option<Reference> {
        let repository = reference.repository().familiar();
        let is_beside = |name: &&String| {
            let rest = name.strip_prefix(repository.as_str());
            rest.is_some_and(|rest| rest.starts_with(':'))
        };
        let mut tags = self.tags.iter().filter(is_beside);
        tags.find_map(|name| parsed(name).filter(|tag| tag.digest().is_none()))
    }
}

fn parsed(name: &str) -> Option<Reference> {
    let reference = Reference::parse(name).ok()?;
    (reference.tag().is_some() || reference.digest().is_some()).then_some(reference)
}

/// The API calls of the load method.
pub trait Images {
    /// Every image that the engine lists. Docker before 27.2 omits images whose layer
    /// blobs are missing.
    async fn listed(&self) -> Result<Listing, EngineError>;
    async fn find(&self, reference: &Reference) -> Result<Option<Listed>, EngineError>;
    /// The config that the engine shows for the image of a reference.
    async fn resolved(&self, reference: &Reference) -> Result<Resolved, EngineError>;
    /// Loads an archive. If the load fails, the engine may still have added some
    /// references.
    async fn load(&self, archive: Vec<u8>) -> Result<(), EngineError>;
    async fn untag(&self, reference: &Reference) -> Result<Dropped, EngineError>;
    /// The platform for which the engine runs images.
    async fn platform(&self) -> Result<Platform, EngineError>;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    /// Docker 28.5 lists an image without layers in this form: with a digest that has no
    /// name.
    #[test]
    fn a_digest_without_a_name_is_no_reference() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let listed = Listed {
            id: digest.clone(),
            tags: vec![format!("lab/app@{digest}"), "<none>:<none>".to_owned()],
            digests: vec![digest.clone(), "<none>@<none>".to_owned()],
            ..Listed::default()
        };
        let found: Vec<Reference> = listed.references().collect();
        assert_eq!(found, [reference(&format!("lab/app@{digest}"))]);
        assert_eq!(listed.target().unwrap().to_string(), digest);
        assert!(listed.is_hollow());
    }

    #[test]
    fn a_digest_goes_with_a_tag_of_its_own_repository_only() {
        let digest = format!("lab/app@sha256:{}", "a".repeat(64));
        let mut listed = Listed {
            tags: vec![digest.clone(), "other/app:v1".to_owned()],
            ..Listed::default()
        };
        assert_eq!(listed.tag_beside(&reference(&digest)), None);
        listed.tags.push("lab/app:v2".to_owned());
        let beside = listed.tag_beside(&reference(&digest));
        assert_eq!(beside, Some(reference("lab/app:v2")));
    }
}
