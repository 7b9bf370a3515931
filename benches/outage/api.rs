//! Pings the engine without a pause.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A client that pings the engine's API in a loop.
pub struct Api {
    stop: Arc<AtomicBool>,
    client: thread::JoinHandle<Duration>,
}

impl Api {
    pub fn watch(socket: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let client = thread::spawn(move || {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                if ping(&socket).is_ok_and(|answered| answered) {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                thread::sleep(Duration::from_millis(1));
            }
            longest.max(last.elapsed())
        });
        Self { stop, client }
    }

    /// Stops the client. Returns the longest time between two successive answers.
    pub fn longest_silence(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.client.join().unwrap()
    }
}

fn ping(socket: &PathBuf) -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.ends_with("OK"))
}
