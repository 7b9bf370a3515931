//! What a run leaves for an administrator who was not present: journal entries with
//! explanations, and metrics that Prometheus's own tool accepts.

use std::io::Write;
use std::process::{Command, Stdio};

use digestfix::Event;
use serde_json::Value;

use crate::machine::{APP, Machine, OTHER, STORE, Suite, eventually};

const METRICS: &str = "/var/lib/node_exporter/digestfix.prom";
const CATALOG: &str = "/usr/lib/systemd/catalog/digestfix.catalog";

/// The entries that digestfix wrote, among those that journalctl shows.
fn events(machine: &Machine, matches: &str) -> Vec<Value> {
    let entries = machine.sh(&format!(
        "journalctl --sync; journalctl -q -b -o json --no-pager {matches}"
    ));
    let entries = entries
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    entries
        .filter(|entry: &Value| entry["DIGESTFIX_COMMAND"].is_string())
        .collect()
}

fn is(entry: &Value, event: Event) -> bool {
    entry["MESSAGE_ID"] == event.message_id()
}

/// The newest entry of one kind, as `journalctl -u docker` shows it.
#[track_caller]
fn newest(machine: &Machine, event: Event) -> Value {
    let found = events(
        machine,
        &format!("-u docker MESSAGE_ID={}", event.message_id()),
    );
    let newest = found.last();
    newest.unwrap_or_else(|| panic!("no {event:?}")).clone()
}

/// The text that `journalctl -x` adds to the newest entry of one kind.
fn explained(machine: &Machine, event: Event) -> String {
    machine.sh(&format!(
        "journalctl -q -b -x -n 1 --no-pager MESSAGE_ID={}",
        event.message_id()
    ))
}

/// Runs digestfix with this exit code, and returns the metrics that it writes.
#[track_caller]
fn run(machine: &Machine, code: i32, words: &[&str]) -> String {
    // Use the umask of a unit whose files no other user may read.
    let script = "umask 077; exec digestfix \"$@\"";
    let words = [&["sh", "-c", script, "sh"], words, &["--metrics", METRICS]].concat();
    machine.run(&words).exits(code);
    assert_eq!(machine.sh(&format!("stat -c %a {METRICS}")), "644");
    let metrics = machine.sh(&format!("cat {METRICS}"));
    let mut promtool = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = promtool.stdin.take().unwrap();
    writeln!(input, "{metrics}").unwrap();
    drop(input);
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert_eq!(String::from_utf8_lossy(&said), "", "promtool");
    assert!(output.status.success());
    metrics
}

#[track_caller]
fn value(metrics: &str, series: &str) -> f64 {
    let of = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
    let mut values = metrics.lines().filter_map(of);
    values
        .next()
        .unwrap_or_else(|| panic!("{series}\n{metrics}"))
}

#[track_caller]
fn ended(metrics: &str, result: &str) {
    let series = format!("digestfix_last_run_result{{result=\"{result}\"}}");
    assert_eq!(value(metrics, &series), 1.0, "{metrics}");
}

#[test]
fn a_host_tells_what_was_done_to_it() {
    let machine = Machine::boot(Suite::Trixie);
    machine.put(CATALOG, include_bytes!("../../packaging/digestfix.catalog"));
    machine.sh("journalctl --update-catalog; mkdir -p /var/lib/node_exporter");
    machine.load("app");
    machine.load("other");

    a_change(&machine);
    nothing_to_do(&machine);
    a_refusal(&machine);
    an_undo(&machine);
    a_recovery(&machine);
    nobody_listens(&machine);
}

fn a_change(machine: &Machine) {
    let metrics = run(machine, 0, &["apply", &machine.claim("app")]);

    let told = events(machine, "-t digestfix");
    let (first, rest) = told.split_first().unwrap();
    assert!(is(first, Event::Began));
    let (last, rest) = rest.split_last().unwrap();
    assert!(is(last, Event::ReferenceChanged));
    let (end, steps) = rest.split_last().unwrap();
    assert!(is(end, Event::Done));
    assert!(steps.iter().all(|entry| is(entry, Event::Step)));
    let steps: Vec<_> = steps.iter().map(|entry| &entry["DIGESTFIX_STEP"]).collect();
    assert_eq!(
        steps,
        ["stage", "block_start", "stop", "commit", "start", "verify"]
    );
    let id = end["DIGESTFIX_TRANSACTION"].as_str().unwrap();
    let history = machine.digestfix(&["history"]).exits(0).stdout;
    assert!(history.contains(id), "{history}");
    for entry in &told {
        assert_eq!(entry["DIGESTFIX_TRANSACTION"], id);
        assert_eq!(entry["DIGESTFIX_DATA_ROOT"], "/var/lib/docker");
    }
    for (field, value) in [
        (
            "DIGESTFIX_REFERENCE",
            format!("{APP}@{}", machine.digest("app")),
        ),
        ("DIGESTFIX_DIGEST", machine.digest("app")),
        ("DIGESTFIX_IMAGE_ID", machine.id("app")),
        ("DIGESTFIX_TRUST", "asserted".to_owned()),
    ] {
        assert_eq!(last[field], value, "{field}");
    }
    assert_eq!(end["DIGESTFIX_RESULT"], "done");
    assert_eq!(end["PRIORITY"], "5");
    assert_eq!(newest(machine, Event::Done), *end, "it is Docker's, too");
    let explained = explained(machine, Event::Done);
    assert!(
        explained.contains(&format!("To undo it:       digestfix rollback {id}")),
        "{explained}"
    );

    ended(&metrics, "done");
    assert_eq!(value(&metrics, "digestfix_changed_references_total"), 1.0);
    assert_eq!(value(&metrics, "digestfix_missing_digests"), 0.0);
    assert_eq!(value(&metrics, "digestfix_references"), 3.0);
    assert_eq!(value(&metrics, "digestfix_tags_without_digest"), 1.0);
    let outage = value(&metrics, "digestfix_api_outage_seconds");
    assert!(outage > 0.0, "{outage}");
    assert_eq!(
        end["DIGESTFIX_API_OUTAGE_SECONDS"]
            .as_str()
            .unwrap()
            .parse(),
        Ok(outage)
    );
}

