//! The rooms of src/: which rooms exist, and which other rooms each may import.
//!
//! src/lib.rs lists them from top to bottom. A room imports only from rooms below it, so
//! there are no cycles. Code that is compiled only for tests may import from any room.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// The most rooms that src/ may have, so that a newcomer can remember them.
const MOST: usize = 15;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The rooms, in the order in which lib.rs lists them.
fn rooms() -> Vec<String> {
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("//! | [`"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect()
}

/// Every Rust file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The part of a file before its tests. The tests begin at a `#[cfg(test)]` in front of a
/// module, and are the last part of a file.
fn without_tests(text: &str) -> &str {
    let mut from = 0;
    while let Some(at) = text[from..].find("#[cfg(test)]\n") {
        let rest = text[from + at..].lines().skip(1);
        let mut item = rest.skip_while(|line| line.starts_with("#[") || line.starts_with(' '));
        let is_block = |line: &str| line.contains("mod ") && line.ends_with('{');
        if item.next().is_some_and(is_block) {
            return &text[..from + at];
        }
        from += at + 1;
    }
    text
}

/// Whether a module has `#[cfg(test)]` in front of its declaration.
fn is_test(path: &Path) -> bool {
    let relative = path.strip_prefix(source()).unwrap();
    let mut directory = source();
    for part in relative.components() {
        let name = Path::new(part.as_os_str()).with_extension("");
        let name = name.to_string_lossy();
        let own = directory.with_extension("rs");
        let declared_in = if own.is_file() {
            own
        } else {
            source().join("lib.rs")
        };
        let text = fs::read_to_string(declared_in).unwrap();
        let mut before = "";
        for line in text.lines() {
            let line = line.trim();
            if line.ends_with(&format!("mod {name};")) && before == "#[cfg(test)]" {
                return true;
            }
            if !line.starts_with("#[allow") {
                before = line;
            }
        }
        directory.push(&*name);
    }
    false
}

/// The imports of a file that do not come from a room below the file's own.
fn upward(rooms: &[String], room: &str, text: &str) -> Vec<String> {
    let place = |name: &str| rooms.iter().position(|room| room == name);
    let own = place(room);
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut found = Vec::new();
    for line in code {
        for import in line.split("crate::").skip(1) {
            let end = import.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &import[..end.unwrap_or(import.len())];
            if place(name).is_none() || place(name) < own {
                found.push(format!("{room} imports {name:?}: {}", line.trim()));
            }
        }
    }
    found
}

#[test]
fn every_room_is_listed_and_none_looks_up() {
    let rooms = rooms();
    assert!(rooms.len() <= MOST, "{rooms:?}");
    let mut wrong = Vec::new();
    for path in files(&source()) {
        let relative = path.strip_prefix(source()).unwrap();
        let first = relative.components().next().unwrap();
        let room = Path::new(first.as_os_str()).with_extension("");
        let room = room.to_string_lossy();
        if is_test(&path) || matches!(&*room, "lib" | "main") {
            continue;
        }
        if !rooms.iter().any(|listed| **listed == *room) {
            wrong.push(format!("src/lib.rs does not list {room}"));
        }
        let text = fs::read_to_string(&path).unwrap();
        let found = upward(&rooms, &room, without_tests(&text));
        wrong.extend(
            found
                .iter()
                .map(|one| format!("{}: {one}", relative.display())),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_import_that_looks_up_is_found() {
    let rooms = ["commands", "plan", "image"].map(str::to_owned);
    let found = |room, text| upward(&rooms, room, text).len();
    assert_eq!(found("plan", "use crate::image::Digest;"), 0);
    assert_eq!(found("plan", "use crate::plan::Plan;"), 0);
    assert_eq!(found("image", "use crate::plan::Plan;"), 1);
    assert_eq!(found("plan", "let x = crate::commands::run();"), 1);
    assert_eq!(found("plan", "use crate::{image, commands};"), 1);
    assert_eq!(found("plan", "use crate::elsewhere::Thing;"), 1);
    assert_eq!(found("image", "// crate::plan does that"), 0);
}

#[test]
fn only_what_tests_see_is_left_out() {
    let text = "use a;\n#[cfg(test)]\nmod one;\nfn f() {}\n#[cfg(test)]\nmod tests {\n}\n";
    assert_eq!(
        without_tests(text),
        "use a;\n#[cfg(test)]\nmod one;\nfn f() {}\n"
    );
    assert!(is_test(&source().join("transaction/restart/tests.rs")));
    assert!(!is_test(&source().join("transaction/restart.rs")));
}
