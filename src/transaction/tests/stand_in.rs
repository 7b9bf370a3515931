use std::os::unix::fs::MetadataExt;

use super::*;
use crate::history::Side;
use crate::stand_in::server::Listeners;
use crate::stand_in::{Errand, Route};
use crate::transaction::swap::beside;

const TWO: [&str; 2] = [
    DIGEST,
    "sha256:eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee",
];
const IMAGE: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const HOSTS: &str = "127.0.0.1 localhost\n";

/// One that Docker is led to by a mirror, and one by names.
fn references() -> [Reference; 2] {
    let named = [("a", TWO[0]), ("quay.io/a", TWO[1])];
    named.map(|(name, digest)| Reference::parse(&format!("{name}@{digest}")).unwrap())
}

fn aim() -> Request {
    Request {
        claims: references()
            .map(|reference| format!("{reference}={IMAGE}").parse().unwrap())
            .into(),
        ..Request::default()
    }
}

/// Docker led there by all that there is.
fn stand_in() -> StandIn {
    let image: crate::digest::ImageId = IMAGE.parse().unwrap();
    let references = references().map(|reference| (reference, image.clone()));
    let mut errand = Errand::default();
    errand.references = references.into();
    let route = Route {
        mirror: true,
        names: vec!["quay.io".to_owned()],
        ..Route::default()
    };
    let listeners = Listeners::bind(&route).unwrap();
    StandIn::new(errand, route, listeners)
}

fn world() -> World {
    let world = World::new();
    fs::create_dir_all(world.root.path().join("etc")).unwrap();
    fs::write(world.hosts(), HOSTS).unwrap();
    world
}

fn online(world: &World) -> (Outcome, Steps) {
    let request = aim();
    transact_by(world, &Aim::Claims(&request), "x", Some(stand_in()))
}

fn hosts(world: &World) -> String {
    fs::read_to_string(world.hosts()).unwrap()
}

fn recorded(world: &World) -> usize {
    let has = world.has.borrow();
    let references = references();
    let there = references
        .iter()
        .filter(|one| has.contains_key(&one.familiar()));
    there.count()
}

#[track_caller]
fn is_as_found(world: &World) {
    assert_eq!(hosts(world), HOSTS);
    assert_eq!(world.config(), None);
    assert!(world.mirrors.borrow().is_empty());
    assert!(world.runs.get());
    is_clean(world);
    let etc = fs::read_dir(world.root.path().join("etc")).unwrap();
    assert_eq!(etc.count(), 1, "nothing but hosts");
}

#[test]
fn docker_records_it_and_goes_on_running() {
    let world = world();
    let (outcome, steps) = online(&world);
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!(recorded(&world), 2);
    assert_eq!(
        *world.calls.borrow(),
        ["guard", "hang up", "pull", "pull", "hang up"],
        "nothing is stopped or started"
    );
    assert_eq!(
        steps.0,
        [
            Step::Serve,
            Step::Lead,
            Step::Pull,
            Step::TakeBack,
            Step::TakeBack,
            Step::Verify
        ]
    );
    is_as_found(&world);
}

/// Docker writes the file, so nothing is written beside it.
#[test]
fn no_new_file_is_written() {
    let world = world();
    let images = world.images();
    let request = aim();
    let aim = Aim::Claims(&request);
    let before = images.look().unwrap();
    let plan = aim
        .plan(&before.store, &images.image_ids().unwrap())
        .unwrap();
    block_on(async {
        let lock = RootLock::acquire_now(images.data_root()).unwrap();
        let (interrupt, mut steps) = (Interrupt::listen().unwrap(), Steps::default());
        let run = Transaction::<World, World, Steps>::new(
            &images, lock, &aim, None, &interrupt, &mut steps, before, plan,
        );
        let mut run = run.online(stand_in());
        assert!(matches!(run.rendered().written, Ok(None)));
    });
}

