//! Journal: what a transaction is about to do, on disk before it does it. With it,
//! another run can bring the host back when this one is killed.
//!
//! The journal names no file to be written. The reader finds the data root, the
//! reference store and daemon.json by itself, and the files beside them are named after
//! the transaction. Contents are known by their hashes.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::containerd::Record;
use crate::docker::container::{Container, RestartPolicy, Status};
use crate::image::digest::{Algorithm, Digest, ImageId};
use crate::image::reference::{Reference, familiar};
use crate::state::id::is_id;
use crate::state::lock::RootLock;
use crate::state::state_file;
use crate::store::data_root::is_driver_name;
use crate::sys::shell;

const FILE_NAME: &str = "journal.json";

const VERSION: u32 = 1;

/// The largest journal that is read or written, in bytes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// One transaction that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    digestfix_journal: u32,
    /// The transaction's ID: when it began, and in which process.
    pub id: String,
    /// The boot in which it began ([`boot_id`]).
    pub boot: String,
    pub intent: Intent,
    pub references: References,
}

/// What a transaction is about to do, and what its undo has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Exchange the file of the references, where there is no Docker to manage.
    Edit,
    /// Stop Docker, exchange the file of the references and start Docker.
    Restart(Restart),
    /// Have the running Docker load manifests.
    Load(Load),
    /// Have a node's containerd record names.
    Record(Records),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    pub phase: Phase,
    pub unit: String,
    /// The unit ran when the transaction began.
    pub running: bool,
    /// The active units that would start it for a client.
    pub triggers: Vec<String>,
    /// Other active units that stop along with it.
    pub units: Vec<String>,
    /// Containers outlive Docker's stop because daemon.json has live-restore, and end if
    /// Docker starts without it.
    pub live_restore_by_file: bool,
    /// daemon.json, if the transaction switches live-restore on in it.
    pub live_restore: Option<DaemonJson>,
    /// The containers that Docker listed before it stopped.
    pub listed: Vec<Listed>,
    /// The containers that are to run again, in the order of their start.
    pub start_again: Vec<Ran>,
    /// The containers that are down, and that Docker would start with itself. They have
    /// no restart policy until the transaction ends.
    pub kept_down: Vec<KeptDown>,
    /// The containers whose health checks Docker does not resume by itself. digestfix
    /// pauses them for an instant to resume the checks.
    pub health_checked: Vec<Ran>,
}

/// Requests to the running Docker. The manifests are in the transaction's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub unit: String,
    /// References to load.
    pub added: Vec<Pin>,
    /// References to drop.
    pub dropped: Vec<Pin>,
    /// The change failed, and is being undone.
    pub is_taken_back: bool,
    /// containerd's root directory, if the user gave one.
    pub containerd_root: Option<PathBuf>,
}

/// Requests to a node's containerd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Records {
    pub socket: PathBuf,
    /// Records to make.
    pub added: Vec<NodeRecord>,
    /// Records to remove.
    pub dropped: Vec<NodeRecord>,
    /// The change failed, and is being undone.
    pub is_taken_back: bool,
}

/// A record of a node's containerd, and the image that it has to lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    #[serde(with = "familiar")]
    pub reference: Reference,
    pub image_id: ImageId,
    pub record: Record,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    #[serde(with = "familiar")]
    pub reference: Reference,
    pub image_id: ImageId,
}

/// What a transaction is about to do next, or is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Get ready, while Docker runs.
    Preparing,
    /// Stop Docker, exchange the references, start Docker, restore everything else: from
    /// here on containers may have ended.
    Stopping,
}

#[derive(Deserialize)]
struct Version {
    digestfix_journal: u32,
}

/// The contents of the reference store, by their hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct References {
    pub driver: String,
    /// What the transaction found.
    pub before: Digest,
    /// What the transaction makes.
    pub after: Digest,
}

/// daemon.json, in which one setting changes; its contents by their hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaemonJson {
    /// The file, for the reader to compare with the one it found.
    pub config_file: PathBuf,
    /// The running engine had the setting on.
    pub engine: bool,
    /// The original file; `None` if there was nothing to read.
    pub before: Option<Digest>,
    /// The name existed: as a file, or as a dangling link.
    pub found: bool,
    /// The directory existed.
    pub directory: bool,
    pub on: Digest,
    pub off: Digest,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    pub id: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ran {
    pub id: String,
    pub name: String,
    pub paused: bool,
}

