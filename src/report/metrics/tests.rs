//! Tests of the metrics: what is written, what is kept from former runs, and which
//! metrics the rules and dashboards use.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::testing::scratch;

const RULES: &str = include_str!("../../../packaging/prometheus/digestfix.rules.yml");
const DASHBOARD: &str = include_str!("../../../packaging/grafana/digestfix.json");

fn a_change() -> Run {
    Run {
        result: RunResult::Done,
        exit_code: 0,
        ended: 1_800_000_000.123_4,
        seconds: 0.9,
        changed: 2,
        outage: Some(0.4),
        missing_digests: Some(0),
        references: Some(References {
            all: 5,
            without_digest: 1,
        }),
    }
}

fn nothing_to_do() -> Run {
    Run {
        result: RunResult::Unchanged,
        ended: 1_800_003_600.0,
        changed: 0,
        outage: None,
        ..a_change()
    }
}

fn a_refusal() -> Run {
    Run {
        result: RunResult::Refused,
        exit_code: 3,
        missing_digests: None,
        references: None,
        ..nothing_to_do()
    }
}

fn samples(file: &Path) -> BTreeMap<String, f64> {
    let text = fs::read_to_string(file).unwrap();
    let samples = exposition::read(&text).into_iter();
    samples
        .filter(|(series, _)| !series.starts_with('#'))
        .map(|(series, value)| (series.to_owned(), value))
        .collect()
}

#[test]
fn counts_and_times_are_kept_across_runs() {
    let directory = scratch();
    let file = directory.path().join("digestfix.prom");
    for run in [a_change(), nothing_to_do(), a_change(), a_refusal()] {
        write(&file, &run).unwrap();
    }
    let samples = samples(&file);
    for (series, value) in [
        (r#"digestfix_runs_total{result="done"}"#, 2.0),
        (r#"digestfix_runs_total{result="unchanged"}"#, 1.0),
        (r#"digestfix_runs_total{result="refused"}"#, 1.0),
        (r#"digestfix_last_run_result{result="refused"}"#, 1.0),
        (r#"digestfix_last_run_result{result="done"}"#, 0.0),
        ("digestfix_last_run_exit_code", 3.0),
        ("digestfix_changed_references_total", 4.0),
        ("digestfix_last_run_timestamp_seconds", 1_800_003_600.0),
        ("digestfix_last_change_timestamp_seconds", 1_800_000_000.123),
        (
            "digestfix_last_success_timestamp_seconds",
            1_800_000_000.123,
        ),
        (
            "digestfix_last_api_outage_timestamp_seconds",
            1_800_000_000.123,
        ),
        ("digestfix_api_outage_seconds", 0.4),
        ("digestfix_api_outage_seconds_total", 0.8),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series}");
    }
    assert!(!samples.contains_key("digestfix_missing_digests"));
    assert!(!samples.contains_key("digestfix_references"));
}

#[test]
fn it_is_replaced_whole_and_everybody_may_read_it() {
    let directory = scratch();
    let file = directory.path().join("digestfix.prom");
    write(&file, &a_change()).unwrap();
    let first = fs::metadata(&file).unwrap();
    write(&file, &a_change()).unwrap();
    let second = fs::metadata(&file).unwrap();
    assert_ne!(first.ino(), second.ino());
    assert_eq!(second.mode() & 0o7777, 0o644);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_link_is_replaced_and_not_followed() {
    let directory = scratch();
    let (file, target) = (
        directory.path().join("x.prom"),
        directory.path().join("shadow"),
    );
    fs::write(&target, "digestfix_changed_references_total 9\n").unwrap();
    std::os::unix::fs::symlink(&target, &file).unwrap();
    write(&file, &a_change()).unwrap();
    assert!(!file.is_symlink());
    assert_eq!(samples(&file)["digestfix_changed_references_total"], 2.0);
    assert_eq!(
        fs::read_to_string(&target).unwrap(),
        "digestfix_changed_references_total 9\n"
    );
}

#[test]
fn what_a_killed_run_left_is_no_hindrance() {
    let directory = scratch();
    let file = directory.path().join("x.prom");
    let target = directory.path().join("shadow");
    let left = directory
        .path()
        .join(format!("x.prom.{}.new", std::process::id()));
    fs::write(&left, "half").unwrap();
    write(&file, &a_change()).unwrap();
    assert!(!left.exists());
    fs::write(&target, "mine").unwrap();
    std::os::unix::fs::symlink(&target, &left).unwrap();
    write(&file, &a_change()).unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
    assert!(!left.is_symlink() && !file.is_symlink());
    assert_eq!(samples(&file)["digestfix_changed_references_total"], 4.0);
}

#[test]
fn garbage_in_its_place_is_no_hindrance() {
    let directory = scratch();
    let file = directory.path().join("digestfix.prom");
    for garbage in [
        &b"\xff\xfe\0"[..],
        b"digestfix_changed_references_total NaN\n",
        b"digestfix_changed_references_total -4\n\n}{\n",
    ] {
        fs::write(&file, garbage).unwrap();
        write(&file, &a_change()).unwrap();
        assert_eq!(samples(&file)["digestfix_changed_references_total"], 2.0);
    }
}

#[test]
fn where_it_cannot_be_written_nothing_is_left() {
    let directory = scratch();
    let file = directory.path().join("digestfix.prom");
    fs::create_dir(&file).unwrap();
    write(&file, &a_change()).unwrap_err();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    write(&directory.path().join("gone/digestfix.prom"), &a_change()).unwrap_err();
}

/// The names of the metrics in an expression.
fn named(text: &str) -> BTreeSet<&str> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    text.split(|character| !is_part(character))
        .filter(|word| word.starts_with("digestfix_"))
        .collect()
}

#[test]
fn rules_and_dashboard_ask_for_what_is_written() {
    let text = text(&a_change(), &BTreeMap::new());
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let written: BTreeSet<&str> = types.filter_map(|line| line.split(' ').next()).collect();
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() >= 8);
    let asked: BTreeSet<&str> = [RULES, DASHBOARD].into_iter().flat_map(named).collect();
    let unknown: Vec<_> = asked.difference(&written).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let results: BTreeSet<&str> = RunResult::ALL.map(RunResult::word).into();
    for text in [RULES, DASHBOARD] {
        for matched in text.split("result=").skip(1) {
            let words = matched.trim_start_matches(['~', '"', '\\']);
            let words = words.split(['"', '\\']).next().unwrap();
            for word in words.split('|') {
                assert!(results.contains(word), "{word}");
            }
        }
    }
}