fn nothing_to_do(machine: &Machine) {
    let (told, pid) = (events(machine, "-t digestfix"), machine.main_pid());

    let metrics = run(machine, 0, &["apply", &machine.claim("app")]);

    assert_eq!(events(machine, "-t digestfix"), told, "nobody hears of it");
    assert_eq!(machine.main_pid(), pid);
    ended(&metrics, "unchanged");
    assert_eq!(value(&metrics, "digestfix_changed_references_total"), 1.0);
    assert_eq!(value(&metrics, "digestfix_missing_digests"), 0.0);
    // A recovery that finds nothing to do does not change the metrics of the last run.
    assert_eq!(run(machine, 0, &["recover"]), metrics);
}

fn a_refusal(machine: &Machine) {
    let told = events(machine, "-t digestfix").len();

    let metrics = run(machine, 3, &["apply", &format!("{APP}:v1={OTHER}:v1")]);

    assert_eq!(events(machine, "-t digestfix").len(), told + 1);
    let refused = newest(machine, Event::Refused);
    assert_eq!(refused["PRIORITY"], "3");
    assert_eq!(refused["DIGESTFIX_TRANSACTION"], Value::Null);
    let problem = refused["DIGESTFIX_PROBLEM"].as_str().unwrap();
    assert!(problem.contains(APP), "{problem}");
    let explained = explained(machine, Event::Refused);
    for part in [problem, "State of the host: nothing was touched"] {
        assert!(explained.contains(part), "{explained}");
    }
    ended(&metrics, "refused");
    assert_eq!(value(&metrics, "digestfix_last_run_exit_code"), 3.0);
    assert!(!metrics.contains("digestfix_missing_digests "), "{metrics}");
}

fn an_undo(machine: &Machine) {
    machine.drop_in(&format!(
        "[Service]\nExecStartPre=/bin/sh -c '! grep -q {OTHER}@sha256 {STORE}'\n"
    ));

    let metrics = run(machine, 1, &["apply", &machine.claim("other")]);

    machine.without_drop_in();
    let failed = newest(machine, Event::Failed);
    assert_eq!(failed["DIGESTFIX_RESULT"], "undone");
    let state = failed["DIGESTFIX_STATE"].as_str().unwrap();
    assert!(state.ends_with("Docker runs with them again"), "{state}");
    let id = failed["DIGESTFIX_TRANSACTION"].as_str().unwrap();
    let of_it = events(machine, &format!("DIGESTFIX_TRANSACTION={id}"));
    assert!(of_it.iter().any(|entry| is(entry, Event::Warning)));
    assert!(
        of_it
            .iter()
            .all(|entry| !is(entry, Event::ReferenceChanged))
    );
    ended(&metrics, "undone");
    assert_eq!(value(&metrics, "digestfix_missing_digests"), 1.0);
    assert_eq!(value(&metrics, "digestfix_changed_references_total"), 1.0);
    assert_eq!(
        failed["DIGESTFIX_API_OUTAGE_SECONDS"]
            .as_str()
            .unwrap()
            .parse(),
        Ok(value(&metrics, "digestfix_api_outage_seconds"))
    );
}

/// The watchdog has no terminal for its messages.
fn a_recovery(machine: &Machine) {
    machine.drop_in("[Service]\nExecStopPost=-/usr/bin/pkill -KILL -f 'digestfix apply'\n");
    machine.digestfix(&["apply", &machine.claim("other")]);
    machine.without_drop_in();
    eventually("the watchdog has ended", || machine.is_finished());
    let began = newest(machine, Event::Began);
    let recovered = newest(machine, Event::Recovered);
    assert_eq!(recovered["DIGESTFIX_COMMAND"], "watchdog");
    assert_eq!(
        recovered["DIGESTFIX_TRANSACTION"],
        began["DIGESTFIX_TRANSACTION"]
    );
}

fn nobody_listens(machine: &Machine) {
    machine.sh("mv /run/systemd/journal/socket /run/systemd/journal/aside");
    let metrics = run(machine, 0, &["rollback"]);
    machine.sh("mv /run/systemd/journal/aside /run/systemd/journal/socket");
    machine.is_whole();
    ended(&metrics, "done");
    // A rollback has no claims, so its metrics count no missing digests.
    assert!(!metrics.contains("digestfix_missing_digests "), "{metrics}");
}
