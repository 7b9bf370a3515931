//! `--help` and README.md describe the exit codes in the same words. The manual pages are
//! generated from the help.

use std::collections::BTreeMap;

use crate::data_root::digestfix;

const README: &str = include_str!("../../README.md");

fn of_help(words: &[&str]) -> BTreeMap<u8, String> {
    let help = digestfix(words).exits(0).stdout;
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    codes
        .lines()
        .map(|line| {
            let (code, meaning) = line.trim().split_once("  ").unwrap();
            (code.parse().unwrap(), meaning.to_owned())
        })
        .collect()
}

#[test]
fn the_help_and_the_readme_agree() {
    let (_, table) = README.split_once("| exit code | meaning |\n").unwrap();
    let rows = table.lines().skip(1).take_while(|line| !line.is_empty());
    let readme: BTreeMap<u8, String> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            (cells[1].parse().unwrap(), cells[2].replace('`', ""))
        })
        .collect();
    let help = of_help(&["--help"]);
    assert_eq!(
        help.keys().collect::<Vec<_>>(),
        readme.keys().collect::<Vec<_>>()
    );
    for (code, meaning) in &help {
        // The README may continue the sentence.
        assert!(readme[code].starts_with(meaning), "{code}: {meaning}");
    }
    for command in [
        "status", "plan", "apply", "verify", "export", "recover", "history", "rollback",
    ] {
        assert_eq!(of_help(&[command, "--help"]), help, "{command}");
    }
    let doctors = of_help(&["doctor", "--help"]);
    assert!(doctors.keys().all(|code| help.contains_key(code)));
}

/// The program also returns code 5 if it made the change but could not restore something
/// else.
#[test]
fn five_does_not_say_that_nothing_was_done() {
    let five = &of_help(&["--help"])[&5];
    assert!(!five.contains("restore"), "{five}");
    assert!(five.contains("do what Next says"), "{five}");
}
