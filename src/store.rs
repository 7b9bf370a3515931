//! The image stores, as they can be read: Docker's own with its
//! [`repositories`] file, and containerd's below Docker ([`containerd`]).

pub mod containerd;
pub mod data_root;
pub mod image_db;
pub mod images;
pub mod repositories;
