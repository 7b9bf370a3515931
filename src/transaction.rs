//! The change itself: lock, announce, stage, keep, hold, stop, re-read, commit,
//! start, verify, settle; undone from wherever it fails.
//!
//! `Transaction::forward` and `Transaction::back` are the whole of it, and
//! read like that sentence. `Reached` records how far the first came, before
//! each step acts, so the second knows what there may be to undo. Reading,
//! planning, staging and syncing happen while Docker still runs; between its
//! stop and its start there is a look at the old file and one exchange of names.
//! Both ends settle: what stopped along with Docker runs again, and live-restore
//! is what it was. [`recovery`] does the same for a run that was killed.

use std::collections::BTreeMap;
use std::mem;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::container::Container;
use crate::data_root::{ImageDir, Snapshot};
use crate::engine::Engine;
use crate::grounds::Grounds;
use crate::guard::Guard;
use crate::history::{End, Record};
use crate::image_db::ImageDb;
use crate::interrupt::Interrupt;
use crate::journal::{self, Journal, Phase};
use crate::nf_tables::Owned;
use crate::plan::Plan;
use crate::reserve::Reserve;
use crate::retention::Limits;
use crate::systemd::ServiceManager;

pub mod aim;
mod announcement;
mod containers;
pub mod daemon;
pub mod daemon_json;
pub mod exchange;
pub mod hold;
pub mod left;
mod leftovers;
mod live_restore;
pub mod lock;
pub mod outcome;
pub mod ports;
mod record;
pub mod recovery;
mod reload;
mod rendered;
mod startable;
pub mod swap;
pub mod unread;

use aim::Aim;
use daemon::Daemon;
use daemon_json::Switch;
use hold::Hold;
use lock::RootLock;
use outcome::{Failure, Outcome, Progress, Step, StoreNow};
use rendered::Rendered;
use swap::{Staged, Swapped};

/// Clients wait this long for a Docker that does not come; then they are told.
const HOLD_PORTS_AT_MOST: Duration = Duration::from_secs(10);

/// How far the way forward came. Set before a step acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Nothing,
    Keeping,
    Stopping,
    Committing,
    Starting,
}

/// One change of one reference store.
pub struct Transaction<'a, M, E, P> {
    /// What its files are named after.
    id: String,
    images: &'a ImageDir,
    lock: RootLock,
    aim: &'a Aim<'a>,
    limits: Limits,
    daemon: Option<Daemon<'a, M, E>>,
    interrupt: &'a Interrupt,
    progress: &'a mut P,
    before: Snapshot,
    plan: Plan,
    record: Option<Record>,
    reached: Reached,
    /// What ran before anything was stopped.
    active_before: BTreeMap<String, String>,
    /// The containers that ran then.
    ran: Vec<Container>,
    journal: Option<Journal>,
    guard: Option<Guard>,
    /// A shutdown waits for this to be closed.
    delays_shutdown: Option<OwnedFd>,
    /// Docker was started again on the way back.
    restarted: bool,
    switch: Option<Switch>,
    /// What `staged` is written with, once it is asked for.
    rendered: Option<Rendered>,
    staged: Option<Staged>,
    swapped: Option<Swapped>,
    hold: Option<Hold>,
    /// Disk space for the start of Docker.
    reserve: Reserve,
    held_ports: Option<Owned>,
}

impl<'a, M: ServiceManager, E: Engine, P: Progress> Transaction<'a, M, E, P> {
    /// A transaction that makes `plan`, which was made of `before` under this
    /// lock. Without a daemon it is one on the files alone.
    #[allow(clippy::too_many_arguments, reason = "each is another kind of thing")]
    pub fn new(
        images: &'a ImageDir,
        lock: RootLock,
        aim: &'a Aim<'a>,
        daemon: Option<Daemon<'a, M, E>>,
        interrupt: &'a Interrupt,
        progress: &'a mut P,
        before: Snapshot,
        plan: Plan,
    ) -> Self {
        Self {
            id: journal::new_id(),
            images,
            lock,
            aim,
            limits: Limits::default(),
            daemon,
            interrupt,
            progress,
            rendered: None,
            before,
            plan,
            record: None,
            reached: Reached::Nothing,
            active_before: BTreeMap::new(),
            ran: daemon.map_or_else(Vec::new, |daemon| daemon.disturbance.containers.clone()),
            journal: None,
            guard: None,
            delays_shutdown: None,
            restarted: false,
            switch: None,
            staged: None,
            swapped: None,
            hold: None,
            reserve: Reserve::default(),
            held_ports: None,
        }
    }

