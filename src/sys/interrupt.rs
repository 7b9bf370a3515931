//! Signals that ask this process to end: SIGINT, SIGTERM and SIGHUP. Also makes this
//! process ignore SIGTSTP.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether this process handles these signals, so that they do not end it by themselves.
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
    /// Listens for these signals from now on, so that they do not end the process.
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
        // Handle SIGTSTP, because Docker could stay down if Ctrl-Z in a terminal stopped
        // this process.
        let mut stops = signal(SignalKind::from_raw(Signal::SIGTSTP as i32))?;
        tokio::spawn(async move { while stops.recv().await.is_some() {} });
        Ok(Self { received })
    }

    /// The first signal that has arrived so far, if any.
    pub async fn received(&self) -> Option<&'static str> {
        // On a single-threaded runtime, the listener runs only when this task yields:
        // once for the driver, which sees the signal, and once for the task that waits
        // for the signal.
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

/// Waits for a signal that arrives after this call. Without a listener, a signal still
/// ends the process by itself.
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
