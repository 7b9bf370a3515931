//! Events for journald.
//!
//! Each kind of event has a fixed `MESSAGE_ID`. Users find events by this ID (`journalctl
//! MESSAGE_ID=…`). `journalctl -x` uses the ID to find the explanation in
//! `packaging/digestfix.catalog`.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Began,
    /// A step of a run, or of its recovery, succeeded.
    Step,
    /// Something in a run failed, but that did not affect the outcome.
    Warning,
    /// A reference has changed.
    ReferenceChanged,
    Done,
    /// A transaction succeeded, but a container has changed.
    ContainersChanged,
    /// An interrupted run was recovered.
    Recovered,
    /// A run was refused, and changed nothing.
    Refused,
    /// A run failed, and the host is as it was before.
    Failed,
    /// The references are changed, but something else is not as it was before.
    Incomplete,
    /// The host could not be restored.
    Broken,
}

impl Event {
    pub const fn message_id(self) -> &'static str {
        match self {
            Self::Began => "1fb8c07a09f1408bbd66629c7e30de4d",
            Self::Step => "df50c31d8ed54054a8b5108dfd9ef2ca",
            Self::Warning => "088233f62bff4d7c882180e209c8983a",
            Self::ReferenceChanged => "1740929c945d4934939462b9f8b48be5",
            Self::Done => "23ba18900e4e4207a38a8b46ee02da9d",
            Self::ContainersChanged => "f0396ea6ecb5419eba7c1d24433f4149",
            Self::Recovered => "bcb7be35c34f45a9aef60e4201acf980",
            Self::Refused => "5d3208180d3941c59ef2b73ee0f4111d",
            Self::Failed => "ba3552825c104651863dd31840c3b046",
            Self::Incomplete => "566cdb92c0d94b47ac2de729e41317ba",
            Self::Broken => "2d359f648d8a4ce8a108335499aec7e0",
        }
    }

    /// The syslog level, as for `journalctl -p`.
    pub const fn priority(self) -> &'static str {
        match self {
            Self::Broken | Self::Incomplete => "2",
            Self::Failed | Self::Refused => "3",
            Self::Warning | Self::ContainersChanged => "4",
            Self::ReferenceChanged | Self::Done | Self::Recovered => "5",
            Self::Began | Self::Step => "6",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::Event;

    const CATALOG: &str = include_str!("../../packaging/digestfix.catalog");

    const ALL: [Event; 11] = [
        Event::Began,
        Event::Step,
        Event::Warning,
        Event::ReferenceChanged,
        Event::Done,
        Event::ContainersChanged,
        Event::Recovered,
        Event::Refused,
        Event::Failed,
        Event::Incomplete,
        Event::Broken,
    ];

    /// The texts of the catalog, by `MESSAGE_ID`.
    fn catalog() -> BTreeMap<&'static str, &'static str> {
        let entries = CATALOG.split("\n-- ").skip(1);
        entries
            .map(|entry| entry.split_once('\n').unwrap())
            .collect()
    }

    #[test]
    fn the_catalog_explains_each_event_and_no_other() {
        let ids: BTreeSet<_> = ALL.iter().map(|event| event.message_id()).collect();
        assert_eq!(
            ids.len(),
            ALL.len(),
            "no two events have the same MESSAGE_ID"
        );
        let explained: BTreeSet<_> = catalog().into_keys().collect();
        assert_eq!(explained, ids);
    }

    /// Whether Docker stops depends on the store and the options, so the text does not
    /// promise it.
    #[test]
    fn a_begin_promises_no_stop_and_no_watchdog_where_there_is_none() {
        let began = catalog()[Event::Began.message_id()];
        for word in [
            "containerd image store",
            "--offline",
            "digestfix-watchdog-@DIGESTFIX_TRANSACTION@.service",
            "digestfix-recover.service",
            "digestfix-resume.service",
            "enabled",
        ] {
            assert!(began.contains(word), "{word}: {began}");
        }
        assert!(!began.contains("Docker is about to be stopped"), "{began}");
    }

    /// If an entry lacks a field, journalctl shows the field's name in the text.
    #[test]
    fn what_went_wrong_is_explained_with_state_and_cure() {
        let catalog = catalog();
        for event in ALL {
            let text = catalog[event.message_id()];
            let went_wrong = event.priority() < "5" && event != Event::Warning;
            for field in [
                "@DIGESTFIX_PROBLEM@",
                "@DIGESTFIX_STATE@",
                "@DIGESTFIX_NEXT@",
            ] {
                assert_eq!(text.contains(field), went_wrong, "{event:?}: {field}");
            }
        }
    }
}
