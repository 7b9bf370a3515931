//! Observer: sends the events of a run that may change a host to journald, and its
//! metrics to node_exporter.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::image::digest::ImageId;
use crate::plan::status::{self, State};
use crate::report::document::{ChangeDocument, ClaimDocument, Document, HostDocument, Problem};
use crate::report::events::Event;
use crate::report::journald::{Entry, Journald, SOCKET};
use crate::report::metrics::{self, References, Run};
use crate::report::run_result::RunResult;
use crate::store::data_root::ImageDir;
use crate::store::repositories::Store;
use crate::sys::who;
use crate::transaction::outcome::Step;

/// The maximum number of changed references that get an event of their own. The history
/// lists all changed references.
const MAX_REFERENCES: usize = 100;

/// The maximum number of characters of a reason in a message. The journal field may
/// contain more.
const MAX_REASON: usize = 1000;

/// The next step to print if the problem does not name one.
pub(super) const NEXT: &str = "fix the problem above, then run the same command again";

/// Observes one run.
pub(super) struct Observer {
    journald: Journald,
    own_service: Option<String>,
    metrics: Option<PathBuf>,
    /// The references and images of a host that has no `repositories.json`.
    asked: Option<(Store, BTreeSet<ImageId>)>,
    /// The present or last transaction.
    transaction: Option<String>,
    recovered: bool,
    outage: Outage,
}

/// How long the engine's API was unavailable.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    before: Option<Duration>,
}

impl Outage {
    fn begins(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    fn ends(&mut self) {
        if let Some(since) = self.since.take() {
            self.before = Some(self.before.unwrap_or_default() + since.elapsed());
        }
    }
}

impl Observer {
    pub fn new(metrics: Option<&Path>) -> Self {
        Self {
            journald: Journald::at(Path::new(SOCKET)),
            own_service: who::own_service(),
            metrics: metrics.map(Path::to_owned),
            asked: None,
            transaction: None,
            recovered: false,
            outage: Outage::default(),
        }
    }

    /// Keeps the references and images of a host that has no `repositories.json`.
    pub fn sees(&mut self, references: &Store, images: BTreeSet<ImageId>) {
        self.asked = Some((references.clone(), images));
    }

    /// Replaces the kept references with the references after a change.
    pub fn sees_changed(&mut self, references: &Store) {
        if let Some((asked, _)) = &mut self.asked {
            *asked = references.clone();
        }
    }

    pub fn begins(&mut self, document: &Document, transaction: &str) {
        self.transaction = Some(transaction.to_owned());
        let message = match document.changes.as_ref().map_or(0, Vec::len) {
            1 => format!("{} begins: 1 reference will change", document.command),
            count => format!(
                "{} begins: {count} references will change",
                document.command
            ),
        };
        self.tell(document, Event::Began, &message, &[]);
    }

    /// Records that an interrupted transaction is being recovered.
    pub fn recovers(&mut self, transaction: &str) {
        self.transaction = Some(transaction.to_owned());
    }

    pub fn recovered(&mut self, document: &Document) {
        self.recovered = true;
        let message = "an interrupted run was finished or undone";
        let result = ("DIGESTFIX_RESULT", RunResult::Recovered.word());
        self.tell(document, Event::Recovered, message, &[result]);
    }

    pub fn docker_stops(&mut self) {
        self.outage.begins();
    }

    /// Sends a step to journald. Returns whether journald accepted it.
    pub fn step(&mut self, document: &Document, step: Step, detail: &str) -> bool {
        if let Step::Start | Step::UndoStart = step {
            self.outage.ends();
        }
        let word = serde_json::to_value(step).unwrap_or_default();
        let word = word.as_str().unwrap_or_default();
        self.tell(document, Event::Step, detail, &[("DIGESTFIX_STEP", word)])
    }

    /// Sends a warning to journald, but only during a transaction: earlier warnings are
    /// about claims. Returns whether journald accepted it.
    pub fn warning(&mut self, document: &Document, text: &str) -> bool {
        self.transaction.is_some() && self.tell(document, Event::Warning, text, &[])
    }

    /// Sends the result of the run to journald. Returns whether journald accepted it.
    pub fn end(&mut self, document: &Document, result: RunResult) -> bool {
        self.outage.ends();
        if self.recovered && result == RunResult::Refused {
            // This run has recovered the transaction of another run, and the refusal is
            // not about that transaction.
            self.transaction = None;
        }
        self.tell_end(document, result)
    }

