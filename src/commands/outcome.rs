//! How a change of the references ended, in words.

use crate::commands::change::Changed;
use crate::commands::online;
use crate::container::{Change, Happened};
use crate::disturbance::Disturbance;
use crate::online::remnant::Remnant;
use crate::report::{Exit, Problem, Report};
use crate::transaction::outcome::{DockerNow, Failure, Outcome, StoreNow};

/// Tells how it ended.
pub(super) fn tell(changed: Changed, report: Report) -> Exit {
    match changed {
        Changed::Restarted(outcome, disturbance) => {
            tell_restarted(*outcome, disturbance.as_deref(), report)
        }
        Changed::Online(outcome) => online::tell(*outcome, report),
    }
}

/// `disturbance` has what was to be expected of containers; without a daemon
/// there is none.
fn tell_restarted(outcome: Outcome, disturbance: Option<&Disturbance>, mut report: Report) -> Exit {
    let offline = disturbance.is_none();
    // Only a run without a daemon has no unit, and then none is spoken of.
    let unit = report.unit().unwrap_or_default().to_owned();
    match outcome {
        Outcome::Done {
            plan,
            backup,
            containers,
        } => {
            report.plan(&plan);
            let changed = !plan.is_empty() || report.has_unread();
            if !plan.is_empty() {
                report.speak_of_change(&plan);
                if let Some(backup) = &backup {
                    report.conclude(&format!(
                        "Done{}. The former references are kept in {}",
                        if offline { " in this store" } else { "" },
                        backup.display()
                    ));
                }
                report.say_way_back();
            } else if changed {
                report.speak_of_change(&plan);
                report.conclude("Done. Docker has read the file, which is as it was.");
            } else {
                report.conclude("Nothing had to be changed in the end.");
            }
            report.done(changed, backup);
            let unexpected = tell_containers(&containers, disturbance, &mut report);
            if unexpected.is_empty() {
                return report.end(Exit::Done);
            }
            report.problem(
                "CONTAINERS CHANGED",
                Problem {
                    what: unexpected,
                    state: "the references are changed, and Docker runs on them".to_owned(),
                    next: Some(next_for_containers(&containers, &unit)),
                },
            );
            report.end(Exit::ContainersChanged)
        }
        Outcome::Undone {
            failure,
            restarted,
            containers,
        } => {
            let state = match (restarted, offline) {
                (true, _) => "the references are as they were, and Docker runs on them again",
                (false, true) => "the references are as they were",
                (false, false) => "the references are as they were, and Docker was not stopped",
            };
            report.done(false, None);
            let mut what = vec![failure.to_string()];
            what.extend(tell_containers(&containers, disturbance, &mut report));
            if containers.iter().any(is_unlisted) {
                report.problem(
                    "INCOMPLETE",
                    Problem {
                        what,
                        state: format!("{state}, but without these containers"),
                        next: Some(next_for_containers(&containers, &unit)),
                    },
                );
                return report.end(Exit::Broken);
            }
            report.problem(
                "failed",
                Problem {
                    what,
                    state: state.to_owned(),
                    next: Some(advice(&failure)),
                },
            );
            report.end(Exit::Failed)
        }
        Outcome::Broken {
            failure,
            undo,
            store,
            left,
            docker,
            guard,
        } => {
            let references = match &store {
                StoreNow::Old => "the references are as they were".to_owned(),
                StoreNow::New(backup) => format!(
                    "the NEW references are in place, the old ones are in {}",
                    backup.display()
                ),
                StoreNow::Unknown => "the references could not be read back".to_owned(),
            };
            let references = [vec![references], left].concat().join("; ");
            let look = match docker {
                None => "see to the file system".to_owned(),
                Some(DockerNow::Runs | DockerNow::AsBefore) => {
                    format!("look at what is there (systemctl status {unit})")
                }
                Some(DockerNow::Down) => {
                    format!("look why it does not start (journalctl -u {unit} -n 50), mend that")
                }
                Some(DockerNow::ShuttingDown) => "once the machine is up again".to_owned(),
            };
            report.problem(
                "COULD NOT RESTORE THE HOST",
                Problem {
                    what: vec![failure.to_string(), format!("and then, undoing it: {undo}")],
                    state: match docker {
                        None => references,
                        Some(DockerNow::Runs) => format!("{references}; Docker runs"),
                        Some(DockerNow::Down) => format!("{references}; Docker is DOWN"),
                        Some(DockerNow::AsBefore) => {
                            format!("{references}; Docker does not run, and did not before")
                        }
                        Some(DockerNow::ShuttingDown) => format!(
                            "{references}; the machine is shutting down, and Docker starts with it again"
                        ),
                    },
                    next: Some(next_after(&look, guard.as_deref())),
                },
            );
            report.end(Exit::Broken)
        }
        Outcome::Incomplete {
            plan,
            problem,
            containers,
            guard,
        } => {
            report.plan(&plan);
            report.done(true, None);
            let mut what = vec![problem.to_string()];
            what.extend(tell_containers(&containers, disturbance, &mut report));
            report.problem(
                "INCOMPLETE",
                Problem {
                    what,
                    state:
                        "the references are changed and Docker runs on them, but not all else is as \
                            it was found"
                            .to_owned(),
                    next: Some(next_after("mend that", guard.as_deref())),
                },
            );
            report.end(Exit::Broken)
        }
    }
}

