//! Sends an archive to Docker. One thread reads the archive, a few pieces ahead of
//! Docker. Another thread checks the archive at the same time. Docker gets the last
//! member only after the check has succeeded, and loads nothing of an archive whose end
//! is missing.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver as Looked, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use hyper::body::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use super::archives::Place;
use crate::claims::source::collected::Collected;
use crate::claims::source::{self, Problem};
use crate::docker::engine::{EngineError, UnixEngine};
use crate::sys::plain_file::{self, Links};

/// The size of a piece in bytes, and the number of pieces that may wait for Docker.
const PIECE: usize = 1024 * 1024;
const WAITING: usize = 4;

static ZEROS: [u8; PIECE] = [0; PIECE];

#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// The archive cannot be read or is not valid. Docker has loaded nothing from the
    /// archive.
    #[error("{0}")]
    Archive(#[from] Problem),
    #[error("{0}")]
    Engine(#[from] EngineError),
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> Self {
        Self::Archive(error.into())
    }
}

pub(super) struct Sending {
    pieces: Receiver<io::Result<Bytes>>,
    count: Count,
    /// The claims in a file. digestfix reads these claims before it sends the file. `None`
    /// for standard input.
    known: Option<Collected>,
    verdict: oneshot::Receiver<Result<Collected, Problem>>,
}

/// The result of a load.
pub(super) struct Sent {
    /// The loaded images, by the names that Docker reports.
    pub names: Vec<String>,
    pub collected: Collected,
}

/// The number of bytes sent so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Count(Arc<AtomicU64>);

impl Count {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Sending {
    pub(super) fn begin(place: &Place, collected: Collected) -> Result<Self, SendError> {
        let (sender, pieces) = channel(WAITING);
        let (tells, verdict) = oneshot::channel();
        let (count, name) = (Count::default(), place.to_string());
        let (archive, known, collected) = match place {
            Place::File(path) => {
                let file = plain_file::open(path, Links::Followed).map_err(Problem::from)?;
                let archive = source::for_an_engine(file)?;
                (archive, Some(collected), Collected::default())
            }
            Place::Stdin => (source::for_an_engine(io::stdin())?, None, collected),
        };
        let (shown, looked) = sync_channel(WAITING);
        let check = thread::Builder::new().name("check".to_owned());
        let checking = check.spawn(move || look_into(looked, &name, collected))?;
        let way = Way {
            to_docker: sender,
            count: count.clone(),
            kept_back: Vec::new(),
        };
        let send = thread::Builder::new().name("archive".to_owned());
        send.spawn(move || way.pass_on(archive, shown, checking, tells))?;
        Ok(Self {
            pieces,
            count,
            known,
            verdict,
        })
    }

    pub(super) fn count(&self) -> Count {
        self.count.clone()
    }

    pub(super) async fn send(mut self, engine: &UnixEngine) -> Result<Sent, SendError> {
        let answer = engine.load_pieces(self.pieces).await;
        // The sending thread reports the result of the check before it sends the last
        // member. So once Docker has answered, the result is available.
        let collected = match (self.verdict.try_recv(), &answer) {
            (Ok(verdict), _) => verdict?,
            (Err(_), Ok(_)) => {
                return Err(
                    io::Error::other("digestfix stopped reading the archive too early").into(),
                );
            }
            (Err(_), Err(_)) => Collected::default(),
        };
        Ok(Sent {
            names: answer?,
            collected: self.known.unwrap_or(collected),
        })
    }
}

/// Passes an archive on to Docker, in its own thread.
struct Way {
    to_docker: Sender<io::Result<Bytes>>,
    count: Count,
    /// The last piece with content, and the zeros after it. digestfix holds these pieces
    /// back until the check has succeeded. Holding back only the zeros would not suffice,
    /// because Docker may load an archive without reading them.
    kept_back: Vec<Bytes>,
}

impl Way {
    /// Reads an archive to its end, for the check and for Docker. Stops early if Docker has
    /// closed the connection.
    fn pass_on(
        mut self,
        mut archive: impl Read,
        shown: SyncSender<Bytes>,
        checking: JoinHandle<Result<Collected, Problem>>,
        tells: oneshot::Sender<Result<Collected, Problem>>,
    ) {
        let read = loop {
            let mut piece = vec![0; PIECE];
            match archive.read(&mut piece) {
                Ok(0) => break Ok(()),
                Ok(read) => piece.truncate(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
            }
            let piece = Bytes::from(piece);
            // The checking thread has ended early, because the check failed.
            if shown.send(piece.clone()).is_err() {
                break Ok(());
            }
            if !self.keep_back(piece) {
                return;
            }
        };
        drop(shown);
        let checked = checking.join();
        let checked = checked.unwrap_or_else(|_| Err(io::Error::other("its check failed").into()));
        let verdict = read.map_err(Problem::from).and(checked);
        let is_whole = verdict.is_ok();
        let _ = tells.send(verdict);
        if is_whole {
            self.let_go();
        } else {
            let refused = io::Error::other("the archive is incomplete or not valid");
            let _ = self.to_docker.blocking_send(Err(refused));
        }
    }

    /// Holds a piece of the archive back. If the piece has content, first sends the
    /// pieces that were held back before. Returns false if Docker has closed the
    /// connection.
    fn keep_back(&mut self, piece: Bytes) -> bool {
        let is_sent = match ZEROS.get(..piece.len()) {
            Some(zeros) if piece == zeros => {
                self.kept_back.push(Bytes::from_static(zeros));
                return true;
            }
            _ => self.let_go(),
        };
        self.kept_back.push(piece);
        is_sent
    }

    fn let_go(&mut self) -> bool {
        self.kept_back.drain(..).all(|piece| {
            let bytes = piece.len() as u64;
            let is_sent = self.to_docker.blocking_send(Ok(piece)).is_ok();
            self.count.0.fetch_add(bytes, Ordering::Relaxed);
            is_sent
        })
    }
}

/// The pieces of an archive, as a stream for the thread that checks the archive.
struct Shown {
    pieces: Looked<Bytes>,
    piece: Bytes,
}

impl Read for Shown {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            // At the end of the archive, the channel is closed. Then `piece` stays empty,
            // which ends this stream.
            self.piece = self.pieces.recv().unwrap_or_default();
        }
        let count = buffer.len().min(self.piece.len());
        let taken = self.piece.split_to(count);
        buffer[..count].copy_from_slice(&taken);
        Ok(count)
    }
}

/// Checks an archive while it is sent to Docker, and reads its claims.
fn look_into(
    pieces: Looked<Bytes>,
    name: &str,
    mut collected: Collected,
) -> Result<Collected, Problem> {
    let mut shown = Shown {
        pieces,
        piece: Bytes::new(),
    };
    source::read_whole_archive(&mut shown, name, &mut collected)?;
    io::copy(&mut shown, &mut io::sink())?;
    Ok(collected)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::image::digest::{Algorithm, Digest};
    use crate::image::saved_archive::member;

    /// An archive of one image, with many zeros at its end. The image's layer is the last
    /// member.
    fn archive(layer: &[u8]) -> Vec<u8> {
        let named = Digest::of(Algorithm::Sha256, b"a layer");
        let config = b"{}";
        let id = Digest::of(Algorithm::Sha256, config);
        let listed = format!(r#"[{{"Config":"{0}.json"}}]"#, id.hex());
        [
            member("manifest.json", listed.as_bytes()).unwrap(),
            member(&format!("{}.json", id.hex()), config).unwrap(),
            member("padding.tar", &vec![1; 3 * PIECE]).unwrap(),
            member(&format!("blobs/sha256/{}", named.hex()), layer).unwrap(),
            vec![0; 3 * PIECE + 7 * 512],
        ]
        .concat()
    }

    /// Sends an archive. Returns the bytes that Docker gets, and the result of the check.
    fn sent(archive: Vec<u8>) -> (Vec<u8>, Result<Collected, Problem>) {
        let (to_docker, mut pieces) = channel(WAITING);
        let (tells, mut verdict) = oneshot::channel();
        let (shown, looked) = sync_channel(WAITING);
        let checking = thread::spawn(move || look_into(looked, "F", Collected::default()));
        let way = Way {
            to_docker,
            count: Count::default(),
            kept_back: Vec::new(),
        };
        let passing = thread::spawn(move || way.pass_on(&archive[..], shown, checking, tells));
        let mut got = Vec::new();
        while let Some(Ok(piece)) = pieces.blocking_recv() {
            got.extend_from_slice(&piece);
        }
        let verdict = verdict.try_recv().unwrap();
        passing.join().unwrap();
        (got, verdict)
    }

    #[test]
    fn docker_gets_the_end_of_what_is_whole() {
        let whole = archive(b"a layer");
        let (got, verdict) = sent(whole.clone());
        assert!(got == whole);
        assert_eq!(verdict.unwrap().whole.len(), 1);
    }

    #[test]
    fn docker_does_not_get_the_last_member_of_what_is_not() {
        let changed = archive(b"a Layer");
        let last = changed.windows(7).position(|bytes| bytes == b"a Layer");
        let cut = changed[..changed.len() - 4 * PIECE].to_vec();
        for (archive, expected) in [(changed, "TAMPERED"), (cut, "cut short")] {
            let (got, verdict) = sent(archive);
            assert!(got.len() < last.unwrap());
            let problem = verdict.unwrap_err().to_string();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
