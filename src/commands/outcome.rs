//! Describes the outcome of a change of references.

use crate::commands::change::{Changed, LoadedImages};
use crate::docker::container::{Change, Happened};
use crate::host::impact::Impact;
use crate::report::run_result::RunResult;
use crate::report::{Problem, Report};
use crate::sys::shell;
use crate::transaction::leftover::Leftover;
use crate::transaction::outcome::{DockerNow, Ended, Failure, HostNow, Outcome, StoreNow};

/// Reports the outcome.
pub(super) fn tell(changed: Changed, mut report: Report) -> RunResult {
    let Changed {
        outcome,
        impact,
        loaded,
    } = changed;
    let impact = impact.as_ref();
    let end = Told {
        unit: report.unit().map(str::to_owned),
        containers: &outcome.containers,
        impact,
        loaded: loaded.as_ref(),
    };
    match &outcome.ended {
        Ended::Done => end.done(&outcome, report),
        Ended::Incomplete { problem } => {
            report.plan(&outcome.plan);
            report.sees_changed(&outcome.plan);
            report.done(true, None);
            let mut what = vec![problem.to_string()];
            what.extend(end.containers(&mut report));
            let is_of_node = report.is_of_node();
            report.fail(
                RunResult::Incomplete,
                Problem {
                    what,
                    state: match is_of_node {
                        true => "the records are changed, but the run could not be finished",
                        false => {
                            "the references are changed and Docker runs with them, but something else is not \
                             as it was before"
                        }
                    }
                    .to_owned(),
                    next: Some(next_after("fix the problem above", outcome.watchdog.as_deref())),
                },
            )
        }
        Ended::Undone { failure, left } => end.undone(&outcome, failure, left, report),
        Ended::Broken { failure, undo, now } => {
            let look = look(now, end.unit());
            report.fail(
                RunResult::Broken,
                Problem {
                    what: vec![failure.to_string(), format!("and the undo failed: {undo}")],
                    state: end.with_loaded(state(now)),
                    next: Some(next_after(&look, outcome.watchdog.as_deref())),
                },
            )
        }
    }
}

/// The parts of an outcome that every report needs.
struct Told<'a> {
    /// `None` for a run without a daemon.
    unit: Option<String>,
    containers: &'a [Change],
    impact: Option<&'a Impact>,
    loaded: Option<&'a LoadedImages>,
}

