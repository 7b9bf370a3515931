//! Texts whose lines contain one name and one digest: lists in two columns, scripts,
//! `.env` files, logs, and the output of `docker pull` and `docker push`.
//!
//! If the name and the digest are two words, digestfix combines them only if the line has
//! no other possible meaning. The name must have a tag, and the line must be short.

use crate::claims::row::{
    MOST_COLUMNS, Row, is_digest, pin, row, with_digest, without_scheme, words,
};
use crate::claims::source::Problem;
use crate::claims::source::collected::Collected;
use crate::image::reference::Reference;

/// The texts that `docker pull` and `docker push` print before a name.
const PULLED: [&str; 2] = [
    "Status: Downloaded newer image for ",
    "Status: Image is up to date for ",
];
const PUSHED: &str = "The push refers to repository [";

/// A line that cannot be right, and the reason.
pub(super) struct Misfit {
    pub line: usize,
    pub text: String,
}

/// Whether the text contains output of `docker pull` or `docker push`.
pub(super) fn is_console(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.trim();
        PULLED.iter().any(|begin| line.starts_with(begin))
            || line.starts_with(PUSHED)
            || line.split_whitespace().nth(1) == Some("digest:")
    }) && text.contains("igest: sha256:")
}

/// The state while reading the output of `docker pull` or `docker push`.
#[derive(Default)]
struct Console<'a> {
    /// `docker pull` prints the digest first, then the name.
    digest: Option<(&'a str, usize)>,
    /// `docker push` prints the repository first, then each tag with its digest.
    repository: Option<&'a str>,
}

/// Reads the claims in a text line by line. Rejects the whole text if a word looks like a
/// reference with a digest, but is invalid.
pub(super) fn read(
    text: &str,
    place: &str,
    collected: &mut Collected,
) -> Result<Option<Misfit>, Problem> {
    let lines = || text.lines().enumerate().map(|(at, line)| (at + 1, line));
    for (number, line) in lines().filter(|(_, line)| line.contains("@sha256:")) {
        let broken = words(code(line)).find(|word| is_broken_pin(word));
        if let Some(word) = broken {
            return Ok(Some(Misfit {
                line: number,
                text: Reference::parse(without_scheme(word))
                    .map_or_else(|error| error.to_string(), |_| word.to_owned()),
            }));
        }
    }
    let is_of_yaml = |(_, line): &(usize, &str)| is_entry(line);
    if let Some((line, _)) = lines()
        .filter(|(_, line)| line.contains("@sha256:"))
        .find(is_of_yaml)
    {
        return Ok(Some(Misfit {
            line,
            text: "this line is YAML".to_owned(),
        }));
    }
    let mut console = Console::default();
    let mut unnamed = Vec::new();
    for (number, line) in lines() {
        let line = line.trim();
        if console.read(line, number, place, collected)? || !line.contains("sha256:") {
            continue;
        }
        if !of_words(code(line), number, place, collected)? {
            unnamed.push(number);
        }
    }
    unnamed.extend(console.digest.map(|(_, number)| number));
    collected.unnamed(place, &unnamed);
    Ok(None)
}

impl<'a> Console<'a> {
    /// Reads a line that `docker pull` or `docker push` printed. Returns false for any
    /// other line.
    fn read(
        &mut self,
        line: &'a str,
        number: usize,
        place: &str,
        collected: &mut Collected,
    ) -> Result<bool, Problem> {
        if let Some(digest) = line.strip_prefix("Digest: ").filter(|text| is_digest(text)) {
            self.digest = Some((digest, number));
            return Ok(true);
        }
        if let Some(name) = PULLED.iter().find_map(|begin| line.strip_prefix(begin)) {
            if let Some((digest, number)) = self.digest.take() {
                let row = Row {
                    name,
                    digest,
                    ..Row::default()
                };
                collected.row(&row, place, Some(number))?;
            }
            return Ok(true);
        }
        if let Some(rest) = line.strip_prefix(PUSHED) {
            self.repository = rest.strip_suffix(']');
            return Ok(true);
        }
        let words: Vec<&str> = line.split_whitespace().take(6).collect();
        if let [tag, "digest:", digest, "size:", _] = words.as_slice()
            && let (Some(tag), Some(name)) = (tag.strip_suffix(':'), self.repository)
        {
            let row = Row {
                name,
                tag,
                digest,
                ..Row::default()
            };
            return collected.row(&row, place, Some(number));
        }
        Ok(false)
    }
}

/// Adds the claims of one line. Returns false if the line has a digest without a name.
fn of_words(
    line: &str,
    number: usize,
    place: &str,
    collected: &mut Collected,
) -> Result<bool, Problem> {
    let first: Vec<&str> = words(line).take(MOST_COLUMNS + 1).collect();
    let apart = line.contains(['\t', ',', ';', '|']) || line.contains("  ");
    if let Some(row) = row(&first, apart) {
        return collected.row(&row, place, Some(number));
    }
    let mut any = false;
    let at = format!("{place}:{number}");
    for pin in words(line).filter_map(pin) {
        any = true;
        collected.pin(&pin, &at)?;
    }
    if !any {
        return Ok(!words(line).any(is_digest));
    }
    // A line of oc-mirror's mapping file: the image in the original registry, and the
    // name of the copy in the mirror.
    if let [source, mirror] = first.as_slice()
        && line.contains('=')
        && let Some(pin) = pin(source)
        && let Ok(mirror) = Reference::parse(mirror)
        && mirror.tag().is_some()
        && let Some(digest) = pin.digest()
        && mirror.digest().is_none()
    {
        collected.pin(&with_digest(&mirror, digest), &at)?;
    }
    Ok(true)
}

/// Whether a word looks like a reference with a digest, but the digest is too long or too
/// short.
fn is_broken_pin(word: &str) -> bool {
    let Some((_, hex)) = word.split_once("@sha256:") else {
        return false;
    };
    pin(word).is_none() && !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Whether a reference on this line is a YAML value or list item. If so, the text is YAML
/// with a syntax error in another line.
fn is_entry(line: &str) -> bool {
    let entry = line.trim().trim_start_matches("- ");
    let value = match entry.split_once(": ") {
        Some((key, value)) if !key.contains(char::is_whitespace) => value,
        _ if entry != line.trim() => entry,
        _ => return false,
    };
    pin(value.trim_matches(['"', '\'', ' ', ']', '}'])).is_some()
}

/// Removes the comment at the end of a line. Empty if the whole line is a comment.
fn code(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with('#') || line.starts_with("//") {
        return "";
    }
    line.split(" #").next().unwrap_or_default()
}
