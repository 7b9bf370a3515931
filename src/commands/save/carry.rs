//! Writes an archive from the engine to a file. A separate thread does the writing,
//! because a disk or a reader may block while the command has to react to signals.

use std::io::{self, Read, Write};
use std::thread;

use hyper::body::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::docker::engine::EngineError;
use crate::docker::engine::archives::{Archive, Archives};
use crate::image::saved_archive::read_through;

/// The number of pieces that may wait to be written. A piece has at most half a megabyte.
const PIECES: usize = 16;

/// A destination for an archive.
pub(super) trait Sink: Write + Send + 'static {
    /// Returns once everything is written durably.
    fn complete(&mut self) -> io::Result<()>;
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CarryError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("Docker sent an incomplete archive: {0}")]
    Archive(io::Error),
    #[error("{0}")]
    Write(io::Error),
}

/// Writes `first`, followed by the engine's archive of these images. Calls `told` with
/// the number of bytes so far. Returns the total number of bytes.
pub(super) async fn carry(
    engine: &impl Archives,
    names: &[String],
    first: Vec<u8>,
    sink: impl Sink,
    mut told: impl FnMut(u64),
) -> Result<u64, CarryError> {
    let mut archive = engine.save(names).await?;
    let (pieces, received) = mpsc::channel(PIECES);
    let (ended, end) = oneshot::channel();
    let writer = thread::Builder::new().name("archive".to_owned());
    writer
        .spawn(move || {
            // The receiver is gone if the command was interrupted.
            let _ = ended.send(write(received, sink));
        })
        .map_err(CarryError::Write)?;
    let mut bytes = 0;
    let mut next = Some(Bytes::from(first));
    while let Some(piece) = next {
        bytes += piece.len() as u64;
        if pieces.send(piece).await.is_err() {
            // The writing thread has failed. The code below reads the reason from the
            // thread's result.
            break;
        }
        told(bytes);
        next = archive.next().await?;
    }
    drop(pieces);
    match end.await {
        Ok(written) => written.map(|()| bytes),
        Err(_) => Err(CarryError::Write(io::ErrorKind::BrokenPipe.into())),
    }
}

fn write(pieces: mpsc::Receiver<Bytes>, sink: impl Sink) -> Result<(), CarryError> {
    let mut through = Through {
        pieces,
        piece: Bytes::new(),
        sink,
        has_failed: false,
    };
    match read_through(&mut through) {
        Ok(()) => through.sink.complete().map_err(CarryError::Write),
        Err(error) if through.has_failed => Err(CarryError::Write(error)),
        Err(error) => Err(CarryError::Archive(error)),
    }
}

/// A reader that writes each piece to the sink before it returns the piece.
struct Through<S> {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
    sink: S,
    has_failed: bool,
}

impl<S: Sink> Read for Through<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let Some(piece) = self.pieces.blocking_recv() else {
                return Ok(0);
            };
            let written = self.sink.write_all(&piece);
            self.has_failed = written.is_err();
            written?;
            self.piece = piece;
        }
        let read = self.piece.split_to(buffer.len().min(self.piece.len()));
        if let Some(place) = buffer.get_mut(..read.len()) {
            place.copy_from_slice(&read);
        }
        Ok(read.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::cell::RefCell;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::image::saved_archive::member;

    /// An engine whose archive consists of these pieces. The last piece may be an error.
    struct Source(RefCell<Vec<Result<Bytes, EngineError>>>);

    struct Pieces(Vec<Result<Bytes, EngineError>>);

    impl Archive for Pieces {
        async fn next(&mut self) -> Result<Option<Bytes>, EngineError> {
            match self.0.is_empty() {
                true => Ok(None),
                false => self.0.remove(0).map(Some),
            }
        }
    }

    impl Archives for Source {
        type Archive = Pieces;

        async fn save(&self, _: &[String]) -> Result<Pieces, EngineError> {
            Ok(Pieces(self.0.take()))
        }
    }

    /// A disk that has room for this number of bytes.
    #[derive(Clone)]
    struct Disk {
        room: usize,
        written: Arc<Mutex<Vec<u8>>>,
        is_complete: Arc<Mutex<bool>>,
    }

    impl Disk {
        fn of(room: usize) -> Self {
            Self {
                room,
                written: Arc::default(),
                is_complete: Arc::default(),
            }
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut written = self.written.lock().unwrap();
            if written.len() + bytes.len() > self.room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink for Disk {
        fn complete(&mut self) -> io::Result<()> {
            *self.is_complete.lock().unwrap() = true;
            Ok(())
        }
    }

    fn archive() -> Vec<u8> {
        let member = member("layer.tar", &[7; 10_000]).unwrap();
        [member, vec![0; 1024]].concat()
    }

    fn carried(pieces: Vec<Result<Bytes, EngineError>>, disk: &Disk) -> Result<u64, CarryError> {
        let first = member("digestfix.json", b"{}").unwrap();
        let engine = Source(RefCell::new(pieces));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(carry(&engine, &[], first, disk.clone(), |_| {}))
    }

    fn in_pieces(archive: &[u8]) -> Vec<Result<Bytes, EngineError>> {
        let pieces = archive.chunks(700);
        pieces.map(|piece| Ok(piece.to_vec().into())).collect()
    }

    #[test]
    fn the_engines_archive_goes_as_it_is_behind_the_first_member() {
        let disk = Disk::of(usize::MAX);
        let bytes = carried(in_pieces(&archive()), &disk).unwrap();
        let expected = [member("digestfix.json", b"{}").unwrap(), archive()].concat();
        assert_eq!(bytes, expected.len() as u64);
        assert!(*disk.written.lock().unwrap() == expected);
        assert!(*disk.is_complete.lock().unwrap());
    }

    #[test]
    fn what_is_not_whole_is_never_complete() {
        let whole = archive();
        let gone = EngineError::Unanswered {
            socket: "/run/docker.sock".into(),
            request: "/images/get".to_owned(),
            problem: "gone".to_owned(),
        };
        let mut broken = in_pieces(&whole);
        broken.pop();
        broken.push(Err(gone));
        let cut = in_pieces(&whole[..whole.len() - 700]);
        for (pieces, room, expected) in [
            (broken, usize::MAX, "gone"),
            (cut, usize::MAX, "incomplete"),
            (in_pieces(&whole), 5_000, "no storage space"),
        ] {
            let disk = Disk::of(room);
            let error = carried(pieces, &disk).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!*disk.is_complete.lock().unwrap(), "{expected}");
        }
    }
}
