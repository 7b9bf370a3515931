//! The claims files that an `apply` without arguments applies.

use crate::claims::source::SourceError;
use crate::doctor::{Check, Finding};
use crate::plan::{Plan, Refusal, Why};

/// The maximum number of refusals that are reported separately.
const MOST: usize = 20;

/// Findings about the claims directories. The doctor assumes an `apply` without options,
/// because it does not know which options the user gives. `count` is the number of
/// claims, or `None` if there is no directory. `plan` is `None` if the references cannot
/// be read.
pub fn judge(
    count: Option<usize>,
    errors: &[SourceError],
    plan: Option<&Result<Plan, Vec<Refusal>>>,
) -> Vec<Finding> {
    let mut findings: Vec<Finding> = errors
        .iter()
        .map(|error| Finding::refused(Check::Claims, error, error.help()))
        .collect();
    let Some(count) = count else {
        if findings.is_empty() {
            findings.push(Finding::ok(
                Check::Claims,
                "there is no /etc/digestfix/claims.d; apply needs claims on its command line",
            ));
        }
        return findings;
    };
    match plan {
        None => findings.push(Finding::not_seen(
            Check::Claims,
            format!("{count} read; digestfix cannot check the claims without the references"),
        )),
        Some(Ok(_)) if count == 0 && !errors.is_empty() => {}
        Some(Ok(plan)) => {
            let hold = plan.targets.iter().filter(|target| target.holds).count();
            let elsewhere = plan.skipped.iter().filter(|one| one.why == Why::NotHere);
            let elsewhere = elsewhere.count();
            findings.push(Finding::ok(
                Check::Claims,
                format!(
                    "{count} in the claims directories: {hold} hold, {} do not hold yet, \
                     {elsewhere} are about images of other hosts (checked as by apply without \
                     options)",
                    plan.targets.len() - hold
                ),
            ));
            let unclear = plan.skipped.iter().filter(|one| one.why != Why::NotHere);
            findings.extend(unclear.take(MOST).map(|one| {
                Finding::warning(
                    Check::Claims,
                    format!("{}: left alone, {}", one.claim, one.why),
                    match one.why {
                        Why::ImageId(_) => "remove that claim, or claim the right digest",
                        _ => "say which image: REF=IMAGE",
                    },
                )
            }));
        }
        Some(Err(refusals)) => {
            findings.extend(refusals.iter().take(MOST).map(|refusal| {
                Finding::problem(
                    Check::Claims,
                    format!("{refusal} (refused by apply without options)"),
                    "digestfix plan, with the options that you give apply on this host; then fix \
                     the claim in /etc/digestfix/claims.d, or remove it",
                )
            }));
            if let Some(more @ 1..) = refusals.len().checked_sub(MOST) {
                findings.push(Finding::problem(
                    Check::Claims,
                    format!("and {more} more are refused"),
                    "digestfix plan --json",
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn claims_are_counted_and_refusals_told() {
        let refusal = Refusal::EmptyRepository {
            claim: "a@b".to_owned(),
            repository: "a".to_owned(),
            near: Box::default(),
            nameless: Vec::new(),
        };
        let states = |findings: Vec<Finding>| -> Vec<State> {
            findings.iter().map(|one| one.state).collect()
        };
        let refused = Err(vec![refusal; MOST + 2]);
        let found = judge(Some(22), &[], Some(&refused));
        assert_eq!(found.len(), MOST + 1);
        assert!(found[MOST].what.contains("2 more"), "{found:?}");
        assert!(found[0].what.contains("without options"), "{found:?}");
        assert!(states(found).iter().all(|one| *one == State::Problem));
        assert_eq!(states(judge(None, &[], None)), [State::Ok]);
        assert_eq!(states(judge(Some(1), &[], None)), [State::NotSeen]);
    }
}
