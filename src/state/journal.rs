//! Journal: a file that says what a transaction is about to do. digestfix writes the
//! journal before it acts. If the run is killed, another run can restore the host from
//! the journal.
//!
//! A recovery never writes to a path that it reads from the journal. The recovery finds
//! the data root, the reference store and daemon.json by itself. From the transaction's
//! ID, the recovery derives the names of the files beside them. The journal identifies
//! file contents by their hashes.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::containerd::Record;
use crate::docker::container::{Container, RestartPolicy, Status};
use crate::image::digest::{Algorithm, Digest, ImageId};
use crate::image::reference::{Reference, familiar};
use crate::state::id::is_id;
use crate::state::lock::RootLock;
use crate::state::state_file::{self, CHECK_DISK};
use crate::store::data_root::is_driver_name;
use crate::sys::json_error::in_words;
use crate::sys::shell;

const FILE_NAME: &str = "journal.json";

const VERSION: u32 = 1;

/// The largest journal that digestfix reads or writes, in bytes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// One transaction that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    digestfix_journal: u32,
    /// The transaction's ID: the time when the transaction began, and a process ID.
    pub id: String,
    /// The boot during which the transaction began ([`boot_id`]).
    pub boot: String,
    pub intent: Intent,
    pub references: References,
}

/// What a transaction is about to do, and what its undo needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Intent {
    /// Replace `repositories.json` on a host where digestfix manages no Docker.
    Edit,
    /// Stop Docker, replace `repositories.json`, and start Docker.
    Restart(Restart),
    /// Make the running Docker load manifests.
    Load(Load),
    /// Make the containerd of a Kubernetes node record more names.
    Record(Records),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    pub phase: Phase,
    pub unit: String,
    /// Whether Docker's unit ran when the transaction began.
    pub running: bool,
    /// The active units that start Docker's unit on demand, such as `docker.socket`.
    pub triggers: Vec<String>,
    /// The other active units that stop along with Docker's unit.
    pub units: Vec<String>,
    /// Containers survive a stop of Docker because live-restore is on in daemon.json. If
    /// Docker started without live-restore, these containers would end.
    pub live_restore_by_file: bool,
    /// daemon.json, if the transaction enables live-restore in this file.
    pub live_restore: Option<DaemonJson>,
    /// The containers that Docker listed before it stopped.
    pub listed: Vec<Listed>,
    /// The containers that digestfix has to start again, in this order.
    pub start_again: Vec<Ran>,
    /// The containers that are down now, but that Docker would start at its next start.
    /// Until the transaction ends, digestfix removes the restart policies of these
    /// containers.
    pub kept_down: Vec<KeptDown>,
    /// The containers whose health checks Docker does not resume by itself. To resume the
    /// checks, digestfix pauses these containers for an instant.
    pub health_checked: Vec<Ran>,
}

/// The changes that digestfix requests from the running Docker. The transaction's record
/// contains the manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub unit: String,
    /// References to load.
    pub added: Vec<Pin>,
    /// References to drop.
    pub dropped: Vec<Pin>,
    /// The change failed, and digestfix is undoing it.
    pub is_taken_back: bool,
    /// containerd's root directory, if the user named this directory in an option.
    pub containerd_root: Option<PathBuf>,
}

/// The changes that digestfix requests from the containerd of a Kubernetes node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Records {
    pub socket: PathBuf,
    /// Records to make.
    pub added: Vec<NodeRecord>,
    /// Records to remove.
    pub dropped: Vec<NodeRecord>,
    /// The change failed, and digestfix is undoing it.
    pub is_taken_back: bool,
}

/// A record in the containerd of a Kubernetes node, and the image that this record has to
/// point at.
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
    /// digestfix prepares the restart while Docker runs.
    Preparing,
    /// digestfix stops Docker, replaces the references, starts Docker and restores
    /// everything else. From this phase on, containers may have ended.
    Stopping,
}

#[derive(Deserialize)]
struct Version {
    digestfix_journal: u32,
}

/// The contents of the reference store before and after the transaction, as hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct References {
    pub driver: String,
    /// The reference store that the transaction found.
    pub before: Digest,
    /// The reference store that the transaction makes.
    pub after: Digest,
}

/// The state of daemon.json, in which digestfix changes one setting. The journal stores
/// the contents of this file as hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DaemonJson {
    /// The path of daemon.json. A recovery also detects the path by itself, and compares
    /// the detected path with this one.
    pub config_file: PathBuf,
    /// Whether live-restore was on in the running engine.
    pub engine: bool,
    /// The original daemon.json. `None` if there was no file to read.
    pub before: Option<Digest>,
    /// Whether the path of daemon.json existed, either as a file or as a dangling link.
    pub found: bool,
    /// Whether the directory of daemon.json existed.
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

/// A container that has to stay down until the transaction ends.
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
#[error("{}, {path}: {problem}", problem.whose(), path = path.display())]
pub struct JournalError {
    path: PathBuf,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not understood ({})", in_words(.0))]
    Json(#[from] serde_json::Error),
    #[error("the file has version {0}, but this digestfix reads only version {VERSION}")]
    Version(u32),
    #[error("{0:?} is not the ID of a transaction")]
    Id(String),
    #[error("{0:?} is not the name of a storage driver")]
    Driver(String),
    #[error("{0:?} is not the ID of a container")]
    Container(String),
    #[error("{0}")]
    Write(io::Error),
    #[error("the journal would have more than {} MiB", MAX_BYTES / 1024 / 1024)]
    TooLarge,
}

impl Problem {
    const fn whose(&self) -> &'static str {
        match self {
            Self::Write(_) | Self::TooLarge => "digestfix's journal",
            _ => "the journal of an interrupted run",
        }
    }
}

