//! A transient service as systemd takes it (`StartTransientUnit` in
//! `org.freedesktop.systemd1(5)`).

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::sys::signal::Signal;
use zbus::Variant;

use crate::systemd::{Service, Transient};

/// A program is executed at once, or not at all.
pub(super) const STARTED_WITHIN: Duration = Duration::from_secs(30);

/// What runs once is done in milliseconds, and Docker may be down meanwhile.
pub(super) const RUN_WITHIN: Duration = Duration::from_secs(5);

/// A program that only looks may read much, and Docker runs meanwhile.
pub(super) const LOOKED_WITHIN: Duration = Duration::from_secs(15);

/// Between one end of the service and its next start.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Then systemd leaves it failed.
const TRIES: u32 = 30;

/// A service that waits has no handler for these, and systemd takes them for a
/// wish to end. It may be another one's wish.
const FORCE_RESTART: [i32; 3] = [
    Signal::SIGHUP as i32,
    Signal::SIGINT as i32,
    Signal::SIGTERM as i32,
];

/// The time that the tries are counted in.
const TRIES_WITHIN: Duration = Duration::from_secs(3600);

/// One that is started again when it does not end well.
pub(super) fn properties(service: &Transient) -> [(&'static str, Variant<'_>); 8] {
    [
        ("Description", service.description.as_str().into()),
        // Its start has ended when the program runs.
        ("Type", "exec".into()),
        ("ExecStart", command(service)),
        ("Restart", "on-failure".into()),
        (
            "RestartForceExitStatus",
            (Vec::<i32>::new(), FORCE_RESTART.to_vec()).into(),
        ),
        ("RestartUSec", microseconds(AGAIN_AFTER)),
        ("StartLimitIntervalUSec", microseconds(TRIES_WITHIN)),
        ("StartLimitBurst", TRIES.into()),
    ]
}

/// One that runs once.
pub(super) fn once<'a>(
    service: &'a Transient,
    input: BorrowedFd<'a>,
) -> [(&'static str, Variant<'a>); 5] {
    [
        ("Description", service.description.as_str().into()),
        // Its start has ended when the program has.
        ("Type", "oneshot".into()),
        ("ExecStart", command(service)),
        ("TimeoutStartUSec", microseconds(RUN_WITHIN)),
        ("StandardInputFileDescriptor", Variant::Fd(input.into())),
    ]
}

/// One that runs once, with the environment of another service.
pub(super) fn like<'a>(
    service: &'a Transient,
    other: &'a Service,
    output: BorrowedFd<'a>,
) -> [(&'static str, Variant<'a>); 8] {
    [
        ("Description", service.description.as_str().into()),
        ("Type", "oneshot".into()),
        ("ExecStart", command(service)),
        ("TimeoutStartUSec", microseconds(LOOKED_WITHIN)),
        ("Environment", other.environment.clone().into()),
        ("EnvironmentFiles", other.environment_files.clone().into()),
        ("StandardOutputFileDescriptor", Variant::Fd(output.into())),
        ("StandardErrorFileDescriptor", Variant::Fd(output.into())),
    ]
}

fn command(service: &Transient) -> Variant<'_> {
    let program = service.command.first().map(String::as_str);
    // systemd expands variables in all but the program.
    let words = service.command.iter().map(|word| word.replace('$', "$$"));
    let words: Vec<String> = words.collect();
    vec![(program.unwrap_or_default(), words, false)].into()
}

fn microseconds(duration: Duration) -> Variant<'static> {
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX)
        .into()
}
