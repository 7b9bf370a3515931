//! Watchdog: a systemd unit below `/run` that recovers a killed run. The watchdog waits
//! for the lock on Docker's data root. The kernel releases this lock when the run ends,
//! and then the watchdog finishes the transaction.
//!
//! The watchdog has its own control group. So events that kill the run (a closed session,
//! a stopped unit, the OOM killer) do not kill the watchdog. If the watchdog itself is
//! killed, systemd restarts it.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, io};

use tokio::time::{Instant, sleep};

use crate::systemd::{LASTING, OwnService, ServiceManager, SystemdError};

/// Timeout for stopping a watchdog that has nothing to finish.
const STOP_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Watchdog {
    unit: String,
}

#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// digestfix cannot find the path of its own program, so systemd could not start that
    /// program as a watchdog.
    #[error("digestfix cannot find the path of its own program: {0}")]
    Program(io::Error),
    #[error("{0}; systemd must be able to run digestfix from its installation directory")]
    Systemd(#[from] SystemdError),
}

impl Watchdog {
    /// Starts the watchdog, which then waits for the lock on the data root.
    pub async fn start(
        manager: &impl ServiceManager,
        id: &str,
        data_root: &Path,
    ) -> Result<Self, WatchdogError> {
        let program = env::current_exe().map_err(WatchdogError::Program)?;
        let unit = unit(id);
        let words = [
            program.to_string_lossy().into_owned(),
            "watchdog".to_owned(),
            encoded(data_root),
            id.to_owned(),
        ];
        let service = OwnService {
            name: unit.clone(),
            description: format!("Bring Docker back if digestfix ({id}) is killed"),
            command: words.into(),
        };
        manager.start_lasting(&service).await?;
        Ok(Self { unit })
    }

    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Ends the watchdog after its transaction. If systemd fails to stop the watchdog,
    /// the watchdog finds nothing to do and ends by itself.
    pub async fn end(self, manager: &impl ServiceManager) -> Result<(), SystemdError> {
        // Remove the unit file first. If digestfix is killed between the two steps, a
        // watchdog without a unit file remains, and ends by itself. In the opposite
        // order, the unit file would remain.
        manager.forget_lasting(&self.unit).await?;
        manager.stop(&self.unit, &[], STOP_WITHIN).await
    }
}

/// Ends the watchdog of a run that this process has recovered. Does nothing if this
/// process is that watchdog, because it is about to end anyway.
pub async fn dismiss(manager: &impl ServiceManager, id: &str) {
    let unit = unit(id);
    let own = manager.unit_of_process(std::process::id()).await;
    if own.is_ok_and(|own| own == unit) {
        return;
    }
    // Ignore the error: a watchdog that is not stopped finds nothing to do and ends.
    let _ = Watchdog { unit }.end(manager).await;
}

/// The longest pause between two attempts of the watchdog.
pub const MOST: Duration = Duration::from_secs(60);

/// The interval at which the watchdog checks during a pause whether the run has ended.
const LOOK: Duration = Duration::from_secs(1);

/// Retries until an attempt succeeds, with pauses that grow to [`MOST`]. A pause ends
/// early if another process ends the run. Passes each error to `tell`, unless the
/// previous attempt failed with the same error.
pub async fn try_until_done<T, E: fmt::Display>(
    mut attempt: impl AsyncFnMut(u32) -> Result<T, E>,
    mut tell: impl FnMut(E),
    is_over: impl Fn() -> bool,
) -> T {
    let mut told = None;
    let mut failures = 0;
    loop {
        let error = match attempt(failures).await {
            Ok(done) => return done,
            Err(error) => error,
        };
        let reason = error.to_string();
        if told.as_ref() != Some(&reason) {
            tell(error);
            told = Some(reason);
        }
        let until = Instant::now() + pause(failures);
        let was_over = is_over();
        while Instant::now() < until && is_over() == was_over {
            sleep(LOOK).await;
        }
        failures += 1;
    }
}

