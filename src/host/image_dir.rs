//! Finds out which directory on the disk is Docker's image directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::daemon::finding;
use super::daemon_json::DaemonJson;
use super::dockerd_args::DockerdArgs;
use super::resolve::{DEFAULT, DISK, ENGINE, FILE, FLAG, Finding, UNIT, resolved};
use super::{Flags, HostError};
use crate::docker::engine::Info;
use crate::store::data_root::{ImageDir, STATE_DIR, is_driver_name};
use crate::store::repositories;
use crate::sys::plain_file;

/// containerd's default snapshotter (containerd 1.7 and 2.1, `defaults`).
const DEFAULT_SNAPSHOTTER: &str = "overlayfs";

pub const DEFAULT_DATA_ROOT: &str = "/var/lib/docker";

/// The sources that may name Docker's image directory.
pub struct Sources<'a> {
    pub flags: &'a Flags,
    pub engine: Option<&'a Info>,
    pub args: &'a DockerdArgs,
    pub config: &'a DaemonJson,
}

impl Sources<'_> {
    /// The image directory, and the source of each of its parts.
    pub fn image_dir(&self) -> Result<(ImageDir, Vec<Finding>), HostError> {
        let (root, root_source) = self.data_root()?;
        let (driver, driver_source) = self.driver(&root)?;
        let images = ImageDir::new(&root, &driver);
        let path = images.path();
        let below = ["imagedb", "imagedb/content", "imagedb/content/sha256"];
        let below = below.iter().map(|below| path.join(below));
        let directories = [root.join("image"), path.clone(), root.join(STATE_DIR)];
        for directory in directories.into_iter().chain(below) {
            let linked = plain_file::refuse_link(&directory);
            linked.map_err(|error| HostError::Link {
                path: directory,
                error,
            })?;
        }
        existing_directory(&path, || {
            format!(
                "there is no such directory, so no image was ever stored by driver {driver} in \
                 this data root"
            )
        })?;
        let findings = vec![
            finding("data root", &root.to_string_lossy(), root_source),
            finding("storage driver", &driver, driver_source),
        ];
        Ok((images, findings))
    }

    /// The data root and the snapshotter of an engine that keeps its images in
    /// containerd. Such a data root contains no images, but digestfix keeps its own files
    /// there.
    pub fn containerd_dir(&self) -> Result<(ImageDir, Vec<Finding>), HostError> {
        let (root, root_source) = self.data_root()?;
        let (driver, driver_source) = self
            .said_driver()?
            .unwrap_or_else(|| (DEFAULT_SNAPSHOTTER.to_owned(), DEFAULT));
        let findings = vec![
            finding("data root", &root.to_string_lossy(), root_source),
            finding("storage driver", &driver, driver_source),
        ];
        Ok((ImageDir::new(&root, &driver), findings))
    }

    /// The data root as a canonical path, and its source. Returns an error if sources
    /// disagree, or if the directory does not exist.
    pub fn data_root(&self) -> Result<(PathBuf, &'static str), HostError> {
        let is_remapping = [&self.args.userns_remap, &self.config.userns_remap]
            .into_iter()
            .flatten()
            .any(|user| !user.is_empty());
        let flag = self
            .flags
            .data_root
            .as_ref()
            .map(|path| path.to_string_lossy());
        let reported = self.engine.map(|info| info.data_root.to_string_lossy());
        // The engine takes precedence over the flag. With userns-remap, the engine uses a
        // subdirectory of the directory that the flag names.
        let said = [
            (ENGINE, reported.as_deref()),
            (FLAG, flag.as_deref()),
            (UNIT, self.args.data_root.as_deref()),
            (FILE, self.config.root()),
        ];
        let (source, root) = resolved("data root", &said, |one, other| {
            same_path(one, other) || (is_remapping && is_remapped(one, other))
        })?
        .unwrap_or((DEFAULT, DEFAULT_DATA_ROOT));
        let root = Path::new(root);
        if !root.is_absolute() {
            return Err(no_data_root(root, "the data root must be an absolute path"));
        }
        let root = existing_directory(root, || "there is no such directory".to_owned())?;
        if is_remapping && self.engine.is_none() && !is_effective(&root) {
            return Ok((remapped(&root)?, source));
        }
        Ok((root, source))
    }

    fn driver(&self, root: &Path) -> Result<(String, &'static str), HostError> {
        match self.said_driver()? {
            Some(said) => Ok(said),
            None => Ok((only_driver(root)?, DISK)),
        }
    }

    fn said_driver(&self) -> Result<Option<(String, &'static str)>, HostError> {
        let said = [
            (FLAG, self.flags.driver.as_deref()),
            (ENGINE, self.engine.map(|info| info.driver.as_str())),
            (UNIT, self.args.driver.as_deref()),
            (FILE, self.config.storage_driver.as_deref()),
        ];
        // A flag with an empty value is a mistake, for example because of an unset shell
        // variable. Treat the empty value as an invalid name, not as a missing flag.
        if let Some(driver) = self.flags.driver.as_deref()
            && !is_driver_name(driver)
        {
            return Err(HostError::DriverName(driver.to_owned()));
        }
        match resolved("storage driver", &said, |one, other| one == other)? {
            Some((_, driver)) if !is_driver_name(driver) => {
                Err(HostError::DriverName(driver.to_owned()))
            }
            Some((source, driver)) => Ok(Some((driver.to_owned(), source))),
            None => Ok(None),
        }
    }
}

