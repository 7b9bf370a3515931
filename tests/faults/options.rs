//! The command-line options of the fault tests.

use std::time::Duration;

use crate::machine::Suite;

pub const USAGE: &str = "\
usage: faults MODE [OPTION...]

  matrix    an apply is killed, or fails, at each of its system calls
  power     the power fails at each system call of an apply
  reboots   the machine is reset at random instants of an apply, under load
  recover   a recovery is killed at each of its system calls

  --every N       only each Nth point (1; power and recover: 10)
  --skip N        leave out the first N points, which an earlier run has tried (0)
  --machines M    so many machines at once (3; matrix only)
  --suite S       bookworm, trixie (default) or forky
  --fault F       kill, EIO, ENOSPC, EINTR or all (default); matrix only
  --call NAME     only points of this system call; with NAME:K, only that one
  --fs FS         the disk's file system: ext4 (default of power), xfs, btrfs;
                  reboots has no such disk unless it is said
  --count N       so many resets (20)
  --seed S        of the instants (1)
  --patience S    a host has so many seconds to become whole (60)
  --by-hand       call digestfix recover after a kill, as nothing else does
  --containerd    images are in containerd, and the running Docker loads the
                  manifests (trixie, forky)
  --k8s           a Kubernetes node: images are in containerd, and there is no
                  Docker (matrix only)";

/// The load method, and the image store that it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Docker is stopped, and digestfix edits the file of the classic image store.
    Restart,
    /// Docker loads an archive into the containerd image store.
    Containerd,
    /// containerd records the references of a Kubernetes node.
    Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Matrix,
    Power,
    Reboots,
    Recover,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub mode: Mode,
    pub every: usize,
    pub skip: usize,
    pub machines: usize,
    pub suite: Suite,
    pub fault: String,
    /// The name of a system call, and optionally its number.
    pub call: Option<(String, Option<usize>)>,
    pub file_system: Option<String>,
    pub count: usize,
    pub seed: u64,
    pub patience: Duration,
    pub by_hand: bool,
    pub way: Way,
}

impl Options {
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mode = match words.next().as_deref() {
            Some("matrix") => Mode::Matrix,
            Some("power") => Mode::Power,
            Some("reboots") => Mode::Reboots,
            Some("recover") => Mode::Recover,
            other => return Err(format!("no such mode: {}", other.unwrap_or("none"))),
        };
        let mut options = Self {
            mode,
            every: if matches!(mode, Mode::Power | Mode::Recover) {
                10
            } else {
                1
            },
            skip: 0,
            machines: 3,
            suite: Suite::Trixie,
            fault: "all".to_owned(),
            call: None,
            file_system: None,
            count: 20,
            seed: 1,
            patience: Duration::from_secs(60),
            by_hand: false,
            way: Way::Restart,
        };
        while let Some(name) = words.next() {
            if name == "--by-hand" {
                options.by_hand = true;
                continue;
            }
            if name == "--containerd" {
                options.way = Way::Containerd;
                continue;
            }
            if name == "--k8s" {
                options.way = Way::Node;
                continue;
            }
            let value = words.next().ok_or(format!("{name} needs a value"))?;
            match name.as_str() {
                "--every" => options.every = number(&value)?.max(1),
                "--skip" => options.skip = number(&value)?,
                "--machines" => options.machines = number(&value)?.max(1),
                "--suite" => options.suite = suite(&value)?,
                "--fault" => options.fault = value,
                "--call" => options.call = Some(call(&value)?),
                "--fs" => options.file_system = Some(value),
                "--count" => options.count = number(&value)?,
                "--seed" => options.seed = number(&value)? as u64,
                "--patience" => options.patience = Duration::from_secs(number(&value)? as u64),
                _ => return Err(format!("no such option: {name}")),
            }
        }
        if options.way == Way::Node && mode != Mode::Matrix {
            return Err("--k8s is for matrix".to_owned());
        }
        if options.way == Way::Containerd && options.suite == Suite::Bookworm {
            return Err("Docker 20.10 has no containerd image store".to_owned());
        }
        Ok(options)
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|error| format!("{text}: {error}"))
}

fn suite(name: &str) -> Result<Suite, String> {
    [Suite::Bookworm, Suite::Trixie, Suite::Forky]
        .into_iter()
        .find(|suite| suite.name() == name)
        .ok_or(format!("no such suite: {name}"))
}

fn call(text: &str) -> Result<(String, Option<usize>), String> {
    match text.split_once(':') {
        Some((name, occurrence)) => Ok((name.to_owned(), Some(number(occurrence)?))),
        None => Ok((text.to_owned(), None)),
    }
}
