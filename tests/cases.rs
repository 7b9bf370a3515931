//! The cases in tests/cases: what the program prints, and which files it leaves, on data
//! roots that no Docker uses. Each case is a directory without Rust code. The README.md
//! there explains how to add a case.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::thread;

use regex_lite::{Captures, Regex};
use tempfile::TempDir;

#[test]
fn each_case_ends_as_its_directory_says() {
    let only = env::var("CASE").unwrap_or_default();
    let all = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")).unwrap();
    let mut cases: Vec<PathBuf> = all
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("session").is_file() && name(path).contains(&only))
        .collect();
    cases.sort();
    assert!(!cases.is_empty(), "there is no case {only:?}");
    println!("{} cases", cases.len());
    let (waiting, failed) = (Mutex::new(cases.iter()), Mutex::new(BTreeMap::new()));
    let next = || waiting.lock().unwrap().next();
    thread::scope(|scope| {
        // Use eight threads, because a case mostly waits for the disk.
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(case) = next() {
                    let difference = run(case);
                    if !difference.is_empty() {
                        failed.lock().unwrap().insert(name(case), difference);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let names: Vec<&str> = failed.keys().map(String::as_str).collect();
    assert!(
        failed.is_empty(),
        "{}\n{} of {} cases differ: {}\nIf the program is right: ACCEPT=1 cargo test --test cases, and look at git diff",
        failed.values().cloned().collect::<String>(),
        names.len(),
        cases.len(),
        names.join(", ")
    );
}

/// Every message about a problem names the command to type next, and the program accepts
/// each of its own commands in these messages.
#[test]
fn each_problem_says_what_to_type() {
    let all = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")).unwrap();
    let sessions = all.map(|entry| entry.unwrap().path().join("session"));
    let command = Regex::new(r"digestfix ([a-z]+(?: [^ ;,()]+)*)").unwrap();
    let mut commands = BTreeMap::new();
    for session in sessions.filter(|path| path.is_file()) {
        let text = fs::read_to_string(&session).unwrap();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if line.starts_with("!   Now:") {
                let next = lines.peek().copied().unwrap_or_default();
                assert!(next.starts_with("!   Next:"), "{session:?}: {line}");
            }
            if let Some((_, next)) = line.split_once("  Next: ") {
                let found = command.captures_iter(next);
                let plain = |words: &str| words.replace(['[', ']'], "").replace(" REF", " a:1");
                commands.extend(found.map(|found| (plain(&found[1]), session.clone())));
            }
        }
    }
    assert!(commands.len() > 20, "{commands:?}");
    for (words, session) in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_digestfix"))
            .args(words.split(' '))
            .arg("--help")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{session:?}: {words}: {told}");
    }
}

/// For each Next without a digestfix command that can be run here: a part of its text, and
/// the case or test that shows that it helps.
const SHOWN_ELSEWHERE: [(&str, &str); 17] = [
    (
        "does no harm: leave the entry",
        "nothing is to be done: 76-remove-what-docker-ignores",
    ),
    (
        "leave out one of the two",
        "85-two-images-for-one-digest: the other is applied",
    ),
    (
        "docker tag $(docker images",
        "lab doctor::what_stops_an_apply_is_told_and_cured",
    ),
    (
        "chmod 700",
        "lab doctor::what_stops_an_apply_is_told_and_cured",
    ),
    (
        "recover this host by hand",
        "a person judges: 64-journal-is-not-understood",
    ),
    (
        "do not trust that file",
        "a person judges: 24-facts-tampered-with",
    ),
    (
        "that the index has for this host",
        "74-claims-that-find-no-image: the right one is planned",
    ),
    (
        "docker images --digests shows on the host that pulled",
        "18-from-a-manifest: the right one is applied",
    ),
    (
        "if you mean an image without a name",
        "70-image-without-a-name: named and applied",
    ),
    (
        "check what this file is: ls -ld",
        "cli cures::a_shell_mends_a_data_root",
    ),
    (
        "that file or leave it out",
        "16-from-a-list: a whole one is applied",
    ),
    ("redirect standard output: >FILE", "lab save::"),
    (
        "write a name that this host has",
        "05-apply: one that is here is applied",
    ),
    (
        "run export on the host that pulled the images",
        "31-export-with-manifests",
    ),
    ("load the image first", "lab carry::"),
    ("leave --offline out", "lab carry::"),
    ("docker images --digests", "lab sources::"),
];

/// Each digestfix command in a Next succeeds when it is typed as printed, in the directory
/// in which it was printed. Writes the results to `nexts.md` in `CARGO_TARGET_TMPDIR`.
#[test]
fn each_next_does_what_it_says() {
    let all = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")).unwrap();
    let mut cases: Vec<PathBuf> = all.map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.join("session").is_file());
    cases.sort();
    let (waiting, rows) = (Mutex::new(cases.iter()), Mutex::new(BTreeMap::new()));
    let next = || waiting.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(case) = next() {
                    follow(case, &rows);
                }
            });
        }
    });
    let rows = rows.into_inner().unwrap();
    let mut table = String::from("| what failed | Next | shown by |\n| --- | --- | --- |\n");
    for (next, row) in &rows {
        let cell = |text: &str| text.replace('|', "\\|");
        let row: &Row = row;
        table += &format!(
            "| {} | {} | {} |\n",
            cell(&row.what),
            cell(next),
            cell(&row.shown)
        );
    }
    fs::write(
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("nexts.md"),
        table,
    )
    .unwrap();
    let bad: Vec<_> = rows.iter().filter(|(_, row)| !row.helps).collect();
    assert!(bad.is_empty() && rows.len() > 20, "{bad:#?}");
}

