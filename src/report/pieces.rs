//! A long text, given to the output in pieces: the whole of it is never in memory.

use std::io::{self, Write};

use crate::report::output::{Output, Stream};

/// The size of a piece, in bytes, more or less.
pub(super) const PIECE: usize = 64 * 1024;

/// Standard output. Each write is a piece of whole characters.
pub(super) struct Pieces<'a>(pub &'a Output);

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.0.write(Stream::Stdout, text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
