//! Signals that ask this process to end, which are SIGINT, SIGTERM and SIGHUP. This
//! module also makes the process ignore SIGTSTP.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether this process handles these signals. If not, each of these signals ends the
/// process at once.
static LISTENS: AtomicBool = AtomicBool::new(false);

fn signals() -> [(&'static str, SignalKind); 3] {
    [
        ("SIGINT", SignalKind::interrupt()),
        ("SIGTERM", SignalKind::terminate()),
        ("SIGHUP", SignalKind::hangup()),
    ]
}

/// Remembers the first signal that asked this process to end.
#[derive(Debug, Clone)]
pub struct Interrupt {
    received: watch::Receiver<Option<&'static str>>,
}

impl Interrupt {
    /// From now on, listens for these signals, so that they do not end the process.
    pub fn listen() -> std::io::Result<Self> {
        let (sender, received) = watch::channel(None);
        LISTENS.store(true, Ordering::Relaxed);
        for (name, kind) in signals() {
            let mut stream = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    sender.send_if_modified(|first| {
                        let new = first.is_none();
                        first.get_or_insert(name);
                        new
                    });
                }
            });
        }
        // Ignore SIGTSTP: if Ctrl-Z in a terminal stopped this process, Docker could stay
        // down.
        let mut stops = signal(SignalKind::from_raw(Signal::SIGTSTP as i32))?;
        tokio::spawn(async move { while stops.recv().await.is_some() {} });
        Ok(Self { received })
    }

    /// The first signal that has arrived so far, if any.
    pub async fn received(&self) -> Option<&'static str> {
        // On a single-threaded runtime, other tasks run only when this task yields. The
        // first yield lets the runtime's driver see the signal. The second yield lets the
        // task that waits for the signal run.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        *self.received.borrow()
    }

    /// Waits for a signal.
    pub async fn wait(&self) -> &'static str {
        let mut received = self.received.clone();
        let signal = match received.wait_for(Option::is_some).await {
            Ok(signal) => *signal,
            Err(_) => None,
        };
        match signal {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}

/// Waits for a signal that arrives after this call. If this process does not listen for
/// signals, a signal still ends the process at once.
pub async fn again() {
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] =
        signals().map(|(_, kind)| match LISTENS.load(Ordering::Relaxed) {
            true => signal(kind).map_err(drop),
            false => Err(()),
        })
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
