//! What the rest of digestfix refuses for, each with something to type. The
//! words are those that `apply` would say.
//!
//! Every kind of refusal has its place here: one that is added does not compile
//! until somebody has thought of its cure.

use crate::data_root::ReadError;
use crate::disturbance::{AssessError, Obstacle};
use crate::doctor::{Check, Finding};
use crate::host::{Doubt, HostError};
use crate::open_files;
use crate::shell;

/// A host that cannot be worked on.
#[must_use]
pub fn host(error: &HostError) -> Finding {
    let word = shell::word;
    let (check, next) = match error {
        HostError::Systemd(_) => (
            Check::Systemd,
            "systemctl start dbus.socket; for a disk that no Docker uses: --offline --data-root DIR"
                .to_owned(),
        ),
        HostError::NoUnit { others, .. } => (
            Check::Unit,
            match others.first() {
                Some(other) => format!("digestfix doctor --unit {}", shell::word(other)),
                None => "systemctl list-unit-files '*docker*'; then: --unit NAME".to_owned(),
            },
        ),
        HostError::UnusableUnit { unit, load_state } => (
            Check::Unit,
            if load_state == "masked" {
                format!("systemctl unmask {}", word(unit))
            } else {
                format!("systemctl status {}; mend what it names, then: systemctl daemon-reload", word(unit))
            },
        ),
        HostError::NotAService(_) => (
            Check::Unit,
            "systemctl list-units --type=service; then: --unit NAME.service".to_owned(),
        ),
        HostError::Wrapped { unit, .. } => (Check::Unit, format!("systemctl start {}", word(unit))),
        HostError::Transient { unit } => (
            Check::Unit,
            format!("systemctl stop {}; then: --offline --data-root DIR", word(unit)),
        ),
        HostError::Unsettled { unit, .. } => (Check::Unit, format!("systemctl status {}", word(unit))),
        HostError::EnvironmentFile { unit, .. } => (
            Check::Unit,
            format!("systemctl cat {}; put the file back that EnvironmentFile= names", word(unit)),
        ),
        HostError::EngineSilent { unit, .. } => (
            Check::Engine,
            format!("journalctl -u {} -n 50; if the API listens elsewhere: --socket PATH", word(unit)),
        ),
        HostError::NoUnixSocket(_) => (
            Check::Engine,
            "--socket PATH, or give dockerd one: -H unix:///var/run/docker.sock".to_owned(),
        ),
        HostError::ContainerdImageStore => (
            Check::Engine,
            "systemctl start docker".to_owned(),
        ),
        HostError::Stopped(stopped) => (
            Check::Engine,
            format!("systemctl start {}", stopped.unit),
        ),
        HostError::ConfigFile { path, .. } => (
            Check::Configuration,
            format!(
                "mend {path}; to check it (Docker 23.0 and later): dockerd --validate --config-file {path}",
                path = shell::path(path)
            ),
        ),
        HostError::ConfigFileMissing { path, .. } => (
            Check::Configuration,
            format!("put {} back", path.display()),
        ),
        HostError::SetTwice {
            option,
            config_file,
            unit,
        } => (
            Check::Configuration,
            format!(
                "take {option} out of {}, or the flag out of the unit: systemctl edit --full {}",
                config_file.display(),
                word(unit)
            ),
        ),
        HostError::Disagreement { fact, .. } => (
            if *fact == "configuration file" {
                Check::Configuration
            } else {
                Check::DataRoot
            },
            "docker info, systemctl cat docker.service and daemon.json: make them say the same"
                .to_owned(),
        ),
        HostError::DataRoot { .. } | HostError::NoReferences(_) => (
            Check::DataRoot,
            "docker info -f '{{.DockerRootDir}} {{.Driver}}'; then: --data-root DIR --driver NAME"
                .to_owned(),
        ),
        HostError::Ambiguous {
            flag, candidates, ..
        } => (
            Check::DataRoot,
            one_of(flag, candidates),
        ),
        HostError::DriverName(_) => (
            Check::DataRoot,
            "docker info -f '{{.Driver}}'; then: --driver NAME".to_owned(),
        ),
        HostError::UsedByAnother {
            pid, owner, unit, ..
        } => (
            Check::DataRoot,
            match (owner, pid) {
                (Some(owner), _) if owner != unit => format!("systemctl stop {}", word(owner)),
                (_, Some(pid)) => format!("ps -fp {pid}; end it"),
                _ => "ps -C dockerd -f; end the one that is not the unit's".to_owned(),
            },
        ),
        HostError::Read(error) => (Check::DataRoot, cure_of_read(error)),
    };
    Finding::problem(check, error.to_string(), next)
}

