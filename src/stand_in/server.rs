//! The registry itself: some manifests, by their digests, over plain HTTP
//! (distribution-spec 1.1, "Pulling manifests").

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use tokio::task::JoinSet;

use crate::digest::Digest;
use crate::stand_in::{Hindrance, Route, Served, outside};
use crate::systemd::ServiceManager;

const JSON: &str = "application/json";

/// Who asks for a version 2 registry looks for this header (distribution 2.8).
const VERSION: (&str, &str) = ("docker-distribution-api-version", "registry/2.0");

const DIGEST: &str = "docker-content-digest";

/// Between two tries to take a connection, when there is no descriptor left.
const TAKE_AGAIN: Duration = Duration::from_millis(50);

/// Ports below 1024 without a service (IANA, "Service Name and Transport Protocol
/// Port Number Registry").
const NOBODYS_PORTS: RangeInclusive<u16> = 717..=728;

/// Whoever has connected says what is wanted.
const ASKED_WITHIN: Duration = Duration::from_secs(5);

/// Docker pulls a few at a time, and others may ask as well.
const MAX_CONNECTIONS: usize = 64;

/// Sockets that nobody is answered on yet.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<TcpListener>,
    mirror: Option<SocketAddr>,
}

/// A registry that answers until it is dropped.
#[derive(Debug)]
pub struct Serving {
    _tasks: JoinSet<()>,
}

impl Listeners {
    /// Takes all that a route needs.
    ///
    /// # Errors
    /// [`Hindrance::Taken`] when somebody else has it.
    pub fn bind(route: &Route) -> Result<Self, Hindrance> {
        let sockets = listen_all(&addresses(route));
        let sockets = sockets.map_err(|(address, error)| Hindrance::Taken { address, error })?;
        Ok(Self::of(sockets, route))
    }

    /// The same from within a sandbox, where `dockerd` is on another network than
    /// this process.
    ///
    /// # Errors
    /// [`Hindrance::Outside`] when they are not to be had.
    pub async fn from_outside(
        route: &Route,
        manager: &impl ServiceManager,
        dockerd: u32,
    ) -> Result<Self, Hindrance> {
        let sockets = outside::listen(manager, dockerd, &addresses(route)).await;
        Ok(Self::of(sockets.map_err(Hindrance::Outside)?, route))
    }

    fn of(sockets: Vec<TcpListener>, route: &Route) -> Self {
        let addresses = sockets.iter().filter_map(|socket| socket.local_addr().ok());
        // Its port is any but those that are asked for.
        let mut mirror = addresses.filter(|address| !route.listen.contains(address));
        Self {
            mirror: mirror.next().filter(|_| route.mirror),
            sockets,
        }
    }

    /// The mirror's address, as daemon.json is to have it.
    #[must_use]
    pub fn mirror(&self) -> Option<String> {
        Some(format!("http://{}", self.mirror?))
    }

    /// Answers everybody who asks, with these manifests.
    ///
    /// # Errors
    /// When the runtime does not take the sockets.
    pub fn serve(self, manifests: BTreeMap<Digest, Served>) -> io::Result<Serving> {
        let manifests = Arc::new(manifests);
        let mut tasks = JoinSet::new();
        for socket in self.sockets {
            socket.set_nonblocking(true)?;
            let socket = tokio::net::TcpListener::from_std(socket)?;
            tasks.spawn(answer_all(socket, Arc::clone(&manifests)));
        }
        Ok(Serving { _tasks: tasks })
    }
}

fn addresses(route: &Route) -> Vec<SocketAddr> {
    let any = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let mirror = route.mirror.then_some(any);
    route.listen.iter().copied().chain(mirror).collect()
}

/// Takes sockets; which of them cannot be had, if one cannot.
pub(super) fn listen_all(
    addresses: &[SocketAddr],
) -> Result<Vec<TcpListener>, (SocketAddr, io::Error)> {
    let mut sockets = Vec::new();
    for address in addresses {
        let bound = match address.port() {
            0 => bind_somewhere(address.ip()),
            _ => TcpListener::bind(address),
        };
        match bound {
            Ok(socket) => sockets.push(socket),
            // A host without IPv6 does not lead there either.
            Err(error) if address.is_ipv6() && is_missing(&error) => {}
            Err(error) => return Err((*address, error)),
        }
    }
    Ok(sockets)
}

/// Where nobody but root answers once this process has ended, whatever Docker is
/// still led to.
fn bind_somewhere(ip: IpAddr) -> io::Result<TcpListener> {
    let mut privileged = NOBODYS_PORTS.filter_map(|port| TcpListener::bind((ip, port)).ok());
    match privileged.next() {
        Some(socket) => Ok(socket),
        None => TcpListener::bind((ip, 0)),
    }
}

fn is_missing(error: &io::Error) -> bool {
    let missing = [Errno::EADDRNOTAVAIL, Errno::EAFNOSUPPORT];
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.is_some_and(|errno| missing.contains(&errno))
}

async fn answer_all(socket: tokio::net::TcpListener, manifests: Arc<BTreeMap<Digest, Served>>) {
    // They end with this task.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = socket.accept().await else {
            tokio::time::sleep(TAKE_AGAIN).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        if connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        let manifests = Arc::clone(&manifests);
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let answer = answer(request.method(), request.uri().path(), &manifests);
                async { Ok::<_, Infallible>(answer) }
            });
            // Whoever speaks TLS is told that it is spoken plainly here.
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(ASKED_WITHIN)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!("a connection to the registry: {error}");
            }
        });
    }
}

