//! The cost of one process: time by hyperfine, peak memory by the kernel's account of
//! children, system calls and bytes read by strace.

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

/// With this argument, this program runs another one, and prints what it took. The
/// kernel's account is of all children together, so each program needs a parent of its
/// own.
pub const MEASURE: &str = "--measure";

/// Where programs run: here, or on a machine of the lab.
pub struct Place {
    /// The words in front of any command.
    enter: Vec<String>,
    /// The path of this program there.
    own: PathBuf,
    /// The `PATH` of programs.
    path: OsString,
}

/// The result of one run.
pub struct Run {
    /// What it printed.
    pub printed: Vec<u8>,
    /// How long it took.
    pub seconds: f64,
    /// Its peak memory, of the largest process if there are several.
    pub kib: u64,
    /// How it exited.
    pub code: i32,
}

/// The times of some runs.
pub struct Times {
    /// The time of each run, in seconds, sorted.
    pub seconds: Vec<f64>,
    /// The mean processor time of all runs, in seconds.
    pub cpu: f64,
}

/// The system calls of one run.
pub struct Calls {
    /// How many there were, in all threads and children.
    pub calls: usize,
    /// The bytes of reads and receives, without mapped files.
    pub bytes_read: u64,
}

/// Runs a program, and prints what it took.
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

    /// A machine of the lab. Copies hyperfine and this program to it.
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

    /// A command without this run's environment: with cargo's, the loader would look for
    /// every library in a dozen directories first.
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

    /// Times some runs of a program. `prepare` runs before each, and is not timed.
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
        // hyperfine warns of exit codes, which were checked before, and of outliers.
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

/// What strace saw: `PID read(…) = 12`, or `PID read(… <unfinished ...>` and
/// later `PID <... read resumed>…) = 12`.
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
            // Signals and exits.
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

/// Words as one line that hyperfine and a shell split into the same words.
fn quoted(words: &[String]) -> String {
    let quoted: Vec<String> = words
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', "'\\''")))
        .collect();
    quoted.join(" ")
}
