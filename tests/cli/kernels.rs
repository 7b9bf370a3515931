//! Kernels since 3.10, and file systems that do not support every operation. strace makes
//! system calls of the real program fail.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use digestfix::reserve::{Reserve, needs};
use tempfile::TempDir;

use crate::data_root::{DataRoot, Run};

/// A system call, one of its flags, and the error with which a kernel or a file system
/// refuses it. With a flag, only the first such call of each thread is refused.
type Refusal = (&'static str, &'static str, &'static str);

const REFUSALS: [Refusal; 15] = [
    ("renameat2", "", "ENOSYS"),
    ("renameat2", "", "EINVAL"),
    ("statx", "", "ENOSYS"),
    ("getrandom", "", "ENOSYS"),
    ("getrandom", "GRND_INSECURE", "EINVAL"),
    ("clone3", "", "ENOSYS"),
    // This error does not come from a kernel, but from an old seccomp filter or a
    // resource limit.
    ("clone3", "", "EPERM"),
    ("rseq", "", "ENOSYS"),
    // The program does not make these calls at present. If it ever does, the test refuses
    // them.
    ("openat2", "", "ENOSYS"),
    ("close_range", "", "ENOSYS"),
    ("copy_file_range", "", "ENOSYS"),
    ("memfd_create", "", "ENOSYS"),
    ("fallocate", "", "ENOSYS"),
    ("openat", "O_TMPFILE", "EOPNOTSUPP"),
    ("openat", "O_TMPFILE", "EISDIR"),
];

/// The number of `finit_module`, the last system call that Linux 3.10 added.
const LAST_OF_3_10: u32 = if cfg!(target_arch = "x86_64") {
    313
} else {
    273
};

const CLAIM: &str = "quay.io/coreos/flannel:v0.13.0\
    @sha256:1111111111111111111111111111111111111111111111111111111111111111";

const COMMANDS: [&[&str]; 4] = [
    &["apply", CLAIM],
    &["verify", CLAIM],
    &["status"],
    &["rollback"],
];

/// The system calls, one list for each thread, as strace prints them: `[ 316]
/// renameat2(…`.
type Trace = Vec<Vec<String>>;

fn strace(options: &[String], words: &[&str]) -> (Run, Trace) {
    let logs = TempDir::new().unwrap();
    let output = Command::new("strace")
        .args(["-ff", "-qq", "-n", "-o"])
        .arg(logs.path().join("thread"))
        .args(options)
        .args(words)
        // The loader would search the directories in cargo's variable first.
        .env_remove("LD_LIBRARY_PATH")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("strace, which tests/host/with installs: {error}"));
    let run = Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    let threads = fs::read_dir(logs.path()).unwrap().map(|log| {
        let log = fs::read(log.unwrap().path()).unwrap();
        let lines = String::from_utf8_lossy(&log);
        lines.lines().map(str::to_owned).collect()
    });
    (run, threads.collect())
}

fn is_call(line: &str, call: &str) -> bool {
    line.contains(&format!("] {call}("))
}

fn calls(trace: &Trace, call: &str, flag: &str) -> bool {
    let mut lines = trace.iter().flatten();
    lines.any(|line| is_call(line, call) && line.contains(flag))
}

/// strace's options for these refusals. `unhindered` is a trace without refusals, which
/// shows the number of the call that has the flag.
fn options(refusals: &[Refusal], unhindered: &Trace) -> Vec<String> {
    let options = refusals.iter().filter_map(|&(call, flag, error)| {
        let number = unhindered.iter().find_map(|thread| {
            let mut calls = thread.iter().filter(|line| is_call(line, call));
            calls.position(|line| line.contains(flag))
        });
        let when = match flag {
            "" => String::new(),
            _ => format!(":when={}", number? + 1),
        };
        Some(format!("--inject={call}:error={error}{when}"))
    });
    options.collect()
}

/// Runs a program while calls are refused. Checks that it was refused exactly the calls
/// that it makes in `unhindered`, the trace without refusals.
#[track_caller]
fn refused(refusals: &[Refusal], unhindered: &Trace, words: &[&str]) -> Run {
    let (run, trace) = strace(&options(refusals, unhindered), words);
    let run = ends_well(run, words);
    for &(call, flag, error) in refusals {
        let met = trace.iter().flatten().any(|line| {
            is_call(line, call)
                && [flag, error].iter().all(|word| line.contains(word))
                && line.ends_with("(INJECTED)")
        });
        let called = calls(unhindered, call, flag);
        assert_eq!(met, called, "{call} {flag} {error} {words:?}");
    }
    run
}

