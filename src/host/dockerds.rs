//! The dockerds that run on this host, under any unit and any user.

use std::fs;
use std::path::{Path, PathBuf};

use crate::host::daemon_json::DaemonJson;
use crate::host::dockerd_args::DockerdArgs;
use crate::host::programs::{is_dockerd, words};
use crate::host::{Flags, Host, HostError, Management, StoreChoice};
use crate::sys::{shell, who};
use crate::systemd::Unit;

/// The default data root of a rootless Docker, relative to its user's home directory.
const OF_A_HOME: &str = ".local/share/docker";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dockerd {
    /// A dockerd that this system service runs.
    OfUnit(String),
    /// A dockerd that a user runs without root.
    Rootless(Rootless),
}

/// A rootless Docker, which a user runs without root (`systemctl --user`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootless {
    pub uid: u32,
    /// The user's name, or the user ID if the name is unknown.
    pub user: String,
    pub data_root: PathBuf,
    /// The user's service that runs this Docker. `None` if this Docker is stopped, or was
    /// started by hand.
    pub unit: Option<String>,
    /// Whether this Docker belongs to the user who runs digestfix, directly or through
    /// sudo.
    pub is_own: bool,
}

impl Rootless {
    /// Shell commands that stop this Docker, run the command `line`, and start this
    /// Docker again. If no systemd unit runs this Docker, returns the command `line`
    /// alone.
    pub fn commands(&self, line: &str) -> String {
        let prefix = match self.is_own {
            true => "",
            false => &format!(
                "runuser -u {} -- env XDG_RUNTIME_DIR=/run/user/{} ",
                shell::word(&self.user),
                self.uid
            ),
        };
        let line = match self.is_own {
            true => line,
            false => &format!("runuser -u {} -- {line}", shell::word(&self.user)),
        };
        let unit = self.unit.as_deref().map(shell::word);
        match unit {
            Some(unit) => format!(
                "{prefix}systemctl --user stop {unit}; {line}; {prefix}systemctl --user start {unit}"
            ),
            None => line.to_owned(),
        }
    }

    /// The digestfix options that select this Docker's data root.
    pub fn options(&self) -> [&str; 3] {
        let data_root = self.data_root.to_str().unwrap_or_default();
        ["--offline", "--data-root", data_root]
    }

    /// The digestfix options that select this Docker's data root, quoted for a shell.
    pub fn options_in_words(&self) -> String {
        self.options().map(shell::word).join(" ")
    }
}

impl Dockerd {
    /// The dockerds that run on this host. `proc` is the path of the proc file system.
    pub fn running(proc: &Path) -> Vec<Self> {
        let processes = fs::read_dir(proc).into_iter().flatten().flatten();
        let processes = processes.filter_map(|entry| {
            let name = entry.file_name();
            let is_process = name.to_str()?.bytes().all(|byte| byte.is_ascii_digit());
            is_process.then(|| entry.path())
        });
        let own = fs::read_link(proc.join("self/ns/pid")).ok();
        let mut found: Vec<Self> = Vec::new();
        for process in processes {
            let Some(one) = dockerd(&process) else {
                continue;
            };
            // Skip a dockerd that runs in a container, because it is not the Docker of
            // this host.
            let namespace = fs::read_link(process.join("ns/pid")).ok();
            let is_here = namespace.is_none() || own.is_none() || namespace == own;
            if is_here && !found.contains(&one) {
                found.push(one);
            }
        }
        found.sort_by_key(|one| matches!(one, Self::Rootless(_)));
        found
    }

    const fn rootless(&self) -> Option<&Rootless> {
        match self {
            Self::Rootless(rootless) => Some(rootless),
            Self::OfUnit(_) => None,
        }
    }

    fn unit(&self) -> Option<&str> {
        match self {
            Self::OfUnit(unit) => Some(unit),
            Self::Rootless(_) => None,
        }
    }
}

fn dockerd(process: &Path) -> Option<Dockerd> {
    let read = |name| fs::read_to_string(process.join(name)).ok();
    if !is_dockerd(read("comm")?.trim_end()) {
        return None;
    }
    let uid = uid(&read("status")?)?;
    let groups = read("cgroup").unwrap_or_default();
    if uid == 0 {
        return who::service(&groups).map(Dockerd::OfUnit);
    }
    let user = User::of(uid);
    Some(Dockerd::Rootless(Rootless {
        uid,
        data_root: data_root(process, user.as_ref())?,
        user: user.map_or_else(|| uid.to_string(), |user| user.name),
        unit: who::user_service(&groups),
        is_own: is_own(uid),
    }))
}

