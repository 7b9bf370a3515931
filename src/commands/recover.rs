//! `digestfix recover`, and what `apply` does first when a run was killed.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::{HostArgs, RecoverArgs};
use crate::commands::{Site, Stop, engine_at};
use crate::disturbance::Disturbance;
use crate::host::HostError;
use crate::interrupt::Interrupt;
use crate::journal::{self, Journal};
use crate::report::{Exit, Problem, Report};
use crate::transaction::daemon::Daemon;
use crate::transaction::hold::RUNTIME_UNITS;
use crate::transaction::lock::RootLock;
use crate::transaction::outcome::Failure;
use crate::transaction::recovery;

const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

pub(super) async fn run(args: &RecoverArgs) -> Exit {
    let mut report = Report::new("recover", &args.output);
    match look(args, &mut report).await {
        Ok(Some(problems)) if problems.is_empty() => {
            report.done(true, None);
            report.line("\nDone. The host is whole again.");
            report.end(Exit::Done)
        }
        Ok(Some(problems)) => {
            report.done(true, None);
            report.problem(
                "INCOMPLETE",
                Problem {
                    what: problems,
                    state: "Docker, its configuration and everything else are as they were"
                        .to_owned(),
                    next: Some("see to what is named above by hand".to_owned()),
                },
            );
            report.end(Exit::Broken)
        }
        Ok(None) => {
            report.done(false, None);
            report.line("Nothing to recover: no run was interrupted here.");
            report.end(Exit::Done)
        }
        Err(stop) => stop.tell(report),
    }
}

async fn look(args: &RecoverArgs, report: &mut Report) -> Result<Option<Vec<String>>, Stop> {
    let interrupt = Interrupt::listen().map_err(Stop::Signals)?;
    let site = settled_site(&args.host).await?;
    report.host(&site.host);
    let data_root = site.images().data_root();
    if Journal::read(data_root)?.is_none() {
        return Ok(None);
    }
    let lock = tokio::select! {
        lock = RootLock::acquire(data_root, args.lock.wait) => lock?,
        signal = interrupt.wait() => return Err(Stop::Interrupted(signal)),
    };
    recover(&site, &lock, report).await
}

/// The host, once systemd has done what it is about to do with Docker: start it
/// again by itself, say.
pub(super) async fn settled_site(args: &HostArgs) -> Result<Site, Stop> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    loop {
        match Site::find(args).await {
            Err(Stop::Host(HostError::Unsettled { .. })) if Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            found => return found,
        }
    }
}

/// Brings the host back, if there is a journal, and gives what a person has to
/// see to. None when there is no journal.
pub(super) async fn recover(
    site: &Site,
    lock: &RootLock,
    report: &mut Report,
) -> Result<Option<Vec<String>>, Stop> {
    let Some(mut journal) = Journal::read(lock.data_root())? else {
        return Ok(None);
    };
    let Some((manager, host)) = site.managed() else {
        return Err(Stop::InterruptedRun(journal::path(lock.data_root())));
    };
    if journal.unit != host.unit.id {
        return Err(Stop::OtherUnit(journal.unit));
    }
    if let Some(live_restore) = &journal.live_restore
        && live_restore.config_file != host.config_file
    {
        return Err(Stop::OtherConfigFile(live_restore.config_file.clone()));
    }
    report.line(&format!(
        "A run was interrupted ({}); bringing the host back first.",
        journal.id
    ));
    let disturbance = Disturbance::of_units(
        &journal.unit,
        journal.running,
        journal.triggers.clone(),
        journal.units.clone(),
    );
    let daemon = Daemon {
        manager,
        engine: &engine_at(&host.socket),
        host,
        disturbance: &disturbance,
        runtime_units: Path::new(RUNTIME_UNITS),
    };
    let recovered = recovery::recover(&mut journal, site.images(), lock, daemon, report).await;
    let problems = recovered.map_err(Stop::Recovery)?;
    report.recovered();
    Ok(Some(problems))
}

/// What there is to say of a recovery that failed.
pub(super) fn problem(failure: &Failure, unit: &str) -> Problem {
    Problem {
        what: vec![format!(
            "an interrupted run could not be brought to an end: {failure}"
        )],
        state:
            "the references are whole; Docker may be down, daemon.json have live-restore on, and \
                containers that are down have no restart policy"
                .to_owned(),
        next: Some(format!(
            "look at Docker (systemctl status {unit}; journalctl -u {unit} -n 50), mend that, then: \
             digestfix recover"
        )),
    }
}
