//! The containerd image store: the running engine records the references, and nothing
//! stops.

use crate::machine::{self, APP, Machine, Run, Suite, eventually};

/// An image that was loaded, the files that its registry serves (`/served/app`, and the
/// same as separate files), and an index that lists the image's manifest beside a
/// manifest that no registry has. The registry is stopped.
const FURNISH: &str = r#"
  echo '{"features":{"containerd-snapshotter":true}}' >/etc/docker/daemon.json
  systemctl reset-failed docker.service docker.socket 2>/dev/null || true
  systemctl restart docker
  systemctl start docker-registry
  R=localhost:5000/lab
  mkdir /served && cd /served
  until skopeo inspect --raw --tls-verify=false docker://$R/app:v1 >manifest.json 2>/dev/null; do sleep 0.1; done
  for name in app other; do skopeo copy -q --src-tls-verify=false docker://$R/$name:v1 dir:$name; done
  systemctl stop docker-registry
  D=$(cat /lab/app.digest)
  kind=application/vnd.docker.distribution.manifest.v2+json
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s,%s]}' \
    "{\"mediaType\":\"$kind\",\"digest\":\"sha256:$(printf 'a%.0s' $(seq 64))\",\"size\":9,\"platform\":{\"architecture\":\"arm64\",\"os\":\"linux\"}}" \
    "{\"mediaType\":\"$kind\",\"digest\":\"$D\",\"size\":$(stat -c %s manifest.json),\"platform\":{\"architecture\":\"amd64\",\"os\":\"linux\"}}" \
    >index.json
  # For this machine, it has another one.
  jq -cj '.manifests[0].platform.architecture = "amd64" | .manifests[1].platform.architecture = "386"' index.json >better.json
  jq -n --arg d "$D" --arg r "$R/app@$D" --arg i "$(cat /lab/app.id)" --arg m "$(cat manifest.json) " \
    '{digestfix_claims: 1, claims: [{reference: $r, image_id: $i}], manifests: {($d): $m}}' >tampered.json
  docker load -q -i /lab/app.tar
"#;

pub fn furnished(suite: Suite) -> Machine {
    let machine = Machine::boot(suite);
    machine.allow_containers();
    machine.sh(FURNISH);
    machine
}

fn run_by(machine: &Machine, reference: &str) -> Run {
    machine.run(&["docker", "run", "--rm", "--network", "none", reference])
}

#[track_caller]
fn runs_by(machine: &Machine, references: &[&str]) {
    for reference in references {
        let said = run_by(machine, reference).exits(0).stdout;
        assert_eq!(said.trim(), "hello from app", "{reference}");
    }
}

#[track_caller]
fn refuses(machine: &Machine, words: &[&str], expected: &str) -> Run {
    machine::refuses(machine, words, &[expected])
}

