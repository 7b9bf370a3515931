//! The cost of many digests with the containerd image store: images that were loaded, and
//! a manifest from the registry for each, on a machine of the lab.
//!
//! - `docker load` of an archive of the same manifests, names and configs: the engine's
//!   own time to add the references;
//! - a loop of `docker image inspect`, with one request for each;
//! - digestfix: `plan`, `apply`, `verify`, and `apply` when all claims hold already.
//!
//! `cargo bench --bench containerd [-- [--program FILE] ROUNDS [COUNT...]]`, as root,
//! after `tests/lab/prepare`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may fail so"
)]
#![allow(dead_code, reason = "the lab's own parts are used here in part")]

use std::env;
use std::fs;
use std::time::{Duration, Instant};

#[path = "containerd/images.rs"]
mod images;
#[path = "../tests/lab/machine.rs"]
mod machine;
#[path = "outage/spread.rs"]
mod spread;

use images::{Image, archive_of_images, archive_of_manifests, claims};
use machine::{Machine, Suite, eventually};
use spread::spread;

const ROUNDS: usize = 3;
const COUNTS: [usize; 2] = [100, 1000];
const SUITES: [Suite; 2] = [Suite::Trixie, Suite::Forky];

/// What is measured, in the order in which a round does it.
const WAYS: [&str; 7] = [
    "docker load",
    "docker image inspect, each",
    "plan",
    "apply",
    "verify",
    "apply, nothing to do",
    "status",
];

fn main() {
    let mut words: Vec<String> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let mut program = None;
    if words.first().is_some_and(|word| word == "--program") {
        program = Some(words.remove(1));
        words.remove(0);
    }
    let mut numbers = words.iter().map(|word| word.parse().unwrap());
    let rounds = numbers.next().unwrap_or(ROUNDS);
    let counts: Vec<usize> = numbers.collect();
    let counts = if counts.is_empty() {
        COUNTS.to_vec()
    } else {
        counts
    };
    println!("medians of {rounds} rounds, in seconds; ratio to docker load of each round\n");
    println!("engine    digests   what                          median (range)            ratio");
    for suite in SUITES {
        for count in &counts {
            bench(suite, *count, rounds, program.as_deref());
        }
    }
}

fn bench(suite: Suite, count: usize, rounds: usize, program: Option<&str>) {
    let machine = Machine::boot(suite);
    if let Some(program) = program {
        fs::copy(program, machine.file("/usr/local/bin/digestfix")).unwrap();
    }
    machine.sh(
        "echo '{\"features\":{\"containerd-snapshotter\":true}}' >/etc/docker/daemon.json
         systemctl reset-failed docker.service docker.socket 2>/dev/null || true
         systemctl restart docker",
    );
    let images: Vec<Image> = (0..count).map(Image::number).collect();
    machine.put("/images.tar", &archive_of_images(&images));
    machine.put("/manifests.tar", &archive_of_manifests(&images));
    machine.put("/claims.json", claims(&images).as_bytes());
    let names: Vec<String> = images.iter().map(Image::pinned).collect();
    machine.put("/names", (names.join("\n") + "\n").as_bytes());
    machine.sh("docker load -q -i /images.tar >/dev/null");
    let engine = machine.sh("docker version -f '{{.Server.Version}}'");
    let engine = engine.split('+').next().unwrap_or_default();
    let mut took: Vec<Vec<f64>> = WAYS.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (way, took) in WAYS.iter().zip(&mut took) {
            took.push(take(&machine, way).as_secs_f64());
        }
        forget(&machine);
    }
    for (way, own) in WAYS.iter().zip(&took) {
        let ratios = own.iter().zip(&took[0]).map(|(own, load)| own / load);
        let (low, middle, high) = spread(own.iter().copied());
        println!(
            "{engine:<9} {count:>7}   {way:<27} {middle:8.3} ({low:.3} to {high:.3})   {:6.2}",
            spread(ratios).1
        );
    }
}

fn take(machine: &Machine, way: &str) -> Duration {
    let claims = ["--from", "/claims.json"];
    let (words, code) = match way {
        "plan" => (vec!["plan", claims[0], claims[1]], 4),
        "apply" | "apply, nothing to do" => (vec!["apply", claims[0], claims[1]], 0),
        "verify" => (vec!["verify", claims[0], claims[1]], 0),
        "status" => (vec!["status"], 0),
        _ => (Vec::new(), 0),
    };
    let began = Instant::now();
    match way {
        "docker load" => {
            machine.sh("docker load -q -i /manifests.tar >/dev/null");
        }
        "docker image inspect, each" => {
            machine
                .sh("while read -r name; do docker image inspect $name; done </names >/dev/null");
        }
        _ => {
            machine.digestfix(&words).exits(code);
        }
    }
    let took = began.elapsed();
    if way == "docker image inspect, each" {
        forget(machine);
    }
    took
}

/// Removes the digests again.
fn forget(machine: &Machine) {
    machine.sh("xargs ctr -n moby images rm --sync </names >/dev/null");
    eventually("the digests are gone", || {
        machine.sh("ctr -n moby images ls -q | grep -c @ || true") == "0"
    });
}
