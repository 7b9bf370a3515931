//! Where a name leads from this host, by whatever the host asks.

use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{AccessFlags, access};

/// A name that the host's resolver does not know by then leads nowhere: its
/// servers do not answer.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);

const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Where a name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// Nowhere: nobody here can reach anything by it.
    Nowhere,
    /// To these addresses.
    Addresses(Vec<IpAddr>),
}

/// The names that a host knows.
#[allow(
    async_fn_in_trait,
    reason = "used by this crate alone, on a runtime of one thread"
)]
pub trait Names {
    /// Where a name leads.
    async fn whereabouts(&self, name: &str) -> io::Result<Whereabouts>;
    /// Whether there can be more names.
    fn can_be_added(&self) -> io::Result<()>;
}

/// This host's, by way of `getent(1)`: it asks all that the C library is told
/// to ask (`nsswitch.conf(5)`), which a static program cannot.
#[derive(Debug)]
pub struct HostNames<'a> {
    /// `/etc/hosts`, but in tests.
    pub hosts: &'a Path,
}

impl Names for HostNames<'_> {
    async fn whereabouts(&self, name: &str) -> io::Result<Whereabouts> {
        let mut asked = Command::new("getent")
            .args(["ahosts", name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("getent: {error}")))?;
        let deadline = Instant::now() + KNOWN_WITHIN;
        let status = loop {
            match asked.try_wait()? {
                Some(status) => break status,
                None if Instant::now() < deadline => tokio::time::sleep(LOOK_AGAIN).await,
                None => {
                    asked.kill()?;
                    asked.wait()?;
                    return Ok(Whereabouts::Nowhere);
                }
            }
        };
        let mut answer = String::new();
        if let Some(mut stdout) = asked.stdout.take() {
            stdout.read_to_string(&mut answer)?;
        }
        match status.code() {
            Some(0) => Ok(Whereabouts::Addresses(addresses(&answer)?)),
            // "One or more supplied key could not be found"
            Some(2) => Ok(Whereabouts::Nowhere),
            _ => Err(io::Error::other(format!("getent: {status}"))),
        }
    }

    /// The file is replaced in its directory.
    fn can_be_added(&self) -> io::Result<()> {
        if !self.hosts.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let directory = self.hosts.parent().unwrap_or(self.hosts);
        Ok(access(directory, AccessFlags::W_OK)?)
    }
}

/// Those of a process on another network than Docker: whatever it finds says
/// nothing of what Docker would.
#[derive(Debug)]
pub struct OtherNetwork;

impl Names for OtherNetwork {
    async fn whereabouts(&self, _: &str) -> io::Result<Whereabouts> {
        Err(io::Error::other(
            "this is a sandbox without the host's network",
        ))
    }

    fn can_be_added(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Each address once; `getent ahosts` has a line for each kind of socket.
fn addresses(answer: &str) -> io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for line in answer.lines() {
        let word = line.split_whitespace().next().unwrap_or_default();
        // A link-local one has its interface behind it.
        let word = word.split('%').next().unwrap_or_default();
        let address = word
            .parse()
            .map_err(|_| io::Error::other(format!("getent said {line:?}")))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::other("getent said nothing"));
    }
    Ok(addresses)
}

/// The process has the same network as this one, as far as can be seen.
#[must_use]
pub fn shares_network_with(pid: u32) -> bool {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net"));
    match (of("self"), of(&pid.to_string())) {
        (Ok(own), Ok(other)) => own == other,
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use super::*;

    #[test]
    fn what_getent_says_is_read() {
        let answer = "127.0.0.1       STREAM localhost\n127.0.0.1       DGRAM  \n::1 RAW\nfe80::1%eth0 STREAM\n";
        let expected: Vec<IpAddr> = ["127.0.0.1", "::1", "fe80::1"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(addresses(answer).unwrap(), expected);
        assert!(addresses("").is_err());
        assert!(addresses("quay.io STREAM\n").is_err());
    }

    #[test]
    fn only_what_is_seen_is_the_same_network() {
        assert!(shares_network_with(std::process::id()));
        assert!(!shares_network_with(0));
    }
}