/// What is to be done about a host that is half-way.
fn next_after(first: &str, guard: Option<&str>) -> String {
    let next = format!("{first}, then: digestfix recover");
    match guard {
        Some(guard) => format!("{next} (which {guard} now tries as well: journalctl -u {guard})"),
        None => next,
    }
}

fn is_unlisted(change: &Change) -> bool {
    matches!(change.what, Happened::Unlisted(_))
}

fn next_for_containers(changes: &[Change], unit: &str) -> String {
    let unlisted = changes.iter().find_map(|change| match &change.what {
        Happened::Unlisted(files) => files.parent(),
        _ => None,
    });
    unlisted.map_or_else(
        || "look at them: docker ps -a; docker logs NAME".to_owned(),
        |directory| {
            let directory = directory.display();
            format!(
                "make room (df -h {directory}; df -i {directory}), then: systemctl restart {unit}, which loads them \
                 again"
            )
        },
    )
}

/// Tells of the changes that were accepted, and gives the others.
fn tell_containers(
    changes: &[Change],
    disturbance: Option<&Disturbance>,
    report: &mut Report,
) -> Vec<String> {
    report.containers(changes);
    let accepted = |change: &&Change| disturbance.is_some_and(|known| known.accepts(change));
    let (expected, unexpected): (Vec<_>, Vec<_>) = changes.iter().partition(accepted);
    for change in expected {
        report.line(&format!("Container {change}."));
    }
    unexpected
        .into_iter()
        .map(|change| format!("container {change}"))
        .collect()
}

pub(super) fn advice(failure: &Failure) -> String {
    if let Failure::Remnants(left) = failure {
        return what_stays(left);
    }
    match failure {
        Failure::Reserve(error) => {
            let path = error.need.path.display();
            return format!("df -h {path}; df -i {path}; make room there, then the same command again");
        }
        Failure::Interrupted(_) => "run the same command again when it suits",
        Failure::File(_) | Failure::Journal(_) | Failure::Notice(_) | Failure::History(_) => {
            "see to the file system (space, permissions, errors), then try again"
        }
        Failure::NoLongerFits(_) => "look at the references (digestfix status), then try again",
        Failure::Engine(_) | Failure::EngineDisagrees(_) => {
            "look at what Docker says (its journal), then try again"
        }
        Failure::Systemd(_) | Failure::Hold(_) | Failure::Guard(_) => "see to systemd, then try again",
        Failure::NotRunning { .. } | Failure::Silent { .. } => {
            "look why Docker did not start (its journal), then try again"
        }
        Failure::ReloadWithoutEffect { .. } | Failure::ConfigurationRefused { .. } => {
            "mend Docker's configuration file, then the same command again. Docker would perhaps not start \
             with it: do not restart it before. Where all that it says is userland-proxy-path, take \
             \"userland-proxy\": true out: it is the default"
        }
        Failure::MoreContainers(_) | Failure::SwitchedOff | Failure::StartedMeanwhile(_)
        | Failure::ConfigurationChanged(_) => {
            "run the same command again"
        }
        _ => "try again with -v; if it fails again, it is worth a report",
    }
    .to_owned()
}

/// What to type about references that the engine would not drop.
fn what_stays(left: &[Remnant]) -> String {
    let mut containers: Vec<&str> = left.iter().filter_map(Remnant::container).collect();
    containers.sort_unstable();
    containers.dedup();
    if containers.is_empty() {
        return "do what is said above of each reference, then the same command again".to_owned();
    }
    let names = containers.join(" ");
    format!(
        "a container still uses the digest: remove it once it is not needed (docker ps -a shows it: docker rm \
         {names}), then the same command again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::online::remnant::Why;

    #[test]
    fn a_container_in_the_way_is_named_with_what_to_type() {
        let digest = format!("lab/app@sha256:{}", "a".repeat(64));
        let Ok(reference) = crate::reference::Reference::parse(&digest) else {
            unreachable!()
        };
        let left = |why| {
            let reference = reference.clone();
            advice(&Failure::Remnants(vec![Remnant { reference, why }]))
        };
        let says = "conflict: unable to delete lab/app (must be forced) - container 0123456789ab is using its \
                    referenced image 801bebe93492";
        let told = left(Why::InUse(says.to_owned()));
        assert!(told.contains("docker rm 0123456789ab"), "{told}");
        for why in [Why::Last, Why::HasLayers, Why::InUse("busy".to_owned())] {
            let told = left(why);
            assert!(!told.contains("report") && told.contains("again"), "{told}");
        }
    }

    #[test]
    fn a_refused_configuration_is_never_led_to_a_restart() {
        let unit = "docker.service".to_owned();
        for failure in [
            Failure::ConfigurationRefused {
                unit: unit.clone(),
                path: "/etc/docker/daemon.json".into(),
                says: Some("invalid mirror".to_owned()),
            },
            Failure::ReloadWithoutEffect {
                unit,
                reloaded: false,
                on: true,
                says: None,
            },
        ] {
            let advice = advice(&failure);
            let leads_there = advice.contains("--containers") || advice.contains("--force");
            assert!(!leads_there, "{advice}");
        }
    }
}
