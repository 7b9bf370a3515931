//! The system calls of a run at which a fault is injected, and the faults that each can
//! have.

use std::collections::BTreeMap;
use std::fmt;

use crate::options::Options;

/// System calls that write, sync, rename, lock or use a socket.
pub const CALLS: &[&str] = &[
    "write",
    "pwrite64",
    "writev",
    "fsync",
    "fdatasync",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "ftruncate",
    "fchown",
    "fchmod",
    "chmod",
    "fsetxattr",
    "setxattr",
    "symlink",
    "flock",
    "fcntl",
    "socket",
    "connect",
    "sendto",
    "sendmsg",
    "recvfrom",
    "recvmsg",
    "openat",
];

/// Calls that need space on the disk, and so may fail with `ENOSPC`.
const TAKES_SPACE: &[&str] = &[
    "write",
    "pwrite64",
    "writev",
    "openat",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "symlink",
    "ftruncate",
    "fsync",
    "fdatasync",
    "setxattr",
    "fsetxattr",
];

/// Calls that may block, and so may fail with `EINTR`.
const BLOCKS: &[&str] = &[
    "recvfrom", "recvmsg", "write", "writev", "pwrite64", "sendto", "sendmsg", "connect", "flock",
];

/// One system call of a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    pub call: String,
    /// The number of this call among the calls with this name, counted from 1.
    pub occurrence: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Kill,
    Error(&'static str),
}

/// A fault at a point. It is displayed in strace's syntax.
#[derive(Debug, Clone)]
pub struct Injection {
    pub point: Point,
    pub fault: Fault,
}

impl fmt::Display for Injection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Point { call, occurrence } = &self.point;
        match self.fault {
            Fault::Kill => write!(formatter, "{call}:signal=SIGKILL:when={occurrence}"),
            Fault::Error(errno) => write!(formatter, "{call}:error={errno}:when={occurrence}"),
        }
    }
}

impl Point {
    pub fn with(&self, fault: Fault) -> Injection {
        Injection {
            point: self.clone(),
            fault,
        }
    }

    /// The requested faults that this call can have.
    pub fn faults(&self, options: &Options) -> Vec<Fault> {
        let call = self.call.as_str();
        let mut faults = vec![Fault::Kill, Fault::Error("EIO")];
        if TAKES_SPACE.contains(&call) {
            faults.push(Fault::Error("ENOSPC"));
        }
        if BLOCKS.contains(&call) {
            faults.push(Fault::Error("EINTR"));
        }
        faults.retain(|fault| {
            let name = match fault {
                Fault::Kill => "kill",
                Fault::Error(errno) => errno,
            };
            options.fault == "all" || options.fault == name
        });
        faults
    }
}

/// A system call in a trace, with its line in strace's log.
pub struct Traced {
    pub point: Point,
    pub line: String,
}

/// The calls in a log of strace, in the order of the log.
pub fn traced(log: &str) -> Vec<Traced> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut traced: Vec<Traced> = Vec::new();
    for line in log.lines() {
        let Some((call, arguments)) = line.split_once('(') else {
            continue;
        };
        if !CALLS.contains(&call) {
            continue;
        }
        let number = numbers.entry(call).or_default();
        *number += 1;
        let of_interest = match call {
            "openat" => arguments.contains("O_CREAT"),
            "fcntl" => arguments.contains("_SETLK"),
            _ => true,
        };
        if of_interest {
            traced.push(Traced {
                point: Point {
                    call: call.to_owned(),
                    occurrence: *number,
                },
                line: line.to_owned(),
            });
        }
    }
    traced
}

/// The points in a trace that the user selected.
pub fn chosen(traced: &[Traced], options: &Options) -> Vec<Point> {
    let wanted = |point: &&Point| {
        options.call.as_ref().is_none_or(|(call, occurrence)| {
            point.call == *call && occurrence.is_none_or(|number| point.occurrence == number)
        })
    };
    traced
        .iter()
        .map(|traced| &traced.point)
        .filter(wanted)
        .cloned()
        .collect()
}
