//! Tests of the events: which results are sent to journald, and as which events.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::net::UnixDatagram;

use tempfile::TempDir;

use super::*;
use crate::claims::trust::Trust;
use crate::report::Problem;

struct Listener {
    _directory: TempDir,
    socket: UnixDatagram,
    observer: Observer,
}

fn listener() -> Listener {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    Listener {
        _directory: directory,
        socket,
        observer: Observer {
            journald: Journald::at(&path),
            ..Observer::new(None)
        },
    }
}

impl Listener {
    fn heard(&self) -> Vec<String> {
        let mut bytes = vec![0; 1 << 18];
        let mut heard = Vec::new();
        while let Ok(length) = self.socket.recv(&mut bytes) {
            heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        heard
    }
}

fn changed(count: usize) -> Vec<ChangeDocument> {
    let change = |number| ChangeDocument {
        reference: format!("a{number}@sha256:1"),
        from: None,
        to: Some("sha256:2".to_owned()),
        trust: Some(Trust::Proven),
        origin: Some("a\nfile".to_owned()),
    };
    (0..count).map(change).collect()
}

#[test]
fn each_end_is_told_once_and_no_end_of_nothing() {
    use RunResult::{
        Broken, ContainersChanged, Done, Failed, Incomplete, Recovered, Refused, Unchanged, Undone,
    };
    for (result, transaction, expected) in [
        (Unchanged, false, None),
        (Recovered, false, None),
        (Unchanged, true, Some((Event::Done, "unchanged"))),
        (Done, true, Some((Event::Done, "done"))),
        (
            ContainersChanged,
            true,
            Some((Event::ContainersChanged, "containers_changed")),
        ),
        (Refused, false, Some((Event::Refused, "refused"))),
        (Failed, false, Some((Event::Failed, "failed"))),
        (Undone, true, Some((Event::Failed, "undone"))),
        (Incomplete, true, Some((Event::Incomplete, "incomplete"))),
        (Broken, true, Some((Event::Broken, "broken"))),
    ] {
        let mut listener = listener();
        let document = Document {
            command: "apply",
            transaction: transaction.then(|| "one".to_owned()),
            ..Document::default()
        };
        listener.observer.end(&document, result);
        let heard = listener.heard();
        match expected {
            None => assert_eq!(heard, [""; 0]),
            Some((event, result)) => {
                assert_eq!(heard.len(), 1, "{heard:?}");
                for field in [
                    format!("\nMESSAGE_ID={}\n", event.message_id()),
                    format!("\nDIGESTFIX_RESULT={result}\n"),
                ] {
                    assert!(heard[0].contains(&field), "{heard:?}");
                }
            }
        }
    }
}

#[test]
fn each_reference_is_told_after_the_end() {
    let mut listener = listener();
    let document = Document {
        command: "apply",
        changed: Some(true),
        transaction: Some("one".to_owned()),
        changes: Some(changed(3)),
        ..Document::default()
    };
    listener.observer.begins(&document, "one");
    listener.observer.end(&document, RunResult::Done);
    let heard = listener.heard();
    assert_eq!(heard.len(), 2 + 3);
    let last = &heard[4];
    for field in [
        "\nMESSAGE=a2@sha256:1 is sha256:2 now (proven)\n",
        "\nDIGESTFIX_DIGEST=sha256:1\n",
        "\nDIGESTFIX_TRANSACTION=one\n",
        "\nDIGESTFIX_ORIGIN=a\\nfile\n",
    ] {
        assert!(last.contains(field), "{last}");
    }
}

#[test]
fn after_an_undo_only_what_stays_counts_as_changed() {
    let claims: Vec<ClaimDocument> = ["a0@sha256:1", "a1@sha256:1", "a2@sha256:1"]
        .map(|reference| ClaimDocument {
            claim: reference.to_owned(),
            reference: reference.to_owned(),
            image_id: "sha256:2".to_owned(),
            trust: Trust::Proven,
            origin: "a file".to_owned(),
            holds_in_file: false,
            holds_in_engine: None,
        })
        .into();
    let mut document = Document {
        changed: Some(true),
        transaction: Some("one".to_owned()),
        changes: Some(changed(3)),
        claims: Some(claims),
        ..Document::default()
    };
    let counts = |document: &Document| (super::changed(document).len(), missing_digests(document));
    assert_eq!(counts(&document), (3, Some(0)));
    document.still_changed = Some(["a1@sha256:1".to_owned()].into());
    assert_eq!(counts(&document), (1, Some(2)));
    document.still_changed = None;
    document.changed = Some(false);
    assert_eq!(counts(&document), (0, Some(3)));
}

#[test]
fn what_went_wrong_is_told_with_state_and_cure() {
    let mut listener = listener();
    let document = Document {
        command: "apply",
        problem: Some(Problem {
            what: vec![
                format!("one\nPRIORITY=7\u{1b}[2J{}", "x".repeat(999)),
                "two".to_owned(),
            ],
            state: "as it was".to_owned(),
            next: None,
        }),
        ..Document::default()
    };
    listener.observer.end(&document, RunResult::Refused);
    let heard = listener.heard().concat();
    for part in [
        "apply refused: one\\nPRIORITY=7\\u{1b}[2Jxxx",
        "xx (and 1 more)\n  Now:  as it was\n  Next: fix the problem above",
        "\nDIGESTFIX_STATE=as it was\n",
        "\nDIGESTFIX_NEXT=fix the problem above",
    ] {
        assert!(heard.contains(part), "{heard}");
    }
}

/// A Kubernetes node has no `repositories.json`, so the metrics count the references that
/// containerd returned.
#[test]
fn references_that_were_asked_for_are_counted_as_the_run_left_them() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("digestfix.prom");
    let image = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let store = |pin: &str| {
        let (a, b) = (image("a"), image("b"));
        let text = format!(
            r#"{{"Repositories":{{"app":{{"app:1":"{a}"{pin}}},"other":{{"other:1":"{b}"}}}}}}"#
        );
        Store::parse(text).unwrap()
    };
    let pinned = store(&format!(r#","app@{}":"{}""#, image("d"), image("a")));
    let images = ["a", "b"].map(|digit| image(digit).parse().unwrap());
    let metrics = |change: Option<&Store>| {
        let mut observer = Observer {
            metrics: Some(file.clone()),
            ..listener().observer
        };
        observer.sees(&store(""), images.clone().into());
        change
            .into_iter()
            .for_each(|after| observer.sees_changed(after));
        let document = Document {
            claims: Some(Vec::new()),
            ..Document::default()
        };
        observer.measured(&document, RunResult::Done, Duration::ZERO);
        std::fs::read_to_string(&file).unwrap()
    };
    for (change, all, without_digest) in [(None, 2, 2), (Some(&pinned), 3, 1)] {
        let written = metrics(change);
        for line in [
            format!("\ndigestfix_references {all}\n"),
            format!("\ndigestfix_tags_without_digest {without_digest}\n"),
        ] {
            assert!(written.contains(&line), "{line}: {written}");
        }
    }
}

#[test]
fn a_large_change_is_told_in_part() {
    for (count, shown) in [(MAX_REFERENCES + 1, MAX_REFERENCES), (1, 1)] {
        let changes = changed(count);
        assert_eq!(told(&changes.iter().collect::<Vec<_>>()).len(), shown);
    }
}

#[test]
fn an_outage_ends_with_the_engines_answer_or_with_the_run() {
    for answer in [Step::Start, Step::UndoStart] {
        let Listener { mut observer, .. } = listener();
        observer.docker_stops();
        observer.step(&Document::default(), Step::Stop, "");
        assert_eq!(observer.outage.before, None);
        observer.step(&Document::default(), answer, "");
        assert!(observer.outage.since.is_none());
        let first = observer.outage.before.unwrap();
        observer.docker_stops();
        observer.end(&Document::default(), RunResult::Failed);
        assert!(observer.outage.before.unwrap() > first, "both are counted");
    }
}
