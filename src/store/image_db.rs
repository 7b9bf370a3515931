//! The image database of a data root, for looking up single images.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};

use crate::image::digest::ImageId;
use crate::image::manifest;
use crate::image::platform::Platform;
use crate::store::data_root::{ImageDir, ReadError};
use crate::store::images::Images;
use crate::sys::plain_file::{self, Links};

/// The images whose config is on the disk. Looks up each image separately: listing a
/// directory of a hundred thousand images would take longer than the rest of the run.
#[derive(Debug)]
pub struct ImageDb<'a> {
    images: &'a ImageDir,
    listed: OnceCell<BTreeSet<ImageId>>,
    /// The first error that occurred in any lookup.
    error: RefCell<Option<ReadError>>,
}

impl<'a> ImageDb<'a> {
    /// Calls `questions`, which looks up images in this directory. If a lookup fails,
    /// returns the first error.
    pub fn ask<T>(
        images: &'a ImageDir,
        questions: impl FnOnce(&Self) -> T,
    ) -> Result<T, ReadError> {
        let db = Self {
            images,
            listed: OnceCell::new(),
            error: RefCell::new(None),
        };
        let made = questions(&db);
        match db.error.into_inner() {
            None => Ok(made),
            Some(error) => Err(error),
        }
    }

    fn note(&self, error: ReadError) {
        self.error.borrow_mut().get_or_insert(error);
    }
}

impl Images for ImageDb<'_> {
    fn has(&self, image: &ImageId) -> bool {
        let path = self.images.configs().join(image.hex());
        match fs::symlink_metadata(&path) {
            Ok(_) => true,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.note(ReadError::io(&path)(error));
                }
                false
            }
        }
    }

    fn beginning_with(&self, prefix: &str) -> Vec<ImageId> {
        let listed = self.listed.get_or_init(|| {
            self.images.image_ids().unwrap_or_else(|error| {
                self.note(error);
                BTreeSet::new()
            })
        });
        listed.beginning_with(prefix)
    }

    fn leaves(&self) -> BTreeSet<ImageId> {
        self.images.leaves().unwrap_or_else(|error| {
            self.note(error);
            BTreeSet::new()
        })
    }

    fn platform(&self, image: &ImageId) -> Option<Platform> {
        let path = self.images.configs().join(image.hex());
        let file = plain_file::open(&path, Links::Refused).ok()?;
        let mut text = String::new();
        file.take(manifest::MAX_BYTES)
            .read_to_string(&mut text)
            .ok()?;
        let platform = Platform::of_config(&text);
        platform.filter(|platform| !platform.os.is_empty() && !platform.architecture.is_empty())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use tempfile::TempDir;

    use super::*;

    fn image(digit: &str) -> ImageId {
        format!("sha256:{}", digit.repeat(64)).parse().unwrap()
    }

    #[test]
    fn an_image_is_here_when_its_config_is() {
        let root = TempDir::new().unwrap();
        let images = ImageDir::new(root.path(), "overlay2");
        let answers = |db: &ImageDb| (db.has(&image("a")), db.beginning_with("a").len());
        assert_eq!(ImageDb::ask(&images, answers).unwrap(), (false, 0));
        fs::create_dir_all(images.configs()).unwrap();
        for name in [
            "a".repeat(64),
            format!("a{}", "b".repeat(63)),
            "ab".to_owned(),
        ] {
            fs::write(images.configs().join(name), "{}").unwrap();
        }
        assert_eq!(ImageDb::ask(&images, answers).unwrap(), (true, 2));
        let other = |db: &ImageDb| (db.has(&image("b")), db.beginning_with("aa"));
        assert_eq!(
            ImageDb::ask(&images, other).unwrap(),
            (false, vec![image("a")])
        );
    }

    #[test]
    fn what_cannot_be_looked_at_is_no_answer() {
        let root = TempDir::new().unwrap();
        let images = ImageDir::new(root.path(), "overlay2");
        fs::create_dir_all(images.configs().parent().unwrap()).unwrap();
        fs::write(images.configs(), "not a directory").unwrap();
        ImageDb::ask(&images, |db| db.has(&image("a"))).unwrap_err();
        ImageDb::ask(&images, |db| db.beginning_with("a")).unwrap_err();
    }
}
