//! Summary of a plan, in one line.

use crate::claims::trust::Trust;
use crate::host::impact::{ContainerImpact, Impact};
use crate::plan::Plan;
use crate::report::Report;
use crate::state::method::Method;

impl Report {
    /// Prints a summary of the plan and its impact. `apply` is the command that carries
    /// out the plan. It is `None` if the present command itself carries out the plan.
    pub fn total(
        &self,
        plan: &Plan,
        means: Option<Method>,
        impact: Option<&Impact>,
        apply: Option<&str>,
    ) {
        let impact = impact_in_short(means, impact);
        let next = apply.map_or_else(String::new, |apply| format!(" To do it: {apply}"));
        self.conclude(&format!("{}.{impact}{next}", of_references(plan)));
    }
}

/// Describes how many references the plan adds, changes and removes, and counts the
/// digests by their trust.
fn of_references(plan: &Plan) -> String {
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
        (count(|_, to| !to), "to remove"),
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
            let time = match impact.stops_late() {
                true => "up to 6 s",
                false => "about 1 s",
            };
            format!(" Docker is stopped for {time}; {}.", containers(impact))
        }
        _ if means.is_some_and(|means| means != Method::Restart) => " Nothing stops.".to_owned(),
        _ => String::new(),
    }
}

/// Describes how many containers keep running, restart or stop.
fn containers(impact: &Impact) -> String {
    let (mut kept, mut again, mut down) = (0, 0, 0);
    for container in &impact.containers {
        match impact.on(container) {
            ContainerImpact::KeepsRunning => kept += 1,
            ContainerImpact::StartedAgain
            | ContainerImpact::RestartsByPolicy
            | ContainerImpact::RestartsIfItFails
            | ContainerImpact::ReplacedBySwarm => again += 1,
            ContainerImpact::StaysDown | ContainerImpact::Removed => down += 1,
        }
    }
    let kept = match (kept, impact.containers.len()) {
        (_, 0) => return "no container runs".to_owned(),
        (1, _) => "1 container keeps running".to_owned(),
        _ => format!("{kept} containers keep running"),
    };
    let down = match down {
        0 => String::new(),
        _ => format!(", {down} STOP"),
    };
    format!("{kept}, {again} restart{down}")
}
