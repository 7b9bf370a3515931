#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use fs2::FileExt;
use tempfile::TempDir;

use super::*;
use crate::testing::{FakeEngine, FakeSystemd, block_on};

mod rhel7;
mod startable;

/// A host with docker.service, a configuration file `daemon.json`, and data roots on the
/// disk.
struct World {
    disk: TempDir,
    systemd: FakeSystemd,
    engine: Option<Info>,
    flags: Flags,
    asked: Cell<bool>,
}

impl World {
    /// A test host with a stopped Docker. The unit's command line names the directory
    /// `root` as the data root.
    fn new() -> Self {
        let disk = tempfile::tempdir().unwrap();
        let world = Self {
            disk,
            systemd: FakeSystemd::default(),
            engine: None,
            flags: Flags::default(),
            asked: Cell::new(false),
        };
        world.config("{}");
        world.store("root", "overlay2");
        let root = world.path("root");
        world
            .unit("inactive")
            .args(&[&format!("--data-root={root}")])
    }

    fn path(&self, name: &str) -> String {
        let real = fs::canonicalize(self.disk.path()).unwrap();
        real.join(name).to_string_lossy().into_owned()
    }

    fn config(&self, text: &str) {
        fs::write(self.disk.path().join("daemon.json"), text).unwrap();
    }

    fn store(&self, root: &str, driver: &str) {
        let directory = self.disk.path().join(root).join("image").join(driver);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("repositories.json"), "{}").unwrap();
        // Create the files of the storage driver.
        fs::create_dir_all(self.disk.path().join(root).join(driver).join("l")).unwrap();
    }

    fn unit(mut self, active_state: &str) -> Self {
        self.add("docker.service", active_state);
        self
    }

    fn add(&mut self, name: &str, active_state: &str) -> &mut Unit {
        self.systemd.add(name, active_state)
    }

    /// Sets dockerd's arguments, including the path of the test host's `daemon.json`.
    fn args(mut self, args: &[&str]) -> Self {
        let config = format!("--config-file={}", self.path("daemon.json"));
        self.systemd.service.exec_start = ["/usr/bin/dockerd", &config]
            .into_iter()
            .chain(args.iter().copied())
            .map(str::to_owned)
            .collect();
        self
    }

    fn running(mut self, root: &str, driver: &str) -> Self {
        self.engine = Some(Info {
            data_root: self.path(root).into(),
            driver: driver.to_owned(),
            ..Info::default()
        });
        self.unit("active")
    }

    /// Locks the volume database, as dockerd does while it runs.
    fn opened(&self, root: &str) -> File {
        let volumes = self.disk.path().join(root).join("volumes");
        fs::create_dir_all(&volumes).unwrap();
        let database = File::create(volumes.join("metadata.db")).unwrap();
        FileExt::lock_exclusive(&database).unwrap();
        database
    }

    /// The fake engine that answers at a socket.
    fn engine(&self, socket: &Path) -> FakeEngine {
        FakeEngine {
            socket: socket.to_owned(),
            runs: Cell::new(self.engine.is_some()),
            info: RefCell::new(self.engine.clone().unwrap_or_default()),
            ..FakeEngine::default()
        }
    }

    fn find(&self) -> Result<Host, HostError> {
        let connect = |socket: &Path| {
            self.asked.set(true);
            self.engine(socket)
        };
        let found = block_on(find(&self.flags, &self.systemd, &connect));
        let found = found.and_then(Host::certain);
        // If `find` fails, its error is the first error of `examine`.
        let asked = Cell::new(false);
        let connect = |socket: &Path| {
            asked.set(true);
            self.engine(socket)
        };
        let examined = block_on(examine(&self.flags, Some(&self.systemd), connect));
        let may_ask = self.systemd.units.borrow().values().any(Unit::is_active);
        assert!(may_ask || !asked.get(), "a connection would start Docker");
        let first = examined.errors.first().map(ToString::to_string);
        assert_eq!(
            first.as_ref(),
            found.as_ref().err().map(ToString::to_string).as_ref()
        );
        if let Ok(host) = &found {
            assert_eq!(examined.images.as_ref(), Some(&host.images));
            assert!(examined.managed.is_some());
        }
        found
    }

    /// All errors, in the order in which they were found.
    fn errors(&self) -> Vec<String> {
        let connect = |socket: &Path| self.engine(socket);
        let examined = block_on(examine(&self.flags, Some(&self.systemd), connect));
        examined.errors.iter().map(ToString::to_string).collect()
    }

    /// The storage driver and the data root. The data root is relative to the test's
    /// disk.
    fn found(&self) -> (String, String) {
        let images = self.find().unwrap().images;
        let root = images.data_root().to_string_lossy().into_owned();
        let below = root.strip_prefix(&self.path("")).unwrap().to_owned();
        (below, images.driver().to_owned())
    }

    fn managed(&self) -> Managed {
        match self.find().unwrap().management {
            Management::Managed(managed) => *managed,
            other => panic!("{other:?}"),
        }
    }

    /// Checks that digestfix refuses the host with an error that contains all these
    /// words.
    #[track_caller]
    fn refuses(&self, words: &[&str]) {
        refuses(self.find(), words);
    }
}

