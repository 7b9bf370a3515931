//! How a change is made.
//!
//! An engine that runs can be asked to make it, where its API has a way to;
//! everything else is done to the file of its reference store, while it is
//! stopped.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// How a change is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Docker is asked to make it, and goes on running.
    Online,
    /// Docker is stopped, its file changed, and Docker started again.
    Restart,
}

/// Which of them somebody wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The one that fits the host and the change, online before restart
    #[default]
    Auto,
    /// Ask the running Docker, or do nothing
    Online,
    /// Stop Docker, change its references, start it
    Restart,
    /// The same, once asking has failed.
    #[value(skip)]
    AfterOnline,
}

/// The method that was asked for is none here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoWay {
    /// The references are in no file.
    #[error(
        "the references of the containerd image store are in no file that could be changed while Docker \
         is stopped: leave --method restart out"
    )]
    Restart,
}

impl Choice {
    /// The method for a host with the containerd image store.
    ///
    /// # Errors
    /// When another one was asked for.
    pub const fn for_containerd(self) -> Result<Method, NoWay> {
        match self {
            Self::Auto | Self::Online => Ok(Method::Online),
            Self::Restart | Self::AfterOnline => Err(NoWay::Restart),
        }
    }

    /// Why it is a restart, where nothing else is to be said of it.
    #[must_use]
    pub const fn why_restart(self) -> &'static str {
        match self {
            Self::AfterOnline => "the running Docker could not be had to record this itself",
            Self::Auto | Self::Online | Self::Restart => "as asked for",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containerd_image_store_has_one_method() {
        assert_eq!(Choice::Auto.for_containerd(), Ok(Method::Online));
        assert_eq!(Choice::Online.for_containerd(), Ok(Method::Online));
        assert_eq!(Choice::Restart.for_containerd(), Err(NoWay::Restart));
    }
}
