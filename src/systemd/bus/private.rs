//! Connects to systemd's private socket, which speaks D-Bus without a bus daemon. Only
//! root can use this socket. The socket exists as long as systemd runs, and `systemctl`
//! uses it too.
//!
//! In each message on this socket, systemd gives its well-known name as the sender. But
//! the D-Bus specification requires a unique name as the sender, and the D-Bus library
//! zbus closes the connection otherwise. So this module reads the messages itself, and
//! replaces the sender before zbus sees the messages.

use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::unistd::geteuid;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zbus::connection::Builder;
use zbus::connection::socket::{BoxedSplit, ReadHalf, Split, WriteHalf};
use zbus::export::async_trait::async_trait;

/// Where systemd listens.
pub(super) const PATH: &str = "/run/systemd/private";

/// The sender that systemd puts into its messages.
const GIVEN: &[u8] = b"org.freedesktop.systemd1";

/// The sender that replaces systemd's name: a unique name of the same length.
pub(super) const NAME: &str = ":rg.freedesktop.systemd1";

/// The length of the fixed part of a message header. This part contains the lengths of
/// the other parts.
const FIXED: usize = 16;

/// The maximum length of a message, in bytes (D-Bus specification, "Message Format").
const LONGEST: usize = 128 << 20;

/// The maximum length of a line in the handshake, in bytes. systemd sends only one line,
/// and this line is shorter.
const LONGEST_LINE: usize = 256;

/// Connects to the socket and authenticates. Returns a builder for the zbus connection.
pub(super) async fn connect(path: &str) -> zbus::Result<Builder<'static>> {
    let stream = UnixStream::connect(path).await?;
    // Encode each digit of the user ID in hexadecimal. For example, `0` becomes `30`.
    let user = geteuid().to_string();
    let user: String = user.bytes().map(|digit| format!("{digit:02x}")).collect();
    let hello = format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n");
    write(&stream, hello.as_bytes()).await?;
    let answer = read_line(&stream).await?;
    let Some(guid) = answer.strip_prefix("OK ").map(str::to_owned) else {
        return Err(zbus::Error::Handshake(answer));
    };
    let (reading, writing) = stream.into_split();
    let reader: Box<dyn ReadHalf> = Box::new(Reader {
        stream: reading,
        received: Vec::new(),
        ready: 0,
    });
    let writer: Box<dyn WriteHalf> = Box::new(Writer(writing));
    let halves: BoxedSplit = Split::new(reader, writer);
    Ok(Builder::authenticated_socket(halves, guid).p2p())
}

