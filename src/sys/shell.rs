//! Quotes the words of commands that messages tell the user to type.

use std::path::Path;

use crate::sys::printable::is_printable;

/// Quotes a word if it contains a character that is special to a shell, so that a shell
/// reads the word unchanged. Uses bash's `$'…'` to escape a character that must not be
/// shown.
pub fn word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./:@%+=,-".contains(&byte);
    if !text.is_empty() && text.bytes().all(is_plain) {
        return text.to_owned();
    }
    if text.chars().all(is_printable) {
        return format!("'{}'", text.replace('\'', r"'\''"));
    }
    let mut quoted = "$'".to_owned();
    for character in text.chars() {
        match character {
            '\'' | '\\' => quoted.extend(['\\', character]),
            _ if is_printable(character) => quoted.push(character),
            _ => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    quoted.push_str(&format!("\\x{byte:02x}"));
                }
            }
        }
    }
    quoted + "'"
}

/// Like [`word`], for a path.
pub fn path(path: &Path) -> String {
    word(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::process::Command;

    use super::*;

    #[test]
    fn a_plain_word_stays_as_it_is() {
        for plain in [
            "/var/lib/docker",
            "a:1@sha256:0f",
            "--x=y",
            "docker@1.service",
        ] {
            assert_eq!(word(plain), plain);
        }
        assert_eq!(word("a b"), "'a b'");
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(word("a\n\u{202e}"), r"$'a\x0a\xe2\x80\xae'");
        assert_eq!(path(Path::new("/x y")), "'/x y'");
    }

    #[test]
    fn a_shell_reads_each_back() {
        for odd in [
            "",
            " ",
            "a b",
            "it's",
            "$HOME",
            "`id`",
            "~",
            "a\\b",
            "\"",
            "*",
            "a\nb",
            "'\u{1b}[2J\\'",
            "\u{202e}é影",
            "!x",
            "#",
            "a;b",
            "-n",
            "a|b",
            "x\u{9b}1",
        ] {
            let script = format!("printf '%s' {}", word(odd));
            let said = Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), odd, "{script}");
        }
    }
}
