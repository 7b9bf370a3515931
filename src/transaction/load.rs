//! Load method: makes the running Docker load manifests and drop references, verifies the
//! result, and undoes the change if a step fails. digestfix neither stops Docker nor
//! touches Docker's files.
//!
//! digestfix loads only manifests. It sends them to Docker in an archive of some
//! kilobytes, as `docker load` would send an archive. Docker then has the new references,
//! and uses the layers that are already on this host. If a run is killed, [`recovery`]
//! finishes the run.

use std::path::Path;

use crate::docker::content_store::ContentStore;
use crate::docker::engine::images::Images;
use crate::image::reference::Reference;
use crate::state::history::How;
use crate::state::journal::{self, Intent, Pin, References, hash};
use crate::state::method;
use crate::store::containerd::ContainerdStore;
use crate::systemd::ServiceManager;
use crate::transaction::leftover::{Leftover, went_along};
use crate::transaction::outcome::{DockerNow, Failure, HostNow, Step, StoreNow};
use crate::transaction::{Begun, Docker, Found, Method, Tx};

mod drop;
mod known;
pub mod planned;
pub mod recovery;
mod steps;
#[cfg(test)]
mod tests;
pub mod work;

pub use known::known_references;
use steps::Steps;
use work::Work;

/// What a load needs to know about the running Docker.
#[derive(Debug)]
pub struct Running<'a, M, E> {
    /// systemd, the detected Docker, and the directory of the pending markers.
    pub docker: Docker<'a, M>,
    pub engine: &'a E,
    /// containerd's content store.
    pub content: &'a ContentStore,
    /// containerd's root directory, if the user gave one.
    pub containerd_root: Option<&'a Path>,
}

impl<M, E> Clone for Running<'_, M, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M, E> Copy for Running<'_, M, E> {}

/// One change of references that a running Docker makes.
pub struct Load<'a, M, E> {
    running: Running<'a, M, E>,
    before: Vec<u8>,
    work: Work,
    /// The references that this load adds. Other clients have meanwhile pulled the rest
    /// of the planned references.
    made: Vec<Pin>,
    run_only: Vec<Reference>,
    /// References that the engine may have without listing them.
    known: Vec<Reference>,
    /// Whether a request may have reached the engine, so that undo has to send requests
    /// too.
    asked: bool,
}

impl<'a, M: ServiceManager, E: Images> Load<'a, M, E> {
    /// Creates a load that carries out `work`. The caller determined this work from the
    /// store `here`.
    pub fn new(running: Running<'a, M, E>, here: &ContainerdStore, work: Work) -> Self {
        Self {
            running,
            before: here.store.to_bytes(),
            made: Vec::new(),
            run_only: Vec::new(),
            known: here.known().collect(),
            asked: false,
            work,
        }
    }

    fn steps(&self) -> Steps<'_, E> {
        Steps {
            engine: self.running.engine,
            content: self.running.content,
            manifests: &self.work.manifests,
            known: &self.known,
        }
    }

    async fn load(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        if self.work.added.is_empty() {
            return Ok(());
        }
        tx.progress.begin("loading manifests");
        let missing = self.steps().missing(&self.work.added).await?;
        // References that another client pulled meanwhile belong to that client, so undo
        // keeps them.
        if let Some(load) = tx.load()
            && missing.len() < load.added.len()
        {
            load.added.clone_from(&missing);
            tx.write_journal()?;
        }
        self.made = missing;
        if self.made.is_empty() {
            return Ok(());
        }
        self.asked = true;
        self.steps().load(&self.made).await?;
        let detail = match self.made.len() {
            1 => "1 manifest loaded: the engine has its digest".to_owned(),
            count => format!("{count} manifests loaded: the engine has their digests"),
        };
        tx.progress.step(Step::Load, &detail);
        Ok(())
    }

    async fn drop_references(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        if self.work.dropped.is_empty() {
            return Ok(());
        }
        tx.progress.begin("dropping references");
        self.asked = true;
        let left = self.steps().drop_all(&self.work.dropped).await?;
        if !left.is_empty() {
            return Err(Failure::Leftovers(left));
        }
        let detail = match self.work.dropped.len() {
            1 => "1 reference dropped".to_owned(),
            count => format!("{count} references dropped"),
        };
        tx.progress.step(Step::Untag, &detail);
        Ok(())
    }

    async fn verify(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        tx.progress.begin("asking the running engine");
        let Work { added, dropped, .. } = &self.work;
        self.run_only = self.steps().verify(added, dropped).await?;
        tx.progress
            .step(Step::Verify, "the running engine has the new references");
        Ok(())
    }
}

impl<M: ServiceManager, E: Images> Method<M> for Load<'_, M, E> {
    const DOING: &'static str = "Docker is loading manifests";

    async fn begin(&mut self, tx: &mut Tx<'_, M>) -> Result<Begun, Failure> {
        let containerd_root = self.running.containerd_root.map(Path::to_owned);
        Ok(Begun {
            intent: Intent::Load(journal::Load {
                unit: self.running.docker.host.unit.id.clone(),
                added: self.work.added.clone(),
                dropped: self.work.dropped.clone(),
                is_taken_back: false,
                containerd_root: containerd_root.clone(),
            }),
            references: References {
                driver: tx.images.driver().to_owned(),
                before: hash(&self.before),
                after: hash(&tx.plan.after.to_bytes()),
            },
            how: How {
                method: Some(method::Method::Load),
                manifests: self.work.manifests.clone(),
                containerd_root,
                daemon_json: None,
            },
        })
    }

    async fn apply(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        tx.heed_interrupt().await?;
        self.load(tx).await?;
        tx.heed_interrupt().await?;
        self.drop_references(tx).await?;
        tx.heed_interrupt().await?;
        self.verify(tx).await
    }

    async fn undo(&mut self, tx: &mut Tx<'_, M>, why: &Failure) -> Result<Vec<Leftover>, Failure> {
        if let Some(load) = tx.load() {
            load.is_taken_back = true;
            // Undo continues even if a full disk prevents writing the journal.
            if let Err(error) = tx.write_journal() {
                tracing::info!("{error}");
            }
        }
        if !self.asked {
            return Ok(Vec::new());
        }
        let steps = self.steps();
        let dropped = &self.work.dropped;
        let along = match why {
            Failure::Leftovers(left) => went_along(left),
            _ => Vec::new(),
        };
        let mut left = match why {
            // The engine may still carry out the request.
            Failure::Engine(error) if error.may_pass() => {
                steps.take_back_late(&self.made, dropped).await?
            }
            _ => steps.take_back(&self.made, dropped).await?,
        };
        left.extend(along);
        tx.progress.step(
            Step::UndoLoad,
            match left.as_slice() {
                [] => "the running engine has its former references again",
                _ => {
                    "the running engine has its former references again, except those that \
                      could not be restored"
                }
            },
        );
        Ok(left)
    }

    async fn restore(&mut self, _: &mut Tx<'_, M>) -> Result<(), Failure> {
        Ok(())
    }

    async fn found(&mut self, _: &mut Tx<'_, M>) -> Found {
        Found {
            run_only: self.run_only.clone(),
            ..Found::default()
        }
    }

    async fn now(&self, _: &Tx<'_, M>) -> HostNow {
        HostNow {
            store: StoreNow::Mixed,
            left: Vec::new(),
            docker: Some(DockerNow::NotStopped),
        }
    }
}
