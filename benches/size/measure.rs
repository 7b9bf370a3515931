//! The cost of one process. hyperfine measures its time, the kernel reports the peak
//! memory of children, and strace counts system calls and the bytes that are read.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::Value;

use crate::machine::Machine;

/// With this argument, this program runs another program and prints its cost. The kernel
/// reports the memory of all children of a process together, so each measured program
/// needs its own parent process.
pub const MEASURE: &str = "--measure";

/// The machine on which programs run: this one, or a machine of the lab.
pub struct Place {
    /// The words that precede any command.
    enter: Vec<String>,
    /// The path of this program on that machine.
    own: PathBuf,
    /// The `PATH` variable for programs.
    path: OsString,
}

/// The result of running a program once.
pub struct Run {
    /// The program's output.
    pub printed: Vec<u8>,
    /// The time of the run, in seconds.
    pub seconds: f64,
    /// The peak memory in KiB. If the program has several processes, that of the largest
    /// one.
    pub kib: u64,
    /// The program's exit code.
    pub code: i32,
}

/// The times of several runs.
pub struct Times {
    /// The time of each run, in seconds, sorted.
    pub seconds: Vec<f64>,
    /// The mean processor time of all runs, in seconds.
    pub cpu: f64,
}

/// The system calls of one run.
pub struct Calls {
    /// The number of system calls, in all threads and children.
    pub calls: usize,
    /// The bytes that were read or received, except through mapped files.
    pub bytes_read: u64,
}

/// Runs a program, and prints its cost.
pub fn measure(words: &[String]) {
    let began = Instant::now();
    let status = Command::new(&words[0]).args(&words[1..]).status().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    let kib = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    let code = status.code().unwrap_or(-1);
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "\n{seconds} {kib} {code}").unwrap();
}

impl Place {
    /// This machine.
    pub fn here() -> Self {
        Self {
            enter: vec!["env".to_owned()],
            own: env::current_exe().unwrap(),
            path: env::var_os("PATH").unwrap(),
        }
    }

    /// A machine of the lab. Copies hyperfine and this program to the machine.
    pub fn on(machine: &Machine) -> Self {
        let usr = machine.directory().join("root/usr/bin");
        fs::copy("/usr/bin/hyperfine", usr.join("hyperfine")).unwrap();
        fs::copy(env::current_exe().unwrap(), usr.join("measure")).unwrap();
        let enter = [
            "nsenter",
            "-t",
            machine.init(),
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-r",
            "-w",
            "--",
        ];
        Self {
            enter: enter.map(str::to_owned).to_vec(),
            own: PathBuf::from("/usr/bin/measure"),
            path: "/usr/sbin:/usr/bin:/sbin:/bin".into(),
        }
    }

    /// A command without the environment of this run. With cargo's environment, the
    /// loader would search a dozen directories for every library first.
    pub fn program(&self, name: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(&self.enter[0]);
        command
            .args(&self.enter[1..])
            .arg(name)
            .env_clear()
            .env("PATH", &self.path)
            .env("LANG", "C.UTF-8")
            .env("HOME", "/root")
            .stdin(Stdio::null());
        command
    }

    /// Runs a program once.
    pub fn once(&self, words: &[String]) -> Run {
        let output = self
            .program(&self.own)
            .arg(MEASURE)
            .args(words)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let mut printed = output.stdout;
        let line = printed.iter().rposition(|byte| *byte == b'\n').unwrap();
        let took = String::from_utf8(printed.split_off(line)).unwrap();
        let took: Vec<&str> = took.split_whitespace().collect();
        Run {
            printed,
            seconds: took[0].parse().unwrap(),
            kib: took[1].parse().unwrap(),
            code: took[2].parse().unwrap(),
        }
    }

    /// Times several runs of a program. `prepare` runs before each of them, and is not
    /// timed.
    pub fn time(
        &self,
        words: &[String],
        prepare: Option<&[String]>,
        runs: usize,
        warm_up: usize,
    ) -> Times {
        let mut hyperfine = self.program("hyperfine");
        hyperfine
            .args(["--shell=none", "--style=none", "--ignore-failure"])
            .args(["--export-json", "/dev/stdout"])
            .args([format!("--runs={runs}"), format!("--warmup={warm_up}")]);
        if let Some(prepare) = prepare {
            hyperfine.arg("--prepare").arg(quoted(prepare));
        }
        // hyperfine warns about outliers, and about exit codes, which have been checked
        // before.
        let output = hyperfine.arg(quoted(words)).output().unwrap();
        let warned = String::from_utf8_lossy(&output.stderr);
        let said: Value = serde_json::from_slice(&output.stdout).expect(&warned);
        let result = &said["results"][0];
        let mut seconds: Vec<f64> = result["times"]
            .as_array()
            .unwrap()
            .iter()
            .map(|time| time.as_f64().unwrap())
            .collect();
        seconds.sort_by(f64::total_cmp);
        Times {
            seconds,
            cpu: result["user"].as_f64().unwrap() + result["system"].as_f64().unwrap(),
        }
    }

    /// Counts a program's system calls.
    pub fn calls(&self, words: &[String]) -> Calls {
        let script = r#"exec 3>&1 >/dev/null 2>&1; exec strace -f -qq -s 0 -o /dev/fd/3 "$@""#;
        let output = self
            .program("sh")
            .args(["-c", script, "sh"])
            .args(words)
            .output()
            .unwrap();
        let calls = counted(&String::from_utf8_lossy(&output.stdout));
        assert!(calls.calls > 0, "strace sees calls of {words:?}");
        calls
    }
}

/// Counts the system calls in a log of strace, which has lines `PID read(…) = 12`, or
/// `PID read(… <unfinished ...>` and later `PID <... read resumed>…) = 12`.
fn counted(trace: &str) -> Calls {
    let mut came = Calls {
        calls: 0,
        bytes_read: 0,
    };
    for line in trace.lines().filter(|line| !line.contains("<unfinished")) {
        let Some((_, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start().trim_start_matches("<... ");
        let name = call.split([' ', '(']).next().unwrap_or_default();
        if !name.starts_with(|first: char| first.is_ascii_lowercase()) {
            // The line is about a signal or an exit.
            continue;
        }
        came.calls += 1;
        if ["read", "pread64", "readv", "preadv2", "recvfrom", "recvmsg"].contains(&name) {
            let gave = call.rsplit("= ").next().unwrap_or_default();
            came.bytes_read += gave.parse().unwrap_or(0);
        }
    }
    came
}

/// Quotes words as one line, which hyperfine and a shell split into the same words.
fn quoted(words: &[String]) -> String {
    let quoted: Vec<String> = words
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', "'\\''")))
        .collect();
    quoted.join(" ")
}
