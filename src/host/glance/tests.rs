#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use std::fs::File;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use fs2::FileExt;
use nix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use super::*;
use crate::host::settle::{DEFAULT, DISK, UNIT};

const PID: u32 = 4711;
/// In seconds from now, as all times here.
const HOUR: i64 = 3600;

/// A host whose Docker begins in an hour: what is written now, it has read.
struct World {
    disk: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self {
            disk: tempfile::tempdir().unwrap(),
        };
        world.write("root/image/overlay2/repositories.json", "{}");
        world.write("root/overlay2/l", "");
        world.write("root/volumes/metadata.db", "");
        world.write("daemon.json", "{}");
        world.command(&[]);
        world.process("cgroup", "0::/system.slice/docker.service\n");
        world.opens("root/volumes/metadata.db");
        world.begins(HOUR, HOUR);
        world.touch("root/overlay2", HOUR + 1);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.disk.path()).unwrap().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn touch(&self, name: &str, at: i64) {
        let away = Duration::from_secs(at.unsigned_abs());
        let now = SystemTime::now();
        let at = if at < 0 { now - away } else { now + away };
        let file = File::open(self.path(name)).unwrap();
        file.set_modified(at).unwrap();
    }

    fn process(&self, name: &str, text: &str) {
        self.write(&format!("proc/{PID}/{name}"), text);
    }

    fn command(&self, more: &[&str]) {
        let root = format!("--data-root={}", self.path("root").display());
        let config = format!("--config-file={}", self.path("daemon.json").display());
        let words = [&["/usr/sbin/dockerd", &root, &config], more].concat();
        self.process("cmdline", &(words.join("\0") + "\0"));
    }

    /// Among other things.
    fn opens(&self, name: &str) {
        self.process("fd/3", "");
        let _ = fs::remove_file(self.path("proc/4711/fd/4"));
        symlink(self.path(name), self.path("proc/4711/fd/4")).unwrap();
        symlink("socket:[1]", self.path("proc/4711/fd/5")).unwrap_or_default();
    }

    fn begins(&self, process: i64, pid_file: i64) {
        let up = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
        let since_boot = up.tv_sec() + process;
        let before = "1 ".repeat(18);
        let stat = format!("{PID} (a) b) S {before}{} 0", since_boot * 100);
        self.process("stat", &stat);
        self.write("docker.pid", &PID.to_string());
        self.touch("docker.pid", pid_file);
    }

    fn by(&self, flags: &Flags) -> Result<Glance, Unclear> {
        let places = Places {
            proc: self.path("proc"),
            pid_file: self.path("docker.pid"),
            is_of_own_clock: |_| true,
        };
        Glance::by(flags, &places)
    }

    fn glance(&self) -> Result<Glance, Unclear> {
        self.by(&Flags::default())
    }
}

#[test]
fn a_docker_that_has_read_the_file_is_known() {
    let world = World::new();
    let glance = world.glance().unwrap();
    assert_eq!(glance.images.data_root(), world.path("root"));
    assert_eq!(glance.images.driver(), "overlay2");
    assert_eq!(glance.unit, "docker.service");
    assert_eq!(glance.config_file, world.path("daemon.json"));
    let sources: Vec<_> = glance
        .sources
        .iter()
        .map(|one| (one.fact, one.source))
        .collect();
    assert_eq!(
        sources,
        [
            ("data root", UNIT),
            ("storage driver", DISK),
            ("unit", DEFAULT),
            ("configuration file", UNIT),
        ]
    );
}

