//! Run result: one enum, which determines the exit code, the event for journald, and the
//! word in the metrics.

use crate::report::events::Event;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Success, or nothing to do.
    Done = 0,
    /// Failed. The host is as it was before.
    Failed = 1,
    /// Refused. Nothing was changed.
    Refused = 3,
    /// Changes are pending.
    Pending = 4,
    /// The host could not be restored, or something on it is not as it was before.
    Broken = 5,
    /// Success, but a container has changed.
    ContainersChanged = 6,
}

/// The result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunResult {
    /// There was nothing to do.
    Unchanged,
    /// Changes are pending, and another command has to make them.
    Pending,
    /// The command succeeded: it changed the references, or showed what the user asked
    /// for.
    Done,
    /// An interrupted run was recovered, and there was nothing else to do.
    Recovered,
    /// The references are changed, but a container has changed too.
    ContainersChanged,
    /// Refused before anything was changed.
    Refused,
    /// Failed before anything was changed.
    Failed,
    /// Failed, and all changes were undone.
    Undone,
    /// The references are consistent, either new or old, but something else is not as it
    /// was before.
    Incomplete,
    /// The host could not be restored.
    Broken,
}

impl RunResult {
    /// The possible results of a run that may change a host.
    pub const ALL: [Self; 9] = [
        Self::Unchanged,
        Self::Done,
        Self::Recovered,
        Self::ContainersChanged,
        Self::Refused,
        Self::Failed,
        Self::Undone,
        Self::Incomplete,
        Self::Broken,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Recovered => "recovered",
            Self::ContainersChanged => "containers_changed",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Undone => "undone",
            Self::Incomplete => "incomplete",
            Self::Broken => "broken",
        }
    }

    /// Whether the run reached its goal.
    pub const fn is_success(self) -> bool {
        matches!(
            self,
            Self::Unchanged | Self::Done | Self::Recovered | Self::ContainersChanged
        )
    }

    pub const fn exit(self) -> Exit {
        match self {
            Self::Unchanged | Self::Done | Self::Recovered => Exit::Done,
            Self::Pending => Exit::Pending,
            Self::ContainersChanged => Exit::ContainersChanged,
            Self::Refused => Exit::Refused,
            Self::Failed | Self::Undone => Exit::Failed,
            Self::Incomplete | Self::Broken => Exit::Broken,
        }
    }

    /// The heading of a problem in a run that has this result.
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Unchanged | Self::Pending | Self::Done | Self::Recovered => "done",
            Self::ContainersChanged => "CONTAINERS CHANGED",
            Self::Refused => "refused",
            Self::Failed | Self::Undone => "failed",
            Self::Incomplete => "INCOMPLETE",
            Self::Broken => "COULD NOT RESTORE THE HOST",
        }
    }

    /// The event for journald.
    pub const fn event(self) -> Event {
        match self {
            Self::Unchanged | Self::Pending | Self::Done | Self::Recovered => Event::Done,
            Self::ContainersChanged => Event::ContainersChanged,
            Self::Refused => Event::Refused,
            Self::Failed | Self::Undone => Event::Failed,
            Self::Incomplete => Event::Incomplete,
            Self::Broken => Event::Broken,
        }
    }
}
