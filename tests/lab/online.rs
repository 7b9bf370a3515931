//! The running Docker records digests itself, and nothing is stopped.

use std::collections::BTreeMap;
use std::fs::File;
use std::thread;
use std::time::Duration;

use digestfix::digest::Digest;
use digestfix::stand_in::server::Listeners;
use digestfix::stand_in::{Route, Served};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::containers::elsewhere;
use crate::load::Load;
use crate::machine::{APP, Machine, Suite, eventually};

/// What Docker is led to the manifest by: nothing, a mirror, `/etc/hosts`.
const NAMES: [&str; 5] = [
    APP,
    "127.0.0.1:5001/lab/app",
    "lab/app",
    "quay.io/lab/app",
    "registry.example:5002/lab/app",
];

/// What is allowed to be asked without TLS, some of it by name.
const INSECURE: &str = "{\n  \"debug\": false,\n  \"insecure-registries\": [\"registry.example:5002\", \"10.0.0.0/8\"]\n}\n";

/// A mirror of the host's own, not written as a program would.
const A_MIRROR: &str = "{ \"registry-mirrors\": [ \"https://m\" ],\n\t\"debug\":false }";

const APPLY: [&str; 5] = [
    "apply",
    "--from",
    "/lab/app.manifest",
    "--from",
    "/lab/index",
];

/// A machine with an image of several names, none of which has a digest; its
/// manifest and an index of two platforms, this one last, are brought along.
fn furnished(suite: Suite) -> Machine {
    let machine = Machine::boot(suite);
    machine.allow_containers();
    machine.load("app");
    machine.bring_manifest("app");
    machine.sh(
        "list=application/vnd.docker.distribution.manifest.list.v2+json
         arch=$(docker version -f '{{.Server.Arch}}')
         one() {
           printf '{\"mediaType\":%s,\"size\":%s,\"digest\":\"%s\",\"platform\":{\"architecture\":\"%s\",\"os\":\"linux\"}}' \
             \"$(jq .mediaType /lab/app.manifest)\" $(stat -c %s /lab/app.manifest) $1 $2
         }
         other=sha256:$(printf 'a%.0s' $(seq 64))
         printf '{\"schemaVersion\":2,\"mediaType\":\"%s\",\"manifests\":[%s,%s]}' \
           $list \"$(one $other s390x)\" \"$(one $(cat /lab/app.digest) $arch)\" >/lab/index",
    );
    for name in &NAMES[1..] {
        machine.sh(&format!("docker tag {APP}:v1 {name}:v1"));
    }
    machine
}

/// All that is to be as it was, whatever is recorded.
fn host(machine: &Machine) -> String {
    machine.sh(
        "systemctl show -p MainPID,ExecMainStartTimestampMonotonic docker.service
         stat -c '%n %i %a %u %g %y' /etc/hosts /etc/docker/daemon.json 2>&1 || true
         sha256sum /etc/hosts /etc/docker/daemon.json 2>&1 || true
         ls -A /etc/docker; ls -d /etc/hosts*
         docker info -f '{{.RegistryConfig.Mirrors}}' | tr -d '[]'
         docker ps -aq --no-trunc | xargs -r docker inspect -f '{{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}}'",
    )
}

fn digests(machine: &Machine) -> [String; 2] {
    let index = machine.sh("sha256sum /lab/index | cut -d' ' -f1");
    [machine.digest("app"), format!("sha256:{index}")]
}

fn recorded(machine: &Machine) -> usize {
    let digests = digests(machine);
    let listed = machine.sh("docker images --digests --format '{{.Repository}}@{{.Digest}}'");
    let expected = NAMES
        .iter()
        .flat_map(|name| digests.iter().map(move |digest| format!("{name}@{digest}")));
    expected
        .filter(|reference| listed.lines().any(|line| line == reference))
        .count()
}

fn drop_digests(machine: &Machine) {
    machine.sh(
        "docker images --digests --format '{{.Repository}}@{{.Digest}}' | grep -v '<none>' |
         sort -u | xargs -r docker rmi >/dev/null",
    );
    assert_eq!(recorded(machine), 0);
}

