//! `digestfix recover`, and the recovery with which `apply` begins if an earlier run was
//! killed.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use crate::cli::invocation::Invocation;
use crate::cli::{HostArgs, RecoverArgs};
use crate::commands::change::{end_loading, warn_of_load};
use crate::commands::{ANSWER_WITHIN, LOOKS, Reach, Site, Stop, WAITS_FOR_LOCK};
use crate::docker::content_store::ContentStore;
use crate::host::impact::Impact;
use crate::host::{HostError, StoreKind};
use crate::report::run_result::RunResult;
use crate::report::{Problem, Report};
use crate::state::journal::{self, Intent, Journal, Load, Records};
use crate::state::loading::Loading;
use crate::state::lock::RootLock;
use crate::state::pending::{self, Marker, PENDING};
use crate::store::data_root::ImageDir;
use crate::sys::interrupt::Interrupt;
use crate::systemd::{RUNTIME_UNITS, SystemBus, lasting_units};
use crate::transaction::load::Running;
use crate::transaction::outcome::{Failure, Progress};
use crate::transaction::restart::daemon::Daemon;
use crate::transaction::restart::left::left;
use crate::transaction::{load, record, recovery, restart};

const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// This message is true after every crash, because digestfix replaces the file with the
/// references atomically.
const WHOLE: &str = "the references are intact";

pub(super) async fn run(args: &RecoverArgs) -> RunResult {
    let invocation = Invocation::of(&args.host, None);
    let mut report = Report::new("recover", &args.output, invocation).observed(args.metrics.file());
    match look(args, &mut report).await {
        Ok(Some(problems)) if problems.is_empty() => {
            report.done(true, None);
            if !args.before_docker {
                report.conclude("Done. The host is consistent again.");
            }
            report.end(RunResult::Recovered)
        }
        Ok(Some(problems)) => {
            report.done(true, None);
            let is_of_node = report.is_of_node();
            report.fail(
                RunResult::Incomplete,
                Problem {
                    what: problems,
                    state: match is_of_node {
                        true => "all other records are complete, and nothing was stopped",
                        false => {
                            "the references and Docker's configuration are intact, and Docker runs \
                             if it ran before"
                        }
                    }
                    .to_owned(),
                    next: Some("fix the problems above by hand".to_owned()),
                },
            )
        }
        Ok(None) => {
            report.done(false, None);
            if !args.before_docker {
                report.line("Nothing to recover: no run was interrupted here.");
            }
            report.end(RunResult::Unchanged)
        }
        Err(stop) => stop.tell(report),
    }
}

async fn look(args: &RecoverArgs, report: &mut Report) -> Result<Option<Vec<String>>, Stop> {
    if !args.host.offline && !geteuid().is_root() {
        return Err(Stop::NotRoot);
    }
    if args.before_docker {
        return before_docker(report);
    }
    if !args.host.offline
        && !lasting_units(Path::new(RUNTIME_UNITS)).is_empty()
        && let Ok(bus) = SystemBus::connect_anyhow().await
    {
        bus.sweep_lasting().await;
    }
    let interrupt = Interrupt::listen().map_err(Stop::Signals)?;
    let wait = async |data_root: &Path| {
        tokio::select! {
            lock = RootLock::acquire(data_root, args.wait) => Ok(lock?),
            signal = interrupt.wait() => Err(Stop::Interrupted(signal)),
        }
    };
    let (runs, errors) = match args.host.says_nothing() {
        true => pending::read_all(Path::new(PENDING)),
        false => Default::default(),
    };
    let former = |(_, marker): &(String, Marker)| !args.after_boot || marker.is_of_another_boot();
    let runs: Vec<_> = runs.into_iter().filter(former).collect();
    if args.after_boot && runs.is_empty() && errors.is_empty() {
        return Ok(None);
    }
    if runs.is_empty() && errors.is_empty() {
        let site = settled_site(&args.host, Reach::Anyhow).await?;
        report.host(&site.host);
        let data_root = site.images().data_root();
        let loading = Loading::read(data_root);
        if Journal::read(data_root)?.is_none() && loading.is_none() {
            return Ok(None);
        }
        report.begin(WAITS_FOR_LOCK);
        let lock = wait(data_root).await?;
        let recovered = recover(&site, &lock, report).await?;
        if loading.is_none() {
            return Ok(recovered);
        }
        give_up_load(&lock, report);
        return Ok(Some(recovered.unwrap_or_default()));
    }
    let mut recovered = None;
    let mut failed = errors.into_iter().map(Stop::from).next();
    for (id, marker) in runs {
        if !marker.leads_to_a_data_root() {
            report.warning(&marker.gone(&id));
            continue;
        }
        report.begin(WAITS_FOR_LOCK);
        let problems = match wait(&marker.data_root).await {
            Ok(lock) => {
                let recovered = recover_run(&id, &lock, report).await;
                // After a boot, a service runs this command, and perhaps no user reads
                // the output. So keep the loading mark, which makes the next run warn
                // again.
                if recovered.is_ok() && !args.after_boot {
                    give_up_load(&lock, report);
                }
                recovered
            }
            Err(stop) => Err(stop),
        };
        match problems {
            Ok(Some(problems)) => recovered.get_or_insert_with(Vec::new).extend(problems),
            Ok(None) => {}
            Err(stop) => failed = failed.or(Some(stop)),
        }
    }
    failed.map_or(Ok(recovered), Err)
}

