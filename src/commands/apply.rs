//! `digestfix apply`

use crate::cli::{ApplyArgs, RequestArgs};
use crate::commands::change::{Options, Wanted, change};
use crate::commands::outcome::tell;
use crate::commands::{Stop, request};
use crate::report::Report;
use crate::report::run_result::RunResult;

pub(super) async fn run(args: &ApplyArgs) -> RunResult {
    let invocation = Options::from(&args.change).invocation();
    let mut report = Report::new("apply", &args.output, invocation).observed(args.metrics.file());
    let request = match request(&args.request, &mut report) {
        Ok(request) => request,
        Err(stop) => return stop.tell(report),
    };
    let options = Options::from(&args.change);
    match change(&Wanted::Claims(&request), &options, &mut report).await {
        Ok(None) => nothing_to_do(&args.request, report),
        Ok(Some(changed)) => tell(changed, report),
        Err(stop) => stop.tell(report),
    }
}

fn nothing_to_do(args: &RequestArgs, mut report: Report) -> RunResult {
    if report.is_unmet() {
        if args.names_claims() {
            return Stop::Unmet.tell(report);
        }
        // If all hosts of a fleet get the same claims, most claims are about images of
        // other hosts.
        report.done(false, None);
        report.line("Nothing to do: no claim is about an image that this host has.");
        return report.end(RunResult::Unchanged);
    }
    report.done(false, None);
    report.line("Nothing to do: every claim about an image on this host is already true.");
    report.end(RunResult::Unchanged)
}
