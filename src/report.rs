//! Report: what people and machines read. A report is either text, which digestfix writes
//! during the run, or one JSON object at the end of the run.
//!
//! No function in this module fails or panics, so a closed terminal cannot stop a
//! transaction half-way.

pub mod events;
pub mod journald;
pub mod metrics;
pub mod output;
pub mod run_result;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::claims::trust::Trust;
use crate::cli::OutputArgs;
use crate::cli::invocation::{Invocation, typed, with_whole_lines};
use crate::docker::container::Change;
use crate::host::{Host, Management, StoreKind, goes_elsewhere};
use crate::image::reference::Reference;
use crate::plan::status::{Rows, Selected};
use crate::plan::{CONVERTED, Plan, Target, Why};
use crate::report::output::{Output, Stream};
use crate::report::run_result::RunResult;
use crate::state::method::Method;
use crate::sys::printable::{printable, to_json};
use crate::transaction::image_store::ImageStore;
use crate::transaction::outcome::{Progress, Step};

mod changes;
mod cut;
mod doctor;
mod document;
mod gaps;
mod history;
mod impact;
mod look;
mod observer;
mod pieces;
mod table;
mod tally;
mod text;
mod total;
mod unread;

use document::{
    ArchiveDocument, ChangeDocument, ClaimDocument, ContainerChangeDocument, Document,
    HostDocument, SkippedDocument, StepDocument,
};
pub use document::{ArchiveResult, JSON_VERSION, LoadedArchive, Problem, SavedDigest, SavedImage};
pub use history::Transaction;
use look::Look;
use observer::Observer;
use pieces::{PIECE, Pieces};
pub use table::Shown;
use table::Table;
use tally::Tally;
use text::{Text, Tone};

/// The name that JSON output uses for the image store of a Kubernetes node.
const KUBERNETES: &str = "kubernetes";

/// The maximum number of reasons that the text shows.
const MAX_REASONS: usize = 20;

/// The maximum number of characters of one reason that the text shows.
const MAX_REASON_CHARS: usize = 10_000;

pub struct Report {
    json: bool,
    quiet: u8,
    invocation: Invocation,
    output: Output,
    stdout: Look,
    stderr: Look,
    document: Document,
    started: Instant,
    recovered: bool,
    /// Whether standard output already has a line of text.
    said: Cell<bool>,
    observer: Option<Observer>,
}

/// The maximum number of skipped claims that one line names.
const MOST_NAMED: usize = 5;

/// Lists the claims about images that are not on this host: names the first few, and
/// counts the others.
fn named(plan: &Plan) -> String {
    let skipped = plan.skipped.iter();
    let elsewhere: Vec<&str> = skipped
        .filter(|skipped| skipped.why == Why::NotHere)
        .map(|skipped| skipped.claim.as_str())
        .collect();
    let first = elsewhere[..elsewhere.len().min(MOST_NAMED)].join(", ");
    match elsewhere.len().checked_sub(MOST_NAMED) {
        Some(more @ 1..) => format!(": {first} and {more} more"),
        _ => format!(": {first}"),
    }
}

impl Report {
    /// A report about `command`, as text or JSON. `invocation` contains the options that
    /// select the host. Messages add these options to the commands that they show.
    pub fn new(command: &'static str, output: &OutputArgs, invocation: Invocation) -> Self {
        Self {
            json: output.json,
            quiet: output.quiet,
            invocation,
            output: Output::of_process(),
            stdout: Look::of(&io::stdout(), output.color),
            stderr: Look::of(&io::stderr(), output.color),
            document: Document {
                version: JSON_VERSION,
                command,
                ..Document::default()
            },
            started: Instant::now(),
            recovered: false,
            said: Cell::new(false),
            observer: None,
        }
    }

    /// Also sends events to journald. `metrics` is a file for node_exporter.
    pub fn observed(mut self, metrics: Option<&Path>) -> Self {
        self.observer = Some(Observer::new(metrics));
        self
    }

    /// Whether to write text for people.
    const fn is_read(&self) -> bool {
        !self.json && self.quiet == 0
    }

    fn say(&self, text: impl Into<Text>) {
        if self.is_read() {
            self.said.set(true);
            let text = text.into().render(self.stdout.colours);
            self.output.write(Stream::Stdout, text + "\n");
        }
    }

    /// Writes an empty line, and then the first line of a paragraph.
    fn paragraph(&self, text: impl Into<Text>) {
        if self.said.get() {
            self.say("");
        }
        self.say(text);
    }

    fn complain(&self, text: impl Into<Text>) {
        if !self.json {
            let text = text.into().render(self.stderr.colours);
            self.output.write(Stream::Stderr, text + "\n");
        }
    }