fn uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Whether this user runs digestfix, directly or through sudo.
fn is_own(uid: u32) -> bool {
    let real = nix::unistd::getuid().as_raw();
    let by_sudo = std::env::var("SUDO_UID")
        .ok()
        .and_then(|uid| uid.parse().ok());
    real == uid || by_sudo == Some(uid)
}

/// The data root of a user's dockerd, according to its command line, its configuration
/// file, or its environment.
fn data_root(process: &Path, user: Option<&User>) -> Option<PathBuf> {
    let line = words(&process.join("cmdline")).unwrap_or_default();
    let args = DockerdArgs::parse(line.get(1..).unwrap_or_default());
    let environment = words(&process.join("environ")).unwrap_or_default();
    let variable = |name: &str| {
        let mut set = environment.iter();
        set.find_map(|one| one.strip_prefix(name)?.strip_prefix('=').map(PathBuf::from))
    };
    let home = variable("HOME").or_else(|| Some(user?.home.clone()));
    let said = args.data_root.map(PathBuf::from).or_else(|| {
        let default = || Some(home.as_ref()?.join(".config/docker/daemon.json"));
        let file = args.config_file.map(PathBuf::from).or_else(default)?;
        let config = DaemonJson::read(&file).ok()??;
        config.root().map(PathBuf::from)
    });
    said.or_else(|| Some(variable("XDG_DATA_HOME")?.join("docker")))
        .or_else(|| Some(home?.join(OF_A_HOME)))
}

/// A user in /etc/passwd. digestfix does not ask the host's name services, because they
/// may have to ask a server.
struct User {
    name: String,
    home: PathBuf,
}

impl User {
    fn of(uid: u32) -> Option<Self> {
        let list = fs::read_to_string("/etc/passwd").ok()?;
        list.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, number, _, _, home, ..] = fields.as_slice() else {
                return None;
            };
            (number.parse() == Ok(uid)).then(|| Self {
                name: (*name).to_owned(),
                home: PathBuf::from(home),
            })
        })
    }
}

/// The rootless Docker of the user who runs digestfix, even if this Docker is stopped.
/// `None` if the user has no rootless Docker.
pub fn own_rootless(dockerds: &[Dockerd]) -> Option<Rootless> {
    let mut running = dockerds.iter().filter_map(Dockerd::rootless);
    if let Some(own) = running.find(|one| one.is_own) {
        return Some(own.clone());
    }
    let uid = nix::unistd::getuid().as_raw();
    let user = User::of(uid)?;
    let data_root = user.home.join(OF_A_HOME);
    if !data_root.join("image").is_dir() {
        return None;
    }
    Some(Rootless {
        uid,
        user: user.name,
        data_root,
        unit: None,
        is_own: true,
    })
}

/// The running rootless Docker with this data root.
pub fn rootless_at<'a>(data_root: &Path, dockerds: &'a [Dockerd]) -> Option<&'a Rootless> {
    let mut rootless = dockerds.iter().filter_map(Dockerd::rootless);
    rootless.find(|one| one.data_root == data_root)
}

/// Returns the host that was found. If its Docker is stopped while another dockerd is
/// running, returns an error, because digestfix does not guess which Docker the user
/// means. Calls `dockerds` only if Docker is not running, because `dockerds` looks at
/// every process.
pub fn unambiguous(
    found: Result<Host, HostError>,
    flags: &Flags,
    dockerds: impl FnOnce() -> Vec<Dockerd>,
) -> Result<Host, HostError> {
    let away = match &found {
        Ok(Host {
            management: Management::Managed(managed),
            ..
        }) => Away::unit(&managed.unit, None),
        Ok(_) => None,
        Err(error) => Away::error(error),
    };
    match away.and_then(|away| away.ambiguity(flags, &dockerds())) {
        Some(error) => Err(error),
        None => found.map_err(seen),
    }
}

/// If Docker's program is no longer installed, says so in the error about a stopped
/// Docker.
pub(super) fn seen(error: HostError) -> HostError {
    match error {
        HostError::Stopped(stopped) => HostError::Stopped(stopped.or_removed()),
        other => other,
    }
}

/// The reason why the system's own Docker is not running.
pub(super) enum Away {
    /// The unit with this name is stopped.
    Stopped(String),
    /// The unit with this name is missing or masked, and no other unit for Docker is
    /// known.
    NoUnit(String),
}

impl Away {
    pub fn unit(unit: &Unit, error: Option<&HostError>) -> Option<Self> {
        match error {
            None if !unit.is_active() => Some(Self::Stopped(unit.id.clone())),
            None => None,
            Some(error) => Self::error(error),
        }
    }

