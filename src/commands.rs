//! Commands: for each command, a function that takes the arguments and returns the exit
//! code.

mod apply;
mod change;
mod doctor;
mod event_loop;
mod export;
mod exported;
mod history;
mod load;
mod metadata;
mod outcome;
mod plan;
mod recover;
mod rollback;
mod save;
mod status;
mod verify;
mod watchdog;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use nix::unistd::geteuid;

use crate::claims::source::collected::Collected;
use crate::claims::source::{self, SourceError, claims_dir};
use crate::cli::invocation::{typed, typed_instead, typed_with};
use crate::cli::{Cli, Command, HostArgs, Removal, RequestArgs, TermsArgs};
use crate::commands::event_loop::on_event_loop;
use crate::docker::engine::UnixEngine;
use crate::host::impact::Blocker;
use crate::host::{
    self, Dockerd, Finding, Flags, Host, HostError, Managed, Management, Node, PROC, StoreChoice,
    StoreKind, beside, container, find_node, find_offline, own_rootless, rootless_at, start_first,
    unambiguous,
};
use crate::plan::carried::Wanted;
use crate::plan::{Displaced, Key, Plan, Request};
use crate::report::run_result::RunResult;
use crate::report::{Problem, Report};
use crate::state::history::HistoryError;
use crate::state::journal::{Intent, Journal, JournalError};
use crate::state::lock::LockError;
use crate::state::pending::{Marker, MarkerError, PENDING};
use crate::state::provenance::{self, Provenance};
use crate::state::rollback::RollbackBlocker;
use crate::store::data_root::{ImageDir, ReadError, Snapshot};
use crate::sys::shell;
use crate::sys::whole_file::WholeFileError;
use crate::systemd::{SystemBus, SystemdError};
use crate::transaction::goal::Goal;
use crate::transaction::image_store::{Engine, Gaps, ImageStore, Means, PlanError};
use crate::transaction::outcome::{Failure, Progress};
use crate::transaction::{Docker, Supervised, Supervisor};

/// The timeout of engine calls. The engine normally answers in milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The timeout for detecting whether this host is a Kubernetes node.
const FOUND_WITHIN: Duration = Duration::from_secs(5);

/// Progress messages for steps that come before a transaction and may take long.
const WAITS_FOR_LOCK: &str = "waiting for another digestfix to end";
const LOOKS: &str = "looking at the host";

/// Appends the command that shows all problems, because the first problem may hide
/// others.
fn with_all(help: Option<String>) -> Option<String> {
    let first = help.map(|help| format!("{help}; ")).unwrap_or_default();
    Some(format!("{first}to see all problems: digestfix doctor"))
}

pub fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Status(args) => on_event_loop(status::run(&args)),
        Command::Plan(args) => on_event_loop(plan::run(&args)),
        Command::Apply(args) if args.dry_run => on_event_loop(plan::run(&args.into())),
        Command::Apply(args) => on_event_loop(apply::run(&args)),
        Command::Load(args) => on_event_loop(load::run(&args)),
        Command::Verify(args) => on_event_loop(verify::run(&args)),
        Command::Export(args) => on_event_loop(export::run(&args)),
        Command::Save(args) => on_event_loop(save::run(&args)),
        Command::Recover(args) => on_event_loop(recover::run(&args)),
        Command::Watchdog(args) => on_event_loop(watchdog::run(&args)),
        Command::Metadata => metadata::run(),
        Command::History(args) => on_event_loop(history::run(&args)),
        Command::Rollback(args) => on_event_loop(rollback::run(&args)),
        Command::Doctor(args) => on_event_loop(doctor::run(&args)),
    };
    ExitCode::from(result.exit() as u8)
}

