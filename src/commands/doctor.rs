//! `digestfix doctor`

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use nix::unistd::geteuid;

use crate::claims::source::claims_dir;
use crate::cli::DoctorArgs;
use crate::cli::invocation::Invocation;
use crate::commands::{FOUND_WITHIN, engine_at, only_for_docker};
use crate::doctor::interrupted::Here;
use crate::doctor::{
    self, Check, Finding, State, boot, claims, disk, host, interrupted, past, program, references,
    refused, stop, systemd, would_stop,
};
use crate::host::impact::assess;
use crate::host::{
    Dockerd, Examined, Flags, Host, HostError, Management, PROC, StoreChoice, StoreKind, beside,
    container, examine, find_node, find_offline,
};
use crate::image::digest::ImageId;
use crate::plan::status::{Rows, rows};
use crate::plan::{Plan, Request};
use crate::report::Report;
use crate::report::run_result::RunResult;
use crate::state::history;
use crate::state::pending::PENDING;
use crate::state::provenance::Provenance;
use crate::state::retention;
use crate::store::data_root::ImageDir;
use crate::store::repositories::Store;
use crate::systemd::{RUNTIME_UNITS, ServiceManager, SystemBus};
use crate::transaction::image_store::{ImageStore, PlanError};
use crate::transaction::reserve::{self, Need};
use crate::transaction::restart::daemon::writes_at_start;

/// This directory exists only while systemd is process 1 (`sd_booted(3)`).
const BOOTED: &str = "/run/systemd/system";

/// The checks that need root.
const OF_ROOT: [Check; 12] = [
    Check::Unit,
    Check::Configuration,
    Check::Engine,
    Check::DataRoot,
    Check::References,
    Check::OtherUnits,
    Check::Containers,
    Check::Lock,
    Check::Unfinished,
    Check::History,
    Check::Disk,
    Check::Watchdog,
];

pub(super) async fn run(args: &DoctorArgs) -> RunResult {
    let invocation = Invocation::of(&args.host, None);
    let mut report = Report::new("doctor", &args.output, invocation);
    let flags = Flags::from(&args.host);
    let mut findings = if flags.choice() == Some(StoreChoice::Kubernetes) {
        node(args, &flags, &mut report).await
    } else if args.host.offline {
        offline(args, &mut report)
    } else {
        look(args, &flags, &mut report).await
    };
    findings.sort_by_key(|finding| finding.check);
    let exit = if would_stop(&findings) {
        RunResult::Refused
    } else {
        RunResult::Done
    };
    report.findings(findings);
    report.end(exit)
}

/// Checks systemd, digestfix's own units, and whether the user is root.
async fn begin() -> (Option<SystemBus>, Vec<Finding>) {
    let is_root = geteuid().is_root();
    let (bus, mut findings) = reach(is_root).await;
    if let Some(bus) = &bus {
        findings.extend(own_units(bus).await);
    } else {
        findings.push(unreachable(Check::Boot));
    }
    if is_root {
        findings.push(Finding::ok(Check::Root, "running as root"));
        return (bus, findings);
    }
    findings.push(Finding::problem(
        Check::Root,
        "changes and most of these checks need root",
        "sudo digestfix doctor",
    ));
    let why = "this check needs root";
    findings.extend(OF_ROOT.map(|check| Finding::not_seen(check, why)));
    findings.extend(of_claims(None));
    (bus, findings)
}

/// Checks a Kubernetes node that the user chose.
async fn node(args: &DoctorArgs, flags: &Flags, report: &mut Report) -> Vec<Finding> {
    let (_, mut findings) = begin().await;
    if !geteuid().is_root() {
        return findings;
    }
    let found = match only_for_docker(&args.host) {
        Some(flag) => Err(HostError::OnlyForDocker(flag)),
        None => find_node(flags, FOUND_WITHIN).await,
    };
    findings.extend(of_node(found, report).await);
    findings
}

