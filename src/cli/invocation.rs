//! Invocation: how this program was called. Commands in messages get the same options, so
//! that they are about the same host.

use std::borrow::Cow;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{Arg, CommandFactory, Parser, ValueEnum};

use crate::cli::plugin::{self, Line};
use crate::cli::{Cli, Command, HostArgs};
use crate::sys::shell;

/// The largest command line that a message repeats, in bytes.
const MAX_LINE: usize = 2000;

/// The first word of each digestfix command in a text.
const PROGRAM: &str = "digestfix ";

/// The words after a command in a message that is about the whole host. digestfix adds no
/// options to such a command.
const WITHOUT_OPTIONS: &str = ", without options";

/// How this program was called.
#[derive(Debug, Clone, Default)]
pub struct Invocation {
    by_sudo: bool,
    /// The options that say where Docker is, with their quoted values.
    options: Vec<(&'static str, Option<String>)>,
}

impl Invocation {
    /// Records the options that say where Docker is.
    pub fn of(host: &HostArgs, containerd_root: Option<&Path>) -> Self {
        let path = |path: &Path| Some(shell::path(path));
        let word = |text: &String| Some(shell::word(text));
        let mut options = Vec::new();
        if host.offline {
            options.push(("--offline", None));
        }
        let store = host.store.and_then(|store| store.to_possible_value());
        options.extend(store.map(|store| ("--store", Some(store.get_name().to_owned()))));
        for (flag, value) in [
            ("--data-root", host.data_root.as_deref().and_then(path)),
            ("--driver", host.driver.as_ref().and_then(word)),
            ("--unit", host.unit.as_ref().and_then(word)),
            ("--config-file", host.config_file.as_deref().and_then(path)),
            ("--socket", host.socket.as_deref().and_then(path)),
            (
                "--containerd-socket",
                host.containerd_socket.as_deref().and_then(path),
            ),
            ("--containerd-root", containerd_root.and_then(path)),
        ] {
            options.extend(value.map(|value| (flag, Some(value))));
        }
        Self {
            by_sudo: is_by_sudo(env::var_os("SUDO_COMMAND").as_deref()),
            options,
        }
    }

    /// The invocation of this process. Parses the command line again, but leaves out the
    /// argument `without`, which is not valid.
    pub fn of_process(without: &str) -> Self {
        let words = words().into_iter().filter(|word| word != without);
        let Ok(cli) = Cli::try_parse_from(words) else {
            return Self::default();
        };
        match &cli.command {
            Command::Plan(args) => Self::of(&args.host, args.content.containerd_root.as_deref()),
            Command::Verify(args) => Self::of(&args.host, args.content.containerd_root.as_deref()),
            Command::Apply(args) => Self::of(
                &args.change.host,
                args.change.content.containerd_root.as_deref(),
            ),
            _ => Self::default(),
        }
    }

    /// Completes each digestfix command in a text, so that the user can type it on this
    /// host. Adds sudo if this process was run with sudo. Adds this process's host
    /// options, except those that the command already contains.
    pub fn in_full<'t>(&self, text: &'t str) -> Cow<'t, str> {
        // With sudo, `systemctl --user` would act on the Docker of root, not on the
        // Docker of the user.
        let by_sudo = self.by_sudo && !text.contains("systemctl --user");
        if (self.options.is_empty() && !by_sudo) || !text.contains(PROGRAM) {
            return Cow::Borrowed(text);
        }
        let cli = Cli::command();
        let mut full = String::new();
        let mut parts = text.split(PROGRAM);
        full.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let end = part.find(|character: char| !character.is_ascii_lowercase());
            let (name, rest) = part.split_at(end.unwrap_or(part.len()));
            // Add nothing to `export`, because that command is for another host.
            let command = cli
                .find_subcommand(name)
                .filter(|command| !command.is_hide_set() && name != "export");
            if by_sudo && command.is_some() {
                full.push_str("sudo ");
            }
            full.push_str(PROGRAM);
            full.push_str(name);
            if let Some(command) = command
                && !rest.starts_with(WITHOUT_OPTIONS)
            {
                full.push_str(&self.options_for(command, rest));
            }
            full.push_str(rest);
        }
        Cow::Owned(full)
    }

    /// The options to add to a command: those that it supports and does not contain yet.
    fn options_for(&self, command: &clap::Command, words: &str) -> String {
        let says = |flag: &str| {
            let mut words = words.split_whitespace();
            words.any(|word| word.split('=').next() == Some(flag))
        };
        let takes = |flag: &str| {
            let name = flag.strip_prefix("--");
            let mut arguments = command.get_arguments();
            arguments.any(|argument| argument.get_long() == name)
        };
        let mut options = String::new();
        for (flag, value) in &self.options {
            let of_a_daemon = matches!(*flag, "--unit" | "--socket");
            if !takes(flag) || says(flag) || of_a_daemon && says("--offline") {
                continue;
            }
            options.push(' ');
            options.push_str(flag);
            if let Some(value) = value {
                options.push(' ');
                options.push_str(value);
            }
        }
        options
    }
}

