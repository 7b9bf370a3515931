//! Restart method: stops Docker, replaces its reference store, and starts Docker again.
//! The steps are: stage the new store, enable live-restore, block starts, stop Docker,
//! re-read the references, commit, start, verify. If a step fails, digestfix undoes the
//! steps so far.
//!
//! `Restart::apply` and `Restart::undo` show the whole sequence. Before each step,
//! `apply` sets `Reached`, so `undo` knows which steps may have happened. While Docker
//! still runs, digestfix reads the references, makes the plan, and writes and syncs the
//! new store. Between Docker's stop and start, digestfix only checks the old file and
//! exchanges two file names. After success and after failure, `Restart::restore` starts
//! the units and containers that stopped along with Docker, and restores the former value
//! of live-restore. After a killed run, [`recovery`](crate::transaction::recovery) does
//! the same.

use std::collections::BTreeMap;
use std::mem;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::docker::container::Container;
use crate::docker::engine::Engine;
use crate::plan::EntryChange;
use crate::state::history::How;
use crate::state::journal::{self, Intent, Phase};
use crate::state::method;
use crate::store::data_root::Snapshot;
use crate::store::image_db::ImageDb;
use crate::systemd::ServiceManager;
use crate::transaction::goal::Goal;
use crate::transaction::leftover::Leftover;
use crate::transaction::outcome::{Failure, HostNow, Step, StoreNow};
use crate::transaction::reserve::Reserve;
use crate::transaction::{Begun, Found, Method, Tx};

mod containers;
pub mod daemon;
pub mod daemon_json;
pub mod exchange;
pub mod left;
pub(super) mod leftovers;
pub(super) mod live_restore;
pub mod ports;
pub mod recovery;
pub(super) mod reload;
mod rendered;
pub mod start_block;
mod startable;
pub mod swap;
pub mod unread;

use daemon::Daemon;
use daemon_json::Switch;
use rendered::Rendered;
use start_block::StartBlock;
use swap::{Staged, Swapped};

/// How long new connections to published ports wait for Docker to start. After that time,
/// the ports refuse new connections, and digestfix warns the user.
const HOLD_PORTS_AT_MOST: Duration = Duration::from_secs(10);

/// The last step that `apply` has begun. `apply` sets this value before the step changes
/// anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Nothing,
    Keeping,
    Stopping,
    Committing,
    Starting,
}

/// One restart of Docker that changes its reference store.
pub struct Restart<'a, M, E> {
    goal: &'a Goal<'a>,
    /// `None` if there is no Docker to manage.
    daemon: Option<Daemon<'a, M, E>>,
    before: Snapshot,
    reached: Reached,
    /// The state of each systemd unit before the stop.
    active_before: BTreeMap<String, String>,
    /// The containers that ran before the stop.
    ran: Vec<Container>,
    /// Whether undo started Docker again.
    restarted: bool,
    /// Undo failed.
    undo_failed: bool,
    switch: Option<Switch>,
    /// The contents of the new reference store, made on first use.
    rendered: Option<Rendered>,
    staged: Option<Staged>,
    swapped: Option<Swapped>,
    start_block: Option<StartBlock>,
    /// Disk space that digestfix holds for the start of Docker.
    reserve: Reserve,
    /// The kernel holds new connections to published ports until this descriptor is
    /// closed.
    held_ports: Option<OwnedFd>,
}

impl<'a, M: ServiceManager, E: Engine> Restart<'a, M, E> {
    /// Creates a restart that achieves `goal`. The caller made the transaction's plan
    /// from the snapshot `before`.
    pub fn new(goal: &'a Goal<'a>, daemon: Option<Daemon<'a, M, E>>, before: Snapshot) -> Self {
        Self {
            goal,
            daemon,
            before,
            reached: Reached::Nothing,
            active_before: BTreeMap::new(),
            ran: daemon.map_or_else(Vec::new, |daemon| daemon.impact.containers.clone()),
            restarted: false,
            undo_failed: false,
            switch: None,
            rendered: None,
            staged: None,
            swapped: None,
            start_block: None,
            reserve: Reserve::default(),
            held_ports: None,
        }
    }
}

