//! Hints: images and names on this host that may be meant by a claim for which no image
//! was found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::claims::claim::{Claim, Statement};
use crate::image::digest::ImageId;
use crate::image::reference::{Reference, Repository};
use crate::store::repositories::Store;

/// The most images or names that one sentence lists.
const MOST_NAMED: usize = 3;

/// Images and names on this host that may be meant by claims whose repository this host
/// does not have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// The images without a name on this host. Empty if no claim may be about one of
    /// them.
    pub nameless: Vec<ImageId>,
    /// The first claim whose repository this host does not have, as `NAME@DIGEST`.
    pub example: Option<String>,
    /// Names on this host whose last part equals the last part of a claim's name, each
    /// with the `--rewrite` rule that renames the claim's name to the name on this host.
    pub alike: BTreeMap<String, String>,
}

impl Hints {
    pub fn is_empty(&self) -> bool {
        self.nameless.is_empty() && self.alike.is_empty()
    }

    /// Notes a claim that found no image.
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

/// Displays a list of images: the IDs of the first few, and the number of the others.
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
                "{have}: {}. If that is the image, claim {example}={first}",
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
                "{separator}this host has the name {name}; if that is the same image, add --rewrite {rule}"
            )?;
        }
        Ok(())
    }
}

/// Names on this host that resemble the name in a claim, which may be mistyped or belong to
/// another registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Near {
    pub names: Vec<String>,
    /// The claim with the similar name in place of its own name, if that claim would be
    /// about an image on this host.
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

/// Two names with more different letters than this are not similar.
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

    /// The repositories that the user may mean: the same last part in another registry or
    /// directory, or else a name that differs in one or two letters.
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

    /// The only name on this host with the same last part, and the rule that renames
    /// `repository` to it. `None` if there are several such names.
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
    // Compare the lengths first: that is cheap, and rules out most names.
    one.len().abs_diff(other.len()) <= most && strsim::osa_distance(one, other) <= most
}

fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The rule that renames one name to another. The rule omits the last parts that both
/// names share.
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
