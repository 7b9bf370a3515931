//! References that are not as they were, after a change was taken back.

use std::fmt;

use crate::image::reference::Reference;

/// A reference that is not as it was to be again, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    pub reference: Reference,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// It stays: Docker would drop this tag along with it.
    Tagged(Reference),
    /// It stays: Docker would remove the image with it.
    Last,
    /// It stays: layers would go that nothing else leads to.
    HasLayers,
    /// It stays, as a container was made by it; in the engine's words.
    InUse(String),
    /// It went, and these went along.
    TookAlong(Vec<String>),
    /// It is gone: Docker dropped it along with this one.
    WentAlong(Reference),
    /// It is gone, and could not be restored.
    Lost(String),
    /// It stays: containerd would free the image with it.
    LastRecord,
    /// It stays as another client has made it.
    Changed,
}

impl Leftover {
    /// The container that uses it, as the engine names it: by its ID.
    pub fn container(&self) -> Option<&str> {
        let Why::InUse(conflict) = &self.why else {
            return None;
        };
        let mut words = conflict.split_ascii_whitespace();
        words.find(|word| *word == "container")?;
        let is_id = |id: &&str| id.len() >= 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        words.next().filter(is_id)
    }
}

/// What stays is true, as its manifest proves it.
impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let reference = &self.reference;
        match &self.why {
            Why::Tagged(tag) => write!(
                f,
                "{reference} stays: {tag} has the same manifest by now, and Docker drops both together \
                 (docker rmi {tag}, if that is meant)"
            ),
            Why::Last => write!(
                f,
                "{reference} stays: it is the last reference of its image by now, which Docker would remove \
                 with it (docker rmi {reference}, if that is meant)"
            ),
            Why::HasLayers => write!(
                f,
                "{reference} stays: the layers as the registry serves them are here by it alone, and would \
                 go with it (docker rmi {reference}, if that is meant)"
            ),
            Why::InUse(conflict) => write!(
                f,
                "{reference} stays: {conflict} (once that container is removed: docker rmi {reference})"
            ),
            Why::TookAlong(along) => write!(
                f,
                "{reference} is gone, and Docker dropped along with it: {} (docker load or docker tag it again)",
                along.join(", ")
            ),
            Why::WentAlong(other) => write!(
                f,
                "{reference} is gone: Docker dropped it along with {other} (docker load or docker tag it again)"
            ),
            Why::LastRecord => write!(
                f,
                "{reference} stays: it is the last record of its image by now, which containerd would free with \
                 it (ctr -n k8s.io images rm {}, if that is meant)",
                reference.full()
            ),
            Why::Changed => write!(
                f,
                "{reference} stays: another client has changed its record a moment ago"
            ),
            Why::Lost(why) => write!(
                f,
                "{reference} is gone and could not be had back: {why} (once its image is loaded again, \
                 with its manifest: digestfix apply --from FILE)"
            ),
        }
    }
}

/// What went along with references that are being restored.
pub fn went_along(leftovers: &[Leftover]) -> Vec<Leftover> {
    let along = leftovers.iter().filter_map(|one| match &one.why {
        Why::TookAlong(along) => Some((&one.reference, along)),
        _ => None,
    });
    let each = along.flat_map(|(other, along)| along.iter().map(move |name| (other, name)));
    // What is no name is a manifest, which comes back with its reference.
    let named = each.filter_map(|(other, name)| Some((other, Reference::parse(name).ok()?)));
    named
        .filter(|(_, one)| one.tag().is_some() || one.digest().is_some())
        .map(|(other, reference)| Leftover {
            reference,
            why: Why::WentAlong(other.clone()),
        })
        .collect()
}

/// All of them, for one line.
pub fn joined(leftovers: &[Leftover]) -> String {
    let lines: Vec<String> = leftovers.iter().map(ToString::to_string).collect();
    lines.join("; ")
}
