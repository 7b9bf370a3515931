use super::*;
use crate::host::with_live_restore;

const DOWN: &str = "down";

/// Writes the journal of a run that was killed while Docker was stopped.
fn left(world: &World, change: impl FnOnce(&mut Journal)) {
    let references = journal::References {
        driver: "overlay2".to_owned(),
        before: hash(STORE.as_bytes()),
        after: hash(NEW.as_bytes()),
    };
    let mut restart = journal::Restart::new("docker.service");
    restart.phase = Phase::Stopping;
    restart.running = true;
    let mut journal = Journal::new("x", references, Intent::Restart(restart));
    change(&mut journal);
    write_journal(world, &journal);
}

fn of(journal: &mut Journal) -> &mut journal::Restart {
    journal.restart_mut().unwrap()
}

/// The planned store.
const NEW: &str = r#"{"Repositories":{}}"#;

fn kept_down(world: &World) -> KeptDown {
    world.engine.run_container(DOWN);
    let mut containers = world.engine.containers.borrow_mut();
    let Some(container) = containers.last_mut() else {
        panic!("the fake engine has no container");
    };
    "d0".clone_into(&mut container.id);
    container.pid = 0;
    container.status = Status::Down("exited".to_owned());
    container.restart_policy = RestartPolicy::Always;
    let kept = KeptDown::from(&*container);
    container.restart_policy = RestartPolicy::No;
    kept
}

/// Writes daemon.json with live-restore on, and the original file beside it.
fn switched(world: &World, found: &str) -> journal::DaemonJson {
    let [on, off] = [true, false].map(|on| with_live_restore(Some(found.as_bytes()), on).unwrap());
    world.write_config(&String::from_utf8(on.clone()).unwrap());
    fs::write(crate::state::id::beside(&world.config_file(), "x"), found).unwrap();
    journal::DaemonJson {
        config_file: world.config_file(),
        engine: false,
        before: Some(hash(found.as_bytes())),
        found: true,
        directory: true,
        on: hash(&on),
        off: hash(&off),
    }
}

fn of_another_boot(journal: &mut Journal) {
    "another".clone_into(&mut journal.boot);
}

fn beside(world: &World, suffix: &str) -> PathBuf {
    let mut path = crate::state::id::beside(&world.images().store_path(), "x");
    path.as_mut_os_string().push(suffix);
    path
}

fn policy(world: &World) -> RestartPolicy {
    let containers = world.engine.containers.borrow();
    let found = containers.iter().find(|one| one.name == DOWN);
    found.unwrap().restart_policy
}

/// Runs the part of a recovery that restores files before Docker starts.
fn recover_files(world: &World) -> Result<bool, Failure> {
    block_on(async {
        let images = world.images();
        let lock = RootLock::acquire_now(images.data_root()).unwrap();
        let journal = Journal::read(images.data_root()).unwrap().unwrap();
        recovery::recover_files(&journal, &images, &lock, &mut Steps::default())
    })
}

#[test]
fn after_a_boot_nothing_is_started() {
    let world = World::new();
    world.engine.runs.set(false);
    world.engine.run_container("e0");
    world.engine.containers.borrow_mut()[0].status = Status::Down("exited".to_owned());
    left(&world, |journal| {
        of_another_boot(journal);
        of(journal).live_restore = Some(switched(&world, "{}"));
        of(journal).start_again = world
            .engine
            .containers
            .borrow()
            .iter()
            .map(Ran::from)
            .collect();
    });
    assert!(recover(&world).unwrap().is_empty());
    assert!(
        !world.engine.runs.get(),
        "after a reboot, systemd decides whether Docker runs"
    );
    assert_eq!(world.config().as_deref(), Some("{}"));
    is_clean(&world);
}

