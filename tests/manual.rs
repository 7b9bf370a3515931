//! The manual agrees with the program, every page can be reached from the first page, and
//! retired words do not return.
//!
//! The pages are packaging/man/*.md. The text between `<!-- help: … -->` and
//! `<!-- end -->` comes from the definition of the command line:
//!
//!     ACCEPT=1 cargo test --test manual        writes this text again
//!
//! `tests/manpages` checks the pages that are generated from this text.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory};
use digestfix::Cli;
use regex_lite::Regex;

const BEGIN: &str = "<!-- help: ";
const END: &str = "<!-- end -->";

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> PathBuf {
    project().join(format!("packaging/man/{name}.md"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// digestfix and its commands, each with the name of its manual page.
fn commands() -> Vec<(String, Command)> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let shown = root.get_subcommands().filter(|one| !one.is_hide_set());
    let mut all: Vec<_> = shown
        .map(|one| (format!("digestfix-{}.8", one.get_name()), one.clone()))
        .collect();
    all.push(("digestfix.8".to_owned(), root));
    all
}

/// Plain text, escaped for Markdown.
fn escaped(text: &str) -> String {
    let mut markdown = String::new();
    for character in text.chars() {
        if matches!(character, '*' | '<' | '\\' | '[' | ']') {
            markdown.push('\\');
        }
        markdown.push(if character == '\n' { ' ' } else { character });
    }
    markdown
}

fn value(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let names: Vec<String> = names.iter().map(|name| format!("*{name}*")).collect();
    names.join(" ")
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

/// An option's term in the manual: `**-q**, **--quiet**`, or `*CLAIM*`.
fn term(arg: &Arg) -> String {
    if arg.is_positional() {
        return value(arg);
    }
    let short = arg.get_short().map(|letter| format!("**-{letter}**"));
    let long = arg.get_long().map(|word| format!("**--{word}**"));
    let mut term = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    if takes_value(arg) {
        term = format!("{term} {}", value(arg));
    }
    term
}

fn quoted(arg: &Arg, text: &mut String) {
    let help = arg.get_long_help().or(arg.get_help());
    let help = help.map(ToString::to_string).unwrap_or_default();
    let mut about = escaped(help.trim());
    if !about.ends_with('.') {
        about.push('.');
    }
    let defaults = arg.get_default_values();
    if takes_value(arg) && !defaults.is_empty() {
        let defaults: Vec<_> = defaults.iter().map(|one| one.to_string_lossy()).collect();
        write!(about, " Default: {}.", defaults.join(" ")).unwrap();
    }
    let values = match takes_value(arg) {
        true => arg.get_possible_values(),
        false => Vec::new(),
    };
    let bare: Vec<&str> = values
        .iter()
        .filter(|one| one.get_help().is_none())
        .map(|one| one.get_name())
        .collect();
    if !bare.is_empty() {
        write!(about, " One of {}.", bare.join(", ")).unwrap();
    }
    writeln!(text, "{}\n\n> {about}", term(arg)).unwrap();
    for value in values {
        if let Some(help) = value.get_help() {
            let help = escaped(&help.to_string());
            writeln!(text, ">\n> **{}**: {help}.", value.get_name()).unwrap();
        }
    }
    text.push('\n');
}

fn shown(command: &Command) -> Vec<&Arg> {
    command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set())
        .collect()
}

fn synopsis(command: &Command, name: &str) -> String {
    let program = name.trim_end_matches(".8").replacen('-', " ", 1);
    let mut text = format!("## SYNOPSIS\n\n**{program}** \\[*OPTIONS*\\]");
    if command.has_subcommands() {
        text = format!("## SYNOPSIS\n\n**{program}** *COMMAND* \\[*OPTIONS*\\]");
    }
    for arg in shown(command) {
        if arg.is_positional() {
            let many = arg
                .get_num_args()
                .is_some_and(|range| range.max_values() > 1);
            let dots = if many { "..." } else { "" };
            write!(text, " \\[{}{dots}\\]", value(arg)).unwrap();
        }
    }
    text.push('\n');
    text
}

fn options(command: &Command) -> String {
    let mut text = "## OPTIONS\n\n".to_owned();
    let all = shown(command);
    let mut headings: Vec<Option<&str>> = vec![None];
    for arg in &all {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            writeln!(text, "### {heading}\n").unwrap();
        }
        for arg in all.iter().filter(|arg| arg.get_help_heading() == heading) {
            quoted(arg, &mut text);
        }
    }
    format!("{}\n", text.trim_end())
}

fn exit_codes(command: &Command) -> String {
    let help = command.get_after_help().unwrap().to_string();
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    let mut text = "| code | meaning |\n| --- | --- |\n".to_owned();
    for line in codes.lines().filter(|line| !line.trim().is_empty()) {
        let (code, meaning) = line.trim().split_once("  ").unwrap();
        writeln!(text, "| {code} | {} |", escaped(meaning.trim())).unwrap();
    }
    text
}

fn list_of_commands(root: &Command) -> String {
    let mut text = String::new();
    for command in root.get_subcommands().filter(|one| !one.is_hide_set()) {
        let name = command.get_name();
        let about = command.get_about().unwrap().to_string();
        writeln!(
            text,
            "[digestfix-{name}(8)](digestfix-{name}.8.md)\n\n> {}.\n",
            escaped(&about)
        )
        .unwrap();
    }
    format!("{}\n", text.trim_end())
}

/// The page, in which each part that comes from the command line is up to date.
fn anew(page: &str, name: &str, command: &Command) -> String {
    let mut text = String::new();
    let mut rest = page;
    let mut parts = BTreeSet::new();
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (part, after) = after.split_once(" -->\n").unwrap();
        let (_, after) = after.split_once(END).unwrap();
        let made = match part {
            "synopsis" => synopsis(command, name),
            "options" => options(command),
            "exit" => exit_codes(command),
            "commands" => list_of_commands(command),
            other => panic!("{name}: there is no part {other}"),
        };
        write!(text, "{before}{BEGIN}{part} -->\n\n{made}\n{END}").unwrap();
        parts.insert(part.to_owned());
        rest = after;
    }
    let needed = match command.has_subcommands() {
        true => ["synopsis", "commands", "exit"],
        false => ["synopsis", "options", "exit"],
    };
    for part in needed {
        assert!(parts.contains(part), "{name}: the part {part} is missing");
    }
    text + rest
}

