//! How a run ended: one enum, of which the exit code, journald's event and the word in
//! metrics are views.

use crate::report::events::Event;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Failed; the host is as it was found.
    Failed = 1,
    /// Refused; nothing was touched.
    Refused = 3,
    /// Changes are pending.
    Pending = 4,
    /// The host could not be restored, or something is not as it was found.
    Broken = 5,
    /// Done, and a container is not what it was.
    ContainersChanged = 6,
}

/// What came of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunResult {
    /// There was nothing to do.
    Unchanged,
    /// Something is to be done, by another command than this one.
    Pending,
    /// What was asked is done: the references are changed, or what is there was told.
    Done,
    /// An interrupted run was brought to an end, and nothing else was to be done.
    Recovered,
    /// The references are changed, and a container is not what it was.
    ContainersChanged,
    /// Nothing was touched, since it should not be.
    Refused,
    /// It failed before anything was touched.
    Failed,
    /// It failed, and the host is as it was found.
    Undone,
    /// The references are the new or the old ones, and not all else is as it was found.
    Incomplete,
    /// The host could not be restored.
    Broken,
}

impl RunResult {
    /// All that a run may come to that may change a host.
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

    /// What was wanted is so now.
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

    /// What a problem is headed by.
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

    /// What journald is told.
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
