//! `digestfix apply`

use std::path::{Path, PathBuf};

use crate::cli::ApplyArgs;
use crate::commands::recover::{recover, settled_site};
use crate::commands::{Draft, Site, Stop, engine_at, request, survey};
use crate::container::Change;
use crate::disturbance::{Disturbance, Obstacle};
use crate::host::{Flags, HostError, probable_data_root};
use crate::interrupt::Interrupt;
use crate::journal::Journal;
use crate::plan::Request;
use crate::report::{Exit, Problem, Report};
use crate::systemd::SystemBus;
use crate::transaction::Transaction;
use crate::transaction::daemon::Daemon;
use crate::transaction::hold::RUNTIME_UNITS;
use crate::transaction::lock::RootLock;
use crate::transaction::outcome::{DockerNow, Failure, Outcome, Progress, StoreNow};
use crate::unfinished::UNFINISHED;

pub(super) async fn run(args: &ApplyArgs) -> Exit {
    let mut report = Report::new("apply", &args.output);
    match apply(args, &mut report).await {
        Ok(None) => {
            report.done(false, None);
            report.line("Nothing to do: all that is claimed of this host holds already.");
            report.end(Exit::Done)
        }
        Ok(Some((outcome, disturbance))) => tell(outcome, disturbance.as_ref(), report, args),
        Err(stop) => stop.tell(report),
    }
}

/// How it ended, and what was to be expected of containers.
type Applied = (Outcome, Option<Disturbance>);

/// None when there is nothing to do.
async fn apply(args: &ApplyArgs, report: &mut Report) -> Result<Option<Applied>, Stop> {
    let request = request(&args.request, report)?;
    // A first look without the lock: when there is nothing to do, nobody is
    // kept waiting, and a claim that cannot be met is refused at once.
    let data_root = match look(args, &request, report).await {
        Ok(None) => return Ok(None),
        Ok(Some(data_root)) => data_root,
        Err(stop) => data_root_behind(args, stop).await?,
    };
    let interrupt = Interrupt::listen().map_err(Stop::Signals)?;
    let lock = tokio::select! {
        lock = RootLock::acquire(&data_root, args.lock.wait) => lock?,
        signal = interrupt.wait() => return Err(Stop::Interrupted(signal)),
    };
    // Everything again: another run may have ended just now.
    let mut site = settled_site(&args.host).await?;
    report.host(&site.host);
    if let Some(problems) = recover(&site, &lock, report).await? {
        for problem in problems {
            report.warning(&problem);
        }
        site = Site::find(&args.host).await?;
        report.host(&site.host);
    }
    let draft = Draft::new(site.images(), &request)?;
    report.plan(&draft.plan);
    if draft.plan.is_empty() {
        return Ok(None);
    }
    let (disturbance, obstacles) = survey(&site, args.containers.containers).await?;
    if !obstacles.is_empty() {
        return Err(Stop::Obstacles(obstacles));
    }
    report.say_host();
    report.say_plan(&draft.plan);
    report.say_skipped(&draft.plan);
    report.line("");
    let engine = site
        .managed()
        .map(|(_, managed)| engine_at(&managed.socket));
    let daemon = match (site.managed(), &engine, &disturbance) {
        (Some((manager, host)), Some(engine), Some(disturbance)) => Some(Daemon {
            manager,
            engine,
            host,
            disturbance,
            runtime_units: Path::new(RUNTIME_UNITS),
            unfinished: Path::new(UNFINISHED),
        }),
        _ => None,
    };
    let transaction = Transaction::new(
        site.images(),
        lock,
        &request,
        daemon,
        &interrupt,
        report,
        draft.before,
        draft.plan,
    );
    let outcome = transaction.run().await;
    Ok(Some((outcome, disturbance)))
}

async fn look(
    args: &ApplyArgs,
    request: &Request,
    report: &mut Report,
) -> Result<Option<PathBuf>, Stop> {
    let site = Site::find(&args.host).await?;
    if Journal::read(site.images().data_root())?.is_some() {
        return Ok(Some(site.images().data_root().to_owned()));
    }
    let draft = Draft::new(site.images(), request)?;
    if draft.plan.is_empty() {
        report.plan(&draft.plan);
        report.say_skipped(&draft.plan);
        return Ok(None);
    }
    match survey(&site, args.containers.containers).await? {
        (_, obstacles) if obstacles.is_empty() => Ok(Some(site.images().data_root().to_owned())),
        (_, obstacles) => Err(Stop::Obstacles(obstacles)),
    }
}

/// A host in the middle of a change looks broken: where another run may be at
/// work, its lock is waited for before that is believed.
async fn data_root_behind(args: &ApplyArgs, stop: Stop) -> Result<PathBuf, Stop> {
    let may_be_another_run = match &stop {
        Stop::Host(HostError::Unsettled { .. } | HostError::EngineSilent { .. })
        | Stop::Assess(_) => true,
        Stop::Obstacles(obstacles) => obstacles.iter().all(|obstacle| {
            matches!(
                obstacle,
                Obstacle::JobQueued { .. } | Obstacle::Unsettled { .. }
            )
        }),
        _ => false,
    };
    if !may_be_another_run {
        return Err(stop);
    }
    let bus = SystemBus::connect().await?;
    match probable_data_root(&Flags::from(&args.host), &bus).await {
        Some(data_root) => Ok(data_root),
        None => Err(stop),
    }
}

