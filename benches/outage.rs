//! The cost of changing references on a host in use: how long the API is unavailable,
//! which containers stop, and what clients of a published port see. Four methods take
//! turns on one machine of the lab:
//!
//! - `apply`: `digestfix apply`, with live-restore off;
//! - `restart-lr`: `systemctl restart docker`, with live-restore already on;
//! - `by hand`: stop Docker, edit the file with jq, start Docker;
//! - `restart`: `systemctl restart docker`.
//!
//! `cargo bench --bench outage [-- ROUNDS [SUITE...]]`, as root, after
//! `tests/lab/prepare`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may panic"
)]
#![allow(dead_code, reason = "the lab's own parts are used here in part")]

use std::collections::BTreeSet;
use std::env;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

#[path = "outage/api.rs"]
mod api;
#[path = "../tests/lab/load.rs"]
mod load;
#[allow(dead_code, reason = "the fault injection reboots them, too")]
#[path = "../tests/lab/machine.rs"]
mod machine;
#[path = "outage/spread.rs"]
mod spread;

use api::Api;
use load::{Load, Summary};
use machine::{APP, Machine, STORE, Suite, eventually};
use spread::spread;

const ROUNDS: usize = 10;
const WAYS: [&str; 4] = ["apply", "restart-lr", "by hand", "restart"];
const CONFIG: &str = "/etc/docker/daemon.json";

/// The measurements of one method in one round.
struct Cost {
    /// The longest time between two successive answers of the API.
    api_away: Duration,
    containers_lost: usize,
    /// The results of the requests that clients sent to a published port.
    clients: Summary,
}

fn main() {
    let words: Vec<String> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let rounds = words.first().map_or(ROUNDS, |word| word.parse().unwrap());
    let suites = [
        ("bookworm", Suite::Bookworm),
        ("trixie", Suite::Trixie),
        ("forky", Suite::Forky),
    ];
    println!(
        "medians of {rounds} rounds, in which the four take turns; ratio to restart-lr of each round\n"
    );
    println!(
        "engine    way         API away, s (range)       ratio   containers   published port: \
         failed   over, s   slowest, s"
    );
    println!("{:83}lost of 3", "");
    for (name, suite) in suites {
        if words.len() < 2 || words[1..].iter().any(|word| word == name) {
            bench(suite, rounds);
        }
    }
}

fn bench(suite: Suite, rounds: usize) {
    let machine = Machine::boot(suite);
    machine.allow_containers();
    machine.sh(&format!("rm -f {CONFIG}; systemctl restart docker"));
    machine.load("app");
    machine.sh(&format!(
        "ip netns add client
         ip link add outside type veth peer name eth0 netns client
         ip addr add 10.77.0.1/24 dev outside; ip link set outside up
         ip -n client addr add 10.77.0.2/24 dev eth0; ip -n client link set eth0 up
         docker run -d --name web -p 8080:80 {APP}:v1 /bin/busybox httpd -f -p 80 -h /
         docker run -d --name plain {APP}:v1 /bin/busybox sleep 100000
         docker run -d --name always --restart always {APP}:v1 /bin/busybox sleep 100000"
    ));
    let engine = machine.sh("docker info -f '{{.ServerVersion}}'");
    let engine = engine.split('+').next().unwrap_or_default();
    let mut costs: [Vec<Cost>; 4] = Default::default();
    for round in 0..rounds {
        for turn in 0..WAYS.len() {
            // Each round begins with a different method.
            let way = (turn + round) % WAYS.len();
            costs[way].push(take(&machine, WAYS[way]));
        }
    }
    for (way, own) in WAYS.iter().zip(&costs) {
        let away = |cost: &Cost| cost.api_away.as_secs_f64();
        let ratios = own
            .iter()
            .zip(&costs[1])
            .map(|(own, peer)| away(own) / away(peer));
        let (low, middle, high) = spread(own.iter().map(away));
        println!(
            "{engine:<9} {way:<11} {middle:6.3} ({low:.3} to {high:.3})   {:5.2}   {:>10}   {:>22}   {:7.3}   {:7.3}",
            spread(ratios).1,
            spread(own.iter().map(|cost| cost.containers_lost as f64)).1,
            spread(own.iter().map(|cost| cost.clients.failed as f64)).1,
            spread(own.iter().map(|cost| cost.clients.failing.as_secs_f64())).1,
            spread(own.iter().map(|cost| cost.clients.slowest.as_secs_f64())).1,
        );
    }
}

/// Measures one method once, after bringing the host into the same state as for the
/// others.
fn take(machine: &Machine, way: &str) -> Cost {
    let reference = format!("{APP}@{}", machine.digest("app"));
    machine.sh("systemctl reset-failed; docker start web plain always >/dev/null");
    if machine.engine_has("app") {
        machine
            .digestfix(&["apply", &format!("--remove={reference}")])
            .exits(0);
    }
    let live_restore = |on: bool| {
        machine.write(CONFIG, &format!("{{\"live-restore\": {on}}}"));
        machine.sh("systemctl reload docker");
        eventually("live-restore is set", || {
            machine.sh("docker info -f '{{.LiveRestoreEnabled}}'") == on.to_string()
        });
        if !on {
            machine.sh(&format!("rm {CONFIG}"));
        }
    };
    if way == "restart-lr" {
        live_restore(true);
    }
    let before = running(machine);
    let api = Api::watch(machine.file("/run/docker.sock"));
    let server = SocketAddr::from(([10, 77, 0, 1], 8080));
    let load = Load::requests(machine.file("/run/netns/client"), server);
    thread::sleep(Duration::from_millis(300));
    match way {
        "apply" => {
            machine
                .digestfix(&["apply", &machine.claim("app")])
                .exits(0);
        }
        "by hand" => {
            let id = machine.id("app");
            machine.sh(&format!(
                "systemctl stop docker.socket docker.service
                 jq -c '.Repositories[\"{APP}\"][\"{reference}\"] = \"{id}\"' {STORE} >/tmp/new
                 cat /tmp/new >{STORE}
                 systemctl start docker.socket docker.service"
            ));
        }
        _ => {
            machine.sh("systemctl restart docker");
        }
    }
    thread::sleep(Duration::from_millis(300));
    let api_away = api.longest_silence();
    let answers = load.answers();
    let now = running(machine);
    if way == "restart-lr" {
        live_restore(false);
    }
    Cost {
        api_away,
        containers_lost: before.difference(&now).count(),
        clients: Summary::of(&answers),
    }
}

/// The running containers, with the IDs of their processes.
fn running(machine: &Machine) -> BTreeSet<String> {
    machine
        .sh("docker inspect -f '{{.Name}} {{.State.Running}} {{.State.Pid}}' web plain always | grep true || true")
        .lines()
        .map(str::to_owned)
        .collect()
}
