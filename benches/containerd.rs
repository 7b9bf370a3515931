//! The cost of recording many digests with the containerd image store: images that were
//! loaded, and the registry's manifest for each, on a machine of the lab.
//!
//! A round measures:
//!
//! - `docker load` of an archive with the same manifests, names and configs, which shows
//!   how long the engine itself needs to add the references;
//! - a loop of `docker image inspect`, with one request for each image;
//! - digestfix: `plan`, `apply`, `verify`, and `apply` when all claims are already met.
//!
//! `cargo bench --bench containerd [-- [--program FILE] ROUNDS [COUNT...]]`, as root,
//! after `tests/lab/prepare`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may panic"
)]
#![allow(dead_code, reason = "the lab's own parts are used here in part")]

#[path = "containerd/images.rs"]
mod images;
#[path = "../tests/lab/machine.rs"]
mod machine;
#[path = "containerd/rounds.rs"]
mod rounds;
#[path = "outage/spread.rs"]
mod spread;

use images::{Image, archive_of_images, archive_of_manifests, claims};
use machine::{Machine, Suite, eventually};
use rounds::{Wanted, Way};

const COUNTS: [usize; 2] = [100, 1000];
const SUITES: [Suite; 2] = [Suite::Trixie, Suite::Forky];

/// The ways to compare, in the order in which each round runs them.
const WAYS: [Way; 7] = [
    Way::peer(
        "docker load",
        "docker load -q -i /manifests.tar >/dev/null",
        false,
    ),
    Way::peer(
        "docker image inspect, each",
        "while read -r name; do docker image inspect $name; done </names >/dev/null",
        true,
    ),
    Way::digestfix("plan", &["plan", "--from", "/claims.json"], 4),
    Way::digestfix("apply", &["apply", "--from", "/claims.json"], 0),
    Way::digestfix("verify", &["verify", "--from", "/claims.json"], 0),
    Way::digestfix(
        "apply, nothing to do",
        &["apply", "--from", "/claims.json"],
        0,
    ),
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
    let subject = format!("{engine}, {count}");
    wanted.compare(&subject, &WAYS, &machine, &|| forget(&machine));
}

/// Removes the digests that a round added.
fn forget(machine: &Machine) {
    machine.sh("xargs ctr -n moby images rm --sync </names >/dev/null");
    eventually("the digests are gone", || {
        machine.sh("ctr -n moby images ls -q | grep -c @ || true") == "0"
    });
}
