//! Output: standard output and standard error, written by a separate thread.
//!
//! A writer may block without limit: on a terminal that the user has stopped with Ctrl-S,
//! on a full pipe, or on a slow connection. A run that has stopped Docker must not wait
//! for a reader, so this module only queues texts. The queue has no limit, because a full
//! queue would have to block or lose lines, and a run writes little. Both streams share
//! one queue, so their lines keep their order. At the end of the run, when the host is
//! consistent, digestfix waits until the queue is empty ([`Output::drained`]).
//!
//! [`Output::wait_for_nobody`] starts the thread. Every command calls this function.
//! Before the call, texts are written directly.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;
use tokio::sync::oneshot;

use crate::sys::printable::printable;

mod process;
mod screen;

use process::Process;
pub use process::{columns, is_terminal, write_bytes};
pub use screen::Stream;
use screen::{Screen, Streams};

/// The interval at which the current step is redrawn. A shorter step is not shown.
const REDRAW: Duration = Duration::from_millis(100);

enum Said {
    Text(Stream, String),
    Begin(Stream, String, Instant),
    End,
    Deliver(String, mpsc::Sender<io::Result<()>>),
    Drain(oneshot::Sender<()>),
}

/// Both streams of this process.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// The queue of the thread. Contains `None` if no thread could be started. In this
    /// case, digestfix writes texts directly and waits for readers. That is better than
    /// to leave a host in the middle of a change.
    queue: Arc<OnceLock<Option<Sender<Said>>>>,
}

impl Output {
    /// The output streams of this process.
    pub fn of_process() -> Self {
        static OUTPUT: OnceLock<Output> = OnceLock::new();
        OUTPUT.get_or_init(Self::default).clone()
    }

    /// Starts the thread. From then on, no writer waits for a reader.
    pub fn wait_for_nobody(&self) {
        self.queue_to(Process);
    }

    fn queue_to(&self, streams: impl Streams + Send + 'static) {
        self.queue.get_or_init(|| {
            let (queue, said) = mpsc::channel();
            let thread = thread::Builder::new().name("output".to_owned());
            let spawned = thread.spawn(move || write_all(&said, streams));
            spawned.is_ok().then_some(queue)
        });
    }

    fn say(&self, said: Said) {
        match self.queue.get().and_then(Option::as_ref) {
            Some(queue) => {
                // Sending to the queue cannot fail, because the thread ends only with the
                // process.
                let _ = queue.send(said);
            }
            None => tell(&mut Screen::new(Process), said),
        }
    }

    /// Writes a text. Ignores errors, because there is no other stream to report them to.
    pub fn write(&self, to: Stream, text: String) {
        self.say(Said::Text(to, text));
    }

    /// On a terminal, shows the step that begins now and its duration, until
    /// [`Self::end`].
    pub fn begin(&self, doing: String) {
        self.say(Said::Begin(Stream::Stdout, doing, Instant::now()));
    }

    /// Like [`Self::begin`], but on standard error, for an action that began at `since`.
    pub fn goes_on(&self, doing: String, since: Instant) {
        self.say(Said::Begin(Stream::Stderr, doing, since));
    }

    /// Ends the step that is being shown.
    pub fn end(&self) {
        self.say(Said::End);
    }

    /// Writes a text to standard output, and waits until it is written. Use this function
    /// for a text that is useless if it is incomplete.
    pub fn deliver(&self, text: String) -> io::Result<()> {
        let (sender, delivered) = mpsc::channel();
        self.say(Said::Deliver(text, sender));
        delivered.recv().map_err(io::Error::other)?
    }

    /// Waits until the queue is empty.
    pub async fn drained(&self) {
        let (sender, drained) = oneshot::channel();
        self.say(Said::Drain(sender));
        let _ = drained.await;
    }

    pub const fn log(self) -> Log {
        Log(self)
    }
}

/// Standard error, for logs.
#[derive(Debug)]
pub struct Log(Output);

