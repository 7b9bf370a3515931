//! Kubernetes nodes: containerd and its CRI, without Docker. `cri.py` asks the CRI what
//! it would tell a kubelet, independently of digestfix's own client.

use crate::machine::{self, APP, Machine, OTHER, Run, Suite, eventually};
use crate::sources::{changes, furnished};

const CRI: &str = "/usr/local/bin/cri.py";

/// Prints everything that containerd has in the CRI's namespace, without ages.
const DUMP: &str = r"for kind in images snapshots leases; do ctr -n k8s.io $kind ls | tr -s ' '; done
    ctr -n k8s.io content ls | awk -F'\t+' '{ print $1, $2, $NF }' | tr ', ' '\n\n' | sort";

const NETWORK: &str = r#"{"cniVersion": "0.4.0", "name": "lab", "type": "bridge", "bridge": "cni0",
 "ipam": {"type": "host-local", "subnet": "10.88.0.0/16"}}"#;

const PAUSE: &str =
    "FROM scratch\nCOPY busybox /busybox\nCMD [\"/busybox\",\"sleep\",\"1000000\"]\n";

/// A machine may lack the CPU controller, and cannot lower an OOM score.
const RUNC: &str = r#"#!/bin/sh
for word; do
  [ "$before" != --bundle ] || file=$word/config.json
  before=$word
done
if [ -n "$file" ]; then
  jq 'del(.linux.resources, .process.oomScoreAdj)' "$file" >"$file.new" && mv "$file.new" "$file"
fi
exec /usr/sbin/runc "$@"
"#;

/// A node without Docker, and with an image that was imported from an archive of `docker
/// save`.
fn node(suite: Suite) -> Machine {
    let machine = Machine::boot(suite);
    machine.put(CRI, include_bytes!("cri.py"));
    can_run_pods(&machine);
    machine.sh(&format!(
        "chmod 755 {CRI}
         systemctl stop docker.socket docker.service
         systemctl mask -q docker.socket docker.service
         systemctl restart containerd"
    ));
    // Every host with Docker has a containerd, but without the CRI's namespace.
    let refused = machine.digestfix(&["status", "--store", "kubernetes"]);
    let refused = refused.exits(3).stderr;
    assert!(refused.contains("has no namespace k8s.io"), "{refused}");
    let refused = machine.digestfix(&["status"]).exits(3).stderr;
    assert!(refused.contains("docker.service"), "{refused}");
    import(&machine, "app");
    machine.sh("ctr -n k8s.io images import /root/pause.tar");
    machine
}

fn import(machine: &Machine, name: &str) {
    machine.sh(&format!("ctr -n k8s.io images import /lab/{name}.tar"));
    let id = machine.id(name);
    eventually("the CRI has the image", || {
        cri(machine, "list", "").contains(&id)
    });
    // When a record is removed, containerd frees the content that the import no longer
    // needs.
    machine.sh(&format!(
        "ctr -n k8s.io images tag localhost:5000/lab/{name}:v1 localhost:5000/lab/{name}:gone
         ctr -n k8s.io images rm --sync localhost:5000/lab/{name}:gone"
    ));
}

fn cri(machine: &Machine, what: &str, name: &str) -> String {
    machine.sh(&format!("{CRI} {what} {name}"))
}

