//! Runs `dockerd --validate`: dockerd reads its command line and its configuration file
//! as at a start, and then exits.
//!
//! The command runs in a transient unit. In the transient unit, dockerd has the
//! environment of Docker's unit, and is outside digestfix's own sandbox.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::host::Managed;
use crate::host::startable::validating;
use crate::systemd::{OwnService, ServiceManager};

/// The maximum number of bytes to read from the command's output.
const MAX_WORDS: usize = 16 * 1024;

/// The maximum number of characters to show of an output line.
const MAX_LINE: usize = 400;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// `--validate` found no reason why Docker would not start.
    Passed,
    Refused {
        program: String,
        says: String,
    },
    /// dockerd is older than 23.0 and does not have `--validate`.
    Unsupported,
    Unknown(String),
}

/// Runs the dockerd of the unit with `--validate`, so that dockerd checks its command
/// line and configuration.
pub(super) async fn ask(manager: &impl ServiceManager, host: &Managed) -> Verdict {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let program = host.start.command.first().cloned().unwrap_or_default();
    if !program.starts_with('/') || !program.ends_with("/dockerd") {
        // Run only dockerd: another program may ignore `--validate` and start Docker.
        return Verdict::Unknown(format!("{} does not start dockerd itself", host.unit.id));
    }
    let number = ASKED.fetch_add(1, Ordering::Relaxed);
    let service = OwnService {
        name: format!("digestfix-validate-{}-{number}.service", process::id()),
        description: format!("Validate the configuration of {}", host.unit.id),
        command: validating(host),
    };
    let pair = UnixStream::pair().and_then(|(own, theirs)| {
        own.set_nonblocking(true)?;
        Ok((own, theirs))
    });
    let (own, theirs) = match pair {
        Ok(pair) => pair,
        Err(error) => return Verdict::Unknown(error.to_string()),
    };
    let asked = manager.run_like(&service, &host.service, theirs.as_fd());
    match asked.await {
        Ok(true) => Verdict::Passed,
        Ok(false) => of_words(program, &words(own)),
        Err(error) => Verdict::Unknown(error.to_string()),
    }
}

/// The output so far. Does not wait for the end of the output, because systemd may keep
/// the other end of the socket open.
fn words(mut from: UnixStream) -> String {
    let mut words = Vec::new();
    let mut piece = [0; 1024];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        words.extend(piece.iter().take(length));
        if words.len() >= MAX_WORDS {
            break;
        }
    }
    String::from_utf8_lossy(&words).into_owned()
}

/// The verdict after `--validate` has failed, according to the last line of the output.
fn of_words(program: String, words: &str) -> Verdict {
    if words.contains("unknown flag: --validate") {
        return Verdict::Unsupported;
    }
    let mut lines = words.lines().map(str::trim).filter(|line| !line.is_empty());
    match lines.next_back() {
        Some(line) => Verdict::Refused {
            program,
            says: line.chars().take(MAX_LINE).collect(),
        },
        // If there is no output, the program may not have run at all.
        None => Verdict::Unknown(format!("{program} --validate failed without a message")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerd_without_the_option_is_no_refusal() {
        let old = "Status: unknown flag: --validate\nSee 'dockerd --help'., Code: 125\n";
        assert_eq!(of_words("/d".to_owned(), old), Verdict::Unsupported);
        let refused = "level=warning msg=x\nunable to configure: unknown: Debug\n\n";
        let Verdict::Refused { says, .. } = of_words("/d".to_owned(), refused) else {
            panic!("it is refused");
        };
        assert_eq!(says, "unable to configure: unknown: Debug");
        assert!(matches!(
            of_words("/d".to_owned(), " \n"),
            Verdict::Unknown(_)
        ));
    }
}
