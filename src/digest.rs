//! Content digests and image IDs: the same letters, two different things.
//!
//! A digest names a manifest as a registry serves it; an image ID is the
//! SHA-256 of an image's config. Typing one for the other is the mistake that
//! this program exists to prevent, so neither type converts into the other.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The algorithms that are registered for digests
/// (opencontainers/go-digest v1.0.0, `algorithm.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// `sha256`, the only one in common use.
    Sha256,
    /// `sha384`.
    Sha384,
    /// `sha512`.
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The name before the colon.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits follow the colon.
    #[must_use]
    pub const fn hex_len(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

/// The digest of a manifest, `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    hex: String,
}

/// The ID of an image, `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageId {
    hex: String,
}

/// Why a text is not a digest or an image ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No `ALGORITHM:HEX`.
    #[error("{0:?} is not of the form sha256:HEX")]
    Form(String),
    /// An algorithm that is not registered.
    #[error("digest algorithm {0:?} is not supported (sha256, sha384 and sha512 are)")]
    Algorithm(String),
    /// Too few or too many digits.
    #[error("a {algorithm} digest has {expected} hexadecimal digits, this one has {found}")]
    Length {
        /// The algorithm's name.
        algorithm: &'static str,
        /// What it takes.
        expected: usize,
        /// What was given.
        found: usize,
    },
    /// Something else than `0-9a-f`.
    #[error("{0:?} has something else than the digits 0-9 and a-f in it")]
    Hex(String),
}

fn check_hex(algorithm: Algorithm, hex: &str) -> Result<(), DigestError> {
    if hex.len() != algorithm.hex_len() {
        return Err(DigestError::Length {
            algorithm: algorithm.name(),
            expected: algorithm.hex_len(),
            found: hex.chars().count(),
        });
    }
    if !hex
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Err(DigestError::Hex(hex.to_owned()));
    }
    Ok(())
}

impl Digest {
    /// Its algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its digits, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, hex) = match text.split_once(':') {
            Some((name, hex)) if !name.is_empty() && !hex.is_empty() => (name, hex),
            _ => return Err(DigestError::Form(text.to_owned())),
        };
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| DigestError::Algorithm(name.to_owned()))?;
        check_hex(algorithm, hex)?;
        Ok(Self {
            algorithm,
            hex: hex.to_owned(),
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl ImageId {
    /// Its digits, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The twelve digits that Docker shows.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }
}

impl FromStr for ImageId {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text
            .strip_prefix("sha256:")
            .ok_or_else(|| DigestError::Form(text.to_owned()))?;
        check_hex(Algorithm::Sha256, hex)?;
        Ok(Self {
            hex: hex.to_owned(),
        })
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "sha256:{}", self.hex)
    }
}

impl Serialize for ImageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
