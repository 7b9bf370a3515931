//! `digestfix verify`

use crate::cli::VerifyArgs;
use crate::cli::invocation::{Invocation, typed_as_apply};
use crate::commands::online::Containerd;
use crate::commands::{Draft, Reach, Site, Stop, engine_at, request, unread, warn_of_pending};
use crate::docker::engine::{Engine, EngineError};
use crate::host::Managed;
use crate::host::impact::AssessError;
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
    if let Some(containerd) = Containerd::of(&site, args.content.containerd_root.as_deref())? {
        return containerd.verify(&request, report).await;
    }
    let draft = Draft::new(site.images(), &Goal::Claims(&request))?;
    let plan = &draft.plan;
    report.plan(plan);
    let running = site
        .managed()
        .map(|(_, managed)| managed)
        .filter(|managed| managed.engine.is_some());
    let answers = match running {
        Some(managed) => Some(ask(managed, plan).await.map_err(AssessError::from)?),
        None => None,
    };
    report.verified(plan, answers.as_deref());
    report.say_skipped(plan);
    let engine_agrees = answers.is_none_or(|answers| answers.iter().all(|holds| *holds));
    if plan.is_empty() && engine_agrees {
        return Ok(all_holds(plan, report));
    }
    if !plan.is_empty() {
        report.line(&format!("Not all of it holds. To make it so: {}", apply()));
        return Ok(RunResult::Pending);
    }
    report.line(&match unread::of_draft(&site, &draft).await {
        Ok(unread) if unread.is_empty() => {
            "The running engine does not find what is in the file: look into Docker's journal."
                .to_owned()
        }
        Ok(_) => format!(
            "The running engine has not read the file as it is now. To have it read: {}",
            apply()
        ),
        Err(_) => {
            "The running engine has not read the file as it is now. What stands in the way of that, with \
             the same claims: digestfix plan"
                .to_owned()
        }
    });
    Ok(RunResult::Pending)
}

/// The command that makes the claims true.
pub(super) fn apply() -> String {
    typed_as_apply("verify").unwrap_or_else(|| "digestfix apply (with the same claims)".to_owned())
}

/// Says how many of the claims hold, where nothing that this host has speaks
/// against one.
pub(super) fn all_holds(plan: &Plan, report: &Report) -> RunResult {
    if plan.is_unmet() {
        report.line("Nothing is verified: no claim could be applied.");
        return RunResult::Pending;
    }
    report.line(match plan.skipped.is_empty() {
        true => "All of it holds.",
        false => "What is claimed of images on this host holds; the other claims do not.",
    });
    RunResult::Done
}

async fn ask(managed: &Managed, plan: &Plan) -> Result<Vec<bool>, EngineError> {
    let engine = engine_at(&managed.socket);
    let mut answers = Vec::new();
    for target in &plan.targets {
        let image = engine.image(&target.reference).await?;
        answers.push(image == Some(target.image.to_string()));
    }
    Ok(answers)
}
