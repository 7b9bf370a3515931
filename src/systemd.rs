//! Units and jobs: the edge to systemd.
//!
//! Everything goes over the system bus to `org.freedesktop.systemd1`
//! (`org.freedesktop.systemd1(5)`, systemd 247 to 257).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use tokio::sync::Notify;
use zbus::fdo::DBusProxy;
use zbus::{Connection, DeserializeDict, OwnedObjectPath, Type, proxy};

/// systemd could not be asked, or said no.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// No connection, or it broke.
    #[error("systemd cannot be reached over D-Bus: {0}")]
    Bus(zbus::Error),
    /// systemd answered, and said no.
    #[error("systemd refused: {0}")]
    Refused(zbus::Error),
    /// A job ended otherwise than well.
    #[error("systemd's job to {verb} {unit} ended with {result:?} (see: journalctl -u {unit})")]
    Job {
        /// `start` or `stop`.
        verb: &'static str,
        /// The unit.
        unit: String,
        /// systemd's word for the outcome.
        result: String,
    },
    /// A job did not end in time.
    #[error("systemd's job to {verb} {unit} has not ended after {} s", .after.as_secs())]
    Deadline {
        /// `start` or `stop`.
        verb: &'static str,
        /// The unit.
        unit: String,
        /// How long it was given.
        after: Duration,
    },
}

impl From<zbus::Error> for SystemdError {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(..) => Self::Refused(error),
            _ => Self::Bus(error),
        }
    }
}

/// A unit, as far as it matters for stopping and starting it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unit {
    /// Its canonical name.
    pub id: String,
    /// `loaded`, `not-found`, `masked`, …
    pub load_state: String,
    /// `active`, `inactive`, `failed`, `activating`, `deactivating`, `reloading`.
    pub active_state: String,
    /// Finer than the active state, and different for each type of unit.
    pub sub_state: String,
    /// The unit's file has changed since systemd read it.
    pub need_daemon_reload: bool,
    /// It was made over D-Bus, has no file, and is gone once it stops.
    pub transient: bool,
    /// The drop-ins that systemd has read for it.
    pub drop_in_paths: Vec<String>,
    /// Units whose activity starts this one: sockets, paths, timers.
    pub triggered_by: Vec<String>,
    /// Units that systemd stops when this one stops.
    pub takes_along: Vec<String>,
    /// Units that are started before this one.
    pub after: Vec<String>,
    /// It stops when nothing needs it any more.
    pub stop_when_unneeded: bool,
    /// The paths of its `AssertPathExists=` settings.
    pub asserted_paths: Vec<String>,
}

impl Unit {
    /// It runs, as far as systemd knows.
    #[must_use]
    pub fn is_active(&self) -> bool {
        is_active(&self.active_state)
    }
}

/// Active, and not about to change that.
#[must_use]
pub fn is_active(active_state: &str) -> bool {
    matches!(active_state, "active" | "reloading" | "refreshing")
}

/// What a service unit has beyond a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// The main process; 0 for none.
    pub main_pid: u32,
    /// Which processes a stop kills (`systemd.kill(5)`).
    pub kill_mode: String,
    /// The control group below `/sys/fs/cgroup`; empty for none.
    pub control_group: String,
    /// After this, systemd kills what does not stop; none for never.
    pub timeout_stop: Option<Duration>,
    /// The command line, variables not yet expanded.
    pub exec_start: Vec<String>,
    /// `Environment=`, each `NAME=VALUE`.
    pub environment: Vec<String>,
    /// `EnvironmentFile=`, and whether each may be missing.
    pub environment_files: Vec<(String, bool)>,
}

/// A job in systemd's queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedJob {
    /// The unit.
    pub unit: String,
    /// `start`, `stop`, `restart`, …
    pub kind: String,
}

/// What a transaction needs of systemd, and no more.
#[allow(
    async_fn_in_trait,
    reason = "used by this crate alone, on a runtime of one thread"
)]
pub trait ServiceManager {
    /// Every loaded unit with its active state.
    async fn active_states(&self) -> Result<BTreeMap<String, String>, SystemdError>;
    /// The queued jobs.
    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>, SystemdError>;
    /// A unit, loaded if it is not.
    async fn unit(&self, name: &str) -> Result<Unit, SystemdError>;
    /// The service part of a unit.
    async fn service(&self, name: &str) -> Result<Service, SystemdError>;
    /// Where a socket unit listens on the file system.
    async fn listening_paths(&self, socket: &str) -> Result<Vec<String>, SystemdError>;
    /// The unit that a process belongs to.
    async fn unit_of_process(&self, pid: u32) -> Result<String, SystemdError>;
    /// The process ID that the bus, and so systemd, knows this process by.
    async fn own_pid(&self) -> Result<u32, SystemdError>;
    /// Has unit files read again (`systemctl daemon-reload`).
    async fn reload(&self) -> Result<(), SystemdError>;
    /// Forgets a failure and the count of recent starts.
    async fn reset_failed(&self, unit: &str) -> Result<(), SystemdError>;
    /// Stops a unit and its active triggers in one go, and waits for every
    /// job that this makes.
    async fn stop(
        &self,
        unit: &str,
        triggers: &[String],
        within: Duration,
    ) -> Result<(), SystemdError>;
    /// Starts units, in the order given as far as systemd's own allows, and
    /// waits for each job.
    async fn start(&self, units: &[String], within: Duration) -> Result<(), SystemdError>;
}

