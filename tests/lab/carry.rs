//! Images carried in one file: `digestfix save` on one host, `digestfix load` on another.

use crate::machine::{APP, Machine, OTHER, Suite, eventually};

/// Makes Docker start with an empty data root.
const FRESH: &str = "
  echo '{\"data-root\":\"/var/lib/docker/second\"}' >/etc/docker/daemon.json
  systemctl restart docker; systemctl reset-failed docker";

const STOPS: &str = "journalctl -u docker | grep -c 'Daemon shutdown complete' || true";

const STATE: &str = "/var/lib/docker/second/digestfix";

/// digestfix refuses an archive in which bytes of a layer were changed.
fn refuses_what_was_changed(machine: &Machine, archive: &str) {
    machine.sh(&format!(
        "cp {archive} /lab/changed.tar
         printf changed | dd of=/lab/changed.tar bs=1 seek=$(($(stat -c %s {archive}) / 3)) conv=notrunc status=none"
    ));
    for load in [
        "digestfix load /lab/changed.tar",
        "digestfix load </lab/changed.tar",
    ] {
        let refused = machine.run(&["sh", "-c", load]).exits(3).stderr;
        assert!(refused.contains("TAMPERED WITH"), "{refused}");
        assert!(refused.contains("nothing was touched"), "{refused}");
        assert_eq!(machine.sh("docker images -aq"), "");
        assert_eq!(machine.sh("find /var/lib/docker -name loading"), "");
    }
}

/// Kills a load before it records its claims, and while it records them. `doctor` and
/// `recover` then say how to continue.
fn outlives_a_kill(machine: &Machine) {
    let load = ["load", "/lab/images.tar.gz"];
    let mark = format!("{STATE}/loading");
    let journal = format!("{STATE}/journal.json.new");
    let waits = |told: &str| {
        assert!(told.contains("a load was interrupted"), "{told}");
        assert!(told.contains("digestfix load /lab/images.tar.gz"), "{told}");
    };
    machine.injected_at(&journal, "rename:signal=SIGKILL", &load);
    eventually("the watchdog has ended", || machine.is_finished());
    assert_ne!(machine.sh("docker images -q"), "");
    waits(&machine.digestfix(&["doctor"]).stdout);
    waits(&machine.digestfix(&["recover"]).exits(0).stderr);
    assert_eq!(machine.run(&["test", "-e", &mark]).code, 1);

    machine.drop_in("[Service]\nExecStopPost=-/usr/bin/pkill -KILL -f 'digestfix load'\n");
    machine.sh(
        "docker rmi -f $(docker images -q); systemctl reset-failed docker.service docker.socket",
    );
    let killed = machine.digestfix(&load);
    assert_ne!(killed.code, 0, "{}", killed.stdout);
    machine.without_drop_in();
    eventually("the watchdog has ended", || machine.is_finished());
    waits(&machine.digestfix(&["doctor"]).stdout);
    machine.sh("systemctl reset-failed docker.service docker.socket");
}

