//! Whether the name servers of this host deny that there is a name.
//!
//! The C library says the same of a name that does not exist and of a server that
//! has not answered (`EAI_AGAIN`; `getent` ends with 2 for either), so each server
//! is asked here once more, for all that a name may stand for
//! (`resolv.conf(5)`, RFC 1035).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// Datagrams get lost.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Go's resolver and glibc's ask here when they are told of nobody.
const DEFAULT_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The stubs of systemd-resolved (`systemd-resolved.service(8)`), which say no
/// more than that something failed where they have nobody to ask.
const STUBS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54)),
];

/// What stands behind the stubs.
const BEHIND_STUBS: &str = "run/systemd/resolve/resolv.conf";

/// Where it is known which servers are for which link.
const LINKS: [&str; 2] = ["run/systemd/resolve/netif", "run/systemd/netif/links"];

const PORT: u16 = 53;

/// The types of addresses: A and AAAA (RFC 1035 and 3596).
const TYPES: [u16; 2] = [1, 28];

/// Longer answers are of no interest.
const MAX_ANSWER: usize = 4096;

/// The name servers, and what is added to a name when they are asked for it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NameServers {
    servers: BTreeSet<SocketAddr>,
    search: BTreeSet<String>,
    /// Nobody was named, and nobody has to be there.
    is_default: bool,
    /// systemd-resolved is among them, which asks others on a link as well.
    is_resolved: bool,
    /// It has nobody to ask, and fails.
    has_idle_stub: bool,
}

impl NameServers {
    /// Those that a host is told of. `by_resolved` if it asks systemd-resolved
    /// whatever `resolv.conf` says.
    pub(super) fn read(root: &Path, by_resolved: bool) -> io::Result<Self> {
        let mut found = Self::default();
        found.add(&root.join("etc/resolv.conf"))?;
        if found.servers.is_empty() {
            found.servers.insert(SocketAddr::new(DEFAULT_SERVER, PORT));
            found.is_default = true;
        }
        if found.search.is_empty() {
            found.search.extend(own_domain(root));
        }
        let behind = root.join(BEHIND_STUBS);
        let has_stub = found.servers.iter().any(|one| STUBS.contains(&one.ip()));
        if has_stub || by_resolved {
            // It alone knows which name is for which link's servers.
            found.servers.insert(SocketAddr::new(STUBS[0], PORT));
            found.is_resolved = true;
            let others = found.servers.len();
            found.add(&behind)?;
            found.has_idle_stub = found.servers.len() == others && !any_link_has_servers(root)?;
        }
        Ok(found)
    }

    fn add(&mut self, file: &Path) -> io::Result<()> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().unwrap_or_default().parse().map_err(|_| {
                        io::Error::other(format!("{} has {line:?}", file.display()))
                    })?;
                    self.servers.insert(SocketAddr::new(address, PORT));
                }
                Some("search" | "domain") => self.search.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Each of them denies that there is an address for the name, or there is no
    /// way to it. One that is named and refuses may be about to start again.
    ///
    /// # Errors
    /// When one does not, or has not answered by then.
    pub(super) async fn deny(&self, name: &str, deadline: Instant) -> io::Result<()> {
        if self.is_resolved && !name.contains('.') {
            return Err(io::Error::other("others on the link may know it"));
        }
        let searched = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let names: Vec<String> = [name.to_owned()].into_iter().chain(searched).collect();
        let mut asked = tokio::task::JoinSet::new();
        for server in self.servers.iter().copied() {
            let (names, is_default) = (names.clone(), self.is_default);
            let is_idle = self.has_idle_stub && STUBS.contains(&server.ip());
            asked.spawn(async move {
                match timeout_at(deadline, ask(server, &names)).await {
                    Ok(Err(error)) if is_idle && is_failure(&error) => Ok(()),
                    Ok(Err(error)) if is_out_of_reach(&error) => Ok(()),
                    Ok(Err(error)) if is_default && has(&error, Errno::ECONNREFUSED) => Ok(()),
                    Ok(Err(error)) => Err(io::Error::other(format!("{}: {error}", server.ip()))),
                    Ok(Ok(())) => Ok(()),
                    Err(_) => Err(io::Error::other(format!("{} does not answer", server.ip()))),
                }
            });
        }
        while let Some(denied) = asked.join_next().await {
            denied.map_err(io::Error::other)??;
        }
        Ok(())
    }
}

