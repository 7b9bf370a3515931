//! How a change in the containerd image store ended, for people and machines.

use crate::commands::online::warn_of_run_only;
use crate::commands::outcome::advice;
use crate::online::Outcome;
use crate::report::{Exit, Problem, Report};
use crate::transaction::outcome::Failure;

/// Tells how it ended.
pub(in crate::commands) fn tell(outcome: Outcome, mut report: Report) -> Exit {
    match outcome {
        Outcome::Done { plan, run_only } => {
            warn_of_run_only("has", &run_only, &mut report);
            report.plan(&plan);
            report.speak_of_change(&plan);
            report.conclude("Done. Docker was not stopped.");
            report.say_way_back();
            report.done(true, None);
            report.end(Exit::Done)
        }
        Outcome::Undone { failure } => {
            report.done(false, None);
            report.problem(
                "failed",
                Problem {
                    what: vec![failure.to_string()],
                    state: "the references are as they were, and Docker was not stopped".to_owned(),
                    next: Some(advice(&failure)),
                },
            );
            report.end(Exit::Failed)
        }
        Outcome::Incomplete { failure, left, id } => {
            report.done(true, None);
            let mut what = vec![failure.to_string()];
            what.extend(left.iter().map(ToString::to_string));
            report.problem(
                "INCOMPLETE",
                Problem {
                    what,
                    state: "all other references are as they were, and Docker was not stopped"
                        .to_owned(),
                    next: Some(format!(
                        "what stays is true, and does no harm. Once what is named above does not stand in \
                         the way: digestfix rollback {id}"
                    )),
                },
            );
            report.end(Exit::Broken)
        }
        Outcome::Broken {
            failure,
            undo,
            guard,
        } => {
            let next = match guard {
                Some(guard) => format!(
                    "look at what is there (docker image inspect), then: digestfix recover (which {guard} \
                     now tries as well: journalctl -u {guard})"
                ),
                None => "look at what is there (docker image inspect), then: digestfix recover"
                    .to_owned(),
            };
            report.problem(
                "COULD NOT RESTORE THE HOST",
                Problem {
                    what: vec![failure.to_string(), format!("and then, undoing it: {undo}")],
                    state: "some of the references may be new; Docker was not stopped".to_owned(),
                    next: Some(next),
                },
            );
            report.end(Exit::Broken)
        }
    }
}

/// What there is to say of a recovery that failed.
pub(in crate::commands) fn problem(failure: &Failure) -> Problem {
    Problem {
        what: vec![format!(
            "an interrupted run could not be brought to an end: {failure}"
        )],
        state: "some of its references may be there; Docker was not stopped".to_owned(),
        next: Some("see that Docker runs and answers, then: digestfix recover".to_owned()),
    }
}