/// A pull fails when another one has been recorded, which is dropped again
/// although containers use the image and it has no other name.
fn is_undone_beside_containers(machine: &Machine) {
    let [_, index] = digests(machine);
    let name = NAMES[1];
    let others = NAMES.iter().filter(|other| **other != name);
    let others: Vec<String> = others.map(|name| format!("{name}:v1")).collect();
    machine.sh(&format!(
        "docker rmi {} >/dev/null
         docker run -d --name up {name}:v1 /bin/busybox sleep 100000 >/dev/null
         docker create --name down {name}:v1 >/dev/null
         docker create --name by-id $(cat /lab/app.id) >/dev/null
         iptables -I OUTPUT -o lo -p tcp --dport 5001 -m string --algo bm --string {index} \
           -j REJECT --reject-with tcp-reset",
        others.join(" ")
    ));
    let containers = "docker inspect -f '{{.Name}} {{.Image}} {{.State.Pid}}' up down by-id";
    let before = (machine.sh(containers), host(machine), machine.store());
    let run = machine.digestfix(&[&["apply", "--method", "online"], &APPLY[1..]].concat());
    let run = run.exits(1);
    assert!(run.stdout.contains("dropped again: 1"), "{}", run.stdout);
    let after = (machine.sh(containers), host(machine), machine.store());
    assert_eq!(after, before, "nothing is there but what was");
    machine.is_whole();
    machine.sh("iptables -D OUTPUT 1; docker rm -f up down by-id >/dev/null");
    for other in others {
        machine.sh(&format!("docker tag {name}:v1 {other}"));
    }
}

/// Docker's process and every connection to a published port live through it,
/// whatever daemon.json it has, or none.
fn records(machine: &Machine, config: Option<&str>) {
    match config {
        Some(text) => machine.write("/etc/docker/daemon.json", text),
        None => drop(machine.sh("rm -f /etc/docker/daemon.json")),
    }
    // Authorities of the registries' own, which nothing here is vouched for by.
    machine.sh(&format!(
        "for host in 127.0.0.1:5001 quay.io registry.example:5002; do
           mkdir -p /etc/docker/certs.d/$host
           csplit -s -z -f /run/ca /etc/ssl/certs/ca-certificates.crt '/BEGIN/' '{{1}}'
           cp /run/ca00 /etc/docker/certs.d/$host/ca.crt
         done
         systemctl restart docker
         docker run -d --name web -p 8080:80 {APP}:v1 /bin/busybox httpd -f -p 80 -h / >/dev/null
         docker run -d --name echo -p 9000:9000 {APP}:v1 /bin/busybox nc -ll -p 9000 -e /bin/busybox cat >/dev/null"
    ));
    let before = host(machine);
    let plan = machine.digestfix(&[&["plan", "--json"], &APPLY[1..]].concat());
    let plan: Value = serde_json::from_str(&plan.exits(4).stdout).expect("JSON");
    assert_eq!(plan["method"], "online", "{plan}");
    assert_eq!(host(machine), before, "a plan touches nothing");

    let local = Load::requests(machine.namespace(), ([127, 0, 0, 1], 8080).into());
    let (namespace, server) = elsewhere(machine, 8080);
    let published = Load::requests(namespace, server);
    let (namespace, server) = elsewhere(machine, 9000);
    let open = Load::connection(namespace, server);
    thread::sleep(Duration::from_millis(500));
    let since = machine.sh("date '+%F %T'");
    let run = machine.digestfix(&APPLY).exits(0);
    thread::sleep(Duration::from_millis(500));
    local.met_no_failure("requests to a published port from here");
    published.met_no_failure("requests to a published port from elsewhere");
    open.met_no_failure("a connection over a published port");
    assert!(run.stdout.contains("was not stopped"), "{}", run.stdout);
    assert_eq!(host(machine), before);
    assert_eq!(recorded(machine), 2 * NAMES.len());
    machine.is_whole();
    let reloads = machine.sh(&format!(
        "journalctl --sync; journalctl -b -o cat -u docker --since '{since}' | grep -c 'Got signal to reload' || true"
    ));
    assert_eq!(reloads, "2", "the mirror in and out again");
    runs_by_all(machine);
    let shown = machine.digestfix(&["history"]).exits(0).stdout;
    assert!(shown.lines().last().unwrap().contains("done"), "{shown}");
    machine.sh(
        "docker rm -f web echo >/dev/null; rm -rf /etc/docker/daemon.json /etc/docker/certs.d
         systemctl restart docker",
    );
    assert_eq!(recorded(machine), 2 * NAMES.len(), "they outlive a restart");
    runs_by_all(machine);
}

