//! A change that the running engine makes itself: announce, load, drop, verify;
//! taken back when it fails. Docker is not stopped, and its files are not touched.
//!
//! What is loaded are manifests (`docker load` of an archive of some kilobytes):
//! the engine then has the references, on the layers that are here already. The
//! guard, the notice, the record and the journal are those of every transaction,
//! and [`recovery`] does the rest for a run that was killed.

use std::os::fd::OwnedFd;
use std::path::Path;

use crate::containerd_store::ContainerdStore;
use crate::content_store::ContentStore;
use crate::data_root::ImageDir;
use crate::engine::images::Images;
use crate::grounds::Grounds;
use crate::guard::{Guard, hold_off_shutdown};
use crate::history::{End, Kind, Record};
use crate::host::Managed;
use crate::interrupt::Interrupt;
use crate::journal::{self, Journal, References, hash};
use crate::plan::Plan;
use crate::reference::Reference;
use crate::retention::{self, Limits};
use crate::systemd::ServiceManager;
use crate::transaction::lock::RootLock;
use crate::transaction::outcome::{Failure, Progress, Step};
use crate::unfinished::{self, Notice};

mod drop;
mod known;
pub mod recovery;
pub mod remnant;
mod steps;
pub mod work;

pub use known::known_references;
use remnant::Remnant;
use steps::Steps;
use work::{Pin, Work};

/// Docker, as an online change needs it.
#[derive(Debug)]
pub struct Running<'a, M, E> {
    /// systemd, for the guard.
    pub manager: &'a M,
    /// The engine.
    pub engine: &'a E,
    /// Docker as it was found.
    pub host: &'a Managed,
    /// containerd's blobs.
    pub content: &'a ContentStore,
    /// Where they are, where somebody said so.
    pub containerd_root: Option<&'a Path>,
    /// Where it is noted that the transaction has not ended:
    /// [`UNFINISHED`](crate::unfinished::UNFINISHED) but in tests.
    pub unfinished: &'a Path,
}

impl<M, E> Clone for Running<'_, M, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M, E> Copy for Running<'_, M, E> {}

/// How an online change ended.
#[derive(Debug)]
pub enum Outcome {
    /// The engine has the references as they were to be.
    Done {
        /// What was changed.
        plan: Box<Plan>,
        /// Of what was loaded, the references whose layers the engine has
        /// unpacked only, by its own word.
        run_only: Vec<Reference>,
    },
    /// It failed, and the engine has the references as they were.
    Undone {
        /// Why.
        failure: Failure,
    },
    /// It failed, and the engine has the references as they were, but for these.
    Incomplete {
        /// Why.
        failure: Failure,
        /// What is not as it was.
        left: Vec<Remnant>,
        /// The transaction.
        id: String,
    },
    /// It failed, and so did the way back.
    Broken {
        /// Why the way back was taken.
        failure: Failure,
        /// Why it failed.
        undo: Failure,
        /// The unit that goes on trying.
        guard: Option<String>,
    },
}

/// One change by a running engine.
pub struct OnlineChange<'a, M, E, P> {
    id: String,
    kind: Kind,
    limits: Limits,
    images: &'a ImageDir,
    lock: RootLock,
    running: Running<'a, M, E>,
    interrupt: &'a Interrupt,
    progress: &'a mut P,
    before: Vec<u8>,
    plan: Plan,
    work: Work,
    /// What the engine is asked to load; others may have had it pull the rest.
    made: Vec<Pin>,
    run_only: Vec<Reference>,
    /// What the engine may have and not list.
    known: Vec<Reference>,
    /// The engine may have been asked for something.
    asked: bool,
    journal: Option<Journal>,
    record: Option<Record>,
    guard: Option<Guard>,
    /// A shutdown waits until this is dropped.
    delays_shutdown: Option<OwnedFd>,
}

impl<'a, M: ServiceManager, E: Images, P: Progress> OnlineChange<'a, M, E, P> {
    /// A change that makes `plan`, of what was read under this lock.
    #[allow(clippy::too_many_arguments, reason = "each is another kind of thing")]
    pub fn new(
        images: &'a ImageDir,
        lock: RootLock,
        kind: Kind,
        running: Running<'a, M, E>,
        interrupt: &'a Interrupt,
        progress: &'a mut P,
        here: &ContainerdStore,
        plan: Plan,
        work: Work,
    ) -> Self {
        Self {
            id: journal::new_id(),
            kind,
            limits: Limits::default(),
            images,
            lock,
            running,
            interrupt,
            progress,
            before: here.store.to_bytes(),
            plan,
            made: Vec::new(),
            run_only: Vec::new(),
            known: here.known().collect(),
            asked: false,
            work,
            journal: None,
            record: None,
            guard: None,
            delays_shutdown: None,
        }
    }