    /// Writes many lines at once.
    fn say_all(&self, lines: Vec<Text>) {
        if self.is_read() {
            let lines = lines.iter().map(|line| line.render(self.stdout.colours));
            let text: String = lines.flat_map(|line| [line, "\n".to_owned()]).collect();
            self.output.write(Stream::Stdout, text);
        }
    }

    /// The width of the terminal in columns. `None` if standard output is not a terminal.
    fn room(&self) -> Option<usize> {
        output::columns()
    }

    fn is_live(&self) -> bool {
        self.stdout.live && self.is_read()
    }

    /// Removes the live line of the current step.
    fn end_live(&self) {
        if (self.stdout.live || self.stderr.live) && self.is_read() {
            self.output.end();
        }
    }

    /// Writes a line for people to standard error, because standard output may be used
    /// for data. Does not add this host's options to commands in the line, because the
    /// user types these commands on another host.
    pub fn beside(&self, text: &str) {
        if self.is_read() {
            self.end_live();
            self.complain(text);
        }
    }

    /// On a terminal, shows the progress of an action that began at `since`.
    pub fn goes_on(&self, doing: &str, since: Instant) {
        if self.stderr.live && self.is_read() {
            let doing = printable(doing).into_owned();
            self.output.goes_on(doing, since);
        }
    }

    /// Sets the host that the report is about.
    pub fn host(&mut self, host: &Host) {
        let managed = match &host.management {
            Management::Offline | Management::Node(_) => None,
            Management::Managed(managed) => Some(managed),
        };
        let node = match &host.management {
            Management::Node(node) => Some(node),
            Management::Offline | Management::Managed(_) => None,
        };
        let engine = managed
            .and_then(|managed| managed.engine.as_ref())
            .map(|info| info.version.clone());
        // Warn only once, although a run may call this function twice.
        if self.document.host.is_none()
            && let Some(managed) = managed
            && let Some(elsewhere) = goes_elsewhere(&managed.socket)
        {
            self.warning(&format!(
                "{elsewhere} sends the docker command to another Docker; digestfix works on {} \
                 of this host",
                managed.unit.id
            ));
        }
        let image_store = match host.image_store {
            _ if node.is_some() => Some(KUBERNETES),
            StoreKind::Own => None,
            StoreKind::Containerd => Some("containerd"),
        };
        self.document.host = Some(HostDocument {
            image_store,
            data_root: host.images.data_root().to_owned(),
            driver: host.images.driver().to_owned(),
            unit: managed.map(|managed| managed.unit.id.clone()),
            config_file: managed.map(|managed| managed.config_file.clone()),
            engine,
            offline: managed.is_none() && node.is_none(),
            containerd_socket: node.map(|node| node.socket.clone()),
            containerd: node.map(|node| node.version.clone()),
            other_image_store: None,
        });
    }

    /// Reports that this host is also a Kubernetes node, which has images of its own.
    pub fn beside_node(&mut self) {
        if let Some(host) = &mut self.document.host {
            host.other_image_store = Some(KUBERNETES);
        }
        self.line(
            "This host is also a Kubernetes node, which has other images; to see those images: digestfix status \
             --store kubernetes",
        );
    }

    /// Whether the report is about the images of a Kubernetes node.
    pub fn is_of_node(&self) -> bool {
        let host = self.document.host.as_ref();
        host.is_some_and(|host| host.containerd_socket.is_some())
    }

    /// Docker's unit, if there is one.
    pub fn unit(&self) -> Option<&str> {
        self.document.host.as_ref()?.unit.as_deref()
    }

    /// Writes the line about the host.
    pub fn say_host(&self) {
        let Some(host) = &self.document.host else {
            return;
        };
        if let (Some(socket), Some(version)) = (&host.containerd_socket, &host.containerd) {
            let socket = socket.display();
            self.say(format!("Kubernetes node, containerd {version} at {socket}"));
            self.say("");
            return;
        }
        let daemon = match (&host.unit, &host.engine) {
            (Some(unit), Some(version)) => format!("{unit} (running, Docker {version})"),
            (Some(unit), None) => format!("{unit} (not running)"),
            (None, _) => {
                "offline (digestfix does not check which image store this Docker uses)".to_owned()
            }
        };
        let images = match host.image_store {
            Some(store) => format!("{store} image store, snapshotter"),
            None => "storage driver".to_owned(),
        };
        self.say(format!(
            "Data root {}, {images} {}, {daemon}",
            host.data_root.display(),
            host.driver
        ));
        self.say("");
    }

