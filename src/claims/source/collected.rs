//! The result of reading files: claims, evidence, and warnings about files that contain
//! neither.

use std::collections::BTreeSet;

use crate::claims::claim::{Claim, ImageName, Statement, pointer};
use crate::claims::evidence::{Evidence, MAX_RECORDS_OF_A_DIGEST};
use crate::claims::rewrite::{Rewrite, rewritten};
use crate::claims::row::{Lack, Meaning, Row};
use crate::claims::source::Problem;
use crate::image::digest::{Algorithm, Digest, ImageId};
use crate::image::manifest::{Manifest, ManifestError};
use crate::image::reference::{Reference, Repository};

/// The most claims that digestfix accepts from all files together.
pub const MAX_CLAIMS: usize = 100_000;

const MAX_REMARKS: usize = 100;

/// The most line numbers that one warning lists.
const MAX_LINES: usize = 5;

/// An image that an archive contains completely. An engine can load this image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    pub image: ImageId,
    pub tags: Vec<Reference>,
}

impl Whole {
    /// The image's tags, or its ID if it has no tags.
    pub fn names(&self) -> Vec<String> {
        match self.tags.as_slice() {
            [] => vec![self.image.to_string()],
            tags => tags.iter().map(Reference::familiar).collect(),
        }
    }
}

/// All claims and evidence that digestfix read from files.
#[derive(Debug, Default)]
pub struct Collected {
    /// The claims in the files, without duplicates.
    pub claims: Vec<Claim>,
    /// The evidence for the claims.
    pub evidence: Evidence,
    /// Names of images that the files mention without a digest.
    pub named: BTreeSet<Reference>,
    /// Warnings for the user about the files.
    pub remarks: Vec<String>,
    /// The images that the archives contain completely.
    pub whole: Vec<Whole>,
    /// The number of claims and manifests in the files, including duplicates.
    pub(super) said: usize,
    rewrites: Vec<Rewrite>,
    tags: bool,
    /// The number of tags that digestfix found but did not claim, because the user did
    /// not give `--tags`.
    tags_left: usize,
    seen: BTreeSet<(Kind, String)>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Pin,
    Record,
    Manifest,
}

/// Where in the files digestfix found a manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Came<'a> {
    /// The repository that the file names for the manifest.
    pub repository: Option<&'a Repository>,
    /// Whether an index lists the manifest. If so, the manifest may be for another
    /// platform.
    pub in_index: bool,
    pub place: &'a str,
}

impl Collected {
    /// Creates an empty collection. The collection renames repositories by these
    /// `--rewrite` rules.
    pub fn new(rewrites: &[Rewrite]) -> Self {
        Self {
            rewrites: rewrites.to_vec(),
            ..Self::default()
        }
    }

    /// Sets whether to claim tags that another host recorded (`--tags`), and not only
    /// digests.
    #[must_use]
    pub const fn with_tags(mut self, tags: bool) -> Self {
        self.tags = tags;
        self
    }

    /// Whether the files contain no claim. Evidence does not count as a claim.
    pub const fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    pub(super) fn remark(&mut self, text: String) {
        if self.remarks.len() < MAX_REMARKS && !self.remarks.contains(&text) {
            self.remarks.push(text);
        }
    }

    /// Claims a pinned reference that a file contains. Ignores a reference without a
    /// digest.
    pub(super) fn pin(&mut self, reference: &Reference, place: &str) -> Result<(), Problem> {
        let Some(digest) = reference.digest().cloned() else {
            return Ok(());
        };
        let repository = self.name_here(reference.repository())?;
        let key = (Kind::Pin, reference.full());
        let statement = match reference.tag() {
            Some(tag) => Statement::TaggedHasDigest {
                repository,
                tag: tag.clone(),
                digest,
            },
            None => Statement::OnlyImageHasDigest { repository, digest },
        };
        self.claim(key, reference.familiar(), statement, place)
    }

    /// Adds the name of an image that a file mentions without a digest. A name without a
    /// tag means the tag `latest`.
    pub(super) fn name(&mut self, name: &str) {
        if let Ok(reference) = pointer(name)
            && reference.digest().is_none()
            && reference.repository().familiar() != "sha256"
            && self.named.len() < MAX_CLAIMS
        {
            self.named.insert(reference);
        }
    }

