//! The program's output on a terminal, compared with its output to a file or a pipe.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use fs2::FileExt;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::data_root::DataRoot;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const D1: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

fn one_image() -> DataRoot {
    DataRoot::of_one_image("a:1", A)
}

fn command(root: &DataRoot, words: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_digestfix"));
    command
        .args(words)
        .args(["--offline", "--data-root"])
        .arg(root.0.path())
        .env_clear()
        .envs(variables.iter().copied());
    command
}

/// The complete output on a terminal, and the exit code.
fn on_a_terminal(
    root: &DataRoot,
    words: &[&str],
    columns: u16,
    variables: &[(&str, &str)],
) -> (String, i32) {
    let size = Winsize {
        ws_row: 25,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(&size, None).unwrap();
    let mut child = command(root, words, variables)
        .stdin(Stdio::null())
        .stdout(pty.slave.try_clone().unwrap())
        .stderr(pty.slave)
        .spawn()
        .unwrap();
    let mut output = Vec::new();
    // Reading ends with an error as soon as the program has closed the terminal.
    let _ = File::from(pty.master).read_to_end(&mut output);
    let code = child.wait().unwrap().code().unwrap();
    let text = String::from_utf8(output).unwrap();
    (text.replace("\r\n", "\n"), code)
}

fn in_a_pipe(root: &DataRoot, words: &[&str], variables: &[(&str, &str)]) -> String {
    let output = command(root, words, variables).output().unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

/// The text without the escape sequences that set colours.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| {
        let (sequence, rest) = part.split_once('m').unwrap();
        assert!(
            sequence.chars().all(|digit| digit.is_ascii_digit()),
            "{part}"
        );
        plain + rest
    })
}

const XTERM: (&str, &str) = ("TERM", "xterm");

#[test]
fn a_terminal_gets_colours_and_a_pipe_does_not() {
    let root = one_image();
    let claim = format!("a:1@{D1}");
    let piped = in_a_pipe(&root, &["plan", &claim], &[XTERM]);
    assert!(
        piped.contains(&format!("\n+   a@{D1}  {A}  asserted\n")),
        "{piped}"
    );
    assert!(!piped.contains('\u{1b}'), "{piped}");

    let (shown, code) = on_a_terminal(&root, &["plan", &claim], 200, &[XTERM]);
    assert_eq!(code, 4);
    let green = |text: &str| format!("\u{1b}[32m{text}\u{1b}[0m");
    let line = format!(
        "{}  {}  asserted\n",
        green(&format!("+   a@{D1}")),
        green(A)
    );
    assert!(shown.contains(&line), "{shown:?}");
    assert_eq!(without_colours(&shown), piped);
    // On a narrow terminal, digests and image IDs are shortened, as in Docker's own tables.
    let (narrow, _) = on_a_terminal(&root, &["plan", &claim], 80, &[]);
    let line = "\n+   a@111111111111  aaaaaaaaaaaa  asserted\n";
    assert!(narrow.contains(line), "{narrow}");

    for (flag, variables) in [
        ("--color=auto", &[XTERM, ("NO_COLOR", "1")][..]),
        ("--color=never", &[XTERM]),
        ("--color=auto", &[("TERM", "dumb")]),
    ] {
        let (shown, _) = on_a_terminal(&root, &["plan", &claim, flag], 200, variables);
        // The command to type next contains the flag.
        let shown = shown.replace(&format!(" {flag}"), "");
        assert_eq!(shown, piped, "{flag} {variables:?}");
    }
    for (flag, variables) in [
        ("--color=always", &[][..]),
        ("--color=auto", &[("CLICOLOR_FORCE", "1")]),
    ] {
        let shown = in_a_pipe(&root, &["plan", &claim, flag], variables);
        assert!(shown.contains("\u{1b}[32m+"), "{flag} {variables:?}");
        let shown = shown.replace(&format!(" {flag}"), "");
        assert_eq!(without_colours(&shown), piped, "{flag} {variables:?}");
    }
}