/// Replaces the times and process IDs, which differ between runs.
fn without_numbers(text: &str) -> String {
    let mut kept = text.replace(|c: char| c.is_ascii_digit(), "0");
    while kept.contains("00") {
        kept = kept.replace("00", "0");
    }
    kept
}

/// The files of a data root: name, mode, and contents. The contents of digestfix's own
/// files are left out, because they contain times.
type Files = Vec<(String, u32, String)>;

fn files(root: &DataRoot) -> Files {
    let files = root.everything().into_iter().map(|(path, content)| {
        let name = path.strip_prefix(root.0.path()).unwrap();
        let mode = fs::symlink_metadata(&path).unwrap().mode();
        let timeless = !name.starts_with("digestfix");
        let name = without_numbers(name.to_str().unwrap());
        let content = String::from_utf8(content).unwrap();
        (name, mode, if timeless { content } else { String::new() })
    });
    let mut files: Files = files.collect();
    files.sort();
    files
}

/// The output and the files of a data root after each command.
type Seen = Vec<(String, Files)>;

/// Runs all commands on a new data root. `run` runs each command, and receives its
/// number.
#[track_caller]
fn all_commands(mut run: impl FnMut(usize, &[&str]) -> Run) -> Seen {
    let root = DataRoot::of_the_write_up();
    let place = root.0.path().to_str().unwrap();
    let seen = COMMANDS.iter().enumerate().map(|(number, command)| {
        let program = env!("CARGO_BIN_EXE_digestfix");
        let options = ["--offline", "--data-root", place];
        let run = run(number, &[&[program], *command, &options].concat());
        let said = match command[0] {
            "status" | "verify" => without_numbers(&run.stdout.replace(place, "")),
            _ => String::new(),
        };
        (said, files(&root))
    });
    seen.collect()
}

fn ends_well(run: Run, words: &[&str]) -> Run {
    // The data root has an image without a digest.
    run.exits(if words.contains(&"status") { 4 } else { 0 })
}

#[test]
fn a_call_that_is_not_there_changes_no_outcome() {
    let mut traces = Vec::new();
    let unhindered = all_commands(|_, words| {
        let (run, trace) = strace(&[], words);
        traces.push(trace);
        ends_well(run, words)
    });

    // The program really makes the calls that are refused below.
    for (call, flag) in [("renameat2", ""), ("openat", "O_TMPFILE")] {
        assert!(calls(&traces[0], call, flag), "{call} {flag}");
    }
    let mut newer = BTreeSet::new();
    for line in traces.iter().flatten().flatten() {
        let number = line.trim_start_matches('[').split(']').next().unwrap();
        if number.trim().parse().is_ok_and(|n: u32| n > LAST_OF_3_10) {
            newer.insert(
                line.split(['(', ' '])
                    .find(|w| w.starts_with(char::is_alphabetic)),
            );
        }
    }
    for call in newer {
        let refused = |refusal: &Refusal| Some(refusal.0) == call && refusal.1.is_empty();
        assert!(REFUSALS.iter().any(refused), "{call:?} is not in the table");
    }

    let of_3_10 = |refusal: &Refusal| ["ENOSYS", "EISDIR"].contains(&refusal.2);
    let together: Vec<Refusal> = REFUSALS.into_iter().filter(of_3_10).collect();
    let cases = REFUSALS.iter().map(std::slice::from_ref);
    for case in cases.chain([&*together]) {
        let seen = all_commands(|number, words| refused(case, &traces[number], words));
        assert_eq!(seen, unhindered, "{case:?}");
    }
}

#[test]
fn a_reserve_is_held() {
    // This directory is on a tmpfs, which supports allocation.
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::create_dir(root.path().join("digestfix")).unwrap();
    let root = DataRoot(root);
    let reserve = Reserve::hold(root.0.path(), &[]).unwrap();
    let blocks = |path| fs::metadata(path).unwrap().blocks();
    let held: u64 = root.everything().keys().map(blocks).sum();
    assert!(held * 512 >= needs(root.0.path(), &[])[0].bytes);
    drop(reserve);
    assert!(root.everything().is_empty());
}

/// A run that does not restart Docker holds no reserve.
#[test]
fn a_reserve_is_held_where_nothing_can_be_allocated() {
    let program = env::current_exe().unwrap();
    let held = [
        program.to_str().unwrap(),
        "--exact",
        "kernels::a_reserve_is_held",
    ];
    let unhindered = strace(&[], &held).1;
    assert!(calls(&unhindered, "fallocate", ""));
    for error in ["EOPNOTSUPP", "ENOSYS"] {
        let run = refused(&[("fallocate", "", error)], &unhindered, &held);
        assert!(run.stdout.contains("1 passed"), "{}", run.stdout);
    }
}