    /// Adds the claim and the evidence that, on another host, the reference points at the
    /// image.
    pub(super) fn record(
        &mut self,
        reference: &Reference,
        image: ImageId,
        place: &str,
    ) -> Result<(), Problem> {
        if reference.tag().is_some() && reference.digest().is_none() {
            return self.tag(reference, image, place);
        }
        if let Some(digest) = reference.digest() {
            let in_bounds = self
                .evidence
                .add_record(digest.clone(), image.clone(), place);
            if !in_bounds {
                return Err(Problem::TooMany {
                    what: "images of one digest",
                    limit: MAX_RECORDS_OF_A_DIGEST,
                });
            }
        }
        self.points_at(reference, image, place)
    }

    /// Claims a tag that, on another host, points at the image. Without the option
    /// `--tags`, counts the tag, but does not claim it.
    fn tag(&mut self, reference: &Reference, image: ImageId, place: &str) -> Result<(), Problem> {
        if !self.tags {
            self.tags_left += 1;
            return Ok(());
        }
        self.tag_of_pin(reference, image, place)
    }

    /// Claims that the tag of a `NAME:TAG@DIGEST` points at the image.
    pub(super) fn tag_of_pin(
        &mut self,
        reference: &Reference,
        image: ImageId,
        place: &str,
    ) -> Result<(), Problem> {
        let Some(tag) = reference.tag().cloned() else {
            return Ok(());
        };
        let tagged = reference.repository().clone().with_tag(tag.clone());
        let here = self.name_here(reference.repository())?.with_tag(tag);
        self.leads_to(&tagged, here, image, place)
    }

    /// Adds a warning if a file contains only tags, and no digest. `before` is the value
    /// of [`Self::tags_left()`] before digestfix read the file.
    pub(super) fn only_tags(&mut self, place: &str, before: usize) -> bool {
        let count = self.tags_left - before;
        if count == 0 {
            return false;
        }
        let tags = if count == 1 {
            "1 tag"
        } else {
            &format!("{count} tags")
        };
        self.remark(format!(
            "{place}: no digest found, only {tags}; add --tags to restore the tags"
        ));
        true
    }

    pub(super) const fn tags_left(&self) -> usize {
        self.tags_left
    }

    /// Adds the claim and the evidence that, on another host, the digest belongs to an
    /// image whose ID begins with `id`.
    pub(super) fn record_beginning(
        &mut self,
        reference: &Reference,
        id: &str,
        place: &str,
    ) -> Result<(), Problem> {
        let Some(digest) = reference.digest().cloned() else {
            return Ok(());
        };
        if !self.evidence.add_beginning(digest.clone(), id, place) {
            return Err(Problem::TooMany {
                what: "images of one digest",
                limit: MAX_RECORDS_OF_A_DIGEST,
            });
        }
        let text = format!("{}=sha256:{id}", reference.familiar());
        let key = (Kind::Record, format!("{}={id}", reference.full()));
        let statement = Statement::PointsAt {
            reference: self.name_here(reference.repository())?.with_digest(digest),
            image: ImageName::Prefix(id.to_owned()),
        };
        self.claim(key, text, statement, place)
    }

    /// Adds the claims of one table row. Returns false if the row's digest has no name,
    /// or is cut short.
    pub(super) fn row(
        &mut self,
        row: &Row,
        place: &str,
        line: Option<usize>,
    ) -> Result<bool, Problem> {
        let place = match line {
            Some(line) => format!("{place}:{line}"),
            None => place.to_owned(),
        };
        match row.meaning() {
            Meaning::Record(reference, id) => self.record(&reference, id, &place)?,
            Meaning::Beginning(reference, id) => self.record_beginning(&reference, &id, &place)?,
            Meaning::Pin(reference) => self.pin(&reference, &place)?,
            Meaning::Nothing(Lack::Digest) => {}
            Meaning::Nothing(Lack::Name | Lack::Digits) => return Ok(false),
        }
        Ok(true)
    }

