#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::state::history::tests::record;
use crate::testing::scratch;

const GOOD: &str = r#"{"Repositories":{}}"#;

fn at(day: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + DAY * u32::try_from(day).unwrap()
}

/// A backup whose ID says that it was made on this day.
fn backup(day: u64, number: impl Into<Option<u64>>) -> Backup {
    let time: String = humantime::format_rfc3339_seconds(at(day))
        .to_string()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let id = format!("{time}-1");
    Backup {
        began: began(&id).unwrap(),
        id,
        number: number.into(),
    }
}

/// Removes backups as the limits demand, and returns the days of the backups that remain.
fn kept(
    (most, days): (usize, u32),
    backups: &[(u64, Option<u64>)],
    today: u64,
    bad: &[u64],
) -> Vec<u64> {
    let limits = Limits {
        backups: most,
        days,
    };
    let all: Vec<Backup> = backups
        .iter()
        .map(|(day, number)| backup(*day, *number))
        .collect();
    let bad: Vec<String> = bad.iter().map(|day| backup(*day, 0).id).collect();
    let present = all.last().unwrap().id.clone();
    let gone = limits.expendable(all.clone(), &present, at(today), |id| {
        !bad.iter().any(|one| one == id)
    });
    let days = backups.iter().map(|(day, _)| *day).zip(&all);
    days.filter(|(_, backup)| !gone.contains(&backup.id))
        .map(|(day, _)| day)
        .collect()
}

/// A test case: a description, the limits, the days and numbers of the backups, the
/// current day, the days of incomplete backups, and the days of the backups that remain.
type Case<'a> = (
    &'a str,
    (usize, u32),
    Vec<(u64, Option<u64>)>,
    u64,
    &'a [u64],
    &'a [u64],
);

#[test]
fn what_stays() {
    let numbered = |days: &[u64]| -> Vec<(u64, Option<u64>)> {
        days.iter().copied().zip((1..).map(Some)).collect()
    };
    let year: Vec<u64> = (20_000..20_012).collect();
    let cases: [Case; 10] = [
        (
            "by count",
            (10, 90),
            numbered(&year),
            20_012,
            &[],
            &year[2..],
        ),
        ("by age", (10, 5), numbered(&year), 20_012, &[], &year[7..]),
        (
            "whatever their age",
            (10, 5),
            numbered(&year),
            30_000,
            &[],
            &year[9..],
        ),
        (
            "count before age",
            (1, 5),
            numbered(&year),
            30_000,
            &[],
            &year[11..],
        ),
        (
            "the newest good one",
            (2, 5),
            numbered(&year),
            20_012,
            &[20_011, 20_010, 20_009, 20_008],
            &[20_007, 20_010, 20_011],
        ),
        // When the first two backups were made, the clock ran years ahead.
        (
            "a clock put right",
            (3, 90),
            numbered(&[30_000, 30_001, 20_000, 20_001, 20_002]),
            20_002,
            &[],
            &[20_000, 20_001, 20_002],
        ),
        // The clock now runs years ahead.
        (
            "a clock gone wrong",
            (10, 90),
            numbered(&[20_000, 20_001, 20_002, 20_003, 30_000]),
            30_000,
            &[],
            &[20_002, 20_003, 30_000],
        ),
        // These backups have no number, because they are older than the history, or
        // because their records were removed.
        (
            "without numbers",
            (3, 90),
            [20_000, 20_001, 20_002, 20_003]
                .map(|day| (day, None))
                .to_vec(),
            20_004,
            &[],
            &[20_001, 20_002, 20_003],
        ),
        (
            "some without numbers",
            (2, 90),
            vec![
                (20_000, None),
                (20_002, None),
                (20_001, Some(1)),
                (20_003, Some(2)),
            ],
            20_004,
            &[],
            &[20_002, 20_003],
        ),
        // The backup of the current transaction remains, even if it is not the newest
        // backup.
        (
            "the present one",
            (1, 90),
            vec![(20_005, Some(2)), (20_004, Some(1))],
            20_006,
            &[],
            &[20_005, 20_004],
        ),
    ];
    for (name, limits, backups, today, bad, expected) in cases {
        assert_eq!(kept(limits, &backups, today, bad), expected, "{name}");
    }
}

proptest! {
    #[test]
    fn whatever_the_clock_does(
        all_recorded in any::<bool>(),
        days in prop::collection::vec((10_000u64..40_000, any::<bool>(), any::<bool>()), 1..40),
        most in 1usize..12,
        age in 0u32..200,
        today in 10_000u64..40_000,
    ) {
        let mut seen = BTreeSet::new();
        let days: Vec<_> = days.into_iter().filter(|(day, _, _)| seen.insert(*day)).collect();
        let all: Vec<Backup> = days
            .iter()
            .zip(1..)
            .map(|((day, recorded, _), number)| backup(*day, (all_recorded || *recorded).then_some(number)))
            .collect();
        let good: BTreeSet<String> = days
            .iter()
            .zip(&all)
            .filter(|((_, _, good), _)| *good)
            .map(|(_, backup)| backup.id.clone())
            .collect();
        let limits = Limits { backups: most, days: age };
        let present = all.last().unwrap().id.clone();
        let is_good = |id: &str| good.contains(id);
        let gone = limits.expendable(all.clone(), &present, at(today), is_good);
        let left: Vec<&Backup> = all.iter().filter(|one| !gone.contains(&one.id)).collect();

        prop_assert!(!gone.contains(&present));
        prop_assert!(good.is_empty() || left.iter().any(|one| is_good(&one.id)));
        // The number of remaining backups exceeds the limit by at most two: the current
        // backup and the last good backup.
        prop_assert!(left.len() <= most + 2);
        prop_assert!(left.len() >= most.min(3).min(all.len()));
        // If every backup has a number, the newest good backup remains, and a second call
        // at the same moment removes nothing more.
        if all.iter().all(|one| one.number.is_some()) {
            let newest = all.iter().rev().find(|one| is_good(&one.id));
            prop_assert!(newest.is_none_or(|one| !gone.contains(&one.id)));
            let left: Vec<Backup> = left.into_iter().cloned().collect();
            prop_assert_eq!(limits.expendable(left, &present, at(today), is_good), [""; 0]);
        }
    }

    #[test]
    fn any_name_is_a_time_or_none(name in "\\PC{0,30}", near in "[0-9\u{e4}]{5,8}T[0-9]{6}Z-[0-9]{1,3}") {
        let _ = (began(&name), began(&near));
    }
}