/// If the claims of a load are not recorded, warns about them. Then removes the loading
/// mark, so that no later run warns again.
fn give_up_load(lock: &RootLock, report: &mut Report) {
    if let Some(left) = Loading::read(lock.data_root()) {
        warn_of_load(&left, report);
        end_loading(lock, report);
    }
}

/// Restores the files that Docker is about to read. Starts and stops nothing: systemd
/// starts Docker only after this command, so this command must not wait for Docker. Does
/// not connect to systemd, because the system bus may not be up yet.
fn before_docker(report: &mut Report) -> Result<Option<Vec<String>>, Stop> {
    let pending = Path::new(PENDING);
    pending::sweep(pending);
    let (runs, errors) = pending::read_all(pending);
    let mut recovered = None;
    let mut failed = errors.into_iter().map(Stop::from).next();
    for (id, marker) in runs {
        match files_of_run(&id, &marker, report) {
            Ok(true) => recovered = Some(Vec::new()),
            Ok(false) => {}
            Err(stop) => failed = failed.or(Some(stop)),
        }
    }
    failed.map_or(Ok(recovered), Err)
}

fn files_of_run(id: &str, marker: &Marker, report: &mut Report) -> Result<bool, Stop> {
    let pending = Path::new(PENDING);
    let data_root = &marker.data_root;
    if !marker.is_of_another_boot() {
        return Ok(false);
    }
    if !marker.leads_to_a_data_root() {
        report.warning(&marker.gone(id));
        return Ok(false);
    }
    let lock = RootLock::acquire_now(data_root)?;
    let Some(journal) = Journal::read(data_root)?.filter(|journal| journal.id == id) else {
        pending::remove(pending, id, &lock)?;
        return Ok(false);
    };
    let images = ImageDir::new(data_root, &journal.references.driver);
    if images.is_in_use()? {
        return Ok(false);
    }
    if let Some(config_file) = &marker.config_file {
        refuse_other_file(&journal, config_file)?;
    }
    if let Intent::Load(_) | Intent::Record(_) = journal.intent {
        let whom = match journal.intent {
            Intent::Record(_) => "containerd",
            _ => "Docker",
        };
        report.line(&format!(
            "A run was interrupted ({id}); digestfix recovers this host once {whom} runs."
        ));
        return Ok(false);
    }
    report.line(&format!(
        "A run was interrupted ({id}); digestfix restores the files of that run before Docker starts."
    ));
    report.recovers(id);
    if restart::recovery::recover_files(&journal, &images, &lock, report)
        .map_err(|failure| stop(failure, &journal))?
    {
        pending::remove(pending, id, &lock)?;
        report.recovered();
    } else {
        report.line("digestfix finishes the recovery once Docker runs.");
    }
    Ok(true)
}

fn refuse_other_file(journal: &Journal, config_file: &Path) -> Result<(), Stop> {
    match journal.restart().and_then(|one| one.live_restore.as_ref()) {
        Some(other) if other.config_file != config_file => {
            Err(Stop::OtherConfigFile(other.config_file.clone()))
        }
        _ => Ok(()),
    }
}

