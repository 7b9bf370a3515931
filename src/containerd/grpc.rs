//! gRPC calls over a Unix socket, with limits on the time and the size of an answer.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HeaderMap, TE};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::containerd::ContainerdError;

/// The maximum size of an answer, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// The maximum number of characters to show of containerd's error message.
const MAX_SAID: usize = 1000;

/// The length of a message's header. One byte of the header shows whether the message is
/// compressed, and four bytes contain the message's length.
const HEAD: usize = 5;

/// A connection to containerd. The first call opens the connection. If a call gets no
/// answer, the next call opens a new connection.
pub(super) struct Channel {
    socket: PathBuf,
    within: Duration,
    open: RefCell<Option<SendRequest<Full<Bytes>>>>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.socket.display())
    }
}

impl Channel {
    pub fn new(socket: &Path, within: Duration) -> Self {
        Self {
            socket: socket.to_owned(),
            within,
            open: RefCell::default(),
        }
    }

    /// Calls a method (`/package.Service/Method`), and returns the messages of its
    /// answer.
    pub async fn call<A: Message + Default>(
        &self,
        call: &'static str,
        namespace: Option<&str>,
        request: &impl Message,
    ) -> Result<Vec<A>, ContainerdError> {
        let answered = timeout(self.within, self.send(call, namespace, request)).await;
        let answered = answered.unwrap_or_else(|_| {
            Err(self.unanswered(
                call,
                format!("no answer within {} s", self.within.as_secs()),
            ))
        });
        match &answered {
            Ok(_) | Err(ContainerdError::Refused { .. } | ContainerdError::Answer { .. }) => {}
            Err(_) => *self.open.borrow_mut() = None,
        }
        let received = answered?;
        messages(&received).map_err(|problem| ContainerdError::Answer {
            socket: self.socket.clone(),
            call,
            problem,
        })
    }

    /// Calls a method whose answer is one message.
    pub async fn call_one<A: Message + Default>(
        &self,
        call: &'static str,
        namespace: Option<&str>,
        request: &impl Message,
    ) -> Result<A, ContainerdError> {
        let mut answers = self.call(call, namespace, request).await?;
        match (answers.pop(), answers.is_empty()) {
            (Some(answer), true) => Ok(answer),
            _ => Err(self.unusable(call, "not one message")),
        }
    }

    pub fn unusable(&self, call: &'static str, problem: impl Into<String>) -> ContainerdError {
        ContainerdError::Answer {
            socket: self.socket.clone(),
            call,
            problem: problem.into(),
        }
    }

