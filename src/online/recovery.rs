//! An online change that was killed, brought to an end.
//!
//! The engine may still be at work on what it was asked for, so it is asked
//! again: what is there stays, what is missing is loaded. Where that fails, or
//! the change was being taken back, it is taken back.

use crate::data_root::ImageDir;
use crate::engine::images::Images;
use crate::guard;
use crate::history::{self, End, Side};
use crate::journal::{Journal, Online};
use crate::online::Running;
use crate::online::steps::Steps;
use crate::systemd::ServiceManager;
use crate::transaction::lock::RootLock;
use crate::transaction::outcome::{Failure, Progress, Step};
use crate::transaction::recovery::end;
use crate::unfinished;

/// Brings the change of `journal`, which is `online`, to an end. Docker runs.
///
/// # Errors
/// When it can be neither made nor taken back; the journal stays then.
pub async fn recover<M: ServiceManager, E: Images>(
    journal: &Journal,
    online: &Online,
    images: &ImageDir,
    lock: &RootLock,
    running: Running<'_, M, E>,
    progress: &mut impl Progress,
) -> Result<(), Failure> {
    progress.begin("bringing the change to an end");
    let record = history::read(images.data_root(), &journal.id)?;
    let manifests = record.as_ref().map(|record| record.manifests.clone());
    let steps = Steps {
        engine: running.engine,
        content: running.content,
        manifests: &manifests.unwrap_or_default(),
    };
    let side = if !online.is_taken_back && record.is_some() {
        match make(&steps, online).await {
            Ok(()) => Side::New,
            Err(error) => {
                progress.warning(&format!(
                    "what the interrupted run was about to do cannot be done: {error}"
                ));
                take_back(&steps, online).await?
            }
        }
    } else {
        take_back(&steps, online).await?
    };
    progress.step(
        match side {
            Side::New => Step::Verify,
            Side::Old | Side::Other => Step::UndoOnline,
        },
        match side {
            Side::New => "the running engine has the references as they were to be",
            Side::Old | Side::Other => "the running engine has the references as they were",
        },
    );
    if let Some(mut record) = record
        && let Err(error) = record.end(lock, End::Recovered { references: side })
    {
        progress.warning(&error.to_string());
    }
    end(lock, progress)?;
    unfinished::remove(running.unfinished, &journal.id, lock)?;
    // One that has tried in vain is over, and is not worth a word.
    let _ = running
        .manager
        .reset_failed(&guard::unit(&journal.id))
        .await;
    Ok(())
}

async fn make<E: Images>(steps: &Steps<'_, E>, online: &Online) -> Result<(), Failure> {
    let missing = steps.missing(&online.added).await?;
    if !missing.is_empty() {
        steps.load(&missing).await?;
    }
    steps.drop_all(&online.dropped).await?;
    steps.has_all(&online.added).await?;
    steps.has_none(&online.dropped).await
}

async fn take_back<E: Images>(steps: &Steps<'_, E>, online: &Online) -> Result<Side, Failure> {
    steps.take_back(&online.added, &online.dropped).await?;
    Ok(Side::Old)
}