/// Makes all checks of a Kubernetes node that [`begin`] does not make.
async fn of_node(found: Result<Host, HostError>, report: &mut Report) -> Vec<Finding> {
    let mut findings = vec![program()];
    let mut places: Vec<Need> = [PENDING, RUNTIME_UNITS]
        .map(Path::new)
        .map(disk::small_files)
        .to_vec();
    let host = match found {
        Ok(host) => host,
        Err(error) => {
            findings.push(refused::host(&error));
            let why = "digestfix did not find containerd";
            let unseen = [
                Check::References,
                Check::Lock,
                Check::Unfinished,
                Check::History,
            ];
            findings.extend(unseen.map(|check| Finding::not_seen(check, why)));
            findings.extend(of_disk(&places));
            findings.extend(of_claims(None));
            return findings;
        }
    };
    report.host(&host);
    let images = &host.images;
    let here = Here {
        data_root: Some(images.data_root()),
        unit: Some("containerd.service"),
        config_file: None,
    };
    findings.extend(interrupted::judge(&interrupted::look(here), here));
    findings.extend(of_history(images));
    places.push(disk::small_files(&history::directory(images.data_root())));
    findings.extend(of_disk(&places));
    let read = async {
        let mut store = ImageStore::read(&host, None, None, None).await?;
        store.read_manifests().await?;
        let (references, images) = (store.references().clone(), store.images()?);
        let mut rows = Vec::new();
        let listing = store.listing(&Provenance::default())?;
        listing.each(&mut |row| rows.push(row.clone()));
        Ok::<_, PlanError>((references, images, rows))
    };
    match (read.await, &host.management) {
        (Ok((references, images, rows)), Management::Node(node)) => {
            findings.extend(doctor::node::judge(&node.socket, &node.version, &rows));
            findings.extend(of_claims(Some((&references, &images))));
        }
        (read, _) => {
            let error = read
                .err()
                .map(|error| Finding::refused(Check::Engine, &error, error.help()));
            findings.extend(error);
            let why = "digestfix could not read the images in containerd";
            findings.push(Finding::not_seen(Check::References, why));
            findings.extend(of_claims(None));
        }
    }
    findings
}

fn program() -> Finding {
    program::look().as_ref().map_or_else(
        || {
            Finding::not_seen(
                Check::Watchdog,
                "digestfix cannot find out the path of its own program",
            )
        },
        program::judge,
    )
}

async fn look(args: &DoctorArgs, flags: &Flags, report: &mut Report) -> Vec<Finding> {
    let (bus, mut findings) = begin().await;
    if !geteuid().is_root() {
        return findings;
    }
    let mut examined = examine(flags, bus.as_ref(), engine_at).await;
    let dockerds = Dockerd::running(Path::new(PROC));
    examined.disambiguate(flags, &dockerds);
    if let Some(unit) = &examined.unit
        && flags.choice().is_none()
    {
        let beside = beside(&unit.id, &dockerds);
        findings.extend(
            beside
                .into_iter()
                .map(|one| Finding::ok(Check::Engine, one)),
        );
    }
    if flags.choice().is_none()
        && let Ok(host) = find_node(flags, FOUND_WITHIN).await
    {
        if examined.errors.iter().any(HostError::is_without_docker) {
            findings.extend(of_node(Ok(host), report).await);
            return findings;
        }
        findings.push(Finding::ok(
            Check::Engine,
            "this host is also a Kubernetes node, which has other images; to check the node: digestfix doctor \
             --store kubernetes",
        ));
    }
    let unread = examined.unit.as_ref().map(host::unread_drop_ins);
    findings.extend(host::judge(&examined, &unread.unwrap_or_default()));
    let engine = examined.managed.as_ref().map(|one| engine_at(&one.socket));
    let impact = match (&bus, &examined, &engine) {
        (
            Some(bus),
            Examined {
                managed: Some(managed),
                ..
            },
            Some(engine),
        ) => {
            let allowed = args.containers.allowed();
            let recorded = |start: &_| {
                let images = examined.images.as_ref()?;
                history::known_to_start(images.data_root(), start)
            };
            if examined.image_store == StoreKind::Containerd {
                let why = "images are in containerd, so digestfix does not stop Docker";
                findings.push(Finding::not_seen(Check::OtherUnits, why));
                findings.push(Finding::not_seen(Check::Containers, why));
                None
            } else {
                match assess(bus, engine, managed, allowed, recorded).await {
                    Ok((impact, blockers)) => {
                        let told = stop::judge(&impact, &blockers, &kernel());
                        // The earlier findings with the state `ok` came from checks that
                        // only read files. The new findings replace the earlier ones.
                        findings.retain(|one| {
                            one.state != State::Ok || told.iter().all(|new| new.check != one.check)
                        });
                        findings.extend(told);
                        Some(impact)
                    }
                    Err(error) => {
                        findings.push(refused::assess(&error));
                        None
                    }
                }
            }
        }
        _ => {
            let why = "digestfix could not examine Docker";
            findings.push(Finding::not_seen(Check::OtherUnits, why));
            findings.push(Finding::not_seen(Check::Containers, why));
            None
        }
    };
    if let Some(host) = examined.host() {
        report.host(&host);
    }
    findings.push(program());
    let unit = examined
        .unit
        .as_ref()
        .map_or("docker.service", |unit| &unit.id);
    let here = Here {
        data_root: examined.images.as_ref().map(ImageDir::data_root),
        unit: Some(unit),
        config_file: examined.config_file.as_deref(),
    };
    let switched = impact
        .as_ref()
        .is_some_and(|found| found.switches_live_restore());
    let mut places = [PENDING, RUNTIME_UNITS].map(Path::new).to_vec();
    places.extend(here.config_file.and_then(Path::parent).filter(|_| switched));
    let mut places: Vec<Need> = places.into_iter().map(disk::small_files).collect();
    if let (Some(data_root), Some(managed)) = (here.data_root, &examined.managed)
        && impact.as_ref().is_some_and(|found| found.running)
    {
        places.extend(reserve::needs(data_root, &writes_at_start(managed)));
    }
    let (images, store) = (examined.images.as_ref(), examined.image_store);
    findings.extend(of_data_root(images, store, here, &places));
    findings
}