/// The result of doing what a Next says.
#[derive(Debug)]
struct Row {
    what: String,
    shown: String,
    helps: bool,
}

/// Runs the session of a case. Runs the commands of each Next on a copy of the case's
/// files.
fn follow(case: &Path, rows: &Mutex<BTreeMap<String, Row>>) {
    let command = Regex::new(r"digestfix [a-z]+(?: (?:'[^']*'|[^ ;,()])+)*").unwrap();
    let digits = Regex::new(r"[0-9a-f]{12,}").unwrap();
    let blank = Regex::new(r"(?:^|[ :=@])[A-Z]{2,}|…").unwrap();
    let directory = TempDir::new().unwrap();
    let place = directory.path().join("here");
    let saved = directory.path().join("saved");
    shell(
        r#"mkdir "$2"; [ ! -d "$1/before" ] || cp -rL "$1/before/." "$2"; chmod -R u=rwX,go= "$2""#,
        [case, &place],
    );
    let session = fs::read_to_string(case.join("session")).unwrap();
    let mut variable = Variable::new(&place, &session, &tree(&place));
    for line in session.lines().filter_map(|line| line.strip_prefix("$ ")) {
        let told = output(line, &place, &variable);
        variable.learn(&tree(&place));
        let told = String::from_utf8_lossy(&told.stderr).into_owned();
        let mut what = String::new();
        for told in told.lines() {
            let Some(next) = told.strip_prefix("  Next: ") else {
                if !told.starts_with("  ") {
                    what = digits
                        .replace_all(&variable.replace(told), "…")
                        .into_owned();
                }
                continue;
            };
            let key = digits
                .replace_all(&variable.replace(next), "…")
                .into_owned();
            if rows.lock().unwrap().contains_key(&key) {
                continue;
            }
            let mut shown = Vec::new();
            let mut helps = true;
            for found in command.find_iter(next) {
                let typed = found.as_str();
                if blank.is_match(&typed.replace(&*directory.path().to_string_lossy(), "")) {
                    continue;
                }
                shell(r#"rm -rf "$2"; cp -a "$1" "$2""#, [&place, &saved]);
                let code = output(typed, &place, &variable).status.code();
                shell(r#"rm -rf "$2"; mv "$1" "$2""#, [&saved, &place]);
                let verb = typed.split(' ').nth(1).unwrap_or_default();
                // If there are several reasons, a Next resolves only one of them. A
                // corrected claim may be refused for another reason.
                let more = what.ends_with(':') || what.starts_with("digestfix: usage");
                helps &= match verb {
                    "apply" if more => matches!(code, Some(0 | 3)),
                    "apply" | "rollback" | "recover" | "load" => code == Some(0),
                    _ => matches!(code, Some(0 | 3 | 4)),
                };
                let code = code.map_or("none".to_owned(), |code| code.to_string());
                shown.push(format!("{}: `{verb}`, exit {code}", name(case)));
            }
            if shown.is_empty() {
                let elsewhere = SHOWN_ELSEWHERE.iter().find(|(part, _)| next.contains(part));
                helps = elsewhere.is_some();
                shown.extend(elsewhere.map(|(_, shown)| (*shown).to_owned()));
            }
            let row = Row {
                what: what.clone(),
                shown: shown.join("; "),
                helps,
            };
            rows.lock().unwrap().entry(key).or_insert(row);
        }
    }
}

fn name(case: &Path) -> String {
    case.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Runs a case. Returns the differences to its directory, or accepts them if ACCEPT is
/// set.
fn run(case: &Path) -> String {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("cases")
        .join(name(case));
    shell(
        r#"rm -rf "$2"; mkdir -p "$2/expected/after" "$2/actual/after"
           cp "$1/session" "$2/expected"; [ ! -d "$1/after" ] || cp -r "$1/after" "$2/expected""#,
        [case, &scratch],
    );
    let directory = TempDir::new().unwrap();
    let place = directory.path().canonicalize().unwrap();
    shell(
        r#"[ ! -d "$1/before" ] || cp -rL "$1/before/." "$2"; chmod -R u=rwX,go= "$2""#,
        [case, &place],
    );
    let before = tree(&place);
    let session = fs::read_to_string(case.join("session")).unwrap();
    let mut variable = Variable::new(&place, &session, &before);
    let told = session_now(&session, &place, &mut variable);
    fs::write(scratch.join("actual/session"), told).unwrap();
    leave(
        &before,
        &tree(&place),
        &scratch.join("actual/after"),
        &mut variable,
    );
    if env::var_os("ACCEPT").is_some() {
        shell(
            r#"cp "$2/actual/session" "$1"; rm -rf "$1/after"
               rmdir "$2/actual/after" 2>/dev/null || cp -r "$2/actual/after" "$1""#,
            [case, &scratch],
        );
        return String::new();
    }
    let difference = Command::new("diff")
        .args(["-ru", "expected", "actual"])
        .current_dir(&scratch)
        .output()
        .unwrap();
    match difference.status.success() {
        true => String::new(),
        false => format!(
            "\n== {}\n{}",
            name(case),
            String::from_utf8_lossy(&difference.stdout)
        ),
    }
}

fn shell(script: &str, paths: [&Path; 2]) {
    let mut command = Command::new("sh");
    let status = command.args(["-euc", script, "sh"]).args(paths).status();
    assert!(status.unwrap().success(), "{script} {paths:?}");
}

/// The session with the present output and exit codes of its commands. Comments are kept.
fn session_now(session: &str, place: &Path, variable: &mut Variable) -> String {
    let mut text = String::new();
    let mut is_step = true;
    for line in session.lines() {
        if !line.starts_with('#') && !line.starts_with("$ ") {
            continue;
        }
        if !is_step {
            text.push('\n');
        }
        text.push_str(&format!("{line}\n"));
        is_step = line.starts_with('#');
        if let Some(command) = line.strip_prefix("$ ") {
            text.push_str(&typed(command, place, variable));
        }
    }
    text
}

fn typed(command: &str, place: &Path, variable: &mut Variable) -> String {
    let output = output(command, place, variable);
    variable.learn(&tree(place));
    let mut text = String::new();
    for (mark, stream) in [("  ", output.stdout), ("! ", output.stderr)] {
        let stream = variable.replace(&String::from_utf8_lossy(&stream));
        for line in stream.split_inclusive('\n') {
            match line {
                "\n" => text.push('\n'),
                line => text.push_str(&format!("{mark}{line}")),
            }
        }
        if !stream.is_empty() && !stream.ends_with('\n') {
            text.push_str("\\ no newline at the end\n");
        }
    }
    match output.status.code() {
        Some(code) => text + &format!("exit {code}\n"),
        None => text + &format!("{}\n", output.status),
    }
}

fn output(command: &str, place: &Path, variable: &Variable) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_digestfix"));
    let inherited = env::var("PATH").unwrap();
    let path = format!("{}:{inherited}", program.parent().unwrap().display());
    let image = |digit: &str| format!("sha256:{}", digit.repeat(64));
    Command::new("timeout")
        .args(["60", "bash", "-c", &format!("umask 022; {command}")])
        .current_dir(place)
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", path)
        .env("LC_ALL", "C")
        // Records contain the user's name, which has to be the same on every machine.
        .env("SUDO_USER", "admin")
        .env("CASE", place)
        .env("ROOT", place.join("root"))
        .envs(["a", "b", "c"].map(|digit| (digit.to_uppercase(), image(digit))))
        .envs(["1", "2", "3"].map(|digit| (format!("D{digit}"), image(digit))))
        .envs((1..).map(|number| format!("ID{number}")).zip(&variable.ids))
        .output()
        .unwrap()
}

/// Every path below a directory, with its file type in one word, and its content.
type Tree = BTreeMap<String, (&'static str, Vec<u8>)>;

fn tree(place: &Path) -> Tree {
    fn walk(place: &Path, directory: &Path, found: &mut Tree) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            let what = if kind.is_dir() {
                walk(place, &path, found);
                ("directory", Vec::new())
            } else if kind.is_file() {
                ("file", fs::read(&path).unwrap())
            } else if kind.is_symlink() {
                let to = fs::read_link(&path).unwrap();
                ("link", format!("{}\n", to.display()).into_bytes())
            } else {
                let kind = if kind.is_fifo() {
                    "pipe"
                } else {
                    "device or socket"
                };
                (kind, Vec::new())
            };
            let path = path.strip_prefix(place).unwrap();
            found.insert(path.to_str().unwrap().to_owned(), what);
        }
    }
    let mut found = Tree::new();
    walk(place, place, &mut found);
    found
}

/// Writes the files that are new or changed, and a marker for each file that is gone.
fn leave(before: &Tree, now: &Tree, place: &Path, variable: &mut Variable) {
    let put = |name: &str, content: &[u8]| {
        let path = place.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    for (path, what) in now
        .iter()
        .filter(|(path, what)| before.get(*path) != Some(what))
    {
        let (kind, bytes) = what;
        let name = variable.replace(path);
        let is_full = now
            .keys()
            .any(|other| other.starts_with(&format!("{path}/")));
        match (*kind, std::str::from_utf8(bytes)) {
            ("directory", _) if is_full => {}
            ("file", Ok(text)) => put(&name, variable.replace(text).as_bytes()),
            ("file", Err(_)) => put(&name, bytes),
            (_, text) => put(
                &format!("{name} ({kind})"),
                variable.replace(text.unwrap()).as_bytes(),
            ),
        }
    }
    for path in before.keys().filter(|path| !now.contains_key(*path)) {
        put(&format!("{} (gone)", variable.replace(path)), b"");
    }
}

/// Text that varies between runs, and the placeholders that replace it.
struct Variable {
    place: String,
    /// The text of the case itself, which is the same in every run.
    fixed: String,
    id: Regex,
    ids: Vec<String>,
    others: Vec<(Regex, &'static str)>,
}

impl Variable {
    fn new(place: &Path, session: &str, before: &Tree) -> Self {
        let mut fixed = session.to_owned();
        for (path, (_, bytes)) in before {
            fixed += path;
            fixed += &String::from_utf8_lossy(bytes);
        }
        let others = [
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "[TIME]"),
            (r#"("seconds": )[\d.]+"#, "$1[SECONDS]"),
            (r"(?m)^ +\d+\.\d{3} s  ", "   [SECONDS] s  "),
            (
                r"at least \d+ MiB free \([^)]*\)",
                "at least [FREE] MiB free ([PATH])",
            ),
            (r"process \d+", "process [PID]"),
            (
                r"admin \(sudo\)(, login uid \d+)?(, in [^ ,\x22]+\.service)?",
                "admin (sudo)",
            ),
            (
                r"(?m)^(digestfix_\w*(?:seconds|timestamp)\w*(?:\{[^}]*\})?) \S+$",
                "$1 [SECONDS]",
            ),
            (
                concat!(r"\b", env!("CARGO_PKG_VERSION"), r"\b"),
                "[VERSION]",
            ),
        ];
        Self {
            place: place.to_str().unwrap().to_owned(),
            fixed,
            id: Regex::new(r"\d{8}T\d{6}Z-\d+").unwrap(),
            ids: Vec::new(),
            others: others.map(|(of, by)| (Regex::new(of).unwrap(), by)).into(),
        }
    }

    /// Numbers the transactions by age. Each transaction counts, even if its ID is not
    /// printed.
    fn learn(&mut self, now: &Tree) {
        let ids = now.keys().flat_map(|path| self.id.find_iter(path));
        let mut ids: Vec<&str> = ids.map(|id| id.as_str()).collect();
        ids.sort_by_key(|id| (&id[..16], id.len(), *id));
        for id in ids {
            self.replace(id);
        }
    }

    fn replace(&mut self, text: &str) -> String {
        let text = text.replace(&self.place, "[CASE]");
        let text = self.id.replace_all(&text, |found: &Captures<'_>| {
            let id = &found[0];
            if self.fixed.contains(id) {
                return id.to_owned();
            }
            if !self.ids.iter().any(|one| one == id) {
                self.ids.push(id.to_owned());
            }
            let number = self.ids.iter().position(|one| one == id).unwrap() + 1;
            format!("[ID{number}]")
        });
        let mut text = text.into_owned();
        for (of, by) in &self.others {
            let replaced = of.replace_all(&text, |found: &Captures<'_>| {
                let mut whole = found[0].to_owned();
                if !self.fixed.contains(&whole) {
                    whole.clear();
                    found.expand(by, &mut whole);
                }
                whole
            });
            text = replaced.into_owned();
        }
        // Columns are as wide as their longest ID or name, and the lengths of these vary.
        if text.contains("\nID  ") {
            let gap = Regex::new(r"(\S)  +").unwrap();
            text = gap.replace_all(&text, "$1  ").into_owned();
        }
        text
    }
}
