//! Other runs of digestfix: a run that is active now, and traces of killed runs.

use std::fs;
use std::path::{Path, PathBuf};

use crate::doctor::{Check, Finding};
use crate::state::history;
use crate::state::id::beside;
use crate::state::journal::{Journal, JournalError};
use crate::state::loading::Loading;
use crate::state::lock::{LockError, seen_at_work, seen_barred};
use crate::state::pending::{self, Marker, MarkerError, PENDING};
use crate::state::state_file;
use crate::sys::shell;
use crate::systemd::RUNTIME_UNITS;
use crate::transaction::restart::start_block;

#[derive(Debug, Clone, Copy, Default)]
pub struct Here<'a> {
    pub data_root: Option<&'a Path>,
    /// Docker's unit. `None` if there is no daemon to manage.
    pub unit: Option<&'a str>,
    pub config_file: Option<&'a Path>,
}

#[derive(Debug)]
pub struct Left {
    /// Why no run can take the lock. `None` if a run can take it.
    pub barred: Option<LockError>,
    /// The text in the lock file. In this text, the run that holds the lock describes
    /// itself.
    pub at_work: Option<String>,
    pub journal: Result<Option<Journal>, JournalError>,
    /// The markers of runs that are not active any more, on any data root.
    pub markers: Vec<(String, Marker)>,
    pub broken_markers: Vec<MarkerError>,
    /// The archives of a load that has not finished.
    pub loading: Option<Loading>,
    /// The IDs of the runs whose records contain no result.
    pub unended: Vec<String>,
    /// Files that were only partly written.
    pub half_written: Vec<PathBuf>,
    /// The copies of daemon.json in its directory. Each pair contains the path of
    /// daemon.json and the path of one copy.
    pub set_aside: Vec<(PathBuf, PathBuf)>,
    /// The drop-in with which a run blocks Docker's start, and whether the drop-in still
    /// blocks the start.
    pub hold: Option<(PathBuf, bool)>,
}

pub fn look(here: Here<'_>) -> Left {
    let (markers, broken_markers) = match here.unit {
        Some(_) => pending::read_all(Path::new(PENDING)),
        None => Default::default(),
    };
    let is_over = |(_, marker): &(String, Marker)| seen_at_work(&marker.data_root).is_none();
    let unended = |data_root| {
        let unended = |record: history::Record| record.result.is_none().then_some(record.id);
        history::scan(data_root, unended).0
    };
    let mut directories = Vec::new();
    if let Some(data_root) = here.data_root {
        directories.push(state_file::path(data_root, ""));
        directories.push(history::directory(data_root));
    }
    directories.extend(here.unit.map(|_| PathBuf::from(PENDING)));
    let half_written = directories
        .iter()
        .flat_map(|directory| files(directory, |name| name.ends_with(".json.new")));
    Left {
        barred: here.data_root.and_then(seen_barred),
        at_work: here.data_root.and_then(seen_at_work),
        journal: here.data_root.map_or(Ok(None), Journal::read),
        markers: markers.into_iter().filter(is_over).collect(),
        broken_markers,
        loading: here.data_root.and_then(Loading::read),
        unended: here.data_root.map(unended).unwrap_or_default(),
        half_written: half_written.collect(),
        set_aside: here
            .config_file
            .into_iter()
            .flat_map(|file| set_aside(file).map(|aside| (file.to_owned(), aside)))
            .collect(),
        hold: here
            .unit
            .and_then(|unit| start_block::seen(Path::new(RUNTIME_UNITS), unit)),
    }
}

fn set_aside(file: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let prefix = beside(file, "");
    let prefix = prefix.file_name().unwrap_or_default().to_string_lossy();
    let directory = file.parent().unwrap_or(file);
    files(directory, |name| name.starts_with(&*prefix)).into_iter()
}

/// Without options, `digestfix recover` finds the runs by their pending markers.
const RECOVER_ALL: &str = "digestfix recover, without options";

fn files(directory: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let listing = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = listing
        .filter(|file| file.file_name().to_str().is_some_and(&wanted))
        .map(|file| file.path())
        .collect();
    found.sort();
    found
}