/// Prepares what pods need: a network, and an image whose container waits, built on this
/// machine.
fn can_run_pods(machine: &Machine) {
    machine.allow_containers();
    machine.write("/etc/cni/net.d/10-lab.conf", NETWORK);
    machine.write("/usr/local/bin/runc", RUNC);
    machine.write("/root/pause/Dockerfile", PAUSE);
    machine.sh(r#"chmod 755 /usr/local/bin/runc
           cp /bin/busybox /root/pause
           DOCKER_BUILDKIT=0 docker build -q -t lab.example/pause:1 /root/pause >/dev/null
           docker save -o /root/pause.tar lab.example/pause:1
           sed -i 's|^ *\[plugins."io.containerd.grpc.v1.cri"\]$|&\nsandbox_image = "lab.example/pause:1"|' /etc/containerd/config.toml
           grep -q pause /etc/containerd/config.toml"#);
}

/// Runs a pod, and returns the output of its containers, or the error if the pod does not
/// run.
fn pod(machine: &Machine, names: &[&str]) -> Result<String, String> {
    let run = machine.run(&[&[CRI, "pod"], names].concat());
    match run.code {
        0 => Ok(run.stdout.trim().to_owned()),
        _ => Err(run.stderr),
    }
}

/// What the CRI tells a kubelet about a digest, in both forms that a pod may contain.
fn told(machine: &Machine, repository: &str, digest: &str) -> [String; 2] {
    ["@", ":v9@"].map(|form| cri(machine, "status", &format!("{repository}{form}{digest}")))
}

#[track_caller]
fn refuses(machine: &Machine, words: &[&str], expected: &str) -> Run {
    machine::refuses(machine, words, &[expected])
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
    // The references that ctr and crictl show.
    let pins = [pinned.as_str(), claim.as_str()];
    for pin in pins {
        let refused = pod(&machine, &[pin]).unwrap_err();
        assert!(refused.contains("not found"), "{refused}");
    }
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
    refuses(
        &machine,
        &["load", "/lab/app.tar"],
        "images import /lab/app.tar; then: digestfix apply",
    );
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
    // The record is the only addition.
    let after = machine.sh(DUMP);
    let others = after.lines().filter(|line| !line.starts_with(&pinned));
    assert!(others.eq(before.lines()), "{after}");

    let said = "hello from app\nhello from app";
    assert_eq!(pod(&machine, &pins).as_deref(), Ok(said));
    machine.sh("systemctl restart containerd");
    assert_eq!(told(&machine, APP, &digest), here);
    machine.reboot(false);
    eventually("containerd answers", || {
        machine.run(&[CRI, "list"]).code == 0
    });
    assert_eq!(told(&machine, APP, &digest), here);
    machine.allow_containers();
    assert_eq!(pod(&machine, &pins).as_deref(), Ok(said));
    machine.digestfix(&["rollback"]).exits(0);
    assert_eq!(told(&machine, APP, &digest), none);
    assert_eq!(machine.sh(DUMP), before);

    // The digest with a manifest that proves it.
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

/// Removes images as a kubelet does and as users do. digestfix's record does not prevent
/// a removal, and removing it frees nothing that has another name.
fn removals(machine: &Machine) {
    let (claim, digest) = (machine.claim("app"), machine.digest("app"));
    let pinned = format!("{APP}@{digest}");
    for name in [machine.id("app"), format!("{APP}:v1"), pinned.clone()] {
        machine.digestfix(&["apply", &claim]).exits(0);
        cri(machine, "remove", &name);
        let images = machine.sh("ctr -n k8s.io images ls -q");
        assert!(!images.contains(APP), "{name}: {images}");
        // The record was removed with the image, which is not an error.
        refuses(machine, &["verify", &claim], "is not on this host");
        import(machine, "app");
        assert_eq!(told(machine, APP, &digest)[0], "none");
    }
    machine.digestfix(&["apply", &claim]).exits(0);
    machine.sh(&format!("ctr -n k8s.io images rm --sync {APP}:v1"));
    assert_eq!(told(machine, APP, &digest)[0], machine.id("app"));
    // Removing the image's last record would also remove the image.
    machine.sh(&format!(
        "ctr -n k8s.io images rm --sync {}",
        machine.id("app")
    ));
    refuses(machine, &["rollback"], "last record");
    import(machine, "app");
    machine.digestfix(&["rollback"]).exits(0);
    ctr_does_the_rest(machine);
    // containerd's transfer service (since 2.0) ignores `--digests`.
    let import = format!("--digests --base-name {APP} /lab/app.tar");
    machine.sh(&format!(
        "ctr -n k8s.io images import --local {import} || ctr -n k8s.io images import {import}"
    ));
    eventually("the CRI has the digest", || {
        cri(machine, "list", "").contains(&format!("{APP}@"))
    });
    let status = machine.digestfix(&["status"]).exits(4).stdout;
    assert!(status.contains("x made up"), "{status}");
    let exported = machine.digestfix(&["export", APP]).exits(3);
    assert!(
        exported.stderr.contains("is not exported"),
        "{}",
        exported.stderr
    );
    assert!(!exported.stdout.contains(APP), "{}", exported.stdout);
    let made_up = machine.sh(&format!("ctr -n k8s.io images ls -q | grep '^{APP}@'"));
    types(machine, &["apply", "--remove", &made_up], "ctr ");
    machine.sh(&format!("! ctr -n k8s.io images ls -q | grep '^{APP}@'"));
}

/// Types the command that a refusal advises.
#[track_caller]
fn types(machine: &Machine, words: &[&str], begins: &str) {
    let refused = refuses(machine, words, begins);
    machine.types(&refused.next(begins)).exits(0);
}

/// Does with ctr what digestfix refuses to do, as the refusals advise.
fn ctr_does_the_rest(machine: &Machine) {
    let (claim, digest) = (machine.claim("app"), machine.digest("app"));
    let (tag, pinned) = (format!("{APP}:v1"), format!("{APP}@{digest}"));
    let names = || machine.sh("ctr -n k8s.io images ls -q");
    let made_up = machine.sh(&format!(
        "ctr -n k8s.io images ls name=={tag} | awk 'END {{ print $3 }}'"
    ));
    let claim_made_up = format!("{tag}@{made_up}");
    types(machine, &["apply", &claim_made_up], "digestfix apply");
    assert!(names().contains(&made_up));
    machine.digestfix(&["rollback"]).exits(0);

    machine.digestfix(&["apply", &claim]).exits(0);
    let other = format!("{pinned}={OTHER}:v1");
    types(
        machine,
        &["apply", "--replace", &other],
        "digestfix apply --remove",
    );
    assert!(!names().contains(&pinned));

    types(machine, &["apply", &format!("{APP}:v2={tag}")], "ctr ");
    assert!(names().contains(&format!("{APP}:v2")));
    types(
        machine,
        &["apply", "--remove", &format!("{APP}:v2")],
        "ctr ",
    );
    assert!(!names().contains(&format!("{APP}:v2")));

    machine.digestfix(&["apply", &claim]).exits(0);
    machine.sh(&format!(
        "ctr -n k8s.io images rm --sync {tag} {}",
        machine.id("app")
    ));
    types(machine, &["rollback"], "ctr ");
    assert!(!names().contains(APP));
    import(machine, "app");
}

/// Kills an apply at each step that reaches the disk or containerd. The watchdog then
/// brings the node to one of its two valid states.
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

/// Delays an apply at the third rename. At that point the journal exists, and digestfix
/// has not sent a request to containerd.
const BEFORE_THE_RECORD: &str = "rename,renameat,renameat2:delay_exit=2000000:when=3";

/// Delays an apply before it logs that the record exists. Its next call goes to the CRI.
const AFTER_THE_RECORD: &str = "sendto:delay_enter=2000000:when=6";

/// Runs an apply with this delay, and runs a script during the delay.
fn meanwhile(machine: &Machine, waits: &str, script: &str) -> Run {
    let beside = machine.background(&format!(
        "for _ in $(seq 200); do
           ! find /var/lib/digestfix -name journal.json | grep -q . || break
           sleep 0.02
         done
         sleep 0.5; {script}"
    ));
    let run = machine.injected(waits, &["apply", &machine.claim("app")]);
    beside.wait().exits(0);
    run
}

/// containerd restarts, or another client removes the record, while an apply runs.
fn others_on_the_way(machine: &Machine) {
    let digest = machine.digest("app");
    let before = machine.sh(DUMP);
    let removes = format!("ctr -n k8s.io images rm --sync {APP}@{digest}");
    let restarts = "systemctl restart containerd";
    for (waits, script) in [
        (BEFORE_THE_RECORD, restarts),
        (AFTER_THE_RECORD, restarts),
        (AFTER_THE_RECORD, removes.as_str()),
    ] {
        let run = meanwhile(machine, waits, script);
        let step = format!("{waits} {script}: {} {}", run.code, run.stderr);
        assert!(is_finished(machine), "{step}");
        let stands = told(machine, APP, &digest)[0] != "none";
        assert_eq!(run.code, i32::from(!stands), "{step}");
        let is_removed = script == removes;
        assert_eq!(is_removed, run.stderr.contains("another client"), "{step}");
        if is_removed {
            let shown = machine.types(&run.next("systemctl status containerd"));
            assert!(shown.exits(0).stdout.contains("active (running)"));
        }
        if stands {
            machine.digestfix(&["rollback"]).exits(0);
        }
        assert_eq!(machine.sh(DUMP), before, "{step}");
    }
}

/// Each kind of source creates records for the images on this node, and each can be
/// undone.
fn every_source(suite: Suite) {
    let machine = furnished(suite);
    machine.put(CRI, include_bytes!("cri.py"));
    machine.sh(&format!(
        "chmod 755 {CRI}
         systemctl stop docker.socket docker.service
         systemctl mask -q docker.socket docker.service
         ctr -n k8s.io images import /src/carried.tar"
    ));
    let lab = APP.trim_end_matches("/app");
    let reference = |name: &str, of: &str| {
        let digest = machine.sh(&format!("cat /src/{of}.digest"));
        (format!("{lab}/{name}@{digest}"), format!("{lab}/{name}:v1"))
    };
    let (app, oci) = (reference("app", "app"), reference("oci", "oci"));
    let (list, amd64) = (reference("multi", "list"), reference("multi", "amd64"));
    eventually("the CRI has the images", || {
        [&app, &oci, &list]
            .iter()
            .all(|(_, tag)| cri(&machine, "status", tag) != "none")
    });
    let pins = "pins.txt compose.yaml chart.yaml Dockerfile claims.json".split(' ');
    let pins = pins.map(|file| (file, vec![&app, &oci], "asserted"));
    for (file, expected, trust) in [
        ("app.json", vec![&app], "proven"),
        ("app.dir", vec![&app], "proven"),
        ("multi.dir", vec![&list, &amd64], "proven"),
        ("oci.tar", vec![&oci], "proven"),
        ("oci.tar.zst", vec![&oci], "proven"),
        ("oci.layout", vec![&oci], "proven"),
        ("containerd.tar", vec![&app, &oci, &list, &amd64], "proven"),
        ("index-and-manifest.json", vec![&list, &amd64], "proven"),
        ("export.json", vec![&app, &oci, &list], "proven"),
        ("inspect.json", vec![&app, &oci, &list], "matched"),
        ("images.txt", vec![&app, &oci, &list], "matched"),
        ("other-hosts.json", vec![&app, &oci, &list], "matched"),
    ]
    .into_iter()
    .chain(pins)
    {
        let applied = machine.digestfix(&["apply", "--json", "--from", &format!("/src/{file}")]);
        let expected_changes = expected
            .iter()
            .map(|(pin, _)| format!("{pin} {trust}"))
            .collect();
        assert_eq!(
            changes(&applied.exits(0).stdout),
            expected_changes,
            "{file}"
        );
        for (pin, tag) in &expected {
            assert_eq!(
                cri(&machine, "status", pin),
                cri(&machine, "status", tag),
                "{file}"
            );
        }
        machine.digestfix(&["rollback"]).exits(0);
        for (pin, _) in &expected {
            assert_eq!(cri(&machine, "status", pin), "none", "{file}");
        }
    }
    machine.sh("mkdir -p /etc/digestfix/claims.d; cp /src/chart.yaml /etc/digestfix/claims.d");
    machine.digestfix(&["apply"]).exits(0);
    assert_eq!(
        cri(&machine, "status", &oci.0),
        cri(&machine, "status", &oci.1)
    );
    let exported = machine.digestfix(&["export"]).exits(0).stdout;
    assert!(
        exported.contains(&app.0) && exported.contains(&oci.0),
        "{exported}"
    );
}

/// If a host has both Docker and a node's containerd, a command is about Docker, and
/// names the option for the other.
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
        "--data-root is for images of Docker",
    );
    machine.sh("systemctl stop docker.socket docker.service");
    machine.sh("rm -r /var/lib/docker/image");
    let refused = machine.digestfix(&["status"]).exits(3);
    let line = refused.next("digestfix status --store kubernetes");
    let of_node = machine.types(&line).exits(4);
    assert!(of_node.stdout.contains("Kubernetes node"));
}

