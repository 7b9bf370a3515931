//! Screen: lines of text and, on a terminal, the current step below the lines.
//!
//! The step is redrawn in place, and erased before anything else is written. So the lines
//! on a terminal are the same as in a file.

use std::io;
use std::time::Instant;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The stream for a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Where texts are written.
pub(super) trait Streams {
    /// Writes a whole text, no matter how long that takes.
    fn write(&mut self, to: Stream, text: &[u8]) -> io::Result<()>;
    /// The width of the stream's terminal, in columns. `None` if the stream is not a
    /// terminal, or this process is in the background.
    fn columns(&self, on: Stream) -> Option<usize>;
}

const TURNS: [char; 4] = ['|', '/', '-', '\\'];

/// The control sequence that goes to the beginning of the line, and clears it.
const ERASE: &str = "\r\u{1b}[K";

/// The column at which the text of a finished step begins.
const INDENT: usize = 12;

struct Doing {
    on: Stream,
    what: String,
    since: Instant,
}

/// The streams, and the step that is shown on them.
pub(super) struct Screen<S> {
    streams: S,
    doing: Option<Doing>,
    drawn: Option<Stream>,
    turn: usize,
}

impl<S: Streams> Screen<S> {
    pub const fn new(streams: S) -> Self {
        Self {
            streams,
            doing: None,
            drawn: None,
            turn: 0,
        }
    }

    pub fn write(&mut self, to: Stream, text: &str) -> io::Result<()> {
        self.erase();
        self.streams.write(to, text.as_bytes())
    }

    pub fn begin(&mut self, on: Stream, what: String, since: Instant) {
        self.doing = Some(Doing { on, what, since });
    }

    pub fn end(&mut self) {
        self.erase();
        self.doing = None;
    }

    /// Whether there is a step to be redrawn.
    pub const fn is_live(&self) -> bool {
        self.doing.is_some()
    }

    pub fn draw(&mut self, now: Instant) {
        let Some(doing) = &self.doing else {
            return;
        };
        let on = doing.on;
        let Some(columns) = self.streams.columns(on) else {
            return;
        };
        let turn = TURNS[self.turn % TURNS.len()];
        let seconds = now.saturating_duration_since(doing.since).as_secs_f64();
        let time = format!("  {seconds:.1} s");
        // A line that reaches the last column would continue in the next line.
        let room = columns.saturating_sub(INDENT + time.width() + 1);
        let what = beginning(&doing.what, room);
        let line = format!("{ERASE}{turn:>8}    {what}{time}");
        self.turn += 1;
        self.drawn = Some(on);
        let _ = self.streams.write(on, line.as_bytes());
    }

    fn erase(&mut self) {
        if let Some(on) = self.drawn.take() {
            let _ = self.streams.write(on, ERASE.as_bytes());
        }
    }
}

/// The beginning of a text, limited to this width.
fn beginning(text: &str, room: usize) -> &str {
    let mut taken = 0;
    let end = text.char_indices().find(|(_, character)| {
        taken += character.width().unwrap_or_default();
        taken > room
    });
    match end {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Paper {
        columns: Option<usize>,
        written: String,
    }

    impl Streams for &mut Paper {
        fn write(&mut self, to: Stream, text: &[u8]) -> io::Result<()> {
            if to == Stream::Stderr {
                self.written.push_str("stderr: ");
            }
            self.written.push_str(std::str::from_utf8(text).unwrap());
            Ok(())
        }

        fn columns(&self, _: Stream) -> Option<usize> {
            self.columns
        }
    }

    /// The output for a step that is drawn twice, with a warning between the two
    /// drawings.
    fn drawn(columns: Option<usize>) -> String {
        let mut paper = Paper {
            columns,
            written: String::new(),
        };
        let mut screen = Screen::new(&mut paper);
        let began = Instant::now();
        screen.begin(Stream::Stdout, "stopping docker.service".to_owned(), began);
        screen.draw(began + Duration::from_millis(100));
        screen.write(Stream::Stderr, "warning\n").unwrap();
        screen.draw(began + Duration::from_millis(3240));
        screen.end();
        screen.write(Stream::Stdout, "stopped\n").unwrap();
        screen.draw(began + Duration::from_secs(9));
        paper.written
    }

    #[test]
    fn a_step_is_drawn_and_makes_way_for_lines() {
        assert_eq!(
            drawn(Some(80)),
            "\r\u{1b}[K       |    stopping docker.service  0.1 s\
             \r\u{1b}[Kstderr: warning\n\
             \r\u{1b}[K       /    stopping docker.service  3.2 s\
             \r\u{1b}[Kstopped\n"
        );
    }

    #[test]
    fn it_stays_on_one_line() {
        for columns in 1..60 {
            let drawn = drawn(Some(columns));
            let frames = drawn.split("\r\u{1b}[K").filter(|one| one.contains(" s"));
            for frame in frames.filter(|frame| !frame.ends_with('\n')) {
                // Even if the screen is narrower, a frame contains the indentation and
                // the duration.
                let least = INDENT + "  3.2 s".len();
                assert!(frame.width() < columns.max(least + 1), "{frame:?}");
            }
        }
        assert_eq!(beginning("影の箱", 5), "影の");
    }

    #[test]
    fn without_a_terminal_there_are_only_lines() {
        assert_eq!(drawn(None), "stderr: warning\nstopped\n");
    }
}