#[test]
fn an_apply_tells_its_steps_and_a_refusal_stands_out() {
    let root = one_image();
    let claim = format!("a:1@{D1}");
    let (shown, code) = on_a_terminal(&root, &["apply", &claim], 80, &[XTERM]);
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.contains(" s\u{1b}[0m  1 reference changed in the file\n"),
        "{shown:?}"
    );
    let (refused, code) = on_a_terminal(&root, &["apply", "b:1@sha256:1"], 80, &[XTERM]);
    assert_eq!(code, 2, "{refused}");
    let missing = format!("b:1@{D1}");
    let (refused, code) = on_a_terminal(&root, &["apply", &missing], 80, &[XTERM]);
    assert_eq!(code, 3, "{refused}");
    for part in [
        "digestfix: \u{1b}[1m\u{1b}[31mrefused\u{1b}[0m: ",
        "\u{1b}[1m  Now:\u{1b}[0m  nothing was touched\n",
    ] {
        assert!(refused.contains(part), "{refused:?}");
    }

    let (json, _) = on_a_terminal(&root, &["history", "--json"], 80, &[XTERM]);
    assert!(!json.contains('\u{1b}'), "{json:?}");
    let (_, text) = json.split_once('{').unwrap();
    let json: serde_json::Value = serde_json::from_str(&format!("{{{text}")).unwrap();
    assert_eq!(json["transactions"][0]["result"], "done");
}

#[test]
fn rows_are_folded_on_a_narrow_terminal_only() {
    let root = one_image();
    root.digestfix(&["apply", &format!("a:1@{D1}")]).exits(0);
    let piped = in_a_pipe(&root, &["status", "--no-trunc"], &[]);
    let row = format!("  ok, asserted  a:1   {D1}  {A}\n");
    assert!(piped.contains(&row), "{piped}");
    let (wide, _) = on_a_terminal(&root, &["status", "--no-trunc"], 200, &[]);
    assert_eq!(wide, piped);
    let (narrow, _) = on_a_terminal(&root, &["status", "--no-trunc"], 80, &[]);
    let row = format!("  ok, asserted  a:1\n    {D1}\n    {A}\n");
    assert!(narrow.contains(&row), "{narrow}");
}

/// An output that cannot be written does not stop a run.
#[test]
fn a_full_disk_or_a_closed_pipe_at_the_other_end_ends_nothing() {
    let root = one_image();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let claim = format!("a:1@{D1}");
    let status = command(&root, &["apply", "-vv", &claim], &[])
        .stdout(full.try_clone().unwrap())
        .stderr(full)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(root.store().contains(D1));
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let status = command(&root, &["apply", "--remove", &format!("a@{D1}")], &[])
        .stdout(closed)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(!root.store().contains(D1));
}

/// Sends a signal to a process once it handles this signal.
fn interrupt(process: u32) {
    let status = format!("/proc/{process}/status");
    let handles = || {
        let status = fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
        caught >> (Signal::SIGINT as i32 - 1) & 1 == 1
    };
    while !handles() {
        sleep(Duration::from_millis(5));
    }
    let process = Pid::from_raw(process.try_into().unwrap());
    kill(process, Signal::SIGINT).unwrap();
}

/// `timeout` sends a signal to its command, and again to the process group.
#[test]
fn a_second_signal_within_an_instant_loses_no_message() {
    let root = one_image();
    let state = root.0.path().join("digestfix");
    fs::create_dir(&state).unwrap();
    let lock = File::create(state.join("lock")).unwrap();
    lock.lock_exclusive().unwrap();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let full = loop {
        if let Err(error) = writer.write(&[b'.'; 4096]) {
            break error.kind();
        }
    };
    assert_eq!(full, ErrorKind::WouldBlock);
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    let claim = format!("a:1@{D1}");
    let mut child = command(&root, &["apply", &claim, "--wait", "60"], &[])
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();

    interrupt(child.id());
    sleep(Duration::from_millis(200));
    interrupt(child.id());
    sleep(Duration::from_millis(50));

    let mut told = String::new();
    reader.read_to_string(&mut told).unwrap();
    let told = told.trim_start_matches('.');
    assert_eq!(child.wait().unwrap().code(), Some(1), "{told}");
    assert!(told.contains("SIGINT"), "{told}");
}
