//! What keeps the running Docker from recording a plan's digests itself.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::engine::EngineError;
use crate::live_restore;
use crate::platform::Platform;
use crate::trust::Trust;

/// Why Docker is not asked to record a plan's digests itself.
#[derive(Debug, thiserror::Error)]
pub enum Hindrance {
    /// There is nobody to ask.
    #[error("Docker does not run")]
    NotRunning,
    /// Docker writes the file as it knows it, and this is to be read first.
    #[error("Docker has yet to read what its file says")]
    Unread,
    /// The engine could not be asked.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What was recorded is to be dropped again.
    #[error("a transaction is taken back")]
    TakesBack,
    /// An API for that there is none.
    #[error("{0} is to be dropped, or moved")]
    Displaced(String),
    /// A tag is recorded for an image by whoever has it, so a pull would not do.
    #[error("{0} is a tag")]
    Tag(String),
    /// Its manifest is not at hand.
    #[error("{reference} is {trust}, not proven: its manifest is not at hand")]
    NotProven {
        /// The reference.
        reference: String,
        /// How far it is known.
        trust: Trust,
    },
    /// What Docker takes is asked for here, and then of the true registry.
    #[error(
        "out of the index {reference}, Docker ({platform}) may take another image than the one here"
    )]
    OtherPlatform {
        /// The reference.
        reference: String,
        /// The engine's platform.
        platform: Platform,
    },
    /// Too many others were brought along.
    #[error("the manifest of {0} was not kept: too many were brought along")]
    NotKept(String),
    /// If it came to taking the reference back, the image would go with it.
    #[error("the image of {0} has no other reference here")]
    OnlyReference(String),
    /// An address cannot be made to lead here, and Docker trusts loopback alone.
    #[error("Docker asks {0} over HTTPS alone")]
    Address(String),
    /// The true registry could be reached, by Docker and by others here.
    #[error("{name} leads to {address} from here")]
    Resolves {
        /// The name of the registry.
        name: String,
        /// Its address.
        address: IpAddr,
    },
    /// Whether it leads anywhere is not to be found out.
    #[error("where {name} leads from here cannot be told: {error}")]
    Unknown {
        /// The name of the registry.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// Somebody else answers there.
    #[error("nothing can be served on {address}: {error}")]
    Taken {
        /// The address and port.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A container would not get its port, and Docker not try again (moby
    /// `daemon/monitor.go`).
    #[error("Docker is about to start {container} again, which publishes port {port}")]
    Restarts {
        /// The container's name.
        container: String,
        /// The port.
        port: u16,
    },
    /// What the file says is put into force by a reload, and the rest is lost.
    #[error("Docker has other registry-mirrors than {} says", .0.display())]
    OtherMirrors(PathBuf),
    /// dockerd ends itself where a plugin does not answer at a reload (moby
    /// `cmd/dockerd/daemon.go`, `reloadConfig`).
    #[error("{} has authorization-plugins, which a reload asks for", .0.display())]
    Authorization(PathBuf),
    /// From a sandbox, somebody outside is asked.
    #[error("nothing can be served from within a sandbox: {0}")]
    Outside(io::Error),
    /// Docker would ask the proxy.
    #[error("Docker reaches {name} through the proxy {proxy}")]
    Proxy {
        /// The name of the registry.
        name: String,
        /// The proxy.
        proxy: String,
    },
    /// daemon.json may not contradict it.
    #[error("--registry-mirror of {0} says where images of docker.io are looked for")]
    MirrorFlag(String),
    /// Docker would forget options.
    #[error("a reload makes Docker forget {0} of its command line")]
    Forgets(String),
    /// daemon.json cannot be changed for the moment, or Docker not be told of it.
    #[error(transparent)]
    DaemonJson(live_restore::Hindrance),
    /// Nor can /etc/hosts.
    #[error("/etc/hosts cannot be changed: {0}")]
    Hosts(io::Error),
}
