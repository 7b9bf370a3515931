//! Kubernetes nodes: containerd and its CRI, and no Docker. What a kubelet would be told
//! is asked by `cri.py`, which knows nothing of digestfix's own client.

use crate::machine::{APP, Machine, OTHER, Suite, eventually};

const CRI: &str = "/usr/local/bin/cri.py";

/// All that containerd has in the CRI's namespace, without how old it is.
const DUMP: &str = r"for kind in images snapshots leases; do ctr -n k8s.io $kind ls | tr -s ' '; done
    ctr -n k8s.io content ls | awk -F'\t+' '{ print $1, $2, $NF }' | tr ', ' '\n\n' | sort";

/// A node with an image that was imported from `docker save`, and no Docker.
fn node(suite: Suite) -> Machine {
    let machine = Machine::boot(suite);
    machine.put(CRI, include_bytes!("cri.py"));
    machine.sh(&format!(
        "chmod 755 {CRI}
         systemctl stop docker.socket docker.service
         systemctl mask -q docker.socket docker.service
         systemctl restart containerd"
    ));
    // Every host with Docker has such a containerd.
    let refused = machine.digestfix(&["status", "--store", "kubernetes"]);
    let refused = refused.exits(3).stderr;
    assert!(refused.contains("has no namespace k8s.io"), "{refused}");
    let refused = machine.digestfix(&["status"]).exits(3).stderr;
    assert!(refused.contains("docker.service"), "{refused}");
    import(&machine, "app");
    machine
}

fn import(machine: &Machine, name: &str) {
    machine.sh(&format!("ctr -n k8s.io images import /lab/{name}.tar"));
    let id = machine.id(name);
    eventually("the CRI has the image", || {
        cri(machine, "list", "").contains(&id)
    });
    // containerd frees what the import left over when a record is removed.
    machine.sh(&format!(
        "ctr -n k8s.io images tag localhost:5000/lab/{name}:v1 localhost:5000/lab/{name}:gone
         ctr -n k8s.io images rm --sync localhost:5000/lab/{name}:gone"
    ));
}

fn cri(machine: &Machine, what: &str, name: &str) -> String {
    machine.sh(&format!("{CRI} {what} {name}"))
}

/// What a kubelet is told of a digest in both forms that a pod may have.
fn told(machine: &Machine, repository: &str, digest: &str) -> [String; 2] {
    ["@", ":v9@"].map(|form| cri(machine, "status", &format!("{repository}{form}{digest}")))
}

#[track_caller]
fn refuses(machine: &Machine, words: &[&str], expected: &str) {
    let refused = machine.digestfix(words).exits(3).stderr;
    assert!(refused.contains(expected), "{words:?}: {refused}");
    assert!(refused.contains("nothing was touched"), "{refused}");
}

