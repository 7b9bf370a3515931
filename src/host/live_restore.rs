//! live-restore: whether containers keep running while Docker is stopped, and whether
//! digestfix can switch live-restore on temporarily.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::docker::engine::Info;
use crate::host::{AUTHORIZATION, Managed, is_dockerd, is_shim, program};
use crate::sys::shell;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveRestore {
    /// live-restore is on, and will be on after the next start of dockerd.
    On,
    /// live-restore is off, now or after the next start of dockerd, but digestfix can
    /// switch it on temporarily in this file.
    Switchable(PathBuf),
    Impossible(LiveRestoreBlocker),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LiveRestoreBlocker {
    /// A swarm node cannot use live-restore (moby `daemon/cluster/utils.go`).
    #[error("Docker is in swarm mode, which does not support live-restore")]
    Swarm,
    #[error(
        "the command line of {unit} has --live-restore=false, and dockerd refuses another value in daemon.json"
    )]
    Flag { unit: String },
    /// After a reload, dockerd uses only the authorization plugins that its configuration
    /// file names (moby `cmd/dockerd/daemon.go`, `reloadConfig`). In tests with 20.10,
    /// 26.1 and 28.5, Docker then allowed requests that the plugins had denied before.
    /// `docker info` still listed the plugins.
    #[error(
        "when Docker reloads its configuration, it forgets --authorization-plugin of {unit}, and then allows \
         every request"
    )]
    Authorization { unit: String },
    /// When Docker's unit stops, systemd would kill the containers, even with
    /// live-restore (`systemd.kill(5)`).
    #[error(
        "KillMode={kill_mode} of {unit} makes systemd kill the containers together with Docker"
    )]
    KillMode { unit: String, kill_mode: String },
    #[error(
        "the main process of {unit} is {program}, not dockerd, so digestfix cannot make dockerd reload its configuration"
    )]
    NotDockerd { unit: String, program: String },
    #[error("{path} cannot be changed: {error}", path = path.display())]
    Unwritable {
        /// The path of daemon.json. To replace daemon.json, digestfix has to create a new
        /// file in the same directory.
        path: PathBuf,
        error: String,
    },
}

impl LiveRestoreBlocker {
    pub fn help(&self) -> Option<String> {
        let word = shell::word;
        match self {
            Self::Swarm => None,
            Self::Flag { unit } => Some(format!(
                "remove the flag (systemctl edit --full {}); the change takes effect when Docker \
                 next restarts",
                word(unit)
            )),
            Self::Authorization { unit } => Some(format!(
                "move that option from the unit (systemctl edit --full {}) to \"authorization-plugins\" \
                 in Docker's configuration file; the change takes effect when Docker next restarts",
                word(unit)
            )),
            Self::KillMode { unit, .. } => Some(format!(
                "set KillMode=process (systemctl edit {})",
                word(unit)
            )),
            Self::NotDockerd { .. } | Self::Unwritable { .. } => Some(
                "switch live-restore on in Docker's configuration, so that containers keep running"
                    .to_owned(),
            ),
        }
    }
}

/// Examines a running Docker without changing it.
pub fn look(host: &Managed) -> LiveRestore {
    if kills_shims(host) {
        return LiveRestore::Impossible(LiveRestoreBlocker::KillMode {
            unit: host.unit.id.clone(),
            kill_mode: host.service.kill_mode.clone(),
        });
    }
    let engine = host.engine.clone().unwrap_or_default();
    if engine.live_restore && host.live_restore_at_start {
        return LiveRestore::On;
    }
    match blocker(host, &engine) {
        Some(blocker) => LiveRestore::Impossible(blocker),
        None => LiveRestore::Switchable(host.config_file.clone()),
    }
}

fn blocker(host: &Managed, engine: &Info) -> Option<LiveRestoreBlocker> {
    let unit = host.unit.id.clone();
    if engine.swarm {
        return Some(LiveRestoreBlocker::Swarm);
    }
    if host.live_restore_flag.is_some() {
        return Some(LiveRestoreBlocker::Flag { unit });
    }
    if (host.undone_by_reload.iter()).any(|option| option == AUTHORIZATION) {
        return Some(LiveRestoreBlocker::Authorization { unit });
    }
    reload_hindrance(host)
}

/// The reason why Docker cannot reload a temporarily changed daemon.json.
pub(crate) fn reload_hindrance(host: &Managed) -> Option<LiveRestoreBlocker> {
    let program = program(host.service.main_pid);
    if !is_dockerd(&program) {
        return Some(LiveRestoreBlocker::NotDockerd {
            unit: host.unit.id.clone(),
            program,
        });
    }
    unwritable(&host.config_file)
}