/// Docker would not get there either: a connected socket is told at once.
fn is_out_of_reach(error: &io::Error) -> bool {
    let errnos = [
        Errno::ENETUNREACH,
        Errno::EADDRNOTAVAIL,
        Errno::EAFNOSUPPORT,
    ];
    errnos.into_iter().any(|errno| has(error, errno))
}

fn has(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error().map(Errno::from_raw) == Some(errno)
}

/// Asks until there is an answer to all; an answer that denies nothing is an
/// error.
async fn ask(server: SocketAddr, names: &[String]) -> io::Result<()> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let questions = names
        .iter()
        .flat_map(|name| TYPES.map(|kind| question(name, kind)));
    let first = first_id();
    let mut open = BTreeMap::new();
    for (number, question) in (0u16..).zip(questions) {
        open.insert(first.wrapping_add(number), question?);
    }
    let mut answer = [0; MAX_ANSWER];
    while !open.is_empty() {
        for (id, question) in &open {
            socket
                .send(&[&id.to_be_bytes(), &question[..]].concat())
                .await?;
        }
        let again = Instant::now() + ASK_AGAIN;
        while !open.is_empty() {
            let Ok(length) = timeout_at(again, socket.recv(&mut answer)).await else {
                break;
            };
            let answer = answer.get(..length?).unwrap_or_default();
            if let Some(id) = denied(answer, &open)? {
                open.remove(&id);
            }
        }
    }
    Ok(())
}

/// Nobody is to be fooled but by chance: the socket takes from the server alone.
fn first_id() -> u16 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let nanoseconds = now.unwrap_or_default().subsec_nanos();
    (nanoseconds >> 8) as u16
}

/// A question without the ID before it (RFC 1035, 4.1).
fn question(name: &str, kind: u16) -> io::Result<Vec<u8>> {
    const RECURSION_DESIRED: u16 = 0x0100;
    const INTERNET: u16 = 1;
    let mut bytes = Vec::new();
    for word in [RECURSION_DESIRED, 1, 0, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok();
        let Some(length) = length.filter(|length| (1..64).contains(length)) else {
            return Err(io::Error::other(format!("{name} is no name")));
        };
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(INTERNET.to_be_bytes());
    Ok(bytes)
}

/// The open question that an answer denies, if it is one to such.
fn denied(answer: &[u8], open: &BTreeMap<u16, Vec<u8>>) -> io::Result<Option<u16>> {
    const IS_ANSWER: u16 = 0x8000;
    const IS_CUT: u16 = 0x0200;
    let word = |at: usize| {
        let bytes = answer.get(at..at + 2)?;
        Some(u16::from_be_bytes(bytes.try_into().ok()?))
    };
    let (Some(id), Some(flags), Some(found)) = (word(0), word(2), word(6)) else {
        return Ok(None);
    };
    if flags & IS_ANSWER == 0 || !open.contains_key(&id) {
        return Ok(None);
    }
    match (flags & 0x000f, found) {
        // "Name Error", or the name has no address of this type.
        (3, _) => Ok(Some(id)),
        (0, 0) if flags & IS_CUT == 0 => Ok(Some(id)),
        (0, _) => Err(io::Error::other("it knows an address")),
        (code, _) => Err(io::Error::other(Fails(code))),
    }
}

/// What a server answers that cannot find out (RFC 1035, 4.1.1).
#[derive(Debug, thiserror::Error)]
#[error("it fails with code {0}")]
struct Fails(u16);

fn is_failure(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<Fails>())
}

