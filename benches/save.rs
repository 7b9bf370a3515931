//! The time to carry images in a file: `digestfix save` and `load` compared with plain
//! Docker, taking turns on machines of the lab.
//!
//! - `docker save -o FILE && sync FILE`, and `digestfix save -o FILE`, which syncs as well;
//! - `docker load -i FILE`, with Docker's own image store also one restart, because the
//!   digests need one; and `digestfix load FILE`.
//!
//! The peak memory is that of the process digestfix, measured for each compression.
//!
//! `cargo bench --bench save [-- [--program FILE] [ROUNDS [MB...]]]`, as root, after
//! `tests/lab/prepare`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may panic"
)]
#![allow(dead_code, reason = "the lab's own parts are used here in part")]

use std::time::Instant;

#[path = "../tests/lab/machine.rs"]
mod machine;
#[path = "containerd/rounds.rs"]
mod rounds;
#[path = "outage/spread.rs"]
mod spread;

use machine::{Machine, Suite};
use rounds::Wanted;
use spread::spread;

/// The size of all four images together, in MB.
const MEGABYTES: usize = 2000;

/// Loads four images of random bytes, which cannot be compressed, and records digests of
/// manifests that a registry could serve for them.
const FURNISH: &str = r#"
  mkdir /big && cd /big
  echo '[]' >manifest.json
  echo '{"digestfix_claims":1,"claims":[],"manifests":{}}' >claims.json
  for i in 1 2 3 4; do
    head -c ${PART}M /dev/urandom >data
    tar cf layer$i.tar data
    diff=$(sha256sum <layer$i.tar | cut -c1-64)
    printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/data"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' $diff >config
    id=$(sha256sum <config | cut -c1-64)
    mv config $id.json
    manifest=$(printf '{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":%s,"digest":"sha256:%s"},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":9,"digest":"sha256:%064d"}]}' $(stat -c %s $id.json) $id $i)
    digest=sha256:$(printf %s "$manifest" | sha256sum | cut -c1-64)
    jq -c ". + [{Config: \"$id.json\", RepoTags: [\"lab/big-$i:v1\"], Layers: [\"layer$i.tar\"]}]" manifest.json >new
    mv new manifest.json
    jq -c --arg m "$manifest" ".claims += [{reference: \"lab/big-$i@$digest\", image_id: \"sha256:$id\"}] | .manifests[\"$digest\"] = \$m" claims.json >new
    mv new claims.json
  done
  tar c *.json layer*.tar | docker load -q >/dev/null
  rm data layer*.tar
  digestfix apply -q --from claims.json
  sync"#;

const IN_CONTAINERD: &str = "
  echo '{\"features\":{\"containerd-snapshotter\":true}}' >/etc/docker/daemon.json
  systemctl restart docker";

const FORGET: &str = "docker rmi -f $(docker images -aq) >/dev/null
  systemctl reset-failed docker.service docker.socket; sync";

/// Runs a command, and prints its peak memory in kB.
const PEAK: &str = "python3 -c 'import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=2)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)'";

fn main() {
    let wanted = Wanted::of_process(&[MEGABYTES]);
    for megabytes in &wanted.counts {
        println!(
            "{megabytes} MB, medians of {} rounds, in seconds; ratio to docker of each round\n",
            wanted.rounds
        );
        println!(
            "engine               what   docker (range)           digestfix (range)        ratio (range)"
        );
        for (suite, in_containerd) in [
            (Suite::Bookworm, false),
            (Suite::Forky, false),
            (Suite::Forky, true),
        ] {
            bench(&wanted, suite, in_containerd, *megabytes);
        }
    }
}

fn bench(wanted: &Wanted, suite: Suite, in_containerd: bool, megabytes: usize) {
    let rounds = wanted.rounds;
    let machine = wanted.boot(suite);
    if in_containerd {
        machine.sh(IN_CONTAINERD);
    }
    machine.sh(&format!("PART={}{FURNISH}", megabytes / 4));
    let engine = machine.sh("docker version -f '{{.Server.Version}}'");
    let engine = engine.split('+').next().unwrap_or_default();
    let store = if in_containerd {
        "containerd"
    } else {
        "classic"
    };
    let names = (1..=4).map(|number| format!("lab/big-{number}:v1"));
    let names = names.collect::<Vec<_>>().join(" ");
    let docker_saves = format!("docker save -o /big/a.tar {names} && sync /big/a.tar");
    let digestfix_saves = format!("digestfix save -qo /big/b.tar {names}");
    let docker_loads = match in_containerd {
        true => "docker load -q -i /big/b.tar >/dev/null",
        false => "docker load -q -i /big/b.tar >/dev/null; systemctl restart docker",
    };
    let digestfix_loads = "digestfix load -q /big/b.tar";
    let fresh = "rm -f /big/a.tar /big/b.tar; sync";
    let told = |what: &str, took: [Vec<f64>; 2]| {
        let [docker, digestfix] = took.each_ref().map(|took| spread(took.iter().copied()));
        let ratio = spread(
            took[1]
                .iter()
                .zip(&took[0])
                .map(|(own, docker)| own / docker),
        );
        println!(
            "{engine:<8} {store:<11} {what:<6} {:6.2} ({:.2} to {:.2})   {:6.2} ({:.2} to {:.2})   {:.3} ({:.3} to {:.3})",
            docker.1,
            docker.0,
            docker.2,
            digestfix.1,
            digestfix.0,
            digestfix.2,
            ratio.1,
            ratio.0,
            ratio.2
        );
    };
    told(
        "save",
        turns(&machine, rounds, fresh, [&docker_saves, &digestfix_saves]),
    );
    machine.sh(&format!("{fresh}; {digestfix_saves}"));
    told(
        "load",
        turns(&machine, rounds, FORGET, [docker_loads, digestfix_loads]),
    );

    let peak = |command: &str| {
        let kilobytes: f64 = machine.sh(&format!("{PEAK} {command}")).parse().unwrap();
        kilobytes / 1024.0
    };
    let mut peaks = Vec::new();
    for file in ["c.tar", "c.tar.gz", "c.tar.zst"] {
        peaks.push(format!(
            "save {file} {:.0} MB",
            peak(&format!("digestfix save -qo /big/{file} {names}"))
        ));
        machine.sh(FORGET);
        peaks.push(format!(
            "load {:.0} MB",
            peak(&format!("digestfix load -q /big/{file}"))
        ));
        machine.sh(&format!(
            "rm /big/{file}; systemctl reset-failed docker.service docker.socket"
        ));
    }
    println!("{engine:<8} {store:<11} peak memory: {}", peaks.join(", "));
}

/// The durations of two ways, in seconds. The ways take turns in going first, because the
/// first one may find the machine in another state.
fn turns(machine: &Machine, rounds: usize, before: &str, ways: [&str; 2]) -> [Vec<f64>; 2] {
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        for turn in 0..2 {
            let way = (round + turn) % 2;
            machine.sh(before);
            let began = Instant::now();
            machine.sh(ways[way]);
            took[way].push(began.elapsed().as_secs_f64());
        }
    }
    took
}
