//! Entries with fields for systemd's journal, in journald's native protocol
//! (`systemd.io/JOURNAL_NATIVE_PROTOCOL`): one datagram per entry.
//!
//! Sending never waits and never fails. If journald is down or cannot accept an entry at
//! once, the entry is lost.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use crate::sys::printable::printable;

pub const SOCKET: &str = "/run/systemd/journal/socket";

/// The maximum number of bytes of one value. About fifty fields of this size fit into a
/// datagram. digestfix would have to pass a larger entry as a file.
const MAX_VALUE: usize = 4096;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Entry {
    bytes: Vec<u8>,
}

impl Entry {
    /// Adds a field of one line. A name consists of capital letters, digits and
    /// underscores (`systemd.journal-fields(7)`).
    pub fn field(&mut self, name: &str, value: &str) {
        self.add(name, &printable(value));
    }

    /// Adds a field that contains each text in a separate line. Adds no field if there
    /// are no texts.
    pub fn lines<T: AsRef<str>>(&mut self, name: &str, lines: impl IntoIterator<Item = T>) {
        let lines = lines.into_iter();
        let lines: Vec<String> = lines
            .map(|line| printable(line.as_ref()).into_owned())
            .collect();
        if !lines.is_empty() {
            self.add(name, &lines.join("\n"));
        }
    }

    fn add(&mut self, name: &str, value: &str) {
        let value = shortened(value);
        self.bytes.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            // The form `NAME=VALUE` ends at a line break. So use the other form, which
            // gives the length of the value.
            self.bytes.push(b'\n');
            let length = value.len() as u64;
            self.bytes.extend_from_slice(&length.to_le_bytes());
        } else {
            self.bytes.push(b'=');
        }
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(b'\n');
    }
}

fn shortened(value: &str) -> String {
    if value.len() <= MAX_VALUE {
        return value.to_owned();
    }
    let mut end = MAX_VALUE - '…'.len_utf8();
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &value[..end])
}

/// A connection to journald.
#[derive(Debug)]
pub struct Journald {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Journald {
    /// A connection to the journald that listens at `path`. Does not open it yet.
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            socket: None,
        }
    }

    /// Sends an entry if journald can accept it at once. Returns whether it was sent.
    pub fn send(&mut self, entry: &Entry) -> bool {
        match self.try_send(&entry.bytes) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!("{}: {error}", self.path.display());
                false
            }
        }
    }

    fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket
            }
        };
        // Name the path in each call, because journald may have restarted.
        self.socket
            .insert(socket)
            .send_to(bytes, &self.path)
            .map(|_| ())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn entry(fields: &[(&str, &str)]) -> Entry {
        let mut entry = Entry::default();
        for (name, value) in fields {
            entry.field(name, value);
        }
        entry
    }

    #[test]
    fn a_line_is_text_and_several_are_counted() {
        let mut entry = entry(&[("MESSAGE", "a=b")]);
        entry.lines("X", ["one", "two"]);
        entry.lines("Z", [""; 0]);
        entry.field("Y", "");
        assert_eq!(
            entry.bytes,
            b"MESSAGE=a=b\nX\n\x07\0\0\0\0\0\0\0one\ntwo\nY=\n"
        );
    }

    #[test]
    fn a_value_cannot_become_a_field() {
        let mut entry = entry(&[("A", "x\nPRIORITY=0")]);
        entry.lines("B", ["y\nPRIORITY=0", "z"]);
        assert_eq!(
            entry.bytes,
            b"A=x\\nPRIORITY=0\nB\n\x0f\0\0\0\0\0\0\0y\\nPRIORITY=0\nz\n"
        );
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let entry = entry(&[("A", &"é".repeat(MAX_VALUE))]);
        let text = String::from_utf8(entry.bytes).unwrap();
        assert!(text.len() <= MAX_VALUE + "A=\n".len());
        assert!(text.ends_with("é…\n"));
    }

    #[test]
    fn it_arrives_also_after_journald_was_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let mut journald = Journald::at(&path);
        let entry = entry(&[("MESSAGE", "here")]);
        assert!(!journald.send(&entry), "there is no journald");
        for _ in 0..2 {
            let receiver = UnixDatagram::bind(&path).unwrap();
            assert!(journald.send(&entry));
            let mut bytes = [0; 64];
            let length = receiver.recv(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"MESSAGE=here\n");
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_journald_that_does_not_read_holds_nothing_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _unread = UnixDatagram::bind(&path).unwrap();
        let (done, waits) = mpsc::channel();
        thread::spawn(move || {
            let mut journald = Journald::at(&path);
            let entry = entry(&[("MESSAGE", &"x".repeat(MAX_VALUE))]);
            let refused = (0..100_000).any(|_| !journald.send(&entry));
            done.send(refused)
        });
        assert_eq!(waits.recv_timeout(Duration::from_secs(20)), Ok(true));
    }
}
