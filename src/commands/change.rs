//! What `apply` and `rollback` have in common: all but what is to change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::HostArgs;
use crate::commands::online::Containerd;
use crate::commands::recover::{recover, settled_site};
use crate::commands::{
    Draft, LOOKS, Reach, Site, Stop, WAITS_FOR_LOCK, engine_at, rollback, survey, unread,
};
use crate::host::impact::{Allowed, Blocker, Impact};
use crate::host::{Flags, HostError, probable_data_root};
use crate::plan::Request;
use crate::report::Report;
use crate::state::history;
use crate::state::journal::Journal;
use crate::state::lock::RootLock;
use crate::state::pending::PENDING;
use crate::state::retention::Limits;
use crate::state::rollback::RollbackBlocker;
use crate::store::data_root::Snapshot;
use crate::sys::interrupt::Interrupt;
use crate::systemd::{RUNTIME_UNITS, SystemBus};
use crate::transaction::goal::Goal;
use crate::transaction::outcome::{Outcome, Progress};
use crate::transaction::restart::Restart;
use crate::transaction::restart::daemon::Daemon;
use crate::transaction::{Docker, Tx};

/// What somebody wants.
pub(super) enum Wanted<'a> {
    /// That claims are true.
    Claims(&'a Request),
    /// That a transaction is taken back; when it is not named, the newest.
    Rollback(Option<&'a str>),
}

/// On which options.
pub(super) struct Options<'a> {
    pub allowed: Allowed,
    pub wait: Duration,
    pub limits: Limits,
    pub host: &'a HostArgs,
    pub containerd_root: Option<&'a Path>,
}

/// How it ended, with what was to be expected of containers where Docker is stopped.
pub(super) struct Changed {
    pub outcome: Outcome,
    pub impact: Option<Impact>,
}

impl<'a> Wanted<'a> {
    /// What that means on a host as it is now.
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

/// Makes a wanted come true. None when there is nothing to do.
pub(super) async fn change(
    wanted: &Wanted<'_>,
    options: &Options<'_>,
    report: &mut Report,
) -> Result<Option<Changed>, Stop> {
    // A first look without the lock: when there is nothing to do, nobody is
    // kept waiting, and what cannot be done is refused at once.
    let (data_root, seen) = match look(wanted, options, report).await {
        Ok(None) => return Ok(None),
        Ok(Some(looked)) => looked,
        Err(stop) => (data_root_behind(options, stop).await?, None),
    };
    let interrupt = Interrupt::listen().map_err(Stop::Signals)?;
    report.begin(WAITS_FOR_LOCK);
    let lock = tokio::select! {
        biased;
        signal = interrupt.wait() => return Err(Stop::Interrupted(signal)),
        lock = RootLock::acquire(&data_root, options.wait) => lock?,
    };
    report.begin(LOOKS);
    // Everything again: another run may have ended just now.
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
    let goal = wanted.goal(&site, report)?;
    if let Some(containerd) = Containerd::of(&site, options.containerd_root)? {
        let ended = containerd
            .change(&goal, lock, options.limits, &interrupt, report)
            .await?;
        return Ok(ended.map(|outcome| Changed {
            outcome,
            impact: None,
        }));
    }
    let draft = Draft::again(site.images(), &goal, seen)?;
    report.plan(&draft.plan);
    let unread = unread::of_draft(&site, &draft).await?;
    report.unread(&unread);
    if draft.plan.is_empty() && unread.is_empty() {
        return Ok(None);
    }
    let (impact, blockers) = survey(&site, options.allowed).await?;
    if !blockers.is_empty() {
        return Err(Stop::Blockers(blockers));
    }
    if impact.is_some() {
        report.restarts();
    }
    report.say_host();
    if let Goal::TakeBack(reversal) = &goal {
        report.line(&format!("Taking back transaction {}:", reversal.id));
    }
    report.say_plan(&draft.plan);
    report.say_skipped(&draft.plan);
    report.line("");
    let engine = site
        .managed()
        .map(|(_, managed)| engine_at(&managed.socket));
    let daemon = match (site.managed(), &engine, &impact) {
        (Some((manager, host)), Some(engine), Some(impact)) => Some(Daemon {
            docker: Docker {
                manager,
                host,
                pending: Path::new(PENDING),
            },
            engine,
            impact,
            runtime_units: Path::new(RUNTIME_UNITS),
        }),
        _ => None,
    };
    let method = Restart::new(&goal, daemon, draft.before);
    let tx = Tx::new(
        site.images(),
        lock,
        goal.kind(),
        options.limits,
        daemon.map(|daemon| daemon.docker),
        &interrupt,
        report,
        draft.plan,
    );
    let outcome = tx.run(method).await;
    Ok(Some(Changed { outcome, impact }))
}

/// Where to take the lock, and the store as it was seen there. None when there
/// is nothing to do.
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
        // Whoever has the lock knows more.
        Err(Stop::RollbackBlocker(RollbackBlocker::NotEnded(_))) => {
            return Ok(Some((data_root, None)));
        }
        goal => goal?,
    };
    if let Some(containerd) = Containerd::of(&site, options.containerd_root)? {
        let any = containerd.look(&goal, report).await?;
        return Ok(any.then_some((data_root, None)));
    }
    let draft = Draft::new(site.images(), &goal)?;
    report.plan(&draft.plan);
    if draft.plan.is_empty() && unread::of_draft(&site, &draft).await?.is_empty() {
        report.say_skipped(&draft.plan);
        return Ok(None);
    }
    match survey(&site, options.allowed).await? {
        (_, blockers) if blockers.is_empty() => Ok(Some((data_root, Some(draft.before)))),
        (_, blockers) => Err(Stop::Blockers(blockers)),
    }
}

/// A host in the middle of a change looks broken: where another run may be at
/// work, its lock is waited for before that is believed.
async fn data_root_behind(options: &Options<'_>, stop: Stop) -> Result<PathBuf, Stop> {
    let may_be_another_run = match &stop {
        Stop::Host(HostError::Unsettled { .. } | HostError::EngineSilent { .. })
        | Stop::Assess(_) => true,
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
