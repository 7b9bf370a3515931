//! Output streams of this process.

use std::env;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::termios::{tcgetpgrp, tcgetwinsize};

use super::screen::{Stream, Streams};

/// The delay before the next attempt to write to a non-blocking stream that is full.
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// Standard output and standard error.
pub(super) struct Process;

impl Streams for Process {
    fn write(&mut self, to: Stream, text: &[u8]) -> io::Result<()> {
        match to {
            Stream::Stdout => write(&io::stdout(), text),
            Stream::Stderr => write(&io::stderr(), text),
        }
    }

    fn columns(&self, on: Stream) -> Option<usize> {
        match on {
            Stream::Stdout => foreground_columns(io::stdout()),
            Stream::Stderr => foreground_columns(io::stderr()),
        }
    }
}

/// The width of the terminal on standard output, in columns. `None` if unknown.
pub fn columns() -> Option<usize> {
    let said = || env::var("COLUMNS").ok()?.parse().ok();
    columns_of(io::stdout()).or_else(|| said().filter(|columns| *columns > 0))
}

fn columns_of(terminal: impl AsFd) -> Option<usize> {
    let size = tcgetwinsize(terminal).ok()?;
    Some(size.ws_col.into()).filter(|columns| *columns > 0)
}

fn foreground_columns(terminal: impl AsFd) -> Option<usize> {
    // If the terminal does not report its foreground process group, assume that it is
    // this process's group.
    let of_others = tcgetpgrp(&terminal).is_ok_and(|group| group != getpgrp());
    if of_others {
        None
    } else {
        columns_of(terminal)
    }
}

/// Whether standard output is a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Writes binary data to standard output.
pub fn write_bytes(bytes: &[u8]) -> io::Result<()> {
    write(&io::stdout(), bytes)
}

/// Writes without the buffer of [`io::Stdout`], because [`io::Stdout`] would hold its
/// lock while a write waits for a slow reader.
fn write(stream: &impl AsFd, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        match rustix::io::write(stream, text) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => text = text.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // Another process that shares the stream has set O_NONBLOCK on it.
            Err(Errno::AGAIN) => thread::sleep(TRY_AGAIN),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::io::{Read, pipe};

    use rustix::io::ioctl_fionbio;

    use super::*;

    #[test]
    fn a_stream_that_does_not_wait_loses_nothing() {
        let (mut reader, writer) = pipe().unwrap();
        ioctl_fionbio(&writer, true).unwrap();
        // More text than a pipe can hold.
        let text = "a line\n".repeat(100_000);
        let written = text.clone();
        let writing = thread::spawn(move || write(&writer, written.as_bytes()));
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        writing.join().unwrap().unwrap();
        assert!(read == text);
    }

    #[test]
    fn a_reader_who_is_gone_is_told_of() {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        let error = write(&writer, b"a line\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