async fn write(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads a line byte by byte, because a message may follow the last line immediately.
async fn read_line(stream: &UnixStream) -> io::Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        if line.len() > LONGEST_LINE {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut byte = [0];
        stream.readable().await?;
        match stream.try_read(&mut byte) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => line.extend(byte),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

#[derive(Debug)]
struct Reader {
    stream: OwnedReadHalf,
    received: Vec<u8>,
    /// The number of received bytes that zbus may read. In these bytes, the sender is
    /// already replaced.
    ready: usize,
}

#[async_trait]
impl ReadHalf for Reader {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        while self.ready == 0 {
            match length(&self.received)? {
                Some(length) if length <= self.received.len() => {
                    rename_sender(&mut self.received);
                    self.ready = length;
                }
                _ => {
                    if self.receive().await? == 0 {
                        return Ok((0, Vec::new()));
                    }
                }
            }
        }
        let count = self.ready.min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(self.received.drain(..count)) {
            *to = from;
        }
        self.ready -= count;
        Ok((count, Vec::new()))
    }
}

impl Reader {
    async fn receive(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 << 10];
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut chunk) {
                Ok(count) => {
                    self.received.extend(chunk.iter().take(count));
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[derive(Debug)]
struct Writer(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Writer {
    async fn sendmsg(&mut self, buffer: &[u8], _: &[BorrowedFd<'_>]) -> io::Result<usize> {
        loop {
            self.0.writable().await?;
            match self.0.try_write(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
    }

    async fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A number in the fixed part of a message header. The first byte of the header tells the
/// byte order.
fn number(message: &[u8], at: usize) -> Option<usize> {
    let bytes = message.get(at..at + 4)?.try_into().ok()?;
    let number = match message.first()? {
        b'B' => u32::from_be_bytes(bytes),
        _ => u32::from_le_bytes(bytes),
    };
    usize::try_from(number).ok()
}

/// The length of the message at the beginning of these bytes. Returns `None` if too few
/// bytes have arrived to tell the length.
fn length(received: &[u8]) -> io::Result<Option<usize>> {
    let (Some(body), Some(fields)) = (number(received, 4), number(received, 12)) else {
        return Ok(None);
    };
    let length = fields.next_multiple_of(8).saturating_add(FIXED + body);
    if length > LONGEST {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(Some(length))
}

/// Replaces the sender in the message at the beginning of these bytes. The search pattern
/// begins with the code and the type of the sender field, so it matches no other field.
fn rename_sender(message: &mut [u8]) {
    let order = message.first().copied();
    let Some(fields) = number(message, 12).and_then(|len| message.get_mut(FIXED..FIXED + len))
    else {
        return;
    };
    let count = GIVEN.len() as u32;
    let count = match order {
        Some(b'B') => count.to_be_bytes(),
        _ => count.to_le_bytes(),
    };
    let field = [b"\x07\x01s\0", count.as_slice(), GIVEN, b"\0"].concat();
    let found = fields.windows(field.len()).position(|at| at == field);
    let name = found.and_then(|at| fields.get_mut(at + 8..at + 8 + NAME.len()));
    if let Some(name) = name {
        name.copy_from_slice(NAME.as_bytes());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// A message with one field before the sender. The message body contains a copy of
    /// the sender field.
    fn message(big: bool, sender: &[u8]) -> Vec<u8> {
        let number = |number: usize| {
            let number = u32::try_from(number).unwrap();
            if big {
                number.to_be_bytes()
            } else {
                number.to_le_bytes()
            }
        };
        let text = |text: &[u8]| [&number(text.len()), text, b"\0"].concat();
        let mut fields = [b"\x03\x01s\0".as_slice(), &text(b"JobRemoved")].concat();
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([b"\x07\x01s\0".as_slice(), &text(sender)].concat());
        let body = [b"\x07\x01s\0".as_slice(), &text(GIVEN)].concat();
        let mut message = [
            if big { b"B" } else { b"l" },
            b"\x04\0\x01".as_slice(),
            &number(body.len()),
            &number(1),
            &number(fields.len()),
            &fields,
        ]
        .concat();
        message.resize(message.len().next_multiple_of(8), 0);
        message.extend(body);
        message
    }

    #[test]
    fn only_the_sender_is_renamed() {
        for big in [false, true] {
            let mut renamed = message(big, GIVEN);
            rename_sender(&mut renamed);
            assert_eq!(renamed, message(big, NAME.as_bytes()));
            let mut other = message(big, b":1.7");
            rename_sender(&mut other);
            assert_eq!(other, message(big, b":1.7"));
        }
    }

    #[test]
    fn a_message_ends_where_its_header_says() {
        for big in [false, true] {
            let message = message(big, GIVEN);
            let two = [message.as_slice(), b"l\x02\0"].concat();
            assert_eq!(length(&two).unwrap(), Some(message.len()));
            assert_eq!(length(&two[..15]).unwrap(), None);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(length(&[0xff; FIXED]).is_err());
        rename_sender(&mut [0xff; FIXED]);
        rename_sender(&mut []);
    }

    #[tokio::test]
    async fn what_is_no_systemd_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("private");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let path = path.to_str().unwrap();
        for answer in ["REJECTED EXTERNAL\r\n", "OK nonsense\r\n", "OK", ""] {
            let (connected, ()) = tokio::join!(connect(path), async {
                let (stream, _) = listener.accept().await.unwrap();
                write(&stream, answer.as_bytes()).await.unwrap();
            });
            let built = match connected {
                Ok(builder) => builder.build().await.map(drop),
                Err(error) => Err(error),
            };
            assert!(built.is_err(), "{answer:?}");
        }
    }
}
