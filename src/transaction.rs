//! Transaction engine. A transaction changes image references, restores everything else
//! that it touched on the host, and records how it ended. If a step fails, the
//! transaction undoes its changes.
//!
//! A [`Method`] changes the references. The [`restart`] method stops Docker and replaces
//! its reference file. The [`load`] method makes the running Docker load manifests. The
//! [`record`] method adds image names to the containerd of a Kubernetes node. This module
//! does what all methods have in common: it manages the watchdog, the pending marker, the
//! history record and the journal. If a run is killed, [`recovery`] finishes the run.

pub mod reserve;
pub mod watchdog;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::docker::container::Change;
use crate::host::Managed;
use crate::image::reference::Reference;
use crate::plan::Plan;
use crate::state::history::{End, How, Kind, Record};
use crate::state::id::new_id;
use crate::state::journal::{self, Intent, Journal, References};
use crate::state::loading::Loading;
use crate::state::lock::RootLock;
use crate::state::pending::{self, Marker};
use crate::state::provenance::Provenance;
use crate::state::retention::{self, Limits};
use crate::store::data_root::ImageDir;
use crate::sys::interrupt::Interrupt;
use crate::systemd::ServiceManager;
use crate::transaction::watchdog::{Watchdog, hold_off_shutdown};

pub mod goal;
pub mod image_store;
pub mod leftover;
pub mod load;
pub mod outcome;
pub mod record;
pub mod recovery;
pub mod restart;

use leftover::Leftover;
use outcome::{Ended, Failure, HostNow, Outcome, Progress};

/// What every method needs to know about the Docker that it changes.
#[derive(Debug)]
pub struct Docker<'a, M> {
    pub manager: &'a M,
    pub host: &'a Managed,
    /// The directory with a pending marker for each unfinished transaction. Except in
    /// tests, this is [`PENDING`](crate::state::pending::PENDING).
    pub pending: &'a Path,
}

impl<M> Clone for Docker<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Docker<'_, M> {}

impl<'a, M> Docker<'a, M> {
    pub const fn supervisor(&self) -> Supervisor<'a, M> {
        Supervisor {
            manager: self.manager,
            pending: self.pending,
        }
    }

    /// Adds the pending marker: the file in which a recovery reads where this Docker
    /// keeps its images.
    pub fn supervised(&self, images: &ImageDir) -> Supervised<'a, M> {
        Supervised {
            by: self.supervisor(),
            marker: Marker::new(images, self.host),
        }
    }
}

/// Ensures that a killed run is recovered. systemd runs a watchdog for each run, and a
/// directory contains a pending marker for each unfinished run.
#[derive(Debug)]
pub struct Supervisor<'a, M> {
    /// systemd, which runs the watchdog.
    pub manager: &'a M,
    /// The directory with a pending marker for each unfinished transaction. Except in
    /// tests, this is [`PENDING`](crate::state::pending::PENDING).
    pub pending: &'a Path,
}

impl<M> Clone for Supervisor<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Supervisor<'_, M> {}

/// A [`Supervisor`], and the pending marker that tells a recovery where the images are.
#[derive(Debug)]
pub struct Supervised<'a, M> {
    pub by: Supervisor<'a, M>,
    pub marker: Marker,
}

/// What a method is about to do. [`Tx`] writes this to disk before the method changes
/// anything.
#[derive(Debug)]
pub struct Begun {
    /// For the journal.
    pub intent: Intent,
    pub references: References,
    /// What the history record says about the method.
    pub how: How,
}

/// A way to change the references of a host.
pub trait Method<M> {
    /// The reason that logind shows for a delayed shutdown.
    const DOING: &'static str;