/// Checks a mounted disk, or a system image that is being built.
fn offline(args: &DoctorArgs, report: &mut Report) -> Vec<Finding> {
    let host = match find_offline(&Flags::from(&args.host)) {
        Ok(host) => host,
        Err(error) => {
            let mut findings = vec![refused::host(&error)];
            findings.extend(of_data_root(None, StoreKind::Own, Here::default(), &[]));
            return findings;
        }
    };
    report.host(&host);
    let images = &host.images;
    let mut findings = vec![match images.is_in_use() {
        Ok(false) => Finding::ok(
            Check::DataRoot,
            format!(
                "{}, storage driver {}; no process uses this data root",
                images.data_root().display(),
                images.driver()
            ),
        ),
        Ok(true) => refused::host(&HostError::InUse {
            data_root: images.data_root().to_owned(),
            pid: images.user(),
        }),
        Err(error) => refused::read(&error),
    }];
    let here = Here {
        data_root: Some(images.data_root()),
        ..Here::default()
    };
    findings.extend(of_data_root(Some(images), StoreKind::Own, here, &[]));
    findings
}

fn unreachable(check: Check) -> Finding {
    Finding::not_seen(check, "systemd cannot be reached")
}

/// Connects to systemd over the system bus. If that fails, connects over systemd's
/// private socket, which is enough for checks.
async fn reach(is_root: bool) -> (Option<SystemBus>, Vec<Finding>) {
    if !Path::new(BOOTED).is_dir() {
        let told = match container() {
            Some(kind) => refused::host(&HostError::InContainer(kind)),
            None => Finding::problem(
                Check::Systemd,
                "systemd is not the init system of this host",
                "for a disk that no Docker uses: digestfix doctor --offline --data-root DIR",
            ),
        };
        return (None, vec![told]);
    }
    let bus = match SystemBus::connect().await {
        Ok(bus) => bus,
        Err(error) => {
            let told = vec![refused::host(&HostError::from(error))];
            let bus = if is_root {
                SystemBus::connect_anyhow().await.ok()
            } else {
                None
            };
            return (bus, told);
        }
    };
    let facts = systemd::Facts {
        version: bus.version().await.unwrap_or_default(),
        is_shutting_down: bus.is_shutting_down().await,
        seen_as: bus.own_pid().await.ok(),
        own_pid: std::process::id(),
    };
    (Some(bus), vec![systemd::judge(&facts)])
}

async fn own_units(bus: &SystemBus) -> Vec<Finding> {
    let mut units = Vec::new();
    for name in boot::RECOVERING.iter().chain(&boot::APPLYING) {
        match bus.unit(name).await {
            Ok(unit) => units.push(unit),
            Err(_) => return vec![unreachable(Check::Boot)],
        }
    }
    let states: BTreeMap<String, String> = bus.active_states().await.unwrap_or_default();
    boot::judge(&units, &states)
}

