//! The part of the Docker API that hands out images whole.

use hyper::body::Bytes;

use crate::docker::engine::EngineError;

/// What carrying images needs of the engine, and no more.
pub trait Archives {
    type Archive: Archive;

    /// An archive of these images, by references or IDs. Docker's own image store gathers
    /// all of it before the first byte comes, which takes its time.
    async fn save(&self, names: &[String]) -> Result<Self::Archive, EngineError>;
}

/// An archive that comes in pieces.
pub trait Archive {
    /// The next piece; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, EngineError>;
}
