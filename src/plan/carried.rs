//! Selects the images to carry to another host, and the names to pass to `docker save`.
//! The images keep their names on the other host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use crate::claims::claim::Statement;
use crate::claims::source::collected::Collected;
use crate::image::digest::ImageId;
use crate::image::reference::{Reference, ReferenceError};

/// An image as the user names it on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A repository, a tag, a digest, or `NAME:TAG@DIGEST`.
    Named(Reference),
    /// The first digits of an ID.
    Id(String),
    /// A repository or the beginning of an image ID: the text `cafe` could be both.
    NamedOrId(Reference, String),
}

impl Wanted {
    /// The name that Docker can pull. `None` for an image ID.
    pub const fn name(&self) -> Option<&Reference> {
        match self {
            Self::Named(name) | Self::NamedOrId(name, _) => Some(name),
            Self::Id(_) => None,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Named(name) | Self::NamedOrId(name, _) => name.fmt(f),
            Self::Id(hex) => write!(f, "single image whose ID begins with sha256:{hex}"),
        }
    }
}

/// The names of all images that the files mention.
pub fn wanted_by(collected: &Collected) -> Vec<Wanted> {
    let named = collected.named.iter().cloned();
    let claimed = collected.claims.iter().filter_map(|claim| {
        Some(match claim.statement.clone() {
            Statement::TaggedHasDigest {
                repository,
                tag,
                digest,
            } => repository.with_tag(tag).pinned(digest),
            Statement::OnlyImageHasDigest { repository, digest } => repository.with_digest(digest),
            Statement::PointsAt { reference, .. } => reference,
            Statement::ManifestBrought {
                digest,
                repository: Some(repository),
                in_index: false,
            } => repository.with_digest(digest),
            Statement::ManifestBrought { .. } => return None,
        })
    });
    claimed.chain(named).map(Wanted::Named).collect()
}

impl FromStr for Wanted {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let is_hex = |text: &str| {
            let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            (1..=64).contains(&text.len()) && text.bytes().all(is_digit)
        };
        if let Some(hex) = text.strip_prefix("sha256:").filter(|hex| is_hex(hex)) {
            return Ok(Self::Id(hex.to_owned()));
        }
        match Reference::parse(text) {
            Ok(name) if is_hex(text) => Ok(Self::NamedOrId(name, text.to_owned())),
            Ok(name) => Ok(Self::Named(name)),
            Err(ReferenceError::Identifier) => Ok(Self::Id(text.to_owned())),
            Err(error) => Err(error),
        }
    }
}

/// The references and images on a host.
pub struct Stock<'a> {
    pub references: &'a [(Reference, ImageId)],
    pub images: &'a BTreeSet<ImageId>,
    /// Whether Docker's image IDs are the digests of manifests or indexes, as they are
    /// with the containerd image store.
    pub ids_are_digests: bool,
    /// Digest references that `docker save` must get as arguments. Otherwise, their
    /// manifests are missing from the archive.
    pub apart: &'a BTreeSet<Reference>,
}

/// One image to carry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Carried {
    /// The image's tags, which `docker load` restores from the archive.
    pub tags: BTreeSet<Reference>,
    pub digests: BTreeSet<Reference>,
    /// Digest references whose manifest is missing from the archive if `docker save` gets
    /// only the image's tag as an argument.
    apart: BTreeSet<Reference>,
    /// Pinned references (`NAME:TAG@DIGEST`) whose tag does not exist on this host. The
    /// other host adds the tag to the image.
    pub pins: BTreeSet<Reference>,
}

impl Carried {
    /// The image's names for `docker save`: its tags, because `docker load` restores
    /// tags. An image without tags is saved by its digests, and an image with neither
    /// tags nor digests by its ID.
    pub fn asked(&self, image: &ImageId) -> Vec<String> {
        let names: Vec<&Reference> = match (self.tags.is_empty(), self.digests.is_empty()) {
            (false, _) => self.tags.iter().chain(&self.apart).collect(),
            (true, false) => self.digests.iter().collect(),
            (true, true) => return vec![image.to_string()],
        };
        names.into_iter().map(Reference::familiar).collect()
    }
}

/// The images that the user asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Selection {
    pub images: BTreeMap<ImageId, Carried>,
    /// Pinned references (`NAME:TAG@DIGEST`) whose tag points at another image on this
    /// host. Only the digest of such a reference is carried.
    pub moved: Vec<Reference>,
    /// Names that no image on this host has.
    pub missing: Vec<Wanted>,
}

