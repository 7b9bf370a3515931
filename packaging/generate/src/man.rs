//! One page for digestfix and one for each of its commands, from what the
//! command line is made of. A directory has what goes beyond that: the files
//! `digestfix.roff` and `digestfix-COMMAND.roff` become part of their pages.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use digestfix::Cli;

/// Between what is said of claims and the exit codes in a command's help.
const EXIT_CODES: &str = "Exit codes:";

/// Where pages come from and go to.
struct Places<'a> {
    sections: &'a Path,
    dir: &'a Path,
    date: &'a str,
}

/// Writes the pages into a directory, as of a date (`YYYY-MM-DD`).
pub fn write(sections: &Path, dir: &Path, date: &str) -> io::Result<()> {
    let places = Places {
        sections,
        dir,
        date,
    };
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    let commands: Vec<Command> = root
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .cloned()
        .collect();
    let pages: Vec<String> = commands.iter().map(name).collect();
    write_page(&root, &pages, &places)?;
    for command in &commands {
        write_page(command, &[name(&root)], &places)?;
    }
    Ok(())
}

fn name(command: &Command) -> String {
    let name = command.get_display_name();
    name.unwrap_or_else(|| command.get_name()).to_owned()
}

fn write_page(command: &Command, others: &[String], places: &Places) -> io::Result<()> {
    let page = name(command);
    let version = Cli::command().get_version().unwrap_or_default().to_owned();
    let man = Man::new(command.clone())
        .title(page.to_uppercase())
        .section("8")
        .date(places.date)
        .source(format!("digestfix {version}"))
        .manual("System Administration");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        commands(command, &mut text)?;
    }
    let help = command.get_after_help().map(ToString::to_string);
    let help = help.unwrap_or_default();
    let (claims, codes) = help.split_once(EXIT_CODES).unwrap_or((&help, ""));
    if !claims.trim().is_empty() {
        verbatim("CLAIMS", claims, &mut text)?;
    }
    match fs::read(places.sections.join(format!("{page}.roff"))) {
        Ok(more) => text.extend(more),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if !codes.is_empty() {
        exit_status(codes, &mut text)?;
    }
    see_also(others, &mut text)?;
    fs::write(places.dir.join(format!("{page}.8")), text)
}

fn commands(root: &Command, text: &mut impl Write) -> io::Result<()> {
    writeln!(text, ".SH COMMANDS")?;
    for command in root.get_subcommands().filter(|one| !one.is_hide_set()) {
        let about = command.get_about().map(ToString::to_string);
        let about = about.unwrap_or_default().replace('\n', " ");
        writeln!(text, ".TP\n.BR {} (8)", escaped(&name(command)))?;
        writeln!(text, "{}", escaped(&about))?;
    }
    Ok(())
}

fn verbatim(heading: &str, lines: &str, text: &mut impl Write) -> io::Result<()> {
    writeln!(text, ".SH {heading}\n.nf")?;
    for line in lines.trim().lines() {
        writeln!(text, "{}", escaped(line))?;
    }
    writeln!(text, ".fi")
}

fn exit_status(codes: &str, text: &mut impl Write) -> io::Result<()> {
    writeln!(text, ".SH EXIT STATUS")?;
    for line in codes.trim().lines() {
        if let Some((code, meaning)) = line.trim().split_once("  ") {
            writeln!(text, ".TP\n.B {code}\n{}", escaped(meaning.trim()))?;
        }
    }
    Ok(())
}

fn see_also(others: &[String], text: &mut impl Write) -> io::Result<()> {
    writeln!(text, ".SH SEE ALSO")?;
    for other in others {
        writeln!(text, ".BR {} (8),", escaped(other))?;
    }
    writeln!(
        text,
        ".BR digestfix\\-claims (5),\n.BR digestfix\\-security (7),\n.BR dockerd (8)"
    )
}

/// What roff would take for its own: a backslash, a hyphen that is to stay one,
/// and a control character where a line begins.
fn escaped(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    if line.starts_with(['.', '\'']) {
        format!("\\&{line}")
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roff_takes_nothing_for_its_own() {
        assert_eq!(escaped(".TH x"), "\\&.TH x");
        assert_eq!(escaped("a\\b --c"), "a\\eb \\-\\-c");
    }
}
