#![allow(clippy::unwrap_used, reason = "a test may panic")]

use super::*;
use crate::state::history::tests::record;

fn but(mut record: Record, change: impl FnOnce(&mut Record)) -> Record {
    change(&mut record);
    record
}

fn with(id: &str, number: u64, result: Option<End>) -> Record {
    but(record(id, number), |record| record.result = result)
}

fn done(id: &str, number: u64) -> Record {
    with(id, number, Some(End::Done))
}

fn back(id: &str, number: u64, of: &str) -> Record {
    but(done(id, number), |record| {
        record.kind = Kind::Rollback(of.to_owned());
    })
}

fn recovered(references: Side) -> Option<End> {
    Some(End::Recovered { references })
}

fn chosen(records: &[Record]) -> Result<String, RollbackBlocker> {
    reversal(records, None, "overlay2").map(|found| found.id)
}

#[test]
fn the_newest_that_stands_is_chosen() {
    let why = String::new;
    let broken = Some(End::Broken { why: why() });
    let undone = Some(End::Undone { why: why() });
    let incomplete = Some(End::Incomplete { why: why() });
    let other_driver = but(done("v", 9), |record| record.driver = "vfs".to_owned());
    let empty = but(done("e", 9), |record| record.changes.clear());
    for (records, expected) in [
        (vec![], None),
        (vec![done("a", 1)], Some("a")),
        (vec![done("a", 1), done("b", 2)], Some("b")),
        (vec![done("a", 1), with("b", 2, undone)], Some("a")),
        (vec![done("a", 1), with("b", 2, broken)], Some("a")),
        (vec![done("a", 1), with("b", 2, incomplete)], Some("b")),
        (
            vec![done("a", 1), with("b", 2, recovered(Side::New))],
            Some("b"),
        ),
        (
            vec![done("a", 1), with("b", 2, recovered(Side::Old))],
            Some("a"),
        ),
        (
            vec![done("a", 1), with("b", 2, recovered(Side::Other))],
            Some("a"),
        ),
        (vec![done("a", 1), other_driver], Some("a")),
        (vec![done("a", 1), empty], Some("a")),
        (
            vec![done("a", 1), done("b", 2), back("c", 3, "b")],
            Some("a"),
        ),
        (vec![done("a", 1), back("b", 2, "a")], None),
        // The rollback itself was rolled back, so the transaction is in effect again.
        (
            vec![done("a", 1), back("b", 2, "a"), back("c", 3, "b")],
            Some("a"),
        ),
        (
            vec![
                done("a", 1),
                back("b", 2, "a"),
                back("c", 3, "b"),
                back("d", 4, "a"),
            ],
            None,
        ),
        // A failed rollback reverts nothing.
        (
            vec![
                done("a", 1),
                but(back("b", 2, "a"), |record| {
                    record.result = Some(End::Undone { why: why() });
                }),
            ],
            Some("a"),
        ),
        // Records that claim to roll each other back must not cause an endless loop.
        (vec![back("a", 1, "b"), back("b", 2, "a")], None),
        (vec![back("a", 1, "a")], None),
    ] {
        let ids: Vec<&str> = records.iter().map(|one| one.id.as_str()).collect();
        let expected = expected.map(str::to_owned).ok_or(RollbackBlocker::None);
        assert_eq!(chosen(&records), expected, "{ids:?}");
    }
}

#[test]
fn what_cannot_be_taken_back_is_refused_by_name() {
    let undone = Some(End::Undone {
        why: "SIGINT received".to_owned(),
    });
    let records = [
        done("a", 1),
        back("b", 2, "a"),
        with("c", 3, undone),
        with("d", 4, recovered(Side::Old)),
        but(done("e", 5), |record| record.changes.clear()),
        but(done("f", 6), |record| record.driver = "vfs".to_owned()),
        with("g", 7, recovered(Side::Other)),
    ];
    let refusal = |id: &str| reversal(&records, Some(id), "overlay2").unwrap_err();
    assert_eq!(refusal("x"), RollbackBlocker::NotFound("x".to_owned()));
    assert_eq!(
        refusal("a"),
        RollbackBlocker::RolledBack {
            id: "a".to_owned(),
            by: "b".to_owned()
        }
    );
    for id in ["c", "d", "e"] {
        assert!(
            matches!(refusal(id), RollbackBlocker::ChangedNothing { .. }),
            "{id}"
        );
    }
    assert!(refusal("c").to_string().contains("SIGINT"));
    assert!(matches!(refusal("f"), RollbackBlocker::OtherDriver { .. }));
    // Whether these transactions can be reverted depends on the references on the host.
    assert!(reversal(&records, Some("g"), "overlay2").is_ok());
    assert!(reversal(&records, Some("b"), "overlay2").is_ok());
}

/// As long as a transaction may still be running, digestfix does not know which
/// transaction is the newest.
#[test]
fn one_that_has_not_ended_is_waited_for() {
    let records = [done("a", 1), with("b", 2, None)];
    assert_eq!(
        chosen(&records),
        Err(RollbackBlocker::NotEnded("b".to_owned()))
    );
}

#[test]
fn what_others_did_is_known() {
    let records = [done("a", 1), done("b", 2), done("c", 3), back("d", 4, "c")];
    let found = reversal(&records, Some("b"), "overlay2").unwrap();
    let later: Vec<&str> = found.later.iter().map(|later| later.id.as_str()).collect();
    assert_eq!(later, ["d", "c"], "newest first");
    let bases: Vec<&str> = found
        .bases
        .values()
        .map(|basis| basis.origin.as_str())
        .collect();
    assert_eq!(bases, ["somewhere"]);
    let first = reversal(&records, Some("a"), "overlay2").unwrap();
    assert!(first.bases.is_empty(), "nothing was before it");
}