/// The reason why a command ended before it changed anything.
#[derive(Debug, thiserror::Error)]
enum Stop {
    #[error("only root may run this command")]
    NotRoot,
    #[error(transparent)]
    Host(#[from] HostError),
    /// An error about Docker on a host that is also a Kubernetes node.
    #[error("{0}")]
    BesideNode(HostError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(
        "there are no claims: the command line has none, and there is no /etc/digestfix/claims.d"
    )]
    NoClaims,
    #[error("the files given with --from contain no claim")]
    NothingFrom,
    #[error("no claim could be applied: digestfix finds no image on this host for any claim")]
    Unmet,
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    RollbackBlocker(#[from] RollbackBlocker),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("Docker should not be stopped now")]
    Blockers(Vec<Blocker>),
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("no image on this host has the name {0}")]
    NoSuchName(String),
    #[error("standard output: {0}")]
    Output(io::Error),
    #[error("a terminal can neither be the source nor the target of an archive")]
    Terminal,
    #[error("{}: {error}", path.display())]
    NoFile {
        path: PathBuf,
        error: WholeFileError,
    },
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("only a running Docker can save images")]
    NoEngine(String),
    #[error("only a running Docker can load archives")]
    NoDocker(String),
    #[error("this is a Kubernetes node, and load is for Docker only")]
    LoadOnNode(String),
    #[error("there is no image archive in {}", .0.display())]
    NoArchives(PathBuf),
    #[error("some of these images are not on this host")]
    NotHere(Vec<Wanted>),
    #[error("no image on this host has a name")]
    NoImages,
    #[error("the files given with --from contain no image name")]
    NothingNamed,
    #[error("this host has no digest to export")]
    NoDigests,
    #[error("{0} received")]
    Interrupted(&'static str),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("a run that changed this data root was interrupted ({})", .0.display())]
    InterruptedRun(PathBuf),
    #[error("the interrupted run changed the Docker of {0}")]
    OtherUnit(String),
    #[error("the interrupted run changed {path}", path = .0.display())]
    OtherConfigFile(PathBuf),
    #[error("Docker's data root is no longer {}, but {}", .0.display(), .1.display())]
    OtherDataRoot(PathBuf, PathBuf),
    #[error("{failure}")]
    Recovery {
        failure: Box<Failure>,
        state: String,
    },
    #[error("{0}")]
    LoadRecovery(Failure),
    #[error("{0}")]
    RecordRecovery(Failure),
    #[error(transparent)]
    Marker(#[from] MarkerError),
    #[error("{0}")]
    Gone(String),
    #[error("digestfix cannot handle signals: {0}")]
    Signals(io::Error),
}

impl From<SystemdError> for Stop {
    fn from(error: SystemdError) -> Self {
        Self::Host(error.into())
    }
}

impl Stop {
    fn help(&self) -> Option<String> {
        if let Some(next) = self.of_rootless() {
            return Some(next);
        }
        let help = match self {
            Self::Host(error) => return with_all(error.help()),
            Self::BesideNode(error) => {
                let first = error
                    .help()
                    .map(|help| format!("{help}; "))
                    .unwrap_or_default();
                return Some(format!(
                    "{first}or, for the images of the Kubernetes node on this host: --store kubernetes"
                ));
            }
            Self::Read(error) => return with_all(error.help()),
            Self::Plan(
                error @ (PlanError::Host(_) | PlanError::Read(_) | PlanError::Assess(_)),
            ) => {
                return with_all(error.help());
            }
            Self::Plan(error) => {
                let line = |(claim, meant): (&str, &str)| typed_instead(claim, &[meant]);
                if let Some(line) = error.meant().and_then(line) {
                    return Some(format!(
                        "if you mean the image with the similar name: {line}"
                    ));
                }
                let line = |displaced| Some((displaced, typed_with(&["--replace"])?));
                return match error.displaces().and_then(line) {
                    Some((Displaced::ImageId, line)) => {
                        Some(format!("to replace the image ID by the digest: {line}"))
                    }
                    Some((Displaced::Other, line)) => Some(format!(
                        "if the claim is right, and the reference on this host is wrong: {line}"
                    )),
                    None => error.help(),
                };
            }
            Self::Blockers(blockers) => {
                let mut helps: Vec<String> = blockers.iter().filter_map(Blocker::help).collect();
                helps.dedup();
                return with_all(Some(helps.join("; ")));
            }
            Self::History(error) => return error.help(),
            Self::RollbackBlocker(error) => return error.help(),
            Self::Source(error) => return error.help(),
            Self::Journal(error) => return error.help(),
            Self::Marker(error) => return error.help(),
            Self::Lock(error) => return error.help(),
            Self::NotRoot => {
                let line = typed().unwrap_or_else(|| "digestfix …".to_owned());
                return Some(format!("run the command as root: sudo {line}"));
            }
            Self::NoClaims => {
                "give a CLAIM (NAME:TAG@sha256:HEX), a file (--from FILE), or put files into \
                 /etc/digestfix/claims.d"
            }
            Self::Unmet => {
                "supply the files or image names that the lines above ask for; to see the images \
                 on this host: digestfix status"
            }
            Self::NothingFrom => {
                "give a source of digests (--from): the output of digestfix export, or of docker \
                 image inspect, from a host that pulled the images; or a directory that skopeo \
                 wrote (dir:)"
            }
            Self::NoSuchName(_) | Self::NoImages => {
                "to see the images on this host: digestfix status"
            }
            Self::NothingNamed => {
                "give a deployment file that names the images (--from FILE), or name the images on \
                 the command line"
            }
            Self::NoDigests => {
                "run export on the host that pulled the images; docker load and docker build \
                 record no digest"
            }
            Self::Terminal => "name the file of the archive (save: -o FILE; load: FILE)",
            Self::NoFile {
                error: WholeFileError::NotPlain,
                ..
            } => {
                "name a plain file; to write to a pipe or a device, redirect standard output: >FILE"
            }
            Self::NoFile { .. } => {
                "name a file in a directory that exists and that you may write to"
            }
            Self::NoEngine(start) | Self::NoDocker(start) => start,
            Self::LoadOnNode(file) => {
                return Some(format!(
                    "ctr -n k8s.io images import {file}; then: digestfix apply --from {file}"
                ));
            }
            Self::NoArchives(_) => "name an archive of digestfix save or docker save",
            Self::NotHere(wanted) => {
                let pull = wanted.iter().find_map(Wanted::name);
                return Some(match pull {
                    Some(name) => {
                        format!(
                            "docker pull {name}; to see the images on this host: digestfix status"
                        )
                    }
                    None => {
                        "to see the images on this host: digestfix status --no-trunc".to_owned()
                    }
                });
            }
            Self::InterruptedRun(_) => {
                "on the host whose Docker uses this data root: digestfix recover, without options"
            }
            Self::OtherUnit(unit) => {
                return Some(format!("digestfix recover --unit {}", shell::word(unit)));
            }
            Self::OtherConfigFile(path) => {
                return Some(format!(
                    "digestfix recover --config-file {}",
                    shell::path(path)
                ));
            }
            Self::Output(_) | Self::File { .. } => {
                "check the space and the permissions at that place, then run the same command \
                 again"
            }
            Self::Interrupted(_) => "run the same command again at any time",
            Self::Signals(_) => {
                "run the same command again; if the command fails again, report the failure"
            }
            Self::OtherDataRoot(old, _) => {
                return Some(format!(
                    "give Docker its former data root again ({}), then: digestfix recover, \
                     without options",
                    shell::path(old)
                ));
            }
            Self::Recovery { .. }
            | Self::LoadRecovery(_)
            | Self::RecordRecovery(_)
            | Self::Gone(_) => return None,
        };
        Some(help.to_owned())
    }

    /// The commands to type for a rootless Docker: one stops Docker, one runs the same
    /// digestfix command again, and one starts Docker.
    fn of_rootless(&self) -> Option<String> {
        match self {
            Self::Host(HostError::Rootless { rootless, .. }) => {
                Some(rootless.commands(&typed_with(&rootless.options())?))
            }
            Self::Plan(PlanError::Host(HostError::InUse { data_root, .. })) => {
                let dockerds = Dockerd::running(Path::new(PROC));
                let rootless = rootless_at(data_root, &dockerds)?;
                Some(rootless.commands(&typed()?))
            }
            _ => None,
        }
    }

    /// The text of each reason why the command ended.
    fn reasons(&self) -> Vec<String> {
        match self {
            Self::Plan(error) => error.reasons(),
            Self::Blockers(blockers) => blockers.iter().map(ToString::to_string).collect(),
            Self::NotHere(wanted) => wanted
                .iter()
                .map(|one| format!("there is no {one} on this host"))
                .collect(),
            _ => vec![self.to_string()],
        }
    }

    fn tell(self, report: Report) -> RunResult {
        if let Self::Recovery { failure, state } = self {
            let unit = report.unit().unwrap_or("docker.service").to_owned();
            let problem = recover::problem(&failure, state, &unit);
            return report.fail(RunResult::Broken, problem);
        }
        if let Self::LoadRecovery(failure) = &self {
            return report.fail(RunResult::Broken, recover::load_problem(failure));
        }
        if let Self::RecordRecovery(failure) = &self {
            return report.fail(RunResult::Broken, recover::record_problem(failure));
        }
        let what = self.reasons();
        let next = self.help();
        let result = match &self {
            Self::Interrupted(_)
            | Self::Signals(_)
            | Self::Output(_)
            | Self::File { .. }
            | Self::Lock(LockError::Io { .. }) => RunResult::Failed,
            _ => RunResult::Refused,
        };
        let state = report.untouched().to_owned();
        report.fail(result, Problem { what, state, next })
    }
}

/// The host, with the connection to systemd.
struct Site {
    host: Host,
    bus: Option<SystemBus>,
}

/// The ways to connect to systemd.
#[derive(Debug, Clone, Copy)]
enum Reach {
    /// Only the system bus. That is enough as long as digestfix has not changed anything.
    Bus,
    /// The system bus or, if the bus fails, systemd's private socket. The recovery of an
    /// interrupted run must not depend on the bus.
    Anyhow,
}

impl Reach {
    async fn connect(self) -> Result<SystemBus, SystemdError> {
        match self {
            Self::Bus => SystemBus::connect().await,
            Self::Anyhow => SystemBus::connect_anyhow().await,
        }
    }
}

impl Site {
    async fn find(args: &HostArgs, reach: Reach) -> Result<Self, Stop> {
        let site = Self::look_for(args, reach).await?;
        log(&site.host.sources);
        Ok(site)
    }

    async fn look_for(args: &HostArgs, reach: Reach) -> Result<Self, Stop> {
        let flags = Flags::from(args);
        if flags.choice() == Some(StoreChoice::Kubernetes) {
            return Self::node(args, &flags, reach).await;
        }
        if args.offline {
            return Ok(Self {
                host: find_offline(&flags)?,
                bus: None,
            });
        }
        let dockerds = || Dockerd::running(Path::new(PROC));
        if !geteuid().is_root() {
            return Err(match own_rootless(&dockerds()) {
                Some(rootless) => Stop::Host(HostError::Rootless {
                    rootless: Box::new(rootless),
                    unit: None,
                }),
                None => Stop::NotRoot,
            });
        }
        let bus = reach.connect().await.map_err(|error| match container() {
            Some(kind) => HostError::InContainer(kind),
            None => HostError::from(error),
        })?;
        let found = host::find(&flags, &bus, engine_at).await;
        let found = unambiguous(found, &flags, dockerds);
        // If Docker is stopped, it may use another image store after its next start. But
        // an interrupted run must be recovered in the store that the run changed.
        let found = found.and_then(|host| match is_at_work_on(&host) {
            true => Ok(host),
            false => host.certain(),
        });
        let host = match found {
            Err(error) if flags.choice().is_none() => Self::instead_of(error, &flags).await?,
            found => found?,
        };
        Ok(Self {
            host,
            bus: Some(bus),
        })
    }

    /// The Kubernetes node on this host, if this host has no Docker.
    async fn instead_of(error: HostError, flags: &Flags) -> Result<Host, Stop> {
        let is_without = error.is_without_docker();
        if !is_without && !matches!(error, HostError::Stopped(_) | HostError::NoReferences(_)) {
            return Err(error.into());
        }
        match find_node(flags, FOUND_WITHIN).await {
            Ok(host) if is_without => Ok(host),
            Ok(_) => Err(Stop::BesideNode(error)),
            Err(HostError::NoNode(_)) => Err(error.into()),
            Err(other) if is_without => Err(other.into()),
            Err(_) => Err(error.into()),
        }
    }

    /// The Kubernetes node that the user has chosen by an option.
    async fn node(args: &HostArgs, flags: &Flags, reach: Reach) -> Result<Self, Stop> {
        if let Some(flag) = only_for_docker(args) {
            return Err(HostError::OnlyForDocker(flag).into());
        }
        if !geteuid().is_root() {
            return Err(Stop::NotRoot);
        }
        Ok(Self {
            bus: Some(reach.connect().await?),
            host: find_node(flags, FOUND_WITHIN).await?,
        })
    }

    /// The unit whose log contains Docker's messages.
    fn unit(&self) -> &str {
        match &self.host.management {
            Management::Managed(managed) => &managed.unit.id,
            _ => "docker",
        }
    }

    /// The advice for an operation that needs a running Docker, if no Docker runs on this
    /// host.
    fn without_docker(&self) -> String {
        match &self.host.management {
            Management::Managed(managed) => start_first(&managed.unit.id),
            Management::Offline => {
                "leave --offline out; if Docker is stopped: systemctl start docker".to_owned()
            }
            Management::Node(_) => {
                "on a Kubernetes node, use: ctr -n k8s.io images export FILE NAME".to_owned()
            }
        }
    }

    /// The node's containerd, if the host is a Kubernetes node.
    fn containerd(&self) -> Option<&Node> {
        match &self.host.management {
            Management::Node(node) => Some(node),
            Management::Offline | Management::Managed(_) => None,
        }
    }

    /// The other dockerds that run on this host. Empty if an option says which Docker the
    /// user means.
    fn dockers_beside(&self, args: &HostArgs) -> Vec<String> {
        match self.managed() {
            Some((_, managed)) if Flags::from(args).choice().is_none() => {
                beside(&managed.unit.id, &Dockerd::running(Path::new(PROC)))
            }
            _ => Vec::new(),
        }
    }

    /// Whether this Docker host is also a Kubernetes node, and the user has not chosen
    /// one of the two image stores.
    async fn is_beside_node(&self, args: &HostArgs) -> bool {
        let flags = Flags::from(args);
        if args.offline || flags.choice().is_some() || self.containerd().is_some() {
            return false;
        }
        find_node(&flags, FOUND_WITHIN).await.is_ok()
    }

    /// What the recovery needs if this run is killed: systemd, and the pending marker.
    /// `None` if there is no daemon to manage.
    fn supervised(&self) -> Option<Supervised<'_, SystemBus>> {
        if let Some((docker, _)) = self.engine() {
            return Some(docker.supervised(self.images()));
        }
        Some(Supervised {
            marker: Marker::of_node(self.images(), self.containerd()?),
            by: self.supervisor()?,
        })
    }

    fn supervisor(&self) -> Option<Supervisor<'_, SystemBus>> {
        let manager = self.bus.as_ref()?;
        let pending = Path::new(PENDING);
        Some(Supervisor { manager, pending })
    }

