//! A connection to systemd: over the bus, or over systemd's private socket.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use zbus::connection::Builder;
use zbus::fdo::{self, DBusProxy};
use zbus::{Connection, OwnedObjectPath};

use super::interface::{Login1Proxy, ManagerDict, Systemd1Proxy, UnitPropertiesProxy};
use super::jobs::EndedJobs;
use super::private;

/// Timeout for a reply. The slowest call is `Reload`, in which systemd reads all unit
/// files again. On a large host, this takes seconds. Job requests take less time, because
/// systemd replies before the job has ended.
const REPLY_WITHIN: Duration = Duration::from_secs(120);

/// The transport of a connection to systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Bus,
    /// systemd's private socket, without a bus.
    Private,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Bus => "org.freedesktop.systemd1",
            Self::Private => private::NAME,
        }
    }
}

/// A connection to systemd, with its D-Bus interfaces.
pub(super) struct Link {
    pub(super) way: Way,
    connection: Connection,
    pub(super) manager: Systemd1Proxy<'static>,
    listener: JoinHandle<()>,
}

/// Stops the listener task, which would otherwise keep an unused connection open.
impl Drop for Link {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Link {
    /// Connects to systemd. From then on, adds the result of each job to `ended` when the
    /// job has ended.
    pub(super) async fn open(way: Way, ended: &Arc<EndedJobs>) -> zbus::Result<Self> {
        let builder = match way {
            Way::Bus => Builder::system(),
            Way::Private => private::connect(private::PATH).await?,
        };
        let connection = builder.method_timeout(REPLY_WITHIN).build().await?;
        let manager = Systemd1Proxy::builder(&connection)
            .destination(way.name())
            .build()
            .await?;
        let removals = manager.receive_job_removed().await?;
        match manager.subscribe().await {
            Err(zbus::Error::MethodError(name, ..))
                if name.as_str() == "org.freedesktop.systemd1.AlreadySubscribed" => {}
            outcome => outcome?,
        }
        Ok(Self {
            way,
            connection,
            manager,
            listener: ended.listen(removals),
        })
    }

    pub(super) async fn properties(
        &self,
        path: OwnedObjectPath,
    ) -> zbus::Result<UnitPropertiesProxy<'static>> {
        UnitPropertiesProxy::builder(&self.connection)
            .destination(self.way.name())
            .path(path)
            .build()
            .await
    }

    /// The property `SystemState` in `org.freedesktop.systemd1(5)`.
    pub(super) async fn system_state(&self) -> zbus::Result<Option<String>> {
        Ok(self.manager_properties().await?.system_state)
    }

    /// The property `Version` in `org.freedesktop.systemd1(5)`.
    pub(super) async fn version(&self) -> zbus::Result<Option<String>> {
        Ok(self.manager_properties().await?.version)
    }

    async fn manager_properties(&self) -> zbus::Result<ManagerDict> {
        let path = self.manager.inner().path().to_owned().into();
        let properties = self.properties(path).await?;
        properties.manager("org.freedesktop.systemd1.Manager").await
    }

    /// Makes logind delay a shutdown.
    pub(super) async fn delay_shutdown(&self, why: &str) -> zbus::Result<OwnedFd> {
        let logind = Login1Proxy::new(&self.connection).await?;
        let lock = logind
            .inhibit("shutdown", "digestfix", why, "delay")
            .await?;
        Ok(lock.into())
    }

    /// The process ID that the D-Bus daemon reports for this process. `None` if the
    /// connection does not use the bus.
    pub(super) async fn own_pid(&self) -> zbus::Result<Option<u32>> {
        let Some(name) = self.connection.unique_name() else {
            return Ok(None);
        };
        let bus = DBusProxy::new(&self.connection).await?;
        let pid = bus
            .get_connection_unix_process_id(name.as_ref().into())
            .await?;
        Ok(Some(pid))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// Whether this error means that the connection is lost, so that a new connection may
    /// work.
    pub(super) fn is_lost(&self, error: &zbus::Error) -> bool {
        self.is_closed() || matches!(error, zbus::Error::InputOutput(_)) || is_absent(error)
    }
}

/// Whether the D-Bus daemon answered that it cannot reach systemd.
pub(in crate::systemd) fn is_absent(error: &zbus::Error) -> bool {
    let zbus::Error::FDO(error) = error else {
        return false;
    };
    matches!(
        **error,
        fdo::Error::NoReply(_)
            | fdo::Error::Disconnected(_)
            | fdo::Error::NameHasNoOwner(_)
            | fdo::Error::ServiceUnknown(_)
            | fdo::Error::Timeout(_)
            | fdo::Error::TimedOut(_)
            | fdo::Error::SpawnChildExited(_)
            | fdo::Error::SpawnChildSignaled(_)
            | fdo::Error::SpawnExecFailed(_)
            | fdo::Error::SpawnFailed(_)
            | fdo::Error::SpawnForkFailed(_)
    )
}
