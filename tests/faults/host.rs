//! The state of a host, and how it differs from an expected state.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::Machine;

const SNAPSHOT: &str = include_str!("snapshot.sh");
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The number of snapshots to take.
const SETTLES_WITHIN: usize = 20;
/// The text that snapshot.sh prints if a command does not answer in time.
const NO_ANSWER: &str = "no answer in ";

/// Everything on a host that an apply must not change, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(BTreeMap<String, String>);

/// Whether the host must have the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digest {
    There,
    Absent,
    /// Both states are valid if the file and the engine agree.
    Either,
}

/// The state that a host must have.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The host's state without the digest.
    pub host: Host,
    /// The value of `references` with the digest.
    pub references: String,
}

impl Host {
    pub fn of(machine: &Machine) -> Self {
        let run = machine.run(&["sh", "-c", SNAPSHOT]);
        let mut values = BTreeMap::new();
        for line in run.stdout.lines() {
            // An error message in place of an answer contains no tab.
            let (name, value) = line.split_once('\t').unwrap_or((line, ""));
            values.insert(name.to_owned(), value.to_owned());
        }
        if !run.stderr.trim().is_empty() {
            values.insert("errors".to_owned(), run.stderr.trim().to_owned());
        }
        Self(values)
    }

    /// The state of a host after two successive snapshots were equal and every command
    /// answered. A single snapshot of a busy host may be too early.
    pub fn settled(machine: &Machine) -> Self {
        let mut before = Self::of(machine);
        for _ in 0..SETTLES_WITHIN {
            let now = Self::of(machine);
            if now == before && now.answers() {
                return now;
            }
            before = now;
        }
        panic!("the host does not settle: {before:?}");
    }

    fn answers(&self) -> bool {
        !self.0.iter().any(|(name, value)| {
            name == "errors" || name.contains(NO_ANSWER) || value.contains(NO_ANSWER)
        })
    }

    pub fn value(&self, name: &str) -> &str {
        self.0.get(name).map_or("nothing", String::as_str)
    }

    /// The state without values that no container keeps over a reboot.
    pub fn without_processes(mut self) -> Self {
        self.0.retain(|name, _| !name.ends_with(" process"));
        // When the machine boots, Docker starts a container with the policy `always` even
        // if a user had stopped it. An apply keeps such a container stopped, and it may
        // also stay so.
        if let Some(status) = self.0.get_mut("container /down status")
            && ["running", "exited"].contains(&status.as_str())
        {
            *status = "running or exited".to_owned();
        }
        self
    }

    pub fn has_digest(&self) -> bool {
        self.value("digest") == "yes"
    }

    fn with_digest(mut self, references: &str) -> Self {
        self.0.insert("digest".to_owned(), "yes".to_owned());
        self.0
            .insert("references".to_owned(), references.to_owned());
        self
    }

    /// A description of every difference.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let names: std::collections::BTreeSet<&String> =
            self.0.keys().chain(now.0.keys()).collect();
        names
            .into_iter()
            .filter(|name| self.value(name) != now.value(name))
            .map(|name| format!("{name}: was {}, is {}", self.value(name), now.value(name)))
            .collect()
    }
}

impl Expected {
    /// The differences between a host's state and the state that it must have.
    pub fn differences(&self, now: &Host, digest: Digest) -> Vec<String> {
        let with = self.host.clone().with_digest(&self.references);
        match digest {
            Digest::There => with.differences(now),
            Digest::Absent => self.host.differences(now),
            Digest::Either => {
                let is_new = now.value("references") == self.references;
                if is_new { with } else { self.host.clone() }.differences(now)
            }
        }
    }

    /// Waits until a host has the state that it must have. Returns how long this took, or
    /// the remaining differences.
    pub fn wait_for(
        &self,
        machine: &Machine,
        digest: Digest,
        patience: Duration,
        see: impl Fn(Host) -> Host,
    ) -> Result<(Duration, Host), Vec<String>> {
        let begin = Instant::now();
        loop {
            let now = see(Host::of(machine));
            let differences = self.differences(&now, digest);
            if differences.is_empty() {
                return Ok((begin.elapsed(), now));
            }
            if begin.elapsed() > patience {
                return Err(differences);
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}