/// Every active unit that a stop of `unit` and its active triggers would stop
/// as well, by the dependencies that systemd has loaded.
///
/// # Errors
/// When systemd cannot be asked.
pub async fn carried_along(
    manager: &impl ServiceManager,
    unit: &Unit,
    triggers: &[String],
) -> Result<BTreeSet<String>, SystemdError> {
    let mut found = BTreeSet::new();
    let mut queue = unit.takes_along.clone();
    queue.extend(triggers.iter().cloned());
    while let Some(name) = queue.pop() {
        if name == unit.id || found.contains(&name) {
            continue;
        }
        let next = manager.unit(&name).await?;
        if next.active_state == "inactive" || next.active_state == "failed" {
            continue;
        }
        queue.extend(next.takes_along);
        found.insert(name);
    }
    for trigger in triggers {
        found.remove(trigger);
    }
    Ok(found)
}

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd1 {
    async fn subscribe(&self) -> zbus::Result<()>;
    async fn reload(&self) -> zbus::Result<()>;
    async fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(name = "GetUnitByPID")]
    async fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;
    async fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    async fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    async fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    async fn enqueue_unit_job(
        &self,
        name: &str,
        kind: &str,
        mode: &str,
    ) -> zbus::Result<EnqueuedJob>;
    async fn list_units(&self) -> zbus::Result<Vec<ListedUnit>>;
    async fn list_jobs(&self) -> zbus::Result<Vec<ListedJob>>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

type AffectedJob = (u32, OwnedObjectPath, String, OwnedObjectPath, String);
type EnqueuedJob = (
    u32,
    OwnedObjectPath,
    String,
    OwnedObjectPath,
    String,
    Vec<AffectedJob>,
);
type ListedUnit = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);
type ListedJob = (
    u32,
    String,
    String,
    String,
    OwnedObjectPath,
    OwnedObjectPath,
);
type Assert = (String, bool, bool, String, i32);
type ExecCommand = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

#[proxy(
    interface = "org.freedesktop.DBus.Properties",
    default_service = "org.freedesktop.systemd1"
)]
trait UnitProperties {
    #[zbus(name = "GetAll")]
    async fn unit(&self, interface: &str) -> zbus::Result<UnitDict>;
    #[zbus(name = "GetAll")]
    async fn service(&self, interface: &str) -> zbus::Result<ServiceDict>;
    #[zbus(name = "GetAll")]
    async fn socket(&self, interface: &str) -> zbus::Result<SocketDict>;
}

#[derive(DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
struct UnitDict {
    id: Option<String>,
    load_state: Option<String>,
    active_state: Option<String>,
    sub_state: Option<String>,
    need_daemon_reload: Option<bool>,
    transient: Option<bool>,
    drop_in_paths: Option<Vec<String>>,
    triggered_by: Option<Vec<String>>,
    required_by: Option<Vec<String>>,
    requisite_of: Option<Vec<String>>,
    bound_by: Option<Vec<String>>,
    consists_of: Option<Vec<String>>,
    propagates_stop_to: Option<Vec<String>>,
    after: Option<Vec<String>>,
    stop_when_unneeded: Option<bool>,
    asserts: Option<Vec<Assert>>,
}

