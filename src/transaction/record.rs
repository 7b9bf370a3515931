//! Record method: on a Kubernetes node, containerd records the digest of an image as an
//! additional name for it. digestfix changes only such records, and stops nothing.
//!
//! digestfix labels each record that it makes with the transaction's ID. Undo, recovery
//! and rollback remove only records with that label, never those of other clients. If a
//! run is killed, [`recovery`] finishes the run.

use std::path::PathBuf;

use crate::containerd::Node;
use crate::state::history::How;
use crate::state::journal::{self, Intent, References, hash};
use crate::state::method;
use crate::store::node::{NodeStore, TRANSACTION};
use crate::systemd::ServiceManager;
use crate::transaction::leftover::Leftover;
use crate::transaction::outcome::{DockerNow, Failure, HostNow, Step, StoreNow};
use crate::transaction::{Begun, Found, Method, Tx};

pub mod planned;
pub mod recovery;
mod steps;
#[cfg(test)]
mod tests;
pub mod work;

use steps::Steps;
use work::Work;

/// One change of the image records in a node's containerd.
pub struct Recording<'a, N> {
    node: &'a N,
    socket: PathBuf,
    before: Vec<u8>,
    work: Work,
    /// Whether a request may have reached containerd. If so, undo has to send requests
    /// too.
    asked: bool,
}

impl<'a, N: Node> Recording<'a, N> {
    /// Creates a change that carries out `work`. The caller computed `work` from `here`,
    /// the state of the store.
    pub fn new(node: &'a N, socket: PathBuf, here: &NodeStore, work: Work) -> Self {
        Self {
            node,
            socket,
            before: here.store.to_bytes(),
            work,
            asked: false,
        }
    }

    fn steps<'s>(&'s self, id: &'s str) -> Steps<'s, N> {
        Steps {
            node: self.node,
            id,
        }
    }

    async fn make<M: ServiceManager>(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        if self.work.added.is_empty() {
            return Ok(());
        }
        tx.progress.begin("recording digests");
        self.asked = true;
        self.steps(&tx.id).make(&self.work.added).await?;
        let detail = match self.work.added.len() {
            1 => "containerd has 1 more record".to_owned(),
            count => format!("containerd has {count} more records"),
        };
        tx.progress.step(Step::Record, &detail);
        Ok(())
    }

    async fn drop_records<M: ServiceManager>(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        if self.work.dropped.is_empty() {
            return Ok(());
        }
        tx.progress.begin("removing records");
        self.asked = true;
        let left = self.steps(&tx.id).remove(&self.work.dropped).await?;
        if !left.is_empty() {
            return Err(Failure::Leftovers(left));
        }
        let detail = match self.work.dropped.len() {
            1 => "1 record removed".to_owned(),
            count => format!("{count} records removed"),
        };
        tx.progress.step(Step::RemoveRecord, &detail);
        Ok(())
    }
}

impl<M: ServiceManager, N: Node> Method<M> for Recording<'_, N> {
    const DOING: &'static str = "containerd is recording digests";

    async fn begin(&mut self, tx: &mut Tx<'_, M>) -> Result<Begun, Failure> {
        for one in &mut self.work.added {
            let labels = &mut one.record.labels;
            labels.insert(TRANSACTION.to_owned(), tx.id.clone());
        }
        Ok(Begun {
            intent: Intent::Record(journal::Records {
                socket: self.socket.clone(),
                added: self.work.added.clone(),
                dropped: self.work.dropped.clone(),
                is_taken_back: false,
            }),
            references: References {
                driver: tx.images.driver().to_owned(),
                before: hash(&self.before),
                after: hash(&tx.plan.after.to_bytes()),
            },
            how: How {
                method: Some(method::Method::Record),
                ..How::default()
            },
        })
    }

    async fn apply(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        tx.heed_interrupt().await?;
        self.make(tx).await?;
        tx.heed_interrupt().await?;
        self.drop_records(tx).await?;
        tx.heed_interrupt().await?;
        tx.progress.begin("asking the CRI");
        let Work { added, dropped } = &self.work;
        self.steps(&tx.id).verify(added, dropped).await?;
        let told = "containerd has the new records, and the CRI finds the images by these records";
        tx.progress.step(Step::Verify, told);
        Ok(())
    }

    async fn undo(&mut self, tx: &mut Tx<'_, M>, why: &Failure) -> Result<Vec<Leftover>, Failure> {
        if let Some(records) = tx.records() {
            records.is_taken_back = true;
            // Undo continues even if a full disk prevents writing the journal.
            if let Err(error) = tx.write_journal() {
                tracing::info!("{error}");
            }
        }
        if !self.asked {
            return Ok(Vec::new());
        }
        let steps = self.steps(&tx.id);
        let Work { added, dropped } = &self.work;
        let left = match why {
            // containerd may still carry out the request.
            Failure::Containerd(error) if error.may_pass() => {
                steps.take_back_late(added, dropped).await?
            }
            _ => steps.take_back(added, dropped).await?,
        };
        tx.progress.step(
            Step::UndoRecord,
            match left.as_slice() {
                [] => "containerd has its former records again",
                _ => {
                    "containerd has its former records again, except those that could not be \
                      restored"
                }
            },
        );
        Ok(left)
    }

    async fn restore(&mut self, _: &mut Tx<'_, M>) -> Result<(), Failure> {
        Ok(())
    }

    async fn found(&mut self, _: &mut Tx<'_, M>) -> Found {
        Found::default()
    }

    async fn now(&self, _: &Tx<'_, M>) -> HostNow {
        HostNow {
            store: StoreNow::Mixed,
            left: Vec::new(),
            docker: Some(DockerNow::None),
        }
    }
}