/// Checks the data root, and the other directories to which a run writes.
fn of_data_root(
    images: Option<&ImageDir>,
    store: StoreKind,
    here: Here<'_>,
    places: &[Need],
) -> Vec<Finding> {
    let mut findings = interrupted::judge(&interrupted::look(here), here);
    let mut places = places.to_vec();
    let Some(images) = images else {
        let why = "digestfix did not find the data root";
        findings.push(Finding::not_seen(Check::References, why));
        findings.push(Finding::not_seen(Check::History, why));
        findings.extend(of_disk(&places));
        findings.extend(of_claims(None));
        return findings;
    };
    let data_root = images.data_root();
    findings.extend(of_history(images));
    if store == StoreKind::Containerd {
        let why = "the references are in containerd; to see the references: digestfix status";
        findings.push(Finding::not_seen(Check::References, why));
        let state = history::directory(data_root);
        places.push(disk::small_files(&state));
        findings.extend(of_disk(&places));
        findings.extend(of_claims(None));
        return findings;
    }
    let path = images.store_path();
    let (mut store, mut size) = (None, 0);
    match images.read() {
        Ok(read) => {
            size = u64::try_from(read.as_read().len()).unwrap_or(u64::MAX);
            store = Some(read);
        }
        Err(error) => findings.push(refused::read(&error)),
    }
    let ids = images.image_ids();
    match (&store, &ids) {
        (Some(store), Ok(ids)) => {
            let rows = rows(store, ids, |_, _| None);
            findings.extend(references::judge(&path, references::mode(&path), &rows));
            if rows.is_empty() && !ids.is_empty() {
                let former = images.former();
                findings.push(references::reset(&path, ids.len(), former.as_deref()));
            }
        }
        (_, Err(error)) => findings.push(refused::read(error)),
        (None, _) => {}
    }
    let (directory, state) = (images.path(), history::directory(data_root));
    let beside = disk::beside(&directory, size);
    // A run needs disk space for the new store and for the reserve at the same time.
    for place in &mut places {
        if place.path.starts_with(data_root) {
            place.bytes = place.bytes.saturating_add(beside.bytes);
        }
    }
    let store_itself = Need {
        path,
        bytes: 0,
        inodes: 0,
    };
    places.extend([store_itself, beside, disk::beside(&state, size)]);
    findings.extend(of_disk(&places));
    findings.extend(of_claims(store.as_ref().zip(ids.as_ref().ok())));
    findings
}

fn of_history(images: &ImageDir) -> Vec<Finding> {
    let data_root = images.data_root();
    let (records, broken) = history::scan(data_root, |mut record| {
        record.claims.clear();
        record.changes.clear();
        record.entries.clear();
        Some(record)
    });
    past::judge(
        history::see_directory(data_root).map(drop),
        &records,
        &broken,
        retention::count(images),
    )
}

fn of_disk(places: &[Need]) -> Vec<Finding> {
    let (mut seen, mut findings) = (Vec::new(), Vec::new());
    for needed in places {
        match disk::look(needed) {
            Ok(place) => seen.push(place),
            Err(error) => findings.push(Finding::problem(
                Check::Disk,
                format!("{}: {error}", needed.path.display()),
                "look for a failing disk, or a file system that is not mounted: dmesg | tail",
            )),
        }
    }
    let judged = disk::judge(&seen).into_iter();
    let is_clear = findings.is_empty();
    findings.extend(judged.filter(|one| is_clear || one.state != State::Ok));
    findings
}

fn of_claims(here: Option<(&Store, &BTreeSet<ImageId>)>) -> Vec<Finding> {
    let (collected, errors) = claims_dir::examine();
    let count = collected.as_ref().map(|collected| collected.claims.len());
    let plan = collected.zip(here).map(|(collected, (store, images))| {
        let request = Request {
            claims: collected.claims,
            evidence: collected.evidence,
            ..Request::default()
        };
        Plan::new(store, images, &request)
    });
    claims::judge(count, &errors, plan.as_ref())
}

/// The kernel's release (`proc_sys_kernel(5)`).
fn kernel() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()
}