    /// Returns what the method is about to do. Touches nothing.
    async fn begin(&mut self, tx: &mut Tx<'_, M>) -> Result<Begun, Failure>;

    /// Changes the references, and verifies that they are as planned. If this fails,
    /// [`Tx`] calls [`Method::undo`].
    async fn apply(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure>;

    /// Restores the references to their state at the beginning of the transaction.
    /// [`Method::apply`] may have failed at any step. Returns the references that it
    /// could not restore. Fails if Docker is not running afterwards, or if the references
    /// may be a mixture of old and new ones.
    async fn undo(&mut self, tx: &mut Tx<'_, M>, why: &Failure) -> Result<Vec<Leftover>, Failure>;

    /// Restores everything that the method touched, except the references.
    async fn restore(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure>;

    /// Returns what the report at the end of the transaction says about the host.
    async fn found(&mut self, tx: &mut Tx<'_, M>) -> Found;

    /// Returns the state of the host after a failed undo.
    async fn now(&self, tx: &Tx<'_, M>) -> HostNow;
}

#[derive(Debug, Default)]
pub struct Found {
    /// The containers that the transaction has changed.
    pub containers: Vec<Change>,
    /// The path of the former reference store, kept as a backup.
    pub backup: Option<PathBuf>,
    /// The loaded references whose layers Docker has only in unpacked form. Docker can
    /// run containers of these images, but `docker push` of these images fails.
    pub run_only: Vec<Reference>,
    /// Whether undo started Docker again, so that Docker was unavailable for a while.
    pub restarted: bool,
}

/// One transaction. This type is the same for all methods.
pub struct Tx<'a, M> {
    /// The ID of the transaction. The names of its files contain this ID.
    id: String,
    images: &'a ImageDir,
    lock: RootLock,
    kind: Kind,
    limits: Limits,
    supervised: Option<Supervised<'a, M>>,
    interrupt: &'a Interrupt,
    progress: &'a mut dyn Progress,
    plan: Plan,
    record: Option<Record>,
    journal: Option<Journal>,
    watchdog: Option<Watchdog>,
    /// logind delays a shutdown until this descriptor is closed.
    delays_shutdown: Option<OwnedFd>,
}

impl<'a, M: ServiceManager> Tx<'a, M> {
    /// Creates a transaction that applies `plan`. The caller made the plan while it held
    /// `lock`. If `supervised` is `None`, the transaction only edits files: there is no
    /// Docker to manage, and no watchdog.
    #[allow(
        clippy::too_many_arguments,
        reason = "each argument has its own type, so the compiler finds swapped arguments"
    )]
    pub fn new(
        images: &'a ImageDir,
        lock: RootLock,
        kind: Kind,
        limits: Limits,
        supervised: Option<Supervised<'a, M>>,
        interrupt: &'a Interrupt,
        progress: &'a mut dyn Progress,
        plan: Plan,
    ) -> Self {
        Self {
            id: new_id(),
            images,
            lock,
            kind,
            limits,
            supervised,
            interrupt,
            progress,
            plan,
            record: None,
            journal: None,
            watchdog: None,
            delays_shutdown: None,
        }
    }

    /// Runs the transaction to its end.
    pub async fn run(mut self, mut method: impl Method<M>) -> Outcome {
        let applied = match self.begin(&mut method).await {
            Ok(()) => method.apply(&mut self).await,
            begun => begun,
        };
        let ended = match applied {
            Ok(()) => self.end(&mut method).await,
            Err(failure) => self.back(&mut method, failure).await,
        };
        let Found {
            containers,
            backup,
            run_only,
            restarted,
        } = match ended {
            Ended::Broken { .. } => Found::default(),
            _ => method.found(&mut self).await,
        };
        Outcome {
            id: self.id,
            ended,
            plan: Box::new(self.plan),
            containers,
            backup,
            run_only,
            restarted,
            watchdog: self.watchdog.map(|watchdog| watchdog.unit().to_owned()),
        }
    }

    /// Makes a killed run recoverable before the method changes anything. Starts the
    /// watchdog, then writes the pending marker, the history record and the journal.
    /// `close` removes the journal first, then the marker, and ends the watchdog last. So
    /// whenever a journal is on disk, a pending marker leads a recovery to it.
    async fn begin<R: Method<M>>(&mut self, method: &mut R) -> Result<(), Failure> {
        self.progress.transaction_begins(&self.id);
        let begun = method.begin(self).await?;
        if let Some(Supervised { by, marker }) = &self.supervised {
            self.progress.begin("starting a watchdog");
            let data_root = self.lock.data_root();
            self.watchdog = Some(Watchdog::start(by.manager, &self.id, data_root).await?);
            self.delays_shutdown = hold_off_shutdown(by.manager, R::DOING).await;
            marker.write(by.pending, &self.id, &self.lock)?;
        }
        self.record = Some(Record::begin(
            &self.lock,
            &self.id,
            self.kind.clone(),
            &begun.references,
            &self.plan,
            begun.how,
        )?);
        let journal = Journal::new(&self.id, begun.references, begun.intent);
        // Set `self.journal` before the file is written, so that `close` removes even a
        // half-written file.
        Ok(self.journal.insert(journal).write(&self.lock)?)
    }

    async fn heed_interrupt(&self) -> Result<(), Failure> {
        match self.interrupt.received().await {
            Some(signal) => Err(Failure::Interrupted(signal)),
            None => Ok(()),
        }
    }

    /// Ends a transaction whose references are changed and verified. From here on,
    /// digestfix undoes nothing.
    async fn end(&mut self, method: &mut impl Method<M>) -> Ended {
        let restored = method.restore(self).await;
        self.record_provenance();
        let changed = self.is_change();
        let end = |problem: Option<&Failure>| match problem {
            None => End::Done,
            Some(problem) => End::Incomplete {
                why: problem.to_string(),
            },
        };
        match self.conclude(restored, end, changed).await {
            Ok(()) => {
                // Remove the file that marks an interrupted `digestfix load`. The present
                // run has recorded the digests of that load, or has warned at its start
                // that these digests may be missing.
                if let Err(error) = Loading::end(&self.lock) {
                    self.progress.warning(&error);
                }
                self.retire(true);
                Ended::Done
            }
            Err(problem) => Ended::Incomplete { problem },
        }
    }

    /// Undoes the transaction because of `failure`, which may come from any step.
    async fn back(&mut self, method: &mut impl Method<M>, failure: Failure) -> Ended {
        self.progress.warning(&format!("{failure}; undoing"));
        self.progress.begin("undoing");
        let undone = method.undo(self, &failure).await;
        let restored = method.restore(self).await;
        let (undone, left) = match undone {
            Ok(left) => (restored, left),
            Err(undo) => (Err(undo), Vec::new()),
        };
        let taken_back = match left.as_slice() {
            [] => failure.to_string(),
            left => format!("{failure}; undone, except: {}", leftover::joined(left)),
        };
        let end = |undo: Option<&Failure>| match undo {
            None => End::Undone {
                why: taken_back.clone(),
            },
            Some(undo) => End::Broken {
                why: format!("{failure}; and the undo failed: {undo}"),
            },
        };
        match self.conclude(undone, end, !left.is_empty()).await {
            Ok(()) => {
                self.retire(false);
                Ended::Undone { failure, left }
            }
            Err(undo) => Ended::Broken {
                now: method.now(self).await,
                failure,
                undo,
            },
        }
    }

    fn is_change(&self) -> bool {
        !self.plan.is_empty()
    }

    fn record_provenance(&mut self) {
        if !self.is_change() {
            return;
        }
        let recorded = Provenance::record(self.images, &self.lock, &self.plan);
        if let Err(error) = recorded {
            self.progress.warning(&format!(
                "digestfix could not save where the new references come from, so \
                 `digestfix status` may not show it: {error}"
            ));
        }
    }

    /// Writes to the history record how the run ended, and closes the transaction. If
    /// this fails, the watchdog keeps trying to finish the transaction. `changed` is true
    /// if the references differ from those at the beginning.
    async fn conclude(
        &mut self,
        ended: Result<(), Failure>,
        end: impl Fn(Option<&Failure>) -> End,
        changed: bool,
    ) -> Result<(), Failure> {
        match self.end_record(end(ended.as_ref().err())) {
            // If a history record does not say how its run ended, a later run adds the
            // outcome. It usually derives the outcome from the contents of Docker's
            // reference file. With the load and record methods, however, the later run
            // would write that nothing has changed. This run has changed references, so
            // keep the journal.
            Err(failure) if ended.is_ok() && changed && self.is_told_by_its_record_alone() => {
                return Err(failure);
            }
            noted => self.warn_of_end(noted),
        }
        ended?;
        let closed = self.close().await;
        if let Err(failure) = &closed {
            let noted = self.end_record(end(Some(failure)));
            self.warn_of_end(noted);
        }
        closed
    }

    fn warn_of_end(&mut self, noted: Result<(), Failure>) {
        if let Err(failure) = noted {
            self.progress.warning(&format!(
                "digestfix could not record how this run ended: {failure}"
            ));
        }
    }

    fn is_told_by_its_record_alone(&self) -> bool {
        let intent = self.journal.as_ref().map(|journal| &journal.intent);
        matches!(intent, Some(Intent::Load(_) | Intent::Record(_)))
    }

    fn end_record(&mut self, end: End) -> Result<(), Failure> {
        match &mut self.record {
            Some(record) => Ok(record.end(&self.lock, end)?),
            None => Ok(()),
        }
    }

    /// Removes the journal and the pending marker, then ends the watchdog. On an error,
    /// the watchdog keeps running.
    async fn close(&mut self) -> Result<(), Failure> {
        if self.journal.is_some() {
            Journal::close(&self.lock)?;
        }
        let Some(Supervised { by, .. }) = &self.supervised else {
            return Ok(());
        };
        pending::remove(by.pending, &self.id, &self.lock)?;
        if let Some(watchdog) = self.watchdog.take()
            && let Err(error) = watchdog.end(by.manager).await
        {
            tracing::info!(
                "digestfix could not stop the watchdog ({error}); the watchdog will end by itself"
            );
        }
        Ok(())
    }

    /// Removes old history records, and old backups of the reference store. If the
    /// transaction failed, keeps every backup, because this run made no newer backup.
    fn retire(&mut self, done: bool) {
        let limits = done.then_some(self.limits);
        for problem in retention::enforce(self.images, &self.lock, &self.id, limits) {
            self.progress.warning(&problem);
        }
    }

    /// The journal's data about the load, if the method is [`load`].
    fn load(&mut self) -> Option<&mut journal::Load> {
        match &mut self.journal.as_mut()?.intent {
            Intent::Load(load) => Some(load),
            Intent::Edit | Intent::Restart(_) | Intent::Record(_) => None,
        }
    }

    /// The journal's data about a node's records, if the method is [`record`].
    fn records(&mut self) -> Option<&mut journal::Records> {
        match &mut self.journal.as_mut()?.intent {
            Intent::Record(records) => Some(records),
            Intent::Edit | Intent::Restart(_) | Intent::Load(_) => None,
        }
    }

    /// Writes the new plan to the history record and the journal. Called if the
    /// references have changed since the first plan.
    fn planned_again(&mut self, references: References) -> Result<(), Failure> {
        if let Some(record) = &mut self.record {
            record.plan(&references, &self.plan);
            record.write(&self.lock)?;
        }
        if let Some(journal) = &mut self.journal {
            journal.references = references;
        }
        self.write_journal()
    }

    /// The journal's data about the restart, if the method is [`restart`] and there is a
    /// Docker to manage.
    fn restart(&mut self) -> Option<&mut journal::Restart> {
        self.journal.as_mut()?.restart_mut()
    }

    fn write_journal(&self) -> Result<(), Failure> {
        match &self.journal {
            Some(journal) => Ok(journal.write(&self.lock)?),
            None => Ok(()),
        }
    }
}