    /// The same transaction, which keeps that much of earlier ones.
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
        self.see_taken().await?;
        self.stage().await?;
        self.keep().await?;
        self.hold().await?;
        self.stop().await?;
        self.reread()?;
        self.commit().await?;
        self.start().await?;
        self.verify().await
    }

    async fn heed_interrupt(&self) -> Result<(), Failure> {
        match self.interrupt.received().await {
            Some(signal) => Err(Failure::Interrupted(signal)),
            None => Ok(()),
        }
    }

    async fn stage(&mut self) -> Result<(), Failure> {
        self.heed_interrupt().await?;
        self.progress.begin("writing the new references");
        self.write_staged()?;
        let written = match self.plan.is_empty() {
            false => "new references written beside the old ones",
            true => "a copy of the references written beside them",
        };
        self.progress.step(Step::Stage, written);
        Ok(())
    }

    /// The file that the plan makes.
    fn rendered(&mut self) -> &mut Rendered {
        let live = self.images.store_path();
        self.rendered
            .get_or_insert_with(|| Rendered::new(&live, &self.before.store, &self.plan))
    }

    fn write_staged(&mut self) -> Result<(), Failure> {
        self.staged = None;
        let written = mem::replace(&mut self.rendered().written, Ok(None))?;
        let (images, lock, id) = (self.images, &self.lock, &self.id);
        self.staged = match written {
            Some(file) => Staged::name(images, lock, id, &file)?,
            None => None,
        };
        if let (None, Some(rendered)) = (&self.staged, &self.rendered) {
            let pieces = rendered.text.pieces();
            self.staged = Some(Staged::write(images, lock, id, &pieces)?);
        }
        Ok(())
    }

    async fn keep(&mut self) -> Result<(), Failure> {
        self.heed_interrupt().await?;
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        if !daemon.disturbance.switches_live_restore() {
            return Ok(());
        }
        self.progress.begin("switching live-restore on");
        self.reached = Reached::Keeping;
        daemon.switch_on(self.switch.as_ref()).await?;
        self.knows_to_start(daemon);
        self.progress.step(
            Step::Keep,
            "live-restore switched on for the moment: containers keep running",
        );
        Ok(())
    }

    async fn hold(&mut self) -> Result<(), Failure> {
        self.heed_interrupt().await?;
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        let unit = &daemon.host.unit;
        self.progress
            .begin(&format!("keeping {} from being started", unit.id));
        self.hold = Some(Hold::place(daemon.manager, daemon.runtime_units, unit).await?);
        if !daemon.disturbance.running && daemon.is_active().await {
            return Err(Failure::StartedMeanwhile(unit.id.clone()));
        }
        self.progress.step(
            Step::Hold,
            &format!("nothing can start {} from now on", unit.id),
        );
        Ok(())
    }

    async fn stop(&mut self) -> Result<(), Failure> {
        self.heed_interrupt().await?;
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        if daemon.disturbance.running {
            let data_root = self.images.data_root();
            self.reserve = Reserve::hold(data_root, &daemon.writes_at_start())?;
        }
        self.progress.begin(&format!("stopping {}", daemon.units()));
        self.keep_down(daemon).await?;
        self.look_at_containers(daemon).await?;
        self.see_configuration(daemon)?;
        self.active_before = daemon.manager.active_states().await?;
        // Until a dockerd that waits for its clients has stopped, published
        // ports lead to containers.
        if !daemon.disturbance.stops_late() {
            self.hold_ports().await;
        }
        self.see_no_more_containers(daemon).await?;
        self.reached = Reached::Stopping;
        if daemon.disturbance.running {
            self.progress.docker_stops();
        }
        daemon.stop().await?;
        if daemon.disturbance.stops_late() {
            self.hold_ports().await;
        }
        self.progress
            .step(Step::Stop, &format!("{} stopped", daemon.units()));
        self.heed_interrupt().await
    }

    /// Without, connections are refused for a moment, as at each restart of
    /// Docker.
    async fn hold_ports(&mut self) {
        let Some(daemon) = self.daemon else {
            return;
        };
        let ports = daemon.disturbance.ports_to_hold();
        if ports.is_empty() || self.held_ports.is_some() {
            return;
        }
        let held = match ports::hold(&ports) {
            Err(error) if ports::is_of_a_sandbox(&error) => {
                ports::outside::hold(daemon.manager, &self.id, &ports).await
            }
            held => held,
        };
        match held {
            Ok(held) => self.held_ports = Some(held),
            Err(error) => self.progress.warning(&format!(
                "new connections to published ports are refused while Docker starts, as they cannot be \
                 held back: {error}"
            )),
        }
    }

    fn see_nobody_running(&self) -> Result<(), Failure> {
        if self.images.is_in_use()? {
            return Err(Failure::StillRunning {
                pid: self.images.user(),
            });
        }
        Ok(())
    }

    fn reread(&mut self) -> Result<(), Failure> {
        if self.images.is_still(&self.before)? {
            return Ok(());
        }
        let now = self.images.look()?;
        let planned = ImageDb::ask(self.images, |db| self.aim.plan(&now.store, db))?;
        self.plan = planned.map_err(Failure::NoLongerFits)?;
        self.before = now;
        self.rendered = None;
        self.rewrite_record()?;
        let references = self.references();
        if let Some(journal) = &mut self.journal {
            journal.references = references;
            journal.write(&self.lock)?;
        }
        self.write_staged()?;
        self.progress.step(
            Step::Reread,
            "the references had changed in the meantime: planned again",
        );
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), Failure> {
        if self.plan.is_empty() {
            return Ok(());
        }
        self.heed_interrupt().await?;
        self.progress.begin("changing the references");
        self.see_nobody_running()?;
        self.reached = Reached::Committing;
        if let Some(staged) = self.staged.take() {
            let swapped = self.swapped.insert(staged.swap(&self.lock)?);
            if !swapped.is_in_use()? {
                return Err(Failure::FileDiffers(
                    "looked at right after the swap".into(),
                ));
            }
        }
        self.progress.step(
            Step::Commit,
            &match self.plan.changes.len() {
                1 => "1 reference changed in the file".to_owned(),
                count => format!("{count} references changed in the file"),
            },
        );
        self.heed_interrupt().await
    }

    async fn start(&mut self) -> Result<(), Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        self.reached = self.reached.max(Reached::Starting);
        self.progress.begin(&format!("starting {}", daemon.units()));
        let detail = if daemon.disturbance.running {
            self.reserve.free_first();
            self.ensure_on()?;
            self.release_hold();
            let interrupt = self.interrupt;
            tokio::select! {
                biased;
                signal = interrupt.wait() => return Err(Failure::Interrupted(signal)),
                started = self.start_and_let_in(daemon) => started?,
            }
            self.has_started(daemon);
            format!("{} started, the engine answers", daemon.unit())
        } else {
            self.release_hold();
            daemon.start_triggers().await?;
            format!("{} was not running and stays stopped", daemon.unit())
        };
        self.progress.step(Step::Start, &detail);
        Ok(())
    }

    /// Starts Docker. Clients of published ports wait for it, but not for long.
    async fn start_and_let_in(&mut self, daemon: Daemon<'a, M, E>) -> Result<(), Failure> {
        let start = daemon.start();
        tokio::pin!(start);
        let started = tokio::select! {
            started = &mut start => started,
            () = tokio::time::sleep(HOLD_PORTS_AT_MOST) => {
                self.held_ports = None;
                start.await
            }
        };
        self.held_ports = None;
        started
    }

    fn release_hold(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.release();
        }
    }

    async fn verify(&mut self) -> Result<(), Failure> {
        // Without an engine, nobody was there to change it since the commit.
        if self.daemon.is_some() {
            self.verify_file()?;
        }
        let mut detail = "the file has every reference".to_owned();
        if let Some(daemon) = self.daemon.filter(|daemon| daemon.disturbance.running) {
            self.progress.begin("asking the running engine");
            daemon.agrees(&self.plan, &self.images.image_ids()?).await?;
            detail.push_str(", and so has the running engine");
        }
        self.heed_interrupt().await?;
        self.progress.step(Step::Verify, &detail);
        Ok(())
    }

    /// The engine may have rewritten the file for a client by now, so what is
    /// compared is what it says, and others may have added to that.
    fn verify_file(&mut self) -> Result<(), Failure> {
        let images = self.images;
        if images.is(&self.rendered().text.pieces())? {
            return Ok(());
        }
        let now = self.images.read()?;
        // What the engine cannot use, it leaves out when it writes.
        let lost = self.plan.after.entries().filter(|entry| !now.has(entry));
        if let Some((reference, image)) = lost.filter_map(|entry| entry.meaning().ok()).next() {
            return Err(Failure::FileDiffers(format!(
                "{reference} does not point at {image}"
            )));
        }
        for reference in self.plan.dropped() {
            if now.get(reference).is_some() {
                return Err(Failure::FileDiffers(format!("{reference} is still there")));
            }
        }
        Ok(())
    }

    /// What is left to do once the references are changed and verified: from
    /// here on nothing is undone.
    async fn end(mut self) -> Outcome {
        let settled = self.settle().await;
        self.remove_hold().await;
        self.record_grounds();
        let containers = self.container_changes().await;
        let settled = self.conclude(settled, |problem| match problem {
            None => End::Done,
            Some(problem) => End::Incomplete {
                why: problem.to_string(),
            },
        });
        let settled = settled.await;
        if settled.is_ok() {
            self.retire();
        }
        let plan = Box::new(self.plan);
        match settled {
            Ok(()) => Outcome::Done {
                backup: self.swapped.map(|swapped| swapped.backup().to_owned()),
                plan,
                containers,
            },
            Err(problem) => Outcome::Incomplete {
                plan,
                problem,
                containers,
                guard: self.guard.map(|guard| guard.unit().to_owned()),
            },
        }
    }

    /// Everything but the references is as it was: each of it is seen to,
    /// whatever became of the others.
    async fn settle(&mut self) -> Result<(), Failure> {
        self.reserve.free();
        let units = self.restore().await;
        let containers = self.settle_containers().await;
        let live_restore = self.take_back().await;
        units.and(containers).and(live_restore)
    }

    fn record_grounds(&mut self) {
        if self.plan.is_empty() {
            return;
        }
        let recorded = Grounds::record(self.images, &self.lock, &self.plan);
        if let Err(error) = recorded {
            self.progress.warning(&format!(
                "what the new references rest on could not be noted for `digestfix status`: {error}"
            ));
        }
    }

    /// Starts again what stopped along with Docker.
    async fn restore(&mut self) -> Result<(), Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        let lost = daemon.lost(&self.active_before).await?;
        if lost.is_empty() {
            return Ok(());
        }
        self.progress
            .begin(&format!("starting {} again", lost.join(", ")));
        daemon.start_inactive(&lost).await?;
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
                daemon.unit()
            ));
        }
    }

    /// From wherever the way forward failed, back to what was found.
    async fn back(mut self, failure: Failure) -> Outcome {
        self.progress.warning(&format!("{failure}; undoing"));
        self.progress.begin("undoing");
        if self.reached < Reached::Stopping {
            self.held_ports = None;
            if let Some(journal) = &mut self.journal {
                journal.phase = Phase::Preparing;
            }
        }
        let undone = self.undo().await;
        // Without an engine there is nothing to settle with, and live-restore
        // stays for the sake of the containers.
        let settled = if undone.is_ok() || !self.is_gone().await {
            self.settle().await
        } else {
            Ok(())
        };
        let undone = undone.and(settled);
        self.remove_hold().await;
        let undone = self.conclude(undone, |undo| match undo {
            None => End::Undone {
                why: failure.to_string(),
            },
            Some(undo) => End::Broken {
                why: format!("{failure}; and then, undoing it: {undo}"),
            },
        });
        let undone = undone.await;
        match undone {
            Ok(()) => Outcome::Undone {
                failure,
                restarted: self.restarted,
                containers: self.container_changes().await,
            },
            Err(undo) => Outcome::Broken {
                store: self.store_now(),
                left: self.journal.as_ref().map(left::left).unwrap_or_default(),
                docker: match self.daemon {
                    Some(daemon) => Some(daemon.now().await),
                    None => None,
                },
                guard: self.guard.map(|guard| guard.unit().to_owned()),
                failure,
                undo,
            },
        }
    }

    async fn undo(&mut self) -> Result<(), Failure> {
        let stopped = if self.reached >= Reached::Starting && self.swapped.is_some() {
            self.undo_start().await
        } else {
            Ok(())
        };
        // A dockerd that does not stop would overwrite what is put back.
        let put_back = if stopped.is_ok() && self.reached >= Reached::Committing {
            self.undo_commit()
        } else {
            Ok(())
        };
        // Docker is started whatever came of the file: both stores are whole,
        // and a host without Docker is the worst end of all.
        let started = if self.reached >= Reached::Stopping || self.is_gone().await {
            self.undo_stop().await
        } else {
            Ok(())
        };
        stopped.and(put_back).and(started)
    }

    /// Docker ran, and does not any more although nobody here stopped it.
    async fn is_gone(&self) -> bool {
        match self.daemon {
            Some(daemon) => {
                daemon.disturbance.running && daemon.has_ended().await.unwrap_or_default()
            }
            None => false,
        }
    }

    async fn undo_start(&mut self) -> Result<(), Failure> {
        let (Some(daemon), Some(hold)) = (self.daemon, &mut self.hold) else {
            return Ok(());
        };
        self.progress.begin("stopping Docker again");
        hold.renew()?;
        self.look_for_more_containers(daemon).await?;
        self.hold_ports().await;
        if daemon.disturbance.running {
            self.progress.docker_stops();
        }
        daemon.stop().await?;
        self.see_nobody_running()?;
        self.progress.step(Step::UndoStop, "Docker stopped again");
        Ok(())
    }

    /// Puts the old store back. What others changed in the new one while the
    /// engine ran on it is kept: only this plan's own changes are taken back.
    fn undo_commit(&mut self) -> Result<(), Failure> {
        let images = self.images;
        let is_ours = images.is(&self.rendered().text.pieces())?;
        match self.swapped.take() {
            Some(swapped) if is_ours => swapped.swap_back(&self.lock)?,
            swapped => {
                // Kept for as long as it may be the only whole copy.
                self.swapped = swapped;
                let mut store = self.images.read()?;
                if store.as_read() != self.before.store.as_read() {
                    self.plan.take_back(&mut store);
                    Staged::write(self.images, &self.lock, &self.id, &store.text().pieces())?
                        .swap(&self.lock)?
                        .discard()?;
                }
                if let Some(swapped) = self.swapped.take() {
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
        self.progress.begin(&format!("starting {}", daemon.units()));
        self.reserve.free();
        // Docker is started whatever comes of the file.
        let kept = self.ensure_on();
        self.release_hold();
        if daemon.disturbance.running {
            self.restarted = true;
            self.start_and_let_in(daemon).await?;
            kept?;
            let store = self.images.read()?;
            daemon.lists(&store, &self.images.image_ids()?).await?;
        } else {
            daemon.start_triggers().await?;
        }
        self.progress
            .step(Step::UndoStart, "Docker is as it was found");
        Ok(())
    }

    fn store_now(&self) -> StoreNow {
        match (self.images.read(), &self.swapped) {
            (Ok(now), _) if now.as_read() == self.before.store.as_read() => StoreNow::Old,
            (Ok(_), Some(swapped)) => StoreNow::New(swapped.backup().to_owned()),
            _ => StoreNow::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