/// Each call of `write` contains one log event, which ends with a line break.
impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let event = text.strip_suffix('\n').unwrap_or(&text);
        let line = printable(event).into_owned() + "\n";
        self.0.write(Stream::Stderr, line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The writing thread.
fn write_all(said: &Receiver<Said>, streams: impl Streams) {
    // Block signals: a background process that writes to its terminal may get SIGTTOU.
    // SIGTTOU would stop the whole process, and with it the restart of Docker.
    let _ = SigSet::all().thread_block();
    let mut screen = Screen::new(streams);
    loop {
        let next = if screen.is_live() {
            said.recv_timeout(REDRAW)
        } else {
            said.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match next {
            Ok(said) => tell(&mut screen, said),
            Err(RecvTimeoutError::Timeout) => screen.draw(Instant::now()),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn tell(screen: &mut Screen<impl Streams>, said: Said) {
    match said {
        Said::Text(to, text) => {
            let _ = screen.write(to, &text);
        }
        Said::Begin(on, doing, since) => screen.begin(on, doing, since),
        Said::End => screen.end(),
        Said::Deliver(text, delivered) => {
            let _ = delivered.send(screen.write(Stream::Stdout, &text));
        }
        Said::Drain(drained) => {
            let _ = drained.send(());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::TryRecvError;

    use super::*;

    /// A reader that accepts each text only when the test allows it.
    struct Stopped {
        written: Sender<(Stream, String)>,
        goes_on: Receiver<io::Result<()>>,
    }

    impl Streams for Stopped {
        fn write(&mut self, to: Stream, text: &[u8]) -> io::Result<()> {
            let next = self.goes_on.recv().map_err(io::Error::other)?;
            let text = String::from_utf8_lossy(text).into_owned();
            self.written.send((to, text)).map_err(io::Error::other)?;
            next
        }

        fn columns(&self, _: Stream) -> Option<usize> {
            None
        }
    }

    type Reader = (Sender<io::Result<()>>, Receiver<(Stream, String)>);

    fn stopped() -> (Output, Reader) {
        let (written, read) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        let output = Output::default();
        output.queue_to(Stopped { written, goes_on });
        (output, (go_on, read))
    }

    #[test]
    fn nobody_waits_for_a_reader_and_nothing_is_lost() {
        let (output, (go_on, read)) = stopped();
        let lines: Vec<(Stream, String)> = (0..10_000)
            .map(|number| match number % 3 {
                0 => (Stream::Stderr, format!("{number}\n")),
                _ => (Stream::Stdout, format!("{number}\n")),
            })
            .collect();
        for (to, text) in &lines {
            output.write(*to, text.clone());
        }
        assert_eq!(read.try_recv(), Err(TryRecvError::Empty));
        for line in lines {
            go_on.send(Ok(())).unwrap();
            assert_eq!(read.recv().unwrap(), line);
        }
    }

    #[tokio::test]
    async fn drained_is_when_the_last_line_is_written() {
        let (output, (go_on, read)) = stopped();
        output.write(Stream::Stdout, "last\n".to_owned());
        let drained = output.drained();
        tokio::pin!(drained);
        tokio::select! {
            biased;
            () = &mut drained => panic!("it is not written"),
            () = tokio::task::yield_now() => {}
        }
        go_on.send(Err(io::Error::other("closed"))).unwrap();
        drained.await;
        assert!(read.try_recv().is_ok());
    }

    #[test]
    fn a_delivery_that_fails_is_told() {
        let (output, (go_on, _read)) = stopped();
        go_on.send(Ok(())).unwrap();
        assert!(output.deliver("one".to_owned()).is_ok());
        go_on.send(Err(io::Error::other("closed"))).unwrap();
        assert!(output.deliver("two".to_owned()).is_err());
    }

    #[test]
    fn logs_go_the_same_way() {
        let (output, (go_on, read)) = stopped();
        output.write(Stream::Stdout, "a step\n".to_owned());
        output.log().write_all(b"a log\n\x1b[2J\xff\n").unwrap();
        for line in [
            (Stream::Stdout, "a step\n"),
            (Stream::Stderr, "a log\\n\\u{1b}[2J\u{fffd}\n"),
        ] {
            go_on.send(Ok(())).unwrap();
            assert_eq!(read.recv().unwrap(), (line.0, line.1.to_owned()));
        }
    }
}