fn carries(machine: &Machine, fresh: &str, may_stop: u32) {
    let tag = format!("{APP}:v1");
    let pin = format!("{OTHER}:v9@{}", machine.digest("other"));
    machine.allow_containers();
    machine.pull_both();
    let save = machine.digestfix(&["save", "-o", "/lab/images.tar.gz", &tag, &pin]);
    save.exits(0);
    machine.sh("gunzip -k /lab/images.tar.gz; head -c 30000 /lab/images.tar >/lab/cut.tar");
    machine.sh("tar --delete -f - digestfix.json </lab/images.tar >/lab/plain.tar");
    machine.sh(fresh);
    assert_eq!(machine.sh("docker images -q"), "");

    let cut = machine.digestfix(&["load", "/lab/cut.tar"]);
    let told = cut.exits(3).stderr;
    assert!(told.contains("cut short"), "{told}");
    assert_eq!(machine.sh("docker images -q"), "");

    refuses_what_was_changed(machine, "/lab/images.tar");
    if may_stop > 0 {
        outlives_a_kill(machine);
    }

    let stops: u32 = machine.sh(STOPS).parse().unwrap();
    machine.digestfix(&["load", "/lab/images.tar.gz"]).exits(0);
    let stopped = machine.sh(STOPS).parse::<u32>().unwrap() - stops;
    assert!(stopped <= may_stop, "{stopped}");
    for name in [format!("{APP}@{}", machine.digest("app")), pin, tag] {
        let said = machine.sh(&format!("docker run --rm --network none {name}"));
        assert!(said.starts_with("hello from"), "{said}");
    }
    machine.sh(&format!(
        "[ ! -e {STATE}/loading ]; mkdir /lab/stick; cp /lab/images.tar /etc/os-release /lab/stick"
    ));
    let again = machine
        .digestfix(&["load", "--json", "/lab/stick"])
        .exits(0);
    let again: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(again["archives"][0]["file"], "/lab/stick/images.tar");
    assert_eq!(again["archives"][0]["result"], "here");
    assert_eq!(again["changed"], false);
    let verify = machine.digestfix(&["verify", "--from", "/lab/images.tar"]);
    verify.exits(0);

    machine.sh("docker rmi -f $(docker images -q)");
    let slow = "(head -c 30000 /lab/images.tar; sleep 1) | timeout --preserve-status -s INT 0.5 digestfix load";
    let told = machine.run(&["sh", "-c", slow]).exits(1).stderr;
    assert!(told.contains("SIGINT received"), "{told}");
    assert_eq!(machine.sh("docker images -aq"), "");
    machine.digestfix(&["recover"]).exits(0);
    let piped = machine.run(&[
        "sh",
        "-c",
        "zstd -qc /lab/images.tar | digestfix load --json",
    ]);
    let piped: serde_json::Value = serde_json::from_str(&piped.exits(0).stdout).unwrap();
    assert_eq!(piped["archives"][0]["file"], serde_json::Value::Null);
    assert_eq!(piped["archives"][0]["result"], "loaded");
    machine.sh("docker rmi -f $(docker images -q)");
    let plain = machine.digestfix(&["load", "/lab/plain.tar"]);
    let told = plain.exits(if may_stop == 0 { 0 } else { 4 });
    machine.sh(&format!("docker image inspect {APP}:v1"));
    assert!(
        may_stop == 0 || told.stderr.contains("has no digest"),
        "{}",
        told.stderr
    );
    // The image is here by now, has no digest, and the claim is about no image of it.
    machine.write(
        "/lab/elsewhere.txt",
        &format!("elsewhere.example/app:v1@sha256:{}\n", "1".repeat(64)),
    );
    let again = ["load", "--from", "/lab/elsewhere.txt", "/lab/plain.tar"];
    let again = machine
        .digestfix(&again)
        .exits(if may_stop == 0 { 0 } else { 4 });
    let held = again.stdout.contains("every claim");
    assert!(may_stop == 0 || !held, "{}", again.stdout);
}

#[test]
fn to_docker_28() {
    let machine = Machine::boot(Suite::Forky);
    carries(&machine, FRESH, 1);
}

/// With the containerd image store, Docker itself sets the tags, and digestfix stops
/// nothing.
#[test]
fn to_containerd_28() {
    let machine = Machine::boot(Suite::Forky);
    machine.sh(
        "echo '{\"features\":{\"containerd-snapshotter\":true}}' >/etc/docker/daemon.json; systemctl restart docker",
    );
    carries(&machine, "docker rmi -f $(docker images -q)", 0);
}

