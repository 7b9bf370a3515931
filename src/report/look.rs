//! Look of an output stream: whether it gets colours and a live line, and whether
//! journald reads it.

use std::env;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use clap::ColorChoice;
use nix::sys::stat::fstat;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    pub colours: bool,
    /// Whether a line can be redrawn.
    pub live: bool,
    /// Whether the stream is connected to journald.
    pub journal: bool,
}

impl Look {
    pub fn of(stream: &(impl IsTerminal + AsFd), choice: ColorChoice) -> Self {
        let variable = |name: &str| env::var_os(name);
        Self {
            journal: is_journal(stream, variable("JOURNAL_STREAM")),
            ..Self::with(stream.is_terminal(), choice, variable)
        }
    }

    /// The flag takes precedence over environment variables. `NO_COLOR` follows
    /// <https://no-color.org>; `CLICOLOR` and `CLICOLOR_FORCE` follow
    /// <https://bixense.com/clicolors>.
    fn with(
        terminal: bool,
        choice: ColorChoice,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Self {
        let value = |name| variable(name).filter(|value| !value.is_empty());
        let live = terminal && value("TERM").is_some_and(|term| term != "dumb");
        let colours = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto if value("NO_COLOR").is_some() => false,
            ColorChoice::Auto if value("CLICOLOR_FORCE").is_some_and(|force| force != "0") => true,
            ColorChoice::Auto => live && value("CLICOLOR").is_none_or(|wanted| wanted != "0"),
        };
        Self {
            colours,
            live,
            journal: false,
        }
    }
}

/// Whether a stream is connected to journald. `said` is the value of `JOURNAL_STREAM`:
/// the device and inode of the stream that systemd has connected to journald
/// (`systemd.exec(5)`).
fn is_journal(stream: &impl AsFd, said: Option<OsString>) -> bool {
    said.zip(fstat(stream).ok())
        .is_some_and(|(said, file)| said == *format!("{}:{}", file.st_dev, file.st_ino))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn colours(terminal: bool, choice: ColorChoice, variables: &[(&str, &str)]) -> bool {
        look(terminal, choice, variables).colours
    }

    fn look(terminal: bool, choice: ColorChoice, variables: &[(&str, &str)]) -> Look {
        Look::with(terminal, choice, |name| {
            let set = variables.iter().find(|(other, _)| *other == name);
            set.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn colours_are_for_terminals_that_have_them() {
        use ColorChoice::Auto;
        let xterm = ("TERM", "xterm");
        assert!(colours(true, Auto, &[xterm]));
        assert!(!colours(false, Auto, &[xterm]));
        assert!(!colours(true, Auto, &[("TERM", "dumb")]));
        assert!(!colours(true, Auto, &[]));
        assert!(!colours(true, Auto, &[xterm, ("CLICOLOR", "0")]));
    }

    #[test]
    fn the_journal_is_known_by_its_file() {
        let (stream, _) = std::io::pipe().unwrap();
        let file = fstat(&stream).unwrap();
        let said = format!("{}:{}", file.st_dev, file.st_ino);
        assert!(is_journal(&stream, Some(said.into())));
        assert!(!is_journal(&stream, Some("1:2".into())));
        assert!(!is_journal(&stream, None));
    }

    #[test]
    fn variables_and_flags_are_heeded_in_their_order() {
        use ColorChoice::{Always, Auto, Never};
        let xterm = ("TERM", "xterm");
        let no = ("NO_COLOR", "1");
        let force = ("CLICOLOR_FORCE", "1");
        assert!(!colours(true, Auto, &[xterm, no]));
        assert!(colours(true, Auto, &[xterm, ("NO_COLOR", "")]));
        assert!(colours(false, Auto, &[force]));
        assert!(!colours(false, Auto, &[("CLICOLOR_FORCE", "0")]));
        assert!(!colours(true, Auto, &[xterm, no, force]));
        assert!(colours(false, Always, &[no]));
        assert!(!colours(true, Never, &[xterm, force]));
    }

    #[test]
    fn lines_are_drawn_over_on_terminals_whatever_their_colour() {
        use ColorChoice::{Always, Never};
        assert!(look(true, Never, &[("TERM", "xterm")]).live);
        assert!(!look(true, Always, &[("TERM", "dumb")]).live);
        assert!(!look(false, Always, &[("TERM", "xterm")]).live);
    }
}
