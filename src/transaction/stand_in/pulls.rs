//! Pulls, some at a time, until all are done or one is not.
//!
//! A pull goes on within dockerd when its client has gone away: it asks for the
//! manifest all the same, and for layers that are here already, before it gives up
//! (seen on 20.10, 26.1 and 28.5; nothing was recorded then). So none is left
//! alone: when one fails or a signal comes, no other begins, and those that have
//! begun come to their end.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::Engine;
use crate::interrupt::Interrupt;
use crate::reference::Reference;
use crate::systemd::ServiceManager;
use crate::transaction::daemon::Daemon;
use crate::transaction::outcome::{Failure, Progress};

/// Go's resolver looks at `/etc/hosts` again when it has last done so this long
/// ago (`net/hosts.go`, `cacheMaxAge`: 5 s).
const HOSTS_READ_WITHIN: Duration = Duration::from_secs(6);

/// Between two pulls while `/etc/hosts` may not have been read yet.
const PULL_AGAIN: Duration = Duration::from_millis(250);

/// What is served on loopback takes milliseconds, whoever has sent a signal.
const END_WITHIN: Duration = Duration::from_secs(10);

/// A reference to be pulled.
pub(super) struct Wanted {
    pub reference: Reference,
    /// Since when its name is in `/etc/hosts`, if that is how Docker is led.
    pub led: Option<Instant>,
}

struct Pulls<'a, P> {
    wanted: &'a [Wanted],
    begun: Cell<usize>,
    failure: RefCell<Option<Failure>>,
    progress: RefCell<&'a mut P>,
}

impl<M: ServiceManager, E: Engine> Daemon<'_, M, E> {
    /// Has Docker pull them. Where this fails, nothing is under way any more,
    /// unless a signal came and dockerd did not end.
    pub(super) async fn pull_all<P: Progress>(
        &self,
        wanted: &[Wanted],
        interrupt: &Interrupt,
        progress: &mut P,
    ) -> Result<(), Failure> {
        let pulls = Pulls {
            wanted,
            begun: Cell::new(0),
            failure: RefCell::new(None),
            progress: RefCell::new(progress),
        };
        let one = || pulls.pull_next(self);
        // With more of them, dockerd is no faster.
        let all = async { tokio::join!(one(), one(), one(), one()) };
        tokio::pin!(all);
        tokio::select! {
            biased;
            signal = interrupt.wait() => {
                pulls.fail(Failure::Interrupted(signal));
                let _ = tokio::time::timeout(END_WITHIN, &mut all).await;
            }
            _ = &mut all => {}
        }
        pulls.failure.take().map_or(Ok(()), Err)
    }

    async fn pull(&self, reference: &Reference) -> Result<(), Failure> {
        Ok(self.engine.pull(reference).await?)
    }
}

impl<P: Progress> Pulls<'_, P> {
    /// Pulls one after another of those that nobody else has begun with.
    async fn pull_next<M: ServiceManager, E: Engine>(&self, daemon: &Daemon<'_, M, E>) {
        while let Some(next) = self.begin() {
            loop {
                match daemon.pull(&next.reference).await {
                    Ok(()) => break,
                    Err(_) if self.goes_on() && next.is_led_late() => {
                        tokio::time::sleep(PULL_AGAIN).await;
                    }
                    Err(failure) => {
                        self.fail(failure);
                        break;
                    }
                }
            }
        }
    }

    fn begin(&self) -> Option<&Wanted> {
        let next = self.wanted.get(self.begun.get())?;
        if !self.goes_on() {
            return None;
        }
        self.begun.set(self.begun.get() + 1);
        let (number, count) = (self.begun.get(), self.wanted.len());
        let reference = &next.reference;
        self.progress.borrow_mut().begin(&format!(
            "having Docker record {reference} ({number} of {count})"
        ));
        Some(next)
    }

    fn goes_on(&self) -> bool {
        self.failure.borrow().is_none()
    }

    /// The first one is why it all ends.
    fn fail(&self, failure: Failure) {
        self.failure.borrow_mut().get_or_insert(failure);
    }
}

impl Wanted {
    /// Docker may not have read `/etc/hosts` since its name is there.
    fn is_led_late(&self) -> bool {
        self.led
            .is_some_and(|led| led.elapsed() < HOSTS_READ_WITHIN)
    }
}
