//! Compression on all processors. Each block of the archive becomes a gzip member or a
//! zstd frame. Every reader of these formats concatenates the decompressed blocks (RFC
//! 1952, 2.2; RFC 8878, 3).

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::carry::Sink;

/// The size of a block in bytes. Larger blocks would not make the file smaller.
const BLOCK: usize = 1024 * 1024;

/// The maximum number of threads. This also limits the memory, because each thread holds
/// one block, and only one more block waits.
const MOST_THREADS: usize = 8;

/// The format of a compressed block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Gzip,
    Zstd,
}

impl Format {
    fn compressed(self, block: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let mut member = GzEncoder::new(Vec::new(), Level::default());
                member.write_all(block)?;
                member.finish()
            }
            Self::Zstd => Ok(compress_to_vec(block, CompressionLevel::Fastest)),
        }
    }
}

/// A block, and the channel for the compressed block.
type Job = (Vec<u8>, SyncSender<io::Result<Vec<u8>>>);

/// A sink that compresses data and writes it to another sink.
pub(super) struct Compressed<S> {
    sink: S,
    block: Vec<u8>,
    jobs: SyncSender<Job>,
    /// The blocks that are being compressed, in order.
    under_way: VecDeque<Receiver<io::Result<Vec<u8>>>>,
    most: usize,
}

impl<S: Sink> Compressed<S> {
    pub fn new(format: Format, sink: S) -> io::Result<Self> {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(MOST_THREADS);
        let (jobs, waiting) = mpsc::sync_channel::<Job>(threads);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..threads {
            let waiting = Arc::clone(&waiting);
            let name = thread::Builder::new().name("compress".to_owned());
            name.spawn(move || {
                loop {
                    let job = waiting.lock().map(|waiting| waiting.recv());
                    let Ok(Ok((block, done))) = job else {
                        return;
                    };
                    // The receiver is gone if the command was interrupted.
                    let _ = done.send(format.compressed(&block));
                }
            })?;
        }
        Ok(Self {
            sink,
            block: Vec::with_capacity(BLOCK),
            jobs,
            under_way: VecDeque::new(),
            most: threads + 1,
        })
    }

    /// Gives a block to the threads.
    fn begin(&mut self) -> io::Result<()> {
        if self.under_way.len() >= self.most {
            self.end()?;
        }
        let block = mem::replace(&mut self.block, Vec::with_capacity(BLOCK));
        let (done, compressed) = mpsc::sync_channel(1);
        self.jobs.send((block, done)).map_err(io::Error::other)?;
        self.under_way.push_back(compressed);
        Ok(())
    }

    /// Waits until the oldest block is compressed, and writes it.
    fn end(&mut self) -> io::Result<()> {
        match self.under_way.pop_front() {
            Some(compressed) => {
                let compressed = compressed.recv().map_err(io::Error::other)??;
                self.sink.write_all(&compressed)
            }
            None => Ok(()),
        }
    }
}

impl<S: Sink> Write for Compressed<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block
            .extend_from_slice(bytes.get(..taken).unwrap_or_default());
        if self.block.len() == BLOCK {
            self.begin()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<S: Sink> Sink for Compressed<S> {
    fn complete(&mut self) -> io::Result<()> {
        if !self.block.is_empty() {
            self.begin()?;
        }
        while !self.under_way.is_empty() {
            self.end()?;
        }
        self.sink.complete()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Default, Clone)]
    struct Memory(Arc<Mutex<Vec<u8>>>, Arc<AtomicBool>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink for Memory {
        fn complete(&mut self) -> io::Result<()> {
            self.1.store(true, Ordering::Relaxed);
            Ok(())
        }
    }

    /// Compresses a text of several blocks. Returns the compressed bytes, and the text.
    fn compressed(format: Format) -> (Vec<u8>, String) {
        let lines = (0..200_000).map(|number| format!("# line {number} of many\n"));
        let text: String = lines.collect();
        assert!(text.len() > 3 * BLOCK);
        let memory = Memory::default();
        let mut sink = Compressed::new(format, memory.clone()).unwrap();
        sink.write_all(text.as_bytes()).unwrap();
        assert!(!memory.1.load(Ordering::Relaxed));
        sink.complete().unwrap();
        assert!(memory.1.load(Ordering::Relaxed));
        let bytes = memory.0.lock().unwrap().clone();
        (bytes, text)
    }

    #[test]
    fn gzip_has_all_of_it_in_its_order() {
        let (bytes, text) = compressed(Format::Gzip);
        assert!(bytes.len() < text.len() / 2);
        let mut read = String::new();
        let mut reader = flate2::read::MultiGzDecoder::new(bytes.as_slice());
        io::Read::read_to_string(&mut reader, &mut read).unwrap();
        assert!(read == text);
    }

    #[test]
    fn zstd_has_all_of_it_in_its_order() {
        let (bytes, text) = compressed(Format::Zstd);
        assert!(bytes.len() < text.len() / 2);
        let mut read = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let mut frame = ruzstd::decoding::StreamingDecoder::new(&mut rest).unwrap();
            io::Read::read_to_end(&mut frame, &mut read).unwrap();
        }
        assert!(read == text.as_bytes());
    }
}
