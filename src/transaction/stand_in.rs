//! The change that the running Docker makes itself: serve, lead it there, have
//! it pull, lead it back, verify; undone from wherever it fails.
//!
//! Nothing is stopped. What is changed on the host is there for as long as the
//! pulls take: a mirror in daemon.json, names in `/etc/hosts`, each only where a
//! name needs it. What Docker records is in its store and its file at once, one
//! reference after another, so going back means to drop what is there so far.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::data_root::ImageDir;
use crate::engine::Engine;
use crate::journal::{self, Journal, Recorded};
use crate::reference::Reference;
use crate::stand_in::hosts::copies;
use crate::stand_in::server::{Listeners, Serving};
use crate::stand_in::{Errand, Route};
use crate::systemd::ServiceManager;
use crate::transaction::Transaction;
use crate::transaction::daemon::Daemon;
use crate::transaction::daemon_json::Switch;
use crate::transaction::hosts_file::{HostsFile, PutBack};
use crate::transaction::lock::RootLock;
use crate::transaction::outcome::{Failure, Progress, Step};
use crate::transaction::setting::{Setting, put_file_back};
use crate::transaction::swap::Staged;

mod drops;
mod pulls;

use drops::drop_from;
use pulls::Wanted;

/// dockerd may record what it had just fetched when its client went away.
const RECORDED_WITHIN: Duration = Duration::from_millis(500);

/// So often it is looked for where dockerd has not even answered.
const LOOKS_WHERE_UNANSWERED: u32 = 20;

/// A registry of digestfix's own, and how Docker comes to it.
#[derive(Debug)]
pub struct StandIn {
    errand: Errand,
    route: Route,
    listeners: Option<Listeners>,
    serving: Option<Serving>,
    mirror: Option<Switch>,
    hosts: Option<HostsFile>,
    /// Since when Docker may be led to it.
    led: Option<Instant>,
    /// Docker may have recorded something.
    asked: bool,
    /// It has answered every pull.
    pulled: bool,
    /// Docker may be about to record something.
    unanswered: bool,
}

impl StandIn {
    /// One that nobody is led to yet.
    #[must_use]
    pub const fn new(errand: Errand, route: Route, listeners: Listeners) -> Self {
        Self {
            errand,
            route,
            listeners: Some(listeners),
            serving: None,
            mirror: None,
            hosts: None,
            led: None,
            asked: false,
            pulled: false,
            unanswered: false,
        }
    }

    /// The mirror that Docker is to ask, if it is.
    #[must_use]
    pub fn mirror_address(&self) -> Option<String> {
        self.listeners.as_ref()?.mirror()
    }

    fn prepare<M, E>(
        &mut self,
        id: &str,
        daemon: Daemon<'_, M, E>,
    ) -> Result<journal::StandIn, Failure> {
        let mut mirror = None;
        if let Some(address) = self.mirror_address() {
            let setting = Setting::Mirror(address.clone());
            self.mirror = Switch::plan(&daemon.host.config_file, id, setting, false)?;
            mirror = self.mirror.as_ref().map(|switch| journal::Mirror {
                address,
                daemon_json: switch.contents().clone(),
            });
        }
        if !self.route.names.is_empty() {
            self.hosts = Some(HostsFile::plan(daemon.hosts, id, &self.route.names)?);
        }
        let references = self.errand.references.iter();
        Ok(journal::StandIn {
            references: references
                .map(|(reference, image)| Recorded {
                    reference: reference.clone(),
                    image: image.clone(),
                })
                .collect(),
            mirror,
            hosts: self.hosts.as_ref().map(|hosts| hosts.contents().clone()),
        })
    }
}

impl<'a, M: ServiceManager, E: Engine, P: Progress> Transaction<'a, M, E, P> {
    /// The same transaction, made by the running Docker.
    #[must_use]
    pub fn online(mut self, stand_in: StandIn) -> Self {
        self.stand_in = Some(stand_in);
        self
    }