/// Checks that the file's directory is writable, because digestfix replaces the file by a
/// new one in that directory. If the directory is missing, checks the nearest parent
/// directory that exists.
fn unwritable(config_file: &Path) -> Option<LiveRestoreBlocker> {
    let mut directory = config_file.parent()?;
    while !directory.exists() {
        directory = directory.parent()?;
    }
    let error = access(directory, AccessFlags::W_OK).err()?;
    Some(LiveRestoreBlocker::Unwritable {
        path: config_file.to_owned(),
        error: io::Error::from(error).to_string(),
    })
}

/// Whether stopping the unit kills containers. If dockerd starts its own containerd, the
/// shims of the containers are in the unit's control group. In this case, `KillMode=`
/// decides whether systemd kills the shims (`systemd.kill(5)`).
fn kills_shims(host: &Managed) -> bool {
    matches!(host.service.kill_mode.as_str(), "control-group" | "mixed")
        && !host.service.control_group.is_empty()
        && [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/systemd",
            "/sys/fs/cgroup/unified",
        ]
        .iter()
        .any(|mount| has_shim(Path::new(&format!("{mount}{}", host.service.control_group))))
}

fn has_shim(control_group: &Path) -> bool {
    let Ok(processes) = fs::read_to_string(control_group.join("cgroup.procs")) else {
        return false;
    };
    processes
        .lines()
        .any(|pid| is_shim(pid.parse().unwrap_or_default()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::process::{Child, Command};

    use tempfile::TempDir;

    use super::*;
    use crate::host::{Flags, Start};
    use crate::systemd::{Service, Unit};

    /// A process with a given name, and a directory in which daemon.json can be created.
    struct World(TempDir, Child);

    impl World {
        fn new(program: &str) -> Self {
            let directory = TempDir::new().unwrap();
            let path = directory.path().join(program);
            std::os::unix::fs::symlink("/bin/sleep", &path).unwrap();
            let child = Command::new(path).arg("100").spawn().unwrap();
            // The process gets its new name a moment after `spawn` returns.
            let name = format!("/proc/{}/comm", child.id());
            while fs::read_to_string(&name).unwrap().trim() != program {
                std::thread::yield_now();
            }
            Self(directory, child)
        }

        fn host(&self) -> Managed {
            Managed {
                flags: Flags::default(),
                unit: Unit {
                    id: "docker.service".to_owned(),
                    ..Unit::default()
                },
                service: Service {
                    main_pid: self.1.id(),
                    ..Service::default()
                },
                engine: Some(Info::default()),
                socket: PathBuf::new(),
                config_file: self.0.path().join("etc/docker/daemon.json"),
                live_restore_flag: None,
                live_restore_at_start: false,
                forgotten_by_reload: Vec::new(),
                undone_by_reload: Vec::new(),
                leaves_proxy_to_be_found: false,
                start: Start::default(),
            }
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = self.1.kill();
            let _ = self.1.wait();
        }
    }

    #[test]
    fn what_the_next_dockerd_starts_with_counts_too() {
        let world = World::new("dockerd");
        let switchable = LiveRestore::Switchable(world.host().config_file);
        for (engine, at_start, expected) in [
            (true, true, &LiveRestore::On),
            (true, false, &switchable),
            (false, true, &switchable),
            (false, false, &switchable),
        ] {
            let mut host = world.host();
            host.live_restore_at_start = at_start;
            host.engine.as_mut().unwrap().live_restore = engine;
            assert_eq!(look(&host), *expected, "{engine} {at_start}");
        }
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let world = World::new("dockerd");
        let mut swarm = world.host();
        swarm.engine.as_mut().unwrap().swarm = true;
        assert_eq!(
            look(&swarm),
            LiveRestore::Impossible(LiveRestoreBlocker::Swarm)
        );
        let mut flag = world.host();
        flag.live_restore_flag = Some(false);
        assert!(matches!(
            look(&flag),
            LiveRestore::Impossible(LiveRestoreBlocker::Flag { .. })
        ));
        let mut open = world.host();
        open.undone_by_reload = vec!["--feature".to_owned()];
        assert!(matches!(look(&open), LiveRestore::Switchable(_)));
        open.undone_by_reload.push(AUTHORIZATION.to_owned());
        assert!(matches!(
            look(&open),
            LiveRestore::Impossible(LiveRestoreBlocker::Authorization { .. })
        ));
        open.live_restore_at_start = true;
        open.engine.as_mut().unwrap().live_restore = true;
        assert_eq!(look(&open), LiveRestore::On, "nothing is reloaded");
        let mut unwritable = world.host();
        unwritable.config_file = "/proc/sys/daemon.json".into();
        assert!(matches!(
            look(&unwritable),
            LiveRestore::Impossible(LiveRestoreBlocker::Unwritable { .. })
        ));
        assert!(matches!(
            look(&World::new("wrapper").host()),
            LiveRestore::Impossible(LiveRestoreBlocker::NotDockerd { .. })
        ));
    }
}
