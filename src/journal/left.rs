//! What a run may have left on the host, by its journal, in words.

use crate::journal::Journal;

impl Journal {
    /// What may be other than it was, besides the references' file and Docker
    /// itself.
    #[must_use]
    pub fn may_be_left(&self) -> Vec<String> {
        let mut left = Vec::new();
        if self.live_restore.is_some() {
            left.push("daemon.json may have live-restore on".to_owned());
        }
        if !self.kept_down.is_empty() {
            left.push("containers that are down may have no restart policy".to_owned());
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use crate::container::RestartPolicy;
    use crate::journal::{Journal, KeptDown, References, hash};

    #[test]
    fn what_may_be_left_is_named_and_nothing_else_is() {
        let references = References {
            driver: "overlay2".to_owned(),
            before: hash(b"before"),
            after: hash(b"after"),
        };
        let mut journal = Journal::new("20261124T113000Z-7", references);
        assert_eq!(journal.may_be_left(), [""; 0]);
        journal.kept_down.push(KeptDown {
            id: "1".to_owned(),
            name: "db".to_owned(),
            policy: RestartPolicy::Always,
            max_retries: 0,
        });
        assert_eq!(
            journal.may_be_left(),
            ["containers that are down may have no restart policy"]
        );
    }
}
