//! Measures claims that are already met.

use std::fs;
use std::path::Path;

use crate::contest::{Contest, Contestant, Cost, Effort, head};
use crate::growth::Growth;
use crate::host::{Host, Shape};
use crate::measure::Place;
use crate::peers::{Peers, command};

/// The most claims to use.
const CLAIMS: usize = 10;

/// Measures a data root without an engine.
pub fn run(peers: &Peers, effort: Effort, sizes: &[usize], growth: &mut Growth) {
    head("Nothing to do, without an engine", true);
    for size in sizes {
        let cost = contest(peers, effort, &Host::at(&peers.inputs, Shape::Mixed, *size));
        growth.add("nothing to do", *size, cost);
    }
}

fn contest(peers: &Peers, effort: Effort, host: &Host) -> Cost {
    let root = host.root();
    let file = host.directory.join("claims");
    let claims = claims(host);
    fs::write(&file, &claims).unwrap();
    let words = [
        "apply",
        "--offline",
        "--data-root",
        root.to_str().unwrap(),
        "--from",
        file.to_str().unwrap(),
    ];
    let mut contestants = Vec::new();
    for (name, program) in &peers.digestfix {
        let untouched = |_: &[u8]| host.references();
        contestants.push(Contestant::new(name, command(program, &words), untouched));
    }
    contestants.push(Contestant::floor(
        "true",
        command(Path::new("/usr/bin/true"), &[]),
    ));
    let place = Place::here();
    host.reset_at(&place);
    Contest {
        place: &place,
        size: format!("{}, {} claims", host.references, claims.lines().count()),
        prepare: None,
        calls: true,
        contestants,
    }
    .run(effort)
}

/// Claims that are already met on a host, one per line.
pub fn claims(host: &Host) -> String {
    let step = (host.held.len() / CLAIMS).max(1);
    let held = host.held.iter().step_by(step).take(CLAIMS);
    held.map(|pin| pin.claim() + "\n").collect()
}