/// A container can be started by each digest, the index's as well.
#[track_caller]
fn runs_by_all(machine: &Machine) {
    for digest in digests(machine) {
        for name in [NAMES[2], NAMES[3]] {
            let said = machine.sh(&format!("docker run --rm --network none {name}@{digest}"));
            assert_eq!(said, "hello from app", "{name}@{digest}");
        }
    }
}

#[test]
fn docker_20_10_records_it() {
    let machine = furnished(Suite::Bookworm);
    is_undone_beside_containers(&machine);
    records(&machine, None);
    machine.digestfix(&["rollback"]).exits(0);
    assert_eq!(recorded(&machine), 0);
    machine.is_whole();
}

#[test]
fn docker_26_1_records_it() {
    let machine = furnished(Suite::Trixie);
    is_undone_beside_containers(&machine);
    records(&machine, Some(INSECURE));
    drop_digests(&machine);
    killed_at_each_trade(&machine);
    a_container_that_copies_hosts_is_named(&machine);
    what_the_host_has_against_it(&machine);
    a_pull_that_fails_is_made_good(&machine);
}

#[test]
fn docker_28_5_records_it() {
    let machine = furnished(Suite::Forky);
    refuses_what_was_tampered_with(&machine);
    is_undone_beside_containers(&machine);
    records(&machine, Some(A_MIRROR));
    drop_digests(&machine);
    a_signal_while_docker_pulls(&machine);
    out_of_a_sandbox(&machine);
}

/// Files are what is traded and put back, and with each trade there is another
/// state of the host. `tests/faults` has all calls.
fn killed_at_each_trade(machine: &Machine) {
    machine.write("/etc/docker/daemon.json", "{ \"debug\": false }");
    let (mut old, mut new) = (0, 0);
    for number in 1.. {
        // A dockerd that has looked at /etc/hosts does so again after 5 s.
        machine.sh("systemctl reset-failed docker; systemctl restart docker");
        let before = host(machine);
        let run = machine.injected(
            &format!("renameat2:signal=SIGKILL:when={number}"),
            &[&["apply", "--method", "online"], &APPLY[1..]].concat(),
        );
        eventually("the guard has ended", || machine.is_finished());
        machine.is_whole();
        assert_eq!(host(machine), before, "killed at trade {number}");
        if run.code == 0 {
            break;
        }
        match recorded(machine) {
            0 => old += 1,
            all if all == 2 * NAMES.len() => new += 1,
            some => panic!("killed at trade {number}: {some} recorded"),
        }
        drop_digests(machine);
    }
    assert!(old >= 2 && new >= 2, "{old} {new}");
    drop_digests(machine);
}

/// One on the host's network has a copy of its own, which stays.
fn a_container_that_copies_hosts_is_named(machine: &Machine) {
    machine.sh(&format!(
        "(sleep 1; exec docker run -d --name copy --network host {APP}:v1 /bin/busybox sleep 100) \
           >/dev/null 2>&1 &"
    ));
    // The second trade of names is that of /etc/hosts.
    let run = machine.injected(
        "renameat2:delay_exit=2000000:when=2",
        &[&["apply", "--method", "online"], &APPLY[1..]].concat(),
    );
    let run = run.exits(0);
    let id = machine.sh("docker inspect -f '{{.Id}}' copy");
    let named = format!("until it is started again: {}", &id[..12]);
    assert!(run.stderr.contains(&named), "{}", run.stderr);
    machine.sh("docker rm -f copy");
    drop_digests(machine);
}

