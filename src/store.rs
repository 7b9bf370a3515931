//! Read access to image stores. The module [`repositories`] reads Docker's classic store.
//! The module [`containerd`] reads the containerd image store of Docker. The module
//! [`node`] reads the containerd store that a kubelet uses. The module [`archive_size`]
//! estimates how large an archive of images is.

pub mod archive_size;
pub mod containerd;
pub mod data_root;
pub mod image_db;
pub mod images;
pub mod node;
pub mod repositories;