    pub(super) async fn forward_online(&mut self) -> Result<(), Failure> {
        self.announce().await?;
        self.serve().await?;
        self.lead().await?;
        self.pull().await?;
        self.lead_back().await?;
        self.verify_recorded().await
    }

    pub(super) fn announce_online(
        &mut self,
        daemon: Daemon<'a, M, E>,
        journal: &mut Journal,
    ) -> Result<(), Failure> {
        let Some(stand_in) = &mut self.stand_in else {
            return Ok(());
        };
        journal.unit = Some(daemon.unit().to_owned());
        journal.running = true;
        journal.stand_in = Some(stand_in.prepare(&self.id, daemon)?);
        Ok(())
    }

    async fn serve(&mut self) -> Result<(), Failure> {
        self.heed_interrupt().await?;
        let Some(stand_in) = &mut self.stand_in else {
            return Ok(());
        };
        let manifests = stand_in.errand.manifests.clone();
        let count = manifests.len();
        if let Some(listeners) = stand_in.listeners.take() {
            stand_in.serving = Some(listeners.serve(manifests).map_err(Failure::Serve)?);
        }
        let detail = match count {
            1 => "1 manifest served to Docker on this host's loopback".to_owned(),
            _ => format!("{count} manifests served to Docker on this host's loopback"),
        };
        self.progress.step(Step::Serve, &detail);
        Ok(())
    }

    pub(super) async fn lead(&mut self) -> Result<(), Failure> {
        self.heed_interrupt().await?;
        let (Some(daemon), Some(stand_in)) = (self.daemon, &mut self.stand_in) else {
            return Ok(());
        };
        stand_in.led = Some(Instant::now());
        let mut led = Vec::new();
        if let Some(switch) = &stand_in.mirror {
            let setting = switch.setting();
            self.progress.begin(&format!("switching {setting} on"));
            daemon.switch_on(setting, Some(switch)).await?;
            led.push("a mirror for docker.io set for the moment".to_owned());
        }
        if let Some(hosts) = &stand_in.hosts {
            let names = &stand_in.route.names;
            hosts.add(names)?;
            stand_in.led = Some(Instant::now());
            led.push(format!("{} in /etc/hosts for the moment", names.join(", ")));
        }
        if !led.is_empty() {
            self.progress.step(Step::Lead, &led.join("; "));
        }
        Ok(())
    }

    async fn pull(&mut self) -> Result<(), Failure> {
        let (Some(daemon), Some(stand_in)) = (self.daemon, &mut self.stand_in) else {
            return Ok(());
        };
        stand_in.asked = true;
        // By whatever else Docker is led, it is at once.
        let led = |reference: &Reference| {
            let by_hosts = stand_in.route.leads_by_hosts(reference.repository());
            stand_in.led.filter(|_| by_hosts)
        };
        let references = stand_in.errand.references.iter();
        let wanted: Vec<Wanted> = references
            .map(|(reference, _)| Wanted {
                reference: reference.clone(),
                led: led(reference),
            })
            .collect();
        let count = wanted.len();
        let pulled = daemon.pull_all(&wanted, self.interrupt, self.progress);
        if let Err(failure) = pulled.await {
            stand_in.unanswered = matches!(&failure, Failure::Engine(error) if error.may_pass());
            return Err(failure);
        }
        stand_in.pulled = true;
        let detail = match count {
            1 => "1 reference recorded by Docker, which went on running".to_owned(),
            _ => format!("{count} references recorded by Docker, which went on running"),
        };
        self.progress.step(Step::Pull, &detail);
        self.heed_interrupt().await
    }

    /// Puts back all that led Docker here: each of it is seen to, whatever became
    /// of the other.
    async fn lead_back(&mut self) -> Result<(), Failure> {
        if let Some(stand_in) = &mut self.stand_in {
            stand_in.serving = None;
        }
        let hosts = self.put_hosts_back();
        let (Some(daemon), Some(stand_in), Some(journal)) =
            (self.daemon, &mut self.stand_in, &mut self.journal)
        else {
            return Ok(());
        };
        if stand_in.led.is_some()
            && let Some(switch) = &mut stand_in.mirror
        {
            daemon
                .take_back(switch, journal, &self.lock, self.progress)
                .await?;
        }
        hosts?;
        stand_in.led = None;
        Ok(())
    }