/// dockerd is asked for several at that time, and none of them is there in the end.
fn a_signal_while_docker_pulls(machine: &Machine) {
    let before = host(machine);
    let mut dropped = 0;
    for number in [12, 16, 20] {
        let run = machine.injected(
            &format!("connect:signal=SIGTERM:when={number}"),
            &[&["apply", "--method", "online"], &APPLY[1..]].concat(),
        );
        let run = run.exits(1);
        dropped += usize::from(run.stdout.contains("dropped again"));
        assert_eq!(recorded(machine), 0, "{}", run.stdout);
        assert_eq!(host(machine), before);
        machine.is_whole();
    }
    assert!(dropped > 0, "one came while Docker pulled");
}

/// The method that a plan takes, and why.
fn method(machine: &Machine) -> (String, String) {
    let plan = machine.digestfix(&["plan", "--json", "--from", "/lab/app.manifest"]);
    let plan: Value = serde_json::from_str(&plan.exits(4).stdout).expect("JSON");
    let text = |key: &str| plan[key].as_str().unwrap_or_default().to_owned();
    (text("method"), text("method_because"))
}

fn what_the_host_has_against_it(machine: &Machine) {
    let refused = |why: &str| {
        let (method, because) = method(machine);
        assert_eq!(method, "restart", "{why}");
        assert!(because.contains(why), "{because}");
        let run =
            machine.digestfix(&["apply", "--method", "online", "--from", "/lab/app.manifest"]);
        let run = run.exits(3);
        assert!(run.stderr.contains(why), "{}", run.stderr);
    };
    assert_eq!(method(machine).0, "online");
    machine.sh("systemctl start docker-registry");
    machine.sh("until curl -sf localhost:5000/v2/ >/dev/null; do sleep 0.05; done");
    refused("nothing can be served on 127.0.0.1:5000");
    machine.sh("systemctl stop docker-registry; cp -a /etc/hosts /run/hosts");
    machine.sh("echo 10.1.2.3 quay.io >>/etc/hosts");
    refused("quay.io leads to 10.1.2.3");
    machine.sh("cp /run/hosts /etc/hosts");
    // There is a way to this name server, which may be back in a moment.
    machine
        .sh("cp -a /etc/resolv.conf /run/resolv.conf; echo nameserver 127.0.0.2 >/etc/resolv.conf");
    refused("where quay.io leads from here cannot be told: 127.0.0.2: Connection refused");
    machine.sh("iptables -I INPUT -d 127.0.0.2 -p udp -j DROP");
    refused("where quay.io leads from here cannot be told");
    // Nor would Docker have any way to this one.
    machine.sh("iptables -D INPUT 1; echo nameserver 10.1.2.3 >/etc/resolv.conf");
    assert_eq!(method(machine).0, "online");
    machine.sh("rm /etc/resolv.conf; mv /run/resolv.conf /etc/resolv.conf");
    machine.drop_in("[Service]\nEnvironment=HTTPS_PROXY=http://10.1.2.3:3128\n");
    machine.sh("systemctl reset-failed docker; systemctl restart docker");
    refused("through the proxy http://10.1.2.3:3128");
    machine.without_drop_in();
    machine.sh("systemctl reset-failed docker; systemctl restart docker");
    machine.sh("mv /lab/index /lab/right; sed 's/\"architecture\":\"[^\"]*\"/\"architecture\":\"s390x\"/g' /lab/right >/lab/index");
    let run = machine.digestfix(&[&["apply", "--method", "online"], &APPLY[1..]].concat());
    let run = run.exits(3);
    assert!(
        run.stderr.contains("may take another image"),
        "{}",
        run.stderr
    );
    machine.sh("mv /lab/right /lab/index");
    assert_eq!(recorded(machine), 0, "nothing was done");
}

