//! What people and machines read: text as things happen, or one JSON object
//! in the end.
//!
//! Nothing here fails and nothing here panics, so that a closed terminal
//! cannot stop a transaction half-way.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cli::OutputArgs;
use crate::container::Change;
use crate::disturbance::{Disturbance, Fate};
use crate::host::{Host, Management};
use crate::live_restore::LiveRestore;
use crate::plan::{CONVERTED, Plan, Target, Why};
use crate::status::Row;
use crate::transaction::outcome::{Progress, Step};
use crate::trust::Trust;

mod doctor;
mod document;
mod history;
mod observer;
mod table;

use document::{
    ChangeDocument, ClaimDocument, ContainerChangeDocument, ContainerDocument, DisturbanceDocument,
    Document, HostDocument, SkippedDocument, StepDocument,
};
pub use document::{JSON_VERSION, Problem};
pub use history::Transaction;
use observer::Observer;
use table::table;

/// The most reasons that a person is shown.
const MAX_REASONS: usize = 20;

/// The most that a person is shown of one reason, in characters.
const MAX_REASON_CHARS: usize = 10_000;

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Failed; the host is as it was found.
    Failed = 1,
    /// Refused; nothing was touched.
    Refused = 3,
    /// Changes are pending.
    Pending = 4,
    /// The host could not be restored.
    Broken = 5,
    /// Done, and a container is not what it was.
    ContainersChanged = 6,
}

/// Tells of one run of one command.
pub struct Report {
    json: bool,
    quiet: u8,
    document: Document,
    started: Instant,
    recovered: bool,
    observer: Option<Observer>,
}

impl Report {
    /// A report of `command`, told as the flags say.
    #[must_use]
    pub fn new(command: &'static str, output: &OutputArgs) -> Self {
        Self {
            json: output.json,
            quiet: output.quiet,
            document: Document {
                version: JSON_VERSION,
                command,
                ..Document::default()
            },
            started: Instant::now(),
            recovered: false,
            observer: None,
        }
    }

    /// The same, and journald hears of it; `metrics` is a file for
    /// node_exporter.
    #[must_use]
    pub fn observed(mut self, metrics: Option<&Path>) -> Self {
        self.observer = Some(Observer::new(metrics));
        self
    }

    fn say(&self, text: &str) {
        if !self.json && self.quiet == 0 {
            let _ = writeln!(io::stdout(), "{}", printable(text));
        }
    }

    fn complain(&self, text: &str) {
        if !self.json {
            let _ = writeln!(io::stderr(), "{}", printable(text));
        }
    }

    /// Where Docker is.
    pub fn host(&mut self, host: &Host) {
        let managed = match &host.management {
            Management::Offline => None,
            Management::Managed(managed) => Some(managed),
        };
        let engine = managed
            .and_then(|managed| managed.engine.as_ref())
            .map(|info| info.version.clone());
        self.document.host = Some(HostDocument {
            data_root: host.images.data_root().to_owned(),
            driver: host.images.driver().to_owned(),
            unit: managed.map(|managed| managed.unit.id.clone()),
            config_file: managed.map(|managed| managed.config_file.clone()),
            engine,
            offline: managed.is_none(),
        });
    }

    /// Docker's unit, where there is one.
    #[must_use]
    pub fn unit(&self) -> Option<&str> {
        self.document.host.as_ref()?.unit.as_deref()
    }

    /// The line that says where Docker is.
    pub fn say_host(&self) {
        let Some(host) = &self.document.host else {
            return;
        };
        let daemon = match (&host.unit, &host.engine) {
            (Some(unit), Some(version)) => format!("{unit} (running, Docker {version})"),
            (Some(unit), None) => format!("{unit} (not running)"),
            (None, _) => "offline".to_owned(),
        };
        self.say(&format!(
            "Data root {}, storage driver {}, {daemon}\n",
            host.data_root.display(),
            host.driver
        ));
    }

    /// The references, and what the model does not understand.
    pub fn status(&mut self, rows: Vec<Row>, unknown_keys: &[String]) {
        self.say_host();
        self.say(&table(&rows));
        let without = rows
            .iter()
            .filter(|row| row.state == crate::status::State::NoDigest)
            .count();
        if without > 0 {
            self.say(&format!(
                "\n{without} without a digest. To give one back: digestfix apply NAME:TAG@sha256:HEX"
            ));
        }
        for row in &rows {
            if let Some(note) = &row.note {
                self.say(&format!("\nnot understood, and kept: {note}"));
            }
        }
        for key in unknown_keys {
            self.warning(&format!("unknown top-level key {key:?}, kept as it is"));
        }
        self.document.rows = Some(rows);
    }

