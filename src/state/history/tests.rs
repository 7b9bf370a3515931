#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::claims::trust::Trust;
use crate::plan::Plan;
use crate::state::journal::{References, hash};
use crate::testing::scratch;

const IMAGE: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const ID: &str = "20261124T113000Z-7";

pub(crate) fn record(id: &str, number: u64) -> Record {
    Record {
        digestfix_history: VERSION,
        id: id.to_owned(),
        number,
        began: "2026-11-24T11:30:00Z".to_owned(),
        ended: Some("2026-11-24T11:30:02Z".to_owned()),
        by: "root".to_owned(),
        kind: Kind::Apply,
        driver: "overlay2".to_owned(),
        before: hash(b"before"),
        after: hash(b"after"),
        claims: vec![Claimed {
            claim: "a:1=b:1".to_owned(),
            reference: "a:1".parse().unwrap(),
            image_id: IMAGE.parse().unwrap(),
            trust: Trust::Matched,
            origin: "somewhere".to_owned(),
        }],
        entries: Vec::new(),
        changes: vec![Changed {
            reference: "a:1".parse().unwrap(),
            from: Some("what".to_owned()),
            to: Some(IMAGE.parse().unwrap()),
        }],
        result: Some(End::Done),
        method: None,
        manifests: BTreeMap::new(),
        containerd_root: None,
        daemon_json: None,
    }
}

fn root() -> (TempDir, RootLock) {
    let root = scratch();
    let lock = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(RootLock::acquire(root.path(), Duration::ZERO))
        .unwrap();
    prepare(&lock).unwrap();
    (root, lock)
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let (root, lock) = root();
    let why = || "it was \"so\"\n".to_owned();
    let references = Side::Other;
    let ends = [
        None,
        Some(End::Done),
        Some(End::Undone { why: why() }),
        Some(End::Incomplete { why: why() }),
        Some(End::Broken { why: why() }),
        Some(End::Recovered { references }),
    ];
    for (number, result) in (0..).zip(ends) {
        let kind = Kind::Rollback("x-1".to_owned());
        let written = Record {
            kind,
            result,
            ..record(ID, number)
        };
        written.write(&lock).unwrap();
        assert_eq!(read(root.path(), ID).unwrap(), Some(written));
    }
    assert_eq!(read(root.path(), "another").unwrap(), None);
}

/// The fixture has every field that a record can have.
#[test]
fn a_record_of_this_version_loads() {
    let digest = hash(b"manifest");
    let written = Record {
        kind: Kind::Rollback("20261124T112900Z-6".to_owned()),
        result: Some(End::Recovered {
            references: Side::New,
        }),
        ended: Some("2026-11-24T11:30:01Z".to_owned()),
        method: Some(Method::Load),
        manifests: [(digest, "manifest".to_owned())].into(),
        containerd_root: Some("/srv/containerd".into()),
        daemon_json: Some(hash(b"daemon.json")),
        ..record(ID, 1)
    };
    let fixture = include_str!("../../../tests/formats/record.json");
    assert_eq!(Record::parse(fixture.as_bytes(), ID).unwrap(), written);
    let bytes = serde_json::to_vec_pretty(&written).unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), fixture.trim_end());
}