impl Selection {
    /// Selects every image that has a name.
    pub fn all(stock: &Stock<'_>) -> Self {
        let mut selection = Self::default();
        for (reference, image) in stock.references {
            selection.take(reference, image, stock);
        }
        selection
    }

    pub fn of(wanted: &[Wanted], stock: &Stock<'_>) -> Self {
        let mut selection = Self::default();
        for one in wanted {
            let is_here = match one {
                Wanted::Named(name) => selection.add_named(name, stock),
                Wanted::Id(hex) => selection.add_id(hex, stock),
                Wanted::NamedOrId(name, hex) => {
                    selection.add_named(name, stock) || selection.add_id(hex, stock)
                }
            };
            if !is_here {
                selection.missing.push(one.clone());
            }
        }
        selection
    }

    fn add_named(&mut self, name: &Reference, stock: &Stock<'_>) -> bool {
        let repository = name.repository();
        let of_repository = || {
            let all = stock.references.iter();
            all.filter(|(one, _)| one.repository() == repository)
        };
        let image_of = |wanted: &Reference| {
            let mut all = stock.references.iter();
            Some(&all.find(|(one, _)| one == wanted)?.1)
        };
        let digest = name
            .digest()
            .map(|digest| repository.clone().with_digest(digest.clone()));
        let tag = name
            .tag()
            .map(|tag| repository.clone().with_tag(tag.clone()));
        let Some(image) = digest.as_ref().or(tag.as_ref()).map(image_of) else {
            // A repository without a tag means all images of the repository, as in
            // `docker save`.
            for (reference, image) in of_repository() {
                self.take(reference, image, stock);
            }
            return of_repository().next().is_some();
        };
        let Some(image) = image else {
            return false;
        };
        for (reference, other) in of_repository() {
            // If the user gave no tag, carry the image with all its tags.
            let is_meant = reference.digest().is_some() || tag.is_none();
            if other == image && is_meant {
                self.take(reference, image, stock);
            }
        }
        if let Some(tag) = tag {
            match image_of(&tag) {
                Some(other) if other == image => self.take(&tag, image, stock),
                Some(_) => self.moved.push(name.clone()),
                None => {
                    let carried = self.images.entry(image.clone()).or_default();
                    carried.pins.insert(name.clone());
                }
            }
        }
        true
    }

    fn add_id(&mut self, hex: &str, stock: &Stock<'_>) -> bool {
        let begins = |image: &&ImageId| image.hex().starts_with(hex);
        let mut found: BTreeSet<&ImageId> = stock.images.iter().filter(begins).collect();
        if stock.ids_are_digests {
            let by_digest = stock.references.iter().filter(|(reference, _)| {
                let digest = reference.digest();
                digest.is_some_and(|digest| digest.hex().starts_with(hex))
            });
            found.extend(by_digest.map(|(_, image)| image));
        }
        // A prefix is ambiguous if several image IDs begin with it.
        let [image] = Vec::from_iter(found)[..] else {
            return false;
        };
        self.images.entry(image.clone()).or_default();
        for (reference, other) in stock.references {
            if other == image {
                self.take(reference, image, stock);
            }
        }
        true
    }

