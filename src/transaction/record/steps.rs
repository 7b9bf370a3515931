//! The requests to a node's containerd, step by step, forward and back.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::containerd::{ContainerdError, Node, Record};
use crate::image::reference::Reference;
use crate::state::journal::NodeRecord;
use crate::store::node::{NodeStore, is_made_by};
use crate::transaction::leftover::{Leftover, Why};
use crate::transaction::outcome::Failure;

/// The CRI hears of new records by containerd's events, within a second.
const HEARS_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How long a containerd that did not answer is given to be done with it, or to come back.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
const SETTLES: Duration = Duration::from_millis(500);
/// Nothing came for so many looks.
const QUIET_LOOKS: u32 = 4;

#[derive(Debug)]
pub(super) struct Steps<'a, N> {
    pub node: &'a N,
    /// The transaction.
    pub id: &'a str,
}

/// The forms in which a pod may write a reference: the CRI drops a tag beside a digest.
pub(super) fn forms(reference: &Reference, tag: Option<&str>) -> Vec<String> {
    let mut forms = vec![reference.full()];
    if let (Some(digest), Some(tag)) = (reference.digest(), tag) {
        forms.push(format!("{}:{tag}@{digest}", reference.repository().full()));
    }
    forms
}

impl<N: Node> Steps<'_, N> {
    /// Makes records. One that is there and leads to the same is another client's, and as
    /// good.
    pub(super) async fn make(&self, added: &[NodeRecord]) -> Result<(), Failure> {
        for one in added {
            if self.node.create(&one.record).await? {
                continue;
            }
            let found = self.node.record(&one.record.name).await?;
            if !found.is_some_and(|found| leads_alike(&found, &one.record)) {
                return Err(Failure::NodeDisagrees(format!(
                    "another client has made a record {} for something else a moment ago",
                    one.record.name
                )));
            }
        }
        Ok(())
    }

    /// Removes records, and gives those that are better left.
    pub(super) async fn remove(&self, dropped: &[NodeRecord]) -> Result<Vec<Leftover>, Failure> {
        let mut left = Vec::new();
        if dropped.is_empty() {
            return Ok(left);
        }
        let here = NodeStore::read(self.node).await?;
        let names: BTreeSet<String> = dropped.iter().map(|one| one.record.name.clone()).collect();
        for one in dropped {
            let Some(found) = self.node.record(&one.record.name).await? else {
                continue;
            };
            let reference = one.reference.clone();
            if found != one.record {
                let why = Why::Changed;
                left.push(Leftover { reference, why });
            } else if self.another_stands(&here, &found, &names).await? {
                self.node.remove(&found).await?;
            } else {
                let why = Why::LastRecord;
                left.push(Leftover { reference, why });
            }
        }
        Ok(left)
    }

    /// Another record leads to the same now, as it did a moment ago: containerd frees what
    /// none leads to.
    async fn another_stands(
        &self,
        here: &NodeStore,
        record: &Record,
        without: &BTreeSet<String>,
    ) -> Result<bool, Failure> {
        let Some(other) = here.another(record, without) else {
            return Ok(false);
        };
        let found = self.node.record(other).await?;
        Ok(found.is_some_and(|found| leads_alike(&found, record)))
    }

    /// containerd has these records and none of those, and the CRI answers by them.
    pub(super) async fn verify(
        &self,
        added: &[NodeRecord],
        dropped: &[NodeRecord],
    ) -> Result<(), Failure> {
        let here = NodeStore::read(self.node).await?;
        for one in added {
            let record = here.record(&one.reference);
            if !record.is_some_and(|record| leads_alike(record, &one.record)) {
                return Err(Failure::NodeDisagrees(format!(
                    "it does not have the record {} any more, or has it for something else: another client has \
                     removed or changed it a moment ago",
                    one.record.name
                )));
            }
        }
        if let Some(one) = dropped
            .iter()
            .find(|one| here.record(&one.reference).is_some())
        {
            return Err(still_has(one));
        }
        let deadline = Instant::now() + HEARS_WITHIN;
        for one in added {
            let tag = here.tag_beside(&one.reference);
            for form in forms(&one.reference, tag.as_deref()) {
                self.hears(&form, Some(one), deadline).await?;
            }
        }
        for one in dropped {
            self.hears(&one.reference.full(), None, deadline).await?;
        }
        Ok(())
    }

    /// Waits until the CRI answers a reference as it is to.
    async fn hears(
        &self,
        form: &str,
        expected: Option<&NodeRecord>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        loop {
            let found = self.node.cri_image(form).await?;
            if found.as_ref() == expected.map(|one| &one.image_id) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let found = found.map_or("no image".to_owned(), |image| format!("image {image}"));
                return Err(Failure::NodeDisagrees(format!(
                    "the CRI answers {form} with {found} (see: crictl inspecti {form})"
                )));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Has the records again as they were before, and gives those that cannot be had so.
    pub(super) async fn take_back(
        &self,
        added: &[NodeRecord],
        dropped: &[NodeRecord],
    ) -> Result<Vec<Leftover>, Failure> {
        let mut left = Vec::new();
        for one in dropped {
            if self.node.create(&one.record).await? {
                continue;
            }
            let found = self.node.record(&one.record.name).await?;
            if !found.is_some_and(|found| leads_alike(&found, &one.record)) {
                let reference = one.reference.clone();
                let why = Why::Changed;
                left.push(Leftover { reference, why });
            }
        }
        left.extend(self.remove(&self.made(added).await?).await?);
        Ok(left)
    }

    /// Those of the records that this transaction made: what other clients made meanwhile
    /// is theirs.
    async fn made(&self, added: &[NodeRecord]) -> Result<Vec<NodeRecord>, ContainerdError> {
        let mut made = Vec::new();
        for one in added {
            let found = self.node.record(&one.record.name).await?;
            if let Some(record) = found.filter(|found| is_made_by(found, self.id)) {
                made.push(NodeRecord {
                    record,
                    ..one.clone()
                });
            }
        }
        Ok(made)
    }

    /// The same, once a containerd that did not answer is done with what it may still have
    /// been about to do.
    pub(super) async fn take_back_late(
        &self,
        added: &[NodeRecord],
        dropped: &[NodeRecord],
    ) -> Result<Vec<Leftover>, Failure> {
        let deadline = Instant::now() + SETTLES_WITHIN;
        let mut quiet = 0;
        loop {
            let taken = match self.take_back(added, dropped).await {
                Err(Failure::Containerd(error))
                    if error.may_pass() && Instant::now() < deadline =>
                {
                    quiet = 0;
                    sleep(SETTLES).await;
                    continue;
                }
                taken => taken?,
            };
            quiet += 1;
            if quiet > QUIET_LOOKS {
                return Ok(taken);
            }
            sleep(SETTLES).await;
        }
    }
}

fn leads_alike(one: &Record, other: &Record) -> bool {
    one.target.digest == other.target.digest
}

fn still_has(one: &NodeRecord) -> Failure {
    Failure::NodeDisagrees(format!("it still has the record {}", one.record.name))
}
