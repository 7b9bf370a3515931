//! Assignments: `KEY = "VALUE"` below `[SECTION]`, as in TOML and INI files. digestfix
//! treats each section like one JSON object.
//!
//! digestfix reads only string values that stand on one line, and skips other values.

use crate::claims::source::Problem;
use crate::claims::source::collected::Collected;
use crate::claims::source::fields::Objects;

/// Whether the text looks like TOML or INI: sections, assignments, comments and lists,
/// but no other lines.
pub(super) fn fits(text: &str) -> bool {
    let mut sections = 0_usize;
    let mut assigned = 0_usize;
    for line in text.lines().map(str::trim) {
        match line {
            _ if is_section(line) => sections += 1,
            _ if assignment(line).is_some() => assigned += 1,
            "" | "]" | "}" => {}
            _ if line.starts_with(['#', ';', '"', '\'']) => {}
            _ => return false,
        }
    }
    sections > 0 && assigned > 0
}

/// Reads each section like a JSON object.
pub(super) fn read(text: &str, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    let mut objects = Objects::new(place, collected);
    objects.begin_object(None);
    for (at, line) in text.lines().map(str::trim).enumerate() {
        if is_section(line) {
            objects.end()?;
            let name = line.trim_matches(['[', ']']).trim();
            objects.begin_object(name.rsplit('.').next());
        } else if let Some((key, value)) = assignment(line)
            && let Some(value) = string(value)
        {
            objects.text(Some(key), value, Some(at + 1))?;
        }
    }
    objects.end()?;
    objects.finish();
    Ok(())
}

fn is_section(line: &str) -> bool {
    let line = line.split(" #").next().unwrap_or_default().trim_end();
    let name = line
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    name.is_some_and(|name| !name.is_empty() && !name.contains(['"', ',', ' ']))
}

fn assignment(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim().trim_matches('"');
    let is_key = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (!key.is_empty() && key.bytes().all(is_key)).then_some((key, value.trim()))
}

/// The text of a value, without its quotes. `None` if the value has no quotes and is more
/// than one word.
fn string(value: &str) -> Option<&str> {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            let (text, rest) = rest.split_once(quote)?;
            let rest = rest.trim_start();
            return (rest.is_empty() || rest.starts_with('#')).then_some(text);
        }
    }
    let is_word = !value.is_empty() && !value.contains([' ', '[', '{', '"', '\'']);
    is_word.then_some(value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    const D: &str = "sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";

    fn claimed(text: &str) -> Vec<String> {
        let text = text.replace('%', D);
        assert!(fits(&text), "{text}");
        let mut collected = Collected::new(&[]);
        read(&text, "F", &mut collected).unwrap();
        let claims = collected.claims.iter();
        claims
            .map(|claim| claim.to_string().replace(D, "%"))
            .collect()
    }

    #[test]
    fn a_section_joins_what_is_in_it_alone() {
        for (text, expected) in [
            (
                "[[images]]\nname = \"a:1\"\ndigest = '%' # c\n",
                &["a:1@% (F:2)"][..],
            ),
            ("[a.image]\nname = a\ndigest = %\n", &["a@% (F:2)"]),
            ("[x]\nref = \"a:1@%\"\n", &["a:1@% (F:2)"]),
            ("[x]\nrepository = \"r.io/a\"\n[y]\ndigest = \"%\"\n", &[]),
            (
                "[package]\nname = \"serde\"\nversion = \"1\"\ndigest = \"%\"\n",
                &[],
            ),
        ] {
            assert_eq!(claimed(text), expected, "{text}");
        }
    }

    #[test]
    fn other_texts_do_not_fit() {
        for text in [
            "a: b\n",
            "[1, 2]\n",
            "[INFO] pulled a:1\n",
            "x = 1\n",
            "[a]\n",
        ] {
            assert!(!fits(text), "{text}");
        }
    }
}
