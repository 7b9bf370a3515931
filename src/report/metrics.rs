//! Metrics of the last run, as a file for node_exporter's textfile collector.
//!
//! The file is replaced atomically. digestfix reads values that span several runs
//! (counts, the time of the last change) from the former file. If the former file cannot
//! be read, these values start again from zero. If two runs end at the same instant, one
//! of them may not be counted.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::report::run_result::RunResult;
use crate::state::state_file;

mod exposition;

use exposition::{Exposition, Kind, series};

/// The maximum size of a former file that digestfix reads, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

const RUNS: &str = "digestfix_runs_total";
const CHANGED: &str = "digestfix_changed_references_total";
const LAST_SUCCESS: &str = "digestfix_last_success_timestamp_seconds";
const LAST_CHANGE: &str = "digestfix_last_change_timestamp_seconds";
const OUTAGE: &str = "digestfix_api_outage_seconds";
const OUTAGE_AT: &str = "digestfix_last_api_outage_timestamp_seconds";
const OUTAGES: &str = "digestfix_api_outage_seconds_total";

/// A run that has ended, and the state of the host after it.
#[derive(Debug, Clone)]
pub struct Run {
    pub result: RunResult,
    pub exit_code: u8,
    /// The end of the run, in seconds since 1970.
    pub ended: f64,
    /// The duration of the run, in seconds.
    pub seconds: f64,
    /// The number of changed references.
    pub changed: usize,
    /// How long the engine's API was unavailable, in seconds. `None` if the engine was
    /// not stopped.
    pub outage: Option<f64>,
    /// The number of claimed digests that are missing. `None` if the run ended before it
    /// knew that number.
    pub missing_digests: Option<usize>,
    /// The host's references. `None` if digestfix could not read the references.
    pub references: Option<References>,
}

/// Counts of a host's references.
#[derive(Debug, Clone, Copy)]
pub struct References {
    /// References that the engine can parse.
    pub all: usize,
    /// Tags whose image has no digest in the tag's repository.
    pub without_digest: usize,
}

/// Replaces the metrics in `file` with the metrics of a run. On an error, the file is
/// unchanged.
pub fn write(file: &Path, run: &Run) -> io::Result<()> {
    let former = state_file::read(file, MAX_BYTES).ok().flatten();
    let former = String::from_utf8(former.unwrap_or_default()).unwrap_or_default();
    replace(file, text(run, &exposition::read(&former)).as_bytes())
}

/// Replaces a file so that node_exporter never finds an incomplete file, or a file
/// without read permission.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    // A killed run with the same process ID may have left this file. If the removal
    // fails, the following `open` fails too and reports the reason.
    let _ = fs::remove_file(&new);
    let mut opened = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let written = opened
        .write_all(bytes)
        // The umask may have reduced the mode at creation, so set the mode again.
        .and_then(|()| opened.set_permissions(Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&new, file));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn text(run: &Run, former: &BTreeMap<&str, f64>) -> String {
    let had = |series: &str| former.get(series).copied();
    let count = |series: &str| had(series).unwrap_or(0.0);
    let number = |count: usize| count as f64;
    let mut text = Exposition::default();
    text.family(
        "digestfix_build_info",
        Kind::Gauge,
        "The version of digestfix that ran last.",
    )
    .labelled("version", env!("CARGO_PKG_VERSION"), 1.0);
    text.family(
        "digestfix_last_run_timestamp_seconds",
        Kind::Gauge,
        "When the last run ended.",
    )
    .value(milliseconds(run.ended));
    text.family(
        "digestfix_last_run_duration_seconds",
        Kind::Gauge,
        "How long the last run took.",
    )
    .value(milliseconds(run.seconds));
    text.family(
        "digestfix_last_run_exit_code",
        Kind::Gauge,
        "The exit code of the last run.",
    )
    .value(f64::from(run.exit_code));
    text.family(
        "digestfix_last_run_result",
        Kind::Gauge,
        "The result of the last run: 1 for this result, 0 for the others.",
    );
    for result in RunResult::ALL {
        let value = if result == run.result { 1.0 } else { 0.0 };
        text.labelled("result", result.word(), value);
    }
    text.family(
        RUNS,
        Kind::Counter,
        "The number of runs that wrote this file, by result.",
    );
    for result in RunResult::ALL {
        let of = count(&series(RUNS, "result", result.word()));
        let one = if result == run.result { 1.0 } else { 0.0 };
        text.labelled("result", result.word(), of + one);
    }
    text.family(
        CHANGED,
        Kind::Counter,
        "The number of references that all runs changed.",
    )
    .value(count(CHANGED) + number(run.changed));
    let success = run.result.is_success().then_some(milliseconds(run.ended));
    if let Some(at) = success.or(had(LAST_SUCCESS)) {
        text.family(
            LAST_SUCCESS,
            Kind::Gauge,
            "When the last successful run ended.",
        )
        .value(at);
    }
    let change = (run.changed > 0).then_some(milliseconds(run.ended));
    if let Some(at) = change.or(had(LAST_CHANGE)) {
        text.family(
            LAST_CHANGE,
            Kind::Gauge,
            "When the last run that changed references ended.",
        )
        .value(at);
    }
    let outage = run.outage.map(milliseconds);
    let was_away = outage.map(|seconds| (seconds, milliseconds(run.ended)));
    let was_away = was_away.or(had(OUTAGE).zip(had(OUTAGE_AT)));
    if let Some((seconds, at)) = was_away {
        text.family(
            OUTAGE,
            Kind::Gauge,
            "How long Docker's API was unavailable in the last run that stopped Docker; if Docker \
             did not start again, until the end of the run.",
        )
        .value(seconds);
        text.family(
            OUTAGE_AT,
            Kind::Gauge,
            "When the last run that stopped Docker ended.",
        )
        .value(at);
    }
    text.family(
        OUTAGES,
        Kind::Counter,
        "How long Docker's API was unavailable in all runs together.",
    )
    .value(milliseconds(count(OUTAGES) + outage.unwrap_or(0.0)));
    if let Some(missing) = run.missing_digests {
        text.family(
            "digestfix_missing_digests",
            Kind::Gauge,
            "The number of claimed digests that images of this host lack after the last run; \
             absent if the run could not count them.",
        )
        .value(number(missing));
    }
    if let Some(references) = run.references {
        text.family(
            "digestfix_references",
            Kind::Gauge,
            "The number of references on the host.",
        )
        .value(number(references.all));
        text.family(
            "digestfix_tags_without_digest",
            Kind::Gauge,
            "The number of tags whose image has no digest in the same repository, whether a digest \
             is claimed or not.",
        )
        .value(number(references.without_digest));
    }
    text.into_text()
}

fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests;
