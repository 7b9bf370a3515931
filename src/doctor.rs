//! Doctor: checks what would prevent a change on this host, and how to fix it.
//!
//! Each check is independent, so one error does not hide another. The doctor also reports
//! each check that it cannot run. The doctor does not start, stop or write anything, and
//! does not take digestfix's lock.

use serde::Serialize;

pub mod boot;
pub mod claims;
pub mod disk;
pub mod host;
pub mod interrupted;
pub mod node;
pub mod past;
pub mod program;
pub mod references;
pub mod refused;
pub mod stop;
pub mod systemd;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Whether the user is root.
    Root,
    /// systemd and the system bus.
    Systemd,
    Unit,
    /// daemon.json.
    Configuration,
    /// The running dockerd.
    Engine,
    /// Docker's data root, according to all sources that name it.
    DataRoot,
    /// `repositories.json`.
    References,
    /// Units that would stop along with Docker, and conflicting systemd jobs.
    OtherUnits,
    Containers,
    /// A run that holds the lock.
    Lock,
    /// Traces of killed runs.
    Unfinished,
    /// The records of earlier runs.
    History,
    /// Space and permissions on file systems.
    Disk,
    /// Whether systemd can run this program as the watchdog.
    Watchdog,
    /// The files in the claims directories.
    Claims,
    /// digestfix's own units.
    Boot,
}

impl Check {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Systemd => "systemd",
            Self::Unit => "unit",
            Self::Configuration => "configuration",
            Self::Engine => "engine",
            Self::DataRoot => "data root",
            Self::References => "references",
            Self::OtherUnits => "other units",
            Self::Containers => "containers",
            Self::Lock => "lock",
            Self::Unfinished => "unfinished runs",
            Self::History => "history",
            Self::Disk => "disk",
            Self::Watchdog => "watchdog",
            Self::Claims => "claims",
            Self::Boot => "own units",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Ok,
    /// A finding that needs attention, but would not prevent an apply.
    Warning,
    /// A problem that would prevent an apply.
    Problem,
    /// The check did not run, because another check failed.
    NotSeen,
}

impl State {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
            Self::NotSeen => "not seen",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: Check,
    pub state: State,
    pub what: String,
    pub next: Option<String>,
}

impl Finding {
    pub fn ok(check: Check, what: impl Into<String>) -> Self {
        Self::new(check, State::Ok, what.into(), None)
    }

    pub fn warning(check: Check, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(check, State::Warning, what.into(), Some(next.into()))
    }

    pub fn problem(check: Check, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(check, State::Problem, what.into(), Some(next.into()))
    }

    /// An error for which `apply` would refuse a change, with the help that belongs to
    /// the error.
    pub fn refused(check: Check, error: &impl ToString, help: Option<String>) -> Self {
        Self::new(check, State::Problem, error.to_string(), help)
    }

    pub fn not_seen(check: Check, why: impl Into<String>) -> Self {
        Self::new(check, State::NotSeen, why.into(), None)
    }

    fn new(check: Check, state: State, what: String, next: Option<String>) -> Self {
        Self {
            check,
            state,
            what,
            next,
        }
    }
}

/// Whether any finding would prevent an apply.
pub fn would_stop(findings: &[Finding]) -> bool {
    findings
        .iter()
        .any(|finding| finding.state == State::Problem)
}
