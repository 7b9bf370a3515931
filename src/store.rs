//! The image stores, as they can be read: Docker's own with its
//! [`repositories`] file, containerd's below Docker ([`containerd`]), and containerd's
//! below a kubelet ([`node`]). [`archive_size`] estimates what an archive of them has.

pub mod archive_size;
pub mod containerd;
pub mod data_root;
pub mod image_db;
pub mod images;
pub mod node;
pub mod repositories;
