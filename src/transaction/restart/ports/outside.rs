//! A table from outside of a sandbox: a transient service makes it, on the host's
//! network, and hands over the socket that owns it.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use crate::container::Published;
use crate::handover;
use crate::nf_tables::Owned;
use crate::systemd::ServiceManager;
use crate::transaction::restart::ports;

/// Holds back new connections like [`ports::hold`].
///
/// # Errors
/// When there is no such service to be had, or it is refused the table.
pub(in crate::transaction) async fn hold(
    manager: &impl ServiceManager,
    id: &str,
    published: &BTreeSet<Published>,
) -> io::Result<Owned> {
    let addresses = published
        .iter()
        .map(|published| SocketAddr::new(published.ip, published.port).to_string());
    let words = ["hold-ports".to_owned()].into_iter().chain(addresses);
    let held = handover::ask(
        manager,
        &format!("digestfix-ports-{id}.service"),
        format!("Hold back connections to published ports for digestfix ({id})"),
        words.collect(),
    )
    .await?;
    let owner = held
        .into_iter()
        .next()
        .ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(owner.into())
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
    match ports::hold(&published.collect()) {
        Ok(held) => handover::give(socket, &Ok(vec![held.as_fd()])),
        Err(error) => handover::give(socket, &Err(error)),
    }
}