#[track_caller]
fn refuses(outcome: Result<Host, HostError>, words: &[&str]) {
    let message = match outcome {
        Ok(host) => panic!("found {:?}", host.images),
        Err(error) => format!("{error}. {}", error.help().unwrap()),
    };
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

fn pair(root: &str, driver: &str) -> (String, String) {
    (root.to_owned(), driver.to_owned())
}

#[test]
fn each_source_alone_is_enough() {
    let mut world = World::new();
    assert_eq!(world.found(), pair("root", "overlay2"));
    world = world.args(&[]);
    world.config(&format!(r#"{{"data-root":"{}"}}"#, world.path("root")));
    assert_eq!(world.found(), pair("root", "overlay2"));
    world.config("{}");
    world.flags.data_root = Some(world.path("root").into());
    assert_eq!(world.found(), pair("root", "overlay2"));
    world.flags.data_root = None;
    world = world.running("root", "overlay2");
    assert_eq!(world.found(), pair("root", "overlay2"));
}

#[test]
fn what_was_found_is_told_with_its_source() {
    let mut world = World::new().running("root", "overlay2");
    let tell = |world: &World| {
        let sources = world.find().unwrap().sources;
        sources
            .iter()
            .map(|found| format!("{}: {}", found.fact, found.source))
            .collect::<Vec<_>>()
    };
    let expected = |unit: &str, socket: &str| {
        [
            "data root: the running engine".to_owned(),
            "storage driver: the running engine".to_owned(),
            format!("unit: {unit}"),
            format!("API socket: {socket}"),
            "configuration file: the unit's command line".to_owned(),
        ]
    };
    assert_eq!(tell(&world), expected("default", "default"));
    world.flags.unit = Some("docker.service".to_owned());
    world.flags.socket = Some("/s".into());
    assert_eq!(tell(&world), expected("your flag", "your flag"));
}

#[test]
fn two_sources_that_differ_are_both_named() {
    let mut world = World::new();
    world.store("other", "overlay2");
    let (root, other) = (world.path("root"), world.path("other"));

    world.flags.data_root = Some(other.clone().into());
    world.refuses(&[
        &root,
        &other,
        "your flag",
        "the unit's command line",
        "leave your flag out",
    ]);
    world.flags.data_root = None;

    world = world.running("other", "overlay2");
    world.refuses(&[
        &root,
        &other,
        "the running engine",
        "the unit's command line",
    ]);

    world = world.args(&[]);
    world.config(&format!(r#"{{"data-root":"{root}"}}"#));
    world.refuses(&[
        "daemon.json says",
        "the running engine",
        "make the two sources agree",
    ]);

    world.config(r#"{"storage-driver":"vfs"}"#);
    world.refuses(&["storage driver", "overlay2", "vfs", "daemon.json"]);

    world.config("{}");
    world.flags.config_file = Some(world.path("else.json").into());
    world.refuses(&["configuration file", "else.json", "your flag"]);
}

#[test]
fn a_symbolic_link_to_the_same_place_is_no_difference() {
    let mut world = World::new().running("root", "overlay2");
    symlink(world.path("root"), world.path("link")).unwrap();
    world.flags.data_root = Some(world.path("link").into());
    assert_eq!(world.found(), pair("root", "overlay2"));
    let link = world.path("link");
    world = world
        .unit("inactive")
        .args(&[&format!("--data-root={link}/")]);
    assert_eq!(world.found(), pair("root", "overlay2"));
}

#[test]
fn a_unit_that_is_not_there() {
    let mut world = World::new();
    world.systemd.units.get_mut().clear();
    world.refuses(&["docker.service", "--unit NAME", "--offline"]);
    world.add("snap.docker.dockerd.service", "inactive");
    world.refuses(&[
        "--unit snap.docker.dockerd.service --data-root /var/snap/docker/common/var-lib-docker",
    ]);
    world.add("docker.service", "active");
    world.flags.unit = Some("dockerd".to_owned());
    world.refuses(&["no unit dockerd.service", "there is docker.service"]);
}

#[test]
fn a_unit_that_is_of_no_use() {
    let mut world = World::new();
    world.add("docker.service", "inactive").load_state = "masked".to_owned();
    world.refuses(&["masked", "systemctl unmask docker.service", "--offline"]);
    world.systemd.service.exec_start.clear();
    let examined = block_on(examine(
        &world.flags,
        Some(&world.systemd),
        |socket: &Path| world.engine(socket),
    ));
    assert_eq!(examined.errors.len(), 1, "{:?}", examined.errors);
    world.add("docker.service", "inactive").load_state = "bad-setting".to_owned();
    world.refuses(&["bad-setting", "systemctl status docker.service"]);
    world.add("docker.socket", "active");
    world.flags.unit = Some("docker.socket".to_owned());
    world.refuses(&["docker.socket is not a service"]);
}

#[test]
fn a_unit_that_would_be_forgotten() {
    let mut world = World::new();
    world.add("docker.service", "active").transient = true;
    world.refuses(&["docker.service is transient", "--offline"]);
    assert!(!world.asked.get());
}

#[test]
fn the_type_of_the_unit_may_be_left_out() {
    let mut world = World::new();
    world.add("docker.main.service", "inactive");
    world.flags.unit = Some("docker.main".to_owned());
    assert_eq!(world.managed().unit.id, "docker.main.service");
}

#[test]
fn a_unit_between_two_states() {
    for state in ["activating", "deactivating", "reloading"] {
        let mut world = World::new().running("root", "overlay2");
        let unit = world.add("docker.service", state);
        unit.sub_state = "auto-restart".to_owned();
        world.refuses(&["docker.service", state, "auto-restart", "wait"]);
        assert!(!world.asked.get());
    }
}

#[test]
fn an_engine_is_asked_only_when_it_runs() {
    let world = World::new();
    assert_eq!(world.managed().engine, None);
    assert!(!world.asked.get(), "a connection would have started Docker");
    let world = world.unit("failed");
    assert_eq!(world.managed().engine, None);
    assert!(!world.asked.get());
    let world = world.unit("active");
    world.refuses(&[
        "docker.service is active, but",
        "/var/run/docker.sock",
        "--socket PATH",
    ]);
    assert!(world.asked.get());
    let world = world.running("root", "overlay2");
    assert_eq!(world.managed().engine, world.engine);
}

#[test]
fn the_socket_is_where_somebody_says() {
    let socket = |world: &World| world.managed().socket.to_string_lossy().into_owned();
    let mut world = World::new();
    let root = format!("--data-root={}", world.path("root"));
    assert_eq!(socket(&world), "/var/run/docker.sock");
    world = world.args(&[
        &root,
        "-H",
        "tcp://:2375",
        "-Hunix:///a.sock",
        "-H",
        "unix:///b.sock",
    ]);
    assert_eq!(socket(&world), "/a.sock");
    world = world.args(&[&root, "-H", "unix://"]);
    assert_eq!(socket(&world), "/var/run/docker.sock");
    world = world.args(&[&root]);
    world.config(r#"{"hosts":["unix:///c.sock"]}"#);
    assert_eq!(socket(&world), "/c.sock");
    world.config(r#"{"hosts":["tcp://:2375"]}"#);
    world.refuses(&["tcp://:2375", "--socket PATH"]);
    world.flags.socket = Some("/d.sock".into());
    assert_eq!(socket(&world), "/d.sock");
}

#[test]
fn a_socket_that_systemd_passes_on() {
    let mut world = World::new();
    let root = format!("--data-root={}", world.path("root"));
    world = world.args(&[&root, "-H", "fd://"]);
    world.refuses(&["fd://", "--socket PATH"]);
    let triggers = ["gone.socket", "idle.socket", "docker.path", "docker.socket"];
    world.add("docker.service", "inactive").triggered_by = triggers.map(str::to_owned).to_vec();
    for name in triggers {
        world
            .systemd
            .listening
            .insert(name.to_owned(), format!("/{name}"));
    }
    world.refuses(&["fd://"]);
    world.add("idle.socket", "inactive");
    assert_eq!(world.managed().socket, Path::new("/idle.socket"));
    world.add("docker.path", "active");
    world.add("docker.socket", "active");
    assert_eq!(world.managed().socket, Path::new("/docker.socket"));
}

#[test]
fn variables_of_the_unit_are_followed() {
    let mut world = World::new().args(&["-H", "unix:///x", "$DOCKER_OPTS"]);
    let defaults = world.path("defaults");
    fs::write(
        &defaults,
        format!(
            "DOCKER_OPTS=\"--graph {} -s overlay2\"\n",
            world.path("root")
        ),
    )
    .unwrap();
    world.systemd.service.environment_files = vec![(defaults.clone(), true)];
    assert_eq!(world.found(), pair("root", "overlay2"));
    fs::remove_file(&defaults).unwrap();
    world.systemd.service.environment_files = vec![(defaults, false)];
    world.refuses(&["environment file", "defaults", "would not start again"]);
}

#[test]
fn dockerd_behind_another_program() {
    let mut world = World::new();
    world.store("snap", "overlay2");
    world.systemd.service.exec_start = ["/usr/bin/snap", "run", "docker.dockerd"]
        .map(str::to_owned)
        .to_vec();
    world.refuses(&[
        "/usr/bin/snap",
        "--data-root DIR",
        "systemctl start docker.service",
    ]);

    // A shell that waits for input and looks like dockerd, with dockerd's name and
    // arguments.
    let mut process = Command::new("sh")
        .arg0("/snap/docker/1/bin/dockerd")
        .args(["-c", "echo; read line", "--data-root", &world.path("snap")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The process prints something only after exec. So once there is output, the process
    // has its new command line.
    let mut said = [0];
    process
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut said)
        .unwrap();
    world.systemd.service.main_pid = process.id();
    world.flags.config_file = Some(world.path("daemon.json").into());
    let found = world.found();
    process.stdin.take().unwrap().write_all(b"\n").unwrap();
    process.wait().unwrap();
    assert_eq!(found, pair("snap", "overlay2"));
}

#[test]
fn a_daemon_json_that_docker_would_not_start_with() {
    let world = World::new();
    for text in ["{", "", r#"{"data-root":1}"#] {
        world.config(text);
        world.refuses(&["daemon.json", "Docker would not start again"]);
    }
    fs::remove_file(world.path("daemon.json")).unwrap();
    world.refuses(&[
        "the unit's command line names",
        "does not exist",
        "Docker would not start again",
    ]);
}

#[test]
fn a_daemon_json_that_only_the_user_names() {
    let mut world = World::new();
    world.systemd.service.exec_start.remove(1);
    world.flags.config_file = Some(world.path("typo.json").into());
    world.refuses(&["typo.json", "your flag", "--config-file FILE"]);
    world.flags.config_file = Some(world.path("daemon.json").into());
    assert_eq!(
        world.managed().config_file,
        Path::new(&world.path("daemon.json"))
    );
}

#[test]
fn an_option_that_is_set_twice() {
    let world = World::new();
    let root = world.path("root");
    let mut world = world;
    for (argument, setting, option) in [
        (
            format!("--data-root={root}"),
            format!(r#""data-root":"{root}""#),
            "data-root",
        ),
        (
            format!("-g{root}"),
            format!(r#""graph":"{root}""#),
            "data-root",
        ),
        (
            "--storage-driver=vfs".to_owned(),
            r#""storage-driver":"vfs""#.to_owned(),
            "storage-driver",
        ),
        (
            "--userns-remap=default".to_owned(),
            r#""userns-remap":"default""#.to_owned(),
            "userns-remap",
        ),
        ("-Hfd://".to_owned(), r#""hosts":[]"#.to_owned(), "hosts"),
        (
            "--live-restore=false".to_owned(),
            r#""live-restore":false"#.to_owned(),
            "live-restore",
        ),
        (
            "--feature=cdi".to_owned(),
            r#""features":{"cdi":true}"#.to_owned(),
            "features",
        ),
    ] {
        world = world.args(&[&argument]);
        world.config(&format!("{{{setting}}}"));
        world.refuses(&[
            option,
            "daemon.json",
            "docker.service",
            "does not start with both",
        ]);
    }
}

#[test]
fn images_that_are_in_containerd() {
    let mut world = World::new();
    world.config(r#"{"features":{"containerd-snapshotter":true}}"#);
    world.refuses(&["containerd image store", "systemctl start docker.service"]);
    // The running engine takes precedence over daemon.json.
    world = world.running("root", "overlay2");
    assert_eq!(world.find().unwrap().image_store, StoreKind::Own);
    world.config("{}");
    if let Some(info) = &mut world.engine {
        info.containerd_image_store = true;
        info.driver = "nowhere".to_owned();
    }
    let host = world.find().unwrap();
    assert_eq!(host.image_store, StoreKind::Containerd);
    assert_eq!(host.images.driver(), "nowhere");
    let root = format!("--data-root={}", world.path("root"));
    let world = world
        .unit("inactive")
        .args(&[&root, "--feature", "containerd-snapshotter"]);
    world.refuses(&["containerd image store", "systemctl start docker.service"]);
}

/// digestfix accepts the store of a stopped Docker only if every version of Docker,
/// including 29, would use this store.
#[test]
fn the_store_of_a_stopped_docker_is_certain_or_it_is_refused() {
    let start = "systemctl start docker.service";
    for config in [
        r#"{"features":{"containerd-migration":true}}"#,
        r#"{"features":{"containerd-migration":true,"containerd-snapshotter":false}}"#,
        r#"{"features":{"containerd-whatever":true}}"#,
        r#"{"storage-driver":"btrfs"}"#,
        r#"{"storage-driver":"overlayfs"}"#,
    ] {
        let world = World::new();
        world.store("root", "btrfs");
        world.store("root", "overlayfs");
        world.config(config);
        let why = if config.contains("features") {
            "the feature containerd-"
        } else {
            "storage driver"
        };
        let mut world = world;
        world.flags.driver = (!config.contains("storage")).then(|| "overlay2".to_owned());
        world.refuses(&[why, start]);
    }
    for (name, value, refused) in [
        ("DOCKER_DRIVER", "vfs", true),
        ("TEST_INTEGRATION_USE_SNAPSHOTTER", "1", true),
        ("DOCKER_DRIVER", "", false),
        ("HTTP_PROXY", "x", false),
    ] {
        let mut world = World::new();
        world.systemd.service.environment = vec![format!("{name}={value}")];
        match refused {
            true => world.refuses(&[name, start]),
            false => assert_eq!(world.found(), pair("root", "overlay2"), "{name}"),
        }
    }
    // dockerd 29 and later use the data root if it has files of a storage driver.
    let world = World::new();
    fs::remove_dir_all(world.path("root/overlay2")).unwrap();
    world.refuses(&["overlay2", "29", start]);
    fs::create_dir(world.path("root/overlay2")).unwrap();
    world.refuses(&["overlay2", "29", start]);
    for (config, driver) in [
        (
            r#"{"features":{"containerd-snapshotter":false}}"#,
            "overlay2",
        ),
        (r#"{"storage-driver":"overlay2"}"#, "overlay2"),
        (r#"{"storage-driver":"vfs"}"#, "vfs"),
    ] {
        let world = World::new();
        world.store("root", driver);
        fs::remove_dir_all(world.path(&format!("root/{driver}"))).unwrap();
        world.config(config);
        assert_eq!(world.found(), pair("root", driver), "{config}");
    }
    let mut world = World::new();
    let root = format!("--data-root={}", world.path("root"));
    world = world.args(&[&root, "--feature", "containerd-migration=1"]);
    world.refuses(&["containerd-migration", start]);
    // A wrapper that starts dockerd may add options.
    world.systemd.service.exec_start = vec!["/opt/start".to_owned()];
    world.flags.data_root = Some(world.path("root").into());
    world.refuses(&["/opt/start", start]);
}

/// The running engine reports which store it uses. But the engine may migrate its images
/// at its next start.
#[test]
fn a_start_that_may_move_images_is_known() {
    let mut world = World::new().running("root", "overlay2");
    for (config, moves) in [
        ("{}", &[][..]),
        (
            r#"{"features":{"containerd-snapshotter":false,"cdi":true}}"#,
            &[],
        ),
        (
            r#"{"features":{"containerd-migration":true}}"#,
            &["containerd-migration"],
        ),
        (
            r#"{"features":{"containerd-snapshotter":true}}"#,
            &["containerd-snapshotter"],
        ),
    ] {
        world.config(config);
        assert_eq!(world.managed().moves_images(), moves, "{config}");
    }
    if let Some(info) = &mut world.engine {
        info.containerd_image_store = true;
    }
    assert_eq!(world.managed().moves_images(), [""; 0], "there already");
}

#[test]
fn a_remapped_root_of_a_stopped_docker() {
    let mut world = World::new();
    let root = format!("--data-root={}", world.path("remap"));
    fs::create_dir_all(world.path("remap/5.5")).unwrap();
    world = world.args(&[&root, "--userns-remap=default"]);
    world.refuses(&["userns-remap", "--data-root"]);
    world.store("remap/100.200", "overlay2");
    world.store("remap/1.x", "overlay2");
    world.store("remap", "vfs");
    assert_eq!(world.found(), pair("remap/100.200", "overlay2"));
    world.store("remap/300.400", "overlay2");
    world.refuses(&["userns-remap", "100.200", "300.400", "--data-root"]);
    world.flags.data_root = Some(world.path("remap/300.400").into());
    assert_eq!(world.found(), pair("remap/300.400", "overlay2"));

    world = world.args(&[&root]);
    world.flags.data_root = None;
    world.config(r#"{"userns-remap":""}"#);
    world.refuses(&["vfs", "systemctl start"]);
    world.config(r#"{"userns-remap":"","storage-driver":"vfs"}"#);
    assert_eq!(
        world.found(),
        pair("remap", "vfs"),
        "an empty setting counts as missing"
    );
}

#[test]
fn a_remapped_root_of_a_running_docker() {
    let mut world = World::new();
    world.store("remap/100.200", "overlay2");
    world.store("remap/300.400", "overlay2");
    let root = format!("--data-root={}", world.path("remap"));
    world.config(r#"{"userns-remap":"default"}"#);
    world = world.args(&[&root]).running("remap/100.200", "overlay2");
    for flag in [None, Some("remap"), Some("remap/100.200")] {
        world.flags.data_root = flag.map(|name| world.path(name).into());
        assert_eq!(world.found(), pair("remap/100.200", "overlay2"), "{flag:?}");
    }
    world.flags.data_root = Some(world.path("remap/300.400").into());
    world.refuses(&["the running engine", "your flag", "300.400"]);
    world.flags.data_root = None;
    world.config("{}");
    world.refuses(&["the running engine", "100.200"]);
}

#[test]
fn the_driver_is_the_one_that_somebody_says() {
    let mut world = World::new();
    world.store("root", "vfs");
    fs::create_dir(world.path("root/image/empty")).unwrap();
    world.refuses(&["--driver", "overlay2", "vfs"]);
    world.config(r#"{"storage-driver":"vfs"}"#);
    assert_eq!(world.found().1, "vfs");
    world.config(r#"{"storage-driver":""}"#);
    world.flags.driver = Some("vfs".to_owned());
    world.refuses(&["vfs", "systemctl start docker.service"]);
    world.flags.driver = Some("overlay2".to_owned());
    assert_eq!(world.found().1, "overlay2");
    world.flags.driver = None;
    world = world.running("root", "vfs");
    assert_eq!(world.found().1, "vfs");
}

#[test]
fn the_only_driver_with_references_is_taken() {
    let world = World::new();
    fs::create_dir(world.path("root/image/vfs")).unwrap();
    assert_eq!(world.found().1, "overlay2");
    fs::remove_file(world.path("root/image/overlay2/repositories.json")).unwrap();
    world.refuses(&[
        "no storage driver has image references",
        "containerd",
        "--data-root DIR",
    ]);
    fs::remove_dir_all(world.path("root/image")).unwrap();
    world.refuses(&[
        "root/image",
        "systemctl start docker.service",
        "--data-root DIR",
    ]);
}

#[test]
fn a_driver_that_is_not_a_directory_of_images() {
    let mut world = World::new();
    for name in [
        "",
        ".",
        "..",
        "../overlay2",
        "overlay2/",
        "overlay2/.",
        "/",
        "a\0b",
    ] {
        world.flags.driver = Some(name.to_owned());
        world.refuses(&["is not the name of a storage driver"]);
    }
    world.flags.driver = Some("btrfs".to_owned());
    world.refuses(&["image/btrfs", "no such directory", "--driver NAME"]);
    fs::write(world.path("root/image/btrfs"), "").unwrap();
    world.refuses(&["image/btrfs", "not a directory"]);
}

#[test]
fn a_data_root_that_is_none() {
    let mut world = World::new().args(&[]);
    world.flags.data_root = Some("relative".into());
    world.refuses(&["relative", "absolute"]);
    world.flags.data_root = Some(world.path("nowhere").into());
    world.refuses(&["nowhere", "no such directory", "--data-root DIR"]);
    world.flags.data_root = Some(world.path("daemon.json").into());
    world.refuses(&["daemon.json", "not a directory"]);
}

#[test]
fn a_stopped_unit_whose_data_root_is_in_use() {
    let mut world = World::new();
    let root = world.path("root");
    let pid = format!("process {}", std::process::id());
    let database = world.opened("root");
    world.systemd.owner = Some("mine.service");
    world.refuses(&[&root, &pid, "of mine.service", "--unit mine.service"]);
    world.systemd.owner = Some("docker.service");
    world.refuses(&[&pid, "although systemd says"]);
    world.systemd.owner = Some("session-1.scope");
    world.refuses(&[&pid, "session-1.scope", "end that process first"]);
    world.systemd.owner = None;
    world.refuses(&[&pid, "end that process first"]);
    drop(database);
    world.find().unwrap();
}

#[test]
fn a_running_unit_must_be_the_one_that_uses_the_data_root() {
    let mut world = World::new().running("root", "overlay2");
    let _database = world.opened("root");
    world.systemd.owner = Some("docker.service");
    world.find().unwrap();
    world.systemd.owner = Some("mine.service");
    world.refuses(&["mine.service", "does not belong to docker.service"]);
}

#[test]
fn a_probable_data_root_does_without_the_engine() {
    let mut world = World::new().unit("activating");
    world.store("root", "vfs");
    let probable = |world: &World| block_on(probable_data_root(&world.flags, &world.systemd));
    assert_eq!(probable(&world), Some(world.path("root").into()));
    world.systemd.service.exec_start = vec!["/usr/bin/snap".to_owned()];
    assert_eq!(probable(&world), None);
}

#[test]
fn offline_goes_by_flags_and_directories() {
    let world = World::new();
    let mut flags = Flags {
        data_root: Some(world.path("root").into()),
        config_file: Some(world.path("nowhere.json").into()),
        ..Flags::default()
    };
    let host = find_offline(&flags).unwrap();
    assert!(matches!(host.management, Management::Offline));
    assert_eq!(host.images.driver(), "overlay2");
    let sources: Vec<_> = host.sources.iter().map(|found| found.source).collect();
    assert_eq!(sources, ["your flag", "the only one there"]);

    flags.data_root = None;
    refuses(find_offline(&flags), &["nowhere.json", "your flag"]);
    flags.config_file = Some(world.path("daemon.json").into());
    world.config(&format!(r#"{{"data-root":"{}"}}"#, world.path("root")));
    let host = find_offline(&flags).unwrap();
    assert_eq!(
        host.sources.first().map(|found| found.source),
        Some("daemon.json")
    );
    world.config(r#"{"features":{"containerd-snapshotter":true}}"#);
    refuses(find_offline(&flags), &["containerd image store"]);
}

#[test]
fn what_is_broken_hides_nothing_else() {
    let mut world = World::new().running("other", "overlay2");
    world.store("other", "overlay2");
    world.config("{");
    world.add("docker.service", "active").transient = true;
    let errors = world.errors();
    assert_eq!(errors.len(), 3, "{errors:#?}");
    for (error, word) in errors.iter().zip(["transient", "not valid", "data root"]) {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn a_dockerd_that_is_just_starting_is_not_said_to_be_somebody_elses() {
    let world = World::new().unit("activating");
    let _dockerd = world.opened("root");
    let errors = world.errors();
    assert_eq!(errors.len(), 1, "{errors:#?}");
}