#[test]
fn every_option_and_exit_code_is_in_the_manual() {
    let accept = std::env::var_os("ACCEPT").is_some();
    for (name, command) in commands() {
        let path = page(&name);
        let now = read(&path);
        let new = anew(&now, &name, &command);
        if accept {
            fs::write(&path, &new).unwrap();
        } else {
            assert!(
                now == new,
                "{} is not what --help says: ACCEPT=1 cargo test --test manual",
                path.display()
            );
        }
    }
}

#[test]
fn every_page_is_linked_from_the_first_one() {
    let first = read(&page("digestfix.8"));
    let link = Regex::new(r"\[([a-z-]+)\((\d)\)\]\(([^)]*)\)").unwrap();
    for entry in fs::read_dir(project().join("packaging/man")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(
            file == "digestfix.8.md" || first.contains(&format!("]({file})")),
            "digestfix.8.md has no link to {file}"
        );
        let text = read(&path);
        for found in link.captures_iter(&text) {
            assert_eq!(
                &found[3],
                format!("{}.{}.md", &found[1], &found[2]),
                "{file}"
            );
            assert!(
                page(&format!("{}.{}", &found[1], &found[2])).is_file(),
                "{file}: {}",
                &found[0]
            );
        }
    }
}

/// Every file to which a README links exists in the checkout.
#[test]
fn links_in_the_readmes_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)#:]+)(#[^)]*)?\)").unwrap();
    for name in READMES {
        let path = project().join(name);
        for found in link.captures_iter(&read(&path)) {
            let target = path.parent().unwrap().join(&found[1]);
            assert!(target.exists(), "{name}: {}", &found[1]);
        }
    }
}

const READMES: [&str; 6] = [
    "README.md",
    "README.zh-CN.md",
    "CONTRIBUTING.md",
    "tests/README.md",
    "benches/README.md",
    "packaging/ansible/README.md",
];

/// All keys of the JSON output, all metrics, and all fields of journal entries.
#[test]
fn what_programs_read_is_in_the_manual() {
    let source = |name: &str| read(&project().join("src/report").join(name));
    let missing = |pattern: &str, text: &str, name: &str| -> Vec<String> {
        let pattern = Regex::new(pattern).unwrap();
        let page = read(&page(name));
        let all = pattern.captures_iter(text).map(|found| found[1].to_owned());
        let all: Vec<String> = all.collect();
        assert!(all.len() > 5, "{pattern:?}: {all:?}");
        let named = |one: &str| {
            ["`", "**"]
                .iter()
                .any(|mark| page.contains(&format!("{mark}{one}")))
        };
        all.into_iter().filter(|one| !named(one)).collect()
    };
    let document = source("document.rs");
    let renamed = Regex::new(r#"#\[serde\(rename = "(\w+)"\)\]\n    pub \w+:"#).unwrap();
    let document = renamed.replace_all(&document, "pub $1:");
    assert_eq!(
        missing(r"pub (\w+):", &document, "digestfix-json.5"),
        [""; 0]
    );
    let page = "digestfix-monitoring.7";
    let metrics = missing(r#""(digestfix_\w+)"#, &source("metrics.rs"), page);
    assert_eq!(metrics, [""; 0]);
    let entries = read(&project().join("packaging/digestfix.catalog"));
    assert_eq!(missing(r"(?m)^-- ([0-9a-f]{32})$", &entries, page), [""; 0]);
}

/// The lab runs the commands in README.md, so the Chinese page must not have others.
#[test]
fn the_chinese_readme_has_no_other_commands() {
    let commands = |name: &str| -> BTreeSet<String> {
        let text = read(&project().join(name));
        let blocks = text.split("```sh\n").skip(1);
        let lines = blocks.flat_map(|block| block.split("```").next().unwrap().lines());
        lines
            .map(|line| line.split(" #").next().unwrap().trim().to_owned())
            .collect()
    };
    let (chinese, english) = (commands("README.zh-CN.md"), commands("README.md"));
    assert!(
        !chinese.is_empty() && chinese.is_subset(&english),
        "{chinese:?}"
    );
}

#[test]
fn the_readme_is_short() {
    let lines = read(&project().join("README.md")).lines().count();
    assert!(lines <= 150, "README.md has {lines} lines");
}

/// A message that the Chinese page quotes is one that the program prints.
#[test]
fn quoted_messages_are_the_programs() {
    let mut source = String::new();
    for path in files(&project().join("src"), "rs") {
        source.push_str(&read(&path));
    }
    let continued = Regex::new(r"\\\n\s*").unwrap();
    let source = continued.replace_all(&source, "");
    let text = read(&project().join("README.zh-CN.md"));
    let rows: Vec<&str> = text.lines().filter(|row| row.starts_with("| `")).collect();
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let message = row.split('`').nth(1).unwrap();
        for part in message
            .split('…')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            assert!(source.contains(part), "no message has: {part}");
        }
    }
}

fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|one| one == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Words that only this project used, with the usual word for each.
const RETIRED: [(&str, &str); 12] = [
    ("aims?", "goal"),
    ("wish(es)?", "request"),
    ("remnants?", "leftover"),
    ("disturbances?", "impact"),
    ("fates?", "impact"),
    ("hindrances?|obstacles?|unfit", "blocker"),
    ("harvest(s|ed)?", "collected claims"),
    ("grounds", "provenance"),
    ("announcements?", "begin"),
    ("guards?", "watchdog"),
    ("stand[_-]ins?", "double"),
    ("glances?", "check"),
];

/// Phrases that hide the actor, or that a reader must read twice.
const RIDDLES: [(&str, &str); 6] = [
    ("(be|is|are|was|were) had", "name who does it"),
    (
        "somebody|nobody|whoever",
        "the user, another process, no one: name it",
    ),
    ("whatever", "name it"),
    ("but for", "except"),
    ("as far as", "split the sentence"),
    ("(is|are) none", "is missing, or is not"),
];

/// The text that was written in the page itself, with unchanged line numbers. The text of
/// the help is removed, because it is written in src/.
fn without_help(page: &str) -> String {
    let mut text = String::new();
    for part in page.split(END) {
        let (own, help) = part.split_once(BEGIN).unwrap_or((part, ""));
        text.push_str(own);
        text.push_str(&"\n".repeat(help.matches('\n').count()));
    }
    text
}

/// The lines that contain one of the words. In Markdown, quoted code does not count.
fn lines_with(text: &str, words: &[(&str, &str)], code_too: bool) -> Vec<String> {
    let code = Regex::new("`[^`]*`").unwrap();
    let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let any = Regex::new(&format!(r"\b({})\b", all.join("|"))).unwrap();
    let mut found = Vec::new();
    for (number, line) in text.to_lowercase().lines().enumerate() {
        let prose = match code_too {
            true => line.into(),
            false if line.starts_with("    ") => continue,
            false => code.replace_all(line, ""),
        };
        let Some(hit) = any.find(&prose) else {
            continue;
        };
        let (_, instead) = words
            .iter()
            .find(|(word, _)| {
                Regex::new(&format!("^({word})$"))
                    .unwrap()
                    .is_match(hit.as_str())
            })
            .unwrap();
        found.push(format!("{}: \"{}\": {instead}", number + 1, hit.as_str()));
    }
    found
}

#[test]
fn retired_words_do_not_come_back() {
    let mut found = Vec::new();
    let mut pages: Vec<PathBuf> = READMES.iter().map(|name| project().join(name)).collect();
    pages.extend(files(&project().join("packaging/man"), "md"));
    for path in pages {
        let text = without_help(&read(&path));
        let mut lines = lines_with(&text, &RETIRED, false);
        lines.extend(lines_with(&text, &RIDDLES, false));
        found.extend(
            lines
                .iter()
                .map(|line| format!("{}:{line}", path.display())),
        );
    }
    for path in files(&project().join("src"), "rs") {
        // A key of the JSON may keep a retired word until the version of the JSON is
        // raised.
        let text = read(&path).replace("serde(rename = \"disturbance\")", "");
        let text = text.replace("serde(rename = \"fate\")", "");
        let lines = lines_with(&text, &RETIRED, true);
        found.extend(
            lines
                .iter()
                .map(|line| format!("{}:{line}", path.display())),
        );
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_retired_word_is_seen() {
    let text = "The guard.\n`guard`\n    guard\nguarded, safeguard\nIt is had.";
    assert_eq!(
        lines_with(text, &RETIRED, false),
        ["1: \"guard\": watchdog"]
    );
    assert_eq!(lines_with(text, &RETIRED, true).len(), 3);
    assert_eq!(lines_with(text, &RIDDLES, false).len(), 1);
}