    fn images(&self) -> &ImageDir {
        &self.host.images
    }

    /// systemd and the daemon. `None` if there is no daemon to manage.
    fn managed(&self) -> Option<(&SystemBus, &Managed)> {
        match (&self.bus, &self.host.management) {
            (Some(bus), Management::Managed(managed)) => Some((bus, managed)),
            _ => None,
        }
    }

    /// systemd, the daemon and its API, for a transaction.
    fn engine(&self) -> Option<Engine<'_>> {
        let (manager, host) = self.managed()?;
        let pending = Path::new(PENDING);
        let docker = Docker {
            manager,
            host,
            pending,
        };
        Some((docker, engine_at(&host.socket)))
    }

    /// Reads the image store. Reuses the snapshot `seen` if the file with the references
    /// is unchanged.
    async fn image_store(
        &self,
        containerd_root: Option<&Path>,
        seen: Option<Snapshot>,
    ) -> Result<ImageStore<'_>, Stop> {
        if containerd_root.is_some() && self.containerd().is_some() {
            return Err(HostError::OnlyForDocker("--containerd-root").into());
        }
        let read = ImageStore::read(&self.host, self.engine(), containerd_root, seen);
        Ok(read.await?)
    }

    /// Reads the store, and plans the changes that reach the goal. A rollback uses the
    /// containerd root of the transaction that it reverts, unless the user gives another
    /// one.
    async fn draft(
        &self,
        goal: &Goal<'_>,
        containerd_root: Option<&Path>,
        seen: Option<Snapshot>,
        report: &mut Report,
    ) -> Result<Draft<'_>, Stop> {
        let root = containerd_root.or(goal.containerd_root());
        let mut store = self.image_store(root, seen).await?;
        report.sees(&store);
        let plan = store.plan(goal).await?;
        report.plan(&plan);
        let means = store.means(goal, &plan).await?;
        Ok(Draft { store, plan, means })
    }
}