#[test]
fn a_failure_at_any_step_is_undone() {
    let fails = |call: &'static str, times: u32| {
        let world = world();
        world.fails.set(Some((call, times)));
        world.fails_for_good.set(call == "pull");
        let (outcome, _) = online(&world);
        assert!(
            matches!(
                outcome,
                Outcome::Undone {
                    restarted: false,
                    ..
                }
            ),
            "{call} {times}: {outcome:?}"
        );
        assert_eq!(recorded(&world), 0, "{call} {times}");
        assert_eq!(world.store(), STORE);
        is_as_found(&world);
    };
    fails("guard", 0);
    fails("hang up", 0);
    fails("pull", 0);
    fails("pull", 1);
}

#[test]
fn hosts_may_be_read_late() {
    let world = world();
    world.fails.set(Some(("pull", 1)));
    let (outcome, _) = online(&world);
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!(recorded(&world), 2);
}

const ELSEWHERE: &str = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

#[test]
fn what_docker_records_otherwise_is_undone() {
    for (named, left) in [(true, 0), (false, 1)] {
        let world = world();
        if named {
            let other = Reference::parse("b:1").unwrap();
            let mut store = world.images().read().unwrap();
            store.insert(&other, &ELSEWHERE.parse().unwrap()).unwrap();
            fs::write(world.images().store_path(), store.to_bytes()).unwrap();
            world.read_store();
        }
        *world.records.borrow_mut() = Some(ELSEWHERE.to_owned());
        let (outcome, steps) = online(&world);
        assert!(
            matches!(
                &outcome,
                Outcome::Undone {
                    failure: Failure::FileDiffers(_),
                    ..
                }
            ),
            "{outcome:?}"
        );
        // That image may be somebody's, and is not to go with its last reference.
        assert_eq!(recorded(&world), left);
        let Outcome::Undone { stay, .. } = outcome else {
            unreachable!()
        };
        assert_eq!(stay.len(), left);
        for reference in references() {
            let name = reference.familiar();
            let told = steps.1.iter().chain(&stay);
            let mut told = told.filter(|text| text.contains(ELSEWHERE));
            assert!(told.any(|text| text.contains(&name)), "{:?}", steps.1);
        }
        is_as_found(&world);
    }
}

/// dockerd goes on with what it was asked for, whoever listens.
#[test]
fn no_pull_is_left_alone() {
    let world = world();
    world.fails.set(Some(("pull", 1)));
    world.fails_for_good.set(true);
    *world.pulls_late.borrow_mut() = Some(references()[0].familiar());
    let (outcome, _) = online(&world);
    assert!(matches!(outcome, Outcome::Undone { .. }), "{outcome:?}");
    assert!(world.calls.borrow().contains(&"pulled late".to_owned()));
    assert_eq!(recorded(&world), 0);
    is_as_found(&world);
}

#[test]
fn an_edit_of_hosts_meanwhile_stays() {
    let world = world();
    *world.hosts_edit.borrow_mut() = Some("10.0.0.1 new\n".to_owned());
    let (outcome, steps) = online(&world);
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    assert_eq!(hosts(&world), format!("{HOSTS}10.0.0.1 new\n"));
    assert_eq!(steps.1.len(), 1, "{:?}", steps.1);
    is_clean(&world);
}

