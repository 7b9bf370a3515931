//! Pieces of a long text for the output, so that the whole text is never in memory.

use std::io::{self, Write};

use crate::report::output::{Output, Stream};

/// The approximate size of a piece, in bytes.
pub(super) const PIECE: usize = 64 * 1024;

/// A writer to standard output. Each write must consist of whole characters.
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
