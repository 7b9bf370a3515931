//! Recovery of a run that was killed while it restarted Docker.
//!
//! At every instant, the reference store on disk is complete, either the old one or the
//! new one. So recovery leaves the reference store unchanged, unless the file system has
//! lost it. Recovery starts Docker and everything that stopped along with it, and
//! restores daemon.json. Each step of a recovery checks the current state and does only
//! what is missing. So if a recovery is killed, digestfix can run it again.
//!
//! After a reboot, systemd decides which units run. In this case, recovery restores only
//! files. Once Docker runs, recovery also restores the containers' restart policies.

use crate::docker::engine::Engine;
use crate::state::journal::{Journal, Phase};
use crate::state::lock::RootLock;
use crate::store::data_root::ImageDir;
use crate::systemd::ServiceManager;
use crate::transaction::outcome::{Failure, Progress, Step};
use crate::transaction::recovery::{end, end_records, finish};
use crate::transaction::reserve;
use crate::transaction::restart::containers::unlisted;
use crate::transaction::restart::daemon::Daemon;
use crate::transaction::restart::daemon_json::Switch;
use crate::transaction::restart::leftovers;
use crate::transaction::restart::live_restore::ensure_on;
use crate::transaction::restart::reload::put_file_back;
use crate::transaction::restart::start_block::StartBlock;

/// Finishes the killed run that `journal` describes. `daemon` contains the units that
/// trigger Docker. The journal lists these units too, and also the other units that
/// stopped along with Docker. Returns the problems that the user has to fix: units and
/// containers that do not start. If this fails, the journal stays on disk.
pub async fn recover<M: ServiceManager, E: Engine>(
    journal: &mut Journal,
    images: &ImageDir,
    lock: &RootLock,
    daemon: Daemon<'_, M, E>,
    progress: &mut dyn Progress,
) -> Result<Vec<String>, Failure> {
    progress.begin("recovering the host");
    if let Err(error) =
        StartBlock::sweep(daemon.docker.manager, daemon.runtime_units, daemon.unit()).await
    {
        progress.warning(&format!(
            "digestfix could not remove the start block of the interrupted run: {error}"
        ));
    }
    let references = leftovers::mend(journal, images, lock, progress);
    // Before Docker starts, note in each history record how its run ended. After the
    // start, Docker's clients may change the references.
    end_records(Some(&journal.id), lock, progress);
    // Free the reserved disk space before Docker starts. A file that reserves disk space may
    // also be in a directory that the killed run created for daemon.json. Recovery later
    // removes that directory, which must be empty by then.
    reserve::sweep(lock.data_root(), &daemon.writes_at_start());
    let problems = if journal.is_of_another_boot() {
        after_a_boot(journal, lock, daemon, progress).await?
    } else {
        bring_back(journal, lock, daemon, progress).await?
    };
    references?;
    leftovers::remove(journal, images);
    finish(journal, lock, daemon.docker.supervisor(), progress).await?;
    Ok(problems)
}

async fn bring_back<M: ServiceManager, E: Engine>(
    journal: &mut Journal,
    lock: &RootLock,
    daemon: Daemon<'_, M, E>,
    progress: &mut dyn Progress,
) -> Result<Vec<String>, Failure> {
    let mut switch = switch(journal);
    let Some(restart) = journal.restart().cloned() else {
        return Ok(Vec::new());
    };
    if restart.running && daemon.has_ended().await? {
        if restart.live_restore_by_file || switch.is_some() {
            let config_file = &daemon.docker.host.config_file;
            ensure_on(&mut switch, config_file, journal, lock, progress)?;
        }
        progress.begin(&format!("starting {}", daemon.unit()));
        daemon.start().await?;
        progress.step(Step::Start, &format!("{} started", daemon.unit()));
    }
    let triggers = daemon.start_triggers().await;
    let units = daemon.start_inactive(&restart.units).await;
    let containers = daemon.settle_containers(journal, progress).await;
    if let Some(switch) = &mut switch {
        daemon.take_back(switch, journal, lock, progress).await?;
    }
    let mut problems = containers?;
    problems.extend(missing(journal, lock, daemon).await?);
    // If a unit does not start, report it as a problem and continue.
    problems.extend(
        [triggers, units]
            .into_iter()
            .filter_map(|one| one.err().map(|error| error.to_string())),
    );
    Ok(problems)
}

/// The containers that Docker did not load when it started.
async fn missing<M: ServiceManager, E: Engine>(
    journal: &Journal,
    lock: &RootLock,
    daemon: Daemon<'_, M, E>,
) -> Result<Vec<String>, Failure> {
    let restart = journal.restart();
    let Some(restart) = restart.filter(|restart| restart.phase == Phase::Stopping) else {
        return Ok(Vec::new());
    };
    let data_root = lock.data_root();
    let unlisted = unlisted(daemon.engine, &restart.listed, data_root).await?;
    Ok(unlisted
        .iter()
        .map(|change| {
            format!(
                "container {change}. Make sure that the disk has room (df -h {root}; df -i {root}), then: systemctl restart {unit}",
                root = data_root.display(),
                unit = daemon.unit()
            )
        })
        .collect())
}

async fn after_a_boot<M: ServiceManager, E: Engine>(
    journal: &mut Journal,
    lock: &RootLock,
    daemon: Daemon<'_, M, E>,
    progress: &mut dyn Progress,
) -> Result<Vec<String>, Failure> {
    if daemon.has_ended().await? {
        put_daemon_json_back(journal, progress)?;
        return match waiting(journal) {
            Some(names) => Err(Failure::WaitsForDocker(names)),
            None => Ok(Vec::new()),
        };
    }
    let containers = daemon.settle_containers(journal, progress).await;
    if let Some(switch) = &mut switch(journal) {
        daemon.take_back(switch, journal, lock, progress).await?;
    }
    containers
}

/// Recovers the files on a host where Docker is not running: either Docker is about to
/// start, or the disk belongs to another host. Returns false if the other parts of the
/// recovery have to wait for Docker. If this fails, the journal stays on disk.
pub fn recover_files(
    journal: &Journal,
    images: &ImageDir,
    lock: &RootLock,
    progress: &mut dyn Progress,
) -> Result<bool, Failure> {
    reserve::sweep(lock.data_root(), &[]);
    put_daemon_json_back(journal, progress)?;
    leftovers::mend(journal, images, lock, progress)?;
    leftovers::remove(journal, images);
    if waiting(journal).is_some() {
        return Ok(false);
    }
    end(lock, progress)?;
    Ok(true)
}

fn switch(journal: &Journal) -> Option<Switch> {
    let contents = journal.restart()?.live_restore.clone()?;
    Some(Switch::resume(&journal.id, contents))
}

/// Restores daemon.json at once, because no container is running that needs live-restore.
fn put_daemon_json_back(journal: &Journal, progress: &mut dyn Progress) -> Result<(), Failure> {
    match &switch(journal) {
        Some(switch) => put_file_back(switch, progress),
        None => Ok(()),
    }
}

/// The names of the containers whose restart policies only a running Docker can restore.
fn waiting(journal: &Journal) -> Option<String> {
    let kept_down = journal.restart().map(|restart| &restart.kept_down);
    let names = kept_down
        .into_iter()
        .flatten()
        .map(|container| container.name.as_str());
    let names: Vec<&str> = names.collect();
    (!names.is_empty()).then(|| names.join(", "))
}
