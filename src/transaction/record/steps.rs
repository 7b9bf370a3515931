//! Requests to a node's containerd: make records, remove records, verify and undo.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::containerd::{AT_ONCE, ContainerdError, Node, Record};
use crate::image::reference::Reference;
use crate::state::journal::NodeRecord;
use crate::store::node::{NodeStore, is_made_by};
use crate::sys::in_flight::all;
use crate::transaction::leftover::{Leftover, Why};
use crate::transaction::outcome::Failure;

/// digestfix asks the CRI by name for at most this many references, in every form of the
/// name. For the other references, it only checks the CRI's list.
const ASKED_FOR: usize = 64;

/// How long to wait for the CRI to notice new records. Usually, containerd's events reach
/// the CRI within a second.
const HEARS_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// If containerd does not answer a request, undo waits at most this long for containerd
/// to answer again.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
const SETTLES: Duration = Duration::from_millis(500);
/// Once undo has succeeded more than this many times in a row, digestfix assumes that
/// containerd has finished the unanswered request.
const QUIET_LOOKS: u32 = 4;

#[derive(Debug)]
pub(super) struct Steps<'a, N> {
    pub node: &'a N,
    /// The ID of the transaction.
    pub id: &'a str,
}

/// The forms in which a pod may write the name of an image. If a name has a tag and a
/// digest, the CRI ignores the tag.
pub(super) fn forms(reference: &Reference, tag: Option<&str>) -> Vec<String> {
    let mut forms = vec![reference.full()];
    if let (Some(digest), Some(tag)) = (reference.digest(), tag) {
        forms.push(format!("{}:{tag}@{digest}", reference.repository().full()));
    }
    forms
}

/// Returns a sample of at most [`ASKED_FOR`] elements, evenly spread over the list.
pub(super) fn to_be_asked_for<T>(all: &[T]) -> impl Iterator<Item = &T> {
    all.iter().step_by(all.len().div_ceil(ASKED_FOR).max(1))
}

/// Fails unless containerd has the added records, and none of the dropped records.
fn see_records(
    here: &NodeStore,
    added: &[NodeRecord],
    dropped: &[NodeRecord],
) -> Result<(), Failure> {
    for one in added {
        let record = here.record(&one.reference);
        if !record.is_some_and(|record| leads_alike(record, &one.record)) {
            return Err(Failure::NodeDisagrees(format!(
                "another client removed or changed the record {} a moment ago",
                one.record.name
            )));
        }
    }
    match dropped
        .iter()
        .find(|one| here.record(&one.reference).is_some())
    {
        Some(one) => Err(still_has(one)),
        None => Ok(()),
    }
}

