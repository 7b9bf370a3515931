//! Startable: checks, before a stop of Docker, whether Docker would start again.
//!
//! The running dockerd has read its files and started. So a start works as long as these
//! files do not change, and only changed files need a check. For some settings, two
//! checks give the same result as a start of dockerd. One check is `dockerd --validate`
//! (since 23.0), and the other is a reload of the running dockerd. Among digestfix's
//! commands, only `apply` causes a reload. If neither check covers a change, digestfix
//! does not stop Docker, because Docker may not start again.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::host::Managed;
use crate::host::daemon::DEFAULT_CONFIG_FILE;
use crate::host::daemon_json::DaemonJson;
use crate::host::dockerd_args::{AUTHORIZATION, DockerdArgs};
use crate::host::engine_start::{EngineStart, PID_FILE, PROC};
use crate::host::programs::{is_dockerd, program};
use crate::image::digest::Digest;
use crate::systemd::ServiceManager;

mod validate;

use validate::Verdict;

/// The command line and the configuration with which dockerd starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// The command line with its variables replaced, beginning with the program.
    pub command: Vec<String>,
    pub names_config_file: bool,
    /// The content of dockerd's configuration file.
    pub config: DaemonJson,
}

impl Start {
    /// dockerd's directory for files that are lost at the next boot (`--exec-root`).
    pub fn exec_root(&self) -> PathBuf {
        let words = self.command.get(1..).unwrap_or_default();
        let flag = DockerdArgs::parse(words).exec_root;
        let member = self.config.members.get("exec-root");
        let value = flag.as_deref().or_else(|| member?.as_str());
        value.unwrap_or("/var/run/docker").into()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Startable {
    pub doubts: Vec<Doubt>,
    /// Whether the running dockerd must successfully reload its configuration file before
    /// digestfix stops Docker.
    pub needs_reload: bool,
    /// The configuration file that was checked. `None` if no check has run.
    pub checked: Option<Checked>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub path: PathBuf,
    /// The hash of the file's content. `None` if the file was missing.
    pub hash: Option<Digest>,
}

/// The reason why Docker may not start again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    #[error("{program} --validate says: {says}")]
    Refused { program: String, says: String },
    #[error("{} no longer exists", .0.display())]
    NoProgram(PathBuf),
    /// These files of the unit have changed, and no check covers the changes.
    #[error("{} changed after dockerd started", paths(.0))]
    Unit(Vec<PathBuf>),
    #[error(
        "{} changed after dockerd started, and only a start of Docker checks these settings: {}",
        path.display(),
        settings.join(", ")
    )]
    Settings {
        path: PathBuf,
        settings: Vec<String>,
    },
    #[error("{} changed after dockerd started, and cannot be checked: {why}", path.display())]
    Configuration { path: PathBuf, why: String },
}

impl Doubt {
    /// Whether Docker will certainly not start.
    pub const fn is_certain(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::NoProgram(_))
    }

    pub const fn is_of_configuration(&self) -> bool {
        !matches!(self, Self::Unit(_) | Self::NoProgram(_))
    }
}

fn paths(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(", ")
}

/// Examines a running Docker. `recorded` returns the hash of the configuration file at
/// this dockerd's last reload, if digestfix has recorded the hash.
pub async fn look(
    manager: &impl ServiceManager,
    host: &Managed,
    recorded: impl FnOnce(&EngineStart) -> Option<Digest>,
) -> Startable {
    let start = EngineStart::of(Path::new(PROC), host.service.main_pid, Path::new(PID_FILE));
    look_since(manager, host, start.as_ref(), recorded).await
}

/// Does the work of [`look`] for a dockerd with this start time.
async fn look_since(
    manager: &impl ServiceManager,
    host: &Managed,
    start: Option<&EngineStart>,
    recorded: impl FnOnce(&EngineStart) -> Option<Digest>,
) -> Startable {
    let mut found = Startable {
        checked: Some(Checked {
            path: host.config_file.clone(),
            hash: host.start.config.hash.clone(),
        }),
        ..Startable::default()
    };
    let program = host.start.command.first().map(PathBuf::from);
    if let Some(program) = program.filter(|program| program.is_absolute() && !program.exists()) {
        found.doubts.push(Doubt::NoProgram(program));
        return found;
    }
    let unit: Vec<PathBuf> = unit_files(host)
        .into_iter()
        .filter(|path| has_changed(path, start))
        .collect();
    let config = has_changed(&host.config_file, start)
        && start.and_then(recorded).as_ref() != host.start.config.hash.as_ref();
    if unit.is_empty() && !config {
        return found;
    }
    let verdict = validate::ask(manager, host).await;
    if let Verdict::Refused { program, says } = verdict {
        found.doubts.push(Doubt::Refused { program, says });
        return found;
    }
    if !unit.is_empty() {
        found.doubts.push(Doubt::Unit(unit));
    }
    if config {
        found.configuration(host, &verdict);
    }
    found
}

