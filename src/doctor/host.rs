//! Docker on this host: its unit, its configuration, its engine and its data root.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::doctor::{Check, Finding, refused};
use crate::host::impact::Blocker;
use crate::host::{Examined, StoreKind};
use crate::systemd::Unit;
use crate::transaction::restart::start_block::DROP_IN;

/// Directories for units and drop-ins (`systemd.unit(5)`), except the directories in
/// which only systemd's own programs create files.
const UNIT_DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];

/// Findings about Docker. `unread` is the result of [`unread_drop_ins`].
pub fn judge(examined: &Examined, unread: &[String]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = examined.errors.iter().map(refused::host).collect();
    if let Some(unit) = &examined.unit
        && (unit.need_daemon_reload || !unread.is_empty())
    {
        let mut changed = refused::blocker(&Blocker::UnitChanged {
            unit: unit.id.clone(),
        });
        if !unread.is_empty() {
            changed.what = format!("{} ({})", changed.what, unread.join(", "));
        }
        findings.push(changed);
    }
    let is_clear = |check| findings.iter().all(|finding| finding.check != check);
    let mut well = Vec::new();
    if is_clear(Check::Unit) {
        well.push(match &examined.unit {
            Some(unit) if unit.is_active() => Finding::ok(
                Check::Unit,
                format!(
                    "{} runs, and its unit file has not changed since systemd read it",
                    unit.id
                ),
            ),
            Some(unit) => Finding::ok(
                Check::Unit,
                format!(
                    "{} is not running, and digestfix leaves it stopped",
                    unit.id
                ),
            ),
            None => Finding::not_seen(Check::Unit, "systemd cannot be reached"),
        });
    }
    if is_clear(Check::Configuration) {
        well.push(match &examined.config_file {
            Some(path) if path.exists() => Finding::ok(
                Check::Configuration,
                format!(
                    "the settings in {} that digestfix depends on are valid",
                    path.display()
                ),
            ),
            Some(path) => Finding::ok(
                Check::Configuration,
                format!(
                    "there is no {}, and Docker does not need the file",
                    path.display()
                ),
            ),
            None => Finding::not_seen(
                Check::Configuration,
                "digestfix did not find the configuration file",
            ),
        });
    }
    if is_clear(Check::Engine) {
        let runs = examined.unit.as_ref().is_some_and(Unit::is_active);
        well.push(match &examined.engine {
            Some(info) => Finding::ok(Check::Engine, format!("Docker {} answers", info.version)),
            None if runs => {
                Finding::not_seen(Check::Engine, "digestfix did not find Docker's socket")
            }
            None if examined.unit.is_some() => Finding::ok(Check::Engine, "not running"),
            None => Finding::not_seen(Check::Engine, "digestfix cannot tell whether Docker runs"),
        });
    }
    if is_clear(Check::DataRoot) {
        well.push(match &examined.images {
            Some(images) => {
                let source = examined.sources.first().map_or("", |found| found.source);
                Finding::ok(
                    Check::DataRoot,
                    format!(
                        "{}, storage driver {}, according to {source}",
                        images.data_root().display(),
                        images.driver()
                    ),
                )
            }
            None if examined.image_store == StoreKind::Containerd => {
                Finding::not_seen(Check::DataRoot, "images are in containerd")
            }
            None => Finding::not_seen(Check::DataRoot, "digestfix did not find the data root"),
        });
    }
    findings.extend(well);
    findings
}

/// Drop-ins that systemd has not read yet, and drop-ins that were deleted after systemd
/// had read them. Before v255, systemd does not always report these drop-ins. An apply
/// would then notice them only after the change has begun.
pub fn unread_drop_ins(unit: &Unit) -> Vec<String> {
    let directories = UNIT_DIRECTORIES.map(|path| Path::new(path).join(format!("{}.d", unit.id)));
    differing(&read_from(&directories), &unit.drop_in_paths, |path| {
        path.exists()
    })
}