fn tell(
    outcome: Outcome,
    disturbance: Option<&Disturbance>,
    mut report: Report,
    args: &ApplyArgs,
) -> Exit {
    // Only a run without a daemon has no unit, and then none is spoken of.
    let unit = report.unit().unwrap_or_default().to_owned();
    match outcome {
        Outcome::Done {
            plan,
            backup,
            containers,
        } => {
            report.plan(&plan);
            let changed = backup.is_some();
            if let Some(backup) = &backup {
                report.line(&format!(
                    "\nDone. The former references are kept in {}",
                    backup.display()
                ));
            } else {
                report.line("\nNothing had to be changed in the end.");
            }
            report.done(changed, backup);
            let unexpected = tell_containers(&containers, disturbance, &mut report);
            if unexpected.is_empty() {
                return report.end(Exit::Done);
            }
            report.problem(
                "CONTAINERS CHANGED",
                Problem {
                    what: unexpected,
                    state: "the references are changed, and Docker runs on them".to_owned(),
                    next: Some("look at them: docker ps -a; docker logs NAME".to_owned()),
                },
            );
            report.end(Exit::ContainersChanged)
        }
        Outcome::Undone {
            failure,
            restarted,
            containers,
        } => {
            let state = match (restarted, args.host.offline) {
                (true, _) => "the references are as they were, and Docker runs on them again",
                (false, true) => "the references are as they were",
                (false, false) => "the references are as they were, and Docker was not stopped",
            };
            report.done(false, None);
            let mut what = vec![failure.to_string()];
            what.extend(tell_containers(&containers, disturbance, &mut report));
            report.problem(
                "failed",
                Problem {
                    what,
                    state: state.to_owned(),
                    next: Some(advice(&failure)),
                },
            );
            report.end(Exit::Failed)
        }
        Outcome::Broken {
            failure,
            undo,
            store,
            docker,
            guard,
        } => {
            let references = match &store {
                StoreNow::Old => "the references are as they were".to_owned(),
                StoreNow::New(backup) => format!(
                    "the NEW references are in place, the old ones are in {}",
                    backup.display()
                ),
                StoreNow::Unknown => "the references could not be read back".to_owned(),
            };
            let look = match docker {
                None => "see to the file system".to_owned(),
                Some(DockerNow::Runs | DockerNow::AsBefore) => {
                    format!("look at what is there (systemctl status {unit})")
                }
                Some(DockerNow::Down) => {
                    format!("look why it does not start (journalctl -u {unit} -n 50), mend that")
                }
                Some(DockerNow::ShuttingDown) => "once the machine is up again".to_owned(),
            };
            report.problem(
                "COULD NOT RESTORE THE HOST",
                Problem {
                    what: vec![failure.to_string(), format!("and then, undoing it: {undo}")],
                    state: match docker {
                        None => references,
                        Some(DockerNow::Runs) => format!("{references}; Docker runs"),
                        Some(DockerNow::Down) => format!("{references}; Docker is DOWN"),
                        Some(DockerNow::AsBefore) => {
                            format!("{references}; Docker does not run, and did not before")
                        }
                        Some(DockerNow::ShuttingDown) => format!(
                            "{references}; the machine is shutting down, and Docker starts with it again"
                        ),
                    },
                    next: Some(next_after(&look, guard.as_deref())),
                },
            );
            report.end(Exit::Broken)
        }
        Outcome::Incomplete {
            plan,
            problem,
            containers,
            guard,
        } => {
            report.plan(&plan);
            report.done(true, None);
            let mut what = vec![problem.to_string()];
            what.extend(tell_containers(&containers, disturbance, &mut report));
            report.problem(
                "INCOMPLETE",
                Problem {
                    what,
                    state:
                        "the references are changed and Docker runs on them, but not all else is as \
                            it was found"
                            .to_owned(),
                    next: Some(next_after("mend that", guard.as_deref())),
                },
            );
            report.end(Exit::Broken)
        }
    }
}

/// What is to be done about a host that is half-way.
fn next_after(first: &str, guard: Option<&str>) -> String {
    let next = format!("{first}, then: digestfix recover");
    match guard {
        Some(guard) => format!("{next} (which {guard} now tries as well: journalctl -u {guard})"),
        None => next,
    }
}

/// Tells of the changes that were accepted, and gives the others.
fn tell_containers(
    changes: &[Change],
    disturbance: Option<&Disturbance>,
    report: &mut Report,
) -> Vec<String> {
    report.containers(changes);
    let accepted = |change: &&Change| disturbance.is_some_and(|known| known.accepts(change));
    let (expected, unexpected): (Vec<_>, Vec<_>) = changes.iter().partition(accepted);
    for change in expected {
        report.line(&format!("Container {change}."));
    }
    unexpected
        .into_iter()
        .map(|change| format!("container {change}"))
        .collect()
}

fn advice(failure: &Failure) -> String {
    match failure {
        Failure::Interrupted(_) => "run the same command again when it suits",
        Failure::File(_) | Failure::Journal(_) | Failure::Notice(_) => {
            "see to the file system (space, permissions, errors), then try again"
        }
        Failure::NoLongerFits(_) => "look at the references (digestfix status), then try again",
        Failure::Systemd(_) | Failure::Hold(_) | Failure::Guard(_) => "see to systemd, then try again",
        Failure::NotRunning { .. } | Failure::Silent { .. } => {
            "look why Docker did not start (its journal), then try again"
        }
        Failure::ReloadWithoutEffect { .. } => {
            "look why in Docker's journal; or choose what becomes of containers: --containers restart, \
             --containers ignore"
        }
        Failure::MoreContainers(_) | Failure::SwitchedOff | Failure::StartedMeanwhile(_) => {
            "run the same command again"
        }
        _ => "try again with -v; if it fails again, it is worth a report",
    }
    .to_owned()
}
