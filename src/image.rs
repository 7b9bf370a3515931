//! What images are called and made of: [`mod@reference`], [`digest`], [`manifest`],
//! [`platform`], and the archive that `docker load` takes ([`oci_archive`]).

pub mod digest;
pub mod manifest;
pub mod oci_archive;
pub mod platform;
pub mod reference;
pub mod saved_archive;
