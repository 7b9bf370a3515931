//! Sends an archive to Docker. A separate thread reads it, a few pieces ahead. Another
//! thread reads the claims of an archive from standard input at the same time.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver as Looked, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use hyper::body::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::archives::Place;
use crate::claims::source::collected::Collected;
use crate::claims::source::{self, Problem};
use crate::docker::engine::{EngineError, UnixEngine};
use crate::sys::plain_file::{self, Links};

/// The size of a piece in bytes, and the number of pieces that may wait for Docker.
const PIECE: usize = 1024 * 1024;
const WAITING: usize = 4;

#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("{0}")]
    Read(#[from] Problem),
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("its claims could not be read: {0}")]
    Claims(Problem),
}

impl From<io::Error> for SendError {
    fn from(error: io::Error) -> Self {
        Self::Read(error.into())
    }
}

pub(super) struct Sending {
    pieces: Receiver<io::Result<Bytes>>,
    count: Count,
    collected: Looking,
}

/// The claims of the archive: known, or still being read.
enum Looking {
    Known(Box<Collected>),
    Stream(JoinHandle<Result<Collected, Problem>>),
}

/// The result of a load.
pub(super) struct Sent {
    /// The loaded images, by the names that Docker reports.
    pub names: Vec<String>,
    pub collected: Collected,
}

/// The number of bytes that were sent so far.
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
        let count = Count::default();
        let counted = count.clone();
        let collected = match place {
            Place::File(path) => {
                let file = plain_file::open(path, Links::Followed).map_err(Problem::from)?;
                let archive = source::for_an_engine(file)?;
                spawn(move || pass_on(archive, &sender, &counted, None))?;
                Looking::Known(Box::new(collected))
            }
            Place::Stdin => {
                let archive = source::for_an_engine(io::stdin())?;
                let (shown, looked) = sync_channel(WAITING);
                spawn(move || pass_on(archive, &sender, &counted, Some(&shown)))?;
                let looking = thread::Builder::new().spawn(move || look_into(looked, collected))?;
                Looking::Stream(looking)
            }
        };
        Ok(Self {
            pieces,
            count,
            collected,
        })
    }

    pub(super) fn count(&self) -> Count {
        self.count.clone()
    }

    pub(super) async fn send(self, engine: &UnixEngine) -> Result<Sent, SendError> {
        let names = engine.load_pieces(self.pieces).await?;
        let collected = match self.collected {
            Looking::Known(collected) => *collected,
            // Docker has read the whole stream, so the thread is about to end.
            Looking::Stream(looking) => match looking.join() {
                Ok(collected) => collected.map_err(SendError::Claims)?,
                Err(_) => return Err(io::Error::other("its reader ended early").into()),
            },
        };
        Ok(Sent { names, collected })
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name("archive".to_owned());
    thread.spawn(work).map(drop)
}

/// Reads an archive to its end. Stops early when the receiver is gone.
fn pass_on(
    mut archive: impl Read,
    sender: &Sender<io::Result<Bytes>>,
    count: &Count,
    shown: Option<&SyncSender<Bytes>>,
) {
    loop {
        let mut piece = vec![0; PIECE];
        let read = match archive.read(&mut piece) {
            Ok(0) => return,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let _ = sender.blocking_send(Err(error));
                return;
            }
        };
        piece.truncate(read);
        let piece = Bytes::from(piece);
        // The reader of claims may have ended early, which is no reason to stop.
        if let Some(shown) = shown {
            let _ = shown.send(piece.clone());
        }
        if sender.blocking_send(Ok(piece)).is_err() {
            return;
        }
        count.0.fetch_add(read as u64, Ordering::Relaxed);
    }
}

/// The pieces for the reader of claims, as a stream.
struct Shown {
    pieces: Looked<Bytes>,
    piece: Bytes,
}

impl Read for Shown {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            // At the end, the sender is gone, and an empty piece ends the stream.
            self.piece = self.pieces.recv().unwrap_or_default();
        }
        let count = buffer.len().min(self.piece.len());
        let taken = self.piece.split_to(count);
        buffer[..count].copy_from_slice(&taken);
        Ok(count)
    }
}

fn look_into(pieces: Looked<Bytes>, mut collected: Collected) -> Result<Collected, Problem> {
    let mut shown = Shown {
        pieces,
        piece: Bytes::new(),
    };
    source::read_stream(&mut shown, "standard input", &mut collected)?;
    io::copy(&mut shown, &mut io::sink())?;
    Ok(collected)
}