    /// What the claims came down to, and the change that this means.
    pub fn plan(&mut self, plan: &Plan) {
        self.document.claims = Some(plan.targets.iter().map(ClaimDocument::from).collect());
        let changes = plan.changes.iter();
        self.document.changes = Some(
            changes
                .map(|change| ChangeDocument::of(change, plan))
                .collect(),
        );
        let skipped = plan.skipped.iter().map(SkippedDocument::from);
        self.document.skipped = Some(skipped.collect());
    }

    /// The claims that come to nothing here: those about images of other hosts
    /// are counted, the others are told.
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
        match elsewhere {
            0 => {}
            1 => self.say("1 claim is about an image that this host does not have."),
            _ => self.say(&format!(
                "{elsewhere} claims are about images that this host does not have."
            )),
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

    /// Tells of a change that was made, where nothing was said of it so far.
    pub fn speak_of_change(&mut self, plan: &Plan) {
        if self.quiet == 1 {
            self.quiet = 0;
            self.say_host();
            self.say_plan(plan);
        }
    }

    /// The change, as a diff.
    pub fn say_plan(&self, plan: &Plan) {
        for target in plan.targets.iter().filter(|target| target.holds) {
            let basis = target.reference.digest().map(|_| basis_of(target));
            let basis = basis.map_or(String::new(), |basis| format!("  ({basis})"));
            self.say(&format!("  {} holds already{basis}", target.claim));
        }
        for removal in &plan.removals {
            if !plan
                .changes
                .iter()
                .any(|change| change.reference == *removal)
            {
                self.say(&format!("  {removal} is not there, nothing to remove"));
            }
        }
        let mut repository = None;
        for change in &plan.changes {
            let own = change.reference.repository().familiar();
            if repository.as_ref() != Some(&own) {
                self.say(&format!("  {own}"));
                repository = Some(own);
            }
            if let Some(from) = &change.from {
                self.say(&format!("-   {}  {from}", change.reference));
            }
            if let Some(to) = &change.to {
                let basis = plan.basis(&change.reference);
                let basis = basis.filter(|_| change.reference.digest().is_some());
                let trust = basis.map(|target| format!("  ({})", basis_of(target)));
                self.say(&format!(
                    "+   {}  {to}{}",
                    change.reference,
                    trust.unwrap_or_default()
                ));
            }
        }
        for image in &plan.orphans {
            self.say(&format!(
                "! image {image} is left without any reference; `docker image prune` would delete it"
            ));
        }
    }

    /// What applying would touch.
    pub fn disturbance(&mut self, disturbance: &Disturbance) {
        let restarts = if disturbance.running {
            let mut units = vec![disturbance.unit.clone()];
            units.extend(disturbance.triggers.clone());
            units
        } else {
            disturbance.triggers.clone()
        };
        if restarts.is_empty() {
            self.say("\nDocker is not running and stays so: nothing is stopped.");
        } else {
            self.say(&format!(
                "\nApplying this stops and starts {}.",
                restarts.join(", ")
            ));
        }
        if !disturbance.carried_along.is_empty() {
            self.say(&format!(
                "Stopped along with it, and started again: {}.",
                disturbance.carried_along.join(", ")
            ));
        }
        if disturbance.running {
            for line in fates(disturbance).iter().chain(&clients(disturbance)) {
                self.say(line);
            }
        }
        let containers = disturbance.containers.iter();
        self.document.disturbance = Some(DisturbanceDocument {
            restarts,
            also_restarts: disturbance.carried_along.clone(),
            running_containers: containers.clone().map(|one| one.name.clone()).collect(),
            containers_keep_running: disturbance.containers_survive(),
            api_clients: disturbance.api_clients,
            switches_live_restore: disturbance.switches_live_restore(),
            containers: containers
                .map(|one| ContainerDocument::of(one, disturbance.fate(one)))
                .collect(),
        });
    }

    /// The containers that are not what they were.
    pub fn containers(&mut self, changes: &[Change]) {
        let changes = changes.iter().map(|change| ContainerChangeDocument {
            name: change.name.clone(),
            change: change.what.word(),
        });
        self.document.container_changes = Some(changes.collect());
    }

    /// Whether each claim holds; `engine` has the running engine's word on
    /// each, where it was asked.
    pub fn verified(&mut self, plan: &Plan, engine: Option<&[bool]>) {
        let mut claims = Vec::new();
        for (index, target) in plan.targets.iter().enumerate() {
            let answered = engine.and_then(|answers| answers.get(index).copied());
            let word = |holds: bool| if holds { "yes" } else { "NO" };
            self.say(&format!(
                "{}\n  in the file: {}, by the engine: {}; {}",
                target.claim,
                word(target.holds),
                answered.map_or("not asked", word),
                basis_of(target)
            ));
            claims.push(ClaimDocument {
                holds_in_engine: answered,
                ..ClaimDocument::from(target)
            });
        }
        self.document.claims = Some(claims);
    }

    /// An interrupted run is being brought to an end.
    pub fn recovers(&mut self, id: &str) {
        if let Some(observer) = &mut self.observer {
            observer.recovers(id);
        }
    }

    /// An interrupted run was brought to an end.
    pub fn recovered(&mut self) {
        self.recovered = true;
        if let Some(observer) = &mut self.observer {
            observer.recovered(&self.document);
        }
        if self.quiet == 1 {
            self.quiet = 0;
            self.say("An interrupted run was brought to an end.");
        }
    }

    /// The state of a host that nothing was done to.
    #[must_use]
    pub fn untouched(&self) -> &'static str {
        if self.recovered {
            "the interrupted run was brought to an end; nothing else was touched"
        } else {
            "nothing was touched"
        }
    }