impl JournalError {
    pub fn help(&self) -> Option<String> {
        Some(match self.problem {
            Problem::TooLarge => "give fewer claims at once".to_owned(),
            Problem::Write(_) => CHECK_DISK.to_owned(),
            Problem::Version(version) if version > VERSION => {
                "a newer digestfix wrote the journal; with that version: digestfix recover"
                    .to_owned()
            }
            _ => format!(
                "recover this host by hand: if daemon.json.digestfix-… exists, rename it to \
                 daemon.json; check that Docker runs, and that containers have their restart \
                 policies; then remove the journal: rm {}",
                shell::path(&self.path)
            ),
        })
    }
}

impl Restart {
    /// The journal data of a restart that has not changed anything yet.
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

    /// The data about the restart, if the transaction restarts Docker.
    pub const fn restart(&self) -> Option<&Restart> {
        match &self.intent {
            Intent::Restart(restart) => Some(restart),
            Intent::Edit | Intent::Load(_) | Intent::Record(_) => None,
        }
    }

    /// The data about the restart, in a form that the caller can change.
    pub const fn restart_mut(&mut self) -> Option<&mut Restart> {
        match &mut self.intent {
            Intent::Restart(restart) => Some(restart),
            Intent::Edit | Intent::Load(_) | Intent::Record(_) => None,
        }
    }

    /// Adds the data about daemon.json to the journal. The caller must add the data
    /// before it changes daemon.json.
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
        // Check the version first, because other versions may have other fields.
        let Version { digestfix_journal } = serde_json::from_slice(bytes)?;
        if digestfix_journal != VERSION {
            return Err(Problem::Version(digestfix_journal));
        }
        let journal: Self = serde_json::from_slice(bytes)?;
        // Check IDs and driver names, because they become part of file names.
        if !is_id(&journal.id) {
            return Err(Problem::Id(journal.id));
        }
        if !is_driver_name(&journal.references.driver) {
            return Err(Problem::Driver(journal.references.driver));
        }
        // Check container IDs, because they become part of API requests.
        let is_hex = |id: &str| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let containers = journal.restart().into_iter().flat_map(Restart::containers);
        if let Some(id) = containers.into_iter().find(|id| !is_hex(id)) {
            return Err(Problem::Container(id.clone()));
        }
        Ok(journal)
    }

    /// Whether the machine has rebooted since the transaction began.
    pub fn is_of_another_boot(&self) -> bool {
        self.boot != boot_id()
    }

    pub fn write(&self, lock: &RootLock) -> Result<(), JournalError> {
        let path = path(lock.data_root());
        let written = serde_json::to_vec_pretty(self)
            .map_err(Problem::Json)
            .and_then(|bytes| match bytes.len() as u64 > MAX_BYTES {
                true => Err(Problem::TooLarge),
                false => state_file::write(&path, lock, &bytes).map_err(Problem::Write),
            });
        written.map_err(|problem| JournalError { path, problem })
    }

    /// Removes the journal, because the transaction has ended.
    pub fn close(lock: &RootLock) -> Result<(), JournalError> {
        let path = path(lock.data_root());
        state_file::remove(&path, lock).map_err(|error| JournalError {
            path,
            problem: Problem::Write(error),
        })
    }
}

pub fn path(data_root: &Path) -> PathBuf {
    state_file::path(data_root, FILE_NAME)
}

/// Identifies this boot by the kernel's ID (`random(4)`, `boot_id`), and by the start
/// time of the first process. Inside a container, the kernel's ID is not enough, because
/// the container may restart under the same kernel (`proc_pid_stat(5)`, field 22).
pub fn boot_id() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let init = fs::read_to_string("/proc/1/stat").unwrap_or_default();
    // The second field of `/proc/1/stat` is a name in parentheses, which may contain
    // spaces.
    let after_name = init.rsplit(')').next().unwrap_or_default();
    let started = after_name.split_whitespace().nth(19).unwrap_or_default();
    format!("{} {started}", kernel.trim())
}

/// The hash by which the journal identifies the contents of a file.
pub fn hash(bytes: &[u8]) -> Digest {
    hash_pieces(&[bytes])
}

/// Like [`hash`], for contents that are split into several pieces.
pub fn hash_pieces(pieces: &[&[u8]]) -> Digest {
    Digest::of_pieces(Algorithm::Sha256, pieces)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
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

    #[test]
    fn what_helps_depends_on_what_is_wrong_with_it() {
        let help = |problem| {
            let path = PathBuf::from("/d/digestfix/journal.json");
            let error = JournalError { path, problem };
            (error.to_string(), error.help().unwrap())
        };
        let (told, next) = help(Problem::Version(VERSION + 1));
        assert!(
            told.starts_with("the journal of an interrupted run, /d"),
            "{told}"
        );
        assert!(
            next.ends_with("with that version: digestfix recover"),
            "{next}"
        );
        let (_, next) = help(Problem::Version(0));
        assert!(next.ends_with("rm /d/digestfix/journal.json"), "{next}");
        let (told, next) = help(Problem::TooLarge);
        assert!(told.ends_with("more than 16 MiB"), "{told}");
        assert!(
            !told.contains("interrupted") && next == "give fewer claims at once",
            "{next}"
        );
        let (_, next) = help(Problem::Write(io::ErrorKind::StorageFull.into()));
        assert!(!next.contains("rm ") && next.contains("df -h"), "{next}");
    }

    /// From the first release on, these fixtures must not change.
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
