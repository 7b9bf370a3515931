//! What a run may have left on the host, by its journal, in words.

use crate::journal::Journal;
use crate::stand_in::hosts::{HOSTS, mark};

impl Journal {
    /// What may be other than it was, besides the references' file and Docker
    /// itself.
    #[must_use]
    pub fn may_be_left(&self) -> Vec<String> {
        let mut left = Vec::new();
        if self.live_restore.is_some() {
            left.push("daemon.json may have live-restore on".to_owned());
        }
        if let Some(stand_in) = &self.stand_in {
            if let Some(mirror) = &stand_in.mirror {
                left.push(format!(
                    "daemon.json may have the mirror {}",
                    mirror.address
                ));
            }
            if stand_in.hosts.is_some() {
                let mark = mark(&self.id);
                left.push(format!("{HOSTS} may have lines that end with {mark}"));
            }
            left.push("some of the digests may be recorded, and others not".to_owned());
        }
        if !self.kept_down.is_empty() {
            left.push("containers that are down may have no restart policy".to_owned());
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use crate::journal::{Hosts, Journal, References, StandIn, hash};

    #[test]
    fn what_may_be_left_is_named_and_nothing_else_is() {
        let references = References {
            driver: "overlay2".to_owned(),
            before: hash(b"before"),
            after: hash(b"after"),
        };
        let mut journal = Journal::new("20261124T113000Z-7", references);
        assert_eq!(journal.may_be_left(), [""; 0]);
        journal.stand_in = Some(StandIn {
            references: Vec::new(),
            mirror: None,
            hosts: Some(Hosts {
                before: hash(b"before"),
                with: hash(b"with"),
            }),
        });
        assert_eq!(
            journal.may_be_left(),
            [
                "/etc/hosts may have lines that end with # digestfix 20261124T113000Z-7",
                "some of the digests may be recorded, and others not"
            ]
        );
    }
}
