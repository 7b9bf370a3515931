//! How a run ended, in one word, for journald and for metrics.

/// What came of a run that may change a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunResult {
    /// There was nothing to do.
    Unchanged,
    /// The references are changed.
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
    /// The references are changed, and not all else is as it was found.
    Incomplete,
    /// The host could not be restored.
    Broken,
}

impl RunResult {
    /// All of them.
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

    /// In one word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unchanged => "unchanged",
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
    #[must_use]
    pub const fn is_success(self) -> bool {
        matches!(
            self,
            Self::Unchanged | Self::Done | Self::Recovered | Self::ContainersChanged
        )
    }
}