    /// Writes the references and their problems.
    pub fn status<R: Rows + 'static>(&mut self, rows: Selected<R>, shown: &Shown) -> RunResult {
        self.say_host();
        let mut table = Table::new(shown);
        let mut tally = Tally::new(&rows.selection);
        rows.rows.each(&mut |row| {
            if tally.see(row) && self.is_read() {
                table.see(row);
            }
        });
        if self.is_read() && tally.rows() > 0 {
            let mut lines = BufWriter::with_capacity(PIECE, Pieces(&self.output));
            table.lines(&rows, self.room(), |line| {
                // Writing to the output's queue cannot fail.
                let _ = writeln!(lines, "{}", line.render(self.stdout.colours));
            });
            let _ = lines.flush();
        }
        for note in &tally.notes {
            self.paragraph(format!(
                "digestfix keeps an entry that it does not understand: {note}"
            ));
        }
        self.paragraph(tally.total());
        for next in tally.next() {
            self.line(&next);
        }
        let unknown = tally.unknown();
        for name in &unknown {
            self.warning(&format!(
                "no image on this host has the name {name}. To see all names: digestfix status"
            ));
        }
        let result = match tally.has_problem() || !unknown.is_empty() {
            true => RunResult::Pending,
            false => RunResult::Done,
        };
        self.document.rows = Some(Box::new(rows));
        result
    }

    /// Keeps the references of an image store for the metrics. Skips Docker's own image
    /// store, because the metrics read its references from repositories.json after the
    /// run.
    pub fn sees(&mut self, store: &ImageStore) {
        if let Some(observer) = &mut self.observer
            && !matches!(store, ImageStore::Own { .. })
            && let Ok(images) = store.images()
        {
            observer.sees(store.references(), images);
        }
    }

    /// Sets the targets of the claims, and the changes.
    pub fn plan(&mut self, plan: &Plan) {
        self.document.claims = Some(plan.targets.iter().map(ClaimDocument::from).collect());
        let changes = plan.changes.iter();
        let changes = changes.map(|change| ChangeDocument::of(change, plan));
        let entries = plan.entries.iter().map(ChangeDocument::from);
        self.document.changes = Some(changes.chain(entries).collect());
        let skipped = plan.skipped.iter().map(SkippedDocument::from);
        self.document.skipped = Some(skipped.collect());
        self.document.pending = Some(!plan.is_empty());
        self.document.unmet = Some(plan.is_unmet());
    }

    /// Whether [`Self::plan`] was called with a plan in which no claim could be applied.
    pub fn is_unmet(&self) -> bool {
        self.document.unmet == Some(true)
    }

    /// Reports the skipped claims: counts the claims about images of other hosts, and
    /// shows the other claims.
    pub fn say_skipped(&mut self, plan: &Plan) {
        let mut elsewhere = 0;
        for skipped in &plan.skipped {
            if skipped.why == Why::NotHere {
                tracing::debug!(claim = skipped.claim, "{}", skipped.why);
                elsewhere += 1;
            } else {
                self.warning(&format!("{}: left alone, {}", skipped.claim, skipped.why));
            }
        }
        let which = named(plan);
        match elsewhere {
            0 => {}
            1 => self.say(format!(
                "1 claim is about an image that this host does not have{which}."
            )),
            _ => self.say(format!(
                "{elsewhere} claims are about images that this host does not have{which}."
            )),
        }
        if !plan.hints.is_empty() {
            self.warning(&plan.hints.to_string());
        }
        if plan.skipped.iter().any(|skipped| skipped.strange_oci)
            && plan
                .targets
                .iter()
                .any(|target| target.trust == Trust::Asserted)
        {
            self.say(CONVERTED);
        }
    }

    /// If a single `--quiet` has hidden the plan so far, shows the plan.
    pub fn speak_of_change(&mut self, plan: &Plan) {
        if self.quiet == 1 {
            self.quiet = 0;
            self.say_host();
            self.say_plan(plan);
        }
    }

    /// Reports the method of the change.
    pub fn made_by(&mut self, method: Option<Method>) {
        self.document.method = method;
        match method {
            Some(Method::Load) => self.paragraph(
                "digestfix stops nothing: images are in containerd, and the running Docker loads \
                 the manifests.",
            ),
            Some(Method::Record) => {
                self.paragraph(
                    "digestfix stops nothing: only containerd's names of images change.",
                );
            }
            Some(Method::Restart) | None => {}
        }
    }

    /// Sets the containers that have changed.
    pub fn containers(&mut self, changes: &[Change]) {
        let changes = changes.iter().map(|change| ContainerChangeDocument {
            name: change.name.clone(),
            change: change.what.word(),
        });
        self.document.container_changes = Some(changes.collect());
    }

    /// Reports whether each claim is true. `engine` contains the running engine's answer
    /// for each target, if the engine was asked.
    pub fn verified(&mut self, plan: &Plan, engine: Option<&[bool]>) {
        let host = self.document.host.as_ref();
        let place = match host.and_then(|host| host.image_store) {
            Some(_) => "in containerd",
            None => "in the file",
        };
        let mut claims = Vec::new();
        for (index, target) in plan.targets.iter().enumerate() {
            let answered = engine.and_then(|answers| answers.get(index).copied());
            let word = |holds: bool| match holds {
                true => Tone::Good.of("yes"),
                false => Tone::Bad.of("NO"),
            };
            self.say(&target.claim);
            self.say(
                Text::from(format!("  {place}: "))
                    .and(word(target.holds))
                    .and(if self.is_of_node() {
                        ", by the CRI: "
                    } else {
                        ", by the engine: "
                    })
                    .and(answered.map_or("not asked".into(), word))
                    .and(format!("; {}", basis_of(target))),
            );
            claims.push(ClaimDocument {
                holds_in_engine: answered,
                ..ClaimDocument::from(target)
            });
        }
        self.document.claims = Some(claims);
    }

    /// Adds an image that is about to be saved.
    pub fn saves(&mut self, image: SavedImage) {
        self.document.images.push(image);
    }

    /// Sets the archive that was saved. The archive must be complete.
    pub fn saved(&mut self, file: Option<&Path>, bytes: u64) {
        let file = file.map(Path::to_owned);
        self.document.archive = Some(ArchiveDocument { file, bytes });
    }

    /// Adds an archive to the report. The images of the archive are on this host.
    pub fn archive(&mut self, archive: LoadedArchive) {
        self.document.archives.push(archive);
    }

    /// Reports that the recovery of an interrupted run begins.
    pub fn recovers(&mut self, id: &str) {
        if let Some(observer) = &mut self.observer {
            observer.recovers(id);
        }
    }

    /// Reports that an interrupted run was recovered.
    pub fn recovered(&mut self) {
        self.recovered = true;
        if let Some(observer) = &mut self.observer {
            observer.recovered(&self.document);
        }
        if self.quiet == 1 {
            self.quiet = 0;
            self.say("An interrupted run was finished or undone first.");
        }
    }

    /// Describes the state of a host that this run has not changed.
    pub fn untouched(&self) -> &'static str {
        if self.recovered {
            "the interrupted run was finished or undone; nothing else was touched"
        } else {
            "nothing was touched"
        }
    }

    /// Writes a line for people.
    pub fn line(&self, text: &str) {
        self.say(&*self.invocation.in_full(text));
    }

    /// Writes the line that states the result of the command.
    pub fn conclude(&self, text: &str) {
        self.paragraph(&*self.invocation.in_full(text));
    }

    /// Writes a line with the command that rolls this change back.
    pub fn say_way_back(&self) {
        if let (Some(id), None) = (&self.document.transaction, &self.document.rollback_of) {
            self.line(&format!("To undo these changes: digestfix rollback {id}"));
        }
    }

    /// Sets the transaction to roll back.
    pub fn rollback_of(&mut self, id: &str) {
        self.document.rollback_of = Some(id.to_owned());
    }

    /// Gives the metrics the references after a change.
    pub fn sees_changed(&mut self, plan: &Plan) {
        if let Some(observer) = &mut self.observer {
            observer.sees_changed(&plan.after);
        }
    }

    /// Sets whether the run has changed the host, and the path of the backup.
    pub fn done(&mut self, changed: bool, backup: Option<PathBuf>) {
        self.document.changed = Some(changed);
        self.document.backup = backup;
    }

    /// Sets the references that are changed although digestfix undid the transaction.
    pub fn undone<'a>(&mut self, still_changed: impl Iterator<Item = &'a Reference>) {
        let still_changed: BTreeSet<String> = still_changed.map(Reference::familiar).collect();
        self.document.changed = Some(!still_changed.is_empty());
        self.document.still_changed = (!still_changed.is_empty()).then_some(still_changed);
    }

    /// Reports a problem, and ends the report.
    pub fn fail(mut self, result: RunResult, problem: Problem) -> RunResult {
        let in_full = |text: &String| self.invocation.in_full(text).into_owned();
        let next = problem
            .next
            .map_or_else(again, |next| with_whole_lines(&next));
        self.document.problem = Some(Problem {
            what: problem.what.iter().map(in_full).collect(),
            state: problem.state,
            next: Some(in_full(&next)),
        });
        self.end(result)
    }

    fn say_problem(&self, kind: &str, problem: &Problem) {
        let kind = Text::from("digestfix: ").and(Tone::Alarming.of(kind));
        match problem.what.as_slice() {
            [one] => self.complain(kind.and(format!(": {}", shortened(one)))),
            several => {
                self.complain(kind.and(":"));
                for what in several.iter().take(MAX_REASONS) {
                    self.complain(format!("  - {}", shortened(what)));
                }
                if let Some(more @ 1..) = several.len().checked_sub(MAX_REASONS) {
                    self.complain(format!("  … and {more} more (--json names them all)"));
                }
            }
        }
        self.complain(
            Tone::Strong
                .of("  Now:")
                .and(format!("  {}", problem.state)),
        );
        if let Some(next) = &problem.next {
            self.complain(Tone::Strong.of("  Next:").and(format!(" {next}")));
        }
    }

    pub fn end(mut self, result: RunResult) -> RunResult {
        let result = match result {
            RunResult::Unchanged if self.recovered => RunResult::Recovered,
            result => result,
        };
        self.end_live();
        self.document.exit_code = result.exit() as u8;
        let mut observer = self.observer.take();
        let is_told = observer
            .as_mut()
            .is_some_and(|observer| observer.end(&self.document, result));
        if let Some(problem) = &self.document.problem
            && !(self.stderr.journal && is_told && problem.what.len() == 1)
        {
            self.say_problem(result.heading(), problem);
        }
        let took = self.started.elapsed();
        if let Some(text) =
            observer.and_then(|mut observer| observer.measured(&self.document, result, took))
        {
            self.warning(&text);
        }
        if self.json {
            let mut pieces = BufWriter::with_capacity(PIECE, Pieces(&self.output));
            // Writing to the output's queue cannot fail, and every map key is a string.
            let _ = to_json(&mut pieces, &self.document);
            let _ = pieces.write_all(b"\n").and_then(|()| pieces.flush());
        }
        result
    }
}

