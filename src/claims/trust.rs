//! How much evidence supports a digest.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How it is known that an image has a digest, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// A person or a file says it; nothing here proves it
    Asserted,
    /// Another host's records name the same image ID
    Matched,
    /// The manifest is at hand: its bytes hash to the digest, its config is the image's ID
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