    pub fn error(error: &HostError) -> Option<Self> {
        match error {
            HostError::Stopped(stopped) => Some(Self::Stopped(stopped.unit.clone())),
            HostError::NoUnit { unit, .. } | HostError::UnusableUnit { unit, .. } => error
                .is_without_docker()
                .then(|| Self::NoUnit(unit.clone())),
            _ => None,
        }
    }

    /// Returns an error if another dockerd is running, so that it is unclear which Docker
    /// the user means. Returns `None` if no other dockerd is running, or if the user has
    /// selected a Docker with an option (for example `--unit`).
    pub fn ambiguity(self, flags: &Flags, dockerds: &[Dockerd]) -> Option<HostError> {
        let (Self::Stopped(own) | Self::NoUnit(own)) = &self;
        // If an administrator masks a unit while its dockerd runs, dockerd keeps running.
        // So a masked unit may still run.
        let runs = dockerds.iter().any(|one| one.unit() == Some(own));
        if runs || flags.choice() == Some(StoreChoice::Docker) {
            return None;
        }
        let units = dockerds.iter().filter_map(Dockerd::unit);
        let units: Vec<String> = units.map(str::to_owned).collect();
        let rootless = dockerds.iter().find_map(Dockerd::rootless).cloned();
        Some(match self {
            Self::Stopped(unit) if !units.is_empty() => HostError::Ambiguous {
                question: format!("{unit} is not running, but another Docker is"),
                flag: "--unit",
                candidates: [vec![unit], units].concat(),
            },
            Self::NoUnit(unit) if !units.is_empty() => HostError::NoUnit {
                unit,
                others: units,
                instead: Vec::new(),
            },
            Self::Stopped(unit) => HostError::Rootless {
                rootless: Box::new(rootless?),
                unit: Some(unit),
            },
            Self::NoUnit(_) => HostError::Rootless {
                rootless: Box::new(rootless?),
                unit: None,
            },
        })
    }
}