impl Progress for Report {
    fn begin(&mut self, doing: &str) {
        tracing::debug!("{doing}");
        if self.is_live() {
            self.output.begin(printable(doing).into_owned());
        }
    }

    fn transaction_begins(&mut self, id: &str) {
        self.document.transaction = Some(id.to_owned());
        if let Some(observer) = &mut self.observer {
            observer.begins(&self.document, id);
        }
    }

    fn docker_stops(&mut self) {
        if let Some(observer) = &mut self.observer {
            observer.docker_stops();
        }
    }

    fn step(&mut self, step: Step, detail: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        tracing::info!(?step, seconds, "{detail}");
        let observer = self.observer.as_mut();
        let is_told = observer.is_some_and(|observer| observer.step(&self.document, step, detail));
        self.end_live();
        // If journald reads standard output, do not write the step there, because the
        // journal already contains the step.
        if !(self.stdout.journal && is_told) {
            let time = Tone::Faint.of(format!("{seconds:>8.3} s"));
            self.say(time.and(format!("  {detail}")));
        }
        self.document.steps.push(StepDocument {
            step,
            seconds: (seconds * 1000.0).round() / 1000.0,
            detail: detail.to_owned(),
        });
    }

    fn warning(&mut self, text: &str) {
        let text = &*self.invocation.in_full(text).into_owned();
        tracing::warn!("{text}");
        let observer = self.observer.as_mut();
        let is_told = observer.is_some_and(|observer| observer.warning(&self.document, text));
        if !(self.stderr.journal && is_told) {
            let kind = Text::from("digestfix: ").and(Tone::Doubtful.of("warning"));
            self.complain(kind.and(format!(": {text}")));
        }
        self.document.warnings.push(text.to_owned());
    }
}

/// The next step to print for a problem without specific advice.
fn again() -> String {
    match typed() {
        Some(line) => format!("fix the problem above, then: {line}"),
        None => observer::NEXT.to_owned(),
    }
}

/// A reason may contain a line of a file, which can be of any length.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The trust in a claim (asserted, matched or proven), and the source of the evidence.
fn basis_of(target: &Target) -> String {
    basis(target.trust, target.typed, &target.origin)
}

fn basis(trust: Trust, typed: bool, origin: &str) -> String {
    match trust {
        Trust::Asserted if typed => "asserted: typed by hand; nothing on this host proves the \
                                     claim"
            .to_owned(),
        Trust::Asserted => format!("asserted by {origin}; nothing on this host proves the claim"),
        Trust::Matched => format!("matched: same image ID in {origin}"),
        Trust::Proven => format!("proven by the manifest in {origin}"),
    }
}