/// The command line of this process, for the user to type again. `None` if it is too
/// long.
pub fn typed() -> Option<String> {
    line(words().into_iter().skip(1))
}

/// The command line of this process with more options. `None` if it is too long, contains
/// `--`, or reads standard input, which cannot be read again.
pub fn typed_with(options: &[&str]) -> Option<String> {
    let mut words: Vec<OsString> = words().into_iter().skip(1).collect();
    if words.iter().any(is_read_once) || words.iter().any(|word| word == "--") {
        return None;
    }
    words.extend(options.iter().map(OsString::from));
    line(words)
}

/// Completes the options that a text suggests to whole commands: puts the command line of
/// this process before each option.
pub fn with_whole_lines(text: &str) -> String {
    let words: Vec<OsString> = words().into_iter().skip(1).collect();
    match words.iter().any(|word| word == "--") {
        true => text.to_owned(),
        false => with_line(text, &words),
    }
}

fn with_line(text: &str, typed: &[OsString]) -> String {
    let cli = Cli::command();
    let name = typed.first().and_then(|name| name.to_str());
    let Some(command) = name.and_then(|name| cli.find_subcommand(name)) else {
        return text.to_owned();
    };
    let is_typed = |option: &Arg| {
        let mut options = typed.iter().filter_map(|word| option_of(command, word));
        options.any(|one| one.get_id() == option.get_id())
    };
    let mut before = ":";
    let mut words = Vec::new();
    for word in text.split(' ') {
        let begins = before.ends_with(':') || before == "or";
        let added = option_of(command, OsStr::new(word)).filter(|added| begins && !is_typed(added));
        words.extend(added.and_then(|added| line(without_conflicts(command, added, typed))));
        words.push(word.to_owned());
        before = word;
    }
    words.join(" ")
}

/// The option that a word names, with or without a value or a punctuation mark.
fn option_of<'c>(command: &'c clap::Command, word: &OsStr) -> Option<&'c Arg> {
    let long = word.to_str()?.strip_prefix("--")?;
    let long = long.split(['=', ';', ',', ')']).next();
    command.get_arguments().find(|one| one.get_long() == long)
}

/// The words of a command line without the options that conflict with the option `added`.
fn without_conflicts(command: &clap::Command, added: &Arg, typed: &[OsString]) -> Vec<OsString> {
    let names = |one: &Arg, other: &Arg| {
        let conflicts = command.get_arg_conflicts_with(one);
        conflicts.iter().any(|it| it.get_id() == other.get_id())
    };
    let mut kept = Vec::new();
    let mut words = typed.iter();
    while let Some(word) = words.next() {
        match option_of(command, word) {
            Some(option) if names(option, added) || names(added, option) => {
                let has_value = word.to_string_lossy().contains('=');
                if option.get_action().takes_values() && !has_value {
                    words.next();
                }
            }
            _ => kept.push(word.clone()),
        }
    }
    kept
}

/// The command line of this process, with the arguments `by` instead of the argument
/// `word`.
pub fn typed_instead(word: &str, by: &[&str]) -> Option<String> {
    let words = words();
    let mut line_words: Vec<OsString> = Vec::new();
    for one in words.into_iter().skip(1) {
        match one == word {
            true => line_words.extend(by.iter().map(OsString::from)),
            false => line_words.push(one),
        }
    }
    (!line_words.iter().any(is_read_once)).then(|| line(line_words))?
}

/// The command line of this process, with `apply` instead of the command `command`.
pub fn apply_instead_of(command: &str) -> String {
    typed_as_apply(command).unwrap_or_else(|| "digestfix apply (with the same claims)".to_owned())
}

/// Also returns `None` if the claims came from standard input, because digestfix cannot
/// read them again.
fn typed_as_apply(instead_of: &str) -> Option<String> {
    let mut words: Vec<OsString> = words().into_iter().skip(1).collect();
    let all = words.len();
    words.retain(|word| word != "--dry-run");
    if words.len() == all {
        *words.iter_mut().find(|word| *word == instead_of)? = "apply".into();
    }
    if words.iter().any(is_read_once) {
        return None;
    }
    line(words)
}

fn is_read_once(word: &OsString) -> bool {
    word == "-" || word.to_string_lossy().starts_with("/dev/")
}

