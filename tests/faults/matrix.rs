//! Tries every fault at every system call of an apply, on several machines at once.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::host::Digest;
use crate::injection::{Ended, Injected, inject, trace};
use crate::options::Options;
use crate::points::{Fault, Injection, Point, chosen};
use crate::scene::{Scene, attempt, promised};
use crate::tally::{Tally, Tried};

pub fn run(options: &Options) -> Tally {
    let first = Scene::new(options, None);
    let points = chosen(&trace(&first.machine, &first.apply()), options);
    first.take_off().expect("the digest comes off again");
    let injections = injections(&points, options);
    println!(
        "{} system calls, {} faults at them to try",
        points.len(),
        injections.len()
    );
    let tally = Tally::new(injections.len());
    let queue = Mutex::new(VecDeque::from(injections));
    thread::scope(|scope| {
        scope.spawn(|| work(&queue, Some(first), options, &tally));
        for _ in 1..options.machines {
            scope.spawn(|| work(&queue, None, options, &tally));
        }
    });
    tally
}

fn injections(points: &[Point], options: &Options) -> Vec<Injection> {
    let of = |fault: Fault| {
        points
            .iter()
            .filter(move |point| point.faults(options).contains(&fault))
            .map(move |point| point.with(fault))
    };
    // List one kind of fault after another, so that taking every Nth one covers all
    // kinds.
    [
        Fault::Kill,
        Fault::Error("EIO"),
        Fault::Error("ENOSPC"),
        Fault::Error("EINTR"),
    ]
    .into_iter()
    .flat_map(of)
    .skip(options.skip)
    .step_by(options.every)
    .collect()
}

/// Tries one fault after another until the queue is empty.
fn work(
    queue: &Mutex<VecDeque<Injection>>,
    mut scene: Option<Scene>,
    options: &Options,
    tally: &Tally,
) {
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(|error| error.into_inner());
        queue.pop_front()
    };
    while let Some(injection) = next() {
        let tried = attempt(|| {
            let scene = scene.get_or_insert_with(|| Scene::new(options, None));
            fault(scene, &injection)
        });
        if matches!(tried, Tried::Failed(_)) {
            // The next point begins on a new host, whose state is known.
            scene = None;
        }
        tally.add(&injection.to_string(), tried);
    }
}

/// What a run may leave behind if it succeeds and reports it: the message of the run, and
/// the path of the difference. The next run removes these leftovers.
const TOLD: [(&str, &str); 2] = [
    (
        "digestfix could not record how this run ended",
        "/digestfix/history/",
    ),
    (
        "could not be removed, but the block has no effect any more",
        "/zz-digestfix-start-block.conf",
    ),
];

/// The time to wait for a host with a reported leftover. It is short, because such a
/// leftover stays.
const TOLD_STAYS: Duration = Duration::from_secs(5);

fn is_told(differences: &[String], injected: &Injected) -> bool {
    injected.ended == Ended::Code(0)
        && differences.iter().all(|difference| {
            TOLD.iter()
                .any(|(said, place)| injected.output.contains(said) && difference.contains(place))
        })
}

/// How the difference begins if the unit file of a watchdog is left.
const UNIT_FILE: &str = "left: /run/systemd/system/digestfix-watchdog-";

/// Whether only the unit file of a watchdog is left. A run leaves this file if it is
/// killed after it writes the file and before it starts the unit, because then no process
/// is left to remove the file. Nothing starts the unit. The next run and `digestfix
/// recover` remove the file, and no file in `/run` survives a reboot. A unit that systemd
/// has loaded, a marker or a journal would be a further difference.
fn is_unstarted(differences: &[String], injected: &Injected) -> bool {
    let is_file =
        |one: &String| one.starts_with(UNIT_FILE) && one.ends_with(": was nothing, is yes");
    injected.ended == Ended::Killed && differences.len() == 1 && differences.iter().all(is_file)
}

fn fault(scene: &Scene, injection: &Injection) -> Result<Tried, Vec<String>> {
    let injected = inject(&scene.machine, injection, &scene.apply());
    if injected.impossible {
        scene.recover()?;
        scene.whole(Digest::Either)?;
        scene.take_off()?;
        return Ok(Tried::NotReached);
    }
    let tell = |mut differences: Vec<String>| {
        differences.push(format!("{:?}: {}", injected.ended, injected.output));
        differences
    };
    let digest = promised(&injected)?;
    scene.recover_by_hand(injected.ended)?;
    let seen = if TOLD.iter().any(|(said, _)| injected.output.contains(said)) {
        scene.whole_within(digest, TOLD_STAYS)
    } else {
        scene.whole(digest)
    };
    let took = match seen {
        Err(differences) if is_told(&differences, &injected) => Duration::ZERO,
        Err(differences) if is_unstarted(&differences, &injected) => {
            println!("recover has the unit file to remove: {injection}");
            // A run that does not have a watchdog yet has not changed anything.
            let recovered = scene.recover().and_then(|()| scene.whole(Digest::Absent));
            recovered.map_err(tell)?
        }
        seen => seen.map_err(tell)?,
    };
    scene.take_off()?;
    Ok(if injected.reached {
        Tried::Whole(took)
    } else {
        Tried::NotReached
    })
}