/// A container that is to stay down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptDown {
    pub id: String,
    pub name: String,
    pub policy: RestartPolicy,
    pub max_retries: u32,
}

impl From<&Container> for KeptDown {
    fn from(container: &Container) -> Self {
        Self {
            id: container.id.clone(),
            name: container.name.clone(),
            policy: container.restart_policy,
            max_retries: container.max_retries,
        }
    }
}

impl From<&Container> for Ran {
    fn from(container: &Container) -> Self {
        Self {
            id: container.id.clone(),
            name: container.name.clone(),
            paused: container.status == Status::Paused,
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the journal of an interrupted run, {path}: {problem}", path = path.display())]
pub struct JournalError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not understood: {0}")]
    Json(#[from] serde_json::Error),
    #[error("of version {0}; this digestfix knows version {VERSION}")]
    Version(u32),
    #[error("{0:?} is not the name of a transaction")]
    Id(String),
    #[error("{0:?} is not the name of a storage driver")]
    Driver(String),
    #[error("{0:?} is not the ID of a container")]
    Container(String),
}

impl JournalError {
    pub fn help(&self) -> Option<String> {
        Some(format!(
            "recover this host by hand: rename daemon.json.digestfix-…, if it is there, to \
             daemon.json; check that Docker runs, and that containers have their restart \
             policies; then remove the journal: rm {}",
            shell::path(&self.path)
        ))
    }
}

impl Restart {
    /// A restart that has not touched anything yet.
    pub fn new(unit: &str) -> Self {
        Self {
            phase: Phase::Preparing,
            unit: unit.to_owned(),
            running: false,
            triggers: Vec::new(),
            units: Vec::new(),
            live_restore_by_file: false,
            live_restore: None,
            listed: Vec::new(),
            start_again: Vec::new(),
            kept_down: Vec::new(),
            health_checked: Vec::new(),
        }
    }

    fn containers(&self) -> impl Iterator<Item = &String> {
        let ran = self.start_again.iter().chain(&self.health_checked);
        let ids = ran.map(|container| &container.id);
        let ids = ids.chain(self.kept_down.iter().map(|container| &container.id));
        ids.chain(self.listed.iter().map(|container| &container.id))
    }
}

impl Journal {
    /// The journal of a transaction that has not done anything yet.
    pub fn new(id: &str, references: References, intent: Intent) -> Self {
        Self {
            digestfix_journal: VERSION,
            id: id.to_owned(),
            boot: boot_id(),
            intent,
            references,
        }
    }

    /// Docker's unit, if there is a Docker to manage.
    pub fn unit(&self) -> Option<&str> {
        match &self.intent {
            Intent::Edit | Intent::Record(_) => None,
            Intent::Restart(restart) => Some(&restart.unit),
            Intent::Load(load) => Some(&load.unit),
        }
    }

    /// The restart, if the transaction is one.
    pub const fn restart(&self) -> Option<&Restart> {
        match &self.intent {
            Intent::Restart(restart) => Some(restart),
            Intent::Edit | Intent::Load(_) | Intent::Record(_) => None,
        }
    }

    /// Like [`Journal::restart`], to change it.
    pub const fn restart_mut(&mut self) -> Option<&mut Restart> {
        match &mut self.intent {
            Intent::Restart(restart) => Some(restart),
            Intent::Edit | Intent::Load(_) | Intent::Record(_) => None,
        }
    }

    /// Adds what is known of daemon.json to the journal, before daemon.json changes.
    pub fn note_daemon_json(
        &mut self,
        contents: DaemonJson,
        lock: &RootLock,
    ) -> Result<(), JournalError> {
        if let Some(restart) = self.restart_mut() {
            restart.live_restore = Some(contents);
        }
        self.write(lock)
    }

    /// The journal in a data root, if a transaction there has not ended.
    pub fn read(data_root: &Path) -> Result<Option<Self>, JournalError> {
        let path = path(data_root);
        let parsed = match state_file::read(&path, MAX_BYTES) {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => Self::parse(&bytes),
            Err(error) => Err(error.into()),
        };
        parsed
            .map(Some)
            .map_err(|problem| JournalError { path, problem })
    }

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        // A journal of another version may have other fields.
        let Version { digestfix_journal } = serde_json::from_slice(bytes)?;
        if digestfix_journal != VERSION {
            return Err(Problem::Version(digestfix_journal));
        }
        let journal: Self = serde_json::from_slice(bytes)?;
        // IDs and driver names become part of file names.
        if !is_id(&journal.id) {
            return Err(Problem::Id(journal.id));
        }
        if !is_driver_name(&journal.references.driver) {
            return Err(Problem::Driver(journal.references.driver));
        }
        // Container IDs become part of requests.
        let is_hex = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let containers = journal.restart().into_iter().flat_map(Restart::containers);
        if let Some(id) = containers.into_iter().find(|id| !is_hex(id)) {
            return Err(Problem::Container(id.clone()));
        }
        Ok(journal)
    }

    /// The machine has rebooted since the transaction began.
    pub fn is_of_another_boot(&self) -> bool {
        self.boot != boot_id()
    }

    pub fn write(&self, lock: &RootLock) -> Result<(), JournalError> {
        let path = path(lock.data_root());
        let written = serde_json::to_vec_pretty(self)
            .map_err(io::Error::from)
            .and_then(|bytes| match bytes.len() as u64 > MAX_BYTES {
                true => Err(io::Error::other(format!(
                    "more than {} MiB: give fewer claims at once",
                    MAX_BYTES / 1024 / 1024
                ))),
                false => state_file::write(&path, lock, &bytes),
            });
        written.map_err(|error| JournalError {
            path,
            problem: error.into(),
        })
    }

    /// Removes the journal: the transaction has ended.
    pub fn close(lock: &RootLock) -> Result<(), JournalError> {
        let path = path(lock.data_root());
        state_file::remove(&path, lock).map_err(|error| JournalError {
            path,
            problem: error.into(),
        })
    }
}

pub fn path(data_root: &Path) -> PathBuf {
    state_file::path(data_root, FILE_NAME)
}

/// Identifies this boot: by the kernel's ID (`random(4)`, `boot_id`), and by the start of
/// the first process, because a container may start again under the same kernel
/// (`proc_pid_stat(5)`, field 22).
pub fn boot_id() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let init = fs::read_to_string("/proc/1/stat").unwrap_or_default();
    // The second field is a name in parentheses, and may have spaces.
    let after_name = init.rsplit(')').next().unwrap_or_default();
    let started = after_name.split_whitespace().nth(19).unwrap_or_default();
    format!("{} {started}", kernel.trim())
}

/// The hash that identifies a content.
pub fn hash(bytes: &[u8]) -> Digest {
    hash_pieces(&[bytes])
}

/// Like [`hash`], for a file in pieces.
pub fn hash_pieces(pieces: &[&[u8]]) -> Digest {
    Digest::of_pieces(Algorithm::Sha256, pieces)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use super::*;
    use crate::containerd::Target;

    fn journal() -> Journal {
        journal_of(Intent::Restart(Restart::new("docker.service")))
    }

    fn journal_of(intent: Intent) -> Journal {
        let references = References {
            driver: "overlay2".to_owned(),
            before: hash(b"old"),
            after: hash(b"new"),
        };
        Journal::new("20261124T113000Z-7", references, intent)
    }

    fn live_restore() -> DaemonJson {
        DaemonJson {
            config_file: "/etc/docker/daemon.json".into(),
            engine: false,
            before: None,
            found: false,
            directory: true,
            on: hash(b"on"),
            off: hash(b"off"),
        }
    }

    /// These fixtures stay from the first release on.
    #[test]
    fn each_intent_is_read_as_it_was_written() {
        let mut restart = Restart::new("docker.service");
        restart.phase = Phase::Stopping;
        restart.running = true;
        restart.triggers = vec!["docker.socket".to_owned()];
        restart.units = vec!["app.service".to_owned()];
        restart.live_restore_by_file = true;
        restart.live_restore = Some(live_restore());
        let (id, name) = ("0123456789ab".to_owned(), "db".to_owned());
        restart.listed = vec![Listed {
            id: id.clone(),
            name: name.clone(),
        }];
        restart.kept_down = vec![KeptDown {
            id: id.clone(),
            name: name.clone(),
            policy: RestartPolicy::Always,
            max_retries: 0,
        }];
        let ran = Ran {
            id,
            name,
            paused: true,
        };
        restart.start_again = vec![ran.clone()];
        restart.health_checked = vec![ran];
        let digest = hash(b"manifest");
        let pin = Pin {
            reference: Reference::parse(&format!("lab/app@{digest}")).unwrap(),
            image_id: hash(b"config").to_string().parse().unwrap(),
        };
        let load = Load {
            unit: "docker.service".to_owned(),
            added: vec![pin.clone()],
            dropped: vec![pin],
            is_taken_back: true,
            containerd_root: Some("/srv/containerd".into()),
        };
        let record = NodeRecord {
            reference: load.added[0].reference.clone(),
            image_id: load.added[0].image_id.clone(),
            record: Record {
                name: load.added[0].reference.full(),
                target: Target {
                    media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                    digest: hash(b"made up"),
                    size: 7,
                    annotations: [("key".to_owned(), "value".to_owned())].into(),
                },
                labels: [("io.cri-containerd.image".to_owned(), "managed".to_owned())].into(),
            },
        };
        let records = Records {
            socket: "/run/containerd/containerd.sock".into(),
            added: vec![record.clone()],
            dropped: vec![record],
            is_taken_back: true,
        };
        for (intent, fixture) in [
            (
                Intent::Edit,
                include_str!("../../tests/formats/journal-edit.json"),
            ),
            (
                Intent::Restart(restart),
                include_str!("../../tests/formats/journal-restart.json"),
            ),
            (
                Intent::Load(load),
                include_str!("../../tests/formats/journal-load.json"),
            ),
            (
                Intent::Record(records),
                include_str!("../../tests/formats/journal-record.json"),
            ),
        ] {
            let mut journal = journal_of(intent);
            journal.boot = "0b7f6f0e-6f0c-4d6f-9f5d-2b1d6a1c7e55 21".to_owned();
            assert_eq!(Journal::parse(fixture.as_bytes()).unwrap(), journal);
            let written = serde_json::to_vec_pretty(&journal).unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), fixture.trim_end());
        }
    }

    #[test]
    fn what_is_no_journal_is_refused() {
        let text = serde_json::to_string(&journal()).unwrap();
        for (from, to) in [
            ("\"digestfix_journal\":1", "\"digestfix_journal\":2"),
            ("\"digestfix_journal\":1", "\"digestfix_journal\":0"),
            ("20261124T113000Z-7", "../../etc/passwd"),
            ("20261124T113000Z-7", ""),
            ("overlay2", "../../etc"),
            ("overlay2", "/etc"),
            ("preparing", "sleeping"),
            ("\"unit\"", "\"restore\":\"/etc/passwd\",\"unit\""),
            ("sha256:", "sha256:x"),
            ("\"running\":false", "\"running\":\"no\""),
            ("{", "["),
        ] {
            let broken = text.replacen(from, to, 1);
            assert_ne!(broken, text);
            assert!(Journal::parse(broken.as_bytes()).is_err(), "{broken}");
        }
        for end in 0..text.len() {
            assert!(Journal::parse(&text.as_bytes()[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let root = tempfile::tempdir().unwrap();
        let lock = RootLock::acquire_now(root.path()).unwrap();
        let mut journal = journal();
        journal.write(&lock).unwrap();
        journal.restart_mut().unwrap().triggers = vec!["x".repeat(1024 * 1024); 16];
        let refused = journal.write(&lock).unwrap_err().to_string();
        assert!(refused.contains("16 MiB"), "{refused}");
        journal.restart_mut().unwrap().triggers.clear();
        assert_eq!(Journal::read(root.path()).unwrap(), Some(journal));
    }
}