fn whole_way(suite: Suite) {
    let mut machine = furnished(suite);
    let tag = format!("{APP}:v1");
    let pinned = format!("{APP}@{}", machine.digest("app"));
    let of_index = format!(
        "{APP}@sha256:{}",
        machine.sh("sha256sum </served/index.json | cut -c1-64")
    );
    let from = ["--from", "/served/app"];
    // `docker events` omits the events of the present second.
    let loads = |machine: &Machine| {
        let events = machine.sh("sleep 1.1; docker events --since 1h --until 0s");
        events.matches("image load").count()
    };

    let status = machine.digestfix(&["status"]).exits(4).stdout;
    assert!(status.contains("no digest"), "{status}");
    let before = loads(&machine);
    assert!(before > 0);
    refuses(
        &machine,
        &["apply", &machine.claim("app")],
        "skopeo inspect --raw",
    );
    refuses(
        &machine,
        &["apply", "--from", "/served/tampered.json"],
        "TAMPERED WITH",
    );
    refuses(&machine, &["apply", "--remove", &tag], "docker rmi");
    refuses(
        &machine,
        &[
            "apply",
            "--from",
            "/served/better.json",
            "--from",
            "/served/manifest.json",
        ],
        "Docker would choose another image",
    );
    for command in ["plan", "apply", "verify"] {
        let elsewhere = ["--containerd-root", "/nowhere"];
        let words = [&[command], &from[..], &elsewhere].concat();
        refuses(&machine, &words, "finds none of them");
    }
    // The digest that `docker images` shows.
    let made_up = machine.sh(&format!("docker image inspect -f '{{{{.Id}}}}' {tag}"));
    refuses(&machine, &["apply", &format!("{tag}@{made_up}")], "made up");
    machine.digestfix(&["verify", from[0], from[1]]).exits(4);
    let plan = machine
        .digestfix(&["plan", "--json", from[0], from[1]])
        .exits(4);
    let document: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
    assert_eq!(document["method"], "load");
    assert_eq!(document["host"]["image_store"], "containerd");
    assert!(
        document["warnings"][0]
            .as_str()
            .unwrap()
            .contains("docker save")
    );
    assert_eq!(loads(&machine), before, "nothing was loaded");

    docker_is_not_taken_in(&machine, &pinned);
    let processes = "systemctl show -p MainPID,ExecMainStartTimestampMonotonic docker containerd";
    let before = machine.sh(processes);
    machine.digestfix(&["apply", from[0], from[1]]).exits(0);
    runs_by(&machine, &[&pinned]);
    let files = [
        "--from",
        "/served/index.json",
        "--from",
        "/served/manifest.json",
    ];
    machine
        .digestfix(&[&["apply"][..], &files].concat())
        .exits(0);
    machine.is_whole();
    assert_eq!(machine.sh(processes), before);
    runs_by(&machine, &[&pinned, &of_index, &tag]);
    let again = machine
        .digestfix(&[&["apply"][..], &files].concat())
        .exits(0);
    assert!(again.stdout.contains("Nothing to do"), "{}", again.stdout);
    let status = machine.digestfix(&["status"]).stdout;
    assert_eq!(status.matches("runs only,").count(), 2, "{status}");

    says_the_same_without_containerd(&machine, &status, &files);

    machine.sh("docker image prune -f; systemctl restart containerd docker; docker image prune -f");
    runs_by(&machine, &[&pinned, &of_index]);
    machine.reboot(false);
    machine.allow_containers();
    runs_by(&machine, &[&pinned, &of_index]);
    machine
        .digestfix(&[&["verify"][..], &files].concat())
        .exits(0);
    // Only the digest still points at the image.
    machine.sh(&format!("docker rmi {tag}; docker image prune -f"));
    runs_by(&machine, &[&pinned, &of_index]);
    machine.sh(&format!("docker create -q --name user {of_index}"));
    let failed = machine.digestfix(&["rollback"]).exits(1);
    let says = "using its referenced image";
    assert!(failed.stderr.contains(says), "{}", failed.stderr);
    machine.is_whole();
    machine.types(&failed.next("docker rm ")).exits(0);
    runs_by(&machine, &[&pinned, &of_index]);
    machine.digestfix(&["rollback"]).exits(0);
    assert_ne!(run_by(&machine, &of_index).code, 0);
    runs_by(&machine, &[&pinned]);
    refuses(&machine, &["rollback"], "last reference");
    machine.sh("docker load -q -i /lab/app.tar");
    machine.digestfix(&["rollback"]).exits(0);
    assert_ne!(run_by(&machine, &pinned).code, 0);
    runs_by(&machine, &[&tag]);
    let history = machine.digestfix(&["history", "--json"]).exits(0).stdout;
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    let transactions = history["transactions"].as_array().unwrap();
    assert_eq!(transactions.len(), 5);
    assert!(transactions.iter().all(|one| one["method"] == "load"));

    if suite == Suite::Forky {
        killed_on_the_way(&machine, &pinned);
    }
    an_image_that_is_not_unpacked(&machine);
    what_was_pulled(&machine, &pinned);

    machine.sh("systemctl stop docker.socket docker.service");
    refuses(&machine, &["status"], "systemctl start docker.service");
    // The state of a newly installed Docker 29: no configuration, and no images.
    machine.sh("rm -r /etc/docker/daemon.json /var/lib/docker/image");
    for command in ["status", "plan", "recover"] {
        let claim = machine.claim("app");
        let words = [
            &[command][..],
            &[claim.as_str()][..usize::from(command == "plan")],
        ]
        .concat();
        refuses(&machine, &words, "systemctl start docker.service");
    }
}

