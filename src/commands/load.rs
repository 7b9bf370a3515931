//! `digestfix load`: loads the archives first, then applies their claims in one
//! transaction.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::path::{Path, absolute};
use std::time::{Duration, Instant};

use crate::claims::source::collected::{Collected, Whole};
use crate::claims::source::{self, SourceError};
use crate::cli::LoadArgs;
use crate::commands::change::{
    Changed, Held, LoadedImages, Options, Wanted, change, end_loading, warn_of_load,
};
use crate::commands::outcome::tell;
use crate::commands::save::told;
use crate::commands::{Reach, Site, Stop, requested};
use crate::docker::engine::UnixEngine;
use crate::image::digest::ImageId;
use crate::plan::{Request, Why};
use crate::report::run_result::RunResult;
use crate::report::{ArchiveResult, LoadedArchive, Problem, Report};
use crate::state::loading::Loading;
use crate::state::lock::RootLock;
use crate::sys::shell;
use crate::transaction::goal::Goal;
use crate::transaction::outcome::{Ended, Progress};

mod archives;
mod sending;

use archives::{Archive, Place};
use sending::{SendError, Sending, Sent};

/// The interval of progress messages.
const TOLD_EVERY: Duration = Duration::from_millis(250);

/// The next step for an image that has no digest.
const WITHOUT: &str = "give the image a digest (digestfix apply NAME:TAG@sha256:HEX), or save the \
                       image again on the host that pulled the image: digestfix save";

pub(super) async fn run(args: &LoadArgs) -> RunResult {
    let invocation = Options::from(&args.change).invocation();
    let mut report = Report::new("load", &args.output, invocation).observed(args.metrics.file());
    match load(args, &mut report).await {
        Ok(Loaded::Changed(changed)) => tell(*changed, report),
        Ok(Loaded::Nothing) => {
            report.done(false, None);
            report.line(&format!("Nothing to do: {}.", claims_hold(&report)));
            report.end(RunResult::Unchanged)
        }
        Ok(Loaded::Images) => {
            report.done(true, None);
            report.conclude(&format!("Done: {}.", claims_hold(&report)));
            report.end(RunResult::Done)
        }
        Ok(Loaded::Unmet { loaded }) => {
            report.done(loaded, None);
            report.conclude("The images are here. No digest could be recorded.");
            report.end(RunResult::Pending)
        }
        Err(LoadStop::Before(stop)) => stop.tell(report),
        Err(LoadStop::Amid { result, problem }) => report.fail(result, problem),
    }
}

/// How the command ended.
enum Loaded {
    /// The images are on this host, and references were changed.
    Changed(Box<Changed>),
    /// Images were loaded, and no reference needed a change.
    Images,
    /// The images are on this host, but one of them has no digest, and no claim could be
    /// applied.
    Unmet {
        /// Whether this run loaded an image.
        loaded: bool,
    },
    Nothing,
}

fn claims_hold(report: &Report) -> &'static str {
    match report.is_unmet() {
        true => "the images are here, and no claim is about them",
        false => "the images are here, and every claim about them holds",
    }
}

/// Why some archives were not loaded, or some claims were not applied.
enum LoadStop {
    /// Nothing was sent to Docker.
    Before(Stop),
    Amid {
        result: RunResult,
        problem: Problem,
    },
}

impl<T: Into<Stop>> From<T> for LoadStop {
    fn from(stop: T) -> Self {
        Self::Before(stop.into())
    }
}