    /// Writes the metrics of the run for node_exporter. Returns a message if that failed.
    pub fn measured(
        &mut self,
        document: &Document,
        result: RunResult,
        took: Duration,
    ) -> Option<String> {
        // The metrics are about runs with claims. So write no metrics for a recovery that
        // found nothing to do.
        let nothing_was_asked = document.claims.is_none() && result == RunResult::Unchanged;
        let file = self.metrics.as_ref().filter(|_| !nothing_was_asked)?;
        let run = self.run(document, result, took);
        let error = metrics::write(file, &run).err()?;
        Some(format!(
            "the metrics could not be written to {}: {error}",
            file.display()
        ))
    }

    fn tell_end(&mut self, document: &Document, result: RunResult) -> bool {
        let is_end_of_nothing = matches!(result, RunResult::Unchanged | RunResult::Recovered)
            && document.transaction.is_none();
        if is_end_of_nothing {
            return false;
        }
        let ended = result.heading().to_lowercase();
        let changes = changed(document);
        let outage = self.outage.before.map(|outage| outage.as_secs_f64());
        let outage = outage.map(|seconds| format!("{seconds:.3}"));
        let mut message = format!("{} {ended}", document.command);
        let mut below = Vec::new();
        let mut what: &[String] = &[];
        let mut fields = vec![("DIGESTFIX_RESULT", result.word().to_owned())];
        if let Some(problem) = &document.problem {
            let next = problem.next.as_deref().unwrap_or(NEXT);
            message.push_str(&in_short(problem));
            below = vec![
                format!("  Now:  {}", problem.state),
                format!("  Next: {next}"),
            ];
            what = problem.what.as_slice();
            fields.push(("DIGESTFIX_STATE", problem.state.clone()));
            fields.push(("DIGESTFIX_NEXT", next.to_owned()));
        } else {
            message.push_str(&match changes.len() {
                1 => ": 1 reference changed".to_owned(),
                count => format!(": {count} references changed"),
            });
            if let Some(outage) = &outage {
                message.push_str(&format!(", Docker's API unavailable for {outage} s"));
            }
        }
        fields.extend(outage.map(|outage| ("DIGESTFIX_API_OUTAGE_SECONDS", outage)));
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let mut entry = self.entry(document, result.event(), &fields);
        entry.lines("MESSAGE", [message].iter().chain(&below));
        entry.lines("DIGESTFIX_PROBLEM", what);
        let is_told = self.journald.send(&entry);
        // Send the result before the changes, because journald may lose some changes if
        // its socket is full.
        for change in told(&changes) {
            self.tell_change(document, change);
        }
        is_told
    }

    fn tell_change(&mut self, document: &Document, change: &ChangeDocument) {
        let trust = change.trust.map(|trust| trust.word());
        let mut fields = vec![("DIGESTFIX_REFERENCE", change.reference.as_str())];
        let digest = change.reference.split_once('@').map(|(_, digest)| digest);
        for (name, value) in [
            ("DIGESTFIX_DIGEST", digest),
            ("DIGESTFIX_IMAGE_ID", change.to.as_deref()),
            ("DIGESTFIX_FORMER_IMAGE_ID", change.from.as_deref()),
            ("DIGESTFIX_TRUST", trust),
            ("DIGESTFIX_ORIGIN", change.origin.as_deref()),
        ] {
            fields.extend(value.map(|value| (name, value)));
        }
        let reference = &change.reference;
        let mut message = match (&change.from, &change.to) {
            (None, Some(to)) => format!("{reference} is {to} now"),
            (Some(from), Some(to)) => format!("{reference} is {to} now, and was {from}"),
            (_, None) => format!("{reference} is removed"),
        };
        if let (Some(trust), Some(_)) = (trust, digest) {
            message.push_str(&format!(" ({trust})"));
        }
        self.tell(document, Event::ReferenceChanged, &message, &fields);
    }

    fn tell(
        &mut self,
        document: &Document,
        event: Event,
        message: &str,
        more: &[(&str, &str)],
    ) -> bool {
        let mut entry = self.entry(document, event, more);
        entry.field("MESSAGE", message);
        self.journald.send(&entry)
    }

