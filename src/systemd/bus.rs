//! Connection to systemd over D-Bus. If the system bus fails, digestfix opens another
//! connection.
//!
//! A run begins with a connection to the system bus. If that connection breaks while
//! Docker is stopped, digestfix still has to start Docker. So digestfix connects again,
//! either to the bus or directly to systemd. Repeating a call of this module does no
//! harm, even if systemd has already executed the call. For example, systemd answers a
//! repeated request for a job with the same job.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use zbus::OwnedObjectPath;

use crate::systemd::{
    OwnService, QueuedJob, RUNTIME_UNITS, Service, ServiceManager, SystemdError, Unit, lasting,
};

mod interface;
mod jobs;
mod link;
mod private;
mod transient;

pub(super) use link::is_absent;

use jobs::{EndedJobs, Job, Verb};
use link::{Link, Way};

/// How long digestfix tries to open a new connection.
const RECONNECT_WITHIN: Duration = Duration::from_secs(30);

/// Pause between two attempts to connect, and between two checks of a job whose signal
/// was missed.
const AGAIN: Duration = Duration::from_millis(100);

/// Timeout for connecting to the bus. The timeout is short, because Docker may be down. A
/// connection can hang: the bus's socket unit accepts connections even if the D-Bus
/// daemon does not start.
const BUS_WITHIN: Duration = Duration::from_secs(1);

/// Timeout for connecting to systemd's private socket. This timeout is longer than the
/// timeout for the bus, because systemd may be busy reading unit files. There is no third
/// way to reach systemd.
const PRIVATE_WITHIN: Duration = Duration::from_secs(10);

/// How long digestfix waits for the signal about a job before it asks systemd for the
/// job's state. The signal can be lost between two connections. On a working connection,
/// the signal can be lost if systemd re-executes itself.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Timeout for logind, which normally answers at once.
const LOGIND_WITHIN: Duration = Duration::from_secs(5);

/// A connection to systemd. If the connection breaks, the next call opens a new
/// connection.
pub struct SystemBus {
    link: Mutex<Option<Arc<Link>>>,
    ended: Arc<EndedJobs>,
}

impl SystemBus {
    /// Connects to the system bus. From then on, collects the result of each systemd job
    /// that ends.
    pub async fn connect() -> Result<Self, SystemdError> {
        let ended = Arc::new(EndedJobs::default());
        let link = open(Way::Bus, &ended, RECONNECT_WITHIN).await?;
        Ok(Self {
            link: Mutex::new(Some(Arc::new(link))),
            ended,
        })
    }

    /// Connects to systemd over the bus or, if there is no bus, over systemd's private
    /// socket.
    pub async fn connect_anyhow() -> Result<Self, SystemdError> {
        let bus = Self {
            link: Mutex::new(None),
            ended: Arc::new(EndedJobs::default()),
        };
        bus.link().await?;
        Ok(bus)
    }

    /// systemd's version, as the Linux distribution writes it.
    pub async fn version(&self) -> Result<String, SystemdError> {
        let version = self.call(async |link| link.version().await).await?;
        Ok(version.unwrap_or_default())
    }

    /// Removes the unit files of runs that were killed before their watchdog had started.
    pub async fn sweep_lasting(&self) {
        for name in lasting::names(Path::new(RUNTIME_UNITS)) {
            let unit = self.unit(&name).await;
            if unit.is_ok_and(|unit| matches!(unit.active_state.as_str(), "inactive" | "failed")) {
                // Ignore the error, because a unit file that remains has no effect.
                let _ = self.forget_lasting(&name).await;
            }
        }
    }

