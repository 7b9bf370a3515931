//! Types the commands that the program's messages advise, exactly as they are printed.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use digestfix::digest::{Algorithm, Digest};
use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::data_root::Run;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const D1: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// A mounted disk in a directory whose name a shell would split into several words.
struct Disk {
    _directory: TempDir,
    root: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let root = directory.path().join("an old disk's $HOME; (1, 2)\u{202e}");
        let images = root.join("image/overlay2");
        fs::create_dir_all(images.join("imagedb/content/sha256")).unwrap();
        for image in [A, B] {
            fs::write(
                images.join("imagedb/content/sha256").join(&image[7..]),
                "{}",
            )
            .unwrap();
        }
        let store = format!(r#"{{"Repositories":{{"a":{{"a:1":"{A}"}},"b":{{"b:1":"{B}"}}}}}}"#);
        fs::write(images.join("repositories.json"), store).unwrap();
        Self {
            _directory: directory,
            root,
        }
    }

    fn store(&self) -> String {
        fs::read_to_string(self.root.join("image/overlay2/repositories.json")).unwrap()
    }

    fn digestfix(&self, words: &[&str]) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_digestfix"));
        command
            .args(words)
            .args(["--offline", "--data-root"])
            .arg(&self.root)
            .env_remove("SUDO_COMMAND");
        run(command)
    }
}

fn run(mut command: Command) -> Run {
    let output = command.output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Types a command line in a shell, in another working directory.
fn typed(line: &str) -> Run {
    let program = Path::new(env!("CARGO_BIN_EXE_digestfix"));
    let path = format!(
        "{}:{}",
        program.parent().unwrap().display(),
        env::var("PATH").unwrap()
    );
    let mut command = Command::new("bash");
    command
        .current_dir("/")
        .env("PATH", path)
        .args(["-c", line]);
    run(command)
}

/// The commands in a text. Each command ends before the first character that cannot be a
/// part of it.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("digestfix ") {
        let mut quote = None;
        let mut end = text.len();
        let mut escaped = false;
        for (place, character) in text[at..].char_indices() {
            match (character, quote) {
                _ if escaped => escaped = false,
                ('\\', _) => escaped = true,
                ('\'', Some(_)) => quote = None,
                ('\'', None) => quote = Some('\''),
                ('\n' | ',' | ';' | '(' | ')', None) => {
                    end = at + place;
                    break;
                }
                _ => {}
            }
        }
        let command = text[at..end].trim_end().to_owned();
        let mut words = command.split(' ').skip(1);
        let names = [
            "status", "plan", "apply", "verify", "recover", "history", "rollback", "doctor",
        ];
        if words.next().is_some_and(|word| names.contains(&word)) {
            found.push(command);
        }
    }
    found
}

/// The only command with this beginning in the output of a run.
#[track_caller]
fn told(run: &Run, beginning: &str) -> String {
    let all = format!("{}\n{}", run.stdout, run.stderr);
    let mut found = commands(&all);
    found.retain(|command| command.starts_with(beginning));
    assert_eq!(found.len(), 1, "{beginning}: {found:?} in\n{all}");
    found.remove(0)
}

#[test]
fn the_way_back_leads_back() {
    let disk = Disk::new();
    let before = disk.store();
    let done = disk.digestfix(&["apply", &format!("a:1@{D1}")]).exits(0);
    let back = told(&done, "digestfix rollback");
    assert_ne!(disk.store(), before);
    typed(&back).exits(0);
    assert_eq!(disk.store(), before);
    let again = typed(&back).exits(3);
    let forth = told(&again, "digestfix rollback");
    typed(&forth).exits(0);
    assert_ne!(disk.store(), before);
}

