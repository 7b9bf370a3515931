//! What would stop a change on this host, and how to cure it.
//!
//! Each part checks one thing by itself. So one broken thing hides no other, and what
//! could not be checked is named. The doctor starts, stops and writes nothing, and does
//! not take digestfix's own lock.

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
    /// The right to do anything at all.
    Root,
    /// systemd, and the bus to it.
    Systemd,
    Unit,
    /// daemon.json.
    Configuration,
    /// The running dockerd.
    Engine,
    /// Where it keeps images, by all who say so.
    DataRoot,
    /// `repositories.json`.
    References,
    /// Units that a stop of Docker stops as well, and jobs in the way.
    OtherUnits,
    Containers,
    /// Another run.
    Lock,
    /// What runs left that were killed.
    Unfinished,
    /// What earlier runs did.
    History,
    /// Space and rights on file systems.
    Disk,
    /// Whether systemd can run this program.
    Watchdog,
    /// The files in the claims directories.
    Claims,
    /// The units of digestfix's own.
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
    /// Worth a look; it stops nothing.
    Warning,
    /// It would stop an apply.
    Problem,
    /// It could not be looked at, because of something else.
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

    /// An apply would be refused for this error, with this help.
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

/// Something would stop an apply.
pub fn would_stop(findings: &[Finding]) -> bool {
    findings
        .iter()
        .any(|finding| finding.state == State::Problem)
}