async fn load(args: &LoadArgs, report: &mut Report) -> Result<Loaded, LoadStop> {
    let places = archives::places(&args.files, &args.input, report)?;
    let streams = places.contains(&Place::Stdin);
    if streams && io::stdin().is_terminal() {
        return Err(Stop::Terminal.into());
    }
    let first = places.iter().find_map(Place::path);
    let nothing_yet = Collected::new(&args.terms.rewrite).with_tags(args.terms.tags);
    let mut collected = source::read(&args.terms.from, nothing_yet)?;
    let archives = archives::read(&places, &mut collected)?;

    let options = Options::from(&args.change);
    let site = Site::find(&args.change.host, Reach::Bus).await?;
    report.host(&site.host);
    if site.containerd().is_some() {
        let file = first.map_or_else(|| "FILE".to_owned(), shell::path);
        return Err(Stop::LoadOnNode(file).into());
    }
    let store = site.image_store(options.containerd_root, None).await?;
    if store.engine().is_none() {
        return Err(Stop::NoDocker(site.without_docker()).into());
    }
    let whole = collected.whole.clone();
    let claims_nothing = collected.is_empty();
    let request = requested(&args.terms, collected, report);
    let is_change = store.foreseen(&Goal::Claims(&request), &whole)?;
    if is_change {
        let (_, blockers) = store.survey(options.allowed).await?;
        if !blockers.is_empty() {
            return Err(Stop::Blockers(blockers).into());
        }
    }
    let mut to_send = Vec::new();
    for archive in &archives {
        let mut is_here = !archive.whole.is_empty();
        for image in &archive.whole {
            is_here = is_here && store.has_whole(image)?;
        }
        match is_here {
            true => {
                report.line(&format!(
                    "{}: the images of this archive are here already",
                    archive.place
                ));
                report.archive(LoadedArchive {
                    file: archive.place.path().map(Path::to_owned),
                    result: ArchiveResult::Here,
                    images: archive.whole.iter().flat_map(Whole::names).collect(),
                    bytes: archive.bytes,
                });
            }
            false => to_send.push(archive),
        }
    }
    let left = Loading::read(site.images().data_root());
    if to_send.is_empty() && left.is_none() {
        if !claims_nothing
            && let Some(changed) = change(&Wanted::Claims(&request), &options, report).await?
        {
            return Ok(Loaded::Changed(Box::new(changed)));
        }
        let is_without = without_digest(&whole, &site, &options, report).await?;
        return Ok(match is_without && (claims_nothing || report.is_unmet()) {
            true => Loaded::Unmet { loaded: false },
            false => Loaded::Nothing,
        });
    }

    let held = Held::take(site.images().data_root(), &options, report).await?;
    let Some((_, engine)) = held.site.engine() else {
        return Err(Stop::NoDocker(held.site.without_docker()).into());
    };
    let files = archives.iter().filter_map(|archive| archive.place.path());
    let files = files.filter_map(|path| Some(absolute(path).ok()?.display().to_string()));
    let mark = Loading::new(files.collect());
    if let Some(left) = left.filter(|left| left.waits_besides(&mark)) {
        warn_of_load(&left, report);
    }
    mark.write(&held.lock)?;
    let mut request = request;
    let mut arrived = Collected::new(&args.terms.rewrite).with_tags(args.terms.tags);
    arrived.evidence = request.evidence.clone();
    let mut names = Vec::new();
    for archive in &to_send {
        let sent = send(archive, &engine, &held, arrived, &names, report).await?;
        arrived = sent.collected;
        names.extend(sent.names);
    }
    let mut whole = whole;
    if streams {
        whole.extend(arrived.whole.iter().cloned());
        let more = requested(&args.terms, arrived, report);
        request.claims.extend(more.claims);
        request.evidence = more.evidence;
    }
    if request.claims.is_empty() {
        end_loading(&held.lock, report);
        drop(held);
        return Ok(match is_without(&whole, &site, &options, report).await {
            true => Loaded::Unmet { loaded: true },
            false => Loaded::Images,
        });
    }
    let next = mark.next();
    let wanted = Wanted::Claims(&request);
    let changed = held.change(&wanted, &options, None, report);
    let changed = changed.await.map_err(|stop| stays(stop, &names, &next))?;
    if let Some(mut changed) = changed {
        changed.loaded = Some(LoadedImages {
            told: stay(&names),
            next,
        })
        .filter(|_| !names.is_empty());
        if matches!(changed.outcome.ended, Ended::Done) {
            finish(&request, &whole, &site, &options, report).await;
        }
        return Ok(Loaded::Changed(Box::new(changed)));
    }
    let is_without = finish(&request, &whole, &site, &options, report).await;
    Ok(match is_without && report.is_unmet() {
        true => Loaded::Unmet { loaded: true },
        false => Loaded::Images,
    })
}

/// Sets tags and checks the loaded images, after digestfix has recorded the digests.
/// Returns whether an image has no digest.
async fn finish(
    request: &Request,
    whole: &[Whole],
    site: &Site,
    options: &Options<'_>,
    report: &mut Report,
) -> bool {
    if let Err(stop) = set_tags(request, site, options, report).await {
        report.warning(&format!(
            "digestfix could not check whether tags are missing: {stop}"
        ));
    }
    is_without(whole, site, options, report).await
}

/// Like [`without_digest`], but an error only causes a warning, because the images are
/// already loaded.
async fn is_without(
    whole: &[Whole],
    site: &Site,
    options: &Options<'_>,
    report: &mut Report,
) -> bool {
    let without = without_digest(whole, site, options, report).await;
    without.unwrap_or_else(|stop| {
        report.warning(&format!(
            "digestfix could not check whether every image has a digest: {stop}"
        ));
        false
    })
}