    fn take(&mut self, reference: &Reference, image: &ImageId, stock: &Stock<'_>) {
        let carried = self.images.entry(image.clone()).or_default();
        if stock.apart.contains(reference) {
            carried.apart.insert(reference.clone());
        }
        match reference.digest() {
            Some(_) => carried.digests.insert(reference.clone()),
            None => carried.tags.insert(reference.clone()),
        };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::claims::source::read_text;

    fn hex(digit: char) -> String {
        String::from_iter([digit; 64])
    }

    fn id(digit: char) -> ImageId {
        format!("sha256:{}", hex(digit)).parse().unwrap()
    }

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    /// The names to save, and the digests and pinned references to carry with the images.
    fn selected(wanted: &str) -> (Vec<String>, Vec<String>, Vec<String>) {
        let selection = select(&[wanted]);
        assert_eq!(selection.missing, [], "{wanted}");
        let mut all = (Vec::new(), Vec::new(), Vec::new());
        for (image, carried) in &selection.images {
            all.0.extend(carried.asked(image));
            all.1.extend(carried.digests.iter().map(short));
            all.2.extend(carried.pins.iter().map(short));
        }
        all.0 = all.0.iter().map(|text| cut(text)).collect();
        all
    }

    fn short(reference: &Reference) -> String {
        cut(&reference.familiar())
    }

    /// Shortens each digest to its first digit.
    fn cut(text: &str) -> String {
        match text.split_once("sha256:") {
            Some((before, digits)) => format!("{before}{}", &digits[..1]),
            None => text.to_owned(),
        }
    }

    fn select(wanted: &[&str]) -> Selection {
        let references: Vec<(Reference, ImageId)> = [
            ("lab/app:v1".to_owned(), 'a'),
            ("lab/app:stable".to_owned(), 'a'),
            (format!("lab/app@sha256:{}", hex('1')), 'a'),
            ("lab/app:v2".to_owned(), 'b'),
            (format!("lab/app@sha256:{}", hex('2')), 'c'),
            ("other/app:v1".to_owned(), 'a'),
            (format!("other/app@sha256:{}", hex('3')), 'a'),
        ]
        .map(|(name, image)| (reference(&name), id(image)))
        .into();
        let images = ['a', 'b', 'c', 'd'].map(id).into();
        let wanted: Vec<Wanted> = wanted.iter().map(|text| text.parse().unwrap()).collect();
        let stock = Stock {
            references: &references,
            images: &images,
            ids_are_digests: false,
            apart: &BTreeSet::new(),
        };
        Selection::of(&wanted, &stock)
    }

    #[test]
    fn an_image_is_asked_for_by_its_tags_where_it_has_any() {
        let pin = |name: &str, digit| format!("{name}@sha256:{}", hex(digit));
        for (wanted, asked, digests) in [
            ("lab/app:v1", &["lab/app:v1"][..], &["lab/app@1"][..]),
            (
                &pin("lab/app", '1'),
                &["lab/app:stable", "lab/app:v1"],
                &["lab/app@1"],
            ),
            (&pin("lab/app:v1", '1'), &["lab/app:v1"], &["lab/app@1"]),
            (&pin("lab/app", '2'), &["lab/app@2"], &["lab/app@2"]),
            (
                "lab/app",
                &["lab/app:stable", "lab/app:v1", "lab/app:v2", "lab/app@2"],
                &["lab/app@1", "lab/app@2"],
            ),
            (
                &hex('a'),
                &["lab/app:stable", "lab/app:v1", "other/app:v1"],
                &["lab/app@1", "other/app@3"],
            ),
            ("sha256:b", &["lab/app:v2"], &[]),
            ("d", &["d"], &[]),
        ] {
            let found = selected(wanted);
            assert_eq!(found.0, asked, "{wanted}");
            assert_eq!(found.1, digests, "{wanted}");
            assert!(found.2.is_empty(), "{wanted}");
        }
    }

    #[test]
    fn a_pin_brings_its_tag_unless_that_is_another_images() {
        let absent = format!("lab/app:v9@sha256:{}", hex('1'));
        let (asked, _, pins) = selected(&absent);
        assert_eq!(asked, ["lab/app@1"]);
        assert_eq!(pins, ["lab/app:v9@1"]);
        let moved = format!("lab/app:v2@sha256:{}", hex('1'));
        let selection = select(&[&moved]);
        assert_eq!(selection.moved, [reference(&moved)]);
        assert!(selection.images[&id('a')].pins.is_empty());
    }

    #[test]
    fn a_file_needs_what_runs_by_it_pinned_or_not() {
        let pin = format!("lab/app:v1@sha256:{}", hex('1'));
        let yaml = format!(
            "spec:\n  containers:\n  - image: {pin}\n    name: app\n  - image: redis\n\
             \x20   name: cache\nsidecar:\n  image:\n    repository: lab/sidecar\n    tag: v2\n\
             label: some/thing\n"
        );
        for (text, expected) in [
            (yaml, &[&*pin, "lab/sidecar:v2", "redis:latest"][..]),
            (format!("{pin}\nredis:7\n"), &[&*pin, "redis:7"]),
        ] {
            let mut collected = Collected::default();
            read_text(&text, "deploy.yaml", &mut collected).unwrap();
            let expected: Vec<Wanted> = expected.iter().map(|one| one.parse().unwrap()).collect();
            assert_eq!(wanted_by(&collected), expected);
        }
    }

    #[test]
    fn what_is_not_here_is_missing() {
        let other = format!("lab/app@sha256:{}", hex('3'));
        for absent in ["lab/none", "lab/app:v3", &other, "sha256:e", "cafe"] {
            let selection = select(&[absent]);
            assert_eq!(selection.missing, [absent.parse().unwrap()], "{absent}");
            assert!(selection.images.is_empty(), "{absent}");
        }
    }
}