/// The planned changes, and the store for which they were planned.
struct Draft<'a> {
    store: ImageStore<'a>,
    plan: Plan,
    means: Means,
}

impl Draft<'_> {
    fn changes_nothing(&self) -> bool {
        self.plan.is_empty() && self.means.stale.is_empty()
    }

    fn gaps(&self) -> Gaps {
        self.store.gaps(Some(&self.plan))
    }
}

/// Whether this host's store contains the journal of an unfinished run. Ignores runs that
/// never stop Docker (`Load` and `Record`).
fn is_at_work_on(host: &Host) -> bool {
    let images = &host.images;
    host.image_store == StoreKind::Own
        && matches!(
            Journal::read(images.data_root()),
            Ok(Some(journal)) if !matches!(journal.intent, Intent::Load(_) | Intent::Record(_))
                && journal.references.driver == images.driver()
        )
}

/// Returns the first option on the command line that makes no sense for a Kubernetes node.
fn only_for_docker(args: &HostArgs) -> Option<&'static str> {
    let options = [
        (args.offline, "--offline"),
        (args.data_root.is_some(), "--data-root"),
        (args.driver.is_some(), "--driver"),
        (args.unit.is_some(), "--unit"),
        (args.config_file.is_some(), "--config-file"),
        (args.socket.is_some(), "--socket"),
    ];
    let given = options.into_iter().find(|(given, _)| *given);
    given.map(|(_, option)| option)
}

