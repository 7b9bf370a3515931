//! Runs several futures at the same time on one thread, up to a limit.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;

/// Runs all futures, no more than `most` at a time, and returns their results in order.
/// After an error, starts no more futures, but waits for the futures that have already
/// started.
pub async fn all<F, T, E>(futures: impl IntoIterator<Item = F>, most: usize) -> Result<Vec<T>, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = futures.into_iter().enumerate();
    let mut flying = Vec::new();
    let (mut done, mut failed) = (BTreeMap::new(), None);
    poll_fn(|context| {
        loop {
            if failed.is_none() {
                let free = most.saturating_sub(flying.len());
                flying.extend(
                    waiting
                        .by_ref()
                        .take(free)
                        .map(|(at, one)| (at, Box::pin(one))),
                );
            }
            let before = flying.len();
            flying.retain_mut(|(at, one)| match one.as_mut().poll(context) {
                Poll::Pending => true,
                Poll::Ready(Ok(result)) => {
                    done.insert(*at, result);
                    false
                }
                Poll::Ready(Err(error)) => {
                    failed.get_or_insert(error);
                    false
                }
            });
            if flying.is_empty() && (before == 0 || failed.is_some()) {
                return Poll::Ready(());
            }
            if flying.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await;
    match failed {
        Some(error) => Err(error),
        None => Ok(done.into_values().collect()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_run_and_results_are_in_order() {
        let begun = Instant::now();
        let (now, most) = (Cell::new(0), Cell::new(0));
        let futures = (0..10_u64).map(async |number| {
            now.set(now.get() + 1);
            most.set(now.get().max(most.get()));
            // The first future takes longest.
            sleep(Duration::from_secs(10 - number)).await;
            now.set(now.get() - 1);
            Ok::<_, ()>(number)
        });
        let results = all(futures, 4).await.unwrap();
        assert_eq!(results, (0..10).collect::<Vec<_>>());
        assert_eq!(most.get(), 4);
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert_eq!(
            all(Vec::<std::future::Ready<Result<(), ()>>>::new(), 4).await,
            Ok(vec![])
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_begun_ends_after_an_error() {
        let (begun, ended) = (Cell::new(0), Cell::new(0));
        let futures = (0..10).map(async |number| {
            begun.set(begun.get() + 1);
            sleep(Duration::from_secs(u64::from(number != 1))).await;
            ended.set(ended.get() + 1);
            match number {
                1 => Err("no"),
                number => Ok(number),
            }
        });
        assert_eq!(all(futures, 3).await, Err("no"));
        assert_eq!((begun.get(), ended.get()), (3, 3));
    }
}