/// What cannot be known before is undone, and done by a restart.
fn a_pull_that_fails_is_made_good(machine: &Machine) {
    machine.sh("iptables -I OUTPUT -o lo -p tcp --dport 5001 -j REJECT");
    let run = machine.digestfix(&["apply", "--method", "online", "--from", "/lab/app.manifest"]);
    let run = run.exits(1);
    assert!(
        run.stderr.contains("Docker was not stopped"),
        "{}",
        run.stderr
    );
    assert_eq!(recorded(machine), 0);
    machine.is_whole();
    let pid = machine.main_pid();
    // The third trade of names is the first one of the undo.
    let run = machine.injected(
        "renameat2:signal=SIGTERM:when=3",
        &["apply", "--from", "/lab/app.manifest"],
    );
    let run = run.exits(1);
    assert!(run.stderr.contains("SIGTERM received"), "{}", run.stderr);
    assert_eq!(machine.main_pid(), pid, "nobody wants it any more");
    assert_eq!(recorded(machine), 0);
    machine.is_whole();
    let run = machine.digestfix(&["apply", "--from", "/lab/app.manifest"]);
    let run = run.exits(0);
    assert!(
        run.stderr.contains("Going on by a restart"),
        "{}",
        run.stderr
    );
    assert_ne!(machine.main_pid(), pid);
    assert_eq!(recorded(machine), NAMES.len());
    machine.is_whole();
}

/// The service has no network of its own; what it serves is on Docker's.
fn out_of_a_sandbox(machine: &Machine) {
    let led_by_hosts = format!("{}:v1 {}:v1", NAMES[3], NAMES[4]);
    machine.sh(&format!("docker rmi {led_by_hosts} >/dev/null"));
    machine.install_units();
    let before = host(machine);
    machine.sh("mkdir -p /etc/digestfix/claims.d; cp /lab/app.manifest /etc/digestfix/claims.d/");
    machine.sh("systemctl start digestfix.service");
    assert_eq!(recorded(machine), 3);
    assert_eq!(host(machine), before, "Docker was not stopped");
    machine.is_whole();
    machine.sh(&format!("docker tag {APP}:v1 {}:v1", NAMES[3]));
    let run = machine.run(&["unshare", "-n", "digestfix", "plan", "--json"]);
    let plan: Value = serde_json::from_str(&run.exits(4).stdout).expect("JSON");
    assert_eq!(plan["method"], "restart", "no name is looked up from there");
    assert_eq!(
        machine.sh("systemctl list-units --all --no-legend 'digestfix-listen-*'"),
        ""
    );
}

/// Before Docker is asked; and where nobody looks, by Docker itself.
fn refuses_what_was_tampered_with(machine: &Machine) {
    let (before, digest) = (host(machine), machine.digest("app"));
    machine.sh(
        "jq -n --arg digest \"$(cat /lab/app.digest)\" --rawfile text /lab/app.manifest \
           '{digestfix_claims:1,claims:[],manifests:{($digest):($text+\" \")}}' >/lab/tampered.json",
    );
    let run = machine
        .digestfix(&["apply", "--from", "/lab/tampered.json"])
        .exits(3);
    assert!(run.stderr.contains("hash"), "{}", run.stderr);

    let text = machine.sh("cat /lab/app.manifest; echo ' .'");
    let served = Served {
        media_type: "application/vnd.docker.distribution.manifest.v2+json",
        text: text.trim_end_matches('.').into(),
    };
    let manifests: BTreeMap<Digest, Served> = [(digest.parse().unwrap(), served)].into();
    let namespace = machine.namespace();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (end, ends) = tokio::sync::oneshot::channel::<()>();
    let registry = thread::spawn(move || {
        let namespace = File::open(namespace).expect("the machine has the namespace");
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter it");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let route = Route {
                listen: [([127, 0, 0, 1], 5000).into()].into(),
                ..Route::default()
            };
            let listeners = Listeners::bind(&route).expect("the port is free");
            let _serving = listeners.serve(manifests).expect("it serves");
            ready.send(()).expect("the test waits");
            let _ = ends.await;
        });
    });
    is_ready.recv().expect("it serves");
    let pull = machine.run(&["docker", "pull", &format!("{APP}@{digest}")]);
    end.send(()).expect("it serves");
    registry.join().expect("it ends");
    assert_ne!(pull.code, 0, "{}", pull.stdout);
    assert!(
        pull.stderr.contains("manifest verification failed"),
        "{}",
        pull.stderr
    );
    assert_eq!(recorded(machine), 0);
    assert_eq!(host(machine), before);
}
