//! Who listens where, without taking a socket oneself: a service that starts at
//! that very moment would not get its own (`proc_pid_net(5)`, `tcp`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::{fs, io};

/// `TCP_LISTEN` of the kernel's `net/tcp_states.h`.
const LISTENS: &str = "0A";

/// The sockets that listen on the network of a process.
///
/// # Errors
/// When it cannot be looked at.
pub fn listening(pid: u32) -> io::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        match fs::read_to_string(format!("/proc/{pid}/net/{table}")) {
            Ok(text) => found.extend(text.lines().filter_map(listens_at)),
            // A kernel without IPv6.
            Err(error) if table == "tcp6" && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Nobody else can listen at an address where there is this one.
#[must_use]
pub fn takes(listens: SocketAddr, address: SocketAddr) -> bool {
    let is_any = listens.ip().is_unspecified()
        && (listens.is_ipv6() || listens.is_ipv4() == address.is_ipv4());
    let plain = listens.ip().to_canonical();
    listens.port() == address.port() && (is_any || plain == address.ip())
}

fn listens_at(line: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace().skip(1);
    let (local, state) = (words.next()?, words.nth(1)?);
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTENS).then_some(SocketAddr::new(parsed(address)?, port))
}

/// Each four bytes are written as the machine reads them.
fn parsed(address: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let four: Result<[u8; 4], _> = bytes.as_slice().try_into();
    match four {
        Ok(four) => Some(Ipv4Addr::from(four).into()),
        Err(_) => {
            let sixteen: [u8; 16] = bytes.as_slice().try_into().ok()?;
            Some(Ipv6Addr::from(sixteen).into())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn who_listens_is_seen_and_nobody_else() {
        let listener = TcpListener::bind("127.0.0.7:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        let found = listening(std::process::id()).unwrap();
        assert!(found.contains(&address), "{found:?}");
        assert!(!found.contains(&stream.local_addr().unwrap()));
        if let Ok(six) = TcpListener::bind("[::1]:0") {
            let found = listening(std::process::id()).unwrap();
            assert!(found.contains(&six.local_addr().unwrap()), "{found:?}");
        }
        drop((listener, stream));
        assert!(!listening(std::process::id()).unwrap().contains(&address));
        assert!(listening(0).is_err());
    }

    #[test]
    fn who_listens_everywhere_listens_here() {
        let takes = |listens: &str, address: &str| {
            takes(listens.parse().unwrap(), address.parse().unwrap())
        };
        for (listens, address, taken) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:443", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::1]:80", "127.0.0.1:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
        ] {
            assert_eq!(takes(listens, address), taken, "{listens} {address}");
        }
    }
}
