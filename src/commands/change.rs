//! Change of references: the code that `apply`, `load` and `rollback` share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::invocation::Invocation;
use crate::cli::{ChangeArgs, HostArgs};
use crate::commands::recover::{recover, settled_site};
use crate::commands::{Draft, LOOKS, Reach, Site, Stop, WAITS_FOR_LOCK, rollback};
use crate::host::impact::{Allowed, Blocker, Impact};
use crate::host::{Flags, HostError, probable_data_root};
use crate::plan::Request;
use crate::report::Report;
use crate::state::history;
use crate::state::journal::Journal;
use crate::state::loading::Loading;
use crate::state::lock::{RootLock, make_root};
use crate::state::retention::Limits;
use crate::state::rollback::RollbackBlocker;
use crate::store::data_root::Snapshot;
use crate::sys::interrupt::Interrupt;
use crate::systemd::SystemBus;
use crate::transaction::Tx;
use crate::transaction::goal::Goal;
use crate::transaction::image_store::PlanError;
use crate::transaction::outcome::{Outcome, Progress};

pub(super) enum Wanted<'a> {
    Claims(&'a Request),
    /// Roll back the transaction with this ID, or the newest one.
    Rollback(Option<&'a str>),
}

pub(super) struct Options<'a> {
    pub allowed: Allowed,
    pub wait: Duration,
    pub limits: Limits,
    pub host: &'a HostArgs,
    pub containerd_root: Option<&'a Path>,
}

impl<'a> From<&'a ChangeArgs> for Options<'a> {
    fn from(args: &'a ChangeArgs) -> Self {
        Self {
            allowed: Allowed {
                containers: args.containers.containers,
                force_restart: args.restart.force_restart,
            },
            wait: args.lock.wait,
            limits: (&args.retention).into(),
            host: &args.host,
            containerd_root: args.content.containerd_root.as_deref(),
        }
    }
}

impl Options<'_> {
    pub(super) fn invocation(&self) -> Invocation {
        Invocation::of(self.host, self.containerd_root)
    }
}

/// The outcome, with the expected impact on containers if Docker was stopped.
pub(super) struct Changed {
    pub outcome: Outcome,
    pub impact: Option<Impact>,
    /// The images that Docker loaded before the change, and how to continue if the change
    /// is undone.
    pub loaded: Option<LoadedImages>,
}

/// Loaded images, which stay on this host even if digestfix does not record their claims.
pub(super) struct LoadedImages {
    pub told: String,
    pub next: String,
}

impl<'a> Wanted<'a> {
    /// The goal for the current state of this host.
    fn goal(&self, site: &Site, report: &mut Report) -> Result<Goal<'a>, Stop> {
        match self {
            Self::Claims(request) => Ok(Goal::Claims(request)),
            Self::Rollback(id) => {
                let reversal = rollback::find(*id, site.images())?;
                report.rollback_of(&reversal.id);
                Ok(Goal::TakeBack(reversal))
            }
        }
    }
}

/// Makes the change. Returns `None` if there is nothing to do.
pub(super) async fn change(
    wanted: &Wanted<'_>,
    options: &Options<'_>,
    report: &mut Report,
) -> Result<Option<Changed>, Stop> {
    // Plan first without taking the lock. So a run that has nothing to do does not block
    // other runs, and digestfix refuses an impossible change at once.
    let (data_root, seen) = match look(wanted, options, report).await {
        Ok(None) => return Ok(None),
        Ok(Some(looked)) => looked,
        Err(stop) => (data_root_behind(options, stop).await?, None),
    };
    let held = Held::take(&data_root, options, report).await?;
    if let Some(left) = Loading::read(&data_root) {
        warn_of_load(&left, report);
    }
    held.change(wanted, options, seen, report).await
}

/// A host that this run has locked, and on which it has recovered interrupted runs.
pub(super) struct Held {
    pub site: Site,
    pub lock: RootLock,
    pub interrupt: Interrupt,
}

impl Held {
    pub(super) async fn take(
        data_root: &Path,
        options: &Options<'_>,
        report: &mut Report,
    ) -> Result<Self, Stop> {
        let interrupt = Interrupt::listen().map_err(Stop::Signals)?;
        report.begin(WAITS_FOR_LOCK);
        let lock = tokio::select! {
            biased;
            signal = interrupt.wait() => return Err(Stop::Interrupted(signal)),
            lock = RootLock::acquire(data_root, options.wait) => lock?,
        };
        report.begin(LOOKS);
        // Examine the host again: another run may have ended just now.
        let mut site = settled_site(options.host, Reach::Bus).await?;
        report.host(&site.host);
        if let Some(problems) = recover(&site, &lock, report).await? {
            for problem in problems {
                report.warning(&problem);
            }
            site = Site::find(options.host, Reach::Bus).await?;
            report.host(&site.host);
        }
        for error in history::end_interrupted(&lock, None) {
            report.warning(&error.to_string());
        }
        Ok(Self {
            site,
            lock,
            interrupt,
        })
    }

