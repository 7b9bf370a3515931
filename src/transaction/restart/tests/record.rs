//! What each outcome of a transaction writes to the history, and how a rollback uses the
//! history.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::claims::trust::Trust;
use crate::plan::{Plan, Reversal};
use crate::state::history::{self, Changed, Claimed, End, Kind, Record, Side};
use crate::state::provenance::Provenance;
use crate::state::rollback::reversal;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn records(world: &World) -> Vec<Record> {
    let (records, broken) = history::scan(world.root.path(), Some);
    assert!(broken.is_empty(), "{broken:?}");
    records
}

#[track_caller]
fn only(world: &World) -> Record {
    let [record] = records(world).try_into().unwrap();
    record
}

fn locked<T>(world: &World, act: impl FnOnce(&RootLock) -> T) -> T {
    let lock = block_on(RootLock::acquire(world.root.path(), Duration::ZERO)).unwrap();
    act(&lock)
}

/// Applies these claims.
fn apply(world: &World, claims: &[&str], id: &str) -> (Outcome, Steps) {
    let request = Request {
        claims: claims.iter().map(|claim| claim.parse().unwrap()).collect(),
        replace: true,
        ..Request::default()
    };
    transact_for(world, &Goal::Claims(&request), id)
}

fn to_take_back(world: &World, id: Option<&str>) -> Reversal {
    reversal(&records(world), id, "overlay2").unwrap()
}

/// Two images. The digest belongs to the second image.
fn two_images() -> World {
    let world = World::new();
    world.has_image('b');
    world.write_store(&format!(
        r#"{{"Repositories":{{"a":{{"a:1":"{A}"}},"b":{{"b:1":"{B}","b@{DIGEST}":"{B}"}}}}}}"#
    ));
    world.engine.reads_store();
    world
}

#[test]
fn what_is_done_is_on_record() {
    let world = World::new();
    transact(&world);
    let record = only(&world);
    assert_eq!(record.number, 1);
    assert_eq!(record.kind, Kind::Apply);
    assert_eq!(record.driver, "overlay2");
    assert_eq!(record.before, hash(STORE.as_bytes()));
    assert_eq!(record.after, hash(world.store().as_bytes()));
    let reference: Reference = format!("a@{DIGEST}").parse().unwrap();
    assert_eq!(
        record.claims,
        [Claimed {
            claim: format!("a:1@{DIGEST}"),
            reference: reference.clone(),
            image_id: A.parse().unwrap(),
            trust: Trust::Asserted,
            origin: "typed".to_owned(),
        }]
    );
    assert_eq!(
        record.changes,
        [Changed {
            reference,
            from: None,
            to: Some(A.parse().unwrap()),
        }]
    );
    assert_eq!(record.result, Some(End::Done));
    assert!(record.ended.unwrap() >= record.began);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(history::directory(world.root.path())), 0o700);
    assert_eq!(mode(history::path(world.root.path(), &record.id)), 0o600);
}

#[test]
fn what_holds_already_is_no_claim_of_the_record() {
    let world = two_images();
    apply(
        &world,
        &[&format!("a@{DIGEST}=b:1"), &format!("b:1@{DIGEST}")],
        "one",
    );
    let record = only(&world);
    let claims: Vec<&str> = record.claims.iter().map(|one| one.claim.as_str()).collect();
    assert_eq!(claims, [format!("a@{DIGEST}=b:1")]);
}

#[test]
fn what_is_undone_is_on_record() {
    for call in ["reload", "stop", "start"] {
        let world = World::new();
        world.systemd.fails.set(Some((call, 0)));
        let (outcome, _) = transact(&world);
        is_undone(&world, &outcome);
        let record = only(&world);
        let Ended::Undone { failure, .. } = outcome.ended else {
            panic!("{outcome:?}");
        };
        let why = failure.to_string();
        assert_eq!(record.result, Some(End::Undone { why }), "{call}");
        assert!(record.ended.is_some() && !record.took_effect());
    }
}