/// Moves containerd's socket and directories to where k3s and RKE2 have them. Does not run
/// k3s or RKE2 themselves.
fn where_k3s_is(machine: &Machine) {
    let socket = "/run/k3s/containerd/containerd.sock";
    let root = "/var/lib/rancher/k3s/agent/containerd";
    machine.sh(&format!(
        "systemctl mask -q docker.socket docker.service
         systemctl stop containerd; rm -f /run/containerd/containerd.sock
         mkdir -p {root}; mount --bind /var/lib/containerd {root}
         sed -i '/^root\\|^state/d; 1i root = \"{root}\"\\nstate = \"/run/k3s/containerd\"' /etc/containerd/config.toml
         printf '\\n[grpc]\\n  address = \"{socket}\"\\n' >>/etc/containerd/config.toml
         systemctl start containerd"
    ));
    let status = machine.digestfix(&["status"]).stdout;
    assert!(status.contains(socket), "{status}");
    let history = machine.digestfix(&["history"]).exits(0).stdout;
    assert!(history.contains("No transaction"), "another's: {history}");
    let claim = machine.claim("app");
    machine
        .digestfix(&["apply", "--metrics", "/root/digestfix.prom", &claim])
        .exits(0);
    machine
        .digestfix(&["verify", &claim, "--containerd-socket", socket])
        .exits(0);
    machine.sh("grep -q '^digestfix_references [1-9]' /root/digestfix.prom");
    let pinned = format!("{APP}@{}", machine.digest("app"));
    let completed = machine.sh(&format!(
        "_DIGESTFIX_COMPLETE=fish digestfix -- digestfix verify {APP}@"
    ));
    let mut offered = completed.lines();
    assert!(offered.any(|one| one == pinned), "{completed}");
}

/// The unit applies claims that a fleet tool installed, just as on Docker, and within its
/// sandbox.
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
    others_on_the_way(&machine);
}

#[test]
fn every_source_on_a_node() {
    every_source(Suite::Trixie);
}
