//! Sockets from outside of a sandbox: a transient service takes them, on the
//! host's network, and hands them over.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use crate::handover::{self, MAX_DESCRIPTORS};
use crate::stand_in::names::shares_network_with;
use crate::stand_in::server::listen_all;
use crate::systemd::ServiceManager;

/// Takes sockets where `dockerd` would connect to them.
///
/// # Errors
/// When there is no such service to be had, or a socket is taken.
pub(super) async fn listen(
    manager: &impl ServiceManager,
    dockerd: u32,
    addresses: &[SocketAddr],
) -> io::Result<Vec<TcpListener>> {
    if addresses.len() > MAX_DESCRIPTORS {
        return Err(io::Error::other("too many addresses for a sandbox"));
    }
    let id = std::process::id();
    let addresses = addresses.iter().map(ToString::to_string);
    let words = ["listen".to_owned(), dockerd.to_string()];
    let sockets = handover::ask(
        manager,
        &format!("digestfix-listen-{id}.service"),
        format!("Take sockets on loopback for digestfix ({id})"),
        words.into_iter().chain(addresses).collect(),
    )
    .await?;
    let sockets = sockets.into_iter();
    Ok(sockets.map(TcpListener::from).collect())
}

/// Takes the sockets, and hands them to whoever has the other end of `socket`.
///
/// # Errors
/// When they cannot be handed over.
pub fn hand_over(socket: impl AsFd, dockerd: u32, addresses: &[SocketAddr]) -> io::Result<()> {
    if !shares_network_with(dockerd) {
        let error = io::Error::other("Docker is on a network of its own");
        return handover::give(socket, &Err(error));
    }
    match listen_all(addresses) {
        Ok(sockets) => {
            let sockets = sockets.iter().map(AsFd::as_fd).collect();
            handover::give(socket, &Ok(sockets))
        }
        Err((address, error)) => {
            let error = io::Error::other(format!("{address}: {error}"));
            handover::give(socket, &Err(error))
        }
    }
}