/// If digestfix cannot reach containerd, it asks the engine.
fn says_the_same_without_containerd(machine: &Machine, status: &str, files: &[&str]) {
    let alone = |words: &[&str]| {
        let hidden =
            "mount --bind /dev/null /run/containerd/containerd.sock; exec digestfix \"$@\"";
        machine.run(&[&["unshare", "-m", "sh", "-ec", hidden, "sh"], words].concat())
    };
    assert_eq!(alone(&["status"]).stdout, status);
    alone(&[&["verify"][..], files].concat()).exits(0);
    let files = files.join(" ");
    let calls = format!("strace -f -qq -e trace=connect -o /run/calls digestfix verify {files}");
    machine.sh(&format!("{calls}; grep containerd.sock /run/calls"));
}

/// If no other program checks a manifest that was tampered with, the engine ignores the
/// claimed digest and stores the manifest under its true hash. digestfix does not rely on
/// the engine's message, which says that the image was loaded or, in 28.5, that it
/// exists.
fn docker_is_not_taken_in(machine: &Machine, pinned: &str) {
    machine.sh(&format!(
        r#"mkdir -p /tampered/blobs/sha256 && cd /tampered
           blob=blobs/sha256/$(cut -d: -f2 /lab/app.digest)
           {{ cat /served/manifest.json; echo; }} >$blob
           echo '{{"imageLayoutVersion":"1.0.0"}}' >oci-layout
           jq -n --arg digest $(cat /lab/app.digest) --argjson size $(stat -c %s $blob)              '{{schemaVersion: 2, manifests: [{{$digest, $size,
                mediaType: "application/vnd.docker.distribution.manifest.v2+json",
                annotations: {{"io.containerd.image.name": "{pinned}"}}}}]}}' >index.json
           tar -cf /tampered.tar *"#
    ));
    let loaded = machine.run(&["docker", "load", "-i", "/tampered.tar"]);
    assert!(loaded.stdout.contains(pinned), "{loaded:?}");
    assert_ne!(run_by(machine, pinned).code, 0);
    machine
        .digestfix(&["verify", "--from", "/served/app"])
        .exits(4);
    machine.sh(&format!("ctr -n moby images rm {pinned}"));
}

/// Kills an apply at each step that reaches the disk or the engine. The watchdog then
/// brings the host to one of its two valid states.
fn killed_on_the_way(machine: &Machine, pinned: &str) {
    let apply = ["apply", "--from", "/served/app"];
    let (mut made, mut points) = (0, 0);
    for call in ["fsync", "renameat,rename,renameat2", "unlink,unlinkat"] {
        for count in 1.. {
            let killed = machine.injected(&format!("{call}:signal=KILL:when={count}"), &apply);
            if killed.code == 0 {
                break;
            }
            points += 1;
            eventually("somebody brings it to an end", || machine.is_finished());
            machine.is_whole();
            let stands = run_by(machine, pinned).code == 0;
            let verified = machine.digestfix(&["verify", apply[1], apply[2]]).code;
            assert_eq!(stands, verified == 0, "{call} {count}");
            made += usize::from(stands);
            if stands {
                machine.digestfix(&["apply", "--remove", pinned]).exits(0);
            }
        }
        machine.digestfix(&["apply", "--remove", pinned]).exits(0);
    }
    assert!(
        points > 5 && made > 0 && made < points,
        "{made} of {points}"
    );
}

/// Only the engine knows that an image has a name but was never unpacked. digestfix
/// undoes the references that the engine recorded before it failed.
fn an_image_that_is_not_unpacked(machine: &Machine) {
    machine.sh("ctr -n moby images import --no-unpack /lab/other.tar");
    let before = machine.sh("ctr -n moby images ls -q");
    assert!(before.contains("lab/other:v1"), "{before}");
    let failed = machine
        .digestfix(&["apply", "--from", "/served/other"])
        .exits(1)
        .stderr;
    assert!(failed.contains("npack"), "{failed}");
    assert!(
        failed.contains("the references are as they were"),
        "{failed}"
    );
    machine.is_whole();
    assert_eq!(machine.sh("ctr -n moby images ls -q"), before);
}