#[test]
fn after_a_boot_docker_gives_policies_back() {
    let world = World::new();
    let kept = kept_down(&world);
    world.engine.run_container("e0");
    world.engine.containers.borrow_mut()[1].status = Status::Down("exited".to_owned());
    left(&world, |journal| {
        of_another_boot(journal);
        of(journal).kept_down.push(kept);
        of(journal).start_again = vec![Ran::from(&world.engine.containers.borrow()[1])];
        of(journal).live_restore = Some(switched(&world, "{}"));
    });
    world.engine.set_live_restore(true);
    assert!(recover(&world).unwrap().is_empty());
    assert_eq!(policy(&world), RestartPolicy::Always);
    assert_eq!(
        world.statuses()[1],
        (100, Status::Down("exited".to_owned())),
        "a reboot does not start this container"
    );
    assert!(!world.engine.live_restore());
    assert_eq!(world.config().as_deref(), Some("{}"));
    is_clean(&world);
}

#[test]
fn policies_wait_for_a_docker_that_is_down() {
    let world = World::new();
    world.engine.runs.set(false);
    let kept = kept_down(&world);
    left(&world, |journal| {
        of_another_boot(journal);
        of(journal).kept_down.push(kept);
        of(journal).live_restore = Some(switched(&world, "{}"));
    });
    assert!(!recover_files(&world).unwrap());
    assert_eq!(world.config().as_deref(), Some("{}"));
    assert!(matches!(
        recover(&world),
        Err(Failure::WaitsForDocker(names)) if names == DOWN
    ));
    assert!(!world.engine.runs.get());
    world.engine.runs.set(true);
    assert!(recover(&world).unwrap().is_empty());
    assert_eq!(policy(&world), RestartPolicy::Always);
    is_clean(&world);
}

#[test]
fn files_are_all_there_is_without_docker() {
    let world = World::new();
    world.engine.runs.set(false);
    fs::write(beside(&world, ""), NEW).unwrap();
    left(&world, |journal| {
        of_another_boot(journal);
        of(journal).live_restore = Some(switched(&world, "{}"));
    });
    assert!(recover_files(&world).unwrap());
    assert_eq!(world.config().as_deref(), Some("{}"));
    is_clean(&world);
}

/// A file system may lose a file in a power cut, even if the file was synced.
#[test]
fn a_torn_store_is_mended_from_its_copy() {
    for (torn, copy) in [
        (Some(""), STORE),
        (Some("{\"Repos"), STORE),
        (Some("\0\0\0\0"), NEW),
        (None, STORE),
        (None, NEW),
    ] {
        let world = World::new();
        world.engine.runs.set(false);
        let live = world.images().store_path();
        match torn {
            Some(torn) => fs::write(&live, torn).unwrap(),
            None => fs::remove_file(&live).unwrap(),
        }
        fs::write(beside(&world, ""), copy).unwrap();
        left(&world, |_| {});
        assert!(recover(&world).unwrap().is_empty());
        assert_eq!(world.store(), copy);
        assert!(world.engine.runs.get());
        let kept = fs::read_to_string(beside(&world, ".torn")).ok();
        assert_eq!(kept.as_deref(), torn, "recovery keeps the unreadable store");
    }
}

#[test]
fn a_torn_store_without_a_copy_is_told() {
    for copy in [None, Some("{}"), Some("{\"Repositories\":{\"a\":{}}}")] {
        let world = World::new();
        world.engine.runs.set(false);
        world.write_store("{");
        if let Some(copy) = copy {
            fs::write(beside(&world, ""), copy).unwrap();
        }
        left(&world, of_another_boot);
        assert!(matches!(recover(&world), Err(Failure::NoReferences(_))));
        assert_eq!(world.store(), "{", "nothing is made up");
        assert!(Journal::read(world.root.path()).unwrap().is_some());
    }
}

