//! Prometheus's text format (`prometheus.io/docs/instrumenting/exposition_formats`),
//! limited to what digestfix writes.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The type of a metric family.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// A value that goes up and down.
    Gauge,
    /// A count that only grows.
    Counter,
}

/// A text to which metric families are appended.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
    family: &'static str,
}

impl Exposition {
    /// Begins a family. Its samples follow.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> &mut Self {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        let help = help.replace('\\', r"\\").replace('\n', r"\n");
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self.family = name;
        self
    }

    /// Adds a sample without a label.
    pub fn value(&mut self, value: f64) {
        let _ = writeln!(self.text, "{} {value}", self.family);
    }

    /// Adds a sample with one label.
    pub fn labelled(&mut self, label: &str, of: &str, value: f64) {
        let series = series(self.family, label, of);
        let _ = writeln!(self.text, "{series} {value}");
    }

    pub fn into_text(self) -> String {
        self.text
    }
}

/// The name of a series with one label.
pub(super) fn series(family: &str, label: &str, of: &str) -> String {
    let of = of
        .replace('\\', r"\\")
        .replace('"', "\\\"")
        .replace('\n', r"\n");
    format!("{family}{{{label}=\"{of}\"}}")
}

/// Reads a text in this format, and returns the value of each series. Skips other lines.
pub(super) fn read(text: &str) -> BTreeMap<&str, f64> {
    let samples = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let value: f64 = value.parse().ok()?;
        (value.is_finite() && value >= 0.0).then_some((series, value))
    });
    samples.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_escaped() {
        let mut text = Exposition::default();
        text.family("a_b", Kind::Gauge, "a \\ and\na line")
            .labelled("of", "say \"\\n\"\nx", 1.5);
        assert_eq!(
            text.into_text(),
            "# HELP a_b a \\\\ and\\na line\n# TYPE a_b gauge\na_b{of=\"say \\\"\\\\n\\\"\\nx\"} 1.5\n"
        );
    }

    #[test]
    fn what_is_written_is_read_and_the_rest_is_not() {
        let mut text = Exposition::default();
        text.family("a", Kind::Counter, "help 3").value(7.0);
        text.family("b", Kind::Gauge, "help")
            .labelled("of", "x y", 0.25);
        let text = text.into_text() + "c NaN\nd -1\ne +Inf\nf\ng one\n\0\n";
        let mut expected = BTreeMap::from([("a", 7.0), ("b{of=\"x y\"}", 0.25)]);
        // No series has such a name.
        expected.insert("# HELP a help", 3.0);
        assert_eq!(read(&text), expected);
    }
}
