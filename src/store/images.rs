//! Which images a host has, as a plan asks for it.

use std::collections::BTreeSet;

use crate::image::digest::ImageId;
use crate::image::platform::Platform;

/// The images that an image store has a config of.
///
/// A plan asks for those that it is about, as there may be a hundred thousand
/// others.
pub trait Images {
    fn has(&self, image: &ImageId) -> bool;

    /// Those whose hexadecimal digits begin so, in order.
    fn beginning_with(&self, prefix: &str) -> Vec<ImageId>;

    /// Those that no other image is built on.
    fn leaves(&self) -> BTreeSet<ImageId>;

    /// What an image is for; none where that cannot be told.
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
