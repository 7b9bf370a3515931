//! Prints each change of a plan on its own line, and the sources of the added digests.

use std::collections::BTreeMap;

use crate::claims::trust::Trust;
use crate::image::reference::Reference;
use crate::plan::{Change, EntryChange, Plan, Target};
use crate::report::cut::{Cut, name};
use crate::report::table::Widths;
use crate::report::text::{Text, Tone};
use crate::report::{Report, basis};

/// The maximum number of claims that the text names as already true.
const MOST_HELD: usize = 5;

/// The maximum number of files to name as sources of the digests.
const MOST_ORIGINS: usize = 20;

impl Report {
    /// Prints the plan as a diff.
    pub fn say_plan(&self, plan: &Plan) {
        self.say_what_holds(plan);
        for removal in &plan.removals {
            let mut keys = plan
                .entries
                .iter()
                .map(|entry| Reference::parse(&entry.key));
            let mut changes = plan.changes.iter();
            if !changes.any(|change| change.reference == *removal)
                && !keys.any(|key| key.is_ok_and(|key| key == *removal))
            {
                match self.is_unread(removal) {
                    false => self.say(format!(
                        "  {removal} does not exist, so there is nothing to remove"
                    )),
                    true => self.say(Tone::Doubtful.of(format!(
                        "! {removal} is not in the file, but Docker still has this reference"
                    ))),
                }
            }
        }
        let room = self.room();
        let names = plan.changes.iter().map(|change| name(&change.reference));
        let cut = Cut::for_room(room, names, |cut| widths(plan, cut).all());
        let columns = widths(plan, cut).columns(room);
        each_line(plan, cut, |line| self.say(columns.row(&line)));
        for EntryChange { key, from, to, .. } in &plan.entries {
            let lines = [("-", from, Tone::Bad), ("+", to, Tone::Good)];
            for (sign, image, tone) in lines {
                if let Some(image) = image {
                    let key = format!("{sign}   {key:?}  {image}");
                    self.say(tone.of(key).and("  (Docker ignores it)"));
                }
            }
        }
        for origin in origins(plan) {
            self.say(origin);
        }
        for image in &plan.orphans {
            self.say(Tone::Doubtful.of(format!(
                "! image {image} has no reference after this change{}",
                match self.is_of_node() {
                    true => "; `crictl rmi --prune` or the kubelet would delete the image",
                    false => "; `docker image prune` would delete the image",
                }
            )));
        }
    }

    /// Prints the claims that are true already: names the first few, and counts the
    /// others.
    fn say_what_holds(&self, plan: &Plan) {
        let holding = plan.targets.iter().filter(|target| target.holds);
        let (stale, held): (Vec<_>, Vec<_>) =
            holding.partition(|target| self.is_unread(&target.reference));
        for target in stale {
            self.say(Tone::Doubtful.of(format!(
                "! {} is in the file, but Docker has not read the file yet",
                target.claim
            )));
        }
        for target in held.iter().take(MOST_HELD) {
            self.say(format!("  {} is already true", target.claim));
        }
        if let Some(more @ 1..) = held.len().checked_sub(MOST_HELD) {
            self.say(format!("  and {more} more claims are already true"));
        }
    }
}

fn widths(plan: &Plan, cut: Cut) -> Widths {
    let mut widths = Widths::default();
    each_line(plan, cut, |line| widths.take(&line));
    widths
}

fn each_line(plan: &Plan, cut: Cut, mut give: impl FnMut([Text; 3])) {
    for change in &plan.changes {
        let line = |tone: Tone, sign, image: &str, trust: &str| {
            let reference = cut.reference(&change.reference);
            [
                tone.of(format!("{sign}   {reference}")),
                tone.of(cut.image(image)),
                trust.into(),
            ]
        };
        if let Some(from) = &change.from {
            give(line(Tone::Bad, '-', from, ""));
        }
        if let Some(to) = &change.to {
            let trust = basis_of(plan, change).map_or("", |target| target.trust.word());
            give(line(Tone::Good, '+', &to.to_string(), trust));
        }
    }
}

/// The claim that justifies an added digest. `None` if the change does not add a digest.
fn basis_of<'a>(plan: &'a Plan, change: &Change) -> Option<&'a Target> {
    change.to.as_ref()?;
    change.reference.digest()?;
    plan.basis(&change.reference)
}

/// The sources of the added digests. Each file is listed once, with the number of digests
/// from it.
fn origins(plan: &Plan) -> Vec<String> {
    let mut by_file: BTreeMap<(Trust, bool, &str), Vec<&Target>> = BTreeMap::new();
    let bases = plan
        .changes
        .iter()
        .filter_map(|change| basis_of(plan, change));
    for target in bases {
        let typed = target.typed && target.trust == Trust::Asserted;
        let key = (target.trust, typed, file_of(&target.origin));
        by_file.entry(key).or_default().push(target);
    }
    let is_one = by_file.len() == 1;
    let more = by_file.len().saturating_sub(MOST_ORIGINS);
    let lines = by_file.into_iter().take(MOST_ORIGINS);
    let mut lines: Vec<String> = lines
        .map(|((trust, typed, file), targets)| match targets.as_slice() {
            [one] => format!("  {}", basis(trust, typed, &one.origin)),
            _ if is_one => format!("  {}", basis(trust, typed, file)),
            several => format!("  {}: {}", basis(trust, typed, file), several.len()),
        })
        .collect();
    if more > 0 {
        lines.push(format!("  and {more} more files"));
    }
    lines
}

/// The file that a claim comes from. `origin` may also contain a line number.
fn file_of(origin: &str) -> &str {
    match origin.rsplit_once(':') {
        Some((file, line))
            if !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            file
        }
        _ => origin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_without_the_line_in_it() {
        for (origin, file) in [
            ("a.yaml:12", "a.yaml"),
            ("standard input:1", "standard input"),
            ("typed", "typed"),
            ("a:", "a:"),
            ("c:\\x", "c:\\x"),
        ] {
            assert_eq!(file_of(origin), file);
        }
    }
}
