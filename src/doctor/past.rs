//! Earlier runs: whether records can be written, how the last change ended, and which
//! backups exist.

use crate::doctor::{Check, Finding};
use crate::state::history::{End, HistoryError, Record};

/// Findings about the records and about the number of backups. `records` is sorted,
/// oldest first.
pub fn judge(
    directory: Result<(), HistoryError>,
    records: &[Record],
    broken: &[HistoryError],
    backups: usize,
) -> Vec<Finding> {
    if let Err(error) = directory {
        return vec![Finding::refused(Check::History, &error, error.help())];
    }
    let done = records
        .iter()
        .rev()
        .find(|record| record.result == Some(End::Done));
    let last = match done {
        None => "no change on record".to_owned(),
        Some(record) => format!(
            "last change {}, {}",
            record.ended.as_deref().unwrap_or(&record.began),
            record.id
        ),
    };
    let mut findings = vec![Finding::ok(
        Check::History,
        format!("{last}; backups of the references: {backups}"),
    )];
    if let Some(record) = records.last()
        && let Some(End::Broken { why } | End::Incomplete { why }) = &record.result
    {
        findings.push(Finding::warning(
            Check::History,
            format!("run {} did not end well: {why}", record.id),
            format!(
                "digestfix history {}; check that Docker is as it should be",
                record.id
            ),
        ));
    }
    findings.extend(broken.iter().map(|error| {
        let help = error.help().unwrap_or_default();
        Finding::warning(Check::History, error.to_string(), help)
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;
    use crate::state::history::tests::record;

    #[test]
    fn the_last_that_was_done_is_named_and_a_bad_end_is_told() {
        let mut failed = record("2-2", 2);
        failed.result = Some(End::Undone { why: String::new() });
        let found = judge(Ok(()), &[record("1-1", 1), failed.clone()], &[], 3);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.contains("1-1; "), "{found:?}");
        assert!(
            found[0].what.ends_with("backups of the references: 3"),
            "{found:?}"
        );
        failed.result = Some(End::Broken {
            why: "no disk".to_owned(),
        });
        let found = judge(Ok(()), &[failed], &[], 0);
        assert_eq!(found[1].state, State::Warning);
        assert!(found[0].what.contains("no change"), "{found:?}");
        assert!(found[1].what.contains("no disk"), "{found:?}");
    }
}