/// Sends one archive to Docker, which loads it.
async fn send(
    archive: &Archive,
    engine: &UnixEngine,
    held: &Held,
    collected: Collected,
    before: &[String],
    report: &mut Report,
) -> Result<Sent, LoadStop> {
    let name = archive.place.to_string();
    let began = Instant::now();
    let amid = |what: String| LoadStop::Amid {
        result: RunResult::Failed,
        problem: Problem {
            what: vec![what],
            state: state(
                before,
                "the images that Docker has loaded from this archive stay",
            ),
            next: Some(
                "fix the problem, then run the same command again: digestfix skips archives whose \
                 images are on this host"
                    .to_owned(),
            ),
        },
    };
    let failed = |error| match error {
        SendError::Engine(error) => amid(format!("{name}: {error}")),
        SendError::Archive(problem) => refused(&name, problem, before, &held.lock),
    };
    let sending = Sending::begin(&archive.place, collected).map_err(failed)?;
    let count = sending.count();
    let total = archive.bytes;
    let mut every = tokio::time::interval(TOLD_EVERY);
    let sent = sending.send(engine);
    tokio::pin!(sent);
    let names = loop {
        tokio::select! {
            biased;
            signal = held.interrupt.wait() => return Err(amid(format!("{signal} received"))),
            names = &mut sent => break names,
            _ = every.tick() => {
                let doing = told::progress(&name, count.bytes(), total, began.elapsed());
                report.goes_on(&doing, began);
            }
        }
    };
    let sent = names.map_err(failed)?;
    let images = archive.whole.len().max(sent.names.len());
    let amount = told::amount(count.bytes(), images, began.elapsed());
    report.beside(&format!("{name}: loaded, {amount}"));
    report.archive(LoadedArchive {
        file: archive.place.path().map(Path::to_owned),
        result: ArchiveResult::Loaded,
        images: sent.names.clone(),
        bytes: Some(count.bytes()),
    });
    Ok(sent)
}

/// Ends a run whose archive is incomplete or tampered with. Docker did not get the end of
/// that archive, so Docker has loaded nothing from it.
fn refused(name: &str, problem: source::Problem, before: &[String], lock: &RootLock) -> LoadStop {
    let error = SourceError {
        place: name.to_owned(),
        problem,
    };
    if before.is_empty() && Loading::end(lock).is_ok() {
        return Stop::Source(error).into();
    }
    LoadStop::Amid {
        result: RunResult::Failed,
        problem: Problem {
            next: error.help(),
            what: vec![error.to_string()],
            state: state(before, "Docker has loaded nothing from this archive"),
        },
    }
}

/// The result of a run that has loaded images and then could not apply their claims. The
/// loaded images stay.
fn stays(stop: Stop, names: &[String], next: &str) -> LoadStop {
    LoadStop::Amid {
        result: RunResult::Failed,
        problem: Problem {
            what: stop.reasons(),
            state: state(names, "no digest was recorded"),
            next: Some(match stop.help() {
                Some(help) => format!("{help}; then: {next}"),
                None => next.to_owned(),
            }),
        },
    }
}

fn stay(names: &[String]) -> String {
    format!("the loaded images stay: {}", names.join(", "))
}

fn state(names: &[String], more: &str) -> String {
    match names {
        [] => more.to_owned(),
        names => format!("{}; {more}", stay(names)),
    }
}

/// In the containerd image store, makes Docker set the tag of each pin
/// (`NAME:TAG@DIGEST`) whose digest this host has recorded.
async fn set_tags(
    request: &Request,
    site: &Site,
    options: &Options<'_>,
    report: &mut Report,
) -> Result<(), Stop> {
    let mut store = site.image_store(options.containerd_root, None).await?;
    let Some((_, engine)) = site.engine().filter(|_| store.is_in_containerd()) else {
        return Ok(());
    };
    let plan = store.plan(&Goal::Claims(request)).await?;
    if !plan.is_empty() {
        return Ok(());
    }
    for skipped in &plan.skipped {
        let Why::SetByOthers { tag, pin, command } = &skipped.why else {
            continue;
        };
        let Some(pin) = pin else {
            continue;
        };
        match engine.tag(pin, tag).await {
            Ok(()) => report.line(&format!("{tag}: set by Docker")),
            Err(error) => report.warning(&format!("{tag}: {error}. Next: {command}")),
        }
    }
    Ok(())
}

/// Warns about each loaded image that has no digest on this host. Returns whether any
/// loaded image has no digest.
async fn without_digest(
    whole: &[Whole],
    site: &Site,
    options: &Options<'_>,
    report: &mut Report,
) -> Result<bool, Stop> {
    let store = site.image_store(options.containerd_root, None).await?;
    let references = store.references().references();
    let with: BTreeSet<ImageId> = references
        .filter(|(reference, _)| reference.digest().is_some())
        .map(|(_, image)| image)
        .collect();
    let mut any = false;
    for Whole { image, tags } in whole.iter().filter(|one| !with.contains(&one.image)) {
        any = true;
        let name = tags
            .first()
            .map_or_else(|| image.to_string(), |tag| tag.familiar());
        report.warning(&format!(
            "{name} has no digest: no archive and no --from file contains its digest. Next: \
             {WITHOUT}"
        ));
    }
    Ok(any)
}