fn answer(
    method: &Method,
    path: &str,
    manifests: &BTreeMap<Digest, Served>,
) -> Response<Full<Bytes>> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if reads && path == "/v2/" {
        return response(StatusCode::OK, JSON, b"{}");
    }
    let digest = path
        .strip_prefix("/v2/")
        .and_then(|path| path.rsplit_once("/manifests/"))
        .and_then(|(_, digest)| digest.parse().ok())
        .filter(|_| reads);
    let Some((digest, served)) = digest.and_then(|digest| manifests.get_key_value(&digest)) else {
        let unknown =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not served by digestfix"}]}"#;
        return response(StatusCode::NOT_FOUND, JSON, unknown);
    };
    let mut found = response(StatusCode::OK, served.media_type, served.text.as_bytes());
    if let Ok(digest) = HeaderValue::from_str(&digest.to_string()) {
        found.headers_mut().insert(DIGEST, digest);
    }
    found
}

fn response(status: StatusCode, media_type: &'static str, body: &[u8]) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(VERSION.0, HeaderValue::from_static(VERSION.1));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use std::collections::BTreeSet;

    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::digest::Algorithm;

    const TEXT: &str = r#"{"schemaVersion":2}"#;

    fn digest() -> Digest {
        Digest::of(Algorithm::Sha256, TEXT.as_bytes())
    }

    fn manifests() -> BTreeMap<Digest, Served> {
        let served = Served {
            media_type: "application/vnd.oci.image.index.v1+json",
            text: TEXT.into(),
        };
        [(digest(), served)].into()
    }

    /// What comes back for these bytes.
    async fn asked(address: SocketAddr, bytes: &[u8]) -> String {
        let bytes = bytes.to_owned();
        let ask = move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&bytes).unwrap();
            let mut answer = Vec::new();
            // A connection that is reset has said all that it says.
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        };
        tokio::task::spawn_blocking(ask).await.unwrap()
    }

    #[tokio::test]
    async fn manifests_are_served_by_their_digest_and_nothing_else_is() {
        let route = Route {
            mirror: true,
            ..Route::default()
        };
        let listeners = Listeners::bind(&route).unwrap();
        let url = listeners.mirror().unwrap();
        let address: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let serving = listeners.serve(manifests()).unwrap();
        let get = async |method: &str, path: &str| {
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            asked(address, request.as_bytes()).await
        };
        assert!(get("GET", "/v2/").await.starts_with("HTTP/1.1 200"));
        let path = format!("/v2/lab/app/manifests/{}", digest());
        let found = get("GET", &path).await;
        assert!(
            found.starts_with("HTTP/1.1 200") && found.ends_with(TEXT),
            "{found}"
        );
        assert!(found.contains("content-type: application/vnd.oci.image.index.v1+json"));
        let head = get("HEAD", &path).await;
        assert!(
            head.contains(&format!("content-length: {}", TEXT.len())),
            "{head}"
        );
        assert!(!head.contains(TEXT));
        for (method, path) in [
            ("GET", "/"),
            ("GET", "/v2/lab/app/manifests/latest"),
            ("GET", "/v2/_catalog"),
            ("PUT", path.as_str()),
        ] {
            assert!(
                get(method, path).await.starts_with("HTTP/1.1 404"),
                "{path}"
            );
        }
        // A TLS client's first bytes.
        let refused = asked(
            address,
            b"\x16\x03\x01\x00\xf0\x01\x00\x00\xec\x03\x03\r\n\r\n",
        )
        .await;
        assert!(!refused.contains(" 200 "), "{refused}");
        drop(serving);
        tokio::task::yield_now().await;
        assert!(TcpStream::connect(address).is_err(), "nobody is left");
    }

    #[tokio::test]
    async fn whoever_says_nothing_is_in_nobodys_way() {
        let route = Route {
            mirror: true,
            ..Route::default()
        };
        let listeners = Listeners::bind(&route).unwrap();
        let address = listeners.mirror.unwrap();
        let _serving = listeners.serve(manifests()).unwrap();
        let silent: Vec<_> = (0..=MAX_CONNECTIONS)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let request = b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let asked = tokio::spawn(asked(address, request));
        tokio::time::pause();
        while !asked.is_finished() {
            tokio::time::advance(ASKED_WITHIN / 4).await;
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(asked.await.unwrap().starts_with("HTTP/1.1 200"));
        drop(silent);
    }

    #[test]
    fn nobody_else_is_answered_by_where_root_can_bind() {
        let route = Route {
            mirror: true,
            ..Route::default()
        };
        let of = || Listeners::bind(&route).unwrap();
        let (first, second) = (of(), of());
        let port = |listeners: &Listeners| listeners.mirror.unwrap().port();
        assert_ne!(port(&first), port(&second));
        if nix::unistd::geteuid().is_root() {
            assert!(NOBODYS_PORTS.contains(&port(&first)));
        }
    }

    #[test]
    fn what_somebody_else_has_is_not_taken() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let route = Route {
            listen: BTreeSet::from([address]),
            ..Route::default()
        };
        let refused = Listeners::bind(&route).unwrap_err();
        assert!(matches!(refused, Hindrance::Taken { .. }), "{refused}");
        drop(taken);
        assert!(Listeners::bind(&route).is_ok());
    }
}