    /// Makes the change. Returns `None` if there is nothing to do.
    pub(super) async fn change(
        self,
        wanted: &Wanted<'_>,
        options: &Options<'_>,
        seen: Option<Snapshot>,
        report: &mut Report,
    ) -> Result<Option<Changed>, Stop> {
        let Self {
            site,
            lock,
            interrupt,
        } = self;
        let goal = wanted.goal(&site, report)?;
        let draft = site.draft(&goal, options.containerd_root, seen, report);
        let draft = draft.await?;
        report.unread(&draft.means.stale);
        report.gaps(&draft.gaps());
        if draft.changes_nothing() {
            end_loading(&lock, report);
            return Ok(None);
        }
        let Draft { store, plan, means } = draft;
        let (impact, blockers) = store.survey(options.allowed).await?;
        if !blockers.is_empty() {
            return Err(Stop::Blockers(blockers));
        }
        report.say_host();
        if let Goal::TakeBack(reversal) = &goal {
            report.line(&format!("Rolling back transaction {}:", reversal.id));
        }
        report.say_plan(&plan);
        report.say_skipped(&plan);
        report.made_by(store.method());
        if !plan.is_empty() {
            report.total(&plan, store.method(), impact.as_ref(), None);
        }
        report.line("");
        let tx = Tx::new(
            site.images(),
            lock,
            goal.kind(),
            options.limits,
            site.supervised(),
            &interrupt,
            report,
            plan,
        );
        let outcome = store.run(tx, &goal, means, impact.as_ref()).await;
        Ok(Some(Changed {
            outcome,
            impact,
            loaded: None,
        }))
    }
}

/// Warns that the claims of a load are not recorded yet.
pub(super) fn warn_of_load(left: &Loading, report: &mut Report) {
    report.warning(&format!("{}. Next: {}", left.told(), left.next()));
}

/// Removes the loading mark, because no claim of the load is left to apply.
pub(super) fn end_loading(lock: &RootLock, report: &mut Report) {
    if let Err(error) = Loading::end(lock) {
        report.warning(&error);
    }
}

/// The data root to lock, and a snapshot of its store. Returns `None` if there is nothing
/// to do.
async fn look(
    wanted: &Wanted<'_>,
    options: &Options<'_>,
    report: &mut Report,
) -> Result<Option<(PathBuf, Option<Snapshot>)>, Stop> {
    let site = Site::find(options.host, Reach::Bus).await?;
    report.host(&site.host);
    let data_root = site.images().data_root().to_owned();
    if Journal::read(&data_root)?.is_some() {
        return Ok(Some((data_root, None)));
    }
    let goal = match wanted.goal(&site, report) {
        // The transaction has not ended: wait for the lock, and then look again.
        Err(Stop::RollbackBlocker(RollbackBlocker::NotEnded(_))) => {
            return Ok(Some((data_root, None)));
        }
        goal => goal?,
    };
    let draft = site.draft(&goal, options.containerd_root, None, report);
    let draft = draft.await?;
    if draft.changes_nothing() {
        report.gaps(&draft.gaps());
        report.say_skipped(&draft.plan);
        return Ok(None);
    }
    match draft.store.survey(options.allowed).await? {
        (_, blockers) if blockers.is_empty() => {
            if site.containerd().is_some() {
                make_root(&data_root)?;
            }
            Ok(Some((data_root, draft.store.into_snapshot())))
        }
        (_, blockers) => Err(Stop::Blockers(blockers)),
    }
}

/// Returns the data root to lock if another run may have caused this error. A host can
/// look broken while another run changes the host. The caller then waits for the lock, and
/// looks again.
async fn data_root_behind(options: &Options<'_>, stop: Stop) -> Result<PathBuf, Stop> {
    let may_be_another_run = match &stop {
        Stop::Host(HostError::Unsettled { .. } | HostError::EngineSilent { .. })
        | Stop::Plan(PlanError::Assess(_)) => true,
        Stop::Blockers(blockers) => blockers.iter().all(|blocker| {
            matches!(
                blocker,
                Blocker::JobQueued { .. } | Blocker::Unsettled { .. }
            )
        }),
        _ => false,
    };
    if !may_be_another_run {
        return Err(stop);
    }
    let bus = SystemBus::connect().await?;
    match probable_data_root(&Flags::from(options.host), &bus).await {
        Some(data_root) => Ok(data_root),
        None => Err(stop),
    }
}
