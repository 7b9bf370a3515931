//! Saves whole images through the Docker API.

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::{Method, StatusCode};

use super::images::told;
use super::{JSON, UnixEngine};
use crate::docker::engine::EngineError;
use crate::docker::engine::archives::{Archive, Archives};

const GET: &str = "/images/get";

pub struct SavedArchive {
    engine: UnixEngine,
    body: Incoming,
}

impl Archive for SavedArchive {
    async fn next(&mut self) -> Result<Option<Bytes>, EngineError> {
        loop {
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| self.engine.unanswered(GET, error))?;
            // A frame without data contains trailers, which digestfix does not need.
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }
}

impl Archives for UnixEngine {
    type Archive = SavedArchive;

    async fn save(&self, names: &[String]) -> Result<SavedArchive, EngineError> {
        let (mut connection, version) = self.within(GET, self.negotiate()).await?;
        let names: Vec<String> = names.iter().map(|name| in_query(name)).collect();
        let whole = format!("{version}{GET}?{}", names.join("&"));
        let answer = self.send(&mut connection, JSON, Method::GET, &whole, Bytes::new());
        let answer = answer.await?;
        match answer.status() {
            StatusCode::OK => Ok(SavedArchive {
                engine: self.clone(),
                body: answer.into_body(),
            }),
            status => {
                let body = self.within(GET, self.body(GET, answer)).await?;
                Err(self.answer(GET, format_args!("{status}: {}", told(&body))))
            }
        }
    }
}

/// Escapes the brackets in the name of an IPv6 registry. All other characters of a
/// reference may appear in a query as they are.
fn in_query(name: &str) -> String {
    let name = name.replace('[', "%5B").replace(']', "%5D");
    format!("names={name}")
}
