//! A daemon.json that changed after dockerd started.

use super::*;
use crate::host::Doubt;
use crate::host::startable::Checked;
use crate::image::digest::Digest;
use crate::state::history;

/// Writes a text to daemon.json that dockerd has not accepted yet.
fn changed(world: &mut World, text: &str) {
    world.write_config(text);
    world.startable = Startable {
        doubts: Vec::new(),
        needs_reload: true,
        checked: Some(Checked {
            path: world.config_file(),
            hash: Some(hash(text.as_bytes())),
        }),
    };
}

fn recorded(world: &World) -> Option<Digest> {
    let (records, _) = history::scan(world.root.path(), |record| Some(record.daemon_json));
    records.into_iter().next_back().flatten()
}

#[test]
fn a_configuration_is_seen_taken_before_the_stop() {
    let text = "{\"debug\":true}";
    for is_web_there in [true, false] {
        let mut world = World::new();
        changed(&mut world, text);
        if is_web_there {
            world.engine.run_container("web");
        }
        let (outcome, steps) = transact(&world);
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
        let reloads = |step| steps.iter().position(|one| *one == step);
        let taken = reloads(if is_web_there {
            Step::EnableLiveRestore
        } else {
            Step::Reload
        });
        assert!(taken.unwrap() < reloads(Step::Stop).unwrap(), "{steps:?}");
        assert_eq!(recorded(&world), Some(hash(text.as_bytes())));
    }
}

#[test]
fn a_configuration_that_docker_refuses_keeps_it_running() {
    for is_web_there in [true, false] {
        let mut world = World::new();
        changed(&mut world, "{\"default-runtime\":\"nope\"}");
        if is_web_there {
            world.engine.run_container("web");
        }
        *world.engine.on_reload.borrow_mut() = vec![OnReload::Refuses];
        let (outcome, steps) = transact(&world);
        assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
        assert!(
            !outcome.restarted && !steps.contains(&Step::Stop),
            "{steps:?}"
        );
        assert!(!world.systemd.calls.borrow().contains(&"stop"));
        assert_eq!(recorded(&world), None, "dockerd has not accepted the file");
    }
}

#[test]
fn what_is_as_it_was_is_not_read_again() {
    let mut world = World::new();
    changed(&mut world, "{}");
    world.startable.needs_reload = false;
    let (outcome, steps) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    assert!(!steps.contains(&Step::Reload));
    assert_eq!(recorded(&world), Some(hash(b"{}")));
}

#[test]
fn a_change_after_the_look_is_noticed() {
    let mut world = World::new();
    changed(&mut world, "{}");
    world.write_config("{\"bip\":\"x\"}");
    let (outcome, steps) = transact(&world);
    let Ended::Undone { failure, .. } = outcome.ended else {
        panic!("{outcome:?}");
    };
    assert!(
        matches!(failure, Failure::ConfigurationChanged(_)),
        "{failure}"
    );
    assert!(!steps.contains(&Step::Stop));
}

#[test]
fn a_start_by_force_is_recorded_once_it_went_well() {
    for fails in [false, true] {
        let mut world = World::new();
        changed(&mut world, "{\"bip\":\"10.0.0.1/24\"}");
        let settings = vec!["bip".to_owned()];
        let path = world.config_file();
        world.startable.doubts = vec![Doubt::Settings { path, settings }];
        world.systemd.fails.set(fails.then_some(("stop", 0)));
        let (outcome, _) = transact(&world);
        assert_eq!(matches!(outcome.ended, Ended::Done), !fails, "{outcome:?}");
        assert_eq!(recorded(&world).is_some(), !fails);
    }
}

/// Undo restores daemon.json, so that the file is newer than the running dockerd.
#[test]
fn a_run_that_ends_early_has_recorded_what_was_known_before() {
    let mut world = World::new();
    changed(&mut world, "{\"bip\":\"10.0.0.1/24\"}");
    world.startable.needs_reload = false;
    world.engine.run_container("web");
    *world.engine.on_reload.borrow_mut() = vec![OnReload::Refuses];
    let (outcome, _) = transact(&world);
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
    assert!(recorded(&world).is_some());
}