impl Startable {
    /// Adds doubts about a changed configuration file that `--validate` did not refuse.
    fn configuration(&mut self, host: &Managed, verdict: &Verdict) {
        let path = host.config_file.clone();
        let left: Vec<String> = (host.start.config.members.iter())
            .filter(|(name, value)| told_by(name, value, host) == ToldBy::Start)
            .map(|(name, _)| name.clone())
            .collect();
        if !left.is_empty() {
            let settings = left;
            self.doubts.push(Doubt::Settings { path, settings });
            self.needs_reload = no_reload(host).is_none();
            return;
        }
        let mut members = host.start.config.members.iter();
        let validated = matches!(verdict, Verdict::Passed)
            && members.all(|(name, value)| told_by(name, value, host) == ToldBy::Validate);
        match (no_reload(host), verdict) {
            (None, Verdict::Unknown(why)) => {
                let why = why.clone();
                self.doubts.push(Doubt::Configuration { path, why });
                self.needs_reload = true;
            }
            (None, _) => self.needs_reload = true,
            (Some(_), _) if validated => {}
            (Some(why), _) => self.doubts.push(Doubt::Configuration { path, why }),
        }
    }
}

impl Checked {
    /// Whether the file still has the content that was checked.
    pub fn is_still(&self) -> bool {
        match DaemonJson::read(&self.path) {
            Ok(now) => now.and_then(|now| now.hash) == self.hash,
            Err(_) => false,
        }
    }
}

/// The files that a start of the unit depends on: unit file, drop-ins, program, and
/// environment files.
fn unit_files(host: &Managed) -> Vec<PathBuf> {
    let unit = &host.unit;
    let mut files: Vec<PathBuf> = [&unit.fragment_path]
        .into_iter()
        .chain(&unit.drop_in_paths)
        .filter(|path| !path.is_empty() && !is_rewritten(path))
        .map(PathBuf::from)
        .collect();
    files.extend(host.start.command.first().map(PathBuf::from));
    // If the running process has exactly the unit's command line, then the values that
    // this command line takes from the environment files have not changed.
    if !runs_as_given(host) {
        let environment = host.service.environment_files.iter();
        files.extend(environment.map(|(path, _)| PathBuf::from(path)));
    }
    files
}

/// Whether systemd itself rewrites the file. A generator writes its files again at each
/// `daemon-reload`. `systemctl set-property` also writes a file, but the value in that
/// file is already in effect.
fn is_rewritten(path: &str) -> bool {
    path.contains("/systemd/generator") || path.contains("/systemd/system.control/")
}

fn runs_as_given(host: &Managed) -> bool {
    let cmdline = Path::new(PROC)
        .join(host.service.main_pid.to_string())
        .join("cmdline");
    let given: Vec<u8> = (host.start.command.iter())
        .flat_map(|word| word.bytes().chain([0]))
        .collect();
    fs::read(cmdline).is_ok_and(|running| running == given)
}

/// Whether the file may have changed since dockerd started. Comparing the `ctime` is
/// enough, because every change of a file updates the `ctime`.
fn has_changed(path: &Path, start: Option<&EngineStart>) -> bool {
    let looked = [fs::metadata(path), fs::symlink_metadata(path)];
    looked
        .iter()
        .flatten()
        .any(|file| start.is_none_or(|start| !start.comes_after_change_of(file)))
}

/// The reason why digestfix cannot check the file by a reload of the running dockerd.
fn no_reload(host: &Managed) -> Option<String> {
    if (host.undone_by_reload.iter()).any(|option| option == AUTHORIZATION) {
        return Some(format!("a reload makes dockerd forget {AUTHORIZATION}"));
    }
    if host.leaves_proxy_to_be_found {
        let why = "some versions of dockerd start with \"userland-proxy\": true without a \
                   \"userland-proxy-path\", but refuse a reload";
        return Some(why.to_owned());
    }
    if is_dockerd(&program(host.service.main_pid)) {
        return None;
    }
    Some(format!(
        "the main process of {} is not dockerd",
        host.unit.id
    ))
}

