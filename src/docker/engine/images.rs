//! The part of the Docker API that reads and changes references while the
//! engine runs.

use crate::docker::engine::EngineError;
use crate::image::digest::Digest;
use crate::image::platform::Platform;
use crate::image::reference::Reference;

mod listing;
mod resolved;

pub use listing::Listing;
pub use resolved::{Made, Resolved};

/// An image as the engine lists it. With the containerd image store it stands
/// for one manifest or index, and all that refers to that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// What it calls the image's ID: with the containerd image store, the digest
    /// of its manifest or index.
    pub id: String,
    /// Its tags; from Docker 28 on, digests that are references of their own too.
    pub tags: Vec<String>,
    /// Its digests, those that follow from its tags included.
    pub digests: Vec<String>,
    /// What its config says that it runs on, where it was asked for by name and
    /// not listed; empty where the engine does not have the image whole.
    pub architecture: Option<String>,
    /// Manifests whose layers it says not to have as a registry serves them
    /// (Docker 29; before that it does not say so of each).
    pub unavailable: Vec<Digest>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dropped {
    /// It is gone, or was not there.
    Alone,
    /// It stays, as a container was made by it; in the engine's words.
    InUse(String),
    /// It is gone, and these references or images went along.
    Along(Vec<String>),
}

impl Listed {
    /// The digest of its manifest or index.
    pub fn target(&self) -> Option<Digest> {
        self.id.parse().ok()
    }

    /// Its tags and digests. Docker 28 lists digests without a name where it
    /// misses layers, and those refer to nothing.
    pub fn references(&self) -> impl Iterator<Item = Reference> {
        let tags = self.tags.iter().filter_map(|name| parsed(name));
        let digests = self.digests.iter().filter_map(|name| parsed(name));
        tags.chain(digests.filter(|one| one.digest().is_some()))
    }

    /// The engine says that it does not have the layers as the registry serves
    /// them: Docker 28 lists a digest without a name then, and says nothing of
    /// what the image runs on (seen on 28.5, of manifests and indexes). Docker 26
    /// does not list it at all.
    pub fn is_hollow(&self) -> bool {
        let is_nameless = |digest: &String| digest.parse::<Digest>().is_ok();
        self.digests.iter().any(is_nameless) || self.architecture.as_deref() == Some("")
    }

    /// A tag of the same repository leads to the same manifest: the engine finds
    /// the digest by it, and drops both together (moby 26.1 and 28.5,
    /// `daemon/containerd/image_delete.go`, `getSameReferences`).
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

/// What the load method needs of the engine, and no more.
pub trait Images {
    /// Every image that the engine lists. Before 27.2, Docker leaves out those whose
    /// layers it does not have as the registry serves them.
    async fn listed(&self) -> Result<Listing, EngineError>;
    async fn find(&self, reference: &Reference) -> Result<Option<Listed>, EngineError>;
    /// What the engine reads in the config of the image that a reference leads to.
    async fn resolved(&self, reference: &Reference) -> Result<Resolved, EngineError>;
    /// Loads an archive. The references in it may be there although this fails.
    async fn load(&self, archive: Vec<u8>) -> Result<(), EngineError>;
    async fn untag(&self, reference: &Reference) -> Result<Dropped, EngineError>;
    /// What images have to be for, to run on it.
    async fn platform(&self) -> Result<Platform, EngineError>;
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    /// As Docker 28.5 lists an image without its layers.
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