    /// Returns the connection to systemd. If the connection broke, opens a new one.
    async fn link(&self) -> Result<Arc<Link>, SystemdError> {
        let mut current = self.link.lock().await;
        if let Some(link) = current.as_ref().filter(|link| !link.is_closed()) {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(self.reconnect().await?);
        *current = Some(Arc::clone(&link));
        Ok(link)
    }

    async fn reconnect(&self) -> Result<Link, SystemdError> {
        let deadline = Instant::now() + RECONNECT_WITHIN;
        loop {
            let bus = match open(Way::Bus, &self.ended, BUS_WITHIN).await {
                Ok(link) => return Ok(link),
                Err(error) => error,
            };
            let private = match open(Way::Private, &self.ended, PRIVATE_WITHIN).await {
                Ok(link) => {
                    tracing::info!("{bus}; digestfix uses systemd's private socket instead");
                    return Ok(link);
                }
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                tracing::info!("systemd's private socket failed too: {private}");
                return Err(bus);
            }
            sleep(AGAIN).await;
        }
    }

    /// Drops this connection, so that the next call opens a new connection.
    async fn give_up(&self, link: &Arc<Link>) {
        let mut current = self.link.lock().await;
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, link))
        {
            *current = None;
        }
    }

    /// Calls systemd. If the connection breaks, repeats the call over a new connection.
    async fn call<T>(
        &self,
        method: impl AsyncFn(&Link) -> zbus::Result<T>,
    ) -> Result<T, SystemdError> {
        let mut deadline = None;
        loop {
            let link = self.link().await?;
            let error = match method(&link).await {
                Err(error) if link.is_lost(&error) => error,
                outcome => return Ok(outcome?),
            };
            tracing::info!("the connection to systemd broke: {error}");
            self.give_up(&link).await;
            match deadline {
                None => deadline = Some(Instant::now() + RECONNECT_WITHIN),
                Some(deadline) if Instant::now() >= deadline => return Err(error.into()),
                Some(_) => sleep(AGAIN).await,
            }
        }
    }

    async fn unit_at(&self, path: &OwnedObjectPath) -> Result<Unit, SystemdError> {
        let dict = self
            .call(async |link| {
                let proxy = link.properties(path.clone()).await?;
                proxy.unit("org.freedesktop.systemd1.Unit").await
            })
            .await?;
        Ok(dict.into())
    }

    async fn wait(&self, job: &Job, within: Duration) -> Result<(), SystemdError> {
        match timeout(within, self.result(job)).await {
            Ok(Ok(result)) if result == "done" || result == "skipped" => Ok(()),
            Ok(Ok(result)) => Err(SystemdError::Job {
                verb: job.verb.name(),
                unit: job.unit.clone(),
                result,
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(SystemdError::Deadline {
                verb: job.verb.name(),
                unit: job.unit.clone(),
                after: within,
            }),
        }
    }

    /// Waits until a job has ended, and returns its result. The result comes from
    /// systemd's signal or, without a signal, from the state of the job's unit.
    async fn result(&self, job: &Job) -> Result<String, SystemdError> {
        let mut look_after = LOOK_AFTER;
        loop {
            let link = self.link().await?;
            let heard = self.ended.result(job, look_after, || link.is_closed());
            if let Some(result) = heard.await {
                return Ok(result);
            }
            let queued = self
                .call(async |link| link.manager.list_jobs().await)
                .await?;
            if queued.iter().any(|(_, _, _, _, path, _)| *path == job.path) {
                look_after = LOOK_AFTER;
                continue;
            }
            // The signal about the job may have arrived in the meantime.
            if let Some(result) = self.ended.result(job, AGAIN, || false).await {
                return Ok(result);
            }
            if let Some(result) = job.verb.result(&self.unit(&job.unit).await?) {
                return Ok(result.to_owned());
            }
            look_after = AGAIN;
        }
    }
}

async fn open(way: Way, ended: &Arc<EndedJobs>, within: Duration) -> Result<Link, SystemdError> {
    match timeout(within, Link::open(way, ended)).await {
        Ok(link) => Ok(link?),
        Err(_) => Err(SystemdError::Silent(within)),
    }
}

impl ServiceManager for SystemBus {
    async fn active_states(&self) -> Result<BTreeMap<String, String>, SystemdError> {
        let units = self
            .call(async |link| link.manager.list_units().await)
            .await?;
        Ok(units
            .into_iter()
            .map(|(name, _, _, active_state, ..)| (name, active_state))
            .collect())
    }

    async fn queued_jobs(&self) -> Result<Vec<QueuedJob>, SystemdError> {
        let jobs = self
            .call(async |link| link.manager.list_jobs().await)
            .await?;
        Ok(jobs
            .into_iter()
            .map(|(_, unit, kind, ..)| QueuedJob { unit, kind })
            .collect())
    }

    async fn unit(&self, name: &str) -> Result<Unit, SystemdError> {
        let path = self
            .call(async |link| link.manager.load_unit(name).await)
            .await?;
        self.unit_at(&path).await
    }

    async fn service(&self, name: &str) -> Result<Service, SystemdError> {
        let dict = self
            .call(async |link| {
                let path = link.manager.load_unit(name).await?;
                let proxy = link.properties(path).await?;
                proxy.service("org.freedesktop.systemd1.Service").await
            })
            .await?;
        Ok(dict.into())
    }

    async fn listening_paths(&self, socket: &str) -> Result<Vec<String>, SystemdError> {
        let dict = self
            .call(async |link| {
                let path = link.manager.load_unit(socket).await?;
                let proxy = link.properties(path).await?;
                proxy.socket("org.freedesktop.systemd1.Socket").await
            })
            .await?;
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
        let path = self
            .call(async |link| link.manager.get_unit_by_pid(pid).await)
            .await?;
        Ok(self.unit_at(&path).await?.id)
    }

    async fn own_pid(&self) -> Result<u32, SystemdError> {
        let link = self.link().await?;
        if link.way == Way::Private {
            // Drop the connection to the private socket, because the bus may be available
            // again.
            self.give_up(&link).await;
        }
        let pid = self.call(async |link| link.own_pid().await).await?;
        pid.ok_or(SystemdError::NoBus)
    }

    async fn reload(&self) -> Result<(), SystemdError> {
        self.call(async |link| link.manager.reload().await).await
    }

    async fn hang_up(&self, unit: &str) -> Result<(), SystemdError> {
        let signal = Signal::SIGHUP as i32;
        self.call(async |link| link.manager.kill_unit(unit, "main", signal).await)
            .await
    }

    async fn reset_failed(&self, unit: &str) -> Result<(), SystemdError> {
        let reset = self
            .call(async |link| link.manager.reset_failed_unit(unit).await)
            .await;
        match reset {
            // systemd forgets a unit, with its failures, when the unit has stopped and
            // nothing refers to the unit.
            Err(SystemdError::Refused(zbus::Error::MethodError(name, ..)))
                if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit" =>
            {
                Ok(())
            }
            outcome => outcome,
        }
    }

    async fn stop(
        &self,
        unit: &str,
        triggers: &[String],
        within: Duration,
    ) -> Result<(), SystemdError> {
        let job = |unit: String, path| Job {
            verb: Verb::Stop,
            unit,
            path,
        };
        let mut jobs = Vec::new();
        let enqueued = self
            .call(async |link| {
                let manager = &link.manager;
                manager.enqueue_unit_job(unit, "stop", "triggering").await
            })
            .await;
        match enqueued {
            Ok((_, path, name, _, _, affected)) => {
                jobs.push(job(name, path));
                let affected = affected.into_iter();
                jobs.extend(affected.map(|(_, path, name, ..)| job(name, path)));
            }
            // The method `EnqueueUnitJob` exists only since systemd 242, and its mode
            // `triggering` only since systemd 244.
            Err(SystemdError::Refused(zbus::Error::FDO(error)))
                if matches!(
                    *error,
                    zbus::fdo::Error::UnknownMethod(_) | zbus::fdo::Error::InvalidArgs(_)
                ) =>
            {
                for name in triggers.iter().map(String::as_str).chain([unit]) {
                    let path = self
                        .call(async |link| link.manager.stop_unit(name, "replace").await)
                        .await?;
                    jobs.push(job(name.to_owned(), path));
                }
            }
            Err(error) => return Err(error),
        }
        for job in &jobs {
            self.wait(job, within).await?;
        }
        Ok(())
    }

    async fn start(&self, units: &[String], within: Duration) -> Result<(), SystemdError> {
        let mut jobs = Vec::new();
        let mut outcome = Ok(());
        for unit in units {
            let started = self
                .call(async |link| link.manager.start_unit(unit, "replace").await)
                .await;
            // If systemd refuses to start one unit, start the other units anyway.
            match started {
                Ok(path) => jobs.push(Job {
                    verb: Verb::Start,
                    unit: unit.clone(),
                    path,
                }),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        for job in &jobs {
            let started = self.wait(job, within).await;
            outcome = outcome.and(started);
        }
        outcome
    }

    async fn start_lasting(&self, service: &OwnService) -> Result<(), SystemdError> {
        self.sweep_lasting().await;
        lasting::write(Path::new(RUNTIME_UNITS), service)?;
        let units = [service.name.clone()];
        let mut started = self.start(&units, lasting::READY_WITHIN).await;
        // Some versions of systemd find a new unit file only after a daemon-reload.
        if let Err(SystemdError::Refused(_)) = started {
            started = match self.reload().await {
                Ok(()) => self.start(&units, lasting::READY_WITHIN).await,
                Err(error) => Err(error),
            };
        }
        if started.is_err() {
            // Stop the unit, because systemd would otherwise keep trying to start it.
            // Ignore errors of the stop, and report the error of the start.
            let _ = self.stop(&service.name, &[], lasting::READY_WITHIN).await;
            let _ = self.forget_lasting(&service.name).await;
        }
        started
    }

    async fn forget_lasting(&self, name: &str) -> Result<(), SystemdError> {
        lasting::remove(Path::new(RUNTIME_UNITS), name)?;
        self.reset_failed(name).await
    }

    async fn run_like(
        &self,
        service: &OwnService,
        other: &Service,
        output: BorrowedFd<'_>,
    ) -> Result<bool, SystemdError> {
        let properties = transient::like(service, other, output);
        let path = self
            .call(async |link| {
                let manager = &link.manager;
                manager
                    .start_transient_unit(&service.name, "fail", &properties, &[])
                    .await
            })
            .await?;
        let job = Job {
            verb: Verb::Start,
            unit: service.name.clone(),
            path,
        };
        let ran = self.wait(&job, transient::WITHIN).await;
        if ran.is_err() {
            // systemd keeps a failed transient unit until a client resets that unit.
            let _ = self.reset_failed(&service.name).await;
        }
        match ran {
            Ok(()) => Ok(true),
            Err(SystemdError::Job { result, .. }) if result == "failed" => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn delay_shutdown(&self, why: &str) -> Result<OwnedFd, SystemdError> {
        let link = self.link().await?;
        match timeout(LOGIND_WITHIN, link.delay_shutdown(why)).await {
            Ok(lock) => Ok(lock?),
            Err(_) => Err(SystemdError::Silent(LOGIND_WITHIN)),
        }
    }

    async fn is_shutting_down(&self) -> bool {
        // If systemd gives no answer, this function returns false. This can happen late
        // in a shutdown.
        let state = self.call(async |link| link.system_state().await).await;
        state.is_ok_and(|state| state.as_deref() == Some("stopping"))
    }
}