type Case = (&'static str, fn(&World), fn(&Unclear) -> bool);

#[test]
fn whatever_is_not_plain_is_left_to_be_asked() {
    let cases: [Case; 25] = [
        (
            "no pid file",
            |world| fs::remove_file(world.path("docker.pid")).unwrap(),
            |why| matches!(why, Unclear::NoPid(_)),
        ),
        (
            "no such process",
            |world| fs::remove_dir_all(world.path("proc/4711")).unwrap(),
            |why| matches!(why, Unclear::NotDockerd(_)),
        ),
        (
            "another program",
            |world| world.process("cmdline", "/usr/bin/snap\0run\0dockerd\0"),
            |why| matches!(why, Unclear::NotDockerd(_)),
        ),
        (
            "another unit",
            |world| world.process("cgroup", "0::/system.slice/docker-b.service\n"),
            |why| matches!(why, Unclear::Unit { .. }),
        ),
        (
            "no unit",
            |world| world.process("cgroup", "0::/user.slice/session-1.scope\n"),
            |why| matches!(why, Unclear::Unit { .. }),
        ),
        (
            "two units",
            |world| {
                let groups = "1:name=systemd:/a.slice/docker.service\n0::/other.service\n";
                world.process("cgroup", groups);
            },
            |why| matches!(why, Unclear::Unit { .. }),
        ),
        (
            "a broken daemon.json",
            |world| world.write("daemon.json", "{"),
            |why| matches!(why, Unclear::Host(HostError::ConfigFile { .. })),
        ),
        (
            "a daemon.json that is gone",
            |world| fs::remove_file(world.path("daemon.json")).unwrap(),
            |why| matches!(why, Unclear::Host(HostError::ConfigFileMissing { .. })),
        ),
        (
            "an option that is set twice",
            |world| world.write("daemon.json", r#"{"data-root":"/elsewhere"}"#),
            |why| matches!(why, Unclear::Host(HostError::SetTwice { .. })),
        ),
        (
            "user namespaces by the file",
            |world| world.write("daemon.json", r#"{"userns-remap":"default"}"#),
            |why| matches!(why, Unclear::Remapped),
        ),
        (
            "user namespaces by a flag",
            |world| world.command(&["--userns-remap", "default"]),
            |why| matches!(why, Unclear::Remapped),
        ),
        (
            "containerd by the file",
            |world| {
                world.write(
                    "daemon.json",
                    r#"{"features":{"containerd-snapshotter":true}}"#,
                );
            },
            |why| matches!(why, Unclear::Containerd),
        ),
        (
            "a migration to containerd",
            |world| {
                world.write(
                    "daemon.json",
                    r#"{"features":{"containerd-migration":true}}"#,
                );
            },
            |why| matches!(why, Unclear::Containerd),
        ),
        (
            "containerd by a flag",
            |world| world.command(&["--feature=containerd-snapshotter"]),
            |why| matches!(why, Unclear::Containerd),
        ),
        (
            "a driver that has nothing here",
            |world| world.write("daemon.json", r#"{"storage-driver":"vfs"}"#),
            |why| matches!(why, Unclear::Host(HostError::DataRoot { .. })),
        ),
        (
            "two drivers with references",
            |world| world.write("root/image/vfs/repositories.json", "{}"),
            |why| matches!(why, Unclear::Host(HostError::Ambiguous { .. })),
        ),
        (
            "another data root's volume database",
            |world| {
                world.write("other/volumes/metadata.db", "");
                world.opens("other/volumes/metadata.db");
            },
            |why| matches!(why, Unclear::NotItsDataRoot { .. }),
        ),
        (
            "what it has open is hidden, and nobody has the volume database locked",
            |world| fs::remove_dir_all(world.path("proc/4711/fd")).unwrap(),
            |why| matches!(why, Unclear::NotItsDataRoot { .. }),
        ),
        (
            "no volume database",
            |world| fs::remove_file(world.path("root/volumes/metadata.db")).unwrap(),
            |why| matches!(why, Unclear::NotItsDataRoot { .. }),
        ),
        (
            "a pid file that was written before",
            |world| world.begins(HOUR, -1),
            |why| matches!(why, Unclear::Changed(_)),
        ),
        (
            "a process that began before",
            |world| world.begins(-1, HOUR),
            |why| matches!(why, Unclear::Changed(_)),
        ),
        (
            "a driver that has done nothing since",
            |world| world.touch("root/overlay2", HOUR - 1),
            |why| matches!(why, Unclear::NoTrace(_)),
        ),
        (
            "a driver's directory that is empty",
            |world| {
                fs::remove_file(world.path("root/overlay2/l")).unwrap();
                world.touch("root/overlay2", HOUR + 1);
            },
            |why| matches!(why, Unclear::NoTrace(_)),
        ),
        (
            "no references",
            |world| {
                fs::rename(
                    world.path("root/image/overlay2/repositories.json"),
                    world.path("root/image/overlay2/aside"),
                )
                .unwrap();
                world.write("daemon.json", r#"{"storage-driver":"overlay2"}"#);
            },
            |why| matches!(why, Unclear::Changed(_)),
        ),
        (
            "a run that has not ended",
            |world| world.write("root/digestfix/journal.json", "{}"),
            |why| matches!(why, Unclear::Unfinished),
        ),
    ];
    for (name, breaks, is_why) in cases {
        let world = World::new();
        breaks(&world);
        match world.glance() {
            Ok(_) => panic!("{name}: taken as settled"),
            Err(why) => assert!(is_why(&why), "{name}: {why}"),
        }
    }
}

#[test]
fn flags_are_judged_as_ever() {
    let world = World::new();
    let root = |path: PathBuf| Flags {
        data_root: Some(path),
        ..Flags::default()
    };
    assert!(world.by(&root(world.path("root"))).is_ok());
    world.write("other/image/overlay2/repositories.json", "{}");
    let why = world.by(&root(world.path("other"))).unwrap_err();
    assert!(matches!(why, Unclear::Host(HostError::Disagreement { .. })));
    let named = |unit: &str| Flags {
        unit: Some(unit.to_owned()),
        ..Flags::default()
    };
    assert!(world.by(&named("docker")).is_ok());
    let why = world.by(&named("docker-b")).unwrap_err();
    assert!(matches!(why, Unclear::Unit { .. }));
}

#[test]
fn a_clock_of_somebody_else_counts_for_nothing() {
    let world = World::new();
    let places = Places {
        proc: world.path("proc"),
        pid_file: world.path("docker.pid"),
        is_of_own_clock: |path| !path.ends_with("image/overlay2"),
    };
    let why = Glance::by(&Flags::default(), &places).unwrap_err();
    assert!(matches!(why, Unclear::Clock(_)));
}

/// The pid file has become another's since it was read.
#[test]
fn one_clock_is_not_enough() {
    let world = World::new();
    world.write("docker.pid", "1");
    let places = Places {
        proc: world.path("proc"),
        pid_file: world.path("docker.pid"),
        is_of_own_clock: |_| true,
    };
    let images = ImageDir::new(&world.path("root"), "overlay2");
    let why = look_at_references(&places, PID, &images).unwrap_err();
    assert!(matches!(why, Unclear::Start(PID)), "{why}");
}

#[test]
fn what_is_switched_off_is_not_named() {
    let world = World::new();
    world.write(
        "daemon.json",
        r#"{"features":{"containerd-snapshotter":false,"buildkit":true}}"#,
    );
    assert!(world.glance().is_ok());
    world.write("daemon.json", "{}");
    world.command(&["--feature", "containerd-snapshotter=false"]);
    assert!(world.glance().is_ok());
}

#[test]
fn the_hierarchies_of_control_groups_are_all_read() {
    for groups in [
        "0::/system.slice/docker.service\n",
        "9:name=systemd:/x/system.slice/docker.service\n8:pids:/other.service\n0::/x\n",
        "1:name=systemd:/system.slice/docker.service\n0::/system.slice/docker.service\n",
    ] {
        let world = World::new();
        world.process("cgroup", groups);
        assert!(world.glance().is_ok(), "{groups}");
    }
}

#[test]
fn references_that_change_while_they_are_read_do_not_count() {
    let world = World::new();
    let glance = world.glance().unwrap();
    assert!(glance.still_holds());
    world.write("new", "{}");
    let references = world.path("root/image/overlay2/repositories.json");
    fs::rename(world.path("new"), &references).unwrap();
    assert!(!glance.still_holds());
    fs::remove_file(references).unwrap();
    assert!(!glance.still_holds());
}

/// Out of a sandbox, it is not to be seen what dockerd has open.
#[test]
fn what_is_hidden_is_told_by_the_lock() {
    let world = World::new();
    fs::remove_dir_all(world.path("proc/4711/fd")).unwrap();
    let database = File::open(world.path("root/volumes/metadata.db")).unwrap();
    FileExt::lock_exclusive(&database).unwrap();
    assert!(world.glance().is_ok());
}