    /// Creates an entry without a message.
    fn entry(&self, document: &Document, event: Event, more: &[(&str, &str)]) -> Entry {
        let mut entry = Entry::default();
        entry.field("SYSLOG_IDENTIFIER", "digestfix");
        entry.field("MESSAGE_ID", event.message_id());
        entry.field("PRIORITY", event.priority());
        entry.field("DIGESTFIX_COMMAND", document.command);
        if let Some(transaction) = &self.transaction {
            entry.field("DIGESTFIX_TRANSACTION", transaction);
        }
        if let Some(id) = &document.rollback_of {
            entry.field("DIGESTFIX_ROLLBACK_OF", id);
        }
        if let Some(host) = &document.host {
            entry.field("DIGESTFIX_DATA_ROOT", &host.data_root.to_string_lossy());
            // Because of this field, `journalctl -u docker` also shows the entries that
            // digestfix sends about Docker.
            if let Some(unit) = &host.unit {
                entry.field("OBJECT_SYSTEMD_UNIT", unit);
            }
        }
        // journald finds the unit of a sender by its process ID. If this process has
        // ended when journald reads the entry, only this field names the unit.
        if let Some(unit) = &self.own_service {
            entry.field("OBJECT_SYSTEMD_UNIT", unit);
        }
        for (name, value) in more {
            entry.field(name, value);
        }
        entry
    }

    fn run(&self, document: &Document, result: RunResult, took: Duration) -> Run {
        let ended = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Run {
            result,
            exit_code: result.exit() as u8,
            ended: ended.unwrap_or_default().as_secs_f64(),
            seconds: took.as_secs_f64(),
            changed: changed(document).len(),
            outage: self.outage.before.map(|outage| outage.as_secs_f64()),
            missing_digests: missing_digests(document),
            references: match &self.asked {
                Some((store, images)) => Some(counted(store, images)),
                None => document.host.as_ref().and_then(references),
            },
        }
    }
}

/// The first reason, in one line.
fn in_short(problem: &Problem) -> String {
    let first = problem.what.first().map_or("", String::as_str);
    let first: String = first.chars().take(MAX_REASON).collect();
    let more = match problem.what.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    format!(": {first}{more}")
}

/// The changed references.
fn changed(document: &Document) -> Vec<&ChangeDocument> {
    match (&document.transaction, document.changed, &document.changes) {
        (Some(_), Some(true), Some(changes)) => changes
            .iter()
            .filter(|change| is_changed(document, &change.reference))
            .collect(),
        _ => Vec::new(),
    }
}

/// Whether a run that changed references changed this one, too.
fn is_changed(document: &Document, reference: &str) -> bool {
    let still_changed = document.still_changed.as_ref();
    still_changed.is_none_or(|still_changed| still_changed.contains(reference))
}

fn told<'a>(changes: &'a [&'a ChangeDocument]) -> &'a [&'a ChangeDocument] {
    &changes[..changes.len().min(MAX_REFERENCES)]
}

/// The number of claimed digests that are missing. `None` if the run ended before it had
/// read the claims.
fn missing_digests(document: &Document) -> Option<usize> {
    let claims = document.claims.as_ref()?;
    if document.rollback_of.is_some() {
        return None;
    }
    let has_changed = document.changed == Some(true);
    let holds_now = |claim: &ClaimDocument| {
        claim.holds_in_file || has_changed && is_changed(document, &claim.reference)
    };
    let missing = claims.iter().filter(|claim| !holds_now(claim));
    let missing = missing.map(|claim| claim.reference.as_str());
    let digests: BTreeSet<&str> = missing
        .filter(|reference| reference.contains('@'))
        .collect();
    Some(digests.len())
}

fn references(host: &HostDocument) -> Option<References> {
    let images = ImageDir::new(&host.data_root, &host.driver);
    let store = images.read().ok()?;
    Some(counted(&store, &images.image_ids().ok()?))
}

fn counted(store: &Store, images: &BTreeSet<ImageId>) -> References {
    let mut without_digest = 0;
    status::for_each_row(
        store,
        images,
        |_, _| None,
        |row| {
            without_digest += usize::from(row.state == State::NoDigest);
        },
    );
    References {
        all: store.references().count(),
        without_digest,
    }
}

#[cfg(test)]
mod tests;
