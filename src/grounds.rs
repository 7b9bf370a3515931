//! What the digests on a host rest on, kept in the data root: what `apply`
//! wrote, how far it was known then, and by what.
//!
//! Only for people to look at: nothing is decided by it, and a host without it
//! is whole.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::data_root::ImageDir;
use crate::digest::ImageId;
use crate::plan::Plan;
use crate::reference::Reference;
use crate::transaction::lock::{self, RootLock};
use crate::trust::Trust;

/// The version of the format.
const VERSION: u32 = 1;

/// The largest such file that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What digestfix wrote, by reference in familiar form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grounds {
    version: u32,
    references: BTreeMap<String, Ground>,
}

/// What one reference rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    image_id: ImageId,
    /// How far it was known.
    pub trust: Trust,
    /// Where from.
    pub origin: String,
}

impl Default for Grounds {
    fn default() -> Self {
        Self {
            version: VERSION,
            references: BTreeMap::new(),
        }
    }
}

impl Grounds {
    /// What a reference rests on, as long as it points where it was made to.
    #[must_use]
    pub fn of(&self, reference: &Reference, image: &ImageId) -> Option<&Ground> {
        let ground = self.references.get(&reference.familiar())?;
        (ground.image_id == *image).then_some(ground)
    }

    /// Takes in what a plan wrote, and drops what is no longer so.
    fn note(&mut self, plan: &Plan) {
        for change in &plan.changes {
            if let (Some(image), Some(target)) = (&change.to, plan.basis(&change.reference))
                && change.reference.digest().is_some()
            {
                let ground = Ground {
                    image_id: image.clone(),
                    trust: target.trust,
                    origin: target.origin.clone(),
                };
                self.references.insert(change.reference.familiar(), ground);
            }
        }
        let present: BTreeMap<String, ImageId> = plan
            .after
            .references()
            .map(|(reference, image)| (reference.familiar(), image))
            .collect();
        self.references
            .retain(|reference, ground| present.get(reference) == Some(&ground.image_id));
    }

    /// Reads them; none are there before the first `apply`.
    ///
    /// # Errors
    /// When the file is there and cannot be read or understood.
    pub fn read(images: &ImageDir) -> io::Result<Self> {
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
            .open(path(images));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a plain file"));
        }
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        let grounds: Self = serde_json::from_slice(&bytes)?;
        if grounds.version != VERSION {
            return Err(io::Error::other(format!(
                "of version {}, and this digestfix knows version {VERSION}",
                grounds.version
            )));
        }
        Ok(grounds)
    }

    /// Adds what a plan wrote to the file.
    ///
    /// # Errors
    /// When the file system refuses; the file is then as it was.
    pub fn record(images: &ImageDir, _lock: &RootLock, plan: &Plan) -> io::Result<()> {
        let mut grounds = Self::read(images).unwrap_or_default();
        grounds.note(plan);
        let path = path(images);
        let new = path.with_extension("json.new");
        // Left there by a run that was killed; the lock says that none goes on.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        let written = serde_json::to_vec_pretty(&grounds)
            .map_err(io::Error::from)
            .and_then(|bytes| file.write_all(&bytes))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written?;
        match path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// Where they are kept, for each storage driver on its own.
#[must_use]
pub fn path(images: &ImageDir) -> PathBuf {
    images
        .data_root()
        .join(lock::STATE_DIR)
        .join(format!("grounds-{}.json", images.driver()))
}
