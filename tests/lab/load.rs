//! Clients of containers, in a network namespace of a machine. They record the result and
//! the time of each request and of each open connection.

use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// The kernel repeats the first packet of a connection after 1, 3, 7 and 15 s.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// The result of one request.
#[derive(Debug, Clone)]
pub struct Answer {
    pub began: Instant,
    pub took: Duration,
    pub failure: Option<String>,
}

/// The results of many requests.
pub struct Summary {
    pub requests: usize,
    pub failed: usize,
    /// The time from the first failed request to the last.
    pub failing: Duration,
    pub slowest: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} failed over {:?}, the slowest took {:?}",
            self.failed, self.requests, self.failing, self.slowest
        )
    }
}

impl Summary {
    pub fn of(answers: &[Answer]) -> Self {
        let mut failed = answers.iter().filter(|answer| answer.failure.is_some());
        let failing = match (failed.next(), failed.next_back()) {
            (Some(first), Some(last)) => last.began - first.began,
            _ => Duration::ZERO,
        };
        Self {
            requests: answers.len(),
            failed: answers
                .iter()
                .filter(|answer| answer.failure.is_some())
                .count(),
            failing,
            slowest: answers
                .iter()
                .map(|answer| answer.took)
                .max()
                .unwrap_or_default(),
        }
    }
}

/// The time of a run, if the run took too long for its clients and reported that it
/// released them. The time begins at `began` and ends now.
pub fn let_go(began: Instant, said: &str) -> Option<Range<Instant>> {
    let is_said = said.contains("Docker has been down for 10 s");
    is_said.then(|| began..Instant::now())
}

/// Clients that send requests until the test asks for their answers.
pub struct Load {
    stop: Arc<AtomicBool>,
    client: JoinHandle<Vec<Answer>>,
}

impl Load {
    /// Clients that open a new connection for each request, in a loop.
    pub fn requests(namespace: PathBuf, server: SocketAddr) -> Self {
        Self::start(namespace, move || {
            let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"GET /hello HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            if answer.contains("hello") {
                Ok(())
            } else {
                Err(ErrorKind::InvalidData.into())
            }
        })
    }

    /// A client that uses one connection to an echo server in a loop.
    pub fn connection(namespace: PathBuf, server: SocketAddr) -> Self {
        let mut open = None;
        Self::start(namespace, move || {
            let stream = match &mut open {
                Some(stream) => stream,
                None => open.insert(TcpStream::connect_timeout(&server, PATIENCE)?),
            };
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"echo")?;
            stream.read_exact(&mut [0; 4])
        })
    }

    fn start(
        namespace: PathBuf,
        mut ask: impl FnMut() -> std::io::Result<()> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let client = thread::spawn(move || {
            let namespace = File::open(namespace).expect("the machine has the namespace");
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter it");
            let mut answers = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let failure = ask().err().map(|error| error.to_string());
                answers.push(Answer {
                    began,
                    took: began.elapsed(),
                    failure,
                });
                thread::sleep(PAUSE);
            }
            answers
        });
        Self { stop, client }
    }

    /// Stops the clients, and returns all results.
    pub fn answers(self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        self.client.join().expect("clients do not panic")
    }

    /// Stops the clients, and checks that every request succeeded.
    #[track_caller]
    pub fn met_no_failure(self, who: &str) {
        self.met_no_failure_but(who, &[]);
    }

    /// Like [`Self::met_no_failure`], except during the runs that released their clients
    /// ([`let_go`]).
    #[track_caller]
    pub fn met_no_failure_but(self, who: &str, let_go: &[Range<Instant>]) {
        self.met_none_of(who, let_go, |_| true);
    }

    /// Like [`Self::met_no_failure_but`], but only for connections that could not be
    /// made. A connection that docker-proxy has accepted is cut when docker-proxy ends
    /// with dockerd.
    #[track_caller]
    pub fn were_not_refused(self, who: &str, let_go: &[Range<Instant>]) -> Summary {
        self.met_none_of(who, let_go, |failure| {
            failure.contains("refused") || failure.contains("timed out")
        })
    }

    #[track_caller]
    fn met_none_of(
        self,
        who: &str,
        let_go: &[Range<Instant>],
        counts: impl Fn(&str) -> bool,
    ) -> Summary {
        let answers = self.answers();
        let summary = Summary::of(&answers);
        let first = answers.iter().find_map(|answer| {
            let failed = answer.began + answer.took;
            let failure = answer.failure.as_deref().filter(|failure| counts(failure));
            failure.filter(|_| !let_go.iter().any(|run| run.contains(&failed)))
        });
        assert_eq!(first, None, "{who}: {summary}");
        assert!(summary.requests > 100, "{who}: {summary}");
        summary
    }
}
