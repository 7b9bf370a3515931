//! Results of systemd jobs. A result comes from systemd's signal or, if the signal was
//! lost, from the unit's state.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use zbus::OwnedObjectPath;

use super::interface::JobRemovedStream;
use crate::systemd::{Unit, is_active};

#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) verb: Verb,
    pub(super) unit: String,
    pub(super) path: OwnedObjectPath,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Stop,
}

impl Verb {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }

    /// The result of a job that no longer exists, derived from the state of its unit.
    /// `None` while the unit is changing its state.
    pub(super) fn result(self, unit: &Unit) -> Option<&'static str> {
        let state = unit.active_state.as_str();
        match self {
            Self::Stop => match state {
                "inactive" | "failed" => Some("done"),
                "deactivating" => None,
                _ => Some(LOST),
            },
            Self::Start => match state {
                state if is_active(state) => Some("done"),
                "failed" => Some("failed"),
                // The start has failed, and systemd is about to try again.
                "activating" if unit.sub_state.starts_with("auto-restart") => Some("failed"),
                "activating" => None,
                _ => Some(LOST),
            },
        }
    }
}

/// The result of a job whose signal was lost and whose unit is not in the expected state.
const LOST: &str = "lost";

/// The results of all jobs that have ended. systemd may report the result of a job before
/// it replies to the request for that job.
#[derive(Default)]
pub(super) struct EndedJobs {
    results: Mutex<HashMap<OwnedObjectPath, String>>,
    news: Notify,
}

impl EndedJobs {
    /// Collects the result of every job that ends, until the connection breaks.
    pub(super) fn listen(self: &Arc<Self>, mut removals: JobRemovedStream) -> JoinHandle<()> {
        let ended = Arc::clone(self);
        tokio::spawn(async move {
            while let Some(removal) =
                std::future::poll_fn(|context| Pin::new(&mut removals).poll_next(context)).await
            {
                if let Ok(args) = removal.args() {
                    ended.put(args.job.clone(), args.result.clone());
                }
            }
            // Wake the waiting callers, because they now need another connection.
            ended.news.notify_waiters();
        })
    }

    /// Waits for the result of a job. Returns `None` after the timeout `within`, or
    /// earlier if `is_over` returns true.
    pub(super) async fn result(
        &self,
        job: &Job,
        within: Duration,
        is_over: impl Fn() -> bool,
    ) -> Option<String> {
        let heard = async {
            loop {
                let news = self.news.notified();
                let result = self.take(&job.path);
                if result.is_some() || is_over() {
                    return result;
                }
                news.await;
            }
        };
        tokio::time::timeout(within, heard).await.ok().flatten()
    }

    fn take(&self, path: &OwnedObjectPath) -> Option<String> {
        self.results
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(path)
    }

    fn put(&self, path: OwnedObjectPath, result: String) {
        self.results
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path, result);
        self.news.notify_waiters();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_nobody_heard_of_is_judged_by_its_unit() {
        let judge = |verb: Verb, active_state: &str, sub_state: &str| {
            verb.result(&Unit {
                active_state: active_state.to_owned(),
                sub_state: sub_state.to_owned(),
                ..Unit::default()
            })
        };
        for (active_state, sub_state, stopped, started) in [
            ("inactive", "dead", Some("done"), Some("lost")),
            ("failed", "failed", Some("done"), Some("failed")),
            ("active", "running", Some("lost"), Some("done")),
            ("reloading", "reload", Some("lost"), Some("done")),
            ("activating", "start", Some("lost"), None),
            ("activating", "auto-restart", Some("lost"), Some("failed")),
            ("deactivating", "stop-sigterm", None, Some("lost")),
        ] {
            assert_eq!(
                judge(Verb::Stop, active_state, sub_state),
                stopped,
                "{active_state}"
            );
            assert_eq!(
                judge(Verb::Start, active_state, sub_state),
                started,
                "{active_state}"
            );
        }
    }

    fn job(path: &'static str) -> Job {
        Job {
            verb: Verb::Start,
            unit: "docker.service".to_owned(),
            path: OwnedObjectPath::try_from(path).unwrap(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_is_heard_whenever_it_comes() {
        let ended = EndedJobs::default();
        let (early, late) = (job("/job/1"), job("/job/2"));
        let within = Duration::from_secs(5);
        ended.put(early.path.clone(), "done".to_owned());
        let (first, second, ()) = tokio::join!(
            ended.result(&early, within, || false),
            ended.result(&late, within, || false),
            async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                ended.put(job("/job/3").path, "done".to_owned());
                tokio::time::sleep(Duration::from_secs(2)).await;
                ended.put(late.path.clone(), "failed".to_owned());
            }
        );
        assert_eq!(first.as_deref(), Some("done"));
        assert_eq!(second.as_deref(), Some("failed"));
        assert_eq!(
            ended.result(&early, within, || false).await,
            None,
            "too late"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_on_a_connection_that_has_ended() {
        let ended = EndedJobs::default();
        let begun = tokio::time::Instant::now();
        let job = job("/job/1");
        let result = ended.result(&job, Duration::from_secs(5), || true).await;
        assert_eq!(result, None);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
