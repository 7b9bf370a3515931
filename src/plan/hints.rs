//! Hints: if digestfix finds no image for a claim, the hints list images and names on
//! this host that the claim may mean.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::claims::claim::{Claim, Statement};
use crate::image::digest::ImageId;
use crate::image::reference::{Reference, Repository};
use crate::store::repositories::Store;

/// The most images or names that one sentence lists.
const MOST_NAMED: usize = 3;

/// For claims whose repository does not exist on this host: images and names on this host
/// that the claims may mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// The images without a name on this host. Empty if no claim could mean such an
    /// image.
    pub nameless: Vec<ImageId>,
    /// The first claim whose repository this host does not have, as `NAME@DIGEST`.
    pub example: Option<String>,
    /// Names on this host that end like the name in a claim. Each has the `--rewrite`
    /// rule that turns the claim's name into the name on this host.
    pub alike: BTreeMap<String, String>,
}

impl Hints {
    pub fn is_empty(&self) -> bool {
        self.nameless.is_empty() && self.alike.is_empty()
    }

    /// Collects hints for a claim for which digestfix found no image.
    pub(super) fn see(&mut self, claim: &Claim, here: &Here<'_>) {
        let (Some(repository), Some(digest)) = (repository_of(claim), claim.digest()) else {
            return;
        };
        if here.has(repository) {
            return;
        }
        self.example.get_or_insert_with(|| {
            let reference = repository.clone().with_digest(digest.clone());
            reference.familiar()
        });
        if self.alike.len() < MOST_NAMED
            && let Some((name, rule)) = here.alike(repository)
        {
            self.alike.insert(name, rule);
        }
    }
}

/// Displays a list of images: the first few IDs, and how many images are omitted.
pub(super) struct Ids<'a>(pub &'a [ImageId]);

impl fmt::Display for Ids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, image) in self.0.iter().take(MOST_NAMED).enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{image}")?;
        }
        match self.0.len().checked_sub(MOST_NAMED) {
            Some(more @ 1..) => write!(f, " and {more} more (docker images -f dangling=true)"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(first) = self.nameless.first() {
            let have = match self.nameless.len() {
                1 => "1 image here has no name",
                several => &format!("{several} images here have no name"),
            };
            let example = self.example.as_deref().unwrap_or("NAME@DIGEST");
            write!(
                f,
                "{have}: {}. If you mean this image, claim {example}={first}",
                Ids(&self.nameless)
            )?;
        }
        for (at, (name, rule)) in self.alike.iter().enumerate() {
            let separator = match at {
                0 if self.nameless.is_empty() => "",
                _ => "; ",
            };
            write!(
                f,
                "{separator}this host has an image named {name}; if you mean this image, add --rewrite {rule}"
            )?;
        }
        Ok(())
    }
}

/// Names on this host that resemble the name in a claim. The claim's name may be
/// mistyped, or belong to another registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Near {
    pub names: Vec<String>,
    /// The claim, corrected to use the similar name. `None` if this host has no image for
    /// the corrected claim.
    pub instead: Option<String>,
}

impl fmt::Display for Near {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.names.is_empty() {
            true => Ok(()),
            false => write!(
                f,
                "; this host has a similar name: {}",
                self.names.join(", ")
            ),
        }
    }
}

/// The most letters in which two similar names may differ.
const NEAR: usize = 2;

/// The repositories on a host, grouped by the last part of their names.
pub(super) struct Here<'a> {
    by_last_part: BTreeMap<String, Vec<Repository>>,
    store: &'a Store,
}

impl<'a> Here<'a> {
    pub(super) fn of(store: &'a Store) -> Self {
        let names: BTreeSet<&str> = store.entries().map(|entry| entry.repository).collect();
        let mut by_last_part: BTreeMap<String, Vec<Repository>> = BTreeMap::new();
        for name in names {
            if let Ok(named) = Reference::parse(name) {
                let repository = named.repository().clone();
                let last = last_part(&repository.full()).to_owned();
                by_last_part.entry(last).or_default().push(repository);
            }
        }
        Self {
            by_last_part,
            store,
        }
    }

    fn has(&self, repository: &Repository) -> bool {
        let name = repository.familiar();
        self.store.entries_of(&name).next().is_some()
    }

    /// The repositories that the user may mean: those with the same last part in another
    /// registry or directory. If there are none, the names that differ in one or two
    /// letters.
    pub(super) fn near(&self, repository: &Repository) -> Vec<&Repository> {
        let full = repository.full();
        let mut found: Vec<&Repository> = match self.by_last_part.get(last_part(&full)) {
            Some(alike) => alike.iter().collect(),
            None => {
                let all = self.by_last_part.values().flatten();
                all.filter(|other| is_near(&full, &other.full())).collect()
            }
        };
        found.retain(|other| *other != repository);
        found.truncate(MOST_NAMED);
        found
    }

    /// The only repository on this host with the same last part, and the `--rewrite` rule
    /// that renames `repository` to that name. `None` if this host has several such
    /// repositories.
    fn alike(&self, repository: &Repository) -> Option<(String, String)> {
        let full = repository.full();
        match self.by_last_part.get(last_part(&full))?.as_slice() {
            [only] => Some((only.familiar(), rule(&full, &only.full()))),
            _ => None,
        }
    }
}

fn is_near(one: &str, other: &str) -> bool {
    // The shorter the names, the fewer letters may differ.
    let most = NEAR.min(last_part(one).len().max(last_part(other).len()) / 3);
    // Compare the lengths first, because this cheap check rules out most names.
    one.len().abs_diff(other.len()) <= most && strsim::osa_distance(one, other) <= most
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The `--rewrite` rule that renames one repository to another. The rule omits the last
/// parts of the names if both names share them.
fn rule(from: &str, to: &str) -> String {
    let (mut from, mut to) = (from, to);
    while let (Some((one, last)), Some((other, other_last))) =
        (from.rsplit_once('/'), to.rsplit_once('/'))
        && last == other_last
    {
        (from, to) = (one, other);
    }
    format!("{from}={to}")
}

pub(super) const fn repository_of(claim: &Claim) -> Option<&Repository> {
    match &claim.statement {
        Statement::TaggedHasDigest { repository, .. }
        | Statement::OnlyImageHasDigest { repository, .. } => Some(repository),
        Statement::PointsAt { .. } | Statement::ManifestBrought { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_near_by_a_letter_or_two() {
        for (one, other, expected) in [
            ("docker.io/library/ngnix", "docker.io/library/nginx", true),
            ("quay.io/team/ap", "quay.io/team/app", true),
            ("quay.io/team/app", "quay.io/team/api-x", false),
            ("docker.io/library/a", "docker.io/library/b", false),
        ] {
            assert_eq!(is_near(one, other), expected, "{one} {other}");
        }
    }

    #[test]
    fn a_rule_leads_from_one_name_to_the_other() {
        for (from, to, expected) in [
            (
                "registry.example:5000/team/app",
                "localhost:5000/lab/app",
                "registry.example:5000/team=localhost:5000/lab",
            ),
            ("quay.io/team/app", "mirror/team/app", "quay.io=mirror"),
            (
                "docker.io/library/nginx",
                "mirror:5000/nginx",
                "docker.io/library=mirror:5000",
            ),
        ] {
            assert_eq!(rule(from, to), expected);
            assert!(expected.parse::<crate::claims::rewrite::Rewrite>().is_ok());
        }
    }
}