#[test]
fn an_edit_of_daemon_json_meanwhile_stays_without_the_mirror() {
    let world = world();
    world.write_config("{}");
    let set = r#"{"registry-mirrors": ["MIRROR"], "debug": true}"#;
    let stand_in = stand_in();
    *world.on_reload.borrow_mut() = vec![OnReload::IsFollowedByAnEdit];
    *world.edit.borrow_mut() = set.replace("MIRROR", &stand_in.mirror_address().unwrap());
    let request = aim();
    let (outcome, steps) = transact_by(&world, &Aim::Claims(&request), "x", Some(stand_in));
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    let config = world.config().unwrap();
    assert_eq!(config, r#"{"registry-mirrors": [], "debug": true}"#);
    assert!(world.mirrors.borrow().is_empty());
    assert_eq!(steps.1.len(), 1, "{:?}", steps.1);
    let kept = fs::read_to_string(beside(&world.config_file(), "x.found")).unwrap();
    assert_eq!(kept, "{}");
}

#[test]
fn however_daemon_json_is_written_the_very_file_comes_back() {
    for text in [
        "{\n  \"registry-mirrors\": [ \"https://m\" ]\n}\n",
        r#"{"registry-mirrors": ["https://m","https://n"]}"#,
        r#"{"registry-mirrors": []}"#,
        r#"{"registry-mirrors":null,"debug":true}"#,
        r#"{"registry\u002dmirrors":["https://m"  ,"https:\/\/n"]}"#,
        "{}",
    ] {
        let world = world();
        world.write_config(text);
        world.reads_config();
        let mirrors = world.mirrors.borrow().clone();
        let inode = || fs::metadata(world.config_file()).unwrap().ino();
        let before = inode();
        let (outcome, steps) = online(&world);
        assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
        assert_eq!(world.config().as_deref(), Some(text));
        assert_eq!(inode(), before, "{text}");
        assert_eq!(steps.1, Vec::<String>::new(), "{text}");
        assert_eq!(*world.mirrors.borrow(), mirrors, "{text}");
        let etc = fs::read_dir(world.root.path().join("etc")).unwrap();
        assert_eq!(etc.count(), 2, "{text}");
        is_clean(&world);
    }
}

#[test]
fn a_mirror_that_is_named_already_is_nobody_elses_to_take_out() {
    let world = world();
    let stand_in = stand_in();
    let address = stand_in.mirror_address().unwrap();
    let text = format!(r#"{{"registry-mirrors": ["{address}"]}}"#);
    world.write_config(&text);
    let request = aim();
    let (outcome, _) = transact_by(&world, &Aim::Claims(&request), "x", Some(stand_in));
    assert!(matches!(outcome, Outcome::Undone { .. }), "{outcome:?}");
    assert_eq!(world.config(), Some(text));
    assert_eq!(recorded(&world), 0);
}

/// An edit of a copy of our file, which no engine heeds: Docker has ended.
#[test]
fn an_edit_with_the_mirror_loses_it_before_docker_starts() {
    for boot in ["", "another"] {
        let world = left(0, boot);
        let config = world.config().unwrap();
        world.write_config(&config.replace("true", "false"));
        world.runs.set(false);
        world.mirrors.borrow_mut().clear();
        let recovered = recover(&world).unwrap();
        assert_eq!(recovered, Vec::<String>::new());
        let expected = r#"{"registry-mirrors": [], "debug": false}"#;
        assert_eq!(world.config().as_deref(), Some(expected), "{boot}");
        assert!(world.mirrors.borrow().is_empty());
        assert_eq!(hosts(&world), HOSTS);
    }
}

/// Other programs go by it, whatever Docker does.
#[test]
fn hosts_come_back_where_docker_does_not() {
    let world = left(1, "");
    world.runs.set(false);
    world.fails.set(Some(("start", 0)));
    world.fails_for_good.set(true);
    assert!(recover(&world).is_err());
    assert_eq!(hosts(&world), HOSTS);
    assert_eq!(world.config().as_deref(), Some(r#"{"debug": true}"#));

    let world = left(1, "another");
    world.runs.set(false);
    fs::write(world.images().store_path(), "torn").unwrap();
    let images = world.images();
    let lock = RootLock::acquire_now(images.data_root()).unwrap();
    let journal = Journal::read(images.data_root()).unwrap().unwrap();
    let mut steps = Steps::default();
    let done = recovery::recover_files(&journal, &images, &lock, &world.hosts(), &mut steps);
    assert!(done.is_err(), "there is no copy");
    assert_eq!(hosts(&world), HOSTS);
    assert_eq!(world.config().as_deref(), Some(r#"{"debug": true}"#));
}

/// The next dockerd reads what was found, even where this one cannot be told.
#[test]
fn daemon_json_comes_back_where_no_other_can_be_written() {
    let world = world();
    world.write_config(r#"{"debug": true}"#);
    world.fills_up.set(true);
    let (outcome, _) = online(&world);
    let Outcome::Broken { left, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert!(left[0].contains("may have the mirror http://127.0.0.1:"));
    assert_eq!(world.config().as_deref(), Some(r#"{"debug": true}"#));
    assert_eq!(hosts(&world), HOSTS);
    assert_eq!(recorded(&world), 0);
}

/// A Docker that ends among the pulls starts on the files that were found.
#[test]
fn docker_that_dies_starts_without_what_led_it_here() {
    let world = world();
    world.write_config(r#"{"debug": true}"#);
    world.dies_after_pull.set(true);
    let (outcome, _) = online(&world);
    assert!(
        matches!(
            outcome,
            Outcome::Undone {
                restarted: true,
                ..
            }
        ),
        "{outcome:?}"
    );
    assert!(world.runs.get());
    assert_eq!(*world.read_at_start.borrow(), r#"{"debug": true}"#);
    assert_eq!(recorded(&world), 0);
    assert_eq!(hosts(&world), HOSTS);
    assert_eq!(world.config().as_deref(), Some(r#"{"debug": true}"#));
    is_clean(&world);
}

/// An online run makes no backup, and counts as a newer change all the same.
#[test]
fn what_is_too_old_goes_after_an_online_run_too() {
    let world = world();
    let aside = |second: u32| {
        let id = format!("20261124T11300{second}Z-7");
        beside(&world.images().store_path(), &id)
    };
    for second in 1..4 {
        fs::write(aside(second), STORE).unwrap();
    }
    let (outcome, _) = online(&world);
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
    let is_there = |second| aside(second).exists();
    assert_eq!([1, 2, 3].map(is_there), [false, true, true]);
}

/// The world as a killed run leaves it, with this many references recorded.
fn left(count: usize, boot: &str) -> World {
    let world = world();
    world.write_config(r#"{"debug": true}"#);
    let (images, host) = (world.images(), host(&world));
    let disturbance = Disturbance::of_units("docker.service", true, Vec::new(), Vec::new());
    let daemon = Daemon {
        manager: &world,
        engine: &world,
        host: &host,
        disturbance: &disturbance,
        runtime_units: &world.root.path().join("units"),
        unfinished: &world.unfinished(),
        hosts: &world.hosts(),
    };
    let request = aim();
    let before = images.look().unwrap();
    let aim = Aim::Claims(&request);
    let plan = aim
        .plan(&before.store, &images.image_ids().unwrap())
        .unwrap();
    block_on(async {
        let lock = RootLock::acquire_now(images.data_root()).unwrap();
        let interrupt = Interrupt::listen().unwrap();
        let mut steps = Steps::default();
        let mut run = Transaction::new(
            &images,
            lock,
            &aim,
            Some(daemon),
            &interrupt,
            &mut steps,
            before,
            plan,
        )
        .online(stand_in());
        run.announce().await.unwrap();
        run.lead().await.unwrap();
        for reference in &references()[..count] {
            world.pull(reference).await.unwrap();
        }
        if !boot.is_empty() {
            let mut journal = run.journal.take().unwrap();
            boot.clone_into(&mut journal.boot);
            journal.write(&run.lock).unwrap();
        }
        drop(run);
    });
    // The guard is what recovers.
    world.guards.borrow_mut().clear();
    world
}

/// The history says which references there are.
#[track_caller]
fn is_on_record(world: &World, whole: usize) {
    let (records, broken) = crate::history::scan(world.root.path(), Some);
    assert!(broken.is_empty());
    let references = if whole == 0 { Side::Old } else { Side::New };
    let results: Vec<_> = records.into_iter().map(|record| record.result).collect();
    assert_eq!(results, [Some(End::Recovered { references })]);
}

#[test]
fn a_run_that_was_killed_leaves_the_old_or_the_new() {
    for (count, whole) in [(0, 0), (1, 0), (2, 2)] {
        for boot in ["", "another"] {
            let world = left(count, boot);
            assert_eq!(recover(&world).unwrap(), Vec::<String>::new());
            assert_eq!(recorded(&world), whole, "{count} {boot}");
            is_on_record(&world, whole);
            assert_eq!(hosts(&world), HOSTS);
            assert_eq!(world.config().as_deref(), Some(r#"{"debug": true}"#));
            assert!(world.mirrors.borrow().is_empty());
            assert!(!world.calls.borrow().contains(&"start".to_owned()));
            is_clean(&world);
        }
    }
}

#[test]
fn before_docker_starts_files_say_the_old_or_the_new() {
    for (count, whole) in [(0, 0), (1, 0), (2, 2)] {
        let world = left(count, "another");
        world.runs.set(false);
        let images = world.images();
        let lock = RootLock::acquire_now(images.data_root()).unwrap();
        let journal = Journal::read(images.data_root()).unwrap().unwrap();
        let done = recovery::recover_files(
            &journal,
            &images,
            &lock,
            &world.hosts(),
            &mut Steps::default(),
        );
        assert!(done.unwrap());
        world.read_store();
        assert_eq!(recorded(&world), whole, "{count}");
        is_on_record(&world, whole);
        assert_eq!(hosts(&world), HOSTS);
        assert_eq!(world.config().as_deref(), Some(r#"{"debug": true}"#));
        assert!(Journal::read(images.data_root()).unwrap().is_none());
        let left = fs::read_dir(images.path()).unwrap();
        assert_eq!(left.count(), 2, "the store and imagedb");
    }
}

/// One is there as planned, and one leads elsewhere.
#[test]
fn what_leads_elsewhere_does_not_stay_behind() {
    for boot in ["", "before Docker"] {
        let world = left(1, "another");
        let mut store = world.images().read().unwrap();
        for name in [&references()[1], &Reference::parse("b:1").unwrap()] {
            store.insert(name, &ELSEWHERE.parse().unwrap()).unwrap();
        }
        fs::write(world.images().store_path(), store.to_bytes()).unwrap();
        if boot.is_empty() {
            world.read_store();
        } else {
            world.runs.set(false);
        }
        assert_eq!(recover(&world).unwrap(), Vec::<String>::new());
        world.read_store();
        assert_eq!(recorded(&world), 0, "{boot}");
        assert!(world.has.borrow().contains_key("b:1"));
        is_clean(&world);
    }
}

#[test]
fn an_image_is_never_dropped_with_its_last_reference() {
    let world = left(1, "");
    // Somebody has dropped the tag since.
    let mut store = world.images().read().unwrap();
    store.remove(&Reference::parse("a:1").unwrap());
    fs::write(world.images().store_path(), store.to_bytes()).unwrap();
    world.read_store();
    let problems = recover(&world).unwrap();
    assert!(problems[0].contains(" stays"), "{problems:?}");
    assert_eq!(problems.len(), 1);
    assert_eq!(recorded(&world), 1);
    is_clean(&world);
}

/// Docker goes on running, so what was seen before the first is dropped says
/// nothing of the next.
#[test]
fn what_others_drop_meanwhile_is_seen() {
    let world = world();
    world.fails.set(Some(("hang up", 1)));
    *world.drops_too.borrow_mut() = Some("a:1".to_owned());
    let (outcome, _) = online(&world);
    assert_eq!(recorded(&world), 1);
    let Outcome::Undone { stay, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert!(stay[0].contains(" stays"), "{stay:?}");
}
