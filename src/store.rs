//! Read access to image stores: Docker's own store with its [`repositories`] file, the
//! containerd image store that Docker uses ([`containerd`]), and the containerd store
//! that a kubelet uses ([`node`]). [`archive_size`] estimates how large an archive of
//! images is.

pub mod archive_size;
pub mod containerd;
pub mod data_root;
pub mod image_db;
pub mod images;
pub mod node;
pub mod repositories;
