use std::process::Child;
use std::thread;

use super::*;
use crate::host::startable::{Doubt, Startable, look};
use crate::image::digest::Digest;

/// A running dockerd that has started after the last change of its files.
struct Running {
    world: World,
    child: Child,
    managed: Managed,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts dockerd and then runs `change`, so that the changed files are newer than
    /// dockerd.
    fn new(says: (bool, &'static str), change: impl FnOnce(&World)) -> Self {
        Self::with(&[], says, change)
    }

    fn with(args: &[&str], says: (bool, &'static str), change: impl FnOnce(&World)) -> Self {
        let mut world = World::new().running("root", "overlay2").args(args);
        for name in ["docker.service", "environment", "drop-in.conf"] {
            fs::write(world.path(name), "").unwrap();
        }
        let program = world.path("dockerd");
        symlink("/bin/sleep", &program).unwrap();
        world.systemd.service.exec_start[0].clone_from(&program);
        let unit = (world.path("docker.service"), world.path("drop-in.conf"));
        let docker = world
            .systemd
            .units
            .get_mut()
            .get_mut("docker.service")
            .unwrap();
        (docker.fragment_path, docker.drop_in_paths) = (unit.0, vec![unit.1]);
        let environment = (world.path("environment"), false);
        world.systemd.service.environment_files.push(environment);
        thread::sleep(Duration::from_millis(40));
        let child = Command::new(&program).arg("100").spawn().unwrap();
        let name = format!("/proc/{}/comm", child.id());
        while fs::read_to_string(&name).unwrap().trim() != "dockerd" {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(40));
        change(&world);
        world.systemd.service.main_pid = child.id();
        world.systemd.validates = Some(says);
        let managed = world.managed();
        Self {
            world,
            child,
            managed,
        }
    }

    fn look(&self, recorded: Option<Digest>) -> Startable {
        block_on(look(&self.world.systemd, &self.managed, |_| recorded))
    }

    fn doubts(&self) -> Vec<Doubt> {
        self.look(None).doubts
    }
}

const PASSES: (bool, &str) = (true, "configuration OK\n");
const REFUSES: (bool, &str) = (false, "level=info\nunable to configure: Debug\n");
const OLD: (bool, &str) = (false, "Status: unknown flag: --validate\n");

#[test]
fn what_is_as_it_was_is_not_asked_about() {
    let running = Running::new(REFUSES, |_| {});
    let found = running.look(None);
    assert!(found.doubts.is_empty() && !found.needs_reload, "{found:?}");
    assert!(running.world.systemd.validated.borrow().is_empty());
    assert!(found.checked.unwrap().is_still());
}

#[test]
fn a_configuration_that_dockerd_refuses_is_no_start() {
    let running = Running::new(REFUSES, |world| world.config(r#"{"Debug":true}"#));
    let doubts = running.doubts();
    let [doubt @ Doubt::Refused { says, .. }] = doubts.as_slice() else {
        panic!("{doubts:?}");
    };
    assert_eq!(says, "unable to configure: Debug");
    assert!(doubt.is_certain());
    let asked = running.world.systemd.validated.borrow();
    let config = format!("--config-file={}", running.world.path("daemon.json"));
    assert_eq!(asked[0][1..], ["--validate".to_owned(), config]);
}

#[test]
fn what_only_a_start_checks_is_a_doubt() {
    for (text, settings) in [
        (r#"{"bip":"10.0.0.0/24","debug":true}"#, &["bip"][..]),
        (r#"{"log-opts":{"nope":"1"}}"#, &["log-opts"]),
        (
            r#"{"log-driver":"local","log-opts":{"tag":"1"}}"#,
            &["log-opts"],
        ),
        (r#"{"log-driver":"nope"}"#, &["log-driver"]),
        (r#"{"log-level":"loud"}"#, &["log-level"]),
        (
            r#"{"exec-opts":["native.cgroupdriver=nope"]}"#,
            &["exec-opts"],
        ),
        (
            r#"{"features":{"containerd-snapshotter":false}}"#,
            &["features"],
        ),
        (r#"{"log-opt":{},"Debug":true}"#, &["Debug", "log-opt"]),
        (r#"{"iptables":false,"icc":false}"#, &["icc", "iptables"]),
    ] {
        for says in [PASSES, OLD] {
            let doubts = Running::new(says, |world| world.config(text)).doubts();
            let [
                Doubt::Settings {
                    settings: found, ..
                },
            ] = doubts.as_slice()
            else {
                panic!("{text}: {doubts:?}");
            };
            let mut found = found.clone();
            found.sort();
            assert_eq!(found, settings, "{text}");
            assert!(!doubts[0].is_certain());
        }
    }
}

#[test]
fn what_can_be_asked_is_left_to_those_who_tell() {
    let text = r#"{"debug":true,"labels":["a=b"],"live-restore":true,"log-level":"warn","log-driver":
        "json-file","log-opts":{"max-size":"10m"},"exec-opts":["native.cgroupdriver=systemd"],"features":
        {"buildkit":true},"storage-driver":"overlay2","registry-mirrors":["https://m.example"]}"#;
    for says in [PASSES, OLD] {
        let found = Running::new(says, |world| world.config(text)).look(None);
        assert!(found.doubts.is_empty() && found.needs_reload, "{found:?}");
    }
}

#[test]
fn where_no_reload_can_be_had_validation_has_to_do() {
    let plugin = ["--authorization-plugin=p"];
    for (says, text, is_known) in [
        (PASSES, r#"{"debug":true}"#, true),
        (
            PASSES,
            r#"{"registry-mirrors":["https://m.example"]}"#,
            false,
        ),
        (OLD, r#"{"debug":true}"#, false),
    ] {
        let found = Running::with(&plugin, says, |world| world.config(text)).look(None);
        assert!(!found.needs_reload, "{text}");
        assert_eq!(found.doubts.is_empty(), is_known, "{text}: {found:?}");
    }
    let text = r#"{"userland-proxy":true}"#;
    let found = Running::new(PASSES, |world| world.config(text)).look(None);
    assert!(found.doubts.is_empty() && !found.needs_reload, "{found:?}");
    let found = Running::new(OLD, |world| world.config(text)).look(None);
    assert!(matches!(
        found.doubts.as_slice(),
        [Doubt::Configuration { .. }]
    ));
}

#[test]
fn what_a_run_has_put_back_is_known() {
    let running = Running::new(REFUSES, |world| world.config(r#"{"bip":"x"}"#));
    let hash = running.managed.start.config.hash.clone();
    let found = running.look(hash);
    assert!(found.doubts.is_empty() && !found.needs_reload, "{found:?}");
    let other = Running::new(PASSES, |world| world.config("{}"))
        .managed
        .start
        .config
        .hash
        .clone();
    assert!(!running.look(other).doubts.is_empty());
}

#[test]
fn the_files_of_the_unit_are_a_doubt_too() {
    for name in ["docker.service", "drop-in.conf", "environment", "dockerd"] {
        let running = Running::new(PASSES, |world| {
            let path = world.path(name);
            if name == "dockerd" {
                fs::remove_file(&path).unwrap();
                symlink("/bin/sleep", path).unwrap();
            } else {
                fs::write(path, "# changed").unwrap();
            }
        });
        let doubts = running.doubts();
        let path = running.world.path(name).into();
        assert_eq!(doubts, [Doubt::Unit(vec![path])], "{name}");
    }
    let refused = Running::new(REFUSES, |world| {
        fs::write(world.path("drop-in.conf"), "# changed").unwrap();
    });
    assert!(refused.doubts()[0].is_certain());
    let gone = Running::new(PASSES, |world| {
        fs::remove_file(world.path("dockerd")).unwrap();
    });
    assert!(matches!(gone.doubts().as_slice(), [Doubt::NoProgram(_)]));
}

#[test]
fn what_systemd_writes_anew_is_no_doubt() {
    let mut running = Running::new(PASSES, |_| {});
    let unit = &mut running.managed.unit;
    for directory in [
        "systemd/generator",
        "systemd/system.control/docker.service.d",
    ] {
        let directory = PathBuf::from(running.world.path(directory));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("50-x.conf"), "").unwrap();
        let path = directory.join("50-x.conf");
        unit.drop_in_paths.push(path.to_string_lossy().into_owned());
    }
    assert_eq!(running.doubts(), []);
}
