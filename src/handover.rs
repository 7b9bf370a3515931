//! Descriptors from outside of a sandbox.
//!
//! Where this process has a network of its own, or no right to something
//! (`PrivateNetwork=`, `CapabilityBoundingSet=` in `systemd.exec(5)`), a
//! transient service gets it, and hands over the descriptors of it. So it still
//! ends with this process, however that ends.

use std::env;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::systemd::{OwnService, ServiceManager};

/// What is read of an error, in bytes.
const MAX_ERROR: usize = 1024;

/// How many descriptors a message has at most (`unix(7)`, `SCM_MAX_FD`).
pub const MAX_DESCRIPTORS: usize = 253;

/// Has a service run this program with these words, and takes what it
/// [`give`]s to its standard input.
///
/// # Errors
/// When there is no such service to be had, or it says an error.
pub async fn ask(
    manager: &impl ServiceManager,
    name: &str,
    description: String,
    words: Vec<String>,
) -> io::Result<Vec<OwnedFd>> {
    let (own, theirs) = UnixDatagram::pair()?;
    own.set_nonblocking(true)?;
    let program = env::current_exe()?.to_string_lossy().into_owned();
    let service = OwnService {
        name: name.to_owned(),
        description,
        command: [program].into_iter().chain(words).collect(),
    };
    let ran = manager.run_transient(&service, theirs.as_fd()).await;
    ran.map_err(|error| io::Error::other(error.to_string()))?;
    take(&own)
}

/// A message is descriptors, or else an error's text.
///
/// # Errors
/// When there is nobody to take it.
pub fn give(socket: impl AsFd, got: &io::Result<Vec<BorrowedFd<'_>>>) -> io::Result<()> {
    let (text, descriptors) = match got {
        Ok(descriptors) => (String::new(), descriptors.as_slice()),
        Err(error) => (error.to_string(), [].as_slice()),
    };
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    sendmsg(
        socket,
        &[IoSlice::new(text.as_bytes())],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn take(socket: &UnixDatagram) -> io::Result<Vec<OwnedFd>> {
    let mut bytes = [0; MAX_ERROR];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes
    };
    let descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if descriptors.is_empty() {
        let error = String::from_utf8_lossy(&bytes[..length]).into_owned();
        return Err(io::Error::other(error));
    }
    Ok(descriptors)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use super::*;

    #[test]
    fn descriptors_or_an_error_are_handed_over() {
        let (own, theirs) = UnixDatagram::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let other = writer.try_clone().unwrap();
        give(&theirs, &Ok(vec![writer.as_fd(), other.as_fd()])).unwrap();
        drop((writer, other));
        let taken = take(&own).unwrap();
        assert_eq!(taken.len(), 2);
        // What was sent is closed here: what was received is all there is.
        for descriptor in taken {
            io::Write::write_all(&mut std::fs::File::from(descriptor), b"x").unwrap();
        }
        let mut read = String::new();
        io::Read::read_to_string(&mut reader, &mut read).unwrap();
        assert_eq!(read, "xx");
        give(&theirs, &Err(io::Error::other("no such thing"))).unwrap();
        assert_eq!(take(&own).unwrap_err().to_string(), "no such thing");
        assert!(take(&own).is_err(), "nobody has said anything");
    }

    #[test]
    fn as_many_as_a_message_takes() {
        let (own, theirs) = UnixDatagram::pair().unwrap();
        let (_reader, writer) = io::pipe().unwrap();
        give(&theirs, &Ok(vec![writer.as_fd(); MAX_DESCRIPTORS])).unwrap();
        assert_eq!(take(&own).unwrap().len(), MAX_DESCRIPTORS);
        assert!(give(&theirs, &Ok(vec![writer.as_fd(); MAX_DESCRIPTORS + 1])).is_err());
    }
}
