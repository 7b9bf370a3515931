//! The cost of recording many digests on a Kubernetes node: images that were imported,
//! and the registry's manifest for each, on a machine of the lab without Docker.
//!
//! - a loop of `ctr images tag`, which creates the same records without any check;
//! - digestfix: `apply`, `apply` when all claims are already met, `verify` and `status`.
//!
//! `cargo bench --bench node [-- [--program FILE] ROUNDS [COUNT...]]`, as root, after
//! `tests/lab/prepare`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may panic"
)]
#![allow(dead_code, reason = "parts of others are used here in part")]

#[path = "containerd/images.rs"]
mod images;
#[path = "../tests/lab/machine.rs"]
mod machine;
#[path = "containerd/rounds.rs"]
mod rounds;
#[path = "outage/spread.rs"]
mod spread;

use images::{Image, archive_of_images, claims};
use machine::{Machine, Suite, eventually};
use rounds::{Wanted, Way};

const COUNTS: [usize; 2] = [1, 1000];
const SUITES: [Suite; 3] = [Suite::Bookworm, Suite::Trixie, Suite::Forky];

/// The ways to compare, in the order in which each round runs them.
const WAYS: [Way; 5] = [
    Way::peer(
        "ctr images tag, each",
        "while read -r tag pin; do ctr -n k8s.io images tag $tag $pin; done </tags >/dev/null",
        true,
    ),
    Way::digestfix("apply", &["apply", "--from", "/claims.json"], 0),
    Way::digestfix(
        "apply, nothing to do",
        &["apply", "--from", "/claims.json"],
        0,
    ),
    Way::digestfix("verify", &["verify", "--from", "/claims.json"], 0),
    Way::digestfix("status", &["status"], 0),
];

fn main() {
    let wanted = Wanted::of_process(&COUNTS);
    wanted.heading();
    for suite in SUITES {
        for count in &wanted.counts {
            bench(suite, *count, &wanted);
        }
    }
}

fn bench(suite: Suite, count: usize, wanted: &Wanted) {
    let machine = wanted.boot(suite);
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
    let subject = format!("{version}, {count}");
    wanted.compare(&subject, &WAYS, &machine, &|| forget(&machine));
}

/// Removes the digests that a round added.
fn forget(machine: &Machine) {
    machine.sh("xargs ctr -n k8s.io images rm </pins >/dev/null");
    eventually("the CRI hears of it", || {
        let listed = machine.digestfix(&["status"]).stdout;
        !listed.contains("ok, proven")
    });
}
