//! Leftovers: references that undo could not restore.

use std::fmt;

use crate::image::reference::Reference;

/// A reference that undo could not restore, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    pub reference: Reference,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The reference stays, because Docker would drop this tag along with the reference.
    Tagged(Reference),
    /// The reference stays, because Docker would remove the image along with its last
    /// reference.
    Last,
    /// The reference stays, because Docker would also remove layers that no other
    /// reference needs.
    HasLayers,
    /// The reference stays, because a container was created with it. The text is the
    /// engine's message.
    InUse(String),
    /// The reference is gone, and Docker dropped these other references along with it.
    TookAlong(Vec<String>),
    /// The reference is gone, because Docker dropped it along with this other reference.
    WentAlong(Reference),
    /// The reference is gone, and could not be restored.
    Lost(String),
    /// The record stays, because it is the last record of its image. Without the record,
    /// containerd would free the image.
    LastRecord,
    /// The record stays, because another client has changed it.
    Changed,
}

impl Leftover {
    /// Whether the reference is not as it was before the transaction. If not, only other
    /// references are.
    pub const fn is_changed(&self) -> bool {
        !matches!(self.why, Why::TookAlong(_))
    }

    /// Reads from the engine's message the ID of the container that uses the reference.
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

/// A reference that stays does no harm, because a manifest proves that it is correct.
impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let reference = &self.reference;
        match &self.why {
            Why::Tagged(tag) => write!(
                f,
                "{reference} stays: {tag} now has the same manifest, so Docker would drop {tag} \
                 too (to drop both: docker rmi {tag})"
            ),
            Why::Last => write!(
                f,
                "{reference} stays: this is now the last reference of its image, and Docker would remove the \
                 image too (to remove both: docker rmi {reference})"
            ),
            Why::HasLayers => write!(
                f,
                "{reference} stays: only this reference keeps the layers of its image in the registry's \
                 form, and Docker would remove these layers too (to remove both: docker rmi {reference})"
            ),
            Why::InUse(conflict) => write!(
                f,
                "{reference} stays: {conflict} (once that container is removed: docker rmi {reference})"
            ),
            Why::TookAlong(along) => write!(
                f,
                "{reference} is gone, and Docker also dropped these references: {} (to restore them: docker load or \
                 docker tag)",
                along.join(", ")
            ),
            Why::WentAlong(other) => write!(
                f,
                "{reference} is gone: Docker dropped this reference along with {other} (to restore the reference: docker load or \
                 docker tag)"
            ),
            Why::LastRecord => write!(
                f,
                "{reference} stays: this is now the last record of its image, and containerd would free the \
                 image too (to remove both: ctr -n k8s.io images rm {})",
                reference.full()
            ),
            Why::Changed => write!(
                f,
                "{reference} stays: another client changed its record a moment ago"
            ),
            Why::Lost(why) => write!(
                f,
                "{reference} is gone and could not be restored: {why} (load its image again, then \
                 add the reference from a file that contains its manifest: digestfix apply --from \
                 FILE)"
            ),
        }
    }
}

/// Returns a leftover for each reference that Docker dropped along with another
/// reference.
pub fn went_along(leftovers: &[Leftover]) -> Vec<Leftover> {
    let along = leftovers.iter().filter_map(|one| match &one.why {
        Why::TookAlong(along) => Some((&one.reference, along)),
        _ => None,
    });
    let each = along.flat_map(|(other, along)| along.iter().map(move |name| (other, name)));
    // Skip a text that is the digest of a manifest instead of a name. The manifest is
    // restored together with its reference.
    let named = each.filter_map(|(other, name)| Some((other, Reference::parse(name).ok()?)));
    named
        .filter(|(_, one)| one.tag().is_some() || one.digest().is_some())
        .map(|(other, reference)| Leftover {
            reference,
            why: Why::WentAlong(other.clone()),
        })
        .collect()
}

/// All leftovers in one line.
pub fn joined(leftovers: &[Leftover]) -> String {
    let lines: Vec<String> = leftovers.iter().map(ToString::to_string).collect();
    lines.join("; ")
}
