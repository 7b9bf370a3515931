//! What would stop a change on this host, and how to cure it.
//!
//! Each part looks at one thing by itself, so that what is broken hides nothing
//! else, and what could not be seen is said to be so. Nothing here is started,
//! stopped or written, and digestfix's own lock is only looked at.

use serde::Serialize;

pub mod boot;
pub mod claims;
pub mod disk;
pub mod host;
pub mod interrupted;
pub mod past;
pub mod program;
pub mod references;
pub mod refused;
pub mod stop;
pub mod systemd;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The right to do anything at all.
    Root,
    /// systemd, and the bus to it.
    Systemd,
    /// Docker's unit.
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
    /// The running containers.
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
    /// For people.
    #[must_use]
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

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Worth a look; it stops nothing.
    Warning,
    /// It would stop an apply.
    Problem,
    /// It could not be looked at, because of something else.
    NotSeen,
}

impl State {
    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "PROBLEM",
            Self::NotSeen => "not seen",
        }
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where.
    pub check: Check,
    /// How bad it is.
    pub state: State,
    /// What is.
    pub what: String,
    /// What to do about it, where there is something to do.
    pub next: Option<String>,
}

impl Finding {
    /// All is well.
    #[must_use]
    pub fn ok(check: Check, what: impl Into<String>) -> Self {
        Self::new(check, State::Ok, what.into(), None)
    }

    /// Something is worth a look.
    #[must_use]
    pub fn warning(check: Check, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(check, State::Warning, what.into(), Some(next.into()))
    }

    /// Something would stop an apply.
    #[must_use]
    pub fn problem(check: Check, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(check, State::Problem, what.into(), Some(next.into()))
    }

    /// An apply would be refused for this error, with this help.
    #[must_use]
    pub fn refused(check: Check, error: &impl ToString, help: Option<String>) -> Self {
        Self::new(check, State::Problem, error.to_string(), help)
    }

    /// It could not be looked at.
    #[must_use]
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
#[must_use]
pub fn would_stop(findings: &[Finding]) -> bool {
    findings
        .iter()
        .any(|finding| finding.state == State::Problem)
}
