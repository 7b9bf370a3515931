//! Values of settings in a unit file (`systemd.syntax(7)`).

use std::path::Path;

/// Formats a path for a setting that takes a list of paths. Quotes the path if systemd
/// would read it as several paths. Escapes `%`, with which systemd's specifiers begin.
pub fn path(path: &Path) -> String {
    let text = path.to_string_lossy().replace('%', "%%");
    let is_plain = |character: char| !character.is_whitespace() && !"\"'\\;#".contains(character);
    if text
        .chars()
        .all(|character| is_plain(character) && !character.is_control())
    {
        return text;
    }
    let mut quoted = "\"".to_owned();
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    quoted.push_str(&format!("\\x{byte:02x}"));
                }
            }
            _ => quoted.push(character),
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_as_it_is() {
        for (plain, setting) in [
            ("/home/docker", "/home/docker"),
            ("/a b", "\"/a b\""),
            ("/100%", "/100%%"),
            ("/it's \"q\" \\", "\"/it's \\\"q\\\" \\\\\""),
            ("/a\nb", "\"/a\\x0ab\""),
            ("/$x", "/$x"),
        ] {
            assert_eq!(path(Path::new(plain)), setting);
        }
    }
}
