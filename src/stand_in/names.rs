//! Where a name leads from this host, by whatever the host asks.
//!
//! A name leads nowhere only if that is certain: it does not for dockerd either,
//! and will not in a moment, when it would be another registry that is stood in
//! for. Who cannot be asked at present, as there is no way to it, does not count:
//! whoever asks by that name meets an error until there is one.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{AccessFlags, access};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::stand_in::dns::NameServers;

/// The names that are not known by then nobody can tell of.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);

/// What looks names up in files, of name servers, or among this host's own
/// (`nsswitch.conf(5)`, `nss-myhostname(8)`, `nss-mymachines(8)`); the last ones
/// know nothing but what ends in `.local`.
const SOURCES: [&str; 8] = [
    "files",
    "dns",
    RESOLVED,
    "myhostname",
    "mymachines",
    "mdns_minimal",
    "mdns4_minimal",
    "mdns6_minimal",
];

/// `nss-resolve(8)`
const RESOLVED: &str = "resolve";

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
    /// Where each of some names leads.
    async fn whereabouts(&self, names: &[&str]) -> Vec<io::Result<Whereabouts>>;
    /// Whether there can be more names.
    fn can_be_added(&self) -> io::Result<()>;
}

/// This host's, by way of `getent(1)`: it asks all that the C library is told
/// to ask (`nsswitch.conf(5)`), which a static program cannot.
#[derive(Debug)]
pub struct HostNames<'a> {
    /// The root of the file system, but in tests.
    pub root: &'a Path,
}

impl Names for HostNames<'_> {
    async fn whereabouts(&self, names: &[&str]) -> Vec<io::Result<Whereabouts>> {
        let deadline = Instant::now() + KNOWN_WITHIN;
        let servers = Arc::new(self.name_servers());
        let mut looks = JoinSet::new();
        for (number, name) in names.iter().enumerate() {
            let (name, servers) = ((*name).to_owned(), Arc::clone(&servers));
            looks.spawn(async move { (number, look_up(&name, &servers, deadline).await) });
        }
        let mut found: BTreeMap<usize, io::Result<Whereabouts>> = BTreeMap::new();
        while let Some(look) = looks.join_next().await {
            found.extend(look);
        }
        let lost = || Err(io::Error::other("it was not looked up"));
        (0..names.len())
            .map(|number| found.remove(&number).unwrap_or_else(lost))
            .collect()
    }

    /// The file is replaced in its directory.
    fn can_be_added(&self) -> io::Result<()> {
        let directory = self.root.join("etc");
        if !directory.join("hosts").is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(access(&directory, AccessFlags::W_OK)?)
    }
}

impl HostNames<'_> {
    /// The servers that all that is looked up by is told of, if it is of the
    /// kinds that answer from there and from this host itself.
    fn name_servers(&self) -> io::Result<NameServers> {
        let sources = match std::fs::read_to_string(self.root.join("etc/nsswitch.conf")) {
            Ok(text) => sources(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        if let Some(other) = sources.iter().find(|one| !SOURCES.contains(&one.as_str())) {
            return Err(io::Error::other(format!("{other} may know it")));
        }
        NameServers::read(self.root, sources.iter().any(|one| one == RESOLVED))
    }
}

/// What looks up hosts, by the text of `nsswitch.conf(5)`.
fn sources(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.split('#').next());
    let hosts = lines.filter_map(|line| line.trim().strip_prefix("hosts:"));
    let words = hosts.flat_map(str::split_whitespace);
    // What is in brackets says when to go on: `[NOTFOUND=return]`.
    let words = words.filter(|word| !word.contains(['[', '=', ']']));
    words.map(str::to_owned).collect()
}

async fn look_up(
    name: &str,
    servers: &io::Result<NameServers>,
    deadline: Instant,
) -> io::Result<Whereabouts> {
    let asked = Command::new("getent")
        .args(["ahosts", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("getent: {error}")))?;
    let denied = async {
        match servers {
            // Others on the link may answer to it (RFC 6762).
            Ok(_) if name.to_ascii_lowercase().ends_with(".local") => {
                Err(io::Error::other("others on the link may know it"))
            }
            Ok(servers) => servers.deny(name, deadline).await,
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    };
    let (known, denied) = tokio::join!(known(asked, deadline), denied);
    match known? {
        Some(addresses) => Ok(Whereabouts::Addresses(addresses)),
        None => denied.map(|()| Whereabouts::Nowhere),
    }
}

/// What `getent` has found; none where it has not.
async fn known(mut asked: Child, deadline: Instant) -> io::Result<Option<Vec<IpAddr>>> {
    let status = loop {
        match asked.try_wait()? {
            Some(status) => break status,
            None if Instant::now() < deadline => tokio::time::sleep(LOOK_AGAIN).await,
            None => {
                asked.kill()?;
                asked.wait()?;
                let within = KNOWN_WITHIN.as_secs();
                return Err(io::Error::other(format!("no answer within {within} s")));
            }
        }
    };
    let mut answer = String::new();
    if let Some(mut stdout) = asked.stdout.take() {
        stdout.read_to_string(&mut answer)?;
    }
    match status.code() {
        Some(0) => Ok(Some(addresses(&answer)?)),
        // "One or more supplied key could not be found"
        Some(2) => Ok(None),
        _ => Err(io::Error::other(format!("getent: {status}"))),
    }
}

/// Those of a process on another network than Docker: whatever it finds says
/// nothing of what Docker would.
#[derive(Debug)]
pub struct OtherNetwork;

impl Names for OtherNetwork {
    async fn whereabouts(&self, names: &[&str]) -> Vec<io::Result<Whereabouts>> {
        let error = || io::Error::other("this is a sandbox without the host's network");
        names.iter().map(|_| Err(error())).collect()
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
    fn sources_of_hosts_are_read() {
        let text = "passwd: files sss\nhosts:  files mdns4_minimal [NOTFOUND=return] dns # x\n";
        assert_eq!(sources(text), ["files", "mdns4_minimal", "dns"]);
        assert_eq!(
            sources("hosts: resolve [ !UNAVAIL=return SUCCESS=merge ] dns"),
            ["resolve", "dns"]
        );
        let root = tempfile::TempDir::new().unwrap();
        let names = HostNames { root: root.path() };
        assert!(names.name_servers().is_ok());
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let file = root.path().join("etc/nsswitch.conf");
        std::fs::write(&file, "hosts: files wins dns\n").unwrap();
        let error = names.name_servers().unwrap_err();
        assert_eq!(error.to_string(), "wins may know it");
        std::fs::write(&file, text).unwrap();
        assert!(names.name_servers().is_ok());
    }

    #[tokio::test]
    async fn each_name_has_its_answer() {
        let root = Path::new("/");
        let found = HostNames { root }
            .whereabouts(&["localhost", "x.local"])
            .await;
        assert!(
            matches!(&found[0], Ok(Whereabouts::Addresses(addresses)) if addresses[0].is_loopback())
        );
        let error = found[1].as_ref().unwrap_err().to_string();
        assert_eq!(error, "others on the link may know it");
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn only_what_is_seen_is_the_same_network() {
        assert!(shares_network_with(std::process::id()));
        assert!(!shares_network_with(0));
    }
}
