//! `/etc/hosts` (`hosts(5)`) with other addresses for some names, and without
//! them again.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::history::is_id;
use crate::plain_file;

/// The file.
pub const HOSTS: &str = "/etc/hosts";

/// What is read of a copy at most, in bytes: a container may write to its own,
/// whatever it likes.
const MAX_COPY: u64 = 1024 * 1024;

/// What is before the transaction's ID in a line of its own.
const MARK: &str = "# digestfix ";

/// The text with a line for each name at its end. Each line is marked with the
/// transaction's ID.
#[must_use]
pub fn with_names(text: &[u8], address: Ipv4Addr, names: &[String], id: &str) -> Vec<u8> {
    let mut edited = text.to_owned();
    if !edited.is_empty() && !edited.ends_with(b"\n") {
        edited.push(b'\n');
    }
    for name in names {
        edited.extend(format!("{address}\t{name}\t{}\n", mark(id)).into_bytes());
    }
    edited
}

/// The text without the lines that [`with_names`] has added.
#[must_use]
pub fn without_names(text: &[u8], id: &str) -> Vec<u8> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !is_marked(line, id))
        .flatten()
        .copied()
        .collect()
}

/// Some line is one that [`with_names`] has added.
#[must_use]
pub fn has_names(text: &[u8], id: &str) -> bool {
    text.split(|byte| *byte == b'\n')
        .any(|line| is_marked(line, id))
}

/// The lines that [`with_names`] has added, of whichever transaction.
#[must_use]
pub fn added_lines(text: &[u8]) -> Vec<String> {
    let lines = text
        .split(|byte| *byte == b'\n')
        .map(String::from_utf8_lossy);
    let is_added = |line: &str| {
        line.rsplit_once(MARK)
            .is_some_and(|(_, id)| is_id(id.trim_end()))
    };
    lines
        .filter(|line| is_added(line))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// The copies that have lines of this transaction: a container on the host's own
/// network gets one at each start (libnetwork `sandbox_dns_unix.go`,
/// `buildHostsFile`).
#[must_use]
pub fn copies(data_root: &Path, id: &str) -> Vec<String> {
    let containers = fs::read_dir(data_root.join("containers"));
    let copies = containers.into_iter().flatten().flatten().map(|container| {
        let copy = container.path().join("hosts");
        (copy, container.file_name())
    });
    copies
        .filter(|(copy, _)| plain_file::read(copy, MAX_COPY).is_ok_and(|text| has_names(&text, id)))
        .map(|(_, container)| container.to_string_lossy().chars().take(12).collect())
        .collect()
}

/// What the lines of this transaction end with.
#[must_use]
pub fn mark(id: &str) -> String {
    format!("{MARK}{id}")
}

fn is_marked(line: &[u8], id: &str) -> bool {
    line.trim_ascii_end().ends_with(mark(id).as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use super::*;

    #[test]
    fn a_containers_copy_is_found() {
        let root = tempfile::tempdir().unwrap();
        let names = ["quay.io".to_owned()];
        for (container, text) in [
            (
                "0123456789abcdef",
                with_names(b"", Ipv4Addr::LOCALHOST, &names, "x"),
            ),
            (
                "1123456789abcdef",
                with_names(b"", Ipv4Addr::LOCALHOST, &names, "y"),
            ),
            ("2123456789abcdef", b"127.0.0.1 localhost\n".to_vec()),
        ] {
            let directory = root.path().join("containers").join(container);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("hosts"), text).unwrap();
        }
        assert_eq!(copies(root.path(), "x"), ["0123456789ab"]);
    }

    #[test]
    fn what_is_added_goes_again_and_nothing_else() {
        let names = ["quay.io".to_owned(), "registry.example".to_owned()];
        for text in [
            "",
            "127.0.0.1 localhost\n",
            "# \u{e9}\n\n::1 a b # digestfix x",
            "a\r\nb\r\n",
        ] {
            let edited = with_names(text.as_bytes(), Ipv4Addr::LOCALHOST, &names, "x-1");
            assert!(has_names(&edited, "x-1") && !has_names(&edited, "x-12"));
            assert!(!has_names(text.as_bytes(), "x-1"));
            let lines = "127.0.0.1\tquay.io\t# digestfix x-1\n127.0.0.1\tregistry.example\t# digestfix x-1\n";
            assert!(edited.ends_with(lines.as_bytes()));
            let added = ["quay.io", "registry.example"]
                .map(|name| format!("127.0.0.1 {name} # digestfix x-1"));
            assert!(added_lines(&edited).ends_with(&added));
            let without = without_names(&edited, "x-1");
            assert_eq!(
                without.strip_suffix(b"\n").unwrap_or(&without),
                text.trim_end_matches('\n').as_bytes()
            );
            let more = [edited.as_slice(), b"10.0.0.1 new\n"].concat();
            assert!(without_names(&more, "x-1").ends_with(b"10.0.0.1 new\n"));
        }
    }
}
