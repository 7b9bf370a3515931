//! What containerd has for Docker, by its own API: each name and each blob, in two
//! requests. dockerd would ask containerd again for each image, some milliseconds each
//! time, and before 27.2 does not list all.
//!
//! gRPC over HTTP/2; of its messages, the few fields that are needed (containerd
//! 1.7, `api/services/images/v1/images.proto`, `content/v1/content.proto`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, TE};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::MAX_ANSWER_BYTES;
use crate::image::digest::Digest;

/// A containerd of its own, and the one that dockerd starts where there is none
/// (moby 26.1, `cmd/dockerd/daemon_unix.go`).
pub(super) const SOCKETS: [&str; 2] = [
    "/run/containerd/containerd.sock",
    "/run/docker/containerd/containerd.sock",
];

/// Docker's, where nothing else is said (`dockerd --containerd-namespace`).
pub(super) const NAMESPACE: &str = "moby";

/// Where the classic builder notes what an image was built from (moby 26.1 to 29,
/// `daemon/containerd/image_builder.go`).
const PARENT: &str = "org.mobyproject.image.parent";

const IMAGES: &str = "/containerd.services.images.v1.Images/List";
const CONTENT: &str = "/containerd.services.content.v1.Content/List";

/// A request for all: an empty message, and its length.
const ALL: &[u8] = &[0; 5];

/// What containerd has in Docker's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Records {
    /// Each name, as it is, with its manifest or index.
    pub images: BTreeMap<String, Digest>,
    /// What other images were built from.
    pub parents: BTreeSet<String>,
    pub blobs: BTreeSet<Digest>,
}

/// Asks for all of it. None where it cannot be read, for any reason.
pub(super) async fn records(socket: &Path, namespace: &str, within: Duration) -> Option<Records> {
    timeout(within, ask_for_records(socket, namespace))
        .await
        .ok()?
}

async fn ask_for_records(socket: &Path, namespace: &str) -> Option<Records> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let shaken = handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut connection, driver) = shaken.ok()?;
    tokio::spawn(driver);
    let images = ask(&mut connection, IMAGES, namespace).await?;
    let content = ask(&mut connection, CONTENT, namespace).await?;
    read(&images, &content)
}

/// The messages of an answer, each with its length.
async fn ask(
    connection: &mut SendRequest<Full<Bytes>>,
    method: &str,
    namespace: &str,
) -> Option<Bytes> {
    let request = Request::post(format!("http://containerd{method}"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header("containerd-namespace", namespace)
        .body(Full::new(Bytes::from_static(ALL)))
        .ok()?;
    let response = connection.send_request(request).await.ok()?;
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
    let body = body.collect().await.ok()?;
    // Without it, what came may not be all.
    let status = body.trailers()?.get("grpc-status")?;
    (status == "0").then(|| body.to_bytes())
}

fn read(images: &[u8], content: &[u8]) -> Option<Records> {
    let mut records = Records::default();
    for message in messages(images)? {
        for image in fields(message, 1)? {
            let name = text(image, 1)?;
            let target = fields(image, 3)?.pop()?;
            let digest = text(target, 2)?.parse().ok()?;
            records.images.insert(name.to_owned(), digest);
            for label in fields(image, 2)? {
                if text(label, 1) == Some(PARENT) {
                    records.parents.extend(text(label, 2).map(str::to_owned));
                }
            }
        }
    }
    for message in messages(content)? {
        for info in fields(message, 1)? {
            records.blobs.insert(text(info, 1)?.parse().ok()?);
        }
    }
    Some(records)
}

fn text(message: &[u8], number: u64) -> Option<&str> {
    std::str::from_utf8(fields(message, number)?.pop()?).ok()
}

/// Splits what was received into messages: a byte that says whether one is
/// compressed, which was not asked for, and four for its length.
fn messages(mut received: &[u8]) -> Option<Vec<&[u8]>> {
    let mut messages = Vec::new();
    while !received.is_empty() {
        let (head, rest) = received.split_first_chunk::<5>()?;
        let [0, length @ ..] = *head else {
            return None;
        };
        let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
        let (message, rest) = rest.split_at_checked(length)?;
        messages.push(message);
        received = rest;
    }
    Some(messages)
}

/// The values of one field of a message, those of a length of their own: text and
/// messages.
fn fields(mut message: &[u8], wanted: u64) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let length = match key & 7 {
            0 => {
                varint(&mut message)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (value, rest) = message.split_at_checked(length)?;
        message = rest;
        if key == wanted << 3 | 2 {
            found.push(value);
        }
    }
    Some(found)
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use super::*;

    /// A field that has a length.
    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2];
        let mut length = value.len();
        while length > 0x7f {
            field.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        field.push(u8::try_from(length).unwrap());
        field.extend(value);
        field
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap();
        [&[0], &length.to_be_bytes()[..], message].concat()
    }

    /// As containerd 1.7 writes them: labels, sizes and times are passed over.
    #[test]
    fn names_and_blobs_are_read() {
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let size = [3 << 3, 0x90, 0x03];
        let target = [
            field(1, b"application/vnd.oci.image.manifest.v1+json"),
            field(2, digest("a").as_bytes()),
            size.to_vec(),
        ]
        .concat();
        let image = [
            field(1, b"docker.io/lab/app:v1"),
            field(
                2,
                &[field(1, PARENT.as_bytes()), field(2, b"its parent")].concat(),
            ),
            field(2, &[field(1, b"key"), field(2, b"value")].concat()),
            field(3, &target),
            field(7, &[1 << 3, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ]
        .concat();
        let images = framed(&field(1, &image));
        let blob = |digit: &str| framed(&field(1, &field(1, digest(digit).as_bytes())));
        // A stream of several.
        let content = [blob("a"), blob("b"), framed(b"")].concat();
        let records = read(&images, &content).unwrap();
        let name = "docker.io/lab/app:v1".to_owned();
        assert_eq!(
            records.images,
            [(name, digest("a").parse().unwrap())].into()
        );
        assert_eq!(records.parents, ["its parent".to_owned()].into());
        let blobs = ["a", "b"].map(|digit| digest(digit).parse().unwrap());
        assert_eq!(records.blobs, blobs.into());
        assert_eq!(read(b"", b""), Some(Records::default()));
        for cut in 1..images.len() {
            assert_eq!(read(&images[..cut], b""), None, "{cut}");
        }
    }

    #[tokio::test]
    async fn where_it_is_not_nothing_is_known() {
        let within = Duration::from_secs(5);
        assert_eq!(
            records(Path::new("/nowhere"), NAMESPACE, within).await,
            None
        );
    }
}