/// Manifests of 2015 to 2017 have a config without a type. A pull rewrites them.
fn a_config_of_an_old_type(machine: &Machine) {
    let digest = machine.sh(&format!(
        r#"cd /served
           jq -cj '.config.mediaType = "application/octet-stream"' manifest.json >old.json
           until curl -sf -X PUT --data-binary @old.json \
             -H 'Content-Type: application/vnd.docker.distribution.manifest.v2+json' \
             localhost:5000/v2/lab/app/manifests/old; do sleep 0.1; done
           mkdir -p /etc/containers/registries.conf.d
           printf '[[registry]]\nlocation = "localhost:5000"\ninsecure = true\n' \
             >/etc/containers/registries.conf.d/lab.conf
           docker rmi -f $(docker images -q {APP}) >&2
           docker load -q -i /lab/app.tar >&2
           sha256sum <old.json | cut -c1-64"#
    ));
    let apply = ["apply", "--from", "/served/old.json"];
    let refused = refuses(machine, &apply, "unpacks no layers");
    for begins in ["skopeo copy", "docker load"] {
        let line = refused.next(begins);
        machine.types(&format!("cd /root; {line}")).exits(0);
    }
    machine.digestfix(&apply).exits(0);
    runs_by(machine, &[&format!("{APP}@sha256:{digest}")]);
}

/// digestfix does not remove the last reference to a pulled image: it could not restore
/// the layers, and `docker save` by this reference would write an empty archive. Docker
/// itself removes what digestfix does not.
fn what_was_pulled(machine: &Machine, pinned: &str) {
    let (tag, remove) = (format!("{APP}:v1"), ["apply", "--remove", pinned]);
    machine.sh("systemctl start docker-registry");
    a_config_of_an_old_type(machine);
    machine.sh(&format!(
        "ctr -n moby images rm --sync $(ctr -n moby images ls -q)
         until docker pull -q {tag}; do sleep 0.2; done"
    ));
    let refused = refuses(machine, &remove, "Docker would drop both together");
    machine.types(&refused.next("docker rmi")).exits(0);
    assert_eq!(machine.sh(&format!("docker images -q {APP}")), "");
    machine.sh(&format!(
        "docker pull -q {pinned}
         systemctl stop docker-registry
         docker load -q -i /lab/app.tar"
    ));
    let status = machine.digestfix(&["status"]).stdout;
    assert!(status.contains("ok"), "{status}");
    assert!(!status.contains("runs only"), "{status}");
    let refused = refuses(
        machine,
        &remove,
        "only this reference keeps the layers of its image",
    );
    machine.types(&refused.next("docker rmi")).exits(0);
    assert_ne!(run_by(machine, pinned).code, 0);
    machine
        .digestfix(&["apply", "--from", "/served/app"])
        .exits(0);
    let refused = refuses(machine, &["apply", "--remove", &tag], "docker rmi");
    machine.types(&refused.next("docker rmi")).exits(0);
    let refused = refuses(machine, &remove, "last reference");
    machine.types(&refused.next("docker rmi")).exits(0);
    assert_eq!(machine.sh(&format!("docker images -q {APP}")), "");

    machine.sh("docker load -q -i /lab/app.tar");
    let made_up = machine.sh(&format!("docker image inspect -f '{{{{.Id}}}}' {tag}"));
    let refused = refuses(machine, &["apply", &format!("{tag}@{made_up}")], "made up");
    machine.types(&refused.next("digestfix apply")).exits(0);
    runs_by(machine, &[&format!("{APP}@{made_up}")]);
    let further = format!("{APP}:v2");
    let refused = refuses(
        machine,
        &["apply", &format!("{further}={tag}")],
        "docker tag",
    );
    machine.types(&refused.next("docker tag")).exits(0);
    runs_by(machine, &[&further]);
}

#[test]
fn docker_26_1() {
    whole_way(Suite::Trixie);
}

#[test]
fn docker_28_5() {
    whole_way(Suite::Forky);
}