/// Logs each fact about the host, with the source of the fact.
fn log(sources: &[Finding]) {
    for finding in sources {
        tracing::info!(
            source = finding.source,
            "{}: {}",
            finding.fact,
            finding.value
        );
    }
}

fn engine_at(socket: &Path) -> UnixEngine {
    UnixEngine::new(socket, ANSWER_WITHIN)
}

/// The request that the arguments describe. Reads the claims from all files that the
/// arguments name, or from the claims directories.
fn request(args: &RequestArgs, report: &mut Report) -> Result<Request, Stop> {
    let terms = &args.terms;
    let nothing_yet = Collected::new(&terms.rewrite).with_tags(terms.tags);
    let typed = !args.claims.is_empty() || !args.remove.is_empty();
    let collected = if typed || !terms.from.is_empty() {
        let collected = source::read(&terms.from, nothing_yet)?;
        if !typed && collected.is_empty() {
            for remark in &collected.remarks {
                report.warning(remark);
            }
            return Err(Stop::NothingFrom);
        }
        collected
    } else {
        claims_dir::read(nothing_yet)?.ok_or(Stop::NoClaims)?
    };
    let mut request = requested(terms, collected, report);
    request.claims.splice(0..0, args.claims.iter().cloned());
    for Removal { text, reference } in &args.remove {
        request.removals.extend(reference.clone());
        request.keys.push(Key {
            text: text.clone(),
            is_none: reference.clone().err(),
        });
    }
    Ok(request)
}

