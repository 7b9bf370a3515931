//! Plugin for Docker's own command line: `docker digestfix …` runs this program under the
//! name `docker-digestfix`.
//!
//! `docker` runs each plugin with one special command to ask for its description. When
//! the user calls the plugin, `docker` passes on its own command line: docker's options,
//! the plugin's name, and everything after it (docker/cli `cli-plugins`).

use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The file name that `docker` looks for in its plugin directories.
const FILE_NAME: &str = "docker-digestfix";
/// The plugin's name, which comes before the plugin's own arguments.
const NAME: &str = "digestfix";
/// The command with which `docker` asks a plugin for its description.
pub const METADATA: &str = "docker-cli-plugin-metadata";

/// An interpreted command line of a process.
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// The command line as a person would type it: the program's name, then the
    /// arguments.
    Words(Vec<OsString>),
    /// An option of `docker` that would have no effect.
    Option(String),
}

/// Interprets the command line of a process, including the program's name.
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
#[allow(clippy::unwrap_used, reason = "a test may panic")]
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
        // If the program runs under its own name, the word `digestfix` has no special
        // meaning.
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