impl<M: ServiceManager, E: Engine> Method<M> for Restart<'_, M, E> {
    const DOING: &'static str = "Docker is being restarted";

    async fn begin(&mut self, tx: &mut Tx<'_, M>) -> Result<Begun, Failure> {
        Ok(Begun {
            intent: self.intent(tx).await?,
            references: self.references(tx),
            how: How {
                method: self.daemon.map(|_| method::Method::Restart),
                daemon_json: self.known_to_start(),
                ..How::default()
            },
        })
    }

    async fn apply(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        self.see_taken(tx).await?;
        self.stage(tx).await?;
        self.enable_live_restore(tx).await?;
        self.block_start(tx).await?;
        self.stop(tx).await?;
        self.reread(tx)?;
        self.commit(tx).await?;
        self.start(tx).await?;
        self.verify(tx).await
    }

    async fn undo(&mut self, tx: &mut Tx<'_, M>, _: &Failure) -> Result<Vec<Leftover>, Failure> {
        if self.reached < Reached::Stopping {
            self.held_ports = None;
            if let Some(restart) = tx.restart() {
                restart.phase = Phase::Preparing;
            }
        }
        let undone = self.undo_all(tx).await;
        self.undo_failed = undone.is_err();
        undone.map(|()| Vec::new())
    }

    /// Restores units, containers and live-restore. If one of these fails, still restores
    /// the others.
    async fn restore(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        // If undo failed and Docker is down, nothing can be restored. Leave live-restore
        // on, so that the containers survive the next start of Docker.
        let restored = if self.undo_failed && self.is_gone().await {
            Ok(())
        } else {
            self.reserve.free();
            let units = self.start_units_again(tx).await;
            let containers = self.settle_containers(tx).await;
            let live_restore = self.take_back(tx).await;
            units.and(containers).and(live_restore)
        };
        self.remove_start_block(tx).await;
        restored
    }

    async fn found(&mut self, tx: &mut Tx<'_, M>) -> Found {
        Found {
            containers: self.container_changes(tx).await,
            backup: (self.swapped.as_ref()).map(|swapped| swapped.backup().to_owned()),
            restarted: self.restarted,
            ..Found::default()
        }
    }

    async fn now(&self, tx: &Tx<'_, M>) -> HostNow {
        HostNow {
            store: self.store_now(tx),
            left: (tx.journal.as_ref().and_then(|journal| journal.restart()))
                .map(left::left)
                .unwrap_or_default(),
            docker: match self.daemon {
                Some(daemon) => Some(daemon.now().await),
                None => None,
            },
        }
    }
}

