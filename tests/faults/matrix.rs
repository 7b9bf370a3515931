//! Every fault at every system call of an apply, on several machines at once.

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
    // One fault after another, so that each Nth of them is spread over all.
    [
        Fault::Kill,
        Fault::Error("EIO"),
        Fault::Error("ENOSPC"),
        Fault::Error("EINTR"),
    ]
    .into_iter()
    .flat_map(of)
    .step_by(options.every)
    .collect()
}

/// Takes one fault after another until none is left.
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
            // The next point begins on a host that is known.
            scene = None;
        }
        tally.add(&injection.to_string(), tried);
    }
}

/// What a run that did its work may leave behind where it says so: what it
/// says, and where the difference is. The next run puts these in order.
const TOLD: [(&str, &str); 2] = [
    (
        "the end of this run could not be recorded",
        "/digestfix/history/",
    ),
    (
        "could not be removed; it has no effect any more",
        "/zz-digestfix-start-block.conf",
    ),
];

/// What is told and stays is not waited for as long as what is to come right.
const TOLD_STAYS: Duration = Duration::from_secs(5);

fn is_told(differences: &[String], injected: &Injected) -> bool {
    injected.ended == Ended::Code(0)
        && differences.iter().all(|difference| {
            TOLD.iter()
                .any(|(said, place)| injected.output.contains(said) && difference.contains(place))
        })
}

/// How a difference begins that is a watchdog's unit file.
const UNIT_FILE: &str = "left: /run/systemd/system/digestfix-watchdog-";

/// A run that was killed between the write of its watchdog's unit file and the start of
/// that unit leaves the file, and nothing else: no process is there to remove it. Nothing
/// starts it, the next run and `digestfix recover` remove it, and no file in `/run`
/// outlives a reboot. A unit that systemd has loaded is another difference, and so is a
/// marker or a journal.
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
            // A run that has no watchdog yet has changed nothing.
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