fn is_finished(machine: &Machine) -> bool {
    let left = machine.sh("find /var/lib/digestfix -name journal.json -o -path '*/pending/*'
         systemctl list-units --no-legend --plain 'digestfix-watchdog-*' | grep -v ' failed ' || true");
    left.is_empty()
}

fn whole_way(suite: Suite) -> Machine {
    let mut machine = node(suite);
    let (claim, digest) = (machine.claim("app"), machine.digest("app"));
    let (id, pinned) = (machine.id("app"), format!("{APP}@{digest}"));
    let none = ["none", "none"].map(str::to_owned);
    let here = [id.clone(), id.clone()];
    let status = machine.digestfix(&["status"]).exits(4).stdout;
    assert!(status.contains("Kubernetes node"), "{status}");
    assert!(status.contains("no digest"), "{status}");
    machine.digestfix(&["doctor"]).exits(0);
    assert_eq!(told(&machine, APP, &digest), none);
    // What ctr and crictl show.
    let shown = format!("{APP}:v1");
    let made_up = machine.sh(&format!(
        "ctr -n k8s.io images ls name=={shown} | awk 'END {{ print $3 }}'"
    ));
    refuses(
        &machine,
        &["apply", &format!("{shown}@{made_up}")],
        "made up",
    );
    refuses(&machine, &["apply", "--remove", &shown], "ctr -n k8s.io");
    let plan = machine.digestfix(&["plan", "--json", &claim]).exits(4);
    let document: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(document["method"], "record");
    assert_eq!(document["host"]["image_store"], "kubernetes");
    machine.digestfix(&["verify", &claim]).exits(4);

    let before = machine.sh(DUMP);
    machine.digestfix(&["apply", &claim]).exits(0);
    assert!(is_finished(&machine));
    assert_eq!(told(&machine, APP, &digest), here);
    machine.digestfix(&["verify", &claim]).exits(0);
    let again = machine.digestfix(&["apply", &claim]).exits(0).stdout;
    assert!(again.contains("Nothing to do"), "{again}");
    let status = machine.digestfix(&["status"]).stdout;
    assert!(status.contains("ok, asserted"), "{status}");
    // Nothing but the record is new.
    let after = machine.sh(DUMP);
    let others = after.lines().filter(|line| !line.starts_with(&pinned));
    assert!(others.eq(before.lines()), "{after}");

    machine.sh("systemctl restart containerd");
    assert_eq!(told(&machine, APP, &digest), here);
    machine.reboot(false);
    eventually("containerd answers", || {
        machine.run(&[CRI, "list"]).code == 0
    });
    assert_eq!(told(&machine, APP, &digest), here);
    machine.digestfix(&["rollback"]).exits(0);
    assert_eq!(told(&machine, APP, &digest), none);
    assert_eq!(machine.sh(DUMP), before);

    // By a manifest that proves it.
    import(&machine, "other");
    machine.bring_manifest("other");
    machine
        .digestfix(&["apply", "--from", "/lab/other.manifest"])
        .exits(0);
    let other = machine.digest("other");
    assert_eq!(
        told(&machine, OTHER, &other),
        [machine.id("other"), machine.id("other")]
    );
    let history = machine.digestfix(&["history", "--json"]).exits(0).stdout;
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    let transactions = history["transactions"].as_array().unwrap();
    assert_eq!(transactions.len(), 3);
    assert!(transactions.iter().all(|one| one["method"] == "record"));
    machine
}

/// As a kubelet does, and as people do: digestfix's record keeps nothing from going, and
/// frees nothing that another name leads to.
fn removals(machine: &Machine) {
    let (claim, digest) = (machine.claim("app"), machine.digest("app"));
    let pinned = format!("{APP}@{digest}");
    for name in [machine.id("app"), format!("{APP}:v1"), pinned.clone()] {
        machine.digestfix(&["apply", &claim]).exits(0);
        cri(machine, "remove", &name);
        let images = machine.sh("ctr -n k8s.io images ls -q");
        assert!(!images.contains(APP), "{name}: {images}");
        // Its record is gone with the image, and that is no error.
        refuses(machine, &["verify", &claim], "no reference");
        import(machine, "app");
        assert_eq!(told(machine, APP, &digest)[0], "none");
    }
    machine.digestfix(&["apply", &claim]).exits(0);
    machine.sh(&format!("ctr -n k8s.io images rm --sync {APP}:v1"));
    assert_eq!(told(machine, APP, &digest)[0], machine.id("app"));
    // The image would go with its last record.
    machine.sh(&format!(
        "ctr -n k8s.io images rm --sync {}",
        machine.id("app")
    ));
    refuses(machine, &["rollback"], "last record");
    import(machine, "app");
    machine.digestfix(&["rollback"]).exits(0);
    // From 2.0 on, containerd's transfer service does not heed it.
    let import = format!("--digests --base-name {APP} /lab/app.tar");
    machine.sh(&format!(
        "ctr -n k8s.io images import --local {import} || ctr -n k8s.io images import {import}"
    ));
    eventually("the CRI has the digest", || {
        cri(machine, "list", "").contains(&format!("{APP}@"))
    });
    let status = machine.digestfix(&["status"]).exits(4).stdout;
    assert!(status.contains("an import made up"), "{status}");
    let exported = machine.digestfix(&["export", APP]).exits(0);
    assert!(
        exported.stderr.contains("is left out"),
        "{}",
        exported.stderr
    );
    assert!(!exported.stdout.contains(APP), "{}", exported.stdout);
}

/// Killed at each step that reaches the disk or containerd; the watchdog then brings the
/// node to one of its two states.
fn killed_on_the_way(machine: &Machine) {
    let (claim, digest) = (machine.claim("app"), machine.digest("app"));
    let pinned = format!("{APP}@{digest}");
    let (mut made, mut points) = (0, 0);
    for call in ["fsync", "renameat,rename,renameat2", "unlink,unlinkat"] {
        for count in 1.. {
            let injection = format!("{call}:signal=KILL:when={count}");
            if machine.injected(&injection, &["apply", &claim]).code == 0 {
                break;
            }
            points += 1;
            eventually("somebody brings it to an end", || is_finished(machine));
            let stands = told(machine, APP, &digest)[0] != "none";
            let verified = machine.digestfix(&["verify", &claim]).code;
            assert_eq!(stands, verified == 0, "{call} {count}");
            made += usize::from(stands);
            if stands {
                machine.digestfix(&["apply", "--remove", &pinned]).exits(0);
            }
        }
        machine.digestfix(&["apply", "--remove", &pinned]).exits(0);
    }
    assert!(
        points > 5 && made > 0 && made < points,
        "{made} of {points}"
    );
}

/// Docker is meant where both are, and what the other is about is said.
fn beside_docker(machine: &Machine) {
    machine.sh("systemctl unmask -q docker.socket docker.service; systemctl start docker");
    machine.load("app");
    let status = machine.digestfix(&["status"]).exits(4).stdout;
    assert!(status.contains("docker.service (running"), "{status}");
    assert!(status.contains("--store kubernetes"), "{status}");
    let doctor = machine.digestfix(&["doctor"]).exits(0).stdout;
    assert!(doctor.contains("--store kubernetes"), "{doctor}");
    let of_node = machine.digestfix(&["status", "--store", "kubernetes"]);
    assert!(of_node.stdout.contains("Kubernetes node"));
    refuses(
        machine,
        &[
            "status",
            "--store",
            "kubernetes",
            "--data-root",
            "/var/lib/docker",
        ],
        "--data-root is about Docker's images",
    );
    machine.sh("systemctl stop docker.socket docker.service");
    machine.sh("rm /var/lib/docker/image/overlay2/repositories.json");
    let refused = machine.digestfix(&["status"]).exits(3).stderr;
    assert!(refused.contains("--store kubernetes"), "{refused}");
}

/// Where k3s and RKE2 have their containerd's socket. They themselves are not run.
fn where_k3s_is(machine: &Machine) {
    let socket = "/run/k3s/containerd/containerd.sock";
    machine.sh(&format!(
        "systemctl mask -q docker.socket docker.service
         printf '\\n[grpc]\\n  address = \"{socket}\"\\n' >>/etc/containerd/config.toml
         systemctl restart containerd; rm -f /run/containerd/containerd.sock"
    ));
    let status = machine.digestfix(&["status"]).stdout;
    assert!(status.contains(socket), "{status}");
    let history = machine.digestfix(&["history"]).exits(0).stdout;
    assert!(history.contains("No transaction"), "another's: {history}");
    let claim = machine.claim("app");
    machine.digestfix(&["apply", &claim]).exits(0);
    machine
        .digestfix(&["verify", &claim, "--containerd-socket", socket])
        .exits(0);
}

/// Claims that a fleet brings are made true as on Docker, within the sandbox.
fn by_the_unit(machine: &Machine) {
    let claim = machine.claim("app");
    machine.install_units();
    machine.write("/etc/digestfix/claims.d/app.txt", &format!("{claim}\n"));
    machine.sh("systemctl start digestfix.service");
    assert_eq!(
        told(machine, APP, &machine.digest("app"))[0],
        machine.id("app")
    );
    assert!(is_finished(machine));
}

#[test]
fn containerd_1_6() {
    let machine = whole_way(Suite::Bookworm);
    by_the_unit(&machine);
}

#[test]
fn containerd_1_7() {
    let machine = whole_way(Suite::Trixie);
    removals(&machine);
    beside_docker(&machine);
    where_k3s_is(&machine);
}

#[test]
fn containerd_2_1() {
    let machine = whole_way(Suite::Forky);
    removals(&machine);
    killed_on_the_way(&machine);
}
