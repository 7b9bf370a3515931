//! The storage directory of a registry (registry:2, Harbor): `docker/registry/v2`, where
//! each blob is stored under its digest (distribution 2 and 3,
//! `registry/storage/paths.go`).

use std::path::{Path, PathBuf};

use crate::claims::source::collected::{Came, Collected};
use crate::claims::source::{MAX_FILES, Problem};
use crate::image::digest::{Algorithm, Digest};
use crate::image::manifest::{self, Manifest};
use crate::sys::plain_file::{self, Links};

/// The possible paths of the storage below the copied directory. Some users copy the
/// registry's whole volume, others only a part of the volume.
const WITHIN: [&str; 4] = ["docker/registry/v2", "registry/v2", "v2", "."];

/// Finds the registry's storage directory at or below `path`.
pub(super) fn storage(path: &Path) -> Option<PathBuf> {
    let within = WITHIN.iter().map(|within| path.join(within));
    let mut storages = within.filter(|path| path.join("repositories").is_dir());
    storages.find(|path| path.join("blobs/sha256").is_dir())
}

/// Reads every manifest in a registry's storage, and skips layers. `storage` is a path
/// without symbolic links.
pub(super) fn read(storage: &Path, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    let blobs = storage.join("blobs/sha256");
    let mut budget = MAX_FILES;
    let mut count = || -> Result<(), Problem> {
        budget = budget.checked_sub(1).ok_or(Problem::TooMany {
            what: "blobs",
            limit: MAX_FILES,
        })?;
        Ok(())
    };
    for group in listed(&blobs)? {
        count()?;
        for blob in listed(&group)? {
            count()?;
            let named = blob.file_name().and_then(|name| name.to_str());
            let named = named.and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if let Some(named) = named {
                take_file(storage, &blob.join("data"), &named, place, collected)?;
            }
        }
    }
    Ok(())
}

fn listed(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    if !directory.symlink_metadata()?.is_dir() {
        return Ok(Vec::new());
    }
    let entries = directory
        .read_dir()?
        .map(|entry| entry.map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = entries.collect::<Result<_, _>>()?;
    paths.sort();
    Ok(paths)
}

/// The digest of a blob in a registry's storage, from the blob's path in an archive.
/// `None` for any other path.
pub(super) fn blob_of(name: &str) -> Option<Digest> {
    let (directory, hex) = name.strip_suffix("/data")?.rsplit_once('/')?;
    let (directory, _) = directory.rsplit_once('/')?;
    let is_storage = directory.ends_with("v2/blobs/sha256");
    let digest = is_storage.then(|| format!("sha256:{hex}").parse().ok());
    digest.flatten()
}

/// Reads one blob of the registry. Adds the blob if it is a manifest.
fn take_file(
    storage: &Path,
    path: &Path,
    named: &Digest,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    let size = match path.symlink_metadata() {
        Ok(metadata) => metadata.len(),
        // When a registry deletes a blob, it leaves the blob's directory.
        Err(_) => return Ok(()),
    };
    if size > manifest::MAX_BYTES {
        return Ok(());
    }
    let bytes = plain_file::read(path, Links::Beneath(storage), manifest::MAX_BYTES)?;
    take(&bytes, named, place, collected)
}

/// Adds a blob if it is a manifest.
pub(super) fn take(
    bytes: &[u8],
    named: &Digest,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    // Skip other JSON, such as a config or an artifact.
    if !bytes.starts_with(b"{")
        || !matches!(
            Manifest::parse(bytes),
            Ok(Manifest::Image(_) | Manifest::Index(_))
        )
    {
        return Ok(());
    }
    let found = Digest::of(Algorithm::Sha256, bytes);
    if found != *named {
        return Err(Problem::Tampered {
            named: named.to_string(),
            found: found.to_string(),
        });
    }
    collected.prove(bytes, place)?;
    let came = Came {
        repository: None,
        // A registry also contains images for other platforms and other hosts.
        in_index: true,
        place,
    };
    collected.manifest(&found, came)
}
