//! Recovery of a run that was killed while it made Docker load manifests.
//!
//! After a run was killed, the engine may still be working on the run's last request. So
//! recovery repeats the load: it keeps the references that the engine already has, and
//! loads the missing references. If the repeated load fails, recovery undoes it. If the
//! killed run was already undoing the load, recovery undoes the load too. Recovery
//! reports the references that it could not restore. Recovery leaves the load to the next
//! run only if the engine does not answer, or if the history record cannot be written.

use crate::docker::engine::images::Images;
use crate::state::history::Side;
use crate::state::journal::{Journal, Load};
use crate::state::lock::RootLock;
use crate::store::data_root::ImageDir;
use crate::systemd::ServiceManager;
use crate::transaction::Docker;
use crate::transaction::leftover::{Leftover, joined, went_along};
use crate::transaction::load::steps::Steps;
use crate::transaction::load::{Running, known_references};
use crate::transaction::outcome::{Failure, Progress, Step};
use crate::transaction::recovery::{finish, note, record};

/// Finishes the load that `journal` describes. Docker must be running. Returns the
/// references that are neither in their old nor in their planned state. If this fails,
/// the journal stays on disk.
pub async fn recover<M: ServiceManager, E: Images>(
    journal: &Journal,
    load: &Load,
    images: &ImageDir,
    lock: &RootLock,
    running: Running<'_, M, E>,
    progress: &mut dyn Progress,
) -> Result<Vec<String>, Failure> {
    progress.begin("finishing the interrupted change");
    let record = record(journal, images, progress);
    let manifests = record.as_ref().map(|record| record.manifests.clone());
    let added = load.added.iter().chain(&load.dropped);
    let mut known = known_references(images);
    known.extend(added.map(|pin| pin.reference.clone()));
    let steps = Steps {
        engine: running.engine,
        content: running.content,
        manifests: &manifests.unwrap_or_default(),
        known: &known,
    };
    let mut along = Vec::new();
    let made = if load.is_taken_back || record.is_none() {
        None
    } else {
        match make(&steps, load).await {
            Ok(()) => Some(()),
            Err(Failure::Engine(error)) if error.may_pass() => return Err(error.into()),
            Err(error) => {
                if let Failure::Leftovers(left) = &error {
                    along = went_along(left);
                }
                progress.warning(&format!(
                    "the change of the interrupted run cannot be finished: {error}"
                ));
                None
            }
        }
    };
    let mut left = match made {
        Some(()) => Vec::new(),
        None => steps.take_back_late(&load.added, &load.dropped).await?,
    };
    left.extend(along);
    let (side, step, told) = match (made, left.as_slice()) {
        (Some(()), _) => (
            Side::New,
            Step::Verify,
            "the running engine has the new references".to_owned(),
        ),
        (None, []) => (
            Side::Old,
            Step::UndoLoad,
            "the running engine has its former references again".to_owned(),
        ),
        (None, left) => (
            Side::Other,
            Step::UndoLoad,
            format!("undone, except: {}", joined(left)),
        ),
    };
    progress.step(step, &told);
    note(record, side, lock)?;
    finish(journal, lock, running.docker.supervisor(), progress).await?;
    Ok(left.iter().map(Leftover::to_string).collect())
}

/// Ends a load that the engine cannot finish, because Docker now uses another image
/// store. If this fails, the journal stays on disk.
pub async fn abandon<M: ServiceManager>(
    journal: &Journal,
    images: &ImageDir,
    lock: &RootLock,
    docker: Docker<'_, M>,
    progress: &mut dyn Progress,
) -> Result<(), Failure> {
    let record = record(journal, images, progress);
    note(record, Side::Other, lock)?;
    finish(journal, lock, docker.supervisor(), progress).await
}

async fn make<E: Images>(steps: &Steps<'_, E>, load: &Load) -> Result<(), Failure> {
    let missing = steps.missing(&load.added).await?;
    if !missing.is_empty() {
        steps.see_images(&missing).await?;
        steps.load(&missing).await?;
    }
    let left = steps.drop_all(&load.dropped).await?;
    if !left.is_empty() {
        return Err(Failure::Leftovers(left));
    }
    steps.verify(&load.added, &load.dropped).await?;
    Ok(())
}