/// The check that judges a setting in the same way as a start of dockerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToldBy {
    /// `--validate`, or a reload if this dockerd has no option `--validate`.
    Validate,
    /// A reload of the running dockerd.
    Reload,
    /// Only a start of dockerd shows whether the setting is valid.
    Start,
}

/// The check that covers a setting. Each setting was tested on 20.10.24, 26.1.5 and
/// 28.5.2 with a valid value and with a value that prevents a start. For a setting that
/// is not listed here, only a start of dockerd counts as a check.
fn told_by(name: &str, value: &Value, host: &Managed) -> ToldBy {
    let is_told = match name {
        "registry-mirrors" | "insecure-registries" | "default-runtime" | "runtimes" => {
            return ToldBy::Reload;
        }
        "debug"
        | "default-cgroupns-mode"
        | "default-ipc-mode"
        | "default-shm-size"
        | "default-ulimits"
        | "dns"
        | "dns-opts"
        | "dns-search"
        | "experimental"
        | "init"
        | "labels"
        | "live-restore"
        | "max-concurrent-downloads"
        | "max-concurrent-uploads"
        | "max-download-attempts"
        | "no-new-privileges"
        | "raw-logs"
        | "shutdown-timeout"
        | "swarm-default-advertise-addr"
        | "userland-proxy" => true,
        // An earlier check has already compared these settings with the settings of the
        // running engine.
        "data-root" | "graph" | "storage-driver" => true,
        // A reload of Docker 20.10 accepts any log level, even an invalid one.
        "log-level" => value.is_null() || is_one_of(value, &LOG_LEVELS),
        "log-driver" => is_one_of(value, &["", "json-file", "local", "journald"]),
        "log-opts" => value.is_null() || are_of_json_file(value, host),
        "exec-opts" => are_all(value, |one| is_one_of(one, &CGROUP_DRIVERS)),
        // A feature for containerd selects another image store. Only a start of dockerd
        // checks this setting.
        "features" => value.as_object().is_some_and(|features| {
            features
                .keys()
                .all(|feature| !feature.starts_with("containerd"))
        }),
        _ => false,
    };
    if is_told {
        ToldBy::Validate
    } else {
        ToldBy::Start
    }
}

const LOG_LEVELS: [&str; 6] = ["", "debug", "info", "warn", "error", "fatal"];

const CGROUP_DRIVERS: [&str; 2] = [
    "native.cgroupdriver=systemd",
    "native.cgroupdriver=cgroupfs",
];

/// Options of the log driver `json-file`. The driver accepts any text as the value of
/// these options.
const JSON_FILE: [&str; 6] = ["compress", "env", "labels", "max-file", "max-size", "tag"];

fn is_one_of(value: &Value, known: &[&str]) -> bool {
    value.as_str().is_some_and(|value| known.contains(&value))
}

fn are_all(value: &Value, is_known: impl Fn(&Value) -> bool) -> bool {
    value
        .as_array()
        .is_some_and(|values| values.iter().all(is_known))
}

/// Whether the log driver is `json-file` and knows all the log options. The valid names
/// depend on the driver, and dockerd checks them only when it starts.
fn are_of_json_file(value: &Value, host: &Managed) -> bool {
    let driver = host.start.config.members.get("log-driver");
    let is_its = driver.is_none_or(|driver| is_one_of(driver, &["", "json-file"]));
    let is_a_flag = |word: &String| word.starts_with("--log-driver");
    is_its
        && !host.start.command.iter().any(is_a_flag)
        && value.as_object().is_some_and(|options| {
            (options.iter())
                .all(|(name, value)| JSON_FILE.contains(&name.as_str()) && value.is_string())
        })
}

/// The command that validates the configuration: the unit's command plus `--validate`.
fn validating(host: &Managed) -> Vec<String> {
    let mut command = host.start.command.clone();
    command.insert(1, "--validate".to_owned());
    if !host.start.names_config_file && host.config_file != Path::new(DEFAULT_CONFIG_FILE) {
        command.insert(2, format!("--config-file={}", host.config_file.display()));
    }
    command
}
