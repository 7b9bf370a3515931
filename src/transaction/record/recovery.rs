//! Recovery of a run that was killed while it changed a node's records.
//!
//! Recovery keeps the planned records that exist, and makes the missing ones. If that
//! fails, recovery undoes the change. Recovery also undoes the change if the killed run
//! was already doing so. Recovery reports the records that it could not restore. Recovery
//! leaves the change to the next run only if containerd does not answer, or if the
//! history record cannot be written.

use crate::containerd::Node;
use crate::state::history::Side;
use crate::state::journal::{Journal, Records};
use crate::state::lock::RootLock;
use crate::store::data_root::ImageDir;
use crate::store::node::NodeStore;
use crate::systemd::ServiceManager;
use crate::transaction::Supervisor;
use crate::transaction::leftover::{Leftover, joined};
use crate::transaction::outcome::{Failure, Progress, Step};
use crate::transaction::record::steps::Steps;
use crate::transaction::recovery::{finish, note, record};

/// Finishes the change that `journal` describes. Returns the references that are neither
/// in their old nor in their planned state. If this fails, the journal stays on disk.
pub async fn recover<M: ServiceManager, N: Node>(
    journal: &Journal,
    records: &Records,
    images: &ImageDir,
    lock: &RootLock,
    node: &N,
    supervisor: Supervisor<'_, M>,
    progress: &mut dyn Progress,
) -> Result<Vec<String>, Failure> {
    progress.begin("finishing the interrupted change");
    let record = record(journal, images, progress);
    let steps = Steps {
        node,
        id: &journal.id,
    };
    let is_made = if records.is_taken_back {
        false
    } else {
        match make(&steps, records).await {
            Ok(()) => true,
            Err(Failure::Containerd(error)) if error.may_pass() => return Err(error.into()),
            Err(error) => {
                progress.warning(&format!(
                    "the change of the interrupted run cannot be finished: {error}"
                ));
                false
            }
        }
    };
    let left = match is_made {
        true => Vec::new(),
        false => {
            steps
                .take_back_late(&records.added, &records.dropped)
                .await?
        }
    };
    let (side, step, told) = match (is_made, left.as_slice()) {
        (true, _) => (
            Side::New,
            Step::Verify,
            "containerd has the new records".to_owned(),
        ),
        (false, []) => (
            Side::Old,
            Step::UndoRecord,
            "containerd has its former records again".to_owned(),
        ),
        (false, left) => (
            Side::Other,
            Step::UndoRecord,
            format!("undone, except: {}", joined(left)),
        ),
    };
    progress.step(step, &told);
    note(record, side, lock)?;
    finish(journal, lock, supervisor, progress).await?;
    Ok(left.iter().map(Leftover::to_string).collect())
}

/// Repeats the change. Fails if an image is gone, because the new record of that image
/// would point at nothing.
async fn make<N: Node>(steps: &Steps<'_, N>, records: &Records) -> Result<(), Failure> {
    let here = NodeStore::read(steps.node).await?;
    for one in &records.added {
        let is_here = here.record(&one.reference).is_some()
            || here.another(&one.record, &Default::default()).is_some();
        if !is_here {
            return Err(Failure::NodeDisagrees(format!(
                "the image of {} is no longer on this host",
                one.reference
            )));
        }
    }
    steps.make(&records.added).await?;
    let left = steps.remove(&records.dropped).await?;
    if !left.is_empty() {
        return Err(Failure::Leftovers(left));
    }
    steps.verify(&records.added, &records.dropped).await
}