impl<'a, M: ServiceManager, E: Engine> Restart<'a, M, E> {
    async fn intent(&mut self, tx: &Tx<'_, M>) -> Result<Intent, Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(Intent::Edit);
        };
        let impact = daemon.impact;
        let mut restart = journal::Restart::new(daemon.unit());
        if impact.switches_live_restore() {
            let engine = daemon.docker.host.engine.as_ref();
            let on = engine.is_some_and(|info| info.live_restore);
            self.switch = Switch::plan(&daemon.docker.host.config_file, &tx.id, on)?;
            restart.live_restore = self.switch.as_ref().map(|switch| switch.contents().clone());
        }
        restart.running = impact.running;
        restart.triggers.clone_from(&impact.triggers);
        restart.units.clone_from(&impact.carried_along);
        restart.units.extend(daemon.needed_by_nobody_else().await?);
        restart.live_restore_by_file = daemon.lives_by_file();
        Ok(Intent::Restart(restart))
    }

    fn references(&mut self, tx: &Tx<'_, M>) -> journal::References {
        let driver = tx.images.driver().to_owned();
        let rendered = self.rendered(tx);
        journal::References {
            driver,
            before: rendered.before.clone(),
            after: rendered.after.clone(),
        }
    }

    async fn stage(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        tx.heed_interrupt().await?;
        tx.progress.begin("writing the new references");
        self.write_staged(tx)?;
        let written = match tx.plan.is_empty() {
            false => "new references written beside the old ones",
            true => "a copy of the references written beside the original",
        };
        tx.progress.step(Step::Stage, written);
        Ok(())
    }

    /// The contents of the new reference store, made on first use.
    fn rendered(&mut self, tx: &Tx<'_, M>) -> &mut Rendered {
        let live = tx.images.store_path();
        self.rendered
            .get_or_insert_with(|| Rendered::new(&live, &self.before.store, &tx.plan))
    }

    fn write_staged(&mut self, tx: &Tx<'_, M>) -> Result<(), Failure> {
        self.staged = None;
        let written = mem::replace(&mut self.rendered(tx).written, Ok(None))?;
        let (images, lock, id) = (tx.images, &tx.lock, &tx.id);
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

    async fn enable_live_restore(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        tx.heed_interrupt().await?;
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        if !daemon.impact.switches_live_restore() {
            return Ok(());
        }
        tx.progress.begin("switching live-restore on");
        self.reached = Reached::Keeping;
        daemon.switch_on(self.switch.as_ref()).await?;
        self.knows_to_start(tx, daemon);
        tx.progress.step(
            Step::EnableLiveRestore,
            "live-restore switched on for this run: containers keep running",
        );
        Ok(())
    }

    async fn block_start(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        tx.heed_interrupt().await?;
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        let unit = &daemon.docker.host.unit;
        tx.progress
            .begin(&format!("blocking starts of {}", unit.id));
        self.start_block =
            Some(StartBlock::place(daemon.docker.manager, daemon.runtime_units, unit).await?);
        if !daemon.impact.running && daemon.is_active().await {
            return Err(Failure::StartedMeanwhile(unit.id.clone()));
        }
        tx.progress.step(
            Step::BlockStart,
            &format!("nothing can start {} from now on", unit.id),
        );
        Ok(())
    }

    async fn stop(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        tx.heed_interrupt().await?;
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        if daemon.impact.running {
            let data_root = tx.images.data_root();
            self.reserve = Reserve::hold(data_root, &daemon.writes_at_start())?;
        }
        tx.progress.begin(&format!("stopping {}", daemon.units()));
        self.keep_down(tx, daemon).await?;
        self.look_at_containers(tx, daemon).await?;
        self.see_configuration(daemon)?;
        self.active_before = daemon.docker.manager.active_states().await?;
        // Before dockerd ends, it waits for clients of its API, and still serves
        // published ports meanwhile. So hold back connections only to ports that no
        // process serves.
        let unserved = match daemon.impact.stops_late() {
            true => ports::hold_unserved(&daemon.impact.ports_to_hold()).ok(),
            false => None,
        };
        if unserved.is_none() {
            self.hold_ports(tx);
        }
        self.see_no_more_containers(daemon).await?;
        self.reached = Reached::Stopping;
        if daemon.impact.running {
            tx.progress.docker_stops();
        }
        let stopped = daemon.stop().await;
        self.hold_ports(tx);
        drop(unserved);
        stopped?;
        tx.progress.step(Step::Stop, &daemon.stopped());
        tx.heed_interrupt().await
    }

    /// Holds back new connections to published ports. If that fails, the ports refuse
    /// connections for a moment, as during any restart of Docker.
    fn hold_ports(&mut self, tx: &mut Tx<'_, M>) {
        let Some(daemon) = self.daemon else {
            return;
        };
        let ports = daemon.impact.ports_to_hold();
        if ports.is_empty() || self.held_ports.is_some() {
            return;
        }
        match ports::hold(&ports) {
            Ok(held) => self.held_ports = Some(held),
            Err(error) => tx.progress.warning(&format!(
                "new connections to published ports are refused while Docker starts, because digestfix \
                 cannot hold these connections back: {error}"
            )),
        }
    }

    fn see_nobody_running(&self, tx: &Tx<'_, M>) -> Result<(), Failure> {
        if tx.images.is_in_use()? {
            return Err(Failure::StillRunning {
                pid: tx.images.user(),
            });
        }
        Ok(())
    }

    fn reread(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        if tx.images.is_still(&self.before)? {
            return Ok(());
        }
        let now = tx.images.look()?;
        let planned = ImageDb::ask(tx.images, |db| self.goal.plan(&now.store, db))?;
        tx.plan = planned.map_err(Failure::NoLongerFits)?;
        self.before = now;
        self.rendered = None;
        let references = self.references(tx);
        tx.planned_again(references)?;
        self.write_staged(tx)?;
        tx.progress.step(
            Step::Reread,
            "the references changed in the meantime, so digestfix planned again",
        );
        Ok(())
    }

    async fn commit(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        if tx.plan.is_empty() {
            return Ok(());
        }
        tx.heed_interrupt().await?;
        tx.progress.begin("changing the references");
        self.see_nobody_running(tx)?;
        self.reached = Reached::Committing;
        if let Some(staged) = self.staged.take() {
            let swapped = self.swapped.insert(staged.swap(&tx.lock)?);
            if !swapped.is_in_use()? {
                return Err(Failure::FileDiffers(
                    "the file changed right after the swap".into(),
                ));
            }
        }
        tx.progress.step(
            Step::Commit,
            &match tx.plan.len() {
                1 => "1 reference changed in the file".to_owned(),
                count => format!("{count} references changed in the file"),
            },
        );
        tx.heed_interrupt().await
    }

    async fn start(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        self.reached = self.reached.max(Reached::Starting);
        tx.progress.begin(&format!("starting {}", daemon.units()));
        let detail = if daemon.impact.running {
            self.reserve.free_first();
            self.ensure_on(tx)?;
            self.release_start_block();
            let interrupt = tx.interrupt;
            tokio::select! {
                biased;
                signal = interrupt.wait() => return Err(Failure::Interrupted(signal)),
                started = self.start_and_let_in(tx, daemon) => started?,
            }
            self.has_started(tx, daemon);
            format!("{} started, the engine answers", daemon.unit())
        } else {
            self.release_start_block();
            daemon.start_triggers().await?;
            format!("{} was not running and stays stopped", daemon.unit())
        };
        tx.progress.step(Step::Start, &detail);
        Ok(())
    }

    /// Starts Docker. New connections to published ports wait for Docker, for at most
    /// [`HOLD_PORTS_AT_MOST`].
    async fn start_and_let_in(
        &mut self,
        tx: &mut Tx<'_, M>,
        daemon: Daemon<'a, M, E>,
    ) -> Result<(), Failure> {
        let start = daemon.start();
        tokio::pin!(start);
        let started = tokio::select! {
            started = &mut start => started,
            () = tokio::time::sleep(HOLD_PORTS_AT_MOST) => {
                self.let_go(tx);
                start.await
            }
        };
        self.held_ports = None;
        started
    }

    /// Stops holding back connections to published ports, because Docker takes too long
    /// to start. Warns that the ports refuse new connections again.
    fn let_go(&mut self, tx: &mut Tx<'_, M>) {
        if self.held_ports.take().is_some() {
            tx.progress.warning(&format!(
                "Docker has been down for {} s: new connections to published ports are refused until Docker \
                 answers",
                HOLD_PORTS_AT_MOST.as_secs()
            ));
        }
    }

    fn release_start_block(&mut self) {
        if let Some(block) = &mut self.start_block {
            block.release();
        }
    }

    async fn verify(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        // Skip this check if there is no Docker to manage, because then no other process
        // has changed the file since the commit.
        if self.daemon.is_some() {
            self.verify_file(tx)?;
        }
        let mut detail = "the file has every reference".to_owned();
        if let Some(daemon) = self.daemon.filter(|daemon| daemon.impact.running) {
            tx.progress.begin("asking the running engine");
            daemon.agrees(&tx.plan, &tx.images.image_ids()?).await?;
            detail.push_str(", and the running engine has them too");
        }
        tx.heed_interrupt().await?;
        tx.progress.step(Step::Verify, &detail);
        Ok(())
    }

    /// Checks that Docker's reference file has the planned references. Accepts a file
    /// with other bytes and additional references, because Docker may have rewritten the
    /// file for a client by now.
    fn verify_file(&mut self, tx: &Tx<'_, M>) -> Result<(), Failure> {
        let images = tx.images;
        if images.is(&self.rendered(tx).text.pieces())? {
            return Ok(());
        }
        let now = tx.images.read()?;
        // When the engine writes the file, it leaves out entries that it cannot use.
        let lost = tx.plan.after.entries().filter(|entry| !now.has(entry));
        if let Some((reference, image)) = lost.filter_map(|entry| entry.meaning().ok()).next() {
            return Err(Failure::FileDiffers(format!(
                "{reference} does not point at {image}"
            )));
        }
        for reference in tx.plan.dropped() {
            if now.get(reference).is_some() {
                return Err(Failure::FileDiffers(format!("{reference} is still there")));
            }
        }
        let gone = tx.plan.entries.iter().filter(|entry| entry.to.is_none());
        for EntryChange {
            repository, key, ..
        } in gone
        {
            if now.entry(repository, key).is_some() {
                return Err(Failure::FileDiffers(format!("{key:?} is still there")));
            }
        }
        Ok(())
    }

    /// Starts the units that stopped along with Docker.
    async fn start_units_again(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        let lost = daemon.lost(&self.active_before).await?;
        if lost.is_empty() {
            return Ok(());
        }
        tx.progress
            .begin(&format!("starting {} again", lost.join(", ")));
        daemon.start_inactive(&lost).await?;
        tx.progress
            .step(Step::Restore, &format!("{} started again", lost.join(", ")));
        Ok(())
    }

    async fn remove_start_block(&mut self, tx: &mut Tx<'_, M>) {
        let (Some(daemon), Some(block)) = (self.daemon, self.start_block.take()) else {
            return;
        };
        if let Err(error) = block.remove(daemon.docker.manager).await {
            tx.progress.warning(&format!(
                "the start block of {} could not be removed, but the block has no effect any more: {error}",
                daemon.unit()
            ));
        }
    }

    async fn undo_all(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        let stopped = if self.reached >= Reached::Starting && self.swapped.is_some() {
            self.undo_start(tx).await
        } else {
            Ok(())
        };
        // Restore the file only if dockerd has stopped, because a running dockerd would
        // overwrite the file.
        let put_back = if stopped.is_ok() && self.reached >= Reached::Committing {
            self.undo_commit(tx)
        } else {
            Ok(())
        };
        // Start Docker even if restoring the file failed: both the old and the new store
        // are complete, and a host without Docker is the worst outcome.
        let started = if self.reached >= Reached::Stopping || self.is_gone().await {
            self.undo_stop(tx).await
        } else {
            Ok(())
        };
        stopped.and(put_back).and(started)
    }

    /// Whether Docker ran before the transaction, and is down now.
    async fn is_gone(&self) -> bool {
        match self.daemon {
            Some(daemon) => daemon.impact.running && daemon.has_ended().await.unwrap_or_default(),
            None => false,
        }
    }

    async fn undo_start(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        let (Some(daemon), Some(block)) = (self.daemon, &mut self.start_block) else {
            return Ok(());
        };
        tx.progress.begin("stopping Docker again");
        block.renew()?;
        self.look_for_more_containers(tx, daemon).await?;
        self.hold_ports(tx);
        if daemon.impact.running {
            tx.progress.docker_stops();
        }
        daemon.stop().await?;
        self.see_nobody_running(tx)?;
        tx.progress.step(Step::UndoStop, "Docker stopped again");
        Ok(())
    }

    /// Restores the old store. If other clients changed the new store while Docker used
    /// it, this function keeps their changes and reverts only the changes of this plan.
    fn undo_commit(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        let images = tx.images;
        let is_ours = images.is(&self.rendered(tx).text.pieces())?;
        match self.swapped.take() {
            Some(swapped) if is_ours => swapped.swap_back(&tx.lock)?,
            swapped => {
                // Keep the old store's file as long as it may be the only complete copy.
                self.swapped = swapped;
                let mut store = tx.images.read()?;
                if store.as_read() != self.before.store.as_read() {
                    tx.plan.take_back(&mut store);
                    Staged::write(tx.images, &tx.lock, &tx.id, &store.text().pieces())?
                        .swap(&tx.lock)?
                        .discard()?;
                }
                if let Some(swapped) = self.swapped.take() {
                    swapped.discard()?;
                }
            }
        }
        tx.progress
            .step(Step::UndoCommit, "the old references are back in place");
        Ok(())
    }

    async fn undo_stop(&mut self, tx: &mut Tx<'_, M>) -> Result<(), Failure> {
        let Some(daemon) = self.daemon else {
            return Ok(());
        };
        tx.progress.begin(&format!("starting {}", daemon.units()));
        self.reserve.free();
        // Start Docker even if digestfix could not ensure that daemon.json has
        // live-restore on.
        let kept = self.ensure_on(tx);
        self.release_start_block();
        if daemon.impact.running {
            self.restarted = true;
            self.start_and_let_in(tx, daemon).await?;
            kept?;
            let store = tx.images.read()?;
            daemon.lists(&store, &tx.images.image_ids()?).await?;
        } else {
            daemon.start_triggers().await?;
        }
        tx.progress
            .step(Step::UndoStart, "Docker is as it was before");
        Ok(())
    }

    fn store_now(&self, tx: &Tx<'_, M>) -> StoreNow {
        match (tx.images.read(), &self.swapped) {
            (Ok(now), _) if now.as_read() == self.before.store.as_read() => StoreNow::Old,
            (Ok(_), Some(swapped)) => StoreNow::New(swapped.backup().to_owned()),
            _ => StoreNow::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;