#[test]
fn what_is_no_record_is_refused() {
    let text = serde_json::to_string(&record(ID, 1)).unwrap();
    assert!(Record::parse(text.as_bytes(), ID).is_ok());
    for (from, to) in [
        ("\"digestfix_history\":1", "\"digestfix_history\":2"),
        ("\"digestfix_history\":1,", ""),
        (ID, "20261124T113000Z-8"),
        ("\"by\"", "\"more\":1,\"by\""),
        ("\"trust\"", "\"more\":1,\"trust\""),
        ("\"from\"", "\"more\":1,\"from\""),
        ("\"kind\":\"apply\"", "\"kind\":{\"rollback\":\"../../x\"}"),
        ("\"kind\":\"apply\"", "\"kind\":\"recover\""),
        ("\"driver\":\"overlay2\"", "\"driver\":\"..\""),
        ("\"driver\":\"overlay2\"", "\"driver\":\"../../etc\""),
        ("\"driver\":\"overlay2\"", "\"driver\":\"\""),
        ("2026-11-24T11:30:00Z", "yesterday"),
        ("2026-11-24T11:30:02Z", "2026-11-24T11:30:02Z\\n"),
        ("\"number\":1", "\"number\":-1"),
        ("\"number\":1", "\"number\":18446744073709551616"),
        ("\"reference\":\"a:1\"", "\"reference\":\"a\""),
        ("\"reference\":\"a:1\"", "\"reference\":\"A B\""),
        ("\"matched\"", "\"certain\""),
        ("\"result\":\"done\"", "\"result\":\"fine\""),
        ("\"result\":\"done\"", "\"result\":{\"undone\":{}}"),
        (
            "\"result\":\"done\"",
            "\"result\":{\"undone\":{\"why\":\"x\",\"more\":1}}",
        ),
        (
            "\"result\":\"done\"",
            "\"result\":{\"recovered\":{\"references\":\"both\"}}",
        ),
        ("sha256:", "sha256:x"),
        ("{", "["),
    ] {
        let broken = text.replacen(from, to, 1);
        assert_ne!(broken, text);
        assert!(Record::parse(broken.as_bytes(), ID).is_err(), "{broken}");
    }
    for end in 0..text.len() {
        assert!(Record::parse(&text.as_bytes()[..end], ID).is_err(), "{end}");
    }
}

#[test]
fn a_name_of_a_transaction_is_taken() {
    assert!(is_id(&crate::state::id::new_id()));
    let long = "x".repeat(65);
    for name in ["", ".", "..", "a/b", "a.b", "a b", "\u{e4}", "a\n", &long] {
        assert!(!is_id(name), "{name:?}");
    }
}

/// digestfix reports files in the history directory that are not valid records, and still
/// reads the valid records.
#[test]
fn files_that_are_no_records() {
    let (root, lock) = root();
    record("good-1", 2).write(&lock).unwrap();
    record("good-2", 1).write(&lock).unwrap();
    let good = path(root.path(), "good-1");
    symlink(&good, path(root.path(), "link")).unwrap();
    fs::create_dir(path(root.path(), "directory")).unwrap();
    fs::copy(&good, path(root.path(), "other-name")).unwrap();
    fs::copy(&good, path(root.path(), "..")).unwrap();
    fs::copy(&good, path(root.path(), "writable")).unwrap();
    let writable = fs::Permissions::from_mode(0o602);
    fs::set_permissions(path(root.path(), "writable"), writable).unwrap();
    let huge = fs::File::create(path(root.path(), "huge")).unwrap();
    huge.set_len(MAX_BYTES + 1).unwrap();
    // A run that was killed while it wrote a record leaves a file with this ending.
    fs::write(directory(root.path()).join("x.json.new"), "{").unwrap();
    let mut expected = 6;
    if geteuid().is_root() {
        fs::copy(&good, path(root.path(), "owned")).unwrap();
        std::os::unix::fs::chown(path(root.path(), "owned"), Some(12345), None).unwrap();
        expected += 1;
    }

    let (found, broken) = scan(root.path(), |record| Some(record.id));

    assert_eq!(found, ["good-2", "good-1"], "by their numbers");
    assert_eq!(broken.len(), expected, "{broken:?}");
    for name in ["link", "directory", "other-name", "writable", "huge"] {
        let told = broken.iter().map(ToString::to_string);
        assert!(
            told.into_iter()
                .any(|text| text.contains(&format!("/{name}.json: "))),
            "{name}: {broken:?}"
        );
    }
}

#[test]
fn a_directory_that_others_may_write_is_none() {
    let (root, lock) = root();
    record(ID, 1).write(&lock).unwrap();
    let writable = fs::Permissions::from_mode(0o777);
    fs::set_permissions(directory(root.path()), writable).unwrap();
    let (found, broken) = scan(root.path(), Some);
    assert!(found.is_empty());
    assert_eq!(broken.len(), 1);
    assert!(read(root.path(), ID).is_err());
    assert!(prepare(&lock).is_err());
}

