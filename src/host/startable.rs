//! Startable: whether Docker would start again. digestfix checks this before it stops
//! Docker.
//!
//! The running dockerd proves that a start works with the files that it has read. What
//! has changed since then must be checked without a start. `dockerd --validate` (since
//! 23.0) and a reload of the running dockerd check some settings as a start would; only
//! `apply` causes a reload. If a change can be checked by neither of them, there is a
//! doubt, and digestfix does not stop Docker.

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

/// The inputs with which dockerd starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// The command line after its variables are replaced, beginning with the program.
    pub command: Vec<String>,
    pub names_config_file: bool,
    /// The configuration file that was read.
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
    /// Whether the running dockerd must reload its configuration file successfully before
    /// Docker is stopped.
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
    #[error("there is no {} any more", .0.display())]
    NoProgram(PathBuf),
    /// Files of the unit that have changed, and that no check covers.
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

/// Examines a running Docker. `recorded` returns the hash of the configuration file that
/// digestfix last saw this dockerd reload, or `None`.
pub async fn look(
    manager: &impl ServiceManager,
    host: &Managed,
    recorded: impl FnOnce(&EngineStart) -> Option<Digest>,
) -> Startable {
    let start = EngineStart::of(Path::new(PROC), host.service.main_pid, Path::new(PID_FILE));
    look_since(manager, host, start.as_ref(), recorded).await
}

/// Like [`look`], for a dockerd that started at this time.
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
    /// Adds doubts about a configuration file that has changed and that `--validate` did
    /// not refuse.
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
    /// Whether the file still has the content that the check covered.
    pub fn is_still(&self) -> bool {
        match DaemonJson::read(&self.path) {
            Ok(now) => now.and_then(|now| now.hash) == self.hash,
            Err(_) => false,
        }
    }
}

/// The unit's own files, and the program that the unit starts.
fn unit_files(host: &Managed) -> Vec<PathBuf> {
    let unit = &host.unit;
    let mut files: Vec<PathBuf> = [&unit.fragment_path]
        .into_iter()
        .chain(&unit.drop_in_paths)
        .filter(|path| !path.is_empty() && !is_rewritten(path))
        .map(PathBuf::from)
        .collect();
    files.extend(host.start.command.first().map(PathBuf::from));
    // If the running process has exactly this command line, the environment files still
    // define the same values for it.
    if !runs_as_given(host) {
        let environment = host.service.environment_files.iter();
        files.extend(environment.map(|(path, _)| PathBuf::from(path)));
    }
    files
}

/// Whether systemd itself rewrites the file. Generators write their files again at each
/// `daemon-reload`. `systemctl set-property` writes a file for a value that is already in
/// effect.
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

/// Whether the file may have changed since dockerd started. The `mtime` need not be
/// compared, because every change also sets the `ctime`.
fn has_changed(path: &Path, start: Option<&EngineStart>) -> bool {
    let looked = [fs::metadata(path), fs::symlink_metadata(path)];
    looked
        .iter()
        .flatten()
        .any(|file| start.is_none_or(|start| !start.comes_after_change_of(file)))
}

/// The reason why a reload of the running dockerd cannot check the file.
fn no_reload(host: &Managed) -> Option<String> {
    if (host.undone_by_reload.iter()).any(|option| option == AUTHORIZATION) {
        return Some(format!("a reload makes dockerd forget {AUTHORIZATION}"));
    }
    if host.leaves_proxy_to_be_found {
        let why = "some versions start with \"userland-proxy\": true without a \"userland-proxy-path\", but \
                   refuse to reload it";
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

/// The check that treats a setting as a start of dockerd does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToldBy {
    /// `--validate`, or a reload if dockerd does not have this option.
    Validate,
    /// A reload of the running dockerd.
    Reload,
    /// Only a start of dockerd.
    Start,
}

/// The check that covers a setting. Each setting was tested on 20.10.24, 26.1.5 and
/// 28.5.2 with two values: dockerd starts with one of them, and does not start with the
/// other. Settings that are not listed here count as checked only by a start.
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
        // An earlier check has already compared these settings with those of the running
        // engine.
        "data-root" | "graph" | "storage-driver" => true,
        // A reload of Docker 20.10 accepts any value.
        "log-level" => value.is_null() || is_one_of(value, &LOG_LEVELS),
        "log-driver" => is_one_of(value, &["", "json-file", "local", "journald"]),
        "log-opts" => value.is_null() || are_of_json_file(value, host),
        "exec-opts" => are_all(value, |one| is_one_of(one, &CGROUP_DRIVERS)),
        // A feature that concerns containerd selects another image store.
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

/// Options of the log driver `json-file`, which accepts any text as their value.
const JSON_FILE: [&str; 6] = ["compress", "env", "labels", "max-file", "max-size", "tag"];

fn is_one_of(value: &Value, known: &[&str]) -> bool {
    value.as_str().is_some_and(|value| known.contains(&value))
}

fn are_all(value: &Value, is_known: impl Fn(&Value) -> bool) -> bool {
    value
        .as_array()
        .is_some_and(|values| values.iter().all(is_known))
}

/// Whether the log driver `json-file` knows all the log options. dockerd checks their
/// names only when it starts, because they depend on the driver.
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