#[test]
fn what_does_not_hold_is_made_so() {
    for with_a_file in [false, true] {
        let disk = Disk::new();
        let file = disk.root.join("my claims");
        fs::write(&file, format!("b:1@{D1}\n")).unwrap();
        let words = match with_a_file {
            true => vec!["verify", "--from", file.to_str().unwrap()],
            false => vec!["verify", "a:2=b:1"],
        };
        let run = disk.digestfix(&words).exits(4);
        typed(&told(&run, "digestfix apply")).exits(0);
        disk.digestfix(&words).exits(0);
    }
    let disk = Disk::new();
    let run = disk.digestfix(&["status"]).exits(4);
    let give = told(&run, "digestfix apply");
    typed(&give.replace("NAME:TAG@sha256:HEX", &format!("a:1@{D1}"))).exits(0);
    assert!(disk.store().contains(D1));
}

/// The command that `status` advises removes the first entry of its kind.
#[test]
fn what_docker_cannot_use_is_dropped() {
    let disk = Disk::new();
    let store = disk.root.join("image/overlay2/repositories.json");
    let odd = disk
        .store()
        .replace(r#""a:1":""#, r#""it's ; a@x":""#)
        .replace(B, D1);
    fs::write(store, odd).unwrap();
    for _ in 0..2 {
        let run = disk.digestfix(&["status"]).exits(4);
        let removes = |line: &&str| line.contains("--remove");
        let line = run.stdout.lines().find(removes).unwrap();
        typed(line.split_once(": ").unwrap().1).exits(0);
    }
    let left = disk.digestfix(&["status", "--problems"]);
    assert!(!left.stdout.contains("--remove"), "{}", left.stdout);
    assert!(!disk.store().contains(D1), "{}", disk.store());
}

#[test]
fn what_stands_in_the_way_of_a_rollback_goes_first() {
    let disk = Disk::new();
    let first = disk.digestfix(&["apply", "a:2=a:1"]).exits(0);
    disk.digestfix(&["apply", "a:2=b:1", "--replace"]).exits(0);
    let refused = typed(&told(&first, "digestfix rollback")).exits(3);
    typed(&told(&refused, "digestfix rollback")).exits(0);
    typed(&told(&first, "digestfix rollback")).exits(0);
    let none = disk.digestfix(&["rollback", "20200101T000000Z-1"]).exits(3);
    typed(&told(&none, "digestfix history")).exits(0);
    // Another program changes the reference. The message then names the command that
    // shows the change.
    let done = disk.digestfix(&["apply", "a:3=a:1"]).exits(0);
    let store = disk
        .store()
        .replace(&format!(r#""a:3":"{A}""#), &format!(r#""a:3":"{B}""#));
    fs::write(disk.root.join("image/overlay2/repositories.json"), store).unwrap();
    let back = told(&done, "digestfix rollback");
    let refused = typed(&back).exits(3);
    typed(&told(&refused, "digestfix status")).exits(4);
    typed(&told(&refused, "digestfix history")).exits(0);
    typed(&told(&refused, "digestfix apply")).exits(0);
    typed(&back).exits(0);
    assert!(!disk.store().contains("a:3"));
}

/// A problem of a data root, for which a message advises a command.
struct Fault {
    /// The script that causes the problem.
    make: &'static str,
    /// The arguments of the digestfix that reports it.
    words: &'static [&'static str],
    /// The beginning of the command.
    begins: &'static str,
    /// The text that follows the command.
    before: &'static str,
}

const fn fault(
    make: &'static str,
    words: &'static [&'static str],
    begins: &'static str,
    before: &'static str,
) -> Fault {
    Fault {
        make,
        words,
        begins,
        before,
    }
}

const STATUS: &[&str] = &["status"];
const DOCTOR: &[&str] = &["doctor"];
const APPLY: &[&str] = &["apply", "a:2=a:1"];
const HISTORY: &[&str] = &["history", "20200101T000000Z-1"];

const FAULTS: [Fault; 17] = [
    fault(
        r#"chown 65534 "$STORE""#,
        STATUS,
        "chown root: ",
        "; to see",
    ),
    fault(
        r#"rm "$ROOT"/image/overlay2/imagedb/content/sha256/aaaa*"#,
        DOCTOR,
        "digestfix apply --offline",
        "\n",
    ),
    fault(
        r#"sed -Ei 's/"b:1":"(sha256:b+)"/&,"b@\1":"\1"/' "$STORE""#,
        DOCTOR,
        "digestfix apply --offline",
        "\n",
    ),
    fault(
        r#"sed -i 's/"b:1":/"it'"'"'s $HOME; b@x":/' "$STORE""#,
        DOCTOR,
        "digestfix apply --offline",
        "\n",
    ),
    fault(
        r#"sed -i 's/"b:1":/"-b@x":/' "$STORE""#,
        DOCTOR,
        "digestfix apply --offline",
        "\n",
    ),
    fault(
        r#"sed -i 's/"b:1":"sha256/"b:1":"sha512/' "$STORE""#,
        DOCTOR,
        "digestfix apply --offline",
        "\n",
    ),
    fault(
        r#"mv "$STORE" "$ROOT/elsewhere"; ln -s "$ROOT/elsewhere" "$STORE""#,
        STATUS,
        "cp --remove-destination ",
        "; to see",
    ),
    fault(
        r#"sed -i '1s/^/\xEF\xBB\xBF/' "$STORE""#,
        STATUS,
        "sed -i ",
        "; to see",
    ),
    fault(
        r#"cp -p "$STORE" "$STORE.digestfix-20260101T000000Z-1"; : >"$STORE""#,
        STATUS,
        "cp -p ",
        "), and start",
    ),
    fault(r#"chmod 666 "$STORE""#, DOCTOR, "chmod 600 ", "\n"),
    fault(r#"mkfifo "$STATE/lock""#, APPLY, "mv ", "\n"),
    fault(r#"mkfifo "$STATE/lock""#, DOCTOR, "mv ", "\n"),
    fault(
        r#"mkdir -m 777 "$STATE/history""#,
        DOCTOR,
        "chmod 700 ",
        "\n",
    ),
    fault(r#"touch "$STATE/history""#, DOCTOR, "mv ", "; to see"),
    fault(
        r#"mkdir -m 700 "$STATE/history"; touch "$STATE/history/20200101T000000Z-1.json""#,
        HISTORY,
        "mv ",
        "; to see",
    ),
    fault(r#"touch "$STATE/journal.json""#, APPLY, "rm ", "\n"),
    fault(r#"touch "$STATE/journal.json.new""#, DOCTOR, "rm ", "\n"),
];

/// Types the commands that messages advise. Afterwards, the same digestfix command
/// does not report the problem any more.
#[test]
fn a_shell_mends_a_data_root() {
    let is_root = geteuid().is_root();
    let possible = |fault: &Fault| is_root || !fault.make.starts_with("chown");
    for fault in FAULTS.into_iter().filter(possible) {
        let disk = Disk::new();
        let state = disk.root.join("digestfix");
        fs::create_dir(&state).unwrap();
        let mut command = Command::new("bash");
        command
            .env("ROOT", &disk.root)
            .env("STORE", disk.root.join("image/overlay2/repositories.json"))
            .env("STATE", &state)
            .args(["-euc", &format!("umask 0; {}", fault.make)]);
        run(command).exits(0);
        let advised = || {
            let run = disk.digestfix(fault.words);
            let all = format!("{}\n{}", run.stdout, run.stderr);
            let at = all.find(fault.begins)?;
            let line = all[at..].split(fault.before).next()?;
            Some(line.to_owned())
        };
        let line = advised().unwrap_or_else(|| panic!("{}: {}", fault.make, fault.begins));
        typed(&line).exits(0);
        assert_eq!(advised(), None, "{line}");
    }
}

/// `doctor` names the record of a run that did not end well, and of one that did not end.
#[test]
fn the_record_of_a_run_is_shown() {
    let disk = Disk::new();
    let done = disk.digestfix(&["apply", "a:2=a:1"]).exits(0);
    let back = told(&done, "digestfix rollback");
    let id = back.rsplit(' ').next().unwrap();
    let record = disk.root.join(format!("digestfix/history/{id}.json"));
    let mut text: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&record).unwrap()).unwrap();
    for end in [
        serde_json::json!({"broken": {"why": "no disk"}}),
        serde_json::Value::Null,
    ] {
        assert_ne!(text["result"], end);
        text["result"] = end;
        fs::write(&record, text.to_string()).unwrap();
        let run = disk.digestfix(&["doctor"]).exits(0);
        let shown = typed(&told(&run, "digestfix history")).exits(0);
        assert!(shown.stdout.contains(id), "{}", shown.stdout);
    }
}

/// The journal is in the state that a run leaves if it is killed before its first change.
#[test]
fn an_interrupted_run_is_brought_to_an_end() {
    for asked in [&["status"][..], &["doctor"], &["plan", "a:2=a:1"]] {
        let disk = Disk::new();
        let journal = disk.root.join("digestfix/journal.json");
        fs::create_dir(disk.root.join("digestfix")).unwrap();
        let before = Digest::of_pieces(Algorithm::Sha256, &[disk.store().as_bytes()]);
        let references = format!(r#"{{"driver":"overlay2","before":"{before}","after":"{D1}"}}"#);
        let begun = format!(
            r#"{{"digestfix_journal":1,"id":"20261124T113000Z-7","boot":"another","references":{references},"intent":"edit"}}"#
        );
        fs::write(&journal, begun).unwrap();
        let run = disk.digestfix(asked);
        typed(&told(&run, "digestfix recover")).exits(0);
        let run = disk.digestfix(asked);
        assert!(!run.stderr.contains("recover"), "{}", run.stderr);
        assert!(!journal.exists());
    }
}

/// Every command that a message advises is valid, and is about this disk.
#[test]
fn each_cure_is_a_command_for_this_disk() {
    let disk = Disk::new();
    let state = disk.root.join("digestfix");
    let other = disk.root.join("image/an other");
    let mut seen = 0;
    let mut all = |run: Run| {
        for command in commands(&format!("{}\n{}", run.stdout, run.stderr)) {
            let command = command
                .replace("NAME:TAG@sha256:HEX", "a:9=a:1")
                .replace(" ID", " 20200101T000000Z-1")
                .replace(" REF", " a:9")
                .replace("SECONDS", "1");
            let said = typed(&format!("{command} --json"));
            assert_ne!(said.code, 2, "{command}\n{}", said.stderr);
            let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
            let root = disk.root.to_str().unwrap();
            // A command that finds no store on the disk names the directory in its
            // message.
            let of_this_disk =
                json["host"]["data_root"] == root || said.stdout.contains("an old disk");
            assert!(of_this_disk, "{command}\n{json:#}");
            seen += 1;
        }
    };
    for words in [
        &["doctor"][..],
        &["status"],
        &["plan", "a:1=b:1"],
        &["apply", "zz:1=b:1"],
        &["history"],
        &["rollback"],
    ] {
        all(disk.digestfix(words));
    }
    fs::create_dir_all(state.join("history")).unwrap();
    fs::write(state.join("history/0-x.json"), "{").unwrap();
    all(disk.digestfix(&["doctor"]));
    all(disk.digestfix(&["rollback"]));
    fs::write(state.join("journal.json"), "{").unwrap();
    for words in [
        &["doctor"][..],
        &["status"],
        &["recover"],
        &["apply", "a:2=a:1"],
    ] {
        all(disk.digestfix(words));
    }
    fs::remove_file(state.join("journal.json")).unwrap();
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("repositories.json"), "{}").unwrap();
    for words in [&["doctor"][..], &["status"], &["apply", "a:2=a:1"]] {
        all(disk.digestfix(words));
    }
    assert!(seen > 6, "{seen}");
}
