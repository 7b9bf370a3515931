//! A unit's command line as systemd runs it: `$NAME` and `${NAME}` replaced
//! (`systemd.service(5)`, "Command lines").

use std::collections::BTreeMap;
use std::{fs, io};

use crate::systemd::Service;

/// The words of the command line, the program first.
///
/// # Errors
/// When an `EnvironmentFile=` that must be there cannot be read.
pub fn words(service: &Service) -> io::Result<Vec<String>> {
    if !service.exec_start.iter().any(|word| word.contains('$')) {
        return Ok(service.exec_start.clone());
    }
    let mut variables = BTreeMap::new();
    for assignment in &service.environment {
        variables.extend(assigned(assignment));
    }
    for (path, may_be_missing) in &service.environment_files {
        match fs::read_to_string(path) {
            Ok(text) => variables.extend(environment_file(&text)),
            Err(_) if *may_be_missing => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
        }
    }
    Ok(expand(&service.exec_start, &variables))
}

fn assigned(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    Some((name.trim().to_owned(), value.to_owned()))
}

/// Lines of `NAME=VALUE`, the value in quotes or not (`systemd.exec(5)`,
/// `EnvironmentFile=`).
fn environment_file(text: &str) -> Vec<(String, String)> {
    text.replace("\\\n", "")
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', ';']))
        .filter_map(assigned)
        .map(|(name, value)| (name, unquoted(value.trim()).to_owned()))
        .collect()
}

fn unquoted(value: &str) -> &str {
    ['"', '\'']
        .into_iter()
        .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(value)
}

/// `$NAME` alone makes as many words as its value has; `${NAME}` stays within
/// its word. What is not set is empty.
fn expand(words: &[String], variables: &BTreeMap<String, String>) -> Vec<String> {
    let value = |name: &str| variables.get(name).map_or("", String::as_str);
    let mut expanded = Vec::new();
    for word in words {
        match word.strip_prefix('$') {
            Some(name) if is_name(name) => {
                expanded.extend(
                    value(name)
                        .split_whitespace()
                        .map(|part| unquoted(part).to_owned()),
                );
            }
            _ => expanded.push(expand_within(word, value)),
        }
    }
    expanded
}

fn expand_within<'v>(word: &str, value: impl Fn(&str) -> &'v str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find("${") {
        let Some(length) = rest[at..].find('}') else {
            break;
        };
        out.push_str(&rest[..at]);
        out.push_str(value(&rest[at + 2..at + length]));
        rest = &rest[at + length + 1..];
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
mod tests {
    use super::*;

    fn expanded(words: &[&str], file: &str) -> Vec<String> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        expand(&words, &environment_file(file).into_iter().collect())
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
    fn a_variable_in_braces_stays_one_word() {
        assert_eq!(
            expanded(&["--data-root=${ROOT}/x"], "ROOT='/a b'"),
            ["--data-root=/a b/x"]
        );
    }

    #[test]
    fn what_is_not_set_vanishes() {
        assert_eq!(
            expanded(&["dockerd", "$NONE", "${NONE}"], ""),
            ["dockerd", ""]
        );
    }
}