#[test]
fn times_are_read_from_names() {
    assert_eq!(began("19700102T000000Z-7"), Some(at(1)));
    for name in [
        "",
        "-",
        "19700102T000000Z-",
        "19700102T000000Z-7+",
        "19700102T000000Z-7.old",
        "19700102T0000000Z-7",
        "19701302T000000Z-7",
        "19700102T000000-7",
        "1970010\u{e4}T000000Z-7",
        "+9700102T000000Z-7",
    ] {
        assert_eq!(began(name), None, "{name}");
    }
}

fn lock(root: &TempDir) -> RootLock {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(RootLock::acquire(root.path(), Duration::ZERO))
        .unwrap()
}

/// A file that only looks like a backup is kept, and does not count as a backup.
#[test]
fn only_what_is_digestfixs_own_is_removed() {
    let root = scratch();
    let images = ImageDir::new(root.path(), "overlay2");
    fs::create_dir_all(images.path()).unwrap();
    let lock = lock(&root);
    let name = |rest: &str| images.path().join(format!("repositories.json{rest}"));
    let ids: Vec<String> = (0..5).map(|day| backup(20_000 + day, 0).id).collect();
    for id in &ids {
        fs::write(beside(&images.store_path(), id), GOOD).unwrap();
    }
    let strangers = [
        "",
        ".digestfix-20010101T000000Z-1+",
        ".digestfix-20010101T000000Z-1.old",
        ".digestfix-20010101T000000Z-x",
        ".digestfix-mine",
        ".bak",
        ".digestfix-20010101T000000Z-1.json",
    ];
    for stranger in strangers {
        fs::write(name(stranger), GOOD).unwrap();
    }
    symlink("/etc/passwd", name(".digestfix-20010101T000001Z-1")).unwrap();
    fs::create_dir(name(".digestfix-20010101T000002Z-1")).unwrap();
    let mut others = vec![
        ".digestfix-20010101T000001Z-1",
        ".digestfix-20010101T000002Z-1",
    ];
    if geteuid().is_root() {
        let theirs = ".digestfix-20010101T000003Z-1";
        fs::write(name(theirs), GOOD).unwrap();
        std::os::unix::fs::chown(name(theirs), Some(12345), None).unwrap();
        others.push(theirs);
    }
    let limits = Limits {
        backups: 2,
        days: 90,
    };

    assert_eq!(enforce(&images, &lock, &ids[4], Some(limits)), [""; 0]);

    for stranger in strangers.iter().chain(&others) {
        assert!(name(stranger).symlink_metadata().is_ok(), "{stranger}");
    }
    let left = |id: &&String| beside(&images.store_path(), id).exists();
    let left: Vec<&String> = ids.iter().filter(left).collect();
    assert_eq!(left, [&ids[3], &ids[4]]);
}

/// The newest backups are incomplete, so the newest complete backup is kept.
#[test]
fn the_last_good_store_stays() {
    let root = scratch();
    let images = ImageDir::new(root.path(), "overlay2");
    fs::create_dir_all(images.path()).unwrap();
    let lock = lock(&root);
    let ids: Vec<String> = (0..6).map(|day| backup(20_000 + day, 0).id).collect();
    for (at, id) in ids.iter().enumerate() {
        let content = if at < 2 { GOOD } else { "{\"Repositories\":" };
        fs::write(beside(&images.store_path(), id), content).unwrap();
    }
    let limits = Limits {
        backups: 1,
        days: 1,
    };
    assert_eq!(enforce(&images, &lock, &ids[5], Some(limits)), [""; 0]);
    let left = |id: &&String| beside(&images.store_path(), id).exists();
    let left: Vec<&String> = ids.iter().filter(left).collect();
    assert_eq!(left, [&ids[1], &ids[5]]);
}

#[test]
fn records_stay_with_their_backups() {
    let root = scratch();
    let images = ImageDir::new(root.path(), "overlay2");
    fs::create_dir_all(images.path()).unwrap();
    let lock = lock(&root);
    let history = history::directory(root.path());
    fs::create_dir(&history).unwrap();
    let count = u64::try_from(RECORDS).unwrap() + 3;
    let id = |number: u64| backup(20_000 - number, 0).id;
    for number in 0..count {
        let bytes = serde_json::to_vec(&record(&id(number), number)).unwrap();
        fs::write(history::path(root.path(), &id(number)), bytes).unwrap();
    }
    fs::write(history.join("broken.json"), "{").unwrap();
    fs::write(beside(&images.store_path(), &id(1)), GOOD).unwrap();

    assert_eq!(enforce(&images, &lock, &id(0), None), [""; 0]);

    let (left, broken) = history::scan(root.path(), |record| Some(record.number));
    let expected: Vec<u64> = (0..2).chain(3..count).collect();
    assert_eq!(
        left, expected,
        "the current record, the record with a backup, the newest records"
    );
    assert_eq!(broken.len(), 1, "a record that cannot be read stays");
}