/// Recovers the host from one run that may have been killed. Returns `None` if no
/// recovery was necessary.
pub(super) async fn recover_run(
    id: &str,
    lock: &RootLock,
    report: &mut Report,
) -> Result<Option<Vec<String>>, Stop> {
    report.begin(LOOKS);
    let pending = Path::new(PENDING);
    let journal = Journal::read(lock.data_root())?;
    if journal.as_ref().is_none_or(|journal| journal.id != id) {
        // The run was killed before it changed anything.
        if journal.is_none() {
            recovery::end(lock, report).map_err(|failure| Stop::Recovery {
                failure: Box::new(failure),
                state: WHOLE.to_owned(),
            })?;
        }
        pending::remove(pending, id, lock)?;
        return Ok(None);
    }
    let marker = Marker::read(pending, id)?;
    let (flags, found) = marker.map_or_else(Default::default, |one| (one.flags, one.found));
    let site = match settled_node(flags.into(), SETTLED_WITHIN).await {
        // Some facts about the host are known only to a running engine. If no engine runs,
        // use the facts in the pending marker.
        Err(Stop::Host(error)) => settled_site(&found.into(), Reach::Anyhow)
            .await
            .map_err(|_| Stop::Host(error))?,
        site => site?,
    };
    report.host(&site.host);
    let data_root = site.images().data_root();
    if data_root != lock.data_root() {
        return Err(Stop::OtherDataRoot(
            lock.data_root().to_owned(),
            data_root.to_owned(),
        ));
    }
    recover(&site, lock, report).await
}