    /// The same change, which keeps that much of earlier ones.
    #[must_use]
    pub const fn keeping(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Runs to one of its ends.
    pub async fn run(mut self) -> Outcome {
        match self.forward().await {
            Ok(()) => self.end().await,
            Err(failure) => self.back(failure).await,
        }
    }

    async fn forward(&mut self) -> Result<(), Failure> {
        self.announce().await?;
        self.heed_interrupt().await?;
        self.load().await?;
        self.heed_interrupt().await?;
        self.drop_references().await?;
        self.heed_interrupt().await?;
        self.verify().await
    }

    async fn heed_interrupt(&self) -> Result<(), Failure> {
        match self.interrupt.received().await {
            Some(signal) => Err(Failure::Interrupted(signal)),
            None => Ok(()),
        }
    }

    /// From here on, another run ends this one if it is killed, and one waits to
    /// do so.
    async fn announce(&mut self) -> Result<(), Failure> {
        let Running { manager, host, .. } = self.running;
        self.progress.transaction_begins(&self.id);
        self.progress.begin("starting a guard");
        let data_root = self.lock.data_root();
        self.guard = Some(Guard::start(manager, &self.id, data_root).await?);
        self.delays_shutdown = hold_off_shutdown(manager, "Docker is loading manifests").await;
        Notice::new(self.images, host).write(self.running.unfinished, &self.id, &self.lock)?;
        let references = References {
            driver: self.images.driver().to_owned(),
            before: hash(&self.before),
            after: hash(&self.plan.after.to_bytes()),
        };
        self.record = Some(Record::begin_online(
            &self.lock,
            &self.id,
            self.kind.clone(),
            &references,
            &self.plan,
            &self.work.manifests,
        )?);
        if let (Some(record), Some(root)) = (&mut self.record, self.running.containerd_root) {
            record.containerd_root = Some(root.to_owned());
            record.write(&self.lock)?;
        }
        let mut journal = Journal::new(&self.id, references);
        journal.unit = Some(host.unit.id.clone());
        journal.running = true;
        journal.online = Some(journal::Online {
            added: self.work.added.clone(),
            dropped: self.work.dropped.clone(),
            is_taken_back: false,
            containerd_root: self.running.containerd_root.map(Path::to_owned),
        });
        // However far that comes, it is to be closed.
        Ok(self.journal.insert(journal).write(&self.lock)?)
    }

    fn steps(&self) -> Steps<'_, E> {
        Steps {
            engine: self.running.engine,
            content: self.running.content,
            manifests: &self.work.manifests,
            known: &self.known,
        }
    }