pub fn judge(left: &Left, here: Here<'_>) -> Vec<Finding> {
    let lock = match (here.data_root, &left.at_work) {
        (None, _) => Finding::not_seen(Check::Lock, "digestfix did not find the data root"),
        (Some(data_root), None) => match &left.barred {
            Some(error) => Finding::refused(Check::Lock, error, error.help()),
            None => Finding::ok(
                Check::Lock,
                format!("no run is at work on {}", data_root.display()),
            ),
        },
        (Some(data_root), Some(holder)) => {
            let held = LockError::Held {
                data_root: data_root.to_owned(),
                holder: holder.clone(),
            };
            return vec![
                Finding::refused(Check::Lock, &held, held.help()),
                Finding::not_seen(
                    Check::Unfinished,
                    "digestfix cannot check this while another run is at work",
                ),
            ];
        }
    };
    let mut findings = vec![lock];
    let interrupted = match &left.journal {
        Ok(journal) => journal.as_ref(),
        Err(error) => {
            findings.push(Finding::refused(Check::Unfinished, error, error.help()));
            None
        }
    };
    findings.extend(interrupted.map(|journal| of_journal(journal, here)));
    let is_clear = left.journal.as_ref().is_ok_and(Option::is_none);
    let known = |id: &str| interrupted.is_some_and(|journal| journal.id == id);
    for (id, marker) in left.markers.iter().filter(|(id, _)| !known(id)) {
        findings.push(if marker.leads_to_a_data_root() {
            Finding::warning(
                Check::Unfinished,
                format!("run {id} on {} was interrupted", marker.data_root.display()),
                RECOVER_ALL,
            )
        } else {
            Finding::warning(Check::Unfinished, marker.gone(id), RECOVER_ALL)
        });
    }
    for error in &left.broken_markers {
        let help = error.help().unwrap_or_default();
        findings.push(Finding::warning(Check::Unfinished, error.to_string(), help));
    }
    if let Some(loading) = &left.loading {
        findings.push(Finding::warning(
            Check::Unfinished,
            loading.told(),
            loading.next(),
        ));
    }
    for id in left.unended.iter().filter(|id| !known(id)) {
        findings.push(Finding::warning(
            Check::Unfinished,
            format!("the record of run {id} is not complete; the next change completes the record"),
            format!("digestfix history {id}"),
        ));
    }
    if let Some((path, held)) = &left.hold {
        let effect = if *held {
            "which keeps Docker from starting"
        } else {
            "which has no effect any more"
        };
        let next = if is_clear {
            format!("rm {}; systemctl daemon-reload", shell::path(path))
        } else {
            "digestfix recover".to_owned()
        };
        findings.push(Finding::warning(
            Check::Unfinished,
            format!("a run left {} behind, {effect}", path.display()),
            next,
        ));
    }
    for path in &left.half_written {
        findings.push(Finding::warning(
            Check::Unfinished,
            format!(
                "the file {} is incomplete, and no program reads this file",
                path.display()
            ),
            format!("rm {}", shell::path(path)),
        ));
    }
    if is_clear && left.markers.is_empty() {
        for (file, path) in &left.set_aside {
            let what = format!(
                "{} was left behind by a run that changed {}",
                path.display(),
                file.display()
            );
            let (file, path) = (shell::path(file), shell::path(path));
            findings.push(Finding::warning(
                Check::Unfinished,
                what,
                format!("diff {path} {file}; then restore the old file (mv {path} {file}) or remove the old file (rm \
                         {path})"),
            ));
        }
    }
    if findings.len() == 1 {
        findings.push(Finding::ok(
            Check::Unfinished,
            "no run was interrupted here",
        ));
    }
    findings
}

