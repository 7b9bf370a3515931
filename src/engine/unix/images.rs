//! References by the API.

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde::Deserialize;

use super::{ImageAnswer, UnixEngine};
use crate::engine::EngineError;
use crate::engine::images::{Images, Listed};
use crate::reference::Reference;

const LOAD: &str = "/images/load?quiet=1";

/// What an image that was loaded and cannot be run is told with, as the text of
/// a load that went well (moby 28.5, `daemon/containerd/image_exporter.go`).
const NOT_UNPACKED: &str = "Error unpacking";

/// One of the messages that a load is answered with.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    error: Option<String>,
}

impl From<ImageAnswer> for Listed {
    fn from(answer: ImageAnswer) -> Self {
        Self {
            id: answer.id,
            tags: answer.repo_tags.unwrap_or_default(),
            digests: answer.repo_digests.unwrap_or_default(),
        }
    }
}

/// What went wrong with a load, by what it was answered with.
fn failed(answer: &[u8]) -> Option<String> {
    for message in serde_json::Deserializer::from_slice(answer).into_iter() {
        match message {
            Ok(Message {
                error: Some(error), ..
            }) => return Some(error),
            Ok(Message { stream, .. }) if stream.trim_start().starts_with(NOT_UNPACKED) => {
                return Some(stream.trim().to_owned());
            }
            Ok(_) => {}
            Err(error) => return Some(error.to_string()),
        }
    }
    None
}

impl Images for UnixEngine {
    async fn listed(&self) -> Result<Vec<Listed>, EngineError> {
        let answer: Vec<ImageAnswer> = self.require_json("/images/json").await?;
        Ok(answer.into_iter().map(Listed::from).collect())
    }

    async fn find(&self, reference: &Reference) -> Result<Option<Listed>, EngineError> {
        let path = format!("/images/{}/json", in_path(reference));
        let answer: Option<ImageAnswer> = self.get_json(&path).await?;
        Ok(answer.map(Listed::from))
    }

    async fn load(&self, archive: Vec<u8>) -> Result<(), EngineError> {
        let request = self.request_as(
            "application/x-tar",
            Method::POST,
            LOAD,
            Bytes::from(archive),
        );
        match request.await? {
            (StatusCode::OK, answer) => match failed(&answer) {
                None => Ok(()),
                Some(problem) => Err(self.answer(LOAD, problem)),
            },
            (status, answer) => Err(self.refused(LOAD, status, &answer)),
        }
    }

    async fn untag(&self, reference: &Reference) -> Result<(), EngineError> {
        self.drop_reference(reference, "").await
    }
}

impl UnixEngine {
    /// Drops a reference; that there is none is no error. `more` is added to the
    /// query.
    pub(super) async fn drop_reference(
        &self,
        reference: &Reference,
        more: &str,
    ) -> Result<(), EngineError> {
        // Without noprune, images that it was built from would go along.
        let path = format!("/images/{}?noprune=1{more}", in_path(reference));
        match self.request(Method::DELETE, &path, Bytes::new()).await? {
            (StatusCode::OK | StatusCode::NOT_FOUND, _) => Ok(()),
            (status, answer) => Err(self.refused(&path, status, &answer)),
        }
    }
}

/// Of the characters that a reference can have, the brackets of an IPv6 registry
/// are the only ones that a path cannot.
pub(super) fn in_path(reference: &Reference) -> String {
    reference.familiar().replace('[', "%5B").replace(']', "%5D")
}

#[cfg(test)]
mod tests {
    use super::failed;

    #[test]
    fn a_load_that_failed_says_so_in_one_of_three_ways() {
        let loaded = "{\"stream\":\"Loaded image: lab/app:v1\\n\"}\n";
        assert_eq!(failed(loaded.as_bytes()), None);
        assert_eq!(failed(b""), None);
        for (more, word) in [
            (
                r#"{"errorDetail":{"message":"unexpected EOF"},"error":"unexpected EOF"}"#,
                "EOF",
            ),
            (
                r#"{"stream":"Error unpacking image lab/app:v1: layer gone\n"}"#,
                "layer gone",
            ),
            ("{", "EOF"),
        ] {
            let problem = failed(format!("{loaded}{more}").as_bytes());
            assert!(
                problem.as_ref().is_some_and(|text| text.contains(word)),
                "{more}: {problem:?}"
            );
        }
    }
}
