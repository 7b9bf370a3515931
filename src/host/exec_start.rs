//! The command line of a unit as systemd runs it, with the values of `$NAME` and
//! `${NAME}` (`systemd.service(5)`, "Command lines").

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::sys::plain_file::{self, Links};
use crate::systemd::Service;

/// The maximum number of bytes to read from an environment file.
const MAX_ENVIRONMENT: u64 = 1024 * 1024;

/// The words of the command line, beginning with the program. Returns an error if a
/// required `EnvironmentFile=` cannot be read. In that case, systemd does not start the
/// service, even if its command uses no variable.
pub fn words(service: &Service) -> io::Result<Vec<String>> {
    Ok(expand(&service.exec_start, &variables(service)?))
}

/// The environment variables that the unit sets.
pub fn variables(service: &Service) -> io::Result<BTreeMap<String, String>> {
    let mut variables = BTreeMap::new();
    for assignment in &service.environment {
        if let Some((name, value)) = assignment.split_once('=') {
            variables.insert(name.to_owned(), value.to_owned());
        }
    }
    for (path, may_be_missing) in &service.environment_files {
        let read = plain_file::read(Path::new(path), Links::Followed, MAX_ENVIRONMENT);
        match read.map_err(io::Error::from) {
            Ok(bytes) => variables.extend(environment_file(&String::from_utf8_lossy(&bytes))),
            Err(_) if *may_be_missing => {}
            // The path may be a pattern such as `*.env`. This function does not expand
            // patterns, so systemd may find a file that this function does not find.
            Err(_) if path.contains(['*', '?', '[']) => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
        }
    }
    Ok(variables)
}

/// Parses `NAME=VALUE` lines. A value may consist of several parts, with or without
/// quotes (`systemd.exec(5)`, `EnvironmentFile=`).
fn environment_file(text: &str) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let mut rest = text.chars();
    while let Some(first) = rest.next() {
        if first.is_whitespace() {
            continue;
        }
        let mut name = String::new();
        let mut next = Some(first);
        let is_comment = matches!(first, '#' | ';');
        while let Some(character) = next.filter(|character| *character != '\n') {
            if character == '=' && !is_comment {
                break;
            }
            name.push(character);
            next = rest.next();
        }
        if next == Some('=') {
            variables.insert(name.trim_end().to_owned(), file_value(&mut rest));
        }
    }
    variables
}

/// Reads a value to the end of its line. A quote or a backslash can continue the line.
fn file_value(rest: &mut impl Iterator<Item = char>) -> String {
    let mut value = String::new();
    // The length of the value without trailing blanks. A blank is trailing if only blanks
    // follow it.
    let mut solid = 0;
    let mut started = false;
    while let Some(character) = rest.next() {
        match character {
            '\n' => break,
            '\'' | '"' if !started => {
                quoted(character, rest, &mut value);
                solid = value.len();
            }
            '\\' => {
                started = true;
                if let Some(escaped) = rest.next().filter(|escaped| *escaped != '\n') {
                    value.push(escaped);
                    solid = value.len();
                }
            }
            blank if blank.is_whitespace() => {
                if started {
                    value.push(blank);
                }
            }
            plain => {
                started = true;
                value.push(plain);
                solid = value.len();
            }
        }
    }
    value.truncate(solid);
    value
}

fn quoted(quote: char, rest: &mut impl Iterator<Item = char>, value: &mut String) {
    while let Some(character) = rest.next().filter(|character| *character != quote) {
        if character != '\\' || quote == '\'' {
            value.push(character);
            continue;
        }
        match rest.next() {
            Some(escaped @ ('"' | '\\' | '`' | '$')) => value.push(escaped),
            Some('\n') | None => {}
            Some(other) => value.extend(['\\', other]),
        }
    }
}

/// Replaces variables. The word `$NAME` becomes several words if its value contains
/// several words. The value of `${NAME}` stays within one word. `$$` becomes a dollar
/// sign. An unset variable is empty.
fn expand(words: &[String], variables: &BTreeMap<String, String>) -> Vec<String> {
    let value = |name: &str| variables.get(name).map_or("", String::as_str);
    let mut expanded = Vec::new();
    for word in words {
        match word.strip_prefix('$') {
            Some(name) if is_name(name) => expanded.extend(split_words(value(name))),
            _ => expanded.push(expand_within(word, value)),
        }
    }
    expanded
}

