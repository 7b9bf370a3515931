//! References with digests in files that people write: Kubernetes manifests, compose
//! files, Dockerfiles, plain lists.
//!
//! digestfix uses a string only if the whole string is a reference with a digest. It
//! ignores comments and keys.

use std::collections::BTreeMap;

use parse_dockerfile::Instruction;
use saphyr_parser::{Event, Parser};

use crate::claims::row::pinned;
use crate::claims::source::Problem;
use crate::claims::source::collected::Collected;
use crate::claims::source::fields::Objects;
use crate::image::reference::{Reference, ReferenceError};

/// The deepest nesting of a YAML document that digestfix reads.
pub const MAX_YAML_DEPTH: usize = 1_000;

/// The longest default value of an `ARG` in a Dockerfile that digestfix uses, in bytes.
/// References are shorter.
const LONGEST_ARG: usize = 1_024;

/// Reads the objects in YAML documents. Fails, and adds nothing, if the text is not YAML
/// or is nested too deeply.
pub fn read_yaml(text: &str, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    walk_yaml(text, None)?;
    let mut objects = Objects::new(place, collected);
    walk_yaml(text, Some(&mut objects))?;
    objects.finish();
    Ok(())
}

fn walk_yaml(text: &str, mut objects: Option<&mut Objects>) -> Result<(), Problem> {
    /// The parser's position in the YAML document: in a list, or at a key or a value of a
    /// mapping.
    enum Within {
        List,
        Key,
        Value(Option<String>),
    }
    /// Moves on in a YAML mapping: from a key to its value, or from a value to the next
    /// key.
    fn turn(open: &mut [Within], key: Option<&str>) {
        match open.last_mut() {
            Some(within @ Within::Key) => *within = Within::Value(key.map(str::to_owned)),
            Some(within @ Within::Value(_)) => *within = Within::Key,
            _ => {}
        }
    }
    fn key(open: &[Within]) -> Option<&str> {
        match open.last() {
            Some(Within::Value(key)) => key.as_deref(),
            _ => None,
        }
    }
    let mut open: Vec<Within> = Vec::new();
    let (mut words, mut collections) = (false, false);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Problem::Yaml(error.to_string()))?;
        match event {
            Event::Scalar(value, ..) => {
                let is_key = matches!(open.last(), Some(Within::Key));
                words |= open.is_empty() && !value.is_empty();
                if !is_key && let Some(objects) = &mut objects {
                    objects.text(key(&open), &value, Some(span.start.line()))?;
                }
                turn(&mut open, objects.is_some().then_some(&*value));
            }
            Event::Alias(_) => turn(&mut open, None),
            Event::SequenceStart(..) => {
                collections = true;
                if let Some(objects) = &mut objects {
                    objects.begin_list(key(&open));
                }
                open.push(Within::List);
            }
            Event::MappingStart(..) => {
                collections = true;
                if let Some(objects) = &mut objects {
                    objects.begin_object(key(&open));
                }
                open.push(Within::Key);
            }
            Event::SequenceEnd | Event::MappingEnd => {
                open.pop();
                if let Some(objects) = &mut objects {
                    objects.end()?;
                }
                turn(&mut open, None);
            }
            _ => {}
        }
        if open.len() > MAX_YAML_DEPTH {
            return Err(Problem::TooDeep {
                what: "YAML collections",
                limit: MAX_YAML_DEPTH,
            });
        }
    }
    // Prose is also valid YAML, namely one long string. Refuse it.
    if words && !collections {
        return Err(Problem::Yaml(
            "the text has neither a key nor a list".to_owned(),
        ));
    }
    Ok(())
}

/// The non-empty lines of a text, each with its number. `#` begins a comment.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let line = line.split('#').next().unwrap_or_default().trim();
        (!line.is_empty()).then_some((index + 1, line))
    })
}

/// The first line that is not a reference, and the reason. If there is no such line, the
/// text is a list of references.
pub(super) fn misfit(text: &str) -> Option<(usize, ReferenceError)> {
    // A YAML file is not a list of references, because `KEY:` is not a valid reference.
    lines(text).find_map(|(number, line)| Some((number, Reference::parse(line).err()?)))
}