    /// A line for people.
    pub fn line(&self, text: &str) {
        self.say(text);
    }

    /// The line that says how to take back what was done.
    pub fn say_way_back(&self) {
        if let (Some(id), None) = (&self.document.transaction, &self.document.rollback_of) {
            self.say(&format!("To take this back: digestfix rollback {id}"));
        }
    }

    /// The transaction that is taken back.
    pub fn rollback_of(&mut self, id: &str) {
        self.document.rollback_of = Some(id.to_owned());
    }

    /// The change is made.
    pub fn done(&mut self, changed: bool, backup: Option<PathBuf>) {
        self.document.changed = Some(changed);
        self.document.backup = backup;
    }

    /// Tells what went wrong.
    pub fn problem(&mut self, kind: &str, problem: Problem) {
        match problem.what.as_slice() {
            [one] => self.complain(&format!("digestfix: {kind}: {}", shortened(one))),
            several => {
                self.complain(&format!("digestfix: {kind}:"));
                for what in several.iter().take(MAX_REASONS) {
                    self.complain(&format!("  - {}", shortened(what)));
                }
                if let Some(more @ 1..) = several.len().checked_sub(MAX_REASONS) {
                    self.complain(&format!("  … and {more} more (--json names them all)"));
                }
            }
        }
        self.complain(&format!("  Now:  {}", problem.state));
        if let Some(next) = &problem.next {
            self.complain(&format!("  Next: {next}"));
        }
        self.document.problem = Some(problem);
    }

    /// Ends the report.
    pub fn end(mut self, exit: Exit) -> Exit {
        self.document.exit_code = exit as u8;
        let observer = self.observer.take();
        let took = self.started.elapsed();
        if let Some(text) =
            observer.and_then(|mut observer| observer.end(&self.document, exit, took))
        {
            self.warning(&text);
        }
        if self.json
            && let Ok(text) = serde_json::to_string_pretty(&self.document)
        {
            let _ = writeln!(io::stdout(), "{text}");
        }
        exit
    }
}

impl Progress for Report {
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
        if let Some(observer) = &mut self.observer {
            observer.step(&self.document, step, detail);
        }
        self.say(&format!("{seconds:>8.3} s  {detail}"));
        self.document.steps.push(StepDocument {
            step,
            seconds: (seconds * 1000.0).round() / 1000.0,
            detail: detail.to_owned(),
        });
    }

    fn warning(&mut self, text: &str) {
        tracing::warn!("{text}");
        if let Some(observer) = &mut self.observer {
            observer.warning(&self.document, text);
        }
        self.complain(&format!("digestfix: warning: {text}"));
        self.document.warnings.push(text.to_owned());
    }
}

