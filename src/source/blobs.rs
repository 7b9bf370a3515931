//! Where manifests lie: a directory in OCI's layout or skopeo's.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

use crate::digest::Digest;
use crate::manifest;
use crate::source::Problem;

/// Blobs by their digest, and what lies beside them.
pub(super) trait Blobs {
    /// A file beside the blobs; none when there is none.
    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem>;
    /// A blob, unchecked; none when it is not there.
    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Problem>;
}

/// The name of a blob in OCI's layout (image-spec 1.1, `image-layout.md`).
pub(super) fn name_in_layout(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

/// A directory in OCI's layout.
pub(super) struct LayoutDir<'a>(pub &'a Path);

impl Blobs for LayoutDir<'_> {
    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        read_small(&self.0.join(name))
    }

    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Problem> {
        read_small(&self.0.join(name_in_layout(digest)))
    }
}

/// A directory as skopeo's `dir:` makes it (containers/image 5,
/// `directory/directory_transport.go`).
pub(super) struct SkopeoDir<'a>(pub &'a Path);

impl Blobs for SkopeoDir<'_> {
    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        read_small(&self.0.join(name))
    }

    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Problem> {
        let manifest = self.0.join(format!("{}.manifest.json", digest.hex()));
        match read_small(&manifest)? {
            Some(bytes) => Ok(Some(bytes)),
            None => read_small(&self.0.join(digest.hex())),
        }
    }
}

/// Opens what must be a plain file, without waiting for a pipe's other end.
pub(super) fn open_plain(path: &Path) -> Result<File, Problem> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(Problem::NotAFile)
    }
}

fn read_small(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    let file = match open_plain(path) {
        Ok(file) => file,
        Err(Problem::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(problem) => return Err(problem),
    };
    let mut bytes = Vec::new();
    file.take(manifest::MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > manifest::MAX_BYTES {
        return Err(Problem::TooLarge {
            what: path.display().to_string(),
            limit: manifest::MAX_BYTES,
        });
    }
    Ok(Some(bytes))
}
