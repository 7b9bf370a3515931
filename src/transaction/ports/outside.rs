//! A table from outside of a sandbox.
//!
//! Where this process has a network of its own, or no right to a packet filter
//! (`PrivateNetwork=`, `CapabilityBoundingSet=` in `systemd.exec(5)`), a
//! transient service makes the table, on the host's network, and hands over the
//! socket that owns it. So the table still ends with this process, however that
//! ends.

use std::collections::BTreeSet;
use std::env;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::container::Published;
use crate::nf_tables::Owned;
use crate::systemd::{ServiceManager, Transient};
use crate::transaction::ports;

/// What is read of an error, in bytes.
const MAX_ERROR: usize = 1024;

/// Holds back new connections like [`ports::hold`].
///
/// # Errors
/// When there is no such service to be had, or it is refused the table.
pub(in crate::transaction) async fn hold(
    manager: &impl ServiceManager,
    id: &str,
    published: &BTreeSet<Published>,
) -> io::Result<Owned> {
    let (own, theirs) = UnixDatagram::pair()?;
    own.set_nonblocking(true)?;
    let program = env::current_exe()?.to_string_lossy().into_owned();
    let addresses = published
        .iter()
        .map(|published| SocketAddr::new(published.ip, published.port).to_string());
    let service = Transient {
        name: format!("digestfix-ports-{id}.service"),
        description: format!("Hold back connections to published ports for digestfix ({id})"),
        command: [program, "hold-ports".to_owned()]
            .into_iter()
            .chain(addresses)
            .collect(),
    };
    let ran = manager.run_transient(&service, theirs.as_fd()).await;
    ran.map_err(|error| io::Error::other(error.to_string()))?;
    receive(&own)
}

/// Makes the table, and hands it to whoever has the other end of `socket`.
///
/// # Errors
/// When it cannot be handed over.
pub fn hand_over(socket: impl AsFd, addresses: &[SocketAddr]) -> io::Result<()> {
    let published = addresses.iter().map(|address| Published {
        ip: address.ip(),
        port: address.port(),
        protocol: "tcp".to_owned(),
    });
    send(socket, &ports::hold(&published.collect()))
}

/// A message is a descriptor, or else an error's text.
fn send(socket: impl AsFd, held: &io::Result<Owned>) -> io::Result<()> {
    let (text, descriptors) = match held {
        Ok(held) => (String::new(), vec![held.as_fd()]),
        Err(error) => (error.to_string(), Vec::new()),
    };
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(
        socket,
        &[IoSlice::new(text.as_bytes())],
        &mut control,
        SendFlags::empty(),
    )?;
    Ok(())
}

fn receive(socket: &UnixDatagram) -> io::Result<Owned> {
    let mut bytes = [0; MAX_ERROR];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        recvmsg(socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes
    };
    let descriptor: Option<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .next();
    match descriptor {
        Some(owner) => Ok(owner.into()),
        None => Err(io::Error::other(
            String::from_utf8_lossy(&bytes[..length]).into_owned(),
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_or_an_error_is_handed_over() {
        let (own, theirs) = UnixDatagram::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&theirs, &Ok(OwnedFd::from(writer).into())).unwrap();
        let held = receive(&own).unwrap();
        // What was sent is closed here: what was received is all there is.
        io::Write::write_all(
            &mut std::fs::File::from(held.as_fd().try_clone_to_owned().unwrap()),
            b"x",
        )
        .unwrap();
        drop(held);
        let mut read = String::new();
        io::Read::read_to_string(&mut reader, &mut read).unwrap();
        assert_eq!(read, "x");
        send(&theirs, &Err(io::Error::other("no such thing"))).unwrap();
        assert_eq!(receive(&own).unwrap_err().to_string(), "no such thing");
        assert!(receive(&own).is_err(), "nobody has said anything");
    }
}