/// A line of a file can be of any length, and one reason be such a line.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What comes out of a file may not steer the terminal it is shown on.
fn printable(text: &str) -> String {
    text.replace(
        |character: char| character.is_control() && character != '\n',
        "\u{fffd}",
    )
}

/// What becomes of the running containers, and of those who are connected to
/// them, in words.
fn fates(disturbance: &Disturbance) -> Vec<String> {
    let mut by_fate: Vec<(Fate, Vec<&str>)> = Vec::new();
    for container in &disturbance.containers {
        let fate = disturbance.fate(container);
        match by_fate.iter_mut().find(|(other, _)| *other == fate) {
            Some((_, names)) => names.push(&container.name),
            None => by_fate.push((fate, vec![&container.name])),
        }
    }
    if by_fate.is_empty() {
        return vec!["Running containers: none.".to_owned()];
    }
    let mut lines = vec!["Running containers:".to_owned()];
    lines.extend(by_fate.into_iter().map(|(fate, names)| {
        let what = match fate {
            Fate::KeepsRunning => "keep running",
            Fate::StartedAgain => "stop with Docker, and are started again",
            Fate::RestartsByPolicy => "STOP with Docker; their restart policy starts them again",
            Fate::RestartsIfItFails => {
                "STOP with Docker; their restart policy starts them again only if they end with an error"
            }
            Fate::ReplacedBySwarm => "STOP with Docker; swarm starts others in their place",
            Fate::StaysDown => "STOP with Docker, and stay down",
            Fate::Removed => "STOP with Docker, and are REMOVED with their anonymous volumes (--rm)",
        };
        format!("  {what}: {}", names.join(", "))
    }));
    if let (true, LiveRestore::Switchable(config_file)) = (
        disturbance.switches_live_restore(),
        &disturbance.live_restore,
    ) {
        lines.push(format!(
            "For that, live-restore is switched on in {} for the moment, and the file put back.",
            config_file.display()
        ));
    }
    if disturbance.switches_live_restore() && !disturbance.forgotten_by_reload.is_empty() {
        lines.push(format!(
            "dockerd forgets {} of its unit's command line then, until its next start.",
            disturbance.forgotten_by_reload.join(", ")
        ));
    }
    if disturbance.containers_survive() {
        lines.push(
            "While Docker is away, they do not find each other by name, their health checks pause and \
             their output waits."
                .to_owned(),
        );
    }
    let ports = disturbance.ports_to_hold();
    if !ports.is_empty() {
        let ports: BTreeSet<String> = ports.iter().map(ToString::to_string).collect();
        let ports: Vec<String> = ports.into_iter().collect();
        lines.push(format!(
            "New connections to published ports ({}) wait until it is back, and a second more (on old kernels a few); \
             open ones go on, but those through docker-proxy (from this host itself, mostly) are cut.",
            ports.join(", ")
        ));
    }
    lines
}

/// What becomes of the API's clients.
fn clients(disturbance: &Disturbance) -> Option<String> {
    let execs: usize = disturbance
        .containers
        .iter()
        .map(|container| container.execs)
        .sum();
    let execs = match execs {
        0 => String::new(),
        1 => ", 1 docker exec session among them".to_owned(),
        count => format!(", {count} docker exec sessions among them"),
    };
    let count = match disturbance.api_clients {
        0 => return None,
        1 => "1 client is connected to the API now and is".to_owned(),
        count => format!("{count} clients are connected to the API now and are"),
    };
    Some(format!(
        "{count} cut off{execs}; builds and pulls under way fail.{}",
        if disturbance.stops_late() {
            " Docker waits for them when it stops, up to 5 s."
        } else {
            ""
        }
    ))
}

/// How far a target is known, and by what.
fn basis_of(target: &Target) -> String {
    match target.trust {
        Trust::Asserted if target.typed => {
            "asserted: typed by somebody, nothing here proves it".to_owned()
        }
        Trust::Asserted => format!("asserted by {}, nothing here proves it", target.origin),
        Trust::Matched => format!("matched: same image ID in {}", target.origin),
        Trust::Proven => format!("proven by the manifest in {}", target.origin),
    }
}