impl<N: Node> Steps<'_, N> {
    /// Makes records. Accepts an existing record of another client if it points at the
    /// same target.
    pub(super) async fn make(&self, added: &[NodeRecord]) -> Result<(), Failure> {
        all(added.iter().map(|one| self.make_one(&one.record)), AT_ONCE).await?;
        Ok(())
    }

    async fn make_one(&self, record: &Record) -> Result<(), Failure> {
        if self.node.create(record).await? {
            return Ok(());
        }
        let found = self.node.record(&record.name).await?;
        match found.is_some_and(|found| leads_alike(&found, record)) {
            true => Ok(()),
            false => Err(Failure::NodeDisagrees(format!(
                "another client made a record {} for another image a moment ago",
                record.name
            ))),
        }
    }

    /// Removes records. Returns the records that it did not remove, and why.
    pub(super) async fn remove(&self, dropped: &[NodeRecord]) -> Result<Vec<Leftover>, Failure> {
        if dropped.is_empty() {
            return Ok(Vec::new());
        }
        let here = NodeStore::read(self.node).await?;
        let names: BTreeSet<String> = dropped.iter().map(|one| one.record.name.clone()).collect();
        let removed = dropped
            .iter()
            .map(|one| self.remove_one(one, &here, &names));
        let left = all(removed, AT_ONCE).await?.into_iter().zip(dropped);
        let left = left.filter_map(|(why, one)| {
            let reference = one.reference.clone();
            why.map(|why| Leftover { reference, why })
        });
        Ok(left.collect())
    }

    /// Removes a record, or returns the reason for not removing it.
    async fn remove_one(
        &self,
        one: &NodeRecord,
        here: &NodeStore,
        names: &BTreeSet<String>,
    ) -> Result<Option<Why>, Failure> {
        let Some(found) = self.node.record(&one.record.name).await? else {
            return Ok(None);
        };
        if found != one.record {
            return Ok(Some(Why::Changed));
        }
        if !self.another_stands(here, &found, names).await? {
            return Ok(Some(Why::LastRecord));
        }
        self.node.remove(&found).await?;
        Ok(None)
    }

    /// Asks containerd once more whether another record points at the same target,
    /// because containerd frees content that no record points at.
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

    /// Checks that containerd has the added records and none of the dropped records, and
    /// that the CRI lists the added records. Also asks the CRI by name for a sample of
    /// the added records, and for a sample of the dropped records. Asks for added records
    /// in each form of the name.
    pub(super) async fn verify(
        &self,
        added: &[NodeRecord],
        dropped: &[NodeRecord],
    ) -> Result<(), Failure> {
        let here = self.listed(added, dropped).await?;
        let deadline = Instant::now() + HEARS_WITHIN;
        let asked = to_be_asked_for(added).flat_map(|one| {
            let tag = here.tag_beside(&one.reference);
            let forms = forms(&one.reference, tag.as_deref());
            forms.into_iter().map(move |form| (form, Some(one)))
        });
        let gone = to_be_asked_for(dropped).map(|one| (one.reference.full(), None));
        let heard = asked
            .chain(gone)
            .map(|(form, expected)| self.hears(form, expected, deadline));
        all(heard, AT_ONCE).await?;
        Ok(())
    }

    /// Waits until the CRI lists all added records. Keeps waiting as long as the number
    /// of listed records grows. The CRI handles events one by one, and takes some 20 ms
    /// for an image with many names.
    async fn listed(
        &self,
        added: &[NodeRecord],
        dropped: &[NodeRecord],
    ) -> Result<NodeStore, Failure> {
        let mut fewest = usize::MAX;
        let mut deadline = Instant::now();
        let mut pause = LOOK_AGAIN;
        loop {
            let here = NodeStore::read(self.node).await?;
            see_records(&here, added, dropped)?;
            let is_listed = |one: &&NodeRecord| here.store.points_at(&one.reference, &one.image_id);
            let unlisted: Vec<&NodeRecord> = added.iter().filter(|one| !is_listed(one)).collect();
            let Some(one) = unlisted.first() else {
                return Ok(here);
            };
            if unlisted.len() < fewest {
                fewest = unlisted.len();
                deadline = Instant::now() + HEARS_WITHIN;
            }
            if Instant::now() > deadline {
                return Err(Failure::NodeDisagrees(format!(
                    "the CRI does not list {} for image {}",
                    one.record.name, one.image_id
                )));
            }
            sleep(pause).await;
            pause = SETTLES.min(pause * 2);
        }
    }

    /// Waits until the CRI gives the expected answer for a reference.
    async fn hears(
        &self,
        form: String,
        expected: Option<&NodeRecord>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        loop {
            let found = self.node.cri_image(&form).await?;
            if found.as_ref() == expected.map(|one| &one.image_id) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let found = found.map_or("no image".to_owned(), |image| format!("image {image}"));
                return Err(Failure::NodeDisagrees(format!(
                    "for {form}, the CRI finds {found} (see: crictl inspecti {form})"
                )));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Restores the former state of the records. Returns the records that it could not
    /// restore.
    pub(super) async fn take_back(
        &self,
        added: &[NodeRecord],
        dropped: &[NodeRecord],
    ) -> Result<Vec<Leftover>, Failure> {
        let put_back = dropped.iter().map(|one| self.put_back(one));
        let left = all(put_back, AT_ONCE).await?.into_iter().flatten();
        let mut left: Vec<Leftover> = left.collect();
        left.extend(self.remove(&self.made(added).await?).await?);
        Ok(left)
    }

    /// Creates a dropped record again. If another client has meanwhile created a record
    /// with that name for another target, returns the reference as one that could not be
    /// restored.
    async fn put_back(&self, one: &NodeRecord) -> Result<Option<Leftover>, ContainerdError> {
        if self.node.create(&one.record).await? {
            return Ok(None);
        }
        let found = self.node.record(&one.record.name).await?;
        let is_back = found.is_some_and(|found| leads_alike(&found, &one.record));
        Ok((!is_back).then(|| Leftover {
            reference: one.reference.clone(),
            why: Why::Changed,
        }))
    }

    /// The records that this transaction made, without records that other clients have
    /// made in the meantime.
    async fn made(&self, added: &[NodeRecord]) -> Result<Vec<NodeRecord>, ContainerdError> {
        let found = added.iter().map(|one| self.node.record(&one.record.name));
        let found = all(found, AT_ONCE).await?.into_iter().zip(added);
        let made = found.filter_map(|(found, one)| {
            let record = found.filter(|found| is_made_by(found, self.id))?;
            Some(NodeRecord {
                record,
                ..one.clone()
            })
        });
        Ok(made.collect())
    }

    /// Does the same as [`Steps::take_back`] after a request that containerd did not
    /// answer and may still carry out. Repeats the undo until containerd makes no more
    /// changes.
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
    Failure::NodeDisagrees(format!(
        "containerd still has the record {}",
        one.record.name
    ))
}