/// Splits a variable's value into words as systemd does, at blanks outside of quotes.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if quote == Some(character) {
            quote = None;
        } else if quote.is_none() && matches!(character, '"' | '\'') {
            quote = Some(character);
            word.get_or_insert_default();
        } else if quote.is_none() && character.is_whitespace() {
            words.extend(word.take());
        } else if character == '\\' && quote != Some('\'') {
            word.get_or_insert_default().extend(rest.next());
        } else {
            word.get_or_insert_default().push(character);
        }
    }
    words.extend(word);
    words
}

fn expand_within<'v>(word: &str, value: impl Fn(&str) -> &'v str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find('$') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = from
            .strip_prefix("${")
            .and_then(|inside| inside.split_once('}'))
        {
            out.push_str(value(name));
            rest = after;
        } else {
            out.push('$');
            rest = &from[1..];
        }
    }
    out.push_str(rest);
    out
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fs;

    use super::*;

    fn expanded(words: &[&str], file: &str) -> Vec<String> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        expand(&words, &environment_file(file))
    }

    #[test]
    fn a_variable_alone_makes_words() {
        let file = "# comment\nDOCKER_OPTS=\"--data-root /d --debug\"\n";
        assert_eq!(
            expanded(&["dockerd", "$DOCKER_OPTS", "-H"], file),
            ["dockerd", "--data-root", "/d", "--debug", "-H"]
        );
    }

    #[test]
    fn quotes_in_a_variable_keep_a_word_together() {
        let file = r#"OPTS='--data-root "/a b" --label="x y"'"#;
        assert_eq!(
            expanded(&["dockerd", "$OPTS"], file),
            ["dockerd", "--data-root", "/a b", "--label=x y"]
        );
    }

    #[test]
    fn a_variable_in_braces_stays_one_word() {
        assert_eq!(
            expanded(&["--data-root=${ROOT}/x", "${ROOT}"], "ROOT='/a b'"),
            ["--data-root=/a b/x", "/a b"]
        );
    }

    #[test]
    fn what_is_not_set_vanishes() {
        assert_eq!(
            expanded(&["dockerd", "$NONE", "${NONE}"], ""),
            ["dockerd", ""]
        );
    }

    #[test]
    fn other_dollars_stay() {
        assert_eq!(
            expanded(&["a$$b", "$${ROOT}", "c$ROOT", "${open"], "ROOT=/d"),
            ["a$b", "${ROOT}", "c$ROOT", "${open"]
        );
    }

    #[test]
    fn an_environment_file_is_read_as_systemd_reads_it() {
        let file = "; comment = 1\n# it's \"one\" too\n\n  A = plain text  \nB=\"in \\\"quotes\\\"\"\n\
                    C='a\nb'\nD=one \\\n  two\nE=\nno assignment\nF='x'\"y\"\nG=it's\nA=again\nH=last";
        let variables = environment_file(file);
        let got: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            got,
            [
                ("A", "again"),
                ("B", "in \"quotes\""),
                ("C", "a\nb"),
                ("D", "one   two"),
                ("E", ""),
                ("F", "xy"),
                ("G", "it's"),
                ("H", "last"),
            ]
        );
    }

    #[test]
    fn files_override_the_unit_and_later_files_earlier_ones() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
        fs::write(path("one"), "A=one\nB=one\n").unwrap();
        fs::write(path("two"), "B=two\n").unwrap();
        let mut service = Service {
            exec_start: ["dockerd", "$A", "$B", "$C"].map(str::to_owned).to_vec(),
            environment: vec!["A=unit".to_owned(), "C=unit".to_owned()],
            environment_files: vec![
                (path("one"), false),
                (path("missing"), true),
                (path("two"), false),
            ],
            ..Service::default()
        };
        assert_eq!(words(&service).unwrap(), ["dockerd", "one", "two", "unit"]);
        service.exec_start = vec!["dockerd".to_owned()];
        service.environment_files.push((path("missing"), false));
        let error = words(&service).unwrap_err().to_string();
        assert!(error.contains(&path("missing")), "{error}");
    }
}
