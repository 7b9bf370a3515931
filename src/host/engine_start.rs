//! The start time of a running dockerd. digestfix compares it with the time of a file's
//! last change.
//!
//! dockerd reads `repositories.json` only once, when it starts. Before dockerd reads this
//! file, it writes its pid file (moby 20.10 and 28.5, `daemonCLI.start`). So dockerd
//! knows every change that was made before its start. A later change comes either from
//! dockerd itself (after a tag, pull or load), or from another program. If another
//! program changes the file, dockerd does not notice this, and overwrites the change at
//! its own next change. The file does not show which program changed it.
//!
//! The time of a file's last change is its `ctime`. Writing, renaming and exchanging
//! files all update the `ctime`, and no program can set the `ctime` back. Two times show
//! when dockerd started: the time of its pid file, and the start time of its process. If
//! the clock was changed after the process had started and before dockerd wrote the pid
//! file, only one of the two times is wrong.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_getres, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use crate::sys::plain_file::{self, Links};

/// The default path of dockerd's pid file (moby `cmd/dockerd/config_unix.go`).
pub const PID_FILE: &str = "/var/run/docker.pid";

/// The maximum number of bytes to read from a pid file.
const MAX_PID_FILE: u64 = 64;

/// The kernel's file system with information about processes (`proc(5)`).
pub const PROC: &str = "/proc";

/// The start time of a process, and how precisely it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineStart {
    /// The earliest time at which the process may have started.
    process: SystemTime,
    /// The maximum error of `process`: the process may have started later than `process`,
    /// by up to this much.
    process_within: Duration,
    pid_file: Option<SystemTime>,
    /// The maximum error of file timestamps: a file may have changed later than its
    /// timestamp, by up to this much.
    stamp_within: Duration,
}

impl EngineStart {
    /// Determines when a process started. Also uses the time of the pid file, if the file
    /// contains the ID of this process.
    pub fn of(proc: &Path, pid: u32, pid_file: &Path) -> Option<Self> {
        let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
        let ticks = start_time(&stat)?;
        let per_second = u32::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok()?;
        let tick = Duration::from_secs(1).checked_div(per_second)?;
        let within_second = u32::try_from(ticks % u64::from(per_second)).ok()?;
        let since_boot = Duration::from_secs(ticks / u64::from(per_second)) + tick * within_second;
        // Read the time of day before the time since the boot. If time passes between the
        // two reads, the computed start is too early, which is safe. The computed start
        // is never too late.
        let now = SystemTime::now();
        let booted = now.checked_sub(duration(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?)?)?;
        let by_pid_file = match read_pid(pid_file) {
            Some(named) if named == pid => fs::symlink_metadata(pid_file).ok()?.modified().ok(),
            _ => None,
        };
        Some(Self {
            process: booted.checked_add(since_boot)?,
            process_within: tick,
            pid_file: by_pid_file,
            stamp_within: duration(clock_getres(ClockId::CLOCK_REALTIME_COARSE).ok()?)?,
        })
    }

    /// Whether the process started after the file's last change, and so has read the
    /// changed file.
    pub fn comes_after_change_of(&self, file: &Metadata) -> bool {
        let Some(changed) = time(file.ctime(), file.ctime_nsec()) else {
            return false;
        };
        let whole_seconds = file.ctime_nsec() == 0;
        let within = if whole_seconds {
            Duration::from_secs(1)
        } else {
            self.stamp_within
        };
        // Require a pid file that is clearly newer than the change, because dockerd
        // writes the file some time after its process starts. Also compare the start of
        // the process, because the clock may have been set before dockerd wrote the pid
        // file.
        changed < self.process + self.process_within
            && self.pid_file.is_none_or(|at| changed + within < at)
    }

    /// Whether the process started before this time.
    pub fn is_before(&self, instant: SystemTime) -> bool {
        self.process < instant
    }
}