    async fn load(&mut self) -> Result<(), Failure> {
        if self.work.added.is_empty() {
            return Ok(());
        }
        self.progress.begin("loading manifests");
        let missing = self.steps().missing(&self.work.added).await?;
        // What somebody had Docker pull meanwhile is theirs, and stays.
        if let Some(journal) = &mut self.journal
            && let Some(online) = &mut journal.online
            && missing.len() < online.added.len()
        {
            online.added.clone_from(&missing);
            journal.write(&self.lock)?;
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
        self.progress.step(Step::Load, &detail);
        Ok(())
    }

    async fn drop_references(&mut self) -> Result<(), Failure> {
        if self.work.dropped.is_empty() {
            return Ok(());
        }
        self.progress.begin("dropping references");
        self.asked = true;
        let left = self.steps().drop_all(&self.work.dropped).await?;
        if !left.is_empty() {
            return Err(Failure::Remnants(left));
        }
        let detail = match self.work.dropped.len() {
            1 => "1 reference dropped".to_owned(),
            count => format!("{count} references dropped"),
        };
        self.progress.step(Step::Untag, &detail);
        Ok(())
    }

    async fn verify(&mut self) -> Result<(), Failure> {
        self.progress.begin("asking the running engine");
        let steps = self.steps();
        steps.has_all(&self.work.added).await?;
        steps.has_none(&self.work.dropped).await?;
        self.run_only = steps.hollow(&self.work.added).await?;
        self.progress.step(
            Step::Verify,
            "the running engine finds the references as they are to be",
        );
        Ok(())
    }

    async fn end(mut self) -> Outcome {
        let noted = Grounds::record(self.images, &self.lock, &self.plan);
        if let Err(error) = noted {
            self.progress.warning(&format!(
                "what the new references rest on could not be noted for `digestfix status`: {error}"
            ));
        }
        let ended = match self.end_record(End::Done) {
            Ok(()) => {
                self.retire();
                self.close().await
            }
            // Its journal says what it was, to whoever can note it.
            Err(failure) => Err(failure),
        };
        if let Err(failure) = ended {
            self.progress.warning(&format!(
                "{failure}; what is left of this run goes with the next one, or with: digestfix recover"
            ));
        }
        Outcome::Done {
            plan: Box::new(self.plan),
            run_only: self.run_only,
        }
    }

    /// Removes what is too old to be of use, now that there is something newer.
    fn retire(&mut self) {
        for problem in retention::enforce(self.images, &self.lock, &self.id, self.limits) {
            self.progress.warning(&problem);
        }
    }

    async fn back(mut self, failure: Failure) -> Outcome {
        let taken = match self.asked {
            true => self.take_back(&failure).await,
            false => Ok(Vec::new()),
        };
        let taken = match taken {
            Ok(left) => self.end_back(&failure, &left).await.map(|()| left),
            Err(undo) => {
                let why = format!("{failure}; and then, undoing it: {undo}");
                if let Err(error) = self.end_record(End::Broken { why }) {
                    self.progress.warning(&error.to_string());
                }
                Err(undo)
            }
        };
        match taken {
            Ok(left) if left.is_empty() => Outcome::Undone { failure },
            Ok(left) => Outcome::Incomplete {
                failure,
                left,
                id: self.id,
            },
            Err(undo) => {
                let guard = self.guard.map(|guard| guard.unit().to_owned());
                Outcome::Broken {
                    failure,
                    undo,
                    guard,
                }
            }
        }
    }

    async fn end_back(&mut self, failure: &Failure, left: &[Remnant]) -> Result<(), Failure> {
        let ended = self.end_record(match left {
            [] => End::Undone {
                why: failure.to_string(),
            },
            // It has not done what it was for.
            left => End::Undone {
                why: format!("{failure}; taken back, but: {}", remnant::joined(left)),
            },
        });
        match ended {
            // It did nothing, and without an end counts for one that did nothing.
            Err(error) if !self.asked => self
                .progress
                .warning(&format!("how this ended could not be noted: {error}")),
            ended => ended?,
        }
        self.retire();
        self.close().await
    }

    async fn take_back(&mut self, failure: &Failure) -> Result<Vec<Remnant>, Failure> {
        self.progress.begin("taking it back");
        if let Some(journal) = &mut self.journal
            && let Some(online) = &mut journal.online
        {
            online.is_taken_back = true;
            // A full disk keeps nothing from being taken back.
            if let Err(error) = journal.write(&self.lock) {
                tracing::info!("{error}");
            }
        }
        let steps = self.steps();
        let dropped = &self.work.dropped;
        let along = match failure {
            Failure::Remnants(left) => remnant::went_along(left),
            _ => Vec::new(),
        };
        let mut left = match failure {
            // It may be about to do it.
            Failure::Engine(error) if error.may_pass() => {
                steps.take_back_late(&self.made, dropped).await?
            }
            _ => steps.take_back(&self.made, dropped).await?,
        };
        left.extend(along);
        self.progress.step(
            Step::UndoOnline,
            match left.as_slice() {
                [] => "the running engine has the references as they were",
                _ => "the running engine has the references as they were, but for what cannot be",
            },
        );
        Ok(left)
    }

    /// Where that cannot be noted, the journal stays: without it, the record would
    /// count for one of a run that did nothing.
    fn end_record(&mut self, end: End) -> Result<(), Failure> {
        match &mut self.record {
            Some(record) => Ok(record.end(&self.lock, end)?),
            None => Ok(()),
        }
    }

    /// The transaction has ended. Where it has not, its guard goes on.
    async fn close(&mut self) -> Result<(), Failure> {
        if self.journal.is_some() {
            Journal::close(&self.lock)?;
        }
        unfinished::remove(self.running.unfinished, &self.id, &self.lock)?;
        if let Some(guard) = self.guard.take()
            && let Err(error) = guard.end(self.running.manager).await
        {
            tracing::info!("the guard is left to end by itself: {error}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