impl From<UnitDict> for Unit {
    fn from(dict: UnitDict) -> Self {
        let takes_along = [
            dict.required_by,
            dict.requisite_of,
            dict.bound_by,
            dict.consists_of,
            dict.propagates_stop_to,
        ];
        Self {
            id: dict.id.unwrap_or_default(),
            load_state: dict.load_state.unwrap_or_default(),
            active_state: dict.active_state.unwrap_or_default(),
            sub_state: dict.sub_state.unwrap_or_default(),
            need_daemon_reload: dict.need_daemon_reload.unwrap_or_default(),
            transient: dict.transient.unwrap_or_default(),
            drop_in_paths: dict.drop_in_paths.unwrap_or_default(),
            triggered_by: dict.triggered_by.unwrap_or_default(),
            takes_along: takes_along.into_iter().flatten().flatten().collect(),
            after: dict.after.unwrap_or_default(),
            stop_when_unneeded: dict.stop_when_unneeded.unwrap_or_default(),
            asserted_paths: dict
                .asserts
                .unwrap_or_default()
                .into_iter()
                .filter(|(kind, ..)| kind == "AssertPathExists")
                .map(|(_, _, _, path, _)| path)
                .collect(),
        }
    }
}

#[derive(DeserializeDict, Type)]
#[zbus(signature = "a{sv}")]
struct ServiceDict {
    #[zbus(rename = "MainPID")]
    main_pid: Option<u32>,
    #[zbus(rename = "KillMode")]
    kill_mode: Option<String>,
    #[zbus(rename = "ControlGroup")]
    control_group: Option<String>,
    #[zbus(rename = "TimeoutStopUSec")]
    timeout_stop: Option<u64>,
    #[zbus(rename = "ExecStart")]
    exec_start: Option<Vec<ExecCommand>>,
    #[zbus(rename = "Environment")]
    environment: Option<Vec<String>>,
    #[zbus(rename = "EnvironmentFiles")]
    environment_files: Option<Vec<(String, bool)>>,
}

impl From<ServiceDict> for Service {
    fn from(dict: ServiceDict) -> Self {
        let exec_start = dict.exec_start.unwrap_or_default().into_iter().last();
        Self {
            main_pid: dict.main_pid.unwrap_or_default(),
            kill_mode: dict.kill_mode.unwrap_or_default(),
            control_group: dict.control_group.unwrap_or_default(),
            timeout_stop: dict
                .timeout_stop
                .filter(|microseconds| *microseconds != u64::MAX)
                .map(Duration::from_micros),
            exec_start: exec_start.map(|command| command.1).unwrap_or_default(),
            environment: dict.environment.unwrap_or_default(),
            environment_files: dict.environment_files.unwrap_or_default(),
        }
    }
}

#[derive(DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
struct SocketDict {
    listen: Option<Vec<(String, String)>>,
}

/// The outcomes of ended jobs. They can come before the reply that names the
/// job, so all are kept.
#[derive(Default)]
struct EndedJobs {
    results: Mutex<HashMap<OwnedObjectPath, String>>,
    news: Notify,
}

impl EndedJobs {
    fn take(&self, job: &OwnedObjectPath) -> Option<String> {
        self.results
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(job)
    }

    fn put(&self, job: OwnedObjectPath, result: String) {
        self.results
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(job, result);
        self.news.notify_waiters();
    }
}

/// A connection to systemd over the system bus.
pub struct SystemBus {
    connection: Connection,
    manager: Systemd1Proxy<'static>,
    ended: Arc<EndedJobs>,
}

impl SystemBus {
    /// Connects, and from then on hears of every job that ends.
    ///
    /// # Errors
    /// When there is no system bus, or no systemd on it.
    pub async fn connect() -> Result<Self, SystemdError> {
        let connection = Connection::system().await?;
        let manager = Systemd1Proxy::new(&connection).await?;
        let mut removals = manager.receive_job_removed().await?;
        let ended = Arc::new(EndedJobs::default());
        let sink = Arc::clone(&ended);
        tokio::spawn(async move {
            while let Some(removal) =
                std::future::poll_fn(|context| Pin::new(&mut removals).poll_next(context)).await
            {
                if let Ok(args) = removal.args() {
                    sink.put(args.job.clone(), args.result.clone());
                }
            }
        });
        match manager.subscribe().await {
            Err(zbus::Error::MethodError(name, ..))
                if name.as_str() == "org.freedesktop.systemd1.AlreadySubscribed" => {}
            outcome => outcome?,
        }
        Ok(Self {
            connection,
            manager,
            ended,
        })
    }

    async fn properties(
        &self,
        path: OwnedObjectPath,
    ) -> Result<UnitPropertiesProxy<'static>, SystemdError> {
        let proxy = UnitPropertiesProxy::builder(&self.connection)
            .path(path)
            .build()
            .await?;
        Ok(proxy)
    }

    async fn unit_at(&self, path: OwnedObjectPath) -> Result<Unit, SystemdError> {
        let proxy = self.properties(path).await?;
        Ok(proxy.unit("org.freedesktop.systemd1.Unit").await?.into())
    }

    async fn wait(
        &self,
        verb: &'static str,
        unit: &str,
        job: &OwnedObjectPath,
        within: Duration,
    ) -> Result<(), SystemdError> {
        let ended = async {
            loop {
                let news = self.ended.news.notified();
                if let Some(result) = self.ended.take(job) {
                    return result;
                }
                news.await;
            }
        };
        match tokio::time::timeout(within, ended).await {
            Ok(result) if result == "done" || result == "skipped" => Ok(()),
            Ok(result) => Err(SystemdError::Job {
                verb,
                unit: unit.to_owned(),
                result,
            }),
            Err(_) => Err(SystemdError::Deadline {
                verb,
                unit: unit.to_owned(),
                after: within,
            }),
        }
    }
}

