//! Part of the Docker API that saves whole images.

use hyper::body::Bytes;

use crate::docker::engine::EngineError;

/// The part of the API that carrying images needs.
pub trait Archives {
    type Archive: Archive;

    /// Saves images, by references or IDs, as one archive. Docker's classic image store
    /// gathers all of it before it sends the first byte, which can take long.
    async fn save(&self, names: &[String]) -> Result<Self::Archive, EngineError>;
}

/// An archive that comes in pieces.
pub trait Archive {
    /// The next piece. `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, EngineError>;
}