/// If two names cannot be exchanged in one step, the old store may remain under a third
/// name. Undo writes a new store under yet another name.
#[test]
fn what_lies_beside_the_store_is_tidied() {
    // The content of the store in use, the contents of the files under the other names,
    // and the content of the backup that remains.
    for (live, own, old, undo, backup) in [
        (STORE, Some(NEW), None, None, None),
        (STORE, Some(NEW), Some(STORE), None, None),
        (NEW, None, Some(STORE), None, Some(STORE)),
        (NEW, Some(STORE), None, None, Some(STORE)),
        (NEW, Some(STORE), None, Some("{}"), Some(STORE)),
    ] {
        let world = World::new();
        world.write_store(live);
        for (suffix, content) in [("", own), (".old", old), ("+", undo)] {
            if let Some(content) = content {
                fs::write(beside(&world, suffix), content).unwrap();
            }
        }
        left(&world, |_| {});
        assert!(recover(&world).unwrap().is_empty());
        assert_eq!(world.store(), live);
        let kept = fs::read_to_string(beside(&world, "")).ok();
        assert_eq!(kept.as_deref(), backup);
        for suffix in [".old", "+", ".torn"] {
            assert!(!beside(&world, suffix).exists(), "{suffix}");
        }
    }
}

/// daemon.json had live-restore on, and an administrator removed that setting between the
/// kill and the recovery.
#[test]
fn containers_are_kept_where_the_file_no_longer_says_so() {
    let world = world_with(Some("{}"));
    world.engine.set_live_restore(true);
    world.engine.runs.set(false);
    left(&world, |journal| of(journal).live_restore_by_file = true);
    assert!(recover(&world).unwrap().is_empty());
    assert_eq!(world.statuses(), [(100, Status::Running)]);
    assert_eq!(world.config().as_deref(), Some("{}"));
    is_clean(&world);
}

#[test]
fn without_a_watchdog_nothing_is_touched() {
    let world = World::new();
    world.systemd.fails.set(Some(("watchdog", 0)));
    let (outcome, steps) = transact(&world);
    is_undone(&world, &outcome);
    assert!(steps.is_empty());
    assert_eq!(*world.systemd.calls.borrow(), ["watchdog"]);
}

/// systemd starts no unit during a shutdown.
#[test]
fn a_shutdown_half_way_leaves_the_rest_to_the_boot() {
    let world = world_with(Some("{}"));
    world.systemd.shuts_down.set(true);
    world.systemd.fails.set(Some(("start", 0)));
    world.systemd.fails_for_good.set(true);
    let (outcome, _) = transact(&world);
    let Ended::Broken {
        now:
            HostNow {
                store: StoreNow::Old,
                docker: Some(DockerNow::ShuttingDown),
                ..
            },
        ..
    } = outcome.ended
    else {
        panic!("{outcome:?}");
    };
    let journal = Journal::read(world.root.path()).unwrap();
    mutate(&world, journal.unwrap());
    assert!(recover_files(&world).unwrap());
    assert_eq!(world.config().as_deref(), Some("{}"));
    assert_eq!(world.store(), STORE);
}

fn mutate(world: &World, mut journal: Journal) {
    of_another_boot(&mut journal);
    write_journal(world, &journal);
}

/// A store that was never in use does not count as a backup, regardless of its contents.
#[test]
fn what_was_never_in_use_is_no_backup() {
    for (phase, left_beside) in [
        (Phase::Preparing, STORE),
        (Phase::Preparing, "{\"Repos"),
        (Phase::Stopping, "{\"Repos"),
        (Phase::Stopping, ""),
    ] {
        let world = World::new();
        fs::write(beside(&world, ""), left_beside).unwrap();
        let state = world.root.path().join("digestfix");
        left(&world, |journal| of(journal).phase = phase);
        fs::write(state.join("journal.json.new"), "{").unwrap();
        fs::write(state.join("provenance-overlay2.json.new"), "{").unwrap();
        assert!(recover(&world).unwrap().is_empty());
        assert!(!beside(&world, "").exists(), "{phase:?} {left_beside}");
        let mut names: Vec<_> = fs::read_dir(state)
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["lock"]);
    }
}
