//! Whether Docker would start again, asked before it is stopped.
//!
//! The running dockerd shows that a start works with the files that it read.
//! What has changed since then is judged by what can be asked without a start:
//! `dockerd --validate` (23.0 on), a reload that the running dockerd takes
//! (only `apply` sends one), and the settings that these two check as a start
//! does. What none of them can tell is a doubt, and Docker is not stopped.

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

/// What a start of dockerd goes by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Start {
    /// The command line, its variables replaced; the program first.
    pub command: Vec<String>,
    pub names_config_file: bool,
    /// The configuration file, as it was read.
    pub config: DaemonJson,
}

impl Start {
    /// Where dockerd keeps what lasts until the next boot (`--exec-root`).
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
    /// The running dockerd has to read its configuration file, and to be seen
    /// taking it, before Docker is stopped.
    pub needs_reload: bool,
    /// The configuration file that this is about. None before it is checked.
    pub checked: Option<Checked>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub path: PathBuf,
    /// Its content; none when it was not there.
    pub hash: Option<Digest>,
}

/// Why it is not known that Docker would start again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    #[error("{program} --validate says: {says}")]
    Refused { program: String, says: String },
    #[error("there is no {} any more", .0.display())]
    NoProgram(PathBuf),
    /// Files of the unit. Nothing can check them.
    #[error("changed after dockerd started: {}", paths(.0))]
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
    /// Docker would not start: nothing is left to chance.
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

/// Looks at a Docker that runs. `recorded` is the configuration file that
/// digestfix has seen this dockerd take, where there is one.
pub async fn look(
    manager: &impl ServiceManager,
    host: &Managed,
    recorded: impl FnOnce(&EngineStart) -> Option<Digest>,
) -> Startable {
    let start = EngineStart::of(Path::new(PROC), host.service.main_pid, Path::new(PID_FILE));
    look_since(manager, host, start.as_ref(), recorded).await
}

/// The same, for a dockerd that began then.
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
    /// The configuration file has changed, and dockerd has not refused it.
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
    /// The file is what was looked at.
    pub fn is_still(&self) -> bool {
        match DaemonJson::read(&self.path) {
            Ok(now) => now.and_then(|now| now.hash) == self.hash,
            Err(_) => false,
        }
    }
}

/// The unit's own files, and the program that it starts.
fn unit_files(host: &Managed) -> Vec<PathBuf> {
    let unit = &host.unit;
    let mut files: Vec<PathBuf> = [&unit.fragment_path]
        .into_iter()
        .chain(&unit.drop_in_paths)
        .filter(|path| !path.is_empty() && !is_rewritten(path))
        .map(PathBuf::from)
        .collect();
    files.extend(host.start.command.first().map(PathBuf::from));
    // Where all that it starts is what runs, the files with its variables say
    // the same as then.
    if !runs_as_given(host) {
        let environment = host.service.environment_files.iter();
        files.extend(environment.map(|(path, _)| PathBuf::from(path)));
    }
    files
}

/// Generators write theirs anew at each `daemon-reload`, and what `systemctl
/// set-property` writes is in force already.
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

/// It may not be what it was when dockerd started. A later `mtime` comes with a
/// later `ctime`.
fn has_changed(path: &Path, start: Option<&EngineStart>) -> bool {
    let looked = [fs::metadata(path), fs::symlink_metadata(path)];
    looked
        .iter()
        .flatten()
        .any(|file| start.is_none_or(|start| !start.comes_after_change_of(file)))
}

/// Why the running dockerd cannot be asked whether it takes the file.
fn no_reload(host: &Managed) -> Option<String> {
    if (host.undone_by_reload.iter()).any(|option| option == AUTHORIZATION) {
        return Some(format!("a reload makes dockerd forget {AUTHORIZATION}"));
    }
    if host.leaves_proxy_to_be_found {
        let why = "some versions refuse a reload for \"userland-proxy\": true without a \
                   \"userland-proxy-path\", and start with it";
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

/// Who checks a setting as a start does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ToldBy {
    /// `--validate`. A dockerd without that option: a reload.
    Validate,
    /// A reload.
    Reload,
    /// Only a start.
    Start,
}

/// Tried on 20.10.24, 26.1.5 and 28.5.2: with a value that dockerd does not
/// start with, and with one that it does. A setting that is not here is left to
/// a start.
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
        // They were found to be what the running engine has.
        "data-root" | "graph" | "storage-driver" => true,
        // A reload of 20.10 takes any.
        "log-level" => value.is_null() || is_one_of(value, &LOG_LEVELS),
        "log-driver" => is_one_of(value, &["", "json-file", "local", "journald"]),
        "log-opts" => value.is_null() || are_of_json_file(value, host),
        "exec-opts" => are_all(value, |one| is_one_of(one, &CGROUP_DRIVERS)),
        // One of containerd leads to other images.
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

/// Options of the log driver `json-file`, which takes any text for each.
const JSON_FILE: [&str; 6] = ["compress", "env", "labels", "max-file", "max-size", "tag"];

fn is_one_of(value: &Value, known: &[&str]) -> bool {
    value.as_str().is_some_and(|value| known.contains(&value))
}

fn are_all(value: &Value, is_known: impl Fn(&Value) -> bool) -> bool {
    value
        .as_array()
        .is_some_and(|values| values.iter().all(is_known))
}

/// dockerd looks at their names at a start only, by the driver that they are for.
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

/// The command that validates: what the unit starts, and `--validate`.
fn validating(host: &Managed) -> Vec<String> {
    let mut command = host.start.command.clone();
    command.insert(1, "--validate".to_owned());
    if !host.start.names_config_file && host.config_file != Path::new(DEFAULT_CONFIG_FILE) {
        command.insert(2, format!("--config-file={}", host.config_file.display()));
    }
    command
}
