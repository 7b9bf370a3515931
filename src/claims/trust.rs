//! How much evidence supports a digest.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How well evidence supports that a digest belongs to an image. The weakest level is
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// A person or a file states the digest, without evidence
    Asserted,
    /// Docker on another host recorded the digest for the same image ID
    Matched,
    /// digestfix has the manifest: its bytes hash to the digest, and it contains the
    /// image's ID
    Proven,
}

impl Trust {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Asserted => "asserted",
            Self::Matched => "matched",
            Self::Proven => "proven",
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.word())
    }
}
