//! systemd over the system bus: `org.freedesktop.systemd1(5)`, systemd 247 to
//! 257.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use nix::sys::signal::Signal;
use tokio::sync::Notify;
use zbus::connection::Builder;
use zbus::fdo::DBusProxy;
use zbus::{Connection, DeserializeDict, OwnedObjectPath, Type, Variant, proxy};

use crate::systemd::{QueuedJob, Service, ServiceManager, SystemdError, Transient, Unit};

/// Reading all unit files again is the slowest of the calls: seconds on a
/// large host. Jobs are not waited for in a reply.
const REPLY_WITHIN: Duration = Duration::from_secs(120);

/// A program is executed at once, or not at all.
const TRANSIENT_WITHIN: Duration = Duration::from_secs(30);

/// Between one end of a transient service and its next start.
const TRANSIENT_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// Then systemd leaves it failed.
const TRANSIENT_TRIES: u32 = 5;

/// The time that the tries are counted in.
const TRANSIENT_TRIES_WITHIN: Duration = Duration::from_secs(3600);

/// logind answers at once, or is in trouble.
const LOGIND_WITHIN: Duration = Duration::from_secs(5);

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
    async fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
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
    async fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        others: &[(&str, &[(&str, Variant<'_>)])],
    ) -> zbus::Result<OwnedObjectPath>;
    #[zbus(property)]
    fn system_state(&self) -> zbus::Result<String>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

#[proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Login1 {
    async fn inhibit(
        &self,
        what: &str,
        who: &str,
        why: &str,
        mode: &str,
    ) -> zbus::Result<zbus::OwnedFd>;
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
    requires: Option<Vec<String>>,
    requisite: Option<Vec<String>>,
    wants: Option<Vec<String>>,
    binds_to: Option<Vec<String>>,
    upholds: Option<Vec<String>>,
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
        let needs = [
            dict.requires,
            dict.requisite,
            dict.wants,
            dict.binds_to,
            dict.upholds,
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
            needs: needs.into_iter().flatten().flatten().collect(),
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
        let connection = Builder::system()
            .method_timeout(REPLY_WITHIN)
            .build()
            .await?;
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

    async fn hang_up(&self, unit: &str) -> Result<(), SystemdError> {
        let signal = Signal::SIGHUP as i32;
        Ok(self.manager.kill_unit(unit, "main", signal).await?)
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
        let mut outcome = Ok(());
        for unit in units {
            // One that is refused keeps none of the others back.
            match self.manager.start_unit(unit, "replace").await {
                Ok(job) => jobs.push((unit, job)),
                Err(error) => outcome = outcome.and(Err(error.into())),
            }
        }
        for (unit, job) in jobs {
            let started = self.wait("start", unit, &job, within).await;
            outcome = outcome.and(started);
        }
        outcome
    }

    async fn start_transient(&self, service: &Transient) -> Result<(), SystemdError> {
        let program = service.command.first().map(String::as_str);
        let program = program.unwrap_or_default();
        let command: Vec<&str> = service.command.iter().map(String::as_str).collect();
        let properties = [
            ("Description", service.description.as_str().into()),
            // Its start has ended when the program runs.
            ("Type", "exec".into()),
            ("ExecStart", vec![(program, command, false)].into()),
            ("Restart", "on-failure".into()),
            ("RestartUSec", microseconds(TRANSIENT_AGAIN_AFTER)),
            (
                "StartLimitIntervalUSec",
                microseconds(TRANSIENT_TRIES_WITHIN),
            ),
            ("StartLimitBurst", TRANSIENT_TRIES.into()),
        ];
        let name = &service.name;
        let job = self
            .manager
            .start_transient_unit(name, "fail", &properties, &[])
            .await?;
        self.wait("start", name, &job, TRANSIENT_WITHIN).await
    }

    async fn delay_shutdown(&self, why: &str) -> Result<OwnedFd, SystemdError> {
        let inhibit = async {
            let logind = Login1Proxy::new(&self.connection).await?;
            logind.inhibit("shutdown", "digestfix", why, "delay").await
        };
        match tokio::time::timeout(LOGIND_WITHIN, inhibit).await {
            Ok(lock) => Ok(lock?.into()),
            Err(_) => Err(zbus::Error::from(io::Error::from(io::ErrorKind::TimedOut)).into()),
        }
    }

    async fn is_shutting_down(&self) -> bool {
        // Nothing is left to ask late in a shutdown.
        let state = self.manager.system_state().await;
        state.is_ok_and(|state| state == "stopping")
    }
}

fn microseconds(duration: Duration) -> Variant<'static> {
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX)
        .into()
}