    fn put_hosts_back(&mut self) -> Result<(), Failure> {
        if let Some(stand_in) = &mut self.stand_in
            && stand_in.led.is_some()
            && let Some(hosts) = &stand_in.hosts
        {
            put_hosts_back(hosts, &self.lock, self.progress)?;
            stand_in.hosts = None;
        }
        Ok(())
    }

    /// Each reference that Docker was to record is in its file, and is what it
    /// answers with.
    async fn verify_recorded(&mut self) -> Result<(), Failure> {
        let (Some(daemon), Some(stand_in)) = (self.daemon, &self.stand_in) else {
            return Ok(());
        };
        self.progress.begin("asking the running engine");
        let now = self.images.read()?;
        for (reference, image) in &stand_in.errand.references {
            if !now.points_at(reference, image) {
                return Err(Failure::FileDiffers(format!(
                    "{reference} does not point at {image}"
                )));
            }
        }
        for (reference, image) in &stand_in.errand.references {
            daemon.finds(reference, image).await?;
        }
        self.heed_interrupt().await?;
        self.progress.step(
            Step::Verify,
            "the file has every reference, and so has the running engine",
        );
        Ok(())
    }

    /// From wherever it failed, back to what was found.
    pub(super) async fn undo_online(&mut self) -> Result<(), Failure> {
        let started = if self.is_gone().await {
            self.start_as_found().await
        } else {
            Ok(())
        };
        let led_back = self.lead_back().await;
        let dropped = self.drop_recorded().await;
        started.and(led_back).and(dropped)
    }

    /// Docker has ended by itself: the next one reads the files that were found.
    async fn start_as_found(&mut self) -> Result<(), Failure> {
        let hosts = self.put_hosts_back();
        let mirror = match &mut self.stand_in {
            Some(StandIn {
                led: Some(_),
                mirror: Some(switch),
                ..
            }) => put_file_back(switch, self.progress),
            _ => Ok(()),
        };
        let started = self.undo_stop().await;
        hosts.and(mirror).and(started)
    }

    async fn drop_recorded(&mut self) -> Result<(), Failure> {
        let (Some(daemon), Some(stand_in)) = (self.daemon, &self.stand_in) else {
            return Ok(());
        };
        if !stand_in.asked {
            return Ok(());
        }
        self.progress.begin("dropping what Docker has recorded");
        let looks = match (stand_in.pulled, stand_in.unanswered) {
            (true, _) => 0,
            (false, false) => 1,
            (false, true) => LOOKS_WHERE_UNANSWERED,
        };
        let references = || {
            let references = stand_in.errand.references.iter();
            references.map(|(reference, image)| (reference, image))
        };
        let mut count = 0;
        for _ in 0..looks {
            tokio::time::sleep(RECORDED_WITHIN).await;
            count += (daemon.drop_recorded(references(), self.progress).await?).count;
        }
        let dropped = daemon.drop_recorded(references(), self.progress).await?;
        count += dropped.count;
        self.stay = dropped.stay;
        if count > 0 {
            let detail = format!("what Docker had recorded is dropped again: {count}");
            self.progress.step(Step::UndoPull, &detail);
        }
        Ok(())
    }
}

