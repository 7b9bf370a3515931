//! The one engine: begin, apply, restore, conclude; and from wherever that fails,
//! undo, restore, conclude.
//!
//! How the references change is a [`Method`]: [`restart`] stops Docker and exchanges
//! its file, [`load`] has the running Docker load manifests, [`record`] has a node's
//! containerd record names. All else is here and the same for all: the watchdog and the pending marker, the record for people,
//! the journal, and how they end. [`recovery`] brings a run to an end that was killed.

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

/// A Docker to manage, as every method needs it.
#[derive(Debug)]
pub struct Docker<'a, M> {
    pub manager: &'a M,
    pub host: &'a Managed,
    /// Where it is noted that the transaction has not ended:
    /// [`PENDING`](crate::state::pending::PENDING) but in tests.
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

    /// A run that is killed is recovered by what this Docker was found by.
    pub fn supervised(&self, images: &ImageDir) -> Supervised<'a, M> {
        Supervised {
            by: self.supervisor(),
            marker: Marker::new(images, self.host),
        }
    }
}

/// What sees to a run that is killed.
#[derive(Debug)]
pub struct Supervisor<'a, M> {
    /// It runs the watchdog.
    pub manager: &'a M,
    /// Where it is noted that the transaction has not ended:
    /// [`PENDING`](crate::state::pending::PENDING) but in tests.
    pub pending: &'a Path,
}

impl<M> Clone for Supervisor<'_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M> Copy for Supervisor<'_, M> {}

/// The same, with what leads another run to the images.
#[derive(Debug)]
pub struct Supervised<'a, M> {
    pub by: Supervisor<'a, M>,
    pub marker: Marker,
}

/// What a method is about to do, before it does it.
#[derive(Debug)]
pub struct Begun {
    /// For the journal.
    pub intent: Intent,
    pub references: References,
    /// For the record.
    pub how: How,
}

/// A way to change the references of a Docker.
pub trait Method<M> {
    /// What a shutdown waits for, in words.
    const DOING: &'static str;

    /// What it is about to do. Nothing has been touched.
    async fn begin(&mut self, tx: &mut Tx<'_, M>) -> Result<Begun, Failure>;

    /// Changes the references, and verifies that they are as planned. After an error,
    /// [`Method::undo`] follows.
    async fn apply(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure>;

    /// Puts back the references that were found, from wherever the way forward failed.
    /// Gives those that it could not put back. An error when the references may be
    /// neither the old nor the new ones, or Docker does not run.
    async fn undo(&mut self, tx: &mut Tx<'_, M>, why: &Failure) -> Result<Vec<Leftover>, Failure>;

    /// Puts back everything but the references.
    async fn restore(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure>;

    /// What to report of the host, now that all is done.
    async fn found(&mut self, tx: &mut Tx<'_, M>) -> Found;

    /// The host after a way back that failed.
    async fn now(&self, tx: &Tx<'_, M>) -> HostNow;
}

#[derive(Debug, Default)]
pub struct Found {
    /// The containers that are not what they were.
    pub containers: Vec<Change>,
    /// Where the former references are kept.
    pub backup: Option<PathBuf>,
    /// Of what was loaded, the references whose layers the engine has unpacked
    /// only.
    pub run_only: Vec<Reference>,
    /// Docker was stopped and started again on the way back.
    pub restarted: bool,
}

/// One change of the references, by any method.
pub struct Tx<'a, M> {
    /// What its files are named after.
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
    /// A shutdown waits for this to be closed.
    delays_shutdown: Option<OwnedFd>,
}

impl<'a, M: ServiceManager> Tx<'a, M> {
    /// A transaction that makes `plan`, which was made under this lock. Unsupervised it is
    /// one on the files alone.
    #[allow(clippy::too_many_arguments, reason = "each is another kind of thing")]
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

    /// Runs to one of its ends.
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

    /// Prepares for a killed run, before anything is done: a watchdog, a pending marker,
    /// a record for people, and the journal. They go in the opposite order, so there is
    /// never a journal that no run would find.
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
        // To be closed even if only half of the write succeeds.
        Ok(self.journal.insert(journal).write(&self.lock)?)
    }

    async fn heed_interrupt(&self) -> Result<(), Failure> {
        match self.interrupt.received().await {
            Some(signal) => Err(Failure::Interrupted(signal)),
            None => Ok(()),
        }
    }

    /// The references are changed and verified: from here on nothing is undone.
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
                self.retire(true);
                Ended::Done
            }
            Err(problem) => Ended::Incomplete { problem },
        }
    }

    /// From wherever the way forward failed, back to what was found.
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
            left => format!("{failure}; taken back, but: {}", leftover::joined(left)),
        };
        let end = |undo: Option<&Failure>| match undo {
            None => End::Undone {
                why: taken_back.clone(),
            },
            Some(undo) => End::Broken {
                why: format!("{failure}; and then, undoing it: {undo}"),
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
                "what the new references rest on could not be noted for `digestfix status`: {error}"
            ));
        }
    }

    /// Writes down how it ended; what has not ended is left to its watchdog. `changed`
    /// says that the references are not those that were found.
    async fn conclude(
        &mut self,
        ended: Result<(), Failure>,
        end: impl Fn(Option<&Failure>) -> End,
        changed: bool,
    ) -> Result<(), Failure> {
        match self.end_record(end(ended.as_ref().err())) {
            // Without its end, a record is ended by what the file says, where that
            // changed; or as one that did nothing, which is not to be said of this.
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
            self.progress
                .warning(&format!("how this ended could not be noted: {failure}"));
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

    /// The transaction has ended. Where it has not, its watchdog goes on.
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
            tracing::info!("the watchdog is left to end by itself: {error}");
        }
        Ok(())
    }

    /// Removes what is too old to be of use. After a failure, no backup: there is no
    /// newer one.
    fn retire(&mut self, done: bool) {
        let limits = done.then_some(self.limits);
        for problem in retention::enforce(self.images, &self.lock, &self.id, limits) {
            self.progress.warning(&problem);
        }
    }

    /// What the running Docker is asked for, where this is a load.
    fn load(&mut self) -> Option<&mut journal::Load> {
        match &mut self.journal.as_mut()?.intent {
            Intent::Load(load) => Some(load),
            Intent::Edit | Intent::Restart(_) | Intent::Record(_) => None,
        }
    }

    /// What a node's containerd is asked for, where this is about one.
    fn records(&mut self) -> Option<&mut journal::Records> {
        match &mut self.journal.as_mut()?.intent {
            Intent::Record(records) => Some(records),
            Intent::Edit | Intent::Restart(_) | Intent::Load(_) => None,
        }
    }

    /// The references had changed, and the plan is another one.
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

    /// What a restart notes, where this is one with a Docker to manage.
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