fn pause(failures: u32) -> Duration {
    MOST.min(LOOK * 2_u32.saturating_pow(failures))
}

/// Delays a shutdown until the returned descriptor is closed.
pub async fn hold_off_shutdown(manager: &impl ServiceManager, why: &str) -> Option<OwnedFd> {
    match manager.delay_shutdown(why).await {
        Ok(lock) => Some(lock),
        // Some hosts have no logind. If the machine shuts down in the middle of a run,
        // the run is recovered anyway.
        Err(error) => {
            tracing::info!("digestfix could not delay a shutdown: {error}");
            None
        }
    }
}

/// Encodes a path: letters, digits and `/._-` stay, and every other byte becomes `=` and
/// two hexadecimal digits. Without this encoding, systemd would expand variables and
/// specifiers in the command line. Escaping does not help. The version of systemd decides
/// when systemd expands variables and specifiers, and if systemd reloads its units before
/// that, the escaping is lost.
pub fn encoded(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("={byte:02x}"));
        }
    }
    text
}

/// Decodes a path that [`encoded`] has encoded.
pub fn decoded(text: &str) -> Result<PathBuf, &'static str> {
    const NOT_ENCODED: &str = "the path is not encoded as digestfix encodes paths";
    let mut parts = text.split('=');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (hex, rest) = part.split_at_checked(2).ok_or(NOT_ENCODED)?;
        bytes.push(u8::from_str_radix(hex, 16).map_err(|_| NOT_ENCODED)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

/// The name of a transaction's watchdog unit.
pub fn unit(id: &str) -> String {
    format!("{LASTING}{id}.service")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn pauses_grow_to_a_minute() {
        let seconds: Vec<u64> = (0..9).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause(u32::MAX), MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn it_tries_until_it_succeeds_and_tells_each_reason_once() {
        let told = RefCell::new(Vec::new());
        let begun = Instant::now();
        let attempt = async |failures| match failures {
            0..100 => Err("no space"),
            100..1000 => Err("no systemd"),
            _ => Ok(failures),
        };
        let done = try_until_done(attempt, |error| told.borrow_mut().push(error), || false);
        assert_eq!(done.await, 1000);
        assert_eq!(*told.borrow(), ["no space", "no systemd"]);
        assert!(begun.elapsed() > MOST * 900);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_others_have_ended_is_seen_within_a_second() {
        let ends = Instant::now() + Duration::from_secs(1000);
        let is_over = || Instant::now() >= ends;
        let attempt = async |_| if is_over() { Ok(()) } else { Err("no space") };
        try_until_done(attempt, |_| {}, is_over).await;
        assert!(ends.elapsed() <= LOOK);
    }

    /// The watchdog must pause between failed attempts even after the run has ended.
    #[tokio::test(start_paused = true)]
    async fn it_pauses_where_no_notice_is_left() {
        let attempts = Cell::new(0);
        let begun = Instant::now();
        let attempt = async |failures| {
            attempts.set(failures);
            if failures < 20 { Err("odd") } else { Ok(()) }
        };
        try_until_done(attempt, |_| {}, || true).await;
        assert!(begun.elapsed() > MOST * 12);
    }

    #[test]
    fn a_path_is_handed_over_with_nothing_to_expand() {
        assert_eq!(encoded(Path::new("/var/lib/docker")), "/var/lib/docker");
        for path in [
            "/mnt/${x}/$y/$$",
            "/a %i%%",
            "/it's \"q\" \\",
            "/=41",
            "/a\nb\u{202e}",
            "/;:@-!~",
            "/é",
        ] {
            let text = encoded(Path::new(path));
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-=".contains(&byte);
            assert!(text.bytes().all(is_plain), "{text}");
            assert_eq!(decoded(&text).unwrap(), Path::new(path));
        }
        for odd in ["/a=", "/a=4", "/a=zz", "/a=é"] {
            decoded(odd).unwrap_err();
        }
    }
}
