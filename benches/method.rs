//! What an apply takes by each method, side by side: claims that are proven,
//! one digest in each of 1, 10 and 100 repositories of one image, on a machine
//! of the lab with three containers. The ways take turns:
//!
//! - `restart`: `--method restart`, on the classic store;
//! - `as it is`: online, names that lead to this host by themselves;
//! - `mirror`: online, names of docker.io;
//! - `hosts`: online, names of a registry that do not resolve;
//! - `containerd`: online, in the containerd image store of a second machine.
//!
//! Each digest is new to the engine: one that it has read the manifest of, it
//! does not ask for again.
//!
//! `cargo bench --bench method [-- ROUNDS [SUITE...]]`, as root, after
//! `tests/lab/prepare`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may fail so"
)]

use std::env;
use std::thread;
use std::time::{Duration, Instant};

#[path = "outage/api.rs"]
mod api;
#[allow(dead_code, reason = "the lab's tests use the rest")]
#[path = "../tests/lab/machine.rs"]
mod machine;
#[path = "outage/spread.rs"]
mod spread;

use api::Api;
use digestfix::digest::{Algorithm, Digest};
use machine::{APP, Machine, Suite};
use serde_json::{Map, json};
use spread::spread;

const ROUNDS: usize = 5;
const COUNTS: [usize; 3] = [1, 10, 100];
const CONFIG: &str = "/etc/docker/daemon.json";
/// So long does a dockerd go by what it has read of /etc/hosts (Go,
/// `net/hosts.go`, `cacheMaxAge`): here because of the way before.
const HOSTS_ARE_KEPT: Duration = Duration::from_secs(5);
const CLAIMS: &str = "/lab/claims.json";

/// What is measured, and what its repositories begin with.
struct Way {
    name: &'static str,
    method: &'static str,
    prefix: &'static str,
    in_containerd: bool,
}

const WAYS: [Way; 5] = [
    way("restart", "restart", "localhost:5000/bench"),
    way("as it is", "online", "localhost:5000/bench"),
    way("mirror", "online", "bench"),
    way("hosts", "online", "registry.example:5002/bench"),
    Way {
        in_containerd: true,
        ..way("containerd", "online", "localhost:5000/bench")
    },
];

const fn way(name: &'static str, method: &'static str, prefix: &'static str) -> Way {
    Way {
        name,
        method,
        prefix,
        in_containerd: false,
    }
}

/// What one way came to in one round.
struct Cost {
    /// Of the whole command.
    took: Duration,
    /// The longest time between two answers of the API.
    api_away: Duration,
}

fn main() {
    let words: Vec<String> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let rounds = words.first().map_or(ROUNDS, |word| word.parse().unwrap());
    println!("medians (range) of {rounds} rounds, in which the ways take turns, in s;");
    println!("the ratio is to restart, of the whole command, in each round\n");
    println!("| engine | digests | way | apply | to restart | API's longest silence |");
    println!("| --- | ---: | --- | ---: | ---: | ---: |");
    let suites = [
        ("bookworm", Suite::Bookworm),
        ("trixie", Suite::Trixie),
        ("forky", Suite::Forky),
    ];
    for (name, suite) in suites {
        if words.len() < 2 || words[1..].iter().any(|word| word == name) {
            bench(suite, rounds);
        }
    }
}

/// An engine with an image in many repositories.
struct Engine {
    machine: Machine,
    /// What its registry serves for the image, and what the engine knows it by.
    manifest: String,
    id: String,
    /// None of the digests so far is made again.
    made: u64,
}