impl ServiceManager for SystemBus {
    async fn active_states(&self) -> Result<BTreeMap<String, String>, SystemdError> {
        let units = self.manager.list_units().await?;
        Ok(units
            .into_iter()
            .map(|(name, _, _, active_state, ..)| (name, active_state))
            .collect())
    }

    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>, SystemdError> {
        let jobs = self.manager.list_jobs().await?;
        Ok(jobs
            .into_iter()
            .map(|(_, unit, kind, ..)| QueuedJob { unit, kind })
            .collect())
    }

    async fn unit(&self, name: &str) -> Result<Unit, SystemdError> {
        let path = self.manager.load_unit(name).await?;
        self.unit_at(path).await
    }

    async fn service(&self, name: &str) -> Result<Service, SystemdError> {
        let path = self.manager.load_unit(name).await?;
        let proxy = self.properties(path).await?;
        let dict = proxy.service("org.freedesktop.systemd1.Service").await?;
        Ok(dict.into())
    }

    async fn listening_paths(&self, socket: &str) -> Result<Vec<String>, SystemdError> {
        let path = self.manager.load_unit(socket).await?;
        let proxy = self.properties(path).await?;
        let dict = proxy.socket("org.freedesktop.systemd1.Socket").await?;
        Ok(dict
            .listen
            .unwrap_or_default()
            .into_iter()
            .filter(|(kind, _)| kind == "Stream")
            .map(|(_, address)| address)
            .filter(|address| address.starts_with('/'))
            .collect())
    }

    async fn unit_of_process(&self, pid: u32) -> Result<String, SystemdError> {
        let path = self.manager.get_unit_by_pid(pid).await?;
        Ok(self.unit_at(path).await?.id)
    }

    async fn own_pid(&self) -> Result<u32, SystemdError> {
        let Some(name) = self.connection.unique_name() else {
            return Ok(std::process::id());
        };
        let bus = DBusProxy::new(&self.connection).await?;
        let pid = bus
            .get_connection_unix_process_id(name.as_ref().into())
            .await
            .map_err(zbus::Error::from)?;
        Ok(pid)
    }

    async fn reload(&self) -> Result<(), SystemdError> {
        Ok(self.manager.reload().await?)
    }

    async fn reset_failed(&self, unit: &str) -> Result<(), SystemdError> {
        match self.manager.reset_failed_unit(unit).await {
            // A unit that nothing refers to is forgotten when it stops, its
            // failures with it.
            Err(zbus::Error::MethodError(name, ..))
                if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit" =>
            {
                Ok(())
            }
            outcome => Ok(outcome?),
        }
    }

    async fn stop(
        &self,
        unit: &str,
        triggers: &[String],
        within: Duration,
    ) -> Result<(), SystemdError> {
        let mut jobs = Vec::new();
        match self
            .manager
            .enqueue_unit_job(unit, "stop", "triggering")
            .await
        {
            Ok((_, job, name, _, _, affected)) => {
                jobs.push((name, job));
                jobs.extend(affected.into_iter().map(|(_, job, name, ..)| (name, job)));
            }
            // systemd before v245 has neither the method nor the mode.
            Err(zbus::Error::MethodError(name, ..))
                if name.as_str() == "org.freedesktop.DBus.Error.UnknownMethod" =>
            {
                for name in triggers.iter().map(String::as_str).chain([unit]) {
                    jobs.push((
                        name.to_owned(),
                        self.manager.stop_unit(name, "replace").await?,
                    ));
                }
            }
            Err(error) => return Err(error.into()),
        }
        for (name, job) in &jobs {
            self.wait("stop", name, job, within).await?;
        }
        Ok(())
    }

    async fn start(&self, units: &[String], within: Duration) -> Result<(), SystemdError> {
        let mut jobs = Vec::new();
        for unit in units {
            jobs.push((unit, self.manager.start_unit(unit, "replace").await?));
        }
        for (unit, job) in jobs {
            self.wait("start", unit, &job, within).await?;
        }
        Ok(())
    }
}