/// The finding about an interrupted run. A problem if only the `recover` command in the
/// finding can recover that run. Otherwise a warning, because the next change first
/// recovers that run.
fn of_journal(journal: &Journal, here: Here<'_>) -> Finding {
    let what = format!("run {} was interrupted", journal.id);
    let switch = journal.restart().and_then(|one| one.live_restore.as_ref());
    let other_file = switch
        .map(|one| one.config_file.as_path())
        .filter(|path| here.config_file.is_some_and(|here| here != *path));
    match (journal.unit(), here.unit, other_file) {
        (Some(unit), None, _) => Finding::problem(
            Check::Unfinished,
            format!("{what} while it was at work on {unit}"),
            "on the host whose Docker uses this data root: digestfix recover, without options",
        ),
        (Some(unit), Some(other), _) if unit != other => Finding::problem(
            Check::Unfinished,
            format!("{what} while it was at work on {unit}"),
            format!("digestfix recover --unit {}", shell::word(unit)),
        ),
        (_, _, Some(path)) => Finding::problem(
            Check::Unfinished,
            format!("{what} after it had changed {}", path.display()),
            format!("digestfix recover --config-file {}", shell::path(path)),
        ),
        _ => Finding::warning(
            Check::Unfinished,
            format!("{what}; the next change first finishes or undoes that run"),
            "digestfix recover",
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::doctor::State;
    use crate::state::journal::{Intent, References, Restart, hash};

    fn left() -> Left {
        Left {
            barred: None,
            at_work: None,
            journal: Ok(None),
            markers: Vec::new(),
            broken_markers: Vec::new(),
            loading: None,
            unended: Vec::new(),
            half_written: Vec::new(),
            set_aside: Vec::new(),
            hold: None,
        }
    }

    fn here() -> Here<'static> {
        Here {
            data_root: Some(Path::new("/d")),
            unit: Some("docker.service"),
            config_file: Some(Path::new("/etc/docker/daemon.json")),
        }
    }

    fn journal() -> Journal {
        let references = References {
            driver: "overlay2".to_owned(),
            before: hash(b"old"),
            after: hash(b"new"),
        };
        let restart = Restart::new("docker.service");
        Journal::new("1-1", references, Intent::Restart(restart))
    }

    fn second(left: &Left, here: Here<'_>) -> (State, String) {
        let findings = judge(left, here);
        assert_eq!(findings.len(), 2, "{findings:#?}");
        let second = findings[1].clone();
        (second.state, second.next.unwrap_or_default())
    }

    #[test]
    fn what_a_run_at_work_has_there_is_its_own() {
        let mut busy = left();
        busy.at_work = Some("process 7".to_owned());
        busy.journal = Ok(Some(journal()));
        busy.half_written.push("/d/x.json.new".into());
        let findings = judge(&busy, here());
        assert_eq!(findings[0].state, State::Problem);
        assert_eq!(second(&busy, here()).0, State::NotSeen);
        assert_eq!(second(&left(), here()).0, State::Ok);
    }

    #[test]
    fn a_journal_stops_a_change_only_where_it_is_another_dockers() {
        let mut interrupted = left();
        interrupted.journal = Ok(Some(journal()));
        interrupted.unended.push("1-1".to_owned());
        let (state, next) = second(&interrupted, here());
        assert_eq!((state, &*next), (State::Warning, "digestfix recover"));
        let other = Here {
            unit: Some("other.service"),
            ..here()
        };
        let (state, next) = second(&interrupted, other);
        assert_eq!(state, State::Problem);
        assert_eq!(next, "digestfix recover --unit docker.service");
        let offline = Here {
            unit: None,
            ..here()
        };
        assert_eq!(second(&interrupted, offline).0, State::Problem);
    }

    #[test]
    fn each_thing_that_is_left_is_told_with_what_takes_it_away() {
        let mut found = left();
        found.hold = Some(("/run/hold.conf".into(), false));
        assert_eq!(
            second(&found, here()).1,
            "rm /run/hold.conf; systemctl daemon-reload"
        );
        found.journal = Ok(Some(journal()));
        assert_eq!(
            judge(&found, here())[2].next.as_deref(),
            Some("digestfix recover")
        );
        let mut found = left();
        found.loading = Some(Loading::new(vec!["/a.tar".to_owned()]));
        assert_eq!(second(&found, here()).1, "digestfix load /a.tar");
        let mut found = left();
        found.half_written.push("/d/x.json.new".into());
        assert_eq!(second(&found, here()).1, "rm /d/x.json.new");
        let mut found = left();
        found.unended.push("1-2".to_owned());
        assert_eq!(second(&found, here()).0, State::Warning);
        let mut found = left();
        found
            .set_aside
            .push(("/d.json".into(), "/d.json.digestfix-1-1".into()));
        let next = second(&found, here()).1;
        assert!(next.contains("(mv /d.json.digestfix-1-1 /d.json)"));
    }

    #[test]
    fn files_are_found_by_their_names() {
        let root = tempfile::tempdir().unwrap();
        for name in [
            "a.json.new",
            "b.json",
            "daemon.json",
            "daemon.json.digestfix-1",
        ] {
            fs::write(root.path().join(name), "").unwrap();
        }
        let half = files(root.path(), |name| name.ends_with(".json.new"));
        assert_eq!(half, [root.path().join("a.json.new")]);
        let aside: Vec<_> = set_aside(&root.path().join("daemon.json")).collect();
        assert_eq!(aside, [root.path().join("daemon.json.digestfix-1")]);
    }
}