    fn unanswered(&self, call: &'static str, problem: impl fmt::Display) -> ContainerdError {
        ContainerdError::Unanswered {
            socket: self.socket.clone(),
            call,
            problem: problem.to_string(),
        }
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, ContainerdError> {
        let open = self.open.borrow().clone();
        if let Some(open) = open.filter(|open| !open.is_closed()) {
            return Ok(open);
        }
        let unreachable = |error| ContainerdError::Unreachable {
            socket: self.socket.clone(),
            error,
        };
        let stream = UnixStream::connect(&self.socket).await;
        let stream = TokioIo::new(stream.map_err(unreachable)?);
        let shaken = handshake(TokioExecutor::new(), stream).await;
        let (connection, driver) =
            shaken.map_err(|error| unreachable(std::io::Error::other(error)))?;
        tokio::spawn(driver);
        *self.open.borrow_mut() = Some(connection.clone());
        Ok(connection)
    }

    async fn send(
        &self,
        call: &'static str,
        namespace: Option<&str>,
        request: &impl Message,
    ) -> Result<Bytes, ContainerdError> {
        let mut connection = self.connection().await?;
        let mut head = Request::post(format!("http://containerd{call}"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers");
        if let Some(namespace) = namespace {
            head = head.header("containerd-namespace", namespace);
        }
        let body = Full::new(Bytes::from(framed(request)));
        let request = head
            .body(body)
            .map_err(|error| self.unanswered(call, error))?;
        let response = connection.send_request(request).await;
        let response = response.map_err(|error| self.unanswered(call, error))?;
        if response.status() != StatusCode::OK {
            return Err(self.unusable(call, format!("HTTP {}", response.status())));
        }
        // If an answer has no message, its status is in the HTTP headers.
        if response.headers().contains_key(STATUS) {
            self.judge(call, response.headers())?;
            return Ok(Bytes::new());
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let body = body.collect().await;
        let body = body.map_err(
            |error| match error.is::<http_body_util::LengthLimitError>() {
                true => self.unusable(call, format!("more than {MAX_ANSWER_BYTES} bytes")),
                false => self.unanswered(call, error),
            },
        )?;
        match body.trailers() {
            Some(trailers) => self.judge(call, trailers)?,
            // An answer without trailers may be incomplete.
            None => return Err(self.unanswered(call, "the answer is incomplete")),
        }
        Ok(body.to_bytes())
    }

    /// Checks the status of a call, which is in the trailers or headers of its answer.
    fn judge(&self, call: &'static str, fields: &HeaderMap) -> Result<(), ContainerdError> {
        let code = fields.get(STATUS).and_then(|code| code.to_str().ok());
        match code.map(str::parse) {
            Some(Ok(0)) => Ok(()),
            Some(Ok(code)) => Err(ContainerdError::Refused {
                socket: self.socket.clone(),
                call,
                code,
                said: said(fields).unwrap_or_else(|| format!("code {code}")),
            }),
            _ => Err(self.unanswered(call, "the answer has no status")),
        }
    }
}

const STATUS: &str = "grpc-status";

/// containerd's error message, percent-decoded.
fn said(fields: &HeaderMap) -> Option<String> {
    let text = fields.get("grpc-message")?.to_str().ok()?;
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let code = part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    Some(text.chars().take(MAX_SAID).collect()).filter(|text: &String| !text.is_empty())
}

fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let mut framed = Vec::with_capacity(HEAD + message.len());
    framed.push(0);
    // The length always fits into four bytes, because digestfix's requests are short.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&message);
    framed
}

/// Splits the bytes of an answer into messages.
fn messages<A: Message + Default>(mut received: &[u8]) -> Result<Vec<A>, String> {
    let mut messages = Vec::new();
    while !received.is_empty() {
        let cut = || "a message is cut off".to_owned();
        let (head, rest) = received.split_first_chunk::<HEAD>().ok_or_else(cut)?;
        let [0, length @ ..] = *head else {
            return Err(
                "a message is compressed, although digestfix did not ask for compression"
                    .to_owned(),
            );
        };
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let (message, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        messages.push(A::decode(message).map_err(|error| error.to_string())?);
        received = rest;
    }
    Ok(messages)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;
    use crate::containerd::messages::{Image, Images};

    fn images() -> Images {
        let image = Image {
            name: "docker.io/lab/app:v1".to_owned(),
            labels: [("key".to_owned(), "value".to_owned())].into(),
            target: None,
        };
        Images {
            images: vec![image; 3],
        }
    }

    #[test]
    fn an_answer_that_is_cut_off_is_none() {
        let whole = framed(&images());
        let twice = [&whole[..], &whole].concat();
        let read = messages::<Images>(&twice).unwrap();
        assert_eq!(read, [images(), images()]);
        for cut in 1..whole.len() {
            messages::<Images>(&whole[..cut]).unwrap_err();
        }
        assert!(messages::<Images>(&[]).unwrap().is_empty());
    }

    #[test]
    fn what_is_compressed_or_no_message_is_refused() {
        let mut compressed = framed(&images());
        compressed[0] = 1;
        messages::<Images>(&compressed).unwrap_err();
        // Field 1 claims to have more bytes than the message has.
        let lies = [0, 0, 0, 0, 2, 0x0a, 0x7f];
        messages::<Images>(&lies).unwrap_err();
        // Field 1 is a name that is not valid UTF-8.
        let odd = [0, 0, 0, 0, 5, 0x0a, 3, 0x0a, 1, 0xff];
        messages::<Images>(&odd).unwrap_err();
    }

    #[test]
    fn a_refusal_is_told_in_containerds_words() {
        let mut fields = HeaderMap::new();
        assert_eq!(said(&fields), None);
        for (sent, expected) in [
            ("image %22a%22: not found", "image \"a\": not found"),
            ("100%", "100%"),
            ("%zz", "%zz"),
            ("%ff", "\u{fffd}"),
        ] {
            fields.insert("grpc-message", HeaderValue::from_str(sent).unwrap());
            assert_eq!(said(&fields).unwrap(), expected);
        }
        fields.insert(
            "grpc-message",
            HeaderValue::from_str(&"x".repeat(MAX_SAID + 1)).unwrap(),
        );
        assert_eq!(said(&fields).unwrap().len(), MAX_SAID);
    }
}
