//! Finds manifests and other files in an OCI layout, or in a directory that skopeo's
//! `dir:` wrote.

use std::path::Path;

use crate::claims::source::claims_file::MEMBER;
use crate::claims::source::{MAX_TEXT_BYTES, Problem};
use crate::image::digest::Digest;
use crate::image::manifest;
use crate::sys::plain_file::{self, Links, PlainFileError};

/// Reads the blobs and the other files of an OCI layout or of a directory that skopeo's
/// `dir:` wrote.
pub(super) trait Blobs {
    /// Reads a file that is not a blob, such as `index.json`. `None` if the file is
    /// missing.
    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem>;
    /// Reads a blob. The caller must check the blob's digest. `None` if the blob is
    /// missing.
    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Problem>;
    /// The digest of a layer. `None` if the layer is compressed, or if digestfix did not
    /// read the layer.
    fn layer(&self, _name: &str) -> Option<&Digest> {
        None
    }
}

/// The path of a blob in an OCI layout (image-spec 1.1, `image-layout.md`).
pub(super) fn name_in_layout(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// The most bytes that digestfix reads from a manifest, a config, or a claims file.
pub(super) fn most_of(name: &str) -> u64 {
    match name {
        MEMBER => MAX_TEXT_BYTES,
        _ => manifest::MAX_BYTES,
    }
}

/// A directory that is an OCI layout. The path contains no symbolic links.
pub(super) struct LayoutDir<'a>(pub &'a Path);

impl Blobs for LayoutDir<'_> {
    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        read_small(self.0, name)
    }

    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Problem> {
        read_small(self.0, &name_in_layout(digest))
    }
}

/// A directory that skopeo's `dir:` wrote (containers/image 5,
/// `directory/directory_transport.go`). The path contains no symbolic links.
pub(super) struct SkopeoDir<'a>(pub &'a Path);

impl Blobs for SkopeoDir<'_> {
    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        read_small(self.0, name)
    }

    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Problem> {
        match read_small(self.0, &format!("{}.manifest.json", digest.hex()))? {
            Some(bytes) => Ok(Some(bytes)),
            None => read_small(self.0, digest.hex()),
        }
    }
}

impl From<PlainFileError> for Problem {
    fn from(error: PlainFileError) -> Self {
        match error {
            PlainFileError::NotPlain => Self::NotAFile,
            PlainFileError::Outside => Self::Outside,
            PlainFileError::Io(error) => Self::Io(error),
        }
    }
}

/// Reads a file below a directory. Any user may own the directory, so symbolic links must
/// not lead out of it.
fn read_small(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, Problem> {
    let path = directory.join(name);
    let limit = most_of(name);
    let read = plain_file::read(&path, Links::Beneath(directory), limit + 1);
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) if error.is_missing() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if bytes.len() as u64 > limit {
        return Err(Problem::TooLarge {
            what: path.display().to_string(),
            limit,
        });
    }
    Ok(Some(bytes))
}
