//! An index whose manifest for this host's platform is missing from the files that the
//! user brought.

use std::collections::BTreeMap;
use std::fmt;

use crate::claims::evidence::Evidence;
use crate::image::digest::Digest;
use crate::image::platform::Platform;
use crate::image::reference::Repository;
use crate::plan::Request;
use crate::store::repositories::Store;

/// The manifest that the user must bring together with an index: the manifest for this
/// host's platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingManifest {
    repository: Option<Repository>,
    /// The manifests that the index lists but no file contains, with their platforms.
    parts: Vec<(Digest, Option<Platform>)>,
    /// The manifest for the platform of the images on this host.
    wanted: Option<(Digest, Platform)>,
}

/// The most manifests that one sentence lists.
const MAX_PARTS: usize = 5;

impl MissingManifest {
    /// Finds the missing manifests of an index. `None` if no manifest is missing.
    pub fn of(
        evidence: &Evidence,
        index: &Digest,
        repository: Option<&Repository>,
        here: Option<&Platform>,
    ) -> Option<Self> {
        let missing = evidence.missing_parts(index);
        let parts: Vec<_> = missing
            .map(|child| (child.digest.clone(), child.platform.clone()))
            .collect();
        let chosen = here.and_then(|here| here.choice(evidence.children(index)));
        let mut each = parts.iter();
        let wanted = each.find_map(|(digest, platform)| {
            let platform = platform.clone().filter(|_| Some(digest) == chosen)?;
            Some((digest.clone(), platform))
        });
        (!parts.is_empty()).then(|| Self {
            repository: repository.cloned(),
            parts,
            wanted,
        })
    }
}

impl fmt::Display for MissingManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.repository.as_ref().map(Repository::familiar);
        let name = name.as_deref().unwrap_or("NAME");
        if let Some((digest, platform)) = &self.wanted {
            return write!(
                f,
                "only the manifest for {platform} shows which image the index means. On a host that \
                 reaches the registry: skopeo inspect --raw docker://{name}@{digest} >FILE; then add --from FILE"
            );
        }
        f.write_str("the manifest for this host's platform is missing: ")?;
        for (at, (digest, platform)) in self.parts.iter().take(MAX_PARTS).enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            match platform {
                Some(platform) => write!(f, "{separator}{platform} {digest}")?,
                None => write!(f, "{separator}{digest}")?,
            }
        }
        if let Some(more @ 1..) = self.parts.len().checked_sub(MAX_PARTS) {
            write!(f, " and {more} more")?;
        }
        write!(
            f,
            ". On a host that reaches the registry: skopeo inspect --raw docker://{name}@DIGEST >FILE; then \
             add --from FILE"
        )
    }
}

/// Adds this host's own references to the request, as evidence. If an index lists the
/// digest of a reference on this host, the index's digest also belongs to that
/// reference's image. `None` if no index lists the digest of a reference on this host.
pub(super) fn with_parts_here(store: &Store, request: &Request) -> Option<Request> {
    let mut parts: BTreeMap<&Digest, Vec<&Digest>> = BTreeMap::new();
    for index in request.evidence.indexes() {
        for child in request.evidence.missing_parts(index) {
            parts.entry(&child.digest).or_default().push(index);
        }
    }
    let digests = parts.keys().map(ToString::to_string).collect();
    let here = store.entries_with(&digests);
    let here: Vec<_> = here.filter_map(|entry| entry.meaning().ok()).collect();
    if here.is_empty() {
        return None;
    }
    let mut informed = request.clone();
    for (reference, image) in here {
        let indexes = reference.digest().and_then(|digest| parts.get(digest));
        let origin = format!("this host's reference {reference}");
        for index in indexes.into_iter().flatten() {
            informed
                .evidence
                .add_part_here((*index).clone(), image.clone(), origin.clone());
        }
    }
    Some(informed)
}