/// Waits until systemd has finished its current job on Docker, such as a restart. Then
/// examines the host.
pub(super) async fn settled_site(args: &HostArgs, reach: Reach) -> Result<Site, Stop> {
    let deadline = Instant::now() + SETTLED_WITHIN;
    loop {
        match Site::find(args, reach).await {
            Err(Stop::Host(HostError::Unsettled { .. } | HostError::EngineSilent { .. }))
                if Instant::now() < deadline =>
            {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            found => return found,
        }
    }
}

/// Like [`settled_site`], but also waits for a containerd that may still be starting,
/// such as after a boot.
async fn settled_node(args: HostArgs, within: Duration) -> Result<Site, Stop> {
    let deadline = Instant::now() + within;
    loop {
        match settled_site(&args, Reach::Anyhow).await {
            Err(Stop::Host(HostError::NoNode(_))) if Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            found => return found,
        }
    }
}

/// If the data root contains a journal, recovers the host and returns the problems that
/// the user must solve. Returns `None` if there is no journal.
pub(super) async fn recover(
    site: &Site,
    lock: &RootLock,
    report: &mut Report,
) -> Result<Option<Vec<String>>, Stop> {
    let Some(mut journal) = Journal::read(lock.data_root())? else {
        return Ok(None);
    };
    report.recovers(&journal.id);
    let restart = match journal.intent.clone() {
        Intent::Load(load) => {
            let problems = recover_load(&journal, &load, site, lock, report).await?;
            see(site, report).await;
            return Ok(problems);
        }
        Intent::Record(records) => {
            let problems = recover_records(&journal, &records, site, lock, report).await?;
            see(site, report).await;
            return Ok(problems);
        }
        Intent::Restart(restart) => restart,
        Intent::Edit => {
            restart::recovery::recover_files(&journal, site.images(), lock, report)
                .map_err(|failure| stop(failure, &journal))?;
            report.recovered();
            return Ok(Some(Vec::new()));
        }
    };
    let Some((docker, engine)) = site.engine() else {
        return Err(Stop::InterruptedRun(journal::path(lock.data_root())));
    };
    let host = docker.host;
    if restart.unit != host.unit.id {
        return Err(Stop::OtherUnit(restart.unit));
    }
    refuse_other_file(&journal, &host.config_file)?;
    report.line(&format!(
        "A run was interrupted ({}); digestfix recovers the host first.",
        journal.id
    ));
    let impact = Impact::of_units(
        &restart.unit,
        restart.running,
        restart.triggers,
        restart.units,
    );
    let daemon = Daemon {
        docker,
        engine: &engine,
        impact: &impact,
        runtime_units: Path::new(RUNTIME_UNITS),
    };
    let recovered =
        restart::recovery::recover(&mut journal, site.images(), lock, daemon, report).await;
    let problems = recovered.map_err(|failure| stop(failure, &journal))?;
    report.recovered();
    Ok(Some(problems))
}

/// Reads the references from containerd, so that the metrics can count them. If the store
/// cannot be read, the recovery still succeeds.
async fn see(site: &Site, report: &mut Report) {
    if let Ok(store) = site.image_store(None, None).await {
        report.sees(&store);
    }
}

/// Recovers a run of the load method. A load never stops Docker, so the recovery does not
/// start Docker.
async fn recover_load(
    journal: &Journal,
    load: &Load,
    site: &Site,
    lock: &RootLock,
    report: &mut Report,
) -> Result<Option<Vec<String>>, Stop> {
    let images = site.images();
    let engine = site.engine();
    let running = engine.filter(|(docker, _)| docker.host.engine.is_some());
    let Some((docker, engine)) = running else {
        return Err(Stop::InterruptedRun(journal::path(lock.data_root())));
    };
    let problems = if site.host.image_store == StoreKind::Containerd {
        report.line(&format!(
            "A run was interrupted ({}); digestfix finishes that run first.",
            journal.id
        ));
        let root = load.containerd_root.as_deref();
        let running = Running {
            docker,
            engine: &engine,
            content: &ContentStore::of(images.data_root(), root),
            containerd_root: root,
        };
        let recovered = load::recovery::recover(journal, load, images, lock, running, report);
        recovered.await.map_err(Stop::LoadRecovery)?
    } else {
        load::recovery::abandon(journal, images, lock, docker, report)
            .await
            .map_err(Stop::LoadRecovery)?;
        report.warning(&format!(
            "run {} was interrupted, and Docker no longer uses the containerd image store. To see \
             the references of that run, enable this image store again, then: digestfix status",
            journal.id
        ));
        Vec::new()
    };
    report.recovered();
    Ok(Some(problems))
}

/// Recovers a run that changed a node's records. A run of this kind never stops
/// containerd.
async fn recover_records(
    journal: &Journal,
    records: &Records,
    site: &Site,
    lock: &RootLock,
    report: &mut Report,
) -> Result<Option<Vec<String>>, Stop> {
    let (Some(node), Some(supervisor)) = (site.containerd(), site.supervisor()) else {
        return Err(Stop::InterruptedRun(journal::path(lock.data_root())));
    };
    report.line(&format!(
        "A run was interrupted ({}); digestfix finishes that run first.",
        journal.id
    ));
    let client = node.client(ANSWER_WITHIN);
    let images = site.images();
    let recovered =
        record::recovery::recover(journal, records, images, lock, &client, supervisor, report);
    let problems = recovered.await.map_err(Stop::RecordRecovery)?;
    report.recovered();
    Ok(Some(problems))
}

/// The error to report if a recovery with this journal fails.
fn stop(failure: Failure, journal: &Journal) -> Stop {
    let state = state(&failure, journal);
    Stop::Recovery {
        failure: Box::new(failure),
        state,
    }
}

/// The state in which the interrupted run may have left the host.
fn state(failure: &Failure, journal: &Journal) -> String {
    let references = match failure {
        Failure::NoReferences(_) => "the references cannot be read",
        _ => WHOLE,
    };
    let mut state = vec![references.to_owned()];
    if let Some(restart) = journal.restart() {
        if restart.running {
            state.push("Docker may be down".to_owned());
        }
        state.extend(left(restart));
    }
    state.join("; ")
}

/// The problem to report if the recovery of a load fails.
pub(super) fn load_problem(failure: &Failure) -> Problem {
    Problem {
        what: vec![format!(
            "an interrupted run could not be finished: {failure}"
        )],
        state: "some references of the interrupted run may exist already; Docker was not stopped"
            .to_owned(),
        next: Some("make sure that Docker runs and answers, then: digestfix recover".to_owned()),
    }
}

/// The problem to report if the recovery of a node's records fails.
pub(super) fn record_problem(failure: &Failure) -> Problem {
    Problem {
        what: vec![format!(
            "an interrupted run could not be finished: {failure}"
        )],
        state: "some records of the interrupted run may exist already; nothing was stopped"
            .to_owned(),
        next: Some(
            "make sure that containerd runs and answers (crictl info), then: digestfix recover"
                .to_owned(),
        ),
    }
}

/// The problem to report if the recovery of a restart fails.
pub(super) fn problem(failure: &Failure, state: String, unit: &str) -> Problem {
    let what = vec![format!(
        "an interrupted run could not be finished: {failure}"
    )];
    if let Failure::WaitsForDocker(_) = failure {
        return Problem {
            what,
            state: "the references and daemon.json are intact; Docker is not running".to_owned(),
            next: Some(format!("systemctl start {unit}; then: digestfix recover")),
        };
    }
    Problem {
        what,
        state,
        next: Some(format!(
            "find out what is wrong with Docker (systemctl status {unit}; journalctl -u {unit} -n \
             50), fix that problem, then: digestfix recover"
        )),
    }
}