/// A reference store that cannot be read.
#[must_use]
pub fn read(error: &ReadError) -> Finding {
    Finding::problem(Check::References, error.to_string(), cure_of_read(error))
}

/// A flag with the first of its values, and the others.
fn one_of(flag: &str, values: &[String]) -> String {
    let mut values = values.iter().map(|value| shell::word(value));
    let first = values.next().unwrap_or_default();
    let others: Vec<String> = values.collect();
    let others = match others.is_empty() {
        true => String::new(),
        false => format!(" (or: {})", others.join(", ")),
    };
    format!("digestfix doctor {flag} {first}{others}")
}

fn cure_of_read(error: &ReadError) -> String {
    match error {
        ReadError::Missing(_) => "systemctl start docker.service".to_owned(),
        ReadError::NotAFile(path) => format!(
            "ls -l {path}; put what it leads to in its place: cp --remove-destination \"$(readlink -f \
             {path})\" {path}",
            path = shell::path(path)
        ),
        ReadError::Owner { path, .. } => format!("chown root: {}", shell::path(path)),
        ReadError::Content { path, .. } => format!(
            "ls -lt {path}.digestfix-*; a former one of them is whole. Docker does not start with this \
             one: stop it, cp -p FORMER {path}, start it",
            path = shell::path(path)
        ),
        ReadError::Io { path, .. } => {
            format!(
                "ls -ld {}; dmesg | tail (a disk that fails)",
                shell::path(path)
            )
        }
    }
}

/// A reason not to stop Docker now.
#[must_use]
pub fn obstacle(obstacle: &Obstacle) -> Finding {
    let word = shell::word;
    let (check, next) = match obstacle {
        Obstacle::UnitChanged { unit } => (
            Check::Unit,
            format!(
                "systemctl cat {unit}; then, when Docker's loss can be borne: systemctl daemon-reload && \
                 systemctl restart {unit}",
                unit = word(unit)
            ),
        ),
        Obstacle::JobQueued { .. } => (Check::OtherUnits, "systemctl list-jobs".to_owned()),
        Obstacle::Unsettled { unit, .. } => (
            Check::OtherUnits,
            format!("systemctl status {}", word(unit)),
        ),
        Obstacle::Ourselves { unit } => (
            Check::OtherUnits,
            format!("systemctl edit --full {}", word(unit)),
        ),
        Obstacle::TooFewFiles { .. } => (Check::Guard, format!("ulimit -n {}", open_files::NEEDED)),
        Obstacle::CannotKeep { hindrance, .. } => {
            let choice = "once they may stop: digestfix apply --containers restart";
            let next = match hindrance.cure() {
                Some(cure) => format!("{cure}; or: {choice}"),
                None => choice.to_owned(),
            };
            (Check::Containers, next)
        }
        Obstacle::WouldNotStart { unit, doubt } => (
            about(doubt),
            format!(
                "mend what it says, in the configuration file or in: systemctl cat {unit}",
                unit = word(unit)
            ),
        ),
        Obstacle::WouldMoveImages {
            config_file, unit, ..
        } => (
            Check::Configuration,
            format!(
                "take the feature out of {}, or: systemctl restart {unit}",
                config_file.display()
            ),
        ),
        Obstacle::MayNotStart { unit, doubt } => (
            about(doubt),
            format!(
                "when Docker's loss can be borne: systemctl restart {unit}; or: digestfix apply \
                 --force-restart",
                unit = word(unit)
            ),
        ),
        Obstacle::WouldBeRemoved { .. } => (
            Check::Containers,
            "docker rm -f NAME, or: digestfix apply --containers ignore".to_owned(),
        ),
    };
    Finding::problem(check, obstacle.to_string(), next)
}

const fn about(doubt: &Doubt) -> Check {
    if doubt.is_of_configuration() {
        Check::Configuration
    } else {
        Check::Unit
    }
}

/// What a stop would touch could not be found out.
#[must_use]
pub fn assess(error: &AssessError) -> Finding {
    let (check, next) = match error {
        AssessError::Systemd(_) => (Check::OtherUnits, "systemctl status; journalctl -b -p err"),
        AssessError::Engine(_) => (Check::Containers, "docker ps; journalctl -u docker.service"),
    };
    Finding::problem(check, error.to_string(), next)
}
