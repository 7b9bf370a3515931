//! `digestfix verify`

use crate::cli::VerifyArgs;
use crate::cli::invocation::{Invocation, apply_instead_of};
use crate::commands::{Reach, Site, Stop, request, warn_of_pending};
use crate::plan::Plan;
use crate::report::Report;
use crate::report::run_result::RunResult;
use crate::transaction::goal::Goal;

pub(super) async fn run(args: &VerifyArgs) -> RunResult {
    let invocation = Invocation::of(&args.host, args.content.containerd_root.as_deref());
    let mut report = Report::new("verify", &args.output, invocation);
    match show(args, &mut report).await {
        Ok(exit) => report.end(exit),
        Err(stop) => stop.tell(report),
    }
}

async fn show(args: &VerifyArgs, report: &mut Report) -> Result<RunResult, Stop> {
    let request = request(&args.request, report)?;
    let site = Site::find(&args.host, Reach::Bus).await?;
    report.host(&site.host);
    warn_of_pending(&site, report);
    let goal = Goal::Claims(&request);
    let root = args.content.containerd_root.as_deref();
    let mut store = site.image_store(root, None).await?;
    let plan = &store.plan(&goal).await?;
    report.gaps(&store.gaps(Some(plan)));
    report.plan(plan);
    let answers = store.answers(plan).await?;
    report.verified(plan, answers.as_deref());
    report.say_skipped(plan);
    let engine_agrees = answers.is_none_or(|answers| answers.iter().all(|holds| *holds));
    if plan.is_empty() && engine_agrees {
        return Ok(all_holds(plan, report));
    }
    if !plan.is_empty() {
        report.line(&format!(
            "Not every claim is true on this host. To apply the claims: {}",
            apply_instead_of("verify")
        ));
        return Ok(RunResult::Pending);
    }
    report.line(&match store.means(&goal, plan).await {
        Ok(means) if means.stale.is_empty() => {
            "The image store contains every claimed reference, but the running engine does not \
             find all of them: read the engine's log."
                .to_owned()
        }
        Ok(_) => format!(
            "The running Docker has not read the file with the references since the file changed. \
             To make Docker read the file: {}",
            apply_instead_of("verify")
        ),
        Err(_) => {
            "The running Docker has not read the file with the references since the file changed. \
             To see why digestfix cannot make Docker read the file, type, with the same claims: \
             digestfix plan"
                .to_owned()
        }
    });
    Ok(RunResult::Pending)
}

/// Reports that nothing on this host contradicts the claims.
fn all_holds(plan: &Plan, report: &Report) -> RunResult {
    if plan.is_unmet() {
        report.line("Nothing is verified: no claim could be applied.");
        return RunResult::Pending;
    }
    report.line(match plan.skipped.is_empty() {
        true => "Every claim holds.",
        false => {
            "Every claim about an image on this host holds; the other claims could not be checked."
        }
    });
    RunResult::Done
}