/// Describes each running dockerd that does not belong to `unit`, with the command that
/// shows its images.
pub fn beside(unit: &str, dockerds: &[Dockerd]) -> Vec<String> {
    let others = dockerds.iter().filter(|one| one.unit() != Some(unit));
    others
        .map(|one| match one {
            Dockerd::OfUnit(unit) => format!(
                "{unit} also runs a Docker here, which has other images; to see those images: digestfix status \
                 --unit {}",
                shell::word(unit)
            ),
            Dockerd::Rootless(rootless) => format!(
                "{} also runs a rootless Docker here, which has other images; to see those images, run as \
                 user {}: digestfix status {}",
                rootless.user,
                rootless.user,
                rootless.options_in_words()
            ),
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::host::next_store::{Stopped, Unsure};

    /// Creates the files that a process has below `/proc` (`proc(5)`).
    fn process(proc: &Path, pid: u32, uid: u32, group: &str, words: &[&str], environment: &[&str]) {
        let directory = proc.join(pid.to_string());
        fs::create_dir_all(&directory).unwrap();
        let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
        let name = words[0].rsplit('/').next().unwrap();
        write("comm", &format!("{name}\n"));
        write("status", &format!("Name:\t{name}\nUid:\t{uid}\t0\t0\t0\n"));
        write("cgroup", &format!("0::{group}\n"));
        write("cmdline", &(words.join("\0") + "\0"));
        write("environ", &(environment.join("\0") + "\0"));
    }

    const OF_ALICE: &str = "/user.slice/user-4711.slice/user@4711.service/app.slice/docker.service";

    #[test]
    fn each_dockerd_is_its_units_or_its_users() {
        let proc = tempfile::tempdir().unwrap();
        let proc = proc.path();
        let system = "/system.slice/docker.service";
        process(proc, 1, 0, "/init.scope", &["systemd"], &[]);
        process(
            proc,
            2,
            0,
            system,
            &["/usr/bin/dockerd", "-H", "fd://"],
            &[],
        );
        process(
            proc,
            3,
            0,
            "/system.slice/docker-b.service",
            &["dockerd"],
            &[],
        );
        // This dockerd runs in a container that shares the host's PID namespace.
        process(
            proc,
            4,
            0,
            "/system.slice/docker-1f.scope",
            &["dockerd"],
            &[],
        );
        process(proc, 5, 4711, OF_ALICE, &["dockerd"], &["HOME=/home/alice"]);
        process(
            proc,
            6,
            4712,
            "/user.slice/user-4712.slice/session-1.scope",
            &["dockerd", "--data-root=/srv/d"],
            &[],
        );
        let found = Dockerd::running(proc);
        let units: Vec<_> = found.iter().filter_map(Dockerd::unit).collect();
        assert_eq!(units.len(), 2, "{found:?}");
        let rootless: Vec<_> = found.iter().filter_map(Dockerd::rootless).collect();
        let mut told: Vec<_> = rootless
            .iter()
            .map(|one| {
                (
                    one.user.as_str(),
                    one.unit.as_deref(),
                    one.data_root.to_str().unwrap(),
                )
            })
            .collect();
        told.sort();
        assert_eq!(
            told,
            [
                (
                    "4711",
                    Some("docker.service"),
                    "/home/alice/.local/share/docker"
                ),
                ("4712", None, "/srv/d"),
            ]
        );
        let beside = beside("docker.service", &found);
        assert_eq!(beside.len(), 3, "{beside:?}");
        assert!(
            beside
                .iter()
                .any(|line| line.contains("--unit docker-b.service"))
        );
    }

    fn alice(is_own: bool, unit: Option<&str>) -> Rootless {
        Rootless {
            uid: 4711,
            user: "alice".to_owned(),
            data_root: "/home/alice/.local/share/docker".into(),
            unit: unit.map(str::to_owned),
            is_own,
        }
    }

    #[test]
    fn a_rootless_docker_is_stopped_by_its_user() {
        let line = "digestfix apply a:1@D --offline";
        let unit = Some("docker.service");
        assert_eq!(
            alice(true, unit).commands(line),
            "systemctl --user stop docker.service; digestfix apply a:1@D --offline; systemctl --user start \
             docker.service"
        );
        let by_root = alice(false, unit).commands(line);
        let begins = "runuser -u alice -- env XDG_RUNTIME_DIR=/run/user/4711 systemctl --user stop docker.service; \
                      runuser -u alice -- digestfix apply a:1@D --offline; runuser";
        assert!(by_root.starts_with(begins), "{by_root}");
        assert_eq!(alice(true, None).commands(line), line);
    }

    #[test]
    fn which_docker_is_meant_is_not_guessed() {
        let flags = Flags::default();
        let none = || {
            Err(HostError::NoUnit {
                unit: "docker.service".to_owned(),
                others: Vec::new(),
                instead: Vec::new(),
            })
        };
        let rootless = Dockerd::Rootless(alice(true, Some("docker.service")));
        let two = [
            Dockerd::OfUnit("docker-b.service".to_owned()),
            rootless.clone(),
        ];
        let refused = |found, dockerds: &[Dockerd]| {
            let error = unambiguous(found, &flags, || dockerds.to_vec()).unwrap_err();
            format!("{error}. {}", error.help().unwrap())
        };
        let told = refused(none(), &two);
        assert!(told.contains("--unit docker-b.service"), "{told}");
        let told = refused(none(), &[rootless]);
        assert!(
            told.contains("systemctl --user stop docker.service"),
            "{told}"
        );
        let masked = Err(HostError::UnusableUnit {
            unit: "docker.service".to_owned(),
            load_state: "masked".to_owned(),
        });
        let own = Dockerd::OfUnit("docker.service".to_owned());
        let told = refused(masked, &[own, two[0].clone()]);
        assert!(told.contains("as masked"), "{told}");
        let told = refused(none(), &[]);
        assert!(told.contains("no unit docker.service"), "{told}");
        let stopped = || {
            Err(HostError::Stopped(Stopped {
                unit: "docker.service".to_owned(),
                why: Unsure::Containerd,
                program: None,
            }))
        };
        let told = refused(stopped(), &two);
        assert!(
            told.contains("--unit docker.service; or: --unit docker-b.service"),
            "{told}"
        );
        let told = refused(stopped(), &two[1..]);
        assert!(told.contains("rootless and belongs to you"), "{told}");
        assert!(told.contains("--unit docker.service"), "{told}");
        let removed = HostError::Stopped(Stopped {
            unit: "docker.service".to_owned(),
            why: Unsure::Containerd,
            program: Some("/nowhere/dockerd".into()),
        });
        let told = refused(Err(removed), &[]);
        assert!(
            told.contains("Docker was removed, but its unit is still there"),
            "{told}"
        );
        let meant = Flags {
            unit: Some("docker.service".to_owned()),
            ..Flags::default()
        };
        let told = unambiguous(stopped(), &meant, || two.to_vec())
            .unwrap_err()
            .to_string();
        assert!(!told.contains("alice"), "{told}");
    }
}
