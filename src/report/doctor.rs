//! Doctor's findings, for people and for machines.

use crate::cli::invocation::with_whole_lines;
use crate::doctor::{Finding, State};
use crate::report::table::columns;
use crate::report::text::{Text, Tone};
use crate::report::{Report, shortened};

impl Report {
    /// Writes a line for each finding, followed by the next step.
    pub fn findings(&mut self, mut findings: Vec<Finding>) {
        for finding in &mut findings {
            let in_full = |text: &String| {
                self.invocation
                    .in_full(&with_whole_lines(text))
                    .into_owned()
            };
            finding.next = finding.next.as_ref().map(in_full);
        }
        let rows: Vec<[Text; 3]> = findings
            .iter()
            .map(|finding| {
                [
                    tone(finding.state).of(finding.state.text()),
                    finding.check.text().into(),
                    shortened(&finding.what).into(),
                ]
            })
            .collect();
        // Pass no width, so that `columns` does not fold the sentences.
        for (line, finding) in columns(&rows, None).into_iter().zip(&findings) {
            let next = finding.next.as_ref();
            let next = next.map(|next| Tone::Strong.of("  Next:").and(format!(" {next}")));
            for line in [line].into_iter().chain(next) {
                if finding.state == State::Problem && self.quiet > 0 {
                    self.complain(line);
                } else {
                    self.say(line);
                }
            }
        }
        self.paragraph(summary(&findings));
        self.document.checks = Some(findings);
    }
}

const fn tone(state: State) -> Tone {
    match state {
        State::Ok => Tone::Good,
        State::Warning => Tone::Doubtful,
        State::Problem => Tone::Bad,
        State::NotSeen => Tone::Faint,
    }
}

fn summary(findings: &[Finding]) -> String {
    let count = |state| findings.iter().filter(|one| one.state == state).count();
    let some = |count: usize, noun: &str| match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    };
    let verdict = match count(State::Problem) {
        0 => "Nothing would stop an apply".to_owned(),
        problems => format!(
            "{} would stop an apply; nothing was touched",
            some(problems, "problem")
        ),
    };
    let warnings = some(count(State::Warning), "warning");
    match count(State::NotSeen) {
        0 => format!("{verdict}. {warnings}."),
        unseen => format!(
            "{verdict}. {warnings}, {} not possible.",
            some(unseen, "check")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Check;

    #[test]
    fn the_end_says_what_it_comes_to() {
        let mut findings = vec![Finding::ok(Check::Root, "")];
        assert_eq!(
            summary(&findings),
            "Nothing would stop an apply. 0 warnings."
        );
        findings.push(Finding::warning(Check::Disk, "", ""));
        findings.push(Finding::problem(Check::Disk, "", ""));
        findings.push(Finding::not_seen(Check::Claims, ""));
        assert_eq!(
            summary(&findings),
            "1 problem would stop an apply; nothing was touched. 1 warning, 1 check not possible."
        );
    }
}