impl Told<'_> {
    fn done(&self, outcome: &Outcome, mut report: Report) -> RunResult {
        let plan = &outcome.plan;
        report.layers_missing("has", &outcome.run_only);
        report.plan(plan);
        report.sees_changed(plan);
        let changed = !plan.is_empty() || report.has_unread();
        if changed {
            report.speak_of_change(plan);
        }
        match (&outcome.backup, &self.unit) {
            _ if !changed => report.conclude("Nothing had to be changed in the end."),
            _ if plan.is_empty() => {
                report
                    .conclude("Done. Docker has read the references again; none of them changed.");
            }
            (Some(backup), unit) => report.conclude(&format!(
                "Done{}. The former references are in {}",
                if unit.is_none() { " in this store" } else { "" },
                backup.display()
            )),
            (None, _) if report.is_of_node() => report.conclude("Done. Nothing was stopped."),
            (None, _) => report.conclude("Done. Docker was not stopped."),
        }
        if !plan.is_empty() {
            report.say_way_back();
        }
        report.done(changed, outcome.backup.clone());
        let unexpected = self.containers(&mut report);
        if unexpected.is_empty() {
            return report.end(match changed {
                true => RunResult::Done,
                false => RunResult::Unchanged,
            });
        }
        report.fail(
            RunResult::ContainersChanged,
            Problem {
                what: unexpected,
                state: "the references are changed, and Docker runs with them".to_owned(),
                next: Some(self.next_for_containers()),
            },
        )
    }

    fn undone(
        &self,
        outcome: &Outcome,
        failure: &Failure,
        left: &[Leftover],
        mut report: Report,
    ) -> RunResult {
        let state = match (outcome.restarted, &self.unit) {
            (true, _) => "the references are as they were, and Docker runs with them again",
            (false, None) if report.is_of_node() => {
                "the references are as they were, and nothing was stopped"
            }
            (false, None) => "the references are as they were",
            (false, Some(_)) => "the references are as they were, and Docker was not stopped",
        };
        let still_changed = left.iter().filter(|one| one.is_changed());
        report.undone(still_changed.map(|one| &one.reference));
        let mut what = vec![failure.to_string()];
        what.extend(left.iter().map(ToString::to_string));
        what.extend(self.containers(&mut report));
        if !left.is_empty() {
            let is_of_node = report.is_of_node();
            return report.fail(
                RunResult::Incomplete,
                Problem {
                    what,
                    state: match is_of_node {
                        true => "all other references are as they were, and nothing was stopped",
                        false => {
                            "all other references are as they were, and Docker was not stopped"
                        }
                    }
                    .to_owned(),
                    next: Some(format!(
                        "the references that remain are correct and harmless. To remove these references after \
                         you have fixed the problem above: digestfix rollback {}",
                        outcome.id
                    )),
                },
            );
        }
        if self.containers.iter().any(is_unlisted) {
            return report.fail(
                RunResult::Incomplete,
                Problem {
                    what,
                    state: format!("{state}, but these containers are missing"),
                    next: Some(self.next_for_containers()),
                },
            );
        }
        report.fail(
            RunResult::Undone,
            Problem {
                what,
                state: self.with_loaded(state.to_owned()),
                next: match (failure.help(self.unit()), self.loaded) {
                    (Some(help), Some(loaded)) => Some(format!(
                        "{help}; then, to apply the claims: {}",
                        loaded.next
                    )),
                    (help, _) => help,
                },
            },
        )
    }

    fn with_loaded(&self, mut state: String) -> String {
        if let Some(loaded) = self.loaded {
            state.push_str("; ");
            state.push_str(&loaded.told);
        }
        state
    }

    /// Reports the expected changes of containers, and returns the unexpected changes.
    fn containers(&self, report: &mut Report) -> Vec<String> {
        // The load method affects no container.
        if self.impact.is_some() || self.unit.is_none() {
            report.containers(self.containers);
        }
        let (expected, unexpected): (Vec<_>, Vec<_>) = self
            .containers
            .iter()
            .partition(|change| self.is_expected(change));
        for change in expected {
            report.line(&format!("Container {change}."));
        }
        unexpected
            .into_iter()
            .map(|change| format!("container {change}"))
            .collect()
    }

    fn is_expected(&self, change: &Change) -> bool {
        self.impact.is_some_and(|known| known.accepts(change))
    }

    /// The name of Docker's unit, for commands in messages.
    fn unit(&self) -> &str {
        self.unit.as_deref().unwrap_or("docker")
    }

    fn next_for_containers(&self) -> String {
        let unlisted = self
            .containers
            .iter()
            .find_map(|change| match &change.what {
                Happened::Unlisted(files) => files.parent(),
                _ => None,
            });
        unlisted.map_or_else(
            || {
                let unexpected = self.containers.iter().filter(|one| !self.is_expected(one));
                let logs =
                    unexpected.map(|one| format!("; docker logs {}", shell::word(&one.name)));
                "check the containers: docker ps -a".to_owned() + &logs.collect::<String>()
            },
            |directory| {
                let directory = shell::path(directory);
                format!(
                    "make room (df -h {directory}; df -i {directory}); then, to make Docker load \
                     the missing containers again: systemctl restart {}",
                    shell::word(self.unit())
                )
            },
        )
    }
}

fn state(now: &HostNow) -> String {
    let references = match &now.store {
        StoreNow::Old => "the references are as they were".to_owned(),
        StoreNow::New(backup) => format!(
            "the NEW references are in place, the old references are in {}",
            backup.display()
        ),
        StoreNow::Mixed => "some of the references may be new".to_owned(),
        StoreNow::Unknown => "the references could not be read back".to_owned(),
    };
    let docker = now.docker.map(|docker| match docker {
        DockerNow::NotStopped => "Docker was not stopped",
        DockerNow::None => "nothing was stopped",
        DockerNow::Runs => "Docker runs",
        DockerNow::Down => "Docker is DOWN",
        DockerNow::AsBefore => "Docker was not running before, and is not running now",
        DockerNow::ShuttingDown => {
            "the machine is shutting down, and Docker starts again at the next boot"
        }
    });
    let mut state = vec![references];
    state.extend(now.left.iter().cloned());
    state.extend(docker.map(str::to_owned));
    state.join("; ")
}

fn look(now: &HostNow, unit: &str) -> String {
    match now.docker {
        None => "check the file system".to_owned(),
        Some(DockerNow::None) => {
            "check which images exist (ctr -n k8s.io images ls; crictl images --digests)".to_owned()
        }
        Some(DockerNow::NotStopped) => "check the images (docker image inspect)".to_owned(),
        Some(DockerNow::Runs | DockerNow::AsBefore) => {
            format!("check Docker (systemctl status {unit})")
        }
        Some(DockerNow::Down) => {
            format!(
                "find out why Docker does not start (journalctl -u {unit} -n 50), fix the cause"
            )
        }
        Some(DockerNow::ShuttingDown) => "wait until the machine is up again".to_owned(),
    }
}

/// The next step for a host that is in the middle of a change.
fn next_after(first: &str, watchdog: Option<&str>) -> String {
    let next = format!("{first}, then: digestfix recover");
    match watchdog {
        Some(watchdog) => {
            format!("{next} ({watchdog} also tries to recover the host: journalctl -u {watchdog})")
        }
        None => next,
    }
}

fn is_unlisted(change: &Change) -> bool {
    matches!(change.what, Happened::Unlisted(_))
}
