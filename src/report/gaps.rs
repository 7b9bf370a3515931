//! Gaps: images that are missing or incomplete in the containerd image store.

use crate::image::digest::Digest;
use crate::image::reference::Reference;
use crate::report::Report;
use crate::transaction::image_store::Gaps;
use crate::transaction::outcome::Progress;

impl Report {
    /// Warns about references whose manifests are missing, and about images without a
    /// name, for which no digest can be recorded.
    pub fn gaps(&mut self, gaps: &Gaps) {
        let unread: Vec<String> = gaps.unread.iter().map(Reference::familiar).collect();
        if !unread.is_empty() {
            self.warning(&format!(
                "containerd's content store lacks these images for this machine's platform: {} (if \
                 the store is elsewhere: --containerd-root DIR)",
                unread.join(", ")
            ));
        }
        self.nameless(&gaps.nameless);
    }

    /// Warns about images without a name. Names each image by the digest of its manifest,
    /// because Docker shows this digest as the image's ID. Claims do not use this digest
    /// as the image ID.
    fn nameless(&mut self, images: &[Digest]) {
        const NAMED: usize = 3;
        let shown: Vec<String> = images.iter().take(NAMED).map(ToString::to_string).collect();
        let more = match images.len().saturating_sub(NAMED) {
            0 => String::new(),
            more if self.is_of_node() => format!(" and {more} more (crictl images)"),
            more => format!(" and {more} more (docker images -f dangling=true)"),
        };
        if let Some(first) = shown.first() {
            let tag = match self.is_of_node() {
                true => "ctr -n k8s.io images tag",
                false => "docker tag",
            };
            self.warning(&format!(
                "some images on this host have no name, so they cannot have a digest: {}{more}. \
                 Name an image first: {tag} {first} NAME:TAG",
                shown.join(", ")
            ));
        }
    }

    /// Warns about images that look complete but lack layers.
    pub fn layers_missing(&mut self, has: &str, references: &[Reference]) {
        let whose = match references {
            [] => return,
            [one] => format!("of {one}"),
            several => format!("of {} of these digests", several.len()),
        };
        self.warning(&format!(
            "Docker {has} the layers {whose} only unpacked, without the compressed blobs of the \
             registry. If you name the image by its digest: docker run works; docker save and \
             docker commit omit the layers without an error; docker push and FROM in BuildKit \
             fail. Before Docker 29, docker images may not list the image, or docker image inspect \
             may show no configuration. So name the image by its tag"
        ));
    }
}
