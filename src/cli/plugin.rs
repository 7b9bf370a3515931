//! The door of Docker's own command line: `docker digestfix …` runs this program under
//! the name `docker-digestfix`.
//!
//! `docker` asks each plugin what it is by one command, and then passes its own line on:
//! its options, the plugin's name, and what follows (docker/cli `cli-plugins`).

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// What `docker` looks for in its directories of plugins.
const FILE_NAME: &str = "docker-digestfix";
/// The plugin's name, after which its own words come.
const NAME: &str = "digestfix";
/// The command by which `docker` asks a plugin what it is.
pub const METADATA: &str = "docker-cli-plugin-metadata";

/// What the words of a process ask for.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// Words as a person types them, behind the name of the program.
    Words(Vec<OsString>),
    /// An option of `docker`'s that would be lost.
    Option(String),
}

/// Understands the words of a process, its own name among them.
pub fn line(words: impl IntoIterator<Item = OsString>) -> Line {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let called = words.first().map(Path::new).and_then(Path::file_name);
    if called != Some(OsStr::new(FILE_NAME)) {
        return Line::Words(words);
    }
    let Some(name) = words.iter().skip(1).position(|word| word == NAME) else {
        return Line::Words(words);
    };
    if name > 0 {
        let option = words.get(1).map(|word| word.to_string_lossy().into_owned());
        return Line::Option(option.unwrap_or_default());
    }
    words.remove(1);
    Line::Words(words)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Line {
        line(words.iter().map(OsString::from))
    }

    fn words(words: &[&str]) -> Line {
        Line::Words(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn dockers_words_become_the_programs() {
        let plugin = "/usr/libexec/docker/cli-plugins/docker-digestfix";
        assert_eq!(
            of(&[plugin, "digestfix", "save", "digestfix"]),
            words(&[plugin, "save", "digestfix"])
        );
        assert_eq!(of(&[plugin, "digestfix"]), words(&[plugin]));
        assert_eq!(of(&[plugin, METADATA]), words(&[plugin, METADATA]));
        // Under its own name, a word is a word.
        assert_eq!(
            of(&["digestfix", "digestfix", "save"]),
            words(&["digestfix", "digestfix", "save"])
        );
        assert_eq!(
            of(&["digestfix", METADATA]),
            words(&["digestfix", METADATA])
        );
    }

    #[test]
    fn an_option_of_dockers_is_not_lost_in_silence() {
        let refused = of(&[
            "docker-digestfix",
            "--context",
            "other",
            "digestfix",
            "save",
        ]);
        assert_eq!(refused, Line::Option("--context".to_owned()));
    }
}
