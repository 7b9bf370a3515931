//! Properties of a transient service (`StartTransientUnit` in
//! `org.freedesktop.systemd1(5)`).

use std::os::fd::BorrowedFd;
use std::time::Duration;

use zbus::Variant;

use crate::systemd::{OwnService, Service};

/// Timeout for a program that only reads files. The timeout may be long, because Docker
/// keeps running in the meantime.
pub(super) const WITHIN: Duration = Duration::from_secs(15);

/// Properties of a service that runs once, with the environment of another service.
pub(super) fn like<'a>(
    service: &'a OwnService,
    other: &'a Service,
    output: BorrowedFd<'a>,
) -> [(&'static str, Variant<'a>); 8] {
    [
        ("Description", service.description.as_str().into()),
        // With the type `oneshot`, the start job ends when the program ends.
        ("Type", "oneshot".into()),
        ("ExecStart", command(service)),
        ("TimeoutStartUSec", microseconds(WITHIN)),
        ("Environment", other.environment.clone().into()),
        ("EnvironmentFiles", other.environment_files.clone().into()),
        ("StandardOutputFileDescriptor", Variant::Fd(output.into())),
        ("StandardErrorFileDescriptor", Variant::Fd(output.into())),
    ]
}

fn command(service: &OwnService) -> Variant<'_> {
    let program = service.command.first().map(String::as_str);
    // systemd expands variables in every word except the program's path.
    let words = service.command.iter().map(|word| word.replace('$', "$$"));
    let words: Vec<String> = words.collect();
    vec![(program.unwrap_or_default(), words, false)].into()
}

fn microseconds(duration: Duration) -> Variant<'static> {
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX)
        .into()
}
