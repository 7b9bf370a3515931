//! `--rewrite FROM=TO`: renames the repositories in a file to their names on this host.
//! For example, the user may have tagged the images for a private registry.

use std::str::FromStr;

use crate::image::reference::{Reference, ReferenceError, Repository};

/// A rule of `--rewrite`. The rule applies to the repository `FROM`, and to every
/// repository whose name begins with `FROM` and a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    from: String,
    to: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "write FROM=TO; TO replaces FROM at the beginning of a repository name \
         (for example: docker.io/library=registry:5000/hub)"
)]
pub struct RewriteError;

impl FromStr for Rewrite {
    type Err = RewriteError;

    fn from_str(text: &str) -> Result<Self, RewriteError> {
        let (from, to) = text.split_once('=').ok_or(RewriteError)?;
        let (from, to) = (from.trim_end_matches('/'), to.trim_end_matches('/'));
        // `TO` must be the beginning of a valid repository name.
        let repository = Reference::parse(&format!("{to}/name")).map_err(|_| RewriteError)?;
        if from.is_empty() || repository.tag().is_some() || repository.digest().is_some() {
            return Err(RewriteError);
        }
        Ok(Self {
            from: from.to_owned(),
            to: to.to_owned(),
        })
    }
}

impl Rewrite {
    /// The part of the repository's name after `FROM`. `None` if neither the full nor the
    /// short name begins with `FROM`.
    fn rest(&self, repository: &Repository) -> Option<String> {
        [repository.full(), repository.familiar()]
            .into_iter()
            .find_map(|name| {
                let rest = name.strip_prefix(&self.from)?;
                (rest.is_empty() || rest.starts_with('/')).then(|| rest.to_owned())
            })
    }
}

/// Renames a repository by the `--rewrite` rule with the longest `FROM` that applies.
/// Fails if the new name is invalid.
pub fn rewritten(repository: &Repository, rules: &[Rewrite]) -> Result<Repository, ReferenceError> {
    let fitting = rules
        .iter()
        .filter_map(|rule| Some((rule, rule.rest(repository)?)))
        .max_by_key(|(rule, _)| rule.from.len());
    match fitting {
        Some((rule, rest)) => Ok(Reference::parse(&format!("{}{rest}", rule.to))?
            .repository()
            .clone()),
        None => Ok(repository.clone()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn applied(rules: &[&str], name: &str) -> String {
        let rules: Vec<Rewrite> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        let reference = Reference::parse(name).unwrap();
        rewritten(reference.repository(), &rules)
            .unwrap()
            .familiar()
    }

    #[test]
    fn a_beginning_is_replaced_up_to_a_slash() {
        let rule = &["docker.io=r.example:5000/hub"][..];
        assert_eq!(applied(rule, "nginx"), "r.example:5000/hub/library/nginx");
        assert_eq!(applied(rule, "a/b"), "r.example:5000/hub/a/b");
        assert_eq!(applied(rule, "quay.io/a/b"), "quay.io/a/b");
        assert_eq!(
            applied(&["quay.io/a=r.example"], "quay.io/ab/c"),
            "quay.io/ab/c"
        );
        assert_eq!(
            applied(&["quay.io/a=r.example"], "quay.io/a/c"),
            "r.example/c"
        );
        assert_eq!(applied(&["nginx=r.example/web"], "nginx"), "r.example/web");
        assert_eq!(
            applied(&["docker.io/library/=r.example/"], "nginx"),
            "r.example/nginx"
        );
    }

    #[test]
    fn the_longest_rule_wins() {
        let rules = &["docker.io=r.example/all", "docker.io/library=r.example/own"];
        assert_eq!(applied(rules, "nginx"), "r.example/own/nginx");
        assert_eq!(applied(rules, "a/b"), "r.example/all/a/b");
    }

    #[test]
    fn what_makes_no_name_is_no_rule() {
        for text in ["", "a", "=", "a=", "=b", "a=b/C", "a=b@c", "a= b"] {
            assert!(text.parse::<Rewrite>().is_err(), "{text}");
        }
    }
}