/// Reads a list of references.
pub(super) fn read_list(text: &str, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    for (number, line) in lines(text) {
        match line.contains('@') {
            true => collected.pin(&Reference::parse(line)?, &format!("{place}:{number}"))?,
            false => collected.name(line),
        }
    }
    Ok(())
}

/// Whether the text begins like a Dockerfile, with `FROM` or `ARG`.
pub(super) fn is_dockerfile(text: &str) -> bool {
    let first = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with('#'));
    first
        .and_then(|line| line.split_ascii_whitespace().next())
        .is_some_and(|word| {
            ["FROM", "ARG"]
                .iter()
                .any(|name| word.eq_ignore_ascii_case(name))
        })
}

/// Reads the references with digests in a Dockerfile: base images (`FROM`) and images to
/// copy from (`COPY --from=`). In `FROM`, replaces variables by the defaults of the
/// `ARG`s before the first stage.
pub fn read_dockerfile(text: &str, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    let broken = |error: parse_dockerfile::Error| Problem::Dockerfile(error.to_string());
    let mut defaults: BTreeMap<String, String> = BTreeMap::new();
    let mut in_stage = false;
    let mut lines = Lines::of(text);
    for instruction in parse_dockerfile::parse_iter(text).map_err(broken)? {
        let (at, images) = match instruction.map_err(broken)? {
            Instruction::Arg(arg) if !in_stage => {
                for word in arg.arguments.value.split_ascii_whitespace() {
                    if let Some((name, value)) = word.split_once('=') {
                        let value = value.trim_matches(['"', '\'']);
                        let value = substituted(value, &defaults);
                        if value.len() <= LONGEST_ARG {
                            defaults.insert(name.to_owned(), value);
                        }
                    }
                }
                continue;
            }
            Instruction::From(from) => {
                in_stage = true;
                let image = substituted(&from.image.value, &defaults);
                (from.image.span.start, vec![image])
            }
            Instruction::Copy(copy) => {
                let images = copy
                    .options
                    .iter()
                    .filter(|flag| flag.name.value == "from")
                    .filter_map(|flag| flag.value.as_ref())
                    .map(|value| value.value.clone().into_owned())
                    .collect();
                (copy.copy.span.start, images)
            }
            _ => continue,
        };
        let line = lines.at(at);
        for image in images {
            if let Some(reference) = pinned(&image) {
                collected.pin(&reference, &format!("{place}:{line}"))?;
            }
        }
    }
    Ok(())
}

/// Replaces `$NAME`, `${NAME}` and `${NAME:-DEFAULT}`. Stops when the result is longer
/// than [`LONGEST_ARG`].
fn substituted(text: &str, defaults: &BTreeMap<String, String>) -> String {
    let mut whole = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$')
        && whole.len() <= LONGEST_ARG
    {
        whole.push_str(before);
        let is_of_a_name = |character: char| character == '_' || character.is_ascii_alphanumeric();
        let braced = after
            .strip_prefix('{')
            .and_then(|inner| inner.split_once('}'));
        let (inner, next) = braced.unwrap_or_else(|| {
            after.split_at(after.find(|c| !is_of_a_name(c)).unwrap_or(after.len()))
        });
        let (name, otherwise) = inner.split_once(":-").unwrap_or((inner, ""));
        let value = defaults.get(name).filter(|value| !value.is_empty());
        whole.push_str(value.map_or(otherwise, String::as_str));
        rest = next;
    }
    whole.push_str(rest);
    whole
}

/// Converts byte positions to line numbers. The positions must be in ascending order.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl<'a> Lines<'a> {
    const fn of(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            line: 1,
        }
    }

    fn at(&mut self, place: usize) -> usize {
        if let Some(between) = self.text.as_bytes().get(self.at..place) {
            self.line += between.iter().filter(|byte| **byte == b'\n').count();
            self.at = place;
        }
        self.line
    }
}