fn bench(suite: Suite, rounds: usize) {
    let mut classic = Engine::new(suite, false);
    // Docker 20.10 has no such store.
    let mut containerd = (suite != Suite::Bookworm).then(|| Engine::new(suite, true));
    let version = classic.machine.sh("docker info -f '{{.ServerVersion}}'");
    let version = version.split('+').next().unwrap_or_default();
    for count in COUNTS {
        let mut costs: [Vec<Cost>; WAYS.len()] = Default::default();
        for round in 0..rounds {
            for turn in 0..WAYS.len() {
                // None is always the one after the same other.
                let index = (turn + round) % WAYS.len();
                let way = &WAYS[index];
                let engine = if way.in_containerd {
                    containerd.as_mut()
                } else {
                    Some(&mut classic)
                };
                if let Some(engine) = engine {
                    costs[index].push(engine.take(way, count));
                }
            }
        }
        for (way, own) in WAYS.iter().zip(&costs).filter(|(_, own)| !own.is_empty()) {
            let took = |cost: &Cost| cost.took.as_secs_f64();
            let (low, middle, high) = spread(own.iter().map(took));
            let ratios = own
                .iter()
                .zip(&costs[0])
                .map(|(own, restart)| took(own) / took(restart));
            let (least, ratio, most) = spread(ratios);
            let (short, away, long) = spread(own.iter().map(|cost| cost.api_away.as_secs_f64()));
            println!(
                "| {version} | {count} | {} | {middle:.2} ({low:.2} to {high:.2}) | \
                 {ratio:.2} ({least:.2} to {most:.2}) | {away:.3} ({short:.3} to {long:.3}) |",
                way.name
            );
        }
    }
}

impl Engine {
    fn new(suite: Suite, in_containerd: bool) -> Self {
        let machine = Machine::boot(suite);
        machine.allow_containers();
        if in_containerd {
            machine.write(CONFIG, r#"{"features": {"containerd-snapshotter": true}}"#);
        } else {
            machine.sh(&format!("rm -f {CONFIG}"));
        }
        let most = COUNTS[COUNTS.len() - 1];
        let run = format!("docker run -d {APP}:v1 /bin/busybox");
        machine.sh(&format!(
            "systemctl restart docker
             docker load -q -i /lab/app.tar
             {run} httpd -f -p 80 -h /; {run} sleep 100000; {run} sleep 100000"
        ));
        machine.bring_manifest("app");
        for way in WAYS.iter().filter(|way| way.in_containerd == in_containerd) {
            machine.sh(&format!(
                "for one in $(seq {most}); do docker tag {APP}:v1 {}/$one:v1; done",
                way.prefix
            ));
        }
        Self {
            manifest: machine.sh("cat /lab/app.manifest"),
            id: machine.id("app"),
            machine,
            made: 0,
        }
    }

    /// A manifest of the same image that was not there before: white space
    /// after it changes nothing but its digest.
    fn another_manifest(&mut self) -> (String, String) {
        self.made += 1;
        let tail: String = (0..u64::BITS - self.made.leading_zeros())
            .map(|bit| if self.made >> bit & 1 == 1 { '\t' } else { ' ' })
            .collect();
        let text = format!("{}{tail}", self.manifest);
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        (digest.to_string(), text)
    }

    /// One way, once; the host is made the same again after it.
    fn take(&mut self, way: &Way, count: usize) -> Cost {
        let (mut manifests, mut claims) = (Map::new(), Vec::new());
        let mut references = Vec::new();
        for number in 1..=count {
            let (digest, text) = self.another_manifest();
            let reference = format!("{}/{number}@{digest}", way.prefix);
            claims.push(json!({"reference": reference, "image_id": self.id}));
            manifests.insert(digest, text.into());
            references.push(reference);
        }
        let claims = json!({"digestfix_claims": 1, "claims": claims, "manifests": manifests});
        let machine = &self.machine;
        machine.put(CLAIMS, claims.to_string().as_bytes());
        machine.sh("systemctl reset-failed; sync");

        if way.name == "hosts" {
            thread::sleep(HOSTS_ARE_KEPT);
        }
        let api = Api::watch(machine.file("/run/docker.sock"));
        thread::sleep(Duration::from_millis(100));
        let began = Instant::now();
        let run = machine.digestfix(&["apply", "--method", way.method, "--from", CLAIMS]);
        let took = began.elapsed();
        thread::sleep(Duration::from_millis(100));
        let api_away = api.longest_silence();
        run.exits(0);
        // A reference that is not there has it fail.
        machine.sh(&format!("docker rmi {} >/dev/null", references.join(" ")));
        Cost { took, api_away }
    }
}
