//! The change itself: lock, stage, hold, stop, re-read, commit, start, verify,
//! restore, release; undone from wherever it fails.
//!
//! `Transaction::forward` and `Transaction::back` are the whole of it, and
//! read like that sentence. `Reached` records how far the first came, before
//! each step acts, so the second knows what there may be to undo. Reading,
//! planning, staging and syncing happen while Docker still runs; between its
//! stop and its start there is a read, a comparison and one exchange of names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::data_root::{ImageDir, ReadError, Snapshot};
use crate::disturbance::Disturbance;
use crate::engine::{self, Engine, EngineError};
use crate::host::Managed;
use crate::interrupt::Interrupt;
use crate::plan::{Plan, Refusal, Request};
use crate::systemd::{ServiceManager, SystemdError, is_active};

pub mod hold;
pub mod lock;
pub mod swap;

use hold::{Hold, HoldError};
use lock::RootLock;
use swap::{Staged, SwapError, Swapped};

/// dockerd has no start timeout of its own (`TimeoutStartSec=0`), and takes
/// minutes on hosts with many containers.
const START_WITHIN: Duration = Duration::from_secs(300);

/// For a unit with `TimeoutStopSec=infinity`.
const STOP_WITHIN: Duration = Duration::from_secs(600);

/// systemd gives SIGTERM and then SIGKILL its stop timeout each.
const STOP_GRACE: Duration = Duration::from_secs(30);

/// Between two looks at an engine that does not announce its readiness.
const READY_AGAIN: Duration = Duration::from_millis(20);

/// The steps, as they are told to people and machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The new store is on disk beside the old one.
    Stage,
    /// Nothing can start Docker.
    Hold,
    /// Docker has stopped.
    Stop,
    /// The store is what the plan was made of, or was planned again.
    Reread,
    /// The new store is in use.
    Commit,
    /// The engine answers.
    Start,
    /// File and engine have what the plan says.
    Verify,
    /// What stopped along with Docker runs again.
    Restore,
    /// The hold is gone.
    Release,
    /// Undo: Docker has stopped again.
    UndoStop,
    /// Undo: the old store is in use.
    UndoCommit,
    /// Undo: Docker runs again, on the old references.
    UndoStart,
}

/// Hears of each step as it ends.
pub trait Progress {
    /// A step has ended well.
    fn step(&mut self, step: Step, detail: &str);
    /// Something did not go well, and does not change the outcome.
    fn warning(&mut self, text: &str);
}

