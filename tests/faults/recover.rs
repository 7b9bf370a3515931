//! Kills a recovery at each of its own system calls. Afterwards, runs two recoveries at
//! the same time.

use crate::host::Digest;
use crate::injection::{Ended, inject, trace};
use crate::options::{Options, Way};
use crate::points::{Fault, Injection, Traced, chosen};
use crate::scene::{Scene, attempt};
use crate::tally::{Tally, Tried};

/// The moments at which an apply is killed: a part of the call that marks the moment, and
/// how many calls later.
const MOMENTS: [(&str, &str, usize); 4] = [
    ("before the stop", r#"\"phase\": \"stopping\""#, 0),
    ("while Docker is down", "repositories.json\", AT_FDCWD", 0),
    ("after the swap", "repositories.json\", AT_FDCWD", 1),
    ("after the start", "/images/json HTTP", 0),
];

/// The same for images in containerd.
const CONTAINERD: [(&str, &str, usize); 3] = [
    ("before the load", "/images/load", 0),
    ("after the load", "/images/load", 3),
    ("after the look", "/json HTTP", 4),
];

const RECOVER: [&str; 3] = ["recover", "--wait", "60"];

/// A watchdog that runs but recovers nothing, so that the test can do it.
const IDLE_WATCHDOG: &str =
    "[Service]\nType=simple\nExecStart=\nExecStart=/bin/sleep infinity\nRestart=no\n";

const WITHOUT_WATCHDOG: &str = "systemctl stop 'digestfix-watchdog-*.service'
systemctl reset-failed 'digestfix-watchdog-*.service' 2>/dev/null || true";

const TWO_AT_ONCE: &str = "digestfix recover --wait 60 >/run/one 2>&1 & one=$!
digestfix recover --wait 60 >/run/two 2>&1; two=$?
wait $one; echo $? $two; cat /run/one /run/two";

pub fn run(options: &Options) -> Tally {
    let mut scene = Some(without_watchdog(options));
    let first = scene.as_ref().expect("it is there");
    let apply = trace(&first.machine, &first.apply());
    first.take_off().expect("the digest comes off again");
    let mut points = Vec::new();
    let moments = match options.way {
        Way::Restart | Way::Node => MOMENTS.as_slice(),
        Way::Containerd => &CONTAINERD,
    };
    for &(moment, part, later) in moments {
        let interruption = call(&apply, part, later).point.with(Fault::Kill);
        let prepared = interrupt(first, &interruption);
        prepared.expect("an apply can be interrupted");
        let calls = trace(&first.machine, &RECOVER);
        first.whole(Digest::Either).expect("a recovery, not killed");
        first.take_off().expect("the digest comes off again");
        let calls = chosen(&calls, options);
        let kills = calls.iter().map(|point| point.with(Fault::Kill));
        points.extend(kills.map(|kill| (moment, interruption.clone(), kill)));
    }
    let points = points.into_iter().skip(options.skip);
    let points: Vec<_> = points.step_by(options.every).collect();
    println!("{} system calls of a recovery to kill it at", points.len());
    let tally = Tally::new(points.len());
    for (moment, interruption, kill) in points {
        let tried = attempt(|| {
            let scene = scene.get_or_insert_with(|| without_watchdog(options));
            killed(scene, &interruption, &kill)
        });
        if matches!(tried, Tried::Failed(_)) {
            scene = None;
        }
        tally.add(&format!("apply killed {moment}, recover at {kill}"), tried);
    }
    tally
}

fn without_watchdog(options: &Options) -> Scene {
    let scene = Scene::new(options, None);
    scene.machine.write(
        "/etc/systemd/system/digestfix-watchdog-.service.d/lab.conf",
        IDLE_WATCHDOG,
    );
    scene.machine.sh("systemctl daemon-reload");
    scene
}

fn call<'a>(calls: &'a [Traced], part: &str, later: usize) -> &'a Traced {
    let first = calls.iter().position(|traced| traced.line.contains(part));
    first
        .and_then(|first| calls.get(first + later))
        .unwrap_or_else(|| panic!("no call of an apply has: {part}"))
}

fn interrupt(scene: &Scene, interruption: &Injection) -> Result<(), Vec<String>> {
    let injected = inject(&scene.machine, interruption, &scene.apply());
    scene.machine.sh(WITHOUT_WATCHDOG);
    match injected.ended {
        Ended::Killed => Ok(()),
        Ended::Code(code) => Err(vec![format!(
            "the apply was not interrupted, and exits with {code}: {}",
            injected.output
        )]),
    }
}

fn killed(scene: &Scene, interruption: &Injection, kill: &Injection) -> Result<Tried, Vec<String>> {
    interrupt(scene, interruption)?;
    let injected = inject(&scene.machine, kill, &RECOVER);
    scene.machine.sh(WITHOUT_WATCHDOG);
    let two = scene.machine.sh(TWO_AT_ONCE);
    if !two.starts_with("0 0") {
        return Err(vec![format!("two recoveries at once exit with {two}")]);
    }
    let took = scene.whole(Digest::Either)?;
    scene.take_off()?;
    Ok(if injected.reached {
        Tried::Whole(took)
    } else {
        Tried::NotReached
    })
}
