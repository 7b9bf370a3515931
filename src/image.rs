//! Image names and contents: [`mod@reference`], [`digest`], [`manifest`], [`platform`],
//! and the archives that `docker load` reads ([`oci_archive`]) and `docker save` writes
//! ([`saved_archive`]).

pub mod digest;
pub mod manifest;
pub mod oci_archive;
pub mod platform;
pub mod reference;
pub mod saved_archive;
