//! `digestfix plan`

use crate::cli::PlanArgs;
use crate::cli::invocation::{Invocation, apply_instead_of};
use crate::commands::{Draft, Reach, Site, Stop, request, warn_of_pending};
use crate::host::impact::Allowed;
use crate::plan::Plan;
use crate::report::Report;
use crate::report::run_result::RunResult;
use crate::transaction::goal::Goal;
use crate::transaction::outcome::Progress;

pub(super) async fn run(args: &PlanArgs) -> RunResult {
    let invocation = Invocation::of(&args.host, args.content.containerd_root.as_deref());
    let mut report = Report::new("plan", &args.output, invocation);
    match show(args, &mut report).await {
        Ok(exit) => report.end(exit),
        Err(stop) => stop.tell(report),
    }
}

async fn show(args: &PlanArgs, report: &mut Report) -> Result<RunResult, Stop> {
    let request = request(&args.request, report)?;
    let site = Site::find(&args.host, Reach::Bus).await?;
    report.host(&site.host);
    warn_of_pending(&site, report);
    let goal = Goal::Claims(&request);
    let root = args.content.containerd_root.as_deref();
    let draft = site.draft(&goal, root, None, report).await?;
    report.unread(&draft.means.stale);
    report.gaps(&draft.gaps());
    report.say_host();
    report.say_plan(&draft.plan);
    report.say_skipped(&draft.plan);
    if draft.changes_nothing() {
        return Ok(nothing_to_change(&draft.plan, report));
    }
    let Draft { store, plan, means } = draft;
    let allowed = Allowed {
        containers: args.containers.containers,
        force_restart: args.restart.force_restart,
    };
    let (impact, blockers) = store.survey(allowed).await?;
    let method = store.method();
    if method.is_some() {
        report.made_by(method);
    }
    report.layers_missing("may have", &means.work.run_only);
    if let Some(impact) = &impact {
        report.impact(impact);
        if let Some(what) = impact.not_known() {
            report.warning(&what);
        }
    }
    if !blockers.is_empty() {
        return Err(Stop::Blockers(blockers));
    }
    if !plan.is_empty() {
        let apply = apply_instead_of("plan");
        report.total(&plan, method, impact.as_ref(), Some(&apply));
    }
    Ok(RunResult::Pending)
}

/// Reports that a plan changes nothing, and why.
fn nothing_to_change(plan: &Plan, report: &Report) -> RunResult {
    if plan.is_unmet() {
        report.conclude("Nothing can be done: no claim could be applied.");
        return RunResult::Pending;
    }
    report.conclude("Nothing to do.");
    RunResult::Done
}