/// Why a transaction did not go through.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A signal came.
    #[error("{0} received")]
    Interrupted(&'static str),
    /// The file system refused.
    #[error("could not {0}")]
    Swap(#[from] SwapError),
    /// The store could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// systemd refused or could not be asked.
    #[error("{0}")]
    Systemd(#[from] SystemdError),
    /// The engine did not answer.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// Docker could not be kept from starting.
    #[error("Docker could not be held while the references change: {0}")]
    Hold(#[from] HoldError),
    /// Docker runs although it was stopped.
    #[error("a dockerd{} still has the data root open after {unit} was stopped", process(*.pid))]
    StillRunning {
        /// Docker's unit.
        unit: String,
        /// The process, where that can be seen.
        pid: Option<u32>,
    },
    /// The store changed before Docker had stopped, and the claims no longer fit.
    #[error("the references changed in the meantime, and now: {}", joined(.0))]
    NoLongerFits(Vec<Refusal>),
    /// Docker ended instead of starting.
    #[error("{unit} is {state} instead of running (see: journalctl -u {unit})")]
    NotRunning {
        /// Docker's unit.
        unit: String,
        /// Its active state.
        state: String,
    },
    /// The engine started and never answered.
    #[error("the engine does not answer {} s after its start: {last}", .after.as_secs())]
    Silent {
        /// How long it was given.
        after: Duration,
        /// Its last answer.
        last: EngineError,
    },
    /// The file is not what was written.
    #[error("the references on disk are not what was written: {0}")]
    FileDiffers(String),
    /// The engine answers otherwise than the file.
    #[error("the running engine disagrees: {0}")]
    EngineDisagrees(String),
}

fn process(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}

fn joined(refusals: &[Refusal]) -> String {
    let lines: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// How a transaction ended.
#[derive(Debug)]
pub enum Outcome {
    /// The references are changed, and everything runs that ran before.
    Done {
        /// What was changed in the end.
        plan: Box<Plan>,
        /// Where the former store is kept; none when nothing had to change.
        backup: Option<PathBuf>,
    },
    /// It failed, and the host is as it was found.
    Undone {
        /// Why.
        failure: Failure,
        /// Docker was stopped and started again on the way.
        restarted: bool,
    },
    /// It failed, and so did the way back.
    Broken {
        /// Why the way back was taken.
        failure: Failure,
        /// Why it failed.
        undo: Failure,
        /// The store as it was found is here.
        store: StoreNow,
    },
    /// The references are changed and Docker runs; something else does not.
    Incomplete {
        /// What was changed.
        plan: Box<Plan>,
        /// What does not run, and why.
        problem: Failure,
    },
}

/// Which store is in use after a way back that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreNow {
    /// The one that was found.
    Old,
    /// The new one; the old one is in this file.
    New(PathBuf),
    /// It could not be told.
    Unknown,
}

/// How far the way forward came. Set before a step acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Nothing,
    Stopping,
    Committing,
    Starting,
}

/// The unit's world before it was touched.
#[derive(Debug, Clone, Default)]
struct Former {
    active_states: BTreeMap<String, String>,
}

/// A daemon to stop and start.
#[derive(Debug)]
pub struct Daemon<'a, M, E> {
    /// systemd.
    pub manager: &'a M,
    /// The engine.
    pub engine: &'a E,
    /// Docker as it was found.
    pub host: &'a Managed,
    /// What its stop takes along.
    pub disturbance: &'a Disturbance,
    /// Where a runtime drop-in goes; [`hold::RUNTIME_UNITS`] but in tests.
    pub runtime_units: &'a Path,
}

impl<M, E> Clone for Daemon<'_, M, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M, E> Copy for Daemon<'_, M, E> {}

/// One change of one reference store.
pub struct Transaction<'a, M, E, P> {
    images: &'a ImageDir,
    lock: RootLock,
    request: &'a Request,
    daemon: Option<Daemon<'a, M, E>>,
    interrupt: &'a Interrupt,
    progress: &'a mut P,
    before: Snapshot,
    plan: Plan,
    reached: Reached,
    former: Former,
    staged: Option<Staged>,
    swapped: Option<Swapped>,
    hold: Option<Hold>,
}

impl<'a, M: ServiceManager, E: Engine, P: Progress> Transaction<'a, M, E, P> {
    /// A transaction that makes `plan`, which was made of `before` under this
    /// lock. Without a daemon it is one on the files alone.
    #[allow(clippy::too_many_arguments, reason = "each is another kind of thing")]
    pub fn new(
        images: &'a ImageDir,
        lock: RootLock,
        request: &'a Request,
        daemon: Option<Daemon<'a, M, E>>,
        interrupt: &'a Interrupt,
        progress: &'a mut P,
        before: Snapshot,
        plan: Plan,
    ) -> Self {
        Self {
            images,
            lock,
            request,
            daemon,
            interrupt,
            progress,
            before,
            plan,
            reached: Reached::Nothing,
            former: Former::default(),
            staged: None,
            swapped: None,
            hold: None,
        }
    }

    /// Runs to one of its ends.
    pub async fn run(mut self) -> Outcome {
        match self.forward().await {
            Ok(()) => self.end().await,
            Err(failure) => self.back(failure).await,
        }
    }

    async fn forward(&mut self) -> Result<(), Failure> {
        self.stage()?;
        self.hold().await?;
        self.stop().await?;
        self.reread()?;
        self.commit()?;
        self.start().await?;
        self.verify().await
    }

    fn heed_interrupt(&self) -> Result<(), Failure> {
        match self.interrupt.received() {
            Some(signal) => Err(Failure::Interrupted(signal)),
            None => Ok(()),
        }
    }

    fn stage(&mut self) -> Result<(), Failure> {
        self.heed_interrupt()?;
        let bytes = self.plan.after.to_bytes();
        self.staged = Some(Staged::write(self.images, &self.lock, &bytes)?);
        self.progress
            .step(Step::Stage, "new references written beside the old ones");
        Ok(())
    }

    async fn hold(&mut self) -> Result<(), Failure> {
        self.heed_interrupt()?;
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        let unit = &daemon.host.unit;
        self.hold = Some(Hold::place(daemon.manager, daemon.runtime_units, unit).await?);
        self.progress.step(
            Step::Hold,
            &format!("nothing can start {} from now on", unit.id),
        );
        Ok(())
    }

