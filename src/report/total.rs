//! Summary of a plan, in one line.

use crate::claims::trust::Trust;
use crate::docker::container::Container;
use crate::host::impact::{ContainerImpact, Impact};
use crate::plan::Plan;
use crate::report::Report;
use crate::state::method::Method;

impl Report {
    /// Writes the summary of the plan, its impact, and the command that applies it.
    pub fn total(&self, plan: &Plan, means: Option<Method>, impact: Option<&Impact>, apply: &str) {
        let impact = impact_in_short(means, impact);
        self.conclude(&format!(
            "{}.{impact} To do it: {apply}",
            of_references(plan)
        ));
    }
}

/// The number of references to add, change and drop, and the trust in the digests among
/// them.
pub(super) fn of_references(plan: &Plan) -> String {
    let count = |is: fn(bool, bool) -> bool| {
        let changes = plan.changes.iter();
        let changes = changes.map(|change| (change.from.is_some(), change.to.is_some()));
        let entries = plan.entries.iter();
        let entries = entries.map(|entry| (entry.from.is_some(), entry.to.is_some()));
        changes
            .chain(entries)
            .filter(|(from, to)| is(*from, *to))
            .count()
    };
    let changes = [
        (count(|from, to| !from && to), "to add"),
        (count(|from, to| from && to), "to change"),
        (count(|_, to| !to), "to drop"),
    ];
    let trusts = [Trust::Proven, Trust::Matched, Trust::Asserted].map(|trust| {
        let known = plan.changes.iter().filter(|change| {
            change.reference.digest().is_some()
                && change.to.is_some()
                && plan
                    .basis(&change.reference)
                    .is_some_and(|target| target.trust == trust)
        });
        (known.count(), trust.word())
    });
    let trusts = list(&trusts);
    match trusts.is_empty() {
        true => list(&changes),
        false => format!("{} ({trusts})", list(&changes)),
    }
}

fn list(counts: &[(usize, &str)]) -> String {
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = counts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    parts.join(", ")
}

fn impact_in_short(means: Option<Method>, impact: Option<&Impact>) -> String {
    match impact {
        Some(impact) if impact.running => {
            let keeps =
                |container: &&Container| impact.on(container) == ContainerImpact::KeepsRunning;
            let kept = impact.containers.iter().filter(keeps).count();
            let stop = impact.containers.len() - kept;
            format!(" Docker restarts; {kept} containers keep running, {stop} stop.")
        }
        _ if means.is_some_and(|means| means != Method::Restart) => " Nothing stops.".to_owned(),
        _ => String::new(),
    }
}
