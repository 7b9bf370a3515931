//! The cost of many digests on a Kubernetes node: images that were imported, and a
//! manifest from the registry for each, on a machine of the lab without Docker.
//!
//! - a loop of `ctr images tag`, which makes the same records, and checks nothing;
//! - digestfix: `apply`, `apply` when all claims hold already, `verify` and `status`.
//!
//! `cargo bench --bench node [-- [--program FILE] ROUNDS [COUNT...]]`, as root, after
//! `tests/lab/prepare`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may fail so"
)]
#![allow(dead_code, reason = "parts of others are used here in part")]

use std::env;
use std::fs;
use std::time::{Duration, Instant};

#[path = "containerd/images.rs"]
mod images;
#[path = "../tests/lab/machine.rs"]
mod machine;
#[path = "outage/spread.rs"]
mod spread;

use images::{Image, archive_of_images, claims};
use machine::{Machine, Suite, eventually};
use spread::spread;

const ROUNDS: usize = 3;
const COUNTS: [usize; 2] = [1, 1000];
const SUITES: [Suite; 3] = [Suite::Bookworm, Suite::Trixie, Suite::Forky];

/// What is measured, in the order in which a round does it.
const WAYS: [&str; 5] = [
    "ctr images tag, each",
    "apply",
    "apply, nothing to do",
    "verify",
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
    println!("medians of {rounds} rounds, in seconds; ratio to ctr of each round\n");
    println!("containerd  digests   what                   median (range)            ratio   load");
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
    let images: Vec<Image> = (0..count).map(Image::number).collect();
    let pins: Vec<String> = images.iter().map(Image::pinned).collect();
    let tagged = |pin: &String| format!("{}:v1 {pin}", pin.split('@').next().unwrap_or_default());
    let tags: Vec<String> = pins.iter().map(tagged).collect();
    machine.put("/images.tar", &archive_of_images(&images));
    machine.put("/claims.json", claims(&images).as_bytes());
    machine.put("/pins", (pins.join("\n") + "\n").as_bytes());
    machine.put("/tags", (tags.join("\n") + "\n").as_bytes());
    machine.sh("systemctl stop docker.socket docker.service
         systemctl mask -q docker.socket docker.service
         ctr -n k8s.io images import --no-unpack /images.tar >/dev/null");
    eventually("the CRI has the images", || {
        machine.digestfix(&["plan", "--from", "/claims.json"]).code == 4
    });
    let version = machine.sh("containerd --version | awk '{ print $3 }'");
    let version = version.split(['+', '~']).next().unwrap_or_default();
    let mut took: Vec<Vec<f64>> = WAYS.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (way, took) in WAYS.iter().zip(&mut took) {
            took.push(take(&machine, way).as_secs_f64());
        }
        forget(&machine);
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    for (way, own) in WAYS.iter().zip(&took) {
        let ratios = own.iter().zip(&took[0]).map(|(own, ctr)| own / ctr);
        let (low, middle, high) = spread(own.iter().copied());
        println!(
            "{version:<11} {count:>7}   {way:<22} {middle:7.3} ({low:.3} to {high:.3})   {:6.2}   {}",
            spread(ratios).1,
            load.split(' ').next().unwrap_or_default(),
        );
    }
}

fn take(machine: &Machine, way: &str) -> Duration {
    let began = Instant::now();
    match way {
        "ctr images tag, each" => {
            machine.sh(
                "while read -r tag pin; do ctr -n k8s.io images tag $tag $pin; done </tags >/dev/null",
            );
        }
        "status" => {
            machine.digestfix(&["status"]).exits(0);
        }
        _ => {
            let command = way.split(',').next().unwrap_or_default();
            machine
                .digestfix(&[command, "--from", "/claims.json"])
                .exits(0);
        }
    }
    let took = began.elapsed();
    if way == "ctr images tag, each" {
        forget(machine);
    }
    took
}

/// Removes the digests again.
fn forget(machine: &Machine) {
    machine.sh("xargs ctr -n k8s.io images rm </pins >/dev/null");
    eventually("the CRI hears of it", || {
        let listed = machine.digestfix(&["status"]).stdout;
        !listed.contains("ok, proven")
    });
}