/// Whether two paths name the same file, after symbolic links are resolved.
pub fn same_path(one: &str, other: &str) -> bool {
    let real = |path: &str| fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
    real(one) == real(other)
}

/// Whether the engine's data root is a directory `UID.GID` below the configured data
/// root. Docker uses such a directory with user namespaces (moby `daemon/daemon_unix.go`,
/// `setupDaemonRoot`).
fn is_remapped(effective: &str, configured: &str) -> bool {
    let effective = fs::canonicalize(effective).unwrap_or_else(|_| PathBuf::from(effective));
    let named_so = effective
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(is_uid_gid);
    named_so
        && effective
            .parent()
            .is_some_and(|parent| same_path(&parent.to_string_lossy(), configured))
}

fn is_uid_gid(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.split_once('.')
        .is_some_and(|(uid, gid)| number(uid) && number(gid))
}

/// Whether the path is the `UID.GID` directory itself, not its parent.
fn is_effective(root: &Path) -> bool {
    root.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(is_uid_gid)
        && root.join("image").is_dir()
}

pub fn no_data_root(path: &Path, problem: impl Into<String>) -> HostError {
    HostError::DataRoot {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

fn unreadable(path: &Path, error: &io::Error, missing: impl FnOnce() -> String) -> HostError {
    let problem = match error.kind() {
        io::ErrorKind::NotFound => missing(),
        io::ErrorKind::PermissionDenied => "only root can read this directory: use sudo".to_owned(),
        _ => error.to_string(),
    };
    no_data_root(path, problem)
}

fn existing_directory(path: &Path, missing: impl FnOnce() -> String) -> Result<PathBuf, HostError> {
    let real = fs::canonicalize(path).map_err(|error| unreadable(path, &error, missing))?;
    if real.is_dir() {
        Ok(real)
    } else {
        Err(no_data_root(path, "not a directory"))
    }
}

fn children(path: &Path) -> Result<Vec<String>, HostError> {
    let failed = |error: io::Error| {
        unreadable(path, &error, || {
            "there is no such directory: no image was ever stored here, or this is not Docker's data root"
                .to_owned()
        })
    };
    let mut names = Vec::new();
    for child in fs::read_dir(path).map_err(failed)? {
        names.extend(child.map_err(failed)?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

fn remapped(root: &Path) -> Result<PathBuf, HostError> {
    let mut candidates: Vec<String> = children(root)?
        .into_iter()
        .filter(|name| is_uid_gid(name) && root.join(name).join("image").is_dir())
        .map(|name| root.join(name).display().to_string())
        .collect();
    match (candidates.pop(), candidates.is_empty()) {
        (Some(only), true) => Ok(PathBuf::from(only)),
        (None, _) => Err(HostError::DataRoot {
            path: root.to_owned(),
            problem: "userns-remap is set, but there is no UID.GID directory with images in it"
                .to_owned(),
        }),
        (Some(last), false) => {
            candidates.push(last);
            Err(HostError::Ambiguous {
                question: "userns-remap is set, and several users have images".to_owned(),
                flag: "--data-root",
                candidates,
            })
        }
    }
}

fn only_driver(root: &Path) -> Result<String, HostError> {
    let image = root.join("image");
    if !image.exists() {
        return Err(HostError::NoReferences(image));
    }
    let all = children(&image)?;
    let mut drivers: Vec<String> = all
        .iter()
        .filter(|driver| image.join(driver).join(repositories::FILE_NAME).exists())
        .cloned()
        .collect();
    if drivers.is_empty() {
        // If no storage driver has a `repositories.json`, look for storage drivers with
        // images.
        drivers = all;
        drivers.retain(|driver| ImageDir::new(root, driver).image_count() > 0);
    }
    match (drivers.pop(), drivers.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(HostError::NoReferences(image)),
        (Some(last), false) => {
            drivers.push(last);
            Err(HostError::Ambiguous {
                question: format!(
                    "several storage drivers have image references in {}, and digestfix cannot ask a stopped \
                     Docker which driver it uses",
                    image.display()
                ),
                flag: "--driver",
                candidates: drivers,
            })
        }
    }
}