/// The process ID that a pid file contains.
fn read_pid(pid_file: &Path) -> Option<u32> {
    let bytes = plain_file::read(pid_file, Links::Followed, MAX_PID_FILE).ok()?;
    str::from_utf8(&bytes).ok()?.trim().parse().ok()
}

/// `starttime`, in clock ticks since the boot (`proc_pid_stat(5)`). The process name
/// stands before `starttime`, and may contain any character, even parentheses.
fn start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn duration(time: TimeSpec) -> Option<Duration> {
    let seconds = u64::try_from(time.tv_sec()).ok()?;
    Some(Duration::new(seconds, u32::try_from(time.tv_nsec()).ok()?))
}

fn time(seconds: i64, nanoseconds: i64) -> Option<SystemTime> {
    let since = Duration::new(
        u64::try_from(seconds).ok()?,
        u32::try_from(nanoseconds).ok()?,
    );
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::process::Command;
    use std::thread;

    use super::*;

    fn start(process: u64, pid_file: Option<u64>) -> EngineStart {
        let at = |milliseconds| SystemTime::now() + Duration::from_millis(milliseconds);
        EngineStart {
            process: at(process),
            process_within: Duration::from_millis(10),
            pid_file: pid_file.map(at),
            stamp_within: Duration::from_millis(4),
        }
    }

    #[test]
    fn a_change_is_before_the_start_by_both_clocks() {
        let directory = tempfile::tempdir().unwrap();
        let changed = || {
            let path = directory.path().join("file");
            fs::write(&path, "").unwrap();
            fs::metadata(path).unwrap()
        };
        for (start, has_read) in [
            (start(1000, Some(1100)), true),
            (start(1000, None), true),
            (start(1000, Some(0)), false),
            (start(0, Some(1000)), true),
        ] {
            assert_eq!(
                start.comes_after_change_of(&changed()),
                has_read,
                "{start:?}"
            );
        }
        let earlier = start(0, Some(1000));
        thread::sleep(Duration::from_millis(20));
        assert!(!earlier.comes_after_change_of(&changed()));
    }

    #[test]
    fn a_stamp_is_only_as_good_as_its_clock() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().metadata().unwrap();
        let changed = time(file.ctime(), file.ctime_nsec()).unwrap();
        for (later, has_read) in [(0, false), (4, false), (5, true)] {
            let start = EngineStart {
                pid_file: Some(changed + Duration::from_millis(later)),
                ..start(1000, None)
            };
            assert_eq!(start.comes_after_change_of(&file), has_read, "{later}");
        }
    }

    #[test]
    fn the_start_of_a_real_process_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("before"), "1").unwrap();
        thread::sleep(Duration::from_millis(30));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        thread::sleep(Duration::from_millis(30));
        fs::write(path("pid"), format!("{}\n", child.id())).unwrap();
        thread::sleep(Duration::from_millis(30));
        fs::write(path("after"), "").unwrap();
        let of = |pid_file: &str| EngineStart::of(Path::new(PROC), child.id(), &path(pid_file));
        let told = of("pid").unwrap();
        let half = of("before").unwrap();
        let gone = EngineStart::of(Path::new("/nowhere"), child.id(), &path("pid"));
        child.kill().unwrap();
        child.wait().unwrap();
        let file = |name: &str| fs::metadata(path(name)).unwrap();
        assert!(told.pid_file.is_some() && half.pid_file.is_none());
        for start in [told, half] {
            assert!(start.comes_after_change_of(&file("before")), "{start:?}");
            assert!(!start.comes_after_change_of(&file("after")), "{start:?}");
        }
        assert_eq!(gone, None);
    }

    #[test]
    fn a_name_may_have_anything_in_it() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(start_time(&format!("1 (a) S 1) b) {fields}")), Some(777));
        assert_eq!(start_time("1 (a) S 1"), None);
        assert_eq!(start_time(""), None);
    }
}