    /// Adds a warning about digests without a name in a file. `lines` has the line number
    /// of each such digest, or 0 for an unknown line.
    pub(super) fn unnamed(&mut self, place: &str, lines: &[usize]) {
        if lines.is_empty() {
            return;
        }
        let numbers = lines.iter().filter(|line| **line > 0).take(MAX_LINES);
        let numbers: Vec<String> = numbers.map(ToString::to_string).collect();
        let mut where_to_look = match numbers.len() {
            0 => String::new(),
            1 => format!(" on line {}", numbers.join(", ")),
            _ => format!(" on lines {}", numbers.join(", ")),
        };
        if let more @ 1.. = lines.len().saturating_sub(numbers.len())
            && !numbers.is_empty()
        {
            where_to_look += &format!(" and {more} more");
        }
        let is_yaml = [".yaml", ".yml"].iter().any(|end| place.ends_with(end));
        let chart = match is_yaml {
            true => {
                ". If the file belongs to a chart, render the chart first: helm template … | \
                 digestfix apply --from -"
            }
            false => "",
        };
        let count = match lines.len() {
            1 => "1 digest".to_owned(),
            many => format!("{many} digests"),
        };
        self.remark(format!(
            "{place}: skipped {count} without a name{where_to_look}. A claim needs a name: \
             NAME:TAG@DIGEST{chart}"
        ));
    }

    /// Whether a rule of `--rewrite` renames this repository.
    pub(super) fn rewrites(&self, repository: &Repository) -> bool {
        self.name_here(repository)
            .is_ok_and(|renamed| renamed != *repository)
    }

    /// Claims that a reference with a digest points at an image. Adds no evidence.
    pub(super) fn points_at(
        &mut self,
        reference: &Reference,
        image: ImageId,
        place: &str,
    ) -> Result<(), Problem> {
        let Some(digest) = reference.digest().cloned() else {
            return Ok(());
        };
        let here = self.name_here(reference.repository())?.with_digest(digest);
        self.leads_to(reference, here, image, place)
    }

    /// Claims that a reference points at an image. `there` is the reference in the file,
    /// and `here` is the same reference after `--rewrite`.
    fn leads_to(
        &mut self,
        there: &Reference,
        here: Reference,
        image: ImageId,
        place: &str,
    ) -> Result<(), Problem> {
        let text = format!("{}={image}", there.familiar());
        let key = (Kind::Record, format!("{}={image}", there.full()));
        let statement = Statement::PointsAt {
            reference: here,
            image: ImageName::Id(image),
        };
        self.claim(key, text, statement, place)
    }

    /// Adds the bytes of a manifest as evidence, without a claim.
    pub(super) fn prove(&mut self, bytes: &[u8], place: &str) -> Result<Manifest, ManifestError> {
        let manifest = Manifest::parse(bytes)?;
        self.said += 1;
        let digest = Digest::of(Algorithm::Sha256, bytes);
        self.evidence.keep(&digest, bytes);
        self.evidence.add_manifest(digest, manifest.clone(), place);
        Ok(manifest)
    }

    /// Claims that a manifest's digest belongs to the image of the manifest.
    pub(super) fn manifest(&mut self, digest: &Digest, came: Came) -> Result<(), Problem> {
        let repository = match came.repository {
            Some(repository) => Some(self.name_here(repository)?),
            None => None,
        };
        let text = match &repository {
            Some(repository) => repository.clone().with_digest(digest.clone()).familiar(),
            None => digest.to_string(),
        };
        let statement = Statement::ManifestBrought {
            digest: digest.clone(),
            repository,
            in_index: came.in_index,
        };
        self.claim((Kind::Manifest, text.clone()), text, statement, came.place)
    }

    fn name_here(&self, repository: &Repository) -> Result<Repository, Problem> {
        Ok(rewritten(repository, &self.rewrites)?)
    }

    fn claim(
        &mut self,
        key: (Kind, String),
        text: String,
        statement: Statement,
        place: &str,
    ) -> Result<(), Problem> {
        self.said += 1;
        if !self.seen.insert(key) {
            return Ok(());
        }
        if self.claims.len() >= MAX_CLAIMS {
            return Err(Problem::TooMany {
                what: "claims",
                limit: MAX_CLAIMS,
            });
        }
        match Claim::sourced(text, statement, place) {
            Ok(claim) => self.claims.push(claim),
            Err(error) => self.remark(format!("{place}: {error}")),
        }
        Ok(())
    }
}