/// A request that contains the collected claims and these options.
fn requested(terms: &TermsArgs, collected: Collected, report: &mut Report) -> Request {
    for remark in &collected.remarks {
        report.warning(remark);
    }
    Request {
        claims: collected.claims,
        removals: Vec::new(),
        keys: Vec::new(),
        replace: terms.replace,
        allow_image_id_digest: terms.allow_image_id_digest,
        evidence: collected.evidence,
        require: terms.require,
    }
}

/// Reads the recorded provenance of digests. If the file cannot be read, warns and
/// returns an empty provenance.
fn provenance(images: &ImageDir, report: &mut Report) -> Provenance {
    Provenance::read(images).unwrap_or_else(|error| {
        let path = provenance::path(images);
        report.warning(&format!("{}: {error}", path.display()));
        Provenance::default()
    })
}

/// Warns if a run has not ended, because that run may be in the middle of changing the
/// references.
fn warn_of_pending(site: &Site, report: &mut Report) {
    match Journal::read(site.images().data_root()) {
        Ok(None) => {}
        Ok(Some(journal)) => report.warning(&format!(
            "a run of digestfix ({}) has not ended. If no digestfix is running, that run was interrupted; \
             run: digestfix recover",
            journal.id
        )),
        Err(error) => report.warning(&error.to_string()),
    }
}