#[test]
fn what_is_broken_is_on_record() {
    let world = World::new();
    world.engine.lies.set(true);
    world.systemd.fails.set(Some(("stop", 1)));
    transact(&world);
    let Some(End::Broken { why }) = only(&world).result else {
        panic!("{:?}", only(&world));
    };
    assert!(
        why.contains("does not match the plan") && why.contains("the undo failed"),
        "{why}"
    );
}

/// A recovery does not rewrite the outcome of a transaction that has ended.
#[test]
fn what_is_incomplete_stays_so_on_record() {
    let world = world_with(Some("{}"));
    *world.engine.on_reload.borrow_mut() = vec![OnReload::Refuses, OnReload::Takes];
    transact(&world);
    let record = only(&world);
    assert!(matches!(record.result, Some(End::Incomplete { .. })));
    assert!(record.took_effect());
    recover(&world).unwrap();
    assert_eq!(only(&world), record);
}

/// After a recovery, the record of the killed run says which references are in use.
#[test]
fn a_recovery_ends_the_record() {
    let new = format!(r#"{{"Repositories":{{"a":{{"a:1":"{A}","a@{DIGEST}":"{A}"}}}}}}"#);
    let other = format!(r#"{{"Repositories":{{"a":{{"a:2":"{A}"}}}}}}"#);
    for (found, expected) in [
        (STORE, Side::Old),
        (new.as_str(), Side::New),
        (other.as_str(), Side::Other),
    ] {
        let world = World::new();
        let request = Request {
            claims: vec![format!("a:1@{DIGEST}").parse().unwrap()],
            ..Request::default()
        };
        let before = world.images().read().unwrap();
        let ids = world.images().image_ids().unwrap();
        let plan = Plan::new(&before, &ids, &request).unwrap();
        let references = journal::References {
            driver: "overlay2".to_owned(),
            before: hash(before.as_read()),
            after: hash(new.as_bytes()),
        };
        locked(&world, |lock| {
            Record::begin(lock, "x", Kind::Apply, &references, &plan, How::default()).unwrap();
        });
        assert_eq!(only(&world).result, None);
        let restart = Intent::Restart(journal::Restart::new("docker.service"));
        write_journal(&world, &Journal::new("x", references, restart));
        world.write_store(found);
        assert_eq!(recover(&world).unwrap(), [""; 0]);
        let record = only(&world);
        let references = expected;
        assert_eq!(record.result, Some(End::Recovered { references }));
        assert!(record.ended.is_some());
        assert_eq!(record.took_effect(), expected == Side::New);
    }
}

#[test]
fn what_cannot_be_noted_is_not_begun() {
    let blockers: [fn(&Path); 3] = [
        |path| fs::write(path, "").unwrap(),
        |path| std::os::unix::fs::symlink("/tmp", path).unwrap(),
        |path| {
            fs::create_dir(path).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        },
    ];
    for blocker in blockers {
        let world = World::new();
        locked(&world, |_| blocker(&history::directory(world.root.path())));
        let (outcome, steps) = transact(&world);
        is_undone(&world, &outcome);
        assert!(
            matches!(
                outcome.ended,
                Ended::Undone {
                    failure: Failure::History(_),
                    ..
                }
            ),
            "{outcome:?}"
        );
        assert_eq!(steps, []);
        assert_eq!(*world.systemd.calls.borrow(), ["watchdog"]);
    }
}

#[test]
fn a_name_that_is_taken_is_not_written_over() {
    let world = World::new();
    apply(&world, &[&format!("a:1@{DIGEST}")], "one");
    let record = only(&world);
    let (outcome, _) = apply(&world, &["c:1=a:1"], "one");
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
    assert_eq!(only(&world), record);
}

#[test]
fn an_end_that_cannot_be_noted_is_a_warning() {
    let world = World::new();
    let history = history::directory(world.root.path());
    let lose = move || fs::remove_dir_all(&history).unwrap();
    world.systemd.at("start", lose);
    let (outcome, told) = apply(&world, &[&format!("a:1@{DIGEST}")], "one");
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let warnings = told.1.join("\n");
    assert!(
        warnings.contains("could not record how this run ended"),
        "{warnings}"
    );
    assert!(records(&world).is_empty());
}

/// Unreadable history records of other transactions do no harm.
#[test]
fn a_broken_record_is_in_nobodys_way() {
    let world = World::new();
    apply(&world, &["c:1=a:1"], "one");
    fs::write(history::path(world.root.path(), "zero"), "{").unwrap();
    let (outcome, _) = apply(&world, &["c:2=a:1"], "two");
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let (records, broken) = history::scan(world.root.path(), Some);
    let order: Vec<(u64, &str)> = records
        .iter()
        .map(|record| (record.number, record.id.as_str()))
        .collect();
    assert_eq!(order, [(1, "one"), (2, "two")]);
    assert_eq!(broken.len(), 1);
}

/// An administrator writes these references while digestfix stops Docker.
fn edit_at_stop(world: &World, store: &str) {
    let (path, store) = (world.images().store_path(), store.to_owned());
    let edit = move || fs::write(&path, &store).unwrap();
    world.systemd.at("stop", edit);
}

#[test]
fn a_second_plan_replaces_the_first_on_record() {
    let world = World::new();
    let meanwhile = format!(r#"{{"Repositories":{{"a":{{"a:1":"{A}","a:2":"{A}"}}}}}}"#);
    edit_at_stop(&world, &meanwhile);
    let (outcome, steps) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    assert!(steps.contains(&Step::Reread));
    let record = only(&world);
    assert_eq!(record.before, hash(meanwhile.as_bytes()));
    assert_eq!(record.after, hash(world.store().as_bytes()));
}

#[test]
fn a_transaction_is_taken_back() {
    let world = two_images();
    let found = world.store();
    apply(&world, &[&format!("a@{DIGEST}=b:1")], "one");
    apply(&world, &["b:1=a:1", "c:1=a:1"], "two");
    assert_eq!(world.engine.has.borrow()["b:1"], A);

    let goal = Goal::TakeBack(to_take_back(&world, None));
    let (outcome, _) = transact_for(&world, &goal, "three");
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    assert_eq!(world.engine.has.borrow()["b:1"], B, "points where it did");
    assert!(!world.engine.has.borrow().contains_key("c:1"), "is gone");
    assert!(world.engine_has_the_digest());

    let goal = Goal::TakeBack(to_take_back(&world, None));
    transact_for(&world, &goal, "four");
    assert_eq!(world.store(), found);
    let kinds: Vec<Kind> = records(&world).into_iter().map(|one| one.kind).collect();
    assert_eq!(
        kinds[2..],
        [
            Kind::Rollback("two".to_owned()),
            Kind::Rollback("one".to_owned())
        ]
    );
}

/// A rollback fails if the engine does not find a restored reference, or still finds a
/// dropped reference.
#[test]
fn an_engine_that_does_not_go_back() {
    for claim in ["a:1=b:1", "c:1=a:1"] {
        let world = two_images();
        apply(&world, &[claim], "one");
        let applied = world.store();
        let goal = Goal::TakeBack(to_take_back(&world, None));
        world.engine.lies.set(true);
        let (outcome, _) = transact_for(&world, &goal, "two");
        assert!(
            matches!(
                outcome.ended,
                Ended::Undone {
                    failure: Failure::EngineDisagrees(_),
                    ..
                }
            ),
            "{outcome:?}"
        );
        assert_eq!(world.store(), applied);
        assert!(!records(&world)[1].took_effect());
    }
}

/// After Docker has stopped, digestfix plans the rollback again. digestfix refuses the
/// rollback if another program has changed the same references meanwhile.
#[test]
fn a_rollback_is_planned_again() {
    let tagged = |extra: &str| {
        format!(r#"{{"Repositories":{{"a":{{"a:1":"{A}",{extra}"a@{DIGEST}":"{A}"}}}}}}"#)
    };
    for (meanwhile, fits) in [
        (tagged(r#""a:2":"sha256:x","#), true),
        (
            tagged("").replace(&format!("@{DIGEST}\":\"{A}"), &format!("@{DIGEST}\":\"{B}")),
            false,
        ),
    ] {
        let world = World::new();
        apply(&world, &[&format!("a:1@{DIGEST}")], "one");
        let goal = Goal::TakeBack(to_take_back(&world, None));
        edit_at_stop(&world, &meanwhile);
        let (outcome, _) = transact_for(&world, &goal, "two");
        if fits {
            assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
            let expected = meanwhile.replace(&format!(",\"a@{DIGEST}\":\"{A}\""), "");
            assert_eq!(world.store(), expected);
        } else {
            assert!(
                matches!(
                    outcome.ended,
                    Ended::Undone {
                        failure: Failure::NoLongerFits(_),
                        ..
                    }
                ),
                "{outcome:?}"
            );
            assert_eq!(world.store(), meanwhile);
        }
    }
}

#[test]
fn the_trust_of_what_is_restored_is_restored_with_it() {
    let world = two_images();
    let digest = format!("a@{DIGEST}=a:1");
    world.write_store(&format!(
        r#"{{"Repositories":{{"a":{{"a:1":"{A}"}},"b":{{"b:1":"{B}"}}}}}}"#
    ));
    world.engine.reads_store();
    let reference: Reference = format!("a@{DIGEST}").parse().unwrap();
    apply(&world, &[&digest], "one");
    apply(&world, &[&format!("a@{DIGEST}=b:1")], "two");
    let goal = Goal::TakeBack(to_take_back(&world, None));
    transact_for(&world, &goal, "three");
    let provenance = Provenance::read(&world.images()).unwrap();
    let written = provenance.of(&reference, &A.parse().unwrap()).unwrap();
    assert_eq!(written.origin, "typed");
}

#[test]
fn old_backups_go_once_there_is_a_newer_one() {
    let world = World::new();
    let backups = || {
        let children = fs::read_dir(world.images().path()).unwrap();
        let names = children.map(|child| child.unwrap().file_name().into_string().unwrap());
        let mut ids: Vec<String> = names
            .filter_map(|name| name.split_once(".digestfix-").map(|(_, id)| id.to_owned()))
            .collect();
        ids.sort();
        ids
    };
    let ids: Vec<String> = (1..5)
        .map(|number| format!("20261124T11300{number}Z-7"))
        .collect();
    for (at, id) in ids.iter().enumerate() {
        let claim = format!("c:{at}=a:1");
        if at == 3 {
            world.systemd.fails.set(Some(("start", 0)));
            let (outcome, _) = apply(&world, &[&claim], &format!("{id}7"));
            assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
            assert_eq!(backups(), ids[1..3], "a failed run removes no backup");
        }
        let (outcome, told) = apply(&world, &[&claim], id);
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        assert_eq!(told.1, [""; 0]);
    }
    assert_eq!(backups(), ids[2..]);
    assert_eq!(records(&world).len(), 5, "the records stay");
}

/// Undo fails, and a later recovery succeeds.
#[test]
fn what_was_broken_and_is_whole_again_says_so() {
    let world = World::new();
    world.systemd.fails.set(Some(("start", 0)));
    world.systemd.fails_for_good.set(true);
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Broken { .. }), "{outcome:?}");
    assert!(matches!(only(&world).result, Some(End::Broken { .. })));
    world.systemd.fails.set(None);
    assert_eq!(recover(&world).unwrap(), [""; 0]);
    let references = Side::Old;
    assert_eq!(only(&world).result, Some(End::Recovered { references }));
}