#[test]
fn numbers_go_on_where_the_highest_is() {
    let (root, lock) = root();
    let store = crate::store::repositories::Store::parse(b"{}").unwrap();
    let nothing = crate::plan::Request::default();
    let plan = Plan::new(&store, &std::collections::BTreeSet::new(), &nothing).unwrap();
    let references = References {
        driver: "overlay2".to_owned(),
        before: hash(b"{}"),
        after: hash(b"{}"),
    };
    let begin = |id: &str| {
        let record = Record::begin(&lock, id, Kind::Apply, &references, &plan, How::default());
        record.unwrap().number
    };
    // The clock runs ahead at first, and is corrected later.
    assert_eq!(begin("20990101T000000Z-1"), 1);
    assert_eq!(begin("20200101T000000Z-1"), 2);
    assert_eq!(begin("20500101T000000Z-1"), 3);
    record("a", u64::MAX).write(&lock).unwrap();
    assert_eq!(begin("20500101T000000Z-2"), u64::MAX);
    drop(root);
}

#[test]
fn a_reason_of_any_length_is_noted() {
    let (root, lock) = root();
    let mut record = record(ID, 1);
    let why = "\u{e4}".repeat(1_000_000);
    record.end(&lock, End::Undone { why }).unwrap();
    let Some(End::Undone { why }) = read(root.path(), ID).unwrap().unwrap().result else {
        panic!("{record:?}");
    };
    assert_eq!(why.chars().count(), 10_001);
}

/// While this process holds the lock, no other run is active for any storage driver.
#[test]
fn what_was_interrupted_is_ended() {
    let (root, lock) = root();
    for driver in ["overlay2", "vfs"] {
        fs::create_dir_all(root.path().join("image").join(driver)).unwrap();
        let images = ImageDir::new(root.path(), driver);
        fs::write(images.store_path(), "after").unwrap();
    }
    for (id, driver) in [("a", "overlay2"), ("b", "vfs"), ("c", "gone")] {
        let interrupted = Record {
            driver: driver.to_owned(),
            ended: None,
            result: None,
            ..record(id, 1)
        };
        interrupted.write(&lock).unwrap();
    }
    record("d", 2).write(&lock).unwrap();
    let half = directory(root.path()).join("e.json.new");
    fs::write(&half, "{").unwrap();
    assert_eq!(end_interrupted(&lock, None).len(), 0);
    assert!(!half.exists());
    let (results, _) = scan(root.path(), |record| record.result);
    let new = End::Recovered {
        references: Side::New,
    };
    let other = End::Recovered {
        references: Side::Other,
    };
    assert_eq!(results, [new.clone(), new, other, End::Done]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Record::parse(&bytes, ID);
    }

    /// If a byte of a record changes, either reading fails, or the result is a valid
    /// record with the same ID.
    #[test]
    fn what_is_near_a_record(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = serde_json::to_vec(&record(ID, 1)).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(read) = Record::parse(&bytes, ID) {
            prop_assert_eq!(&read.id, ID);
            let again = serde_json::to_vec(&read).unwrap();
            prop_assert_eq!(Record::parse(&again, ID).unwrap(), read);
        }
    }
}

#[test]
fn the_configuration_of_the_last_run_is_known_while_its_docker_runs() {
    let (root, lock) = root();
    let me = || EngineStart::of(Path::new("/proc"), std::process::id(), Path::new("/")).unwrap();
    let known = || known_to_start(root.path(), &me());
    assert_eq!(known(), None);
    prepare(&lock).unwrap();
    let mut one = record(ID, 1);
    one.daemon_json = Some(hash(b"{}"));
    one.write(&lock).unwrap();
    assert_eq!(known(), None, "another Docker ran then");
    one.end(&lock, End::Done).unwrap();
    assert_eq!(known(), Some(hash(b"{}")));
    one.ended = None;
    one.write(&lock).unwrap();
    assert_eq!(known(), None, "it has not ended");
}