fn line(words: impl IntoIterator<Item = OsString>) -> Option<String> {
    let words = words.into_iter();
    let words: Vec<String> = words
        .map(|word| shell::word(&word.to_string_lossy()))
        .collect();
    let line = format!("{PROGRAM}{}", words.join(" "));
    (line.len() <= MAX_LINE).then_some(line)
}

/// The command line of this process, as a user would type it, including the program's name.
pub(super) fn words() -> Vec<OsString> {
    match plugin::line(env::args_os()) {
        Line::Words(words) => words,
        Line::Option(_) => Vec::new(),
    }
}

/// Whether sudo ran this program, or ran docker, which runs this program as a plugin.
/// False if sudo ran a shell.
fn is_by_sudo(command: Option<&OsStr>) -> bool {
    let command = command.map(OsStr::to_string_lossy).unwrap_or_default();
    let program = command.split(' ').next().map(Path::new);
    let program = program.and_then(Path::file_name);
    program == Some(OsStr::new(PROGRAM.trim_end())) || program == Some(OsStr::new("docker"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn invocation(by_sudo: bool, host: &HostArgs, root: Option<&str>) -> Invocation {
        Invocation {
            by_sudo,
            ..Invocation::of(host, root.map(Path::new))
        }
    }

    #[test]
    fn each_command_gets_the_options_that_it_has() {
        let host = HostArgs {
            offline: true,
            data_root: Some(PathBuf::from("/a b")),
            driver: Some("overlay2".to_owned()),
            ..HostArgs::default()
        };
        let offline = invocation(false, &host, Some("/c"));
        let options = "--offline --data-root '/a b' --driver overlay2";
        for (text, expected) in [
            ("nothing to type", "nothing to type".to_owned()),
            (
                "then: digestfix recover",
                format!("then: digestfix recover {options}"),
            ),
            (
                "digestfix rollback X, or (digestfix history ID)",
                format!(
                    "digestfix rollback {options} --containerd-root /c X, or (digestfix history {options} ID)"
                ),
            ),
            (
                "digestfix doctor --driver x",
                "digestfix doctor --offline --data-root '/a b' --driver x".to_owned(),
            ),
            (
                "another digestfix works; digestfix export; digestfix watchdog",
                "another digestfix works; digestfix export; digestfix watchdog".to_owned(),
            ),
            (
                "digestfix recover, without options",
                "digestfix recover, without options".to_owned(),
            ),
        ] {
            assert_eq!(offline.in_full(text), expected);
        }
    }

    #[test]
    fn a_daemons_options_are_not_for_a_disk_without_one() {
        let host = HostArgs {
            unit: Some("my.service".to_owned()),
            ..HostArgs::default()
        };
        let online = invocation(false, &host, None);
        assert_eq!(
            online.in_full("digestfix doctor --offline --data-root DIR"),
            "digestfix doctor --offline --data-root DIR"
        );
        assert_eq!(
            online.in_full("digestfix doctor"),
            "digestfix doctor --unit my.service"
        );
    }

    #[test]
    fn options_to_be_given_are_whole_commands() {
        let line = |words: &str| words.split(' ').map(OsString::from).collect::<Vec<_>>();
        let typed = line("apply a:1@D --offline");
        for (text, expected) in [
            ("nothing to type", "nothing to type"),
            ("leave --offline out", "leave --offline out"),
            (
                "say which: --driver a or --driver b",
                "say which: digestfix apply a:1@D --offline --driver a or digestfix apply a:1@D --offline --driver b",
            ),
            (
                "--wait SECONDS",
                "digestfix apply a:1@D --offline --wait SECONDS",
            ),
            ("on a disk: --offline", "on a disk: --offline"),
            ("elsewhere: --nowhere", "elsewhere: --nowhere"),
        ] {
            assert_eq!(with_line(text, &typed), expected);
        }
        let online = line("apply --unit b.service a:1@D --socket=/s --wait 1");
        assert_eq!(
            with_line("then: --offline --data-root DIR", &online),
            "then: digestfix apply a:1@D --wait 1 --offline --data-root DIR"
        );
    }

    #[test]
    fn sudo_is_said_where_it_was_used() {
        let by_sudo = invocation(true, &HostArgs::default(), None);
        assert_eq!(
            by_sudo.in_full("then: digestfix recover"),
            "then: sudo digestfix recover"
        );
        for (command, expected) in [
            (Some("/usr/bin/digestfix apply x"), true),
            (Some("/usr/bin/docker digestfix apply x"), true),
            (Some("/bin/bash"), false),
            (Some("/bin/cat digestfix"), false),
            (None, false),
        ] {
            assert_eq!(is_by_sudo(command.map(OsStr::new)), expected);
        }
    }
}
