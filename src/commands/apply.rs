//! `digestfix apply`

use crate::cli::ApplyArgs;
use crate::commands::change::{Changed, Terms, Wish, change};
use crate::commands::outcome::tell;
use crate::commands::{Stop, request};
use crate::report::{Exit, Report};

pub(super) async fn run(args: &ApplyArgs) -> Exit {
    let mut report = Report::new("apply", &args.output).observed(args.metrics.file());
    match apply(args, &mut report).await {
        Ok(None) => {
            report.done(false, None);
            report.line("Nothing to do: all that is claimed of this host holds already.");
            report.end(Exit::Done)
        }
        Ok(Some((outcome, disturbance))) => tell(outcome, disturbance.as_ref(), report),
        Err(stop) => stop.tell(report),
    }
}

async fn apply(args: &ApplyArgs, report: &mut Report) -> Result<Option<Changed>, Stop> {
    let request = request(&args.request, report)?;
    let terms = Terms {
        containers: args.containers.containers,
        wait: args.lock.wait,
        limits: (&args.retention).into(),
        host: &args.host,
    };
    change(&Wish::Claims(&request), &terms, report).await
}
