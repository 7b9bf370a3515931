//! Measures on a machine of the lab where an engine runs: listing every image with its
//! digests, and claims that are already met.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::contest::{Contest, Contestant, Effort, head};
use crate::host::{Host, Shape};
use crate::machine::{Machine, STORE, Suite};
use crate::measure::Place;
use crate::peers::{Peers, command};
use crate::{nothing, status};

/// The machine's system: Docker 26.1, systemd 257.
const SUITE: Suite = Suite::Trixie;

/// The most references with which an engine starts in reasonable time.
const MOST: usize = 100_000;

/// Measures all sizes on one machine. Its engine uses one data root after another.
pub fn run(peers: &Peers, effort: Effort, sizes: &[usize]) {
    let lab = env::var_os("DIGESTFIX_LAB")
        .map_or_else(|| PathBuf::from("/var/cache/digestfix-lab"), PathBuf::from);
    if !lab.join(SUITE.name()).exists() {
        println!(
            "\nNothing on a running engine: tests/lab/prepare {} makes a machine that has one.",
            SUITE.name()
        );
        return;
    }
    let machine = Machine::boot(SUITE);
    let place = Place::on(&machine);
    let peers = peers.moved(&machine.directory().join("root"), "/usr/local/bin");
    let engine = machine.sh("docker version -f '{{.Server.Version}}'");
    head(&format!("With Docker {engine} running"), true);
    for size in sizes.iter().filter(|size| **size <= MOST) {
        let host = Host::at(&peers.inputs, Shape::Mixed, *size);
        start_with(&machine, &host);
        Contest {
            place: &place,
            size: format!("{size}, every image"),
            prepare: None,
            calls: true,
            contestants: images(&peers),
        }
        .run(effort);
        let claims = nothing::claims(&host);
        machine.write("/etc/digestfix/claims.d/claims", &claims);
        no_change(&peers, effort, &place, format!("{size}, nothing to do"));
        // From here on, the file is newer than the engine's start.
        let any = host.held[0].clone();
        let tagged = format!("{}:{}", any.repository, any.tag);
        machine.sh(&format!("docker tag {tagged} bench:new"));
        let size = format!("{size}, nothing to do, the file newer than the engine's start");
        no_change(&peers, effort, &place, size);
    }
}

/// Makes the machine's engine start with the host's data root, whose images have no
/// layers.
fn start_with(machine: &Machine, host: &Host) {
    host.reset_at(&Place::here());
    machine.sh("systemctl stop docker.socket docker.service; systemctl reset-failed");
    let images = machine.directory().join("docker/image");
    fs::remove_dir_all(&images).unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .args([host.root().join("image"), images])
        .status();
    assert!(copied.unwrap().success(), "the data root can be copied");
    let began = Instant::now();
    machine.sh("systemctl start docker.socket docker.service; docker version >/dev/null");
    let seconds = began.elapsed().as_secs_f64();
    eprintln!(
        "Docker started with {} references in {seconds:.1} s",
        host.references
    );
}

fn images<'a>(peers: &Peers) -> Vec<Contestant<'a>> {
    let mut contestants = status::contestants(peers, &[], STORE);
    contestants.push(Contestant::new(
        "docker images --digests",
        command(Path::new("docker"), &["images", "--digests"]),
        |text: &[u8]| status::columns(text, 1),
    ));
    contestants
}

fn no_change(peers: &Peers, effort: Effort, place: &Place, size: String) {
    let mut contestants = Vec::new();
    for (name, program) in &peers.digestfix {
        let said = |text: &[u8]| vec![String::from_utf8_lossy(text).into_owned()];
        contestants.push(Contestant::new(name, command(program, &["apply"]), said));
    }
    contestants.push(Contestant::floor(
        "true",
        command(Path::new("/usr/bin/true"), &[]),
    ));
    Contest {
        place,
        size,
        prepare: None,
        calls: true,
        contestants,
    }
    .run(effort);
}