/// Creates an image for two platforms from two images in the registry. The second is
/// converted to another format, so that no machine has its manifest.
const MULTI: &str = r#"
  systemctl start docker-registry
  R=localhost:5000/lab
  copy() { skopeo --insecure-policy copy -q --src-tls-verify=false --dest-tls-verify=false $3 docker://$R/$1 docker://$R/$2; }
  until curl -sf localhost:5000/v2/ >/dev/null; do sleep 0.05; done
  copy other:v1 multi:amd64
  copy app:v1 multi:arm64 --format=oci
  list=application/vnd.docker.distribution.manifest.list.v2+json
  platform() {
    skopeo inspect --raw --tls-verify=false docker://$R/multi:$1 >/lab/$1.json
    printf '{"mediaType":%s,"size":%s,"digest":"sha256:%s","platform":{"architecture":"%s","os":"linux"}}' \
      "$(jq .mediaType /lab/$1.json)" "$(stat -c %s /lab/$1.json)" "$(sha256sum </lab/$1.json | cut -c1-64)" $1
  }
  printf '{"schemaVersion":2,"mediaType":"%s","manifests":[%s,%s]}' $list "$(platform amd64)" "$(platform arm64)" >/lab/list.json
  curl -sf -X PUT -H "Content-Type: $list" --data-binary @/lab/list.json localhost:5000/v2/lab/multi/manifests/v1
  echo "sha256:$(sha256sum </lab/list.json | cut -c1-64)" >/lab/multi.digest
  systemctl stop docker-registry"#;

/// Pulls one image by its tag, one by its digest, and one that has several platforms.
const PULL: &str = "
  systemctl start docker-registry
  until curl -sf localhost:5000/v2/ >/dev/null; do sleep 0.05; done
  docker pull -q localhost:5000/lab/app:v1
  docker pull -q localhost:5000/lab/other@$(cat /lab/other.digest)
  docker pull -q localhost:5000/lab/multi:v1
  systemctl stop docker-registry";

const IN_CONTAINERD: &str = "
  echo '{\"features\":{\"containerd-snapshotter\":true}}' >/etc/docker/daemon.json
  systemctl reset-failed docker.service docker.socket 2>/dev/null || true
  systemctl restart docker";

/// An archive that digestfix saved from one Docker, and the pins by which its images must
/// run elsewhere.
struct Cargo {
    from: &'static str,
    archive: Vec<u8>,
    pins: [String; 3],
}

fn cargo(machine: &Machine, from: &'static str) -> Cargo {
    machine.sh(PULL);
    let pins = [
        format!("{APP}@{}", machine.digest("app")),
        format!("{OTHER}:v9@{}", machine.digest("other")),
        format!("localhost:5000/lab/multi:v1@{}", machine.digest("multi")),
    ];
    let [_, other, multi] = &pins;
    let tag = format!("{APP}:v1");
    let said = machine
        .digestfix(&["save", "-o", "/lab/cargo.tar", &tag, other, multi])
        .exits(0)
        .stderr;
    assert_eq!(said.matches("digest proven").count(), 2, "{from}: {said}");
    Cargo {
        from,
        archive: machine.take("/lab/cargo.tar"),
        pins,
    }
}

fn forget(machine: &Machine) {
    machine.sh("docker rmi -f $(docker images -aq) 2>/dev/null || true");
    assert_eq!(machine.sh("docker images -aq"), "");
}

/// skopeo checks each layer and the config that it copies.
const SKOPEO_READS: &str = "
  skopeo --insecure-policy copy -q docker-archive:/lab/came.tar:localhost:5000/lab/app:v1 oci:/lab/read:v1
  rm -r /lab/read";

/// Has skopeo read the archive, loads it with plain Docker, then with digestfix. Returns how often digestfix
/// stopped Docker.
fn arrives(machine: &Machine, cargo: &Cargo) -> u32 {
    let Cargo { from, .. } = cargo;
    machine.put("/lab/came.tar", &cargo.archive);
    machine.sh(SKOPEO_READS);
    forget(machine);
    machine.sh("docker load -q -i /lab/came.tar");
    let tag = "localhost:5000/lab/app:v1";
    let plain = machine.run(&["docker", "run", "--rm", "--network", "none", tag]);
    assert_eq!(plain.stdout, "hello from app\n", "{from}: {}", plain.stderr);

    forget(machine);
    let stops: u32 = machine.sh(STOPS).parse().unwrap();
    machine.digestfix(&["load", "/lab/came.tar"]).exits(0);
    let stopped = machine.sh(STOPS).parse::<u32>().unwrap() - stops;
    for pin in &cargo.pins {
        let said = machine.run(&["docker", "run", "--rm", "--network", "none", pin]);
        let said = said.exits(0).stdout;
        assert!(said.starts_with("hello from"), "{from}: {pin}: {said}");
    }
    machine.sh("systemctl reset-failed docker.service docker.socket");
    stopped
}

/// Saves images on four engines, and loads each of the four archives on each engine.
#[test]
fn from_each_to_each() {
    let suites = [Suite::Bookworm, Suite::Trixie, Suite::Forky];
    let machines = suites.map(|suite| {
        let machine = Machine::boot(suite);
        machine.allow_containers();
        machine.sh(MULTI);
        machine
    });
    let [old, newer, new] = &machines;
    let mut cargos = vec![
        cargo(old, "20.10"),
        cargo(newer, "26.1"),
        cargo(new, "28.5"),
    ];
    new.sh(IN_CONTAINERD);
    cargos.push(cargo(new, "28.5, containerd"));

    let to = |machine: &Machine, most: u32| {
        machine.put("/lab/came.tar", &cargos[0].archive);
        forget(machine);
        refuses_what_was_changed(machine, "/lab/came.tar");
        for cargo in &cargos {
            let stops = arrives(machine, cargo);
            assert!(stops <= most, "from {}: {stops}", cargo.from);
        }
    };
    to(new, 0);
    new.sh("rm /etc/docker/daemon.json; systemctl restart docker");
    for machine in &machines {
        to(machine, 1);
    }
}