impl<M: ServiceManager, E: Engine> Daemon<'_, M, E> {
    /// Ends what a killed run had Docker do: takes the mirror back, and keeps what
    /// it has recorded if that is all of it. `/etc/hosts` has been put back. Gives
    /// what is to be said of what cannot be dropped.
    pub(super) async fn end_stand_in(
        &self,
        journal: &mut Journal,
        lock: &RootLock,
        progress: &mut impl Progress,
    ) -> Result<Vec<String>, Failure> {
        let Some(stand_in) = journal.stand_in.clone() else {
            return Ok(Vec::new());
        };
        if let Some(mut switch) = mirror_switch(journal) {
            self.take_back(&mut switch, journal, lock, progress).await?;
        }
        let all = stand_in.references.len();
        let mut found = self.recorded(&stand_in.references).await?;
        if found < all {
            tokio::time::sleep(RECORDED_WITHIN).await;
            found = self.recorded(&stand_in.references).await?;
        }
        if found == all {
            return Ok(Vec::new());
        }
        let references = stand_in.references.iter();
        let references = references.map(|one| (&one.reference, &one.image));
        let dropped = self.drop_recorded(references, progress).await?;
        if dropped.count > 0 {
            let detail = format!(
                "Docker had recorded {found} of {all} references: dropped again ({})",
                dropped.count
            );
            progress.step(Step::UndoPull, &detail);
        }
        Ok(dropped.stay)
    }

    /// How many of them are there as they were to be.
    async fn recorded(&self, references: &[Recorded]) -> Result<usize, Failure> {
        let there = self.engine.references().await?;
        let is_there =
            |one: &&Recorded| there.get(&one.reference.familiar()) == Some(&one.image.to_string());
        Ok(references.iter().filter(is_there).count())
    }
}

/// Puts `/etc/hosts` back, where a killed run may have changed it.
///
/// # Errors
/// When the file system refuses.
pub fn put_journaled_hosts_back(
    journal: &Journal,
    path: &Path,
    lock: &RootLock,
    progress: &mut impl Progress,
) -> Result<(), Failure> {
    let stand_in = journal.stand_in.as_ref();
    match stand_in.and_then(|stand_in| stand_in.hosts.clone()) {
        Some(hosts) => {
            let hosts = HostsFile::resume(path, &journal.id, hosts);
            put_hosts_back(&hosts, lock, progress)
        }
        None => Ok(()),
    }
}

/// Puts daemon.json back, where a killed run may have set a mirror, before a
/// dockerd reads it.
pub(super) fn put_mirror_back(
    journal: &Journal,
    progress: &mut impl Progress,
) -> Result<(), Failure> {
    match &mut mirror_switch(journal) {
        Some(switch) => put_file_back(switch, progress),
        None => Ok(()),
    }
}

/// Takes what a killed run has had recorded out of the file that Docker is about
/// to read, unless it is all there.
pub(super) fn drop_from_file(
    journal: &Journal,
    images: &ImageDir,
    lock: &RootLock,
    progress: &mut impl Progress,
) -> Result<(), Failure> {
    let Some(stand_in) = &journal.stand_in else {
        return Ok(());
    };
    if images.driver() != journal.references.driver || images.is_in_use()? {
        return Ok(());
    }
    let mut store = images.read()?;
    if drop_from(&mut store, &stand_in.references, progress) {
        Staged::write(images, lock, &journal.id, &store.text().pieces())?
            .swap(lock)?
            .discard()?;
        let detail = "what Docker had recorded so far is dropped again";
        progress.step(Step::UndoPull, detail);
    }
    Ok(())
}

fn mirror_switch(journal: &Journal) -> Option<Switch> {
    let mirror = journal.stand_in.as_ref()?.mirror.clone()?;
    let setting = Setting::Mirror(mirror.address);
    Some(Switch::resume(&journal.id, setting, mirror.daemon_json))
}

fn put_hosts_back(
    hosts: &HostsFile,
    lock: &RootLock,
    progress: &mut impl Progress,
) -> Result<(), Failure> {
    match hosts.put_back()? {
        PutBack::Nothing => return Ok(()),
        PutBack::Found => progress.step(Step::TakeBack, "/etc/hosts is what it was"),
        PutBack::Theirs(kept) => {
            let kept = kept.map(|kept| format!("; what it was before is in {}", kept.display()));
            progress.warning(&format!(
                "somebody else changed /etc/hosts meanwhile: theirs is what stays{}",
                kept.unwrap_or_default()
            ));
        }
    }
    for copy in copies(lock.data_root(), hosts.id()) {
        progress.warning(&format!(
            "a container that was started meanwhile has a copy of /etc/hosts that leads registries to this \
             host, until it is started again: {copy}"
        ));
    }
    Ok(())
}