    async fn stop(&mut self) -> Result<(), Failure> {
        self.heed_interrupt()?;
        let Some(daemon) = self.daemon else {
            return self.see_nobody_running();
        };
        self.former.active_states = daemon.manager.active_states().await?;
        self.reached = Reached::Stopping;
        self.stop_docker().await?;
        let mut stopped = vec![daemon.host.unit.id.as_str()];
        stopped.extend(daemon.disturbance.triggers.iter().map(String::as_str));
        self.progress
            .step(Step::Stop, &format!("{} stopped", stopped.join(", ")));
        self.heed_interrupt()
    }

    /// Stops Docker and its triggers, and sees for itself that it worked: a
    /// stop job is `done` as soon as the unit is inactive or failed.
    async fn stop_docker(&self) -> Result<(), Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        let unit = &daemon.host.unit.id;
        let within = daemon
            .host
            .service
            .timeout_stop
            .map_or(STOP_WITHIN, |timeout| timeout * 2 + STOP_GRACE);
        daemon
            .manager
            .stop(unit, &daemon.disturbance.triggers, within)
            .await?;
        let pid = daemon.manager.service(unit).await?.main_pid;
        if pid != 0 {
            return Err(Failure::StillRunning {
                unit: unit.clone(),
                pid: Some(pid),
            });
        }
        self.see_nobody_running()
    }

    fn see_nobody_running(&self) -> Result<(), Failure> {
        if self.images.is_in_use()? {
            return Err(Failure::StillRunning {
                unit: self
                    .daemon
                    .map_or_else(String::new, |daemon| daemon.host.unit.id.clone()),
                pid: self.images.user(),
            });
        }
        Ok(())
    }

    fn reread(&mut self) -> Result<(), Failure> {
        let now = self.images.read()?;
        if now.bytes == self.before.bytes {
            return Ok(());
        }
        self.plan = Plan::new(&now.store, &self.images.image_ids()?, self.request)
            .map_err(Failure::NoLongerFits)?;
        self.before = now;
        self.staged = None;
        let bytes = self.plan.after.to_bytes();
        self.staged = Some(Staged::write(self.images, &self.lock, &bytes)?);
        self.progress.step(
            Step::Reread,
            "the references had changed in the meantime: planned again",
        );
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Failure> {
        if self.plan.is_empty() {
            return Ok(());
        }
        self.heed_interrupt()?;
        self.see_nobody_running()?;
        self.reached = Reached::Committing;
        if let Some(staged) = self.staged.take() {
            self.swapped = Some(staged.swap(&self.lock)?);
        }
        if self.images.read()?.bytes != self.plan.after.to_bytes() {
            return Err(Failure::FileDiffers(
                "read back right after the swap".into(),
            ));
        }
        self.progress.step(
            Step::Commit,
            &format!("{} reference changes in place", self.plan.changes.len()),
        );
        self.heed_interrupt()
    }

    async fn start(&mut self) -> Result<(), Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        self.reached = self.reached.max(Reached::Starting);
        let detail = if daemon.disturbance.running {
            let interrupt = self.interrupt;
            tokio::select! {
                biased;
                signal = interrupt.wait() => return Err(Failure::Interrupted(signal)),
                started = self.start_docker() => started?,
            }
            format!("{} started, the engine answers", daemon.host.unit.id)
        } else {
            self.release_hold();
            self.start_triggers().await?;
            format!("{} was not running and stays stopped", daemon.host.unit.id)
        };
        self.progress.step(Step::Start, &detail);
        Ok(())
    }

    fn release_hold(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.release();
        }
    }

    async fn start_docker(&mut self) -> Result<(), Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        self.release_hold();
        let unit = &daemon.host.unit.id;
        self.start_with_sockets(daemon, unit).await?;
        let deadline = Instant::now() + START_WITHIN;
        loop {
            let last = match daemon.engine.ping().await {
                Ok(()) => break,
                Err(error) => error,
            };
            let state = daemon.manager.unit(unit).await?.active_state;
            if !is_active(&state) {
                return Err(Failure::NotRunning {
                    unit: unit.clone(),
                    state,
                });
            }
            if Instant::now() >= deadline {
                return Err(Failure::Silent {
                    after: START_WITHIN,
                    last,
                });
            }
            tokio::time::sleep(READY_AGAIN).await;
        }
        self.start_triggers().await
    }

    /// systemd refuses to start a socket whose service runs already, so the
    /// sockets go first.
    async fn start_with_sockets(
        &self,
        daemon: Daemon<'a, M, E>,
        unit: &String,
    ) -> Result<(), Failure> {
        let sockets = daemon
            .disturbance
            .triggers
            .iter()
            .filter(|name| name.ends_with(".socket"));
        let all: Vec<String> = sockets.chain([unit]).cloned().collect();
        for unit in &all {
            daemon.manager.reset_failed(unit).await?;
        }
        Ok(daemon.manager.start(&all, START_WITHIN).await?)
    }

    /// Starts every trigger that had been active and is not.
    async fn start_triggers(&self) -> Result<(), Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        self.start_inactive(&daemon.disturbance.triggers).await
    }

    async fn start_inactive(&self, units: &[String]) -> Result<(), Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        let states = daemon.manager.active_states().await?;
        let mut inactive = Vec::new();
        for name in units {
            if !states.get(name).is_some_and(|state| is_active(state)) {
                inactive.push(daemon.manager.unit(name).await?);
            }
        }
        let ordered = in_start_order(inactive);
        for unit in &ordered {
            daemon.manager.reset_failed(unit).await?;
        }
        Ok(daemon.manager.start(&ordered, START_WITHIN).await?)
    }

    async fn verify(&mut self) -> Result<(), Failure> {
        self.verify_file(&self.plan.after.references().collect::<Vec<_>>())?;
        let mut detail = "the file has every reference".to_owned();
        if let Some(daemon) = self.daemon.filter(|daemon| daemon.disturbance.running) {
            self.ask_engine(daemon).await?;
            detail.push_str(", and so has the running engine");
        }
        self.heed_interrupt()?;
        self.progress.step(Step::Verify, &detail);
        Ok(())
    }

    fn verify_file(
        &self,
        expected: &[(crate::reference::Reference, crate::digest::ImageId)],
    ) -> Result<(), Failure> {
        let now = self.images.read()?;
        for (reference, image) in expected {
            if now.store.get(reference) != Some(image.to_string().as_str()) {
                return Err(Failure::FileDiffers(format!(
                    "{reference} does not point at {image}"
                )));
            }
        }
        Ok(())
    }

    async fn ask_engine(&self, daemon: Daemon<'a, M, E>) -> Result<(), Failure> {
        for target in &self.plan.targets {
            let answer = daemon.engine.image(&target.reference).await?;
            if answer.as_deref() != Some(target.image.to_string().as_str()) {
                return Err(Failure::EngineDisagrees(format!(
                    "asked for {}, it says {} instead of {}",
                    target.reference,
                    answer.as_deref().unwrap_or("that there is no such image"),
                    target.image,
                )));
            }
        }
        for change in self
            .plan
            .changes
            .iter()
            .filter(|change| change.to.is_none())
        {
            if let Some(image) = daemon.engine.image(&change.reference).await? {
                return Err(Failure::EngineDisagrees(format!(
                    "{} was dropped, and it still finds {image}",
                    change.reference
                )));
            }
        }
        self.engine_has(daemon, &self.plan.after).await
    }

    /// Every reference whose image is there, by the engine's own list.
    async fn engine_has(
        &self,
        daemon: Daemon<'a, M, E>,
        store: &crate::store::Store,
    ) -> Result<(), Failure> {
        let images = self.images.image_ids()?;
        let expected: Vec<_> = store
            .references()
            .filter(|(_, image)| images.contains(image))
            .collect();
        let missing = engine::missing(&daemon.engine.references().await?, &expected);
        if missing.is_empty() {
            return Ok(());
        }
        let missing: Vec<String> = missing.into_iter().collect();
        Err(Failure::EngineDisagrees(format!(
            "it does not list {}",
            missing.join(", ")
        )))
    }

    /// What is left to do once the references are changed and verified: from
    /// here on nothing is undone.
    async fn end(mut self) -> Outcome {
        let restored = self.restore().await;
        self.remove_hold().await;
        let plan = Box::new(self.plan);
        match restored {
            Ok(()) => Outcome::Done {
                backup: self.swapped.map(|swapped| swapped.backup().to_owned()),
                plan,
            },
            Err(problem) => Outcome::Incomplete { plan, problem },
        }
    }

    /// Starts again what stopped along with Docker: the units known to depend
    /// on it, and those that systemd stopped because nothing needed them.
    async fn restore(&mut self) -> Result<(), Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        let states = daemon.manager.active_states().await?;
        let mut lost = Vec::new();
        for (name, former) in &self.former.active_states {
            let now = states.get(name).map_or("inactive", String::as_str);
            if !is_active(former)
                || is_active(now)
                || *name == daemon.host.unit.id
                || daemon.disturbance.triggers.contains(name)
            {
                continue;
            }
            if daemon.disturbance.carried_along.contains(name)
                || daemon.manager.unit(name).await?.stop_when_unneeded
            {
                lost.push(name.clone());
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        self.start_inactive(&lost).await?;
        self.progress
            .step(Step::Restore, &format!("{} started again", lost.join(", ")));
        Ok(())
    }

    async fn remove_hold(&mut self) {
        let (Some(daemon), Some(hold)) = (self.daemon, self.hold.take()) else {
            return;
        };
        if let Err(error) = hold.remove(daemon.manager).await {
            self.progress.warning(&format!(
                "the hold on {} could not be taken away; it has no effect any more: {error}",
                daemon.host.unit.id
            ));
        }
    }

    /// From wherever the way forward failed, back to what was found.
    async fn back(mut self, failure: Failure) -> Outcome {
        self.progress.warning(&format!("{failure}; undoing"));
        let reached = self.reached;
        let undone = self.undo().await;
        self.remove_hold().await;
        match undone {
            Ok(()) => Outcome::Undone {
                failure,
                restarted: reached >= Reached::Stopping
                    && self.daemon.is_some_and(|daemon| daemon.disturbance.running),
            },
            Err(undo) => Outcome::Broken {
                store: self.store_now(),
                failure,
                undo,
            },
        }
    }

    async fn undo(&mut self) -> Result<(), Failure> {
        if self.reached >= Reached::Starting && self.swapped.is_some() {
            self.undo_start().await?;
        }
        let put_back = if self.reached >= Reached::Committing {
            self.undo_commit()
        } else {
            Ok(())
        };
        // Docker is started whatever came of the file: both stores are whole,
        // and a host without Docker is the worst end of all.
        if self.reached >= Reached::Stopping {
            self.undo_stop().await?;
        }
        put_back
    }

    async fn undo_start(&mut self) -> Result<(), Failure> {
        let Some(hold) = &mut self.hold else {
            return Ok(());
        };
        hold.renew()?;
        self.stop_docker().await?;
        self.progress.step(Step::UndoStop, "Docker stopped again");
        Ok(())
    }

    /// Puts the old store back. What others changed in the new one while the
    /// engine ran on it is kept: only this plan's own changes are taken back.
    fn undo_commit(&mut self) -> Result<(), Failure> {
        let now = self.images.read()?;
        match self.swapped.take() {
            Some(swapped) if now.bytes == self.plan.after.to_bytes() => {
                swapped.swap_back(&self.lock)?;
            }
            swapped => {
                if now.bytes != self.before.bytes {
                    let mut store = now.store;
                    self.plan.take_back(&mut store);
                    Staged::write(self.images, &self.lock, &store.to_bytes())?
                        .swap(&self.lock)?
                        .discard()?;
                }
                if let Some(swapped) = swapped {
                    swapped.discard()?;
                }
            }
        }
        self.progress
            .step(Step::UndoCommit, "the old references are back in place");
        Ok(())
    }

    async fn undo_stop(&mut self) -> Result<(), Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        if daemon.disturbance.running {
            self.start_docker().await?;
            let expected = self.images.read()?.store;
            self.engine_has(daemon, &expected).await?;
        } else {
            self.release_hold();
            self.start_triggers().await?;
        }
        self.progress
            .step(Step::UndoStart, "Docker is as it was found");
        self.restore().await
    }

    fn store_now(&self) -> StoreNow {
        match (self.images.read(), &self.swapped) {
            (Ok(now), _) if now.bytes == self.before.bytes => StoreNow::Old,
            (Ok(_), Some(swapped)) => StoreNow::New(swapped.backup().to_owned()),
            _ => StoreNow::Unknown,
        }
    }
}

/// Orders units so that each comes after those it says it comes after.
fn in_start_order(mut units: Vec<crate::systemd::Unit>) -> Vec<String> {
    let mut ordered = Vec::with_capacity(units.len());
    while !units.is_empty() {
        let waits = |unit: &crate::systemd::Unit| {
            units
                .iter()
                .any(|other| other.id != unit.id && unit.after.contains(&other.id))
        };
        // systemd refuses units that wait for each other in a circle, so
        // there is always a first; if not, any order is as good.
        let next = units.iter().position(|unit| !waits(unit)).unwrap_or(0);
        ordered.push(units.remove(next).id);
    }
    ordered
}
