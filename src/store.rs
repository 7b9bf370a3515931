//! Image stores, for reading: Docker's own with its [`repositories`] file, containerd's
//! below Docker ([`containerd`]), and containerd's below a kubelet ([`node`]).
//! [`archive_size`] estimates the size of an archive of their images.

pub mod archive_size;
pub mod containerd;
pub mod data_root;
pub mod image_db;
pub mod images;
pub mod node;
pub mod repositories;
