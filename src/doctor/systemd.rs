//! systemd: its version, its state, and the process ID by which systemd knows this
//! process.

use crate::doctor::{Check, Finding};

/// The first systemd version that was tested.
const TRIED_FROM: u32 = 219;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// systemd's version, as the distribution writes it. Empty if unknown.
    pub version: String,
    pub is_shutting_down: bool,
    /// The ID of this process on the bus, if the bus reports it.
    pub seen_as: Option<u32>,
    /// The ID of this process in its own PID namespace.
    pub own_pid: u32,
}

pub fn judge(facts: &Facts) -> Finding {
    let version = &facts.version;
    if facts.is_shutting_down {
        return Finding::problem(
            Check::Systemd,
            "this machine is shutting down: systemd does not start any more units",
            "run digestfix again once the machine is up",
        );
    }
    if let Some(seen) = facts.seen_as.filter(|seen| *seen != facts.own_pid) {
        return Finding::problem(
            Check::Systemd,
            format!(
                "systemd sees this process as PID {seen}, but the PID is {} here: digestfix runs \
                 in a container",
                facts.own_pid
            ),
            "run digestfix on the host",
        );
    }
    match number(version) {
        Some(old) if old < TRIED_FROM => Finding::warning(
            Check::Systemd,
            format!("version {version}; digestfix was tested with {TRIED_FROM} and later"),
            "try digestfix first on a host where an outage of Docker does not matter",
        ),
        _ => Finding::ok(
            Check::Systemd,
            format!("version {version} answers on the system bus"),
        ),
    }
}

fn number(version: &str) -> Option<u32> {
    let digits = version.split(|character: char| !character.is_ascii_digit());
    digits.into_iter().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn what_systemd_says_is_judged() {
        let facts = |version: &str| Facts {
            version: version.to_owned(),
            is_shutting_down: false,
            seen_as: Some(7),
            own_pid: 7,
        };
        assert_eq!(judge(&facts("252.39-1~deb12u1")).state, State::Ok);
        assert_eq!(judge(&facts("219")).state, State::Ok);
        assert_eq!(judge(&facts("215-17+deb8u7")).state, State::Warning);
        assert_eq!(judge(&facts("")).state, State::Ok);
        let mut going = facts("252");
        going.is_shutting_down = true;
        assert_eq!(judge(&going).state, State::Problem);
        let mut contained = facts("252");
        contained.seen_as = Some(4711);
        assert_eq!(judge(&contained).state, State::Problem);
    }
}