/// The drop-ins that take effect. If several drop-ins have the same name, only the first
/// one takes effect.
fn read_from(directories: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = BTreeMap::new();
    let files = directories
        .iter()
        .flat_map(fs::read_dir)
        .flatten()
        .flatten();
    for file in files {
        found.entry(file.file_name()).or_insert_with(|| file.path());
    }
    found.into_values().filter(|path| counts(path)).collect()
}

/// Whether systemd reads settings from a drop-in. An empty drop-in, or a link to
/// `/dev/null`, only hides other drop-ins with the same name.
fn counts(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "conf")
        && fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 0)
}

fn differing(
    on_disk: &[PathBuf],
    loaded: &[String],
    is_there: impl Fn(&Path) -> bool,
) -> Vec<String> {
    let name = |path: &Path| path.file_name().map(ToOwned::to_owned);
    let is_loaded = |path: &Path| loaded.iter().any(|one| name(Path::new(one)) == name(path));
    let new = on_disk.iter().filter(|path| !is_loaded(path));
    let new = new.map(|path| format!("new: {}", path.display()));
    let gone = loaded.iter().filter(|path| !is_there(Path::new(path)));
    let gone = gone.map(|path| format!("gone: {path}"));
    new.chain(gone)
        .filter(|path| !path.ends_with(DROP_IN))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::doctor::State;
    use crate::host::HostError;

    fn states(examined: &Examined, unread: &[String]) -> Vec<(Check, State)> {
        let findings = judge(examined, unread);
        findings.iter().map(|one| (one.check, one.state)).collect()
    }

    #[test]
    fn each_check_is_told_once() {
        let mut examined = Examined {
            unit: Some(Unit {
                id: "docker.service".to_owned(),
                active_state: "inactive".to_owned(),
                ..Unit::default()
            }),
            config_file: Some("/nowhere/daemon.json".into()),
            ..Examined::default()
        };
        let mut expected = vec![
            (Check::Unit, State::Ok),
            (Check::Configuration, State::Ok),
            (Check::Engine, State::Ok),
            (Check::DataRoot, State::NotSeen),
        ];
        assert_eq!(states(&examined, &[]), expected);
        examined.errors.push(HostError::DriverName("x".to_owned()));
        let data_root = expected.pop();
        assert!(data_root.is_some());
        expected.insert(0, (Check::DataRoot, State::Problem));
        assert_eq!(states(&examined, &[]), expected);
        expected.remove(1);
        expected.insert(1, (Check::Unit, State::Problem));
        assert_eq!(states(&examined, &["new: /x".to_owned()]), expected);
    }

    #[test]
    fn drop_ins_that_systemd_has_not_read_are_found() {
        let on_disk = ["/etc/a.conf", "/usr/a.conf", "/run/b.conf"].map(PathBuf::from);
        let loaded = ["/etc/a.conf", "/run/c.conf"].map(str::to_owned);
        let found = differing(&on_disk, &loaded, |path| path.ends_with("a.conf"));
        assert_eq!(found, ["new: /run/b.conf", "gone: /run/c.conf"]);
        let hold = [PathBuf::from("/run").join(DROP_IN)];
        assert!(differing(&hold, &[], |_| true).is_empty());
        assert!(differing(&[], &loaded[..1], |_| true).is_empty());
    }

    #[test]
    fn a_drop_in_that_is_hidden_is_not_to_be_read() {
        let root = tempfile::tempdir().unwrap();
        let directories = ["etc", "usr"].map(|name| root.path().join(name));
        for (directory, name, text) in [
            (0, "a.conf", "x"),
            (1, "a.conf", "x"),
            (0, "b.conf", ""),
            (1, "b.conf", "x"),
            (1, "c.txt", "x"),
        ] {
            fs::create_dir_all(&directories[directory]).unwrap();
            fs::write(directories[directory].join(name), text).unwrap();
        }
        let hidden = directories[0].join("d.conf");
        std::os::unix::fs::symlink("/dev/null", hidden).unwrap();
        fs::write(directories[1].join("d.conf"), "x").unwrap();
        assert_eq!(read_from(&directories), [directories[0].join("a.conf")]);
    }
}
