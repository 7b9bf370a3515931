//! Content digests and image IDs: two different things that look the same.
//!
//! A digest names a manifest as a registry serves it. An image ID is the SHA-256 of an
//! image's config. People often confuse digests and image IDs, so neither type converts
//! into the other.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Sha256, Sha384, Sha512};

/// The hash algorithms that digests may use (opencontainers/go-digest v1.0.0,
/// `algorithm.go`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The algorithm's name, which precedes the colon of a digest.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

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

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("{0:?} is not of the form sha256:HEX")]
    Form(String),
    #[error("digest algorithm {0:?} is not supported (sha256, sha384 and sha512 are)")]
    Algorithm(String),
    #[error("a {algorithm} digest has {expected} hexadecimal digits, but this digest has {found}")]
    Length {
        algorithm: &'static str,
        expected: usize,
        found: usize,
    },
    #[error("{0:?} contains a character other than 0-9 and a-f")]
    Hex(String),
}

fn check_hex(algorithm: Algorithm, hex: &str) -> Result<(), DigestError> {
    // Count characters, not bytes, so that the message states the number that the user
    // sees.
    let found = hex.chars().count();
    if found != algorithm.hex_len() {
        return Err(DigestError::Length {
            algorithm: algorithm.name(),
            expected: algorithm.hex_len(),
            found,
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

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Digest {
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        Self::of_pieces(algorithm, &[bytes])
    }

    /// The digest of the concatenation of several byte slices.
    pub fn of_pieces(algorithm: Algorithm, pieces: &[&[u8]]) -> Self {
        fn hashed<D: sha2::Digest>(pieces: &[&[u8]]) -> String {
            let mut hasher = D::new();
            for piece in pieces {
                hasher.update(piece);
            }
            hex_of(&hasher.finalize())
        }
        let hex = match algorithm {
            Algorithm::Sha256 => hashed::<Sha256>(pieces),
            Algorithm::Sha384 => hashed::<Sha384>(pieces),
            Algorithm::Sha512 => hashed::<Sha512>(pieces),
        };
        Self { algorithm, hex }
    }

    /// Reads a stream to its end. Returns the digest and the number of bytes.
    pub fn of_stream(algorithm: Algorithm, stream: impl Read) -> io::Result<(Self, u64)> {
        fn hashed<D: sha2::Digest>(mut stream: impl Read) -> io::Result<(String, u64)> {
            let (mut hasher, mut bytes) = (D::new(), 0);
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => return Ok((hex_of(&hasher.finalize()), bytes)),
                    Ok(read) => {
                        hasher.update(buffer.get(..read).unwrap_or_default());
                        bytes += read as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let (hex, bytes) = match algorithm {
            Algorithm::Sha256 => hashed::<Sha256>(stream),
            Algorithm::Sha384 => hashed::<Sha384>(stream),
            Algorithm::Sha512 => hashed::<Sha512>(stream),
        }?;
        Ok((Self { algorithm, hex }, bytes))
    }

    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digits, without the algorithm.
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

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ImageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl ImageId {
    /// The digits, without the algorithm.
    pub fn hex(&self) -> &str {
        &self.hex
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn digest(text: &str) -> Result<Digest, DigestError> {
        text.parse()
    }

    #[test]
    fn every_registered_algorithm_is_read_and_written_alike() {
        for algorithm in Algorithm::ALL {
            let hex = "0123456789abcdef".repeat(algorithm.hex_len() / 16);
            let text = format!("{}:{hex}", algorithm.name());
            let digest = digest(&text).unwrap();
            assert_eq!(digest.algorithm(), algorithm);
            assert_eq!(digest.hex(), hex);
            assert_eq!(digest.to_string(), text);
            assert_eq!(
                serde_json::to_string(&digest).unwrap(),
                format!("\"{text}\"")
            );
        }
    }

    /// The digests of the empty input, the usual test vector for FIPS 180-4.
    #[test]
    fn the_digest_of_bytes() {
        let begins = [
            (Algorithm::Sha256, "sha256:e3b0c44298fc1c14"),
            (Algorithm::Sha384, "sha384:38b060a751ac9638"),
            (Algorithm::Sha512, "sha512:cf83e1357eefb8bd"),
        ];
        for (algorithm, begin) in begins {
            let digest = Digest::of(algorithm, b"");
            assert!(digest.to_string().starts_with(begin), "{digest}");
            assert_eq!(digest.to_string().parse(), Ok(digest));
        }
    }

    #[test]
    fn a_text_without_both_parts_has_no_form() {
        for text in ["", ":", "sha256", "sha256:", ":abc"] {
            assert_eq!(digest(text), Err(DigestError::Form(text.to_owned())));
        }
    }

    #[test]
    fn only_the_exact_name_of_an_algorithm_will_do() {
        let hex = "a".repeat(64);
        for name in ["SHA256", "sha1", "md5", "sha256+b64", " sha256", "sha"] {
            assert_eq!(
                digest(&format!("{name}:{hex}")),
                Err(DigestError::Algorithm(name.to_owned()))
            );
        }
    }

    #[test]
    fn a_digest_is_never_cut_short_nor_too_long() {
        for algorithm in Algorithm::ALL {
            let expected = algorithm.hex_len();
            for found in [1, 12, 32, expected - 1, expected + 1] {
                assert_eq!(
                    digest(&format!("{}:{}", algorithm.name(), "a".repeat(found))),
                    Err(DigestError::Length {
                        algorithm: algorithm.name(),
                        expected,
                        found,
                    })
                );
            }
        }
    }

    #[test]
    fn digits_are_lower_case_and_nothing_else() {
        let rest = "a".repeat(63);
        for odd in ["A", "g", "_", " ", "\n", "\0", ":", "é", "０"] {
            for hex in [format!("{odd}{rest}"), format!("{rest}{odd}")] {
                assert_eq!(
                    digest(&format!("sha256:{hex}")),
                    Err(DigestError::Hex(hex.clone()))
                );
                assert_eq!(
                    format!("sha256:{hex}").parse::<ImageId>(),
                    Err(DigestError::Hex(hex))
                );
            }
        }
    }

    #[test]
    fn an_image_id_is_a_whole_sha256_with_its_name() {
        let hex = "0123456789abcdef".repeat(4);
        let text = format!("sha256:{hex}");
        let id: ImageId = text.parse().unwrap();
        assert_eq!(id.hex(), hex);
        assert_eq!(id.to_string(), text);
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{text}\""));
        for refused in [
            hex.clone(),
            hex[..12].to_owned(),
            format!("sha256:{}", &hex[..12]),
            format!("SHA256:{hex}"),
            format!("sha512:{hex}{hex}"),
            format!("{text}0"),
            format!(" {text}"),
        ] {
            assert!(refused.parse::<ImageId>().is_err(), "{refused}");
        }
    }
}