/// What resolvers add to a name where they are told nothing (`resolv.conf(5)`).
fn own_domain(root: &Path) -> Option<String> {
    let name = std::fs::read_to_string(root.join("proc/sys/kernel/hostname")).ok()?;
    let (_, domain) = name.trim().split_once('.')?;
    Some(domain.to_owned())
}

/// systemd-resolved has name servers for some link: such that somebody has given
/// it, or systemd-networkd (`sd-network`, `networkd-link.c`).
fn any_link_has_servers(root: &Path) -> io::Result<bool> {
    for directory in LINKS {
        let links = match std::fs::read_dir(root.join(directory)) {
            Ok(links) => links,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for link in links {
            let text = std::fs::read_to_string(link?.path())?;
            let mut lines = text.lines().filter_map(|line| line.split_once('='));
            if lines.any(|(key, value)| ["SERVERS", "DNS"].contains(&key) && !value.is_empty()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    const SOON: Duration = Duration::from_millis(300);

    /// What a server answers with: flags and the number of addresses; none for
    /// one that does not.
    async fn denied_by(says: Option<(u16, u16)>, search: &[&str]) -> io::Result<usize> {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let servers = NameServers {
            servers: [server.local_addr().unwrap()].into(),
            search: search.iter().map(ToString::to_string).collect(),
            ..NameServers::default()
        };
        let answers = async {
            let mut buffer = [0; 512];
            let mut asked = 0;
            loop {
                let (_, from) = server.recv_from(&mut buffer).await.unwrap();
                let Some((flags, found)) = says else { continue };
                asked += 1;
                buffer[2..4].copy_from_slice(&flags.to_be_bytes());
                buffer[6..8].copy_from_slice(&found.to_be_bytes());
                server.send_to(&buffer[..12], from).await.unwrap();
                if asked == TYPES.len() * (1 + search.len()) {
                    return asked;
                }
            }
        };
        let deadline = Instant::now() + SOON;
        let (denied, asked) = tokio::join!(
            servers.deny("r.example", deadline),
            tokio::time::timeout(SOON, answers)
        );
        denied.map(|()| asked.unwrap())
    }

    #[tokio::test]
    async fn only_a_server_that_denies_it_denies_it() {
        assert_eq!(denied_by(Some((0x8183, 0)), &[]).await.unwrap(), 2);
        assert_eq!(
            denied_by(Some((0x8180, 0)), &["lan", "corp"])
                .await
                .unwrap(),
            6
        );
        for (says, why) in [
            (None, "127.0.0.1 does not answer"),
            (Some((0x8180, 1)), "127.0.0.1: it knows an address"),
            (Some((0x8380, 0)), "127.0.0.1: it knows an address"),
            (Some((0x8182, 0)), "127.0.0.1: it fails with code 2"),
            (Some((0x8185, 0)), "127.0.0.1: it fails with code 5"),
            // A question.
            (Some((0x0103, 0)), "127.0.0.1 does not answer"),
        ] {
            let error = denied_by(says, &[]).await.unwrap_err();
            assert_eq!(error.to_string(), why, "{says:?}");
        }
    }

    #[tokio::test]
    async fn nobody_there_knows_nothing() {
        let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = gone.local_addr().unwrap();
        drop(gone);
        let mut servers = NameServers::default();
        let deadline = Instant::now() + SOON;
        assert!(servers.deny("r.example", deadline).await.is_ok());
        servers.servers.insert(address);
        let refuses = servers.deny("r.example", deadline).await;
        assert!(refuses.is_err(), "it may be back in a moment");
        servers.is_default = true;
        assert!(servers.deny("r.example", deadline).await.is_ok());
        let strange = servers.deny(&"x".repeat(64), deadline).await;
        assert!(strange.is_err());
    }

    #[tokio::test]
    async fn a_stub_with_nobody_to_ask_may_fail() {
        let stub = UdpSocket::bind((STUBS[0], 0)).await.unwrap();
        let mut servers = NameServers {
            servers: [stub.local_addr().unwrap()].into(),
            ..NameServers::default()
        };
        let fails = async {
            let mut buffer = [0; 512];
            loop {
                let (_, from) = stub.recv_from(&mut buffer).await.unwrap();
                buffer[2..4].copy_from_slice(&0x8182u16.to_be_bytes());
                stub.send_to(&buffer[..12], from).await.unwrap();
            }
        };
        let denied = async {
            let deadline = Instant::now() + SOON;
            assert!(servers.deny("r.example", deadline).await.is_err());
            servers.has_idle_stub = true;
            assert!(servers.deny("r.example", deadline).await.is_ok());
        };
        tokio::select! {
            () = fails => unreachable!(),
            () = denied => {}
        }
    }

    #[tokio::test]
    async fn what_others_on_the_link_may_know_is_not_denied() {
        let deadline = Instant::now() + SOON;
        let servers = NameServers {
            is_resolved: true,
            ..NameServers::default()
        };
        assert!(servers.deny("registry", deadline).await.is_err());
        assert!(servers.deny("r.example", deadline).await.is_ok());
    }

    #[test]
    fn those_behind_the_stub_are_asked_as_well() {
        let root = TempDir::new().unwrap();
        let servers = |by_resolved| {
            let read = NameServers::read(root.path(), by_resolved).unwrap();
            let servers = read.servers.iter().map(|one| one.ip().to_string());
            (
                servers.collect::<Vec<_>>().join(" "),
                read.search.into_iter().collect::<Vec<_>>().join(" "),
            )
        };
        let is = |servers: &str, search: &str| (servers.to_owned(), search.to_owned());
        assert_eq!(servers(false), is("127.0.0.1", ""), "as the resolvers do");
        fs::create_dir(root.path().join("etc")).unwrap();
        let resolv_conf = root.path().join("etc/resolv.conf");
        fs::write(
            &resolv_conf,
            "# x\nnameserver 10.0.0.1\nsearch lan corp\noptions ndots:2\nnameserver fe80::1\n",
        )
        .unwrap();
        assert_eq!(servers(true), is("10.0.0.1 127.0.0.53 fe80::1", "corp lan"));
        let behind = root.path().join(BEHIND_STUBS);
        fs::create_dir_all(behind.parent().unwrap()).unwrap();
        fs::write(&behind, "nameserver 10.0.0.2\nsearch home\n").unwrap();
        assert_eq!(servers(false), is("10.0.0.1 fe80::1", "corp lan"));
        assert_eq!(
            servers(true),
            is("10.0.0.1 10.0.0.2 127.0.0.53 fe80::1", "corp home lan")
        );
        fs::write(&resolv_conf, "nameserver 127.0.0.53\n").unwrap();
        assert_eq!(servers(false), is("10.0.0.2 127.0.0.53", "home"));
        let is_idle = || NameServers::read(root.path(), false).unwrap().has_idle_stub;
        assert!(!is_idle());
        fs::write(&behind, "# nobody\n").unwrap();
        assert_eq!(servers(false), is("127.0.0.53", ""));
        assert!(is_idle(), "it has nobody to ask");
        // What is for some names alone is not in the file.
        for directory in LINKS {
            let link = root.path().join(directory).join("2");
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            fs::write(&link, "SERVERS=\nDNS=10.0.0.3\nDOMAINS=~corp\n").unwrap();
            assert!(!is_idle(), "{directory}");
            fs::write(&link, "SERVERS=\nDNS=\n").unwrap();
            assert!(is_idle(), "{directory}");
        }
        fs::create_dir_all(root.path().join("proc/sys/kernel")).unwrap();
        let hostname = root.path().join("proc/sys/kernel/hostname");
        fs::write(hostname, "host.own.domain\n").unwrap();
        assert_eq!(servers(false), is("127.0.0.53", "own.domain"));
        fs::write(&resolv_conf, "nameserver fe80::1%eth0\n").unwrap();
        assert!(NameServers::read(root.path(), false).is_err());
    }
}
