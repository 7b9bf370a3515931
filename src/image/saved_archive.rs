//! The image archive that an engine writes as a stream. digestfix inserts its own file at
//! the beginning of the archive, and checks that the stream is complete.

use std::io::{self, Read};

use tar::{Archive, Builder, Header};

/// The number of zero bytes that mark the end of a tar archive (POSIX.1-2017, pax, "ustar
/// Interchange Format").
const END: u64 = 1024;

const BLOCK: u64 = 512;

/// Builds one tar header with its content. digestfix writes these bytes before the
/// engine's archive.
pub fn member(name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = Header::new_ustar();
    header.set_size(u64::try_from(content.len()).map_err(io::Error::other)?);
    header.set_mode(0o644);
    let mut archive = Builder::new(Vec::new());
    archive.append_data(&mut header, name, content)?;
    let mut bytes = archive.into_inner()?;
    // Remove the zero bytes that mark the end of an archive, because the engine's archive
    // follows.
    bytes.truncate(
        bytes
            .len()
            .saturating_sub(usize::try_from(END).unwrap_or_default()),
    );
    Ok(bytes)
}

/// Reads an archive to its end. Fails if the archive has no end marker, because the
/// engine's export has then failed. A failing engine appends its error message to the
/// stream, and otherwise ends the response normally (moby `api/server/router/image`,
/// `getImagesGet`).
pub fn read_through(stream: impl Read) -> io::Result<()> {
    let mut stream = Tail::new(stream);
    let mut archive = Archive::new(&mut stream);
    let mut members_end = 0;
    for member in archive.entries()? {
        let member = member?;
        let end = member.raw_file_position().saturating_add(member.size());
        members_end = end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
    }
    stream.ends_behind(members_end)
}

/// Counts the bytes of a stream, and the zero bytes at its end.
pub struct Tail<R> {
    stream: R,
    read: u64,
    zeros: u64,
}

impl<R: Read> Tail<R> {
    pub const fn new(stream: R) -> Self {
        Self {
            stream,
            read: 0,
            zeros: 0,
        }
    }

    /// Reads the rest of an archive whose last member ends at `members_end`. Fails if the
    /// archive is cut short, or if other data follows its end.
    pub fn ends_behind(mut self, members_end: u64) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink())?;
        match self.read.checked_sub(members_end) {
            Some(rest) if rest >= END && self.zeros >= rest => Ok(()),
            Some(rest) if rest >= END => Err(io::Error::other(
                "other data follows the end of the archive",
            )),
            _ => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive is cut short",
            )),
        }
    }
}

impl<R: Read> Read for Tail<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        let read = buffer.get(..count).unwrap_or_default();
        let zeros = read.iter().rev().take_while(|byte| **byte == 0).count();
        if zeros < count {
            self.zeros = 0;
        }
        self.zeros += u64::try_from(zeros).map_err(io::Error::other)?;
        self.read += u64::try_from(count).map_err(io::Error::other)?;
        Ok(count)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// An archive as an engine writes it.
    fn archive() -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, size) in [("a", 0), ("b", 512), ("c", 3000)] {
            let mut header = Header::new_gnu();
            header.set_size(size);
            let content = vec![0; usize::try_from(size).unwrap()];
            builder
                .append_data(&mut header, name, content.as_slice())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_member_stands_before_the_others() {
        let whole = [member("digestfix.json", b"{}").unwrap(), archive()].concat();
        let mut read = Archive::new(whole.as_slice());
        let names: Vec<String> = read
            .entries()
            .unwrap()
            .map(|one| one.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names, ["digestfix.json", "a", "b", "c"]);
        read_through(whole.as_slice()).unwrap();
    }

    #[test]
    fn a_cut_at_any_place_is_found() {
        let whole = archive();
        read_through(whole.as_slice()).unwrap();
        for length in 0..whole.len() {
            assert!(read_through(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn an_error_of_the_engine_is_no_archive() {
        const ERROR: &[u8] = b"{\"errorDetail\":{\"message\":\"no space\"},\"error\":\"no space\"}";
        let whole = archive();
        for length in [0, 512, 1024, 1536, whole.len() - 1024, whole.len()] {
            let failed = [&whole[..length], ERROR].concat();
            assert!(read_through(failed.as_slice()).is_err(), "{length}");
        }
    }
}
