//! The part of the Docker API that saves whole images.

use hyper::body::Bytes;

use crate::docker::engine::EngineError;

/// The API calls with which `digestfix save` gets images from Docker.
pub trait Archives {
    type Archive: Archive;

    /// Saves images as one archive. Each name is a reference or an ID. Docker's classic
    /// image store collects the whole archive before it sends the first byte, which can
    /// take long.
    async fn save(&self, names: &[String]) -> Result<Self::Archive, EngineError>;
}

/// An archive that arrives in pieces.
pub trait Archive {
    /// The next piece. `None` at the end of the archive.
    async fn next(&mut self) -> Result<Option<Bytes>, EngineError>;
}
