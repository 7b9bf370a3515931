//! Image lookup: what a plan needs to know about the images of a host.

use std::collections::BTreeSet;

use crate::image::digest::ImageId;
use crate::image::platform::Platform;

/// The images whose config an image store contains.
///
/// A plan looks up only the images that its claims are about, because a host may have a
/// hundred thousand other images.
pub trait Images {
    fn has(&self, image: &ImageId) -> bool;

    /// The images whose ID begins with these hexadecimal digits, sorted.
    fn beginning_with(&self, prefix: &str) -> Vec<ImageId>;

    /// The images that are not the parent of another image.
    fn leaves(&self) -> BTreeSet<ImageId>;

    /// The platform of an image. `None` if the platform cannot be read.
    fn platform(&self, image: &ImageId) -> Option<Platform>;
}

impl Images for BTreeSet<ImageId> {
    fn has(&self, image: &ImageId) -> bool {
        self.contains(image)
    }

    fn beginning_with(&self, prefix: &str) -> Vec<ImageId> {
        let first = format!("sha256:{prefix:0<64}").parse::<ImageId>();
        let from_first = first.ok().map(|first| self.range(first..));
        let beginning = |image: &&ImageId| image.hex().starts_with(prefix);
        from_first
            .into_iter()
            .flatten()
            .take_while(beginning)
            .cloned()
            .collect()
    }

    fn leaves(&self) -> BTreeSet<ImageId> {
        self.clone()
    }

    fn platform(&self, _: &ImageId) -> Option<Platform> {
        None
    }
}
