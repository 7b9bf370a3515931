//! Loads image archives in pieces, so that an archive is never completely in memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use hyper::client::conn::http1::handshake;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc::Receiver;

use super::UnixEngine;
use super::images::{LOAD, escaped, failed, in_path, loaded, told};
use crate::docker::engine::EngineError;
use crate::image::reference::{Reference, Tag};

/// An archive as the body of a request.
struct Pieces(Receiver<io::Result<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = self.0.poll_recv(context);
        next.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

impl UnixEngine {
    /// Gives an image an additional tag.
    pub async fn tag(&self, image: &Reference, tag: &Reference) -> Result<(), EngineError> {
        let name = tag.tag().map(Tag::as_str).unwrap_or_default();
        let repository = escaped(&tag.repository().familiar());
        let path = format!(
            "/images/{}/tag?repo={repository}&tag={name}",
            in_path(image)
        );
        match self.request(Method::POST, &path, Bytes::new()).await? {
            (StatusCode::CREATED, _) => Ok(()),
            (status, answer) => Err(self.refused(&path, status, &answer)),
        }
    }

    /// Loads an archive that arrives in pieces, and returns the names of the images that
    /// the engine loaded. If the load fails, the engine may still have loaded some
    /// images. There is no timeout, because a load can take long.
    pub async fn load_pieces(
        &self,
        archive: Receiver<io::Result<Bytes>>,
    ) -> Result<Vec<String>, EngineError> {
        let (_, version) = self.within(LOAD, self.negotiate()).await?;
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|error| EngineError::Unreachable {
            socket: self.socket.clone(),
            error,
        })?;
        let shaken = handshake::<_, Pieces>(TokioIo::new(stream)).await;
        let (mut connection, driver) = shaken.map_err(|error| self.answer(LOAD, error))?;
        tokio::spawn(driver);
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{version}{LOAD}"))
            .header(HOST, "docker")
            .header(CONTENT_TYPE, "application/x-tar")
            .body(Pieces(archive))
            .map_err(|error| self.answer(LOAD, error))?;
        let answer = connection.send_request(request).await;
        let answer = answer.map_err(|error| self.unanswered(LOAD, error))?;
        let status = answer.status();
        let said = self.body(LOAD, answer).await?;
        match (status, failed(&said)) {
            (StatusCode::OK, None) => Ok(loaded(&said)),
            (StatusCode::OK, Some(problem)) => Err(self.answer(LOAD, problem)),
            (status, _) => Err(self.answer(LOAD, format_args!("{status}: {}", told(&said)))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use super::*;

    /// Test double of an engine that reads a whole archive, and then answers with `says`.
    fn engine(listener: &UnixListener, says: &str) -> usize {
        let mut taken = 0;
        for (answer, stream) in ["", says].into_iter().zip(listener.incoming()) {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 9000];
            let mut end = Vec::new();
            while !end.ends_with(if answer.is_empty() {
                b"\r\n\r\n"
            } else {
                b"0\r\n\r\n"
            }) {
                let read = stream.read(&mut bytes).unwrap();
                taken += read;
                end.extend_from_slice(&bytes[..read]);
            }
            let head = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nConnection: close\r\n";
            let length = answer.len();
            let whole = format!("{head}Content-Length: {length}\r\n\r\n{answer}");
            stream.write_all(whole.as_bytes()).unwrap();
        }
        taken
    }

    #[test]
    fn an_archive_goes_in_pieces_and_what_was_loaded_is_told() {
        const PIECES: usize = 300;
        for (says, expected) in [
            (
                "{\"stream\":\"Loaded image: a:1\\n\"}\n{\"stream\":\"Loaded image ID: sha256:9\\n\"}",
                Ok(vec!["a:1".to_owned(), "sha256:9".to_owned()]),
            ),
            (
                "{\"stream\":\"Loaded image: a:1\\n\"}\n{\"errorDetail\":{\"message\":\"no space\"},\"error\":\"no space\"}",
                Err(()),
            ),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let socket = directory.path().join("docker.sock");
            let listener = UnixListener::bind(&socket).unwrap();
            let engine = std::thread::spawn(move || engine(&listener, says));
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let (sender, pieces) = tokio::sync::mpsc::channel(2);
            std::thread::spawn(move || {
                for _ in 0..PIECES {
                    let piece = Bytes::from(vec![7; 10_000]);
                    sender.blocking_send(Ok(piece)).unwrap();
                }
            });
            let answer = runtime
                .block_on(UnixEngine::new(&socket, Duration::from_secs(5)).load_pieces(pieces));
            match expected {
                Ok(names) => assert_eq!(answer.unwrap(), names),
                Err(()) => assert!(answer.unwrap_err().to_string().contains("no space")),
            }
            assert!(engine.join().unwrap() > PIECES * 10_000);
        }
    }
}
