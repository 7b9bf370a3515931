//! Claims from files, each written by the tool it comes from, on real engines.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::machine::{Machine, Suite};

const LAB: &str = "localhost:5000/lab";

pub fn furnished(suite: Suite) -> Machine {
    let machine = Machine::boot(suite);
    machine.sh(include_str!("sources.sh"));
    assert_eq!(
        machine.sh("docker images --digests --format '{{.Digest}}' | sort -u"),
        "<none>"
    );
    machine
}

/// `REPOSITORY@DIGEST TRUST` for each change that the output of a run contains.
pub fn changes(text: &str) -> BTreeSet<String> {
    let document: Value = serde_json::from_str(text).expect("JSON");
    let changes = document["changes"].as_array().expect("changes").iter();
    changes
        .map(|change| {
            format!(
                "{} {}",
                change["reference"].as_str().unwrap_or_default(),
                change["trust"].as_str().unwrap_or_default()
            )
        })
        .collect()
}

/// One command with this file adds these references, the engine finds them, and the
/// rollback removes them.
fn repairs(machine: &Machine, file: &str, expected: &[String], trust: &str) {
    let applied = machine.digestfix(&["apply", "--json", "--from", &format!("/src/{file}")]);
    let applied = applied.exits(0);
    let expected_changes: BTreeSet<String> = expected
        .iter()
        .map(|reference| format!("{reference} {trust}"))
        .collect();
    assert_eq!(changes(&applied.stdout), expected_changes, "{file}");
    for reference in expected {
        machine.sh(&format!("docker image inspect {reference} >/dev/null"));
    }
    let status = machine.digestfix(&["status", "--json"]);
    let status: Value = serde_json::from_str(&status.stdout).expect("JSON");
    for row in status["rows"].as_array().expect("rows") {
        let origin = format!("/src/{file}");
        match row["origin"].as_str() {
            None => assert!(row["digest"].is_null(), "{row}"),
            // Some engines keep a manifest longer than its image.
            Some("the engine's content store") => assert_eq!(row["trust"], "proven"),
            Some(from) => {
                assert!(from.starts_with(&origin), "{row}");
                assert_eq!(row["trust"], trust, "{row}");
            }
        }
    }
    machine.sh(&format!("docker rmi {} >/dev/null", expected.join(" ")));
}

fn every_source(suite: Suite) {
    let machine = furnished(suite);
    let digest = |name: &str| machine.sh(&format!("cat /src/{name}.digest"));
    let app = format!("{LAB}/app@{}", digest("app"));
    let oci = format!("{LAB}/oci@{}", digest("oci"));
    let list = format!("{LAB}/multi@{}", digest("list"));
    let amd64 = format!("{LAB}/multi@{}", digest("amd64"));
    let one = |reference: &String| vec![reference.clone()];

    for (file, expected) in [
        ("app.dir", one(&app)),
        ("multi.dir", vec![list.clone(), amd64.clone()]),
        ("oci.tar", one(&oci)),
        ("oci.tar.gz", one(&oci)),
        ("oci.tar.zst", one(&oci)),
        ("oci.layout", one(&oci)),
        ("app.json", one(&app)),
        ("index-and-manifest.json", vec![list.clone(), amd64.clone()]),
        ("export.json", vec![app.clone(), oci.clone(), list.clone()]),
    ] {
        repairs(&machine, file, &expected, "proven");
    }
    for file in ["inspect.json", "other-hosts.json"] {
        let expected = [app.clone(), oci.clone(), list.clone()];
        repairs(&machine, file, &expected, "matched");
    }
    for file in [
        "pins.txt",
        "compose.yaml",
        "chart.yaml",
        "Dockerfile",
        "claims.json",
    ] {
        repairs(&machine, file, &[app.clone(), oci.clone()], "asserted");
    }
    let has = |file: &str| machine.run(&["test", "-e", &format!("/src/{file}")]).code == 0;
    let oras = has("oras.layout");
    assert_eq!(oras, suite != Suite::Bookworm);
    if oras {
        let built = format!("{LAB}/built@{}", digest("built"));
        repairs(&machine, "oras.layout", &one(&oci), "proven");
        repairs(&machine, "oras.json", &one(&oci), "proven");
        repairs(
            &machine,
            "imagetools.json",
            &[list.clone(), amd64.clone()],
            "proven",
        );
        let saved = [app.clone(), oci.clone(), list.clone(), amd64.clone()];
        repairs(&machine, "containerd.tar", &saved, "proven");
        let exported = [app.clone(), oci.clone(), list.clone()];
        repairs(&machine, "containerd-export.json", &exported, "proven");
        repairs(
            &machine,
            "containerd-export-of-one.json",
            &one(&list),
            "proven",
        );
        let inspected = [app.clone(), oci.clone()];
        repairs(&machine, "containerd-inspect.json", &inspected, "asserted");
        repairs(&machine, "buildx.tar", &one(&built), "proven");
    }
    let crane = has("crane.layout");
    assert_eq!(crane, suite == Suite::Forky);
    if crane {
        repairs(&machine, "crane.layout", &one(&oci), "proven");
        repairs(&machine, "crane.json", &one(&oci), "proven");
    }

    what_is_wrong_is_refused(&machine);

    // digestfix reads a pipe that the shell names like any other file.
    machine.sh("bash -c 'digestfix apply --from <(cat /src/app.json)'");
    machine.sh(&format!(
        "docker image inspect {app} >/dev/null; docker rmi {app} >/dev/null"
    ));

    // A file that proves nothing causes a message that says so.
    let saved = machine.digestfix(&["apply", "--from", "/src/carried.tar"]);
    let saved = saved.exits(3).stderr;
    assert!(saved.contains("digestfix export"), "{saved}");

    // A manifest that a tool converted belongs to another image.
    let pin = amd64.replace('@', ":v1@");
    let words = ["apply", &pin, "--require", "proven", "--from"];
    let refused = machine.digestfix(&[&words[..], &["/src/converted.tar"]].concat());
    let refused = refused.exits(3).stderr;
    assert!(refused.contains("inspect --raw"), "{refused}");
    machine
        .digestfix(&[&words[..], &["/src/amd64.json"]].concat())
        .exits(0);
    machine.is_whole();
}

/// Each problem is refused with the two facts that disagree, and Docker keeps running
/// unchanged.
fn what_is_wrong_is_refused(machine: &Machine) {
    let said = |command: &str| machine.sh(command);
    let digest = |name: &str| said(&format!("cat /src/{name}.digest"));
    let id = |name: &str| {
        said(&format!(
            "docker image inspect -f '{{{{.Id}}}}' {LAB}/{name}:v1"
        ))
    };
    let config = said("jq -r .config.digest /src/oci.json");
    let other_config = said(
        "tar xOf /src/swapped-config.tar ./blobs/sha256/$(jq -r .config.digest /src/oci.json | cut -d: -f2) | sha256sum | cut -d' ' -f1",
    );
    let look = || {
        said(
            "systemctl show -p MainPID,InvocationID docker.service
             find /var/lib/docker/image -name 'repositories.json*' -exec sha256sum {} + | sort",
        )
    };
    let before = look();
    for (files, facts) in [
        (&["tampered.tar"][..], [digest("oci"), digest("tampered")]),
        (&["swapped-config.tar"], [config, other_config]),
        (
            &["amd64.json", "of-another.txt"],
            [id("app"), said("jq -r .config.digest /src/amd64.json")],
        ),
        (
            &["pins.txt", "contradicts.yaml"],
            [
                format!("{} (/src/pins.txt:2)", digest("app")),
                format!("{} (/src/contradicts.yaml:1)", digest("list")),
            ],
        ),
    ] {
        let mut words = vec!["apply".to_owned()];
        for file in files {
            words.extend(["--from".to_owned(), format!("/src/{file}")]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let refused = machine.digestfix(&words).exits(3).stderr;
        for fact in facts {
            assert!(refused.contains(&fact), "{fact} in {refused}");
        }
        assert_eq!(look(), before, "{files:?}");
    }
}

#[test]
fn every_source_on_docker_20_10() {
    every_source(Suite::Bookworm);
}

#[test]
fn every_source_on_docker_26_1() {
    every_source(Suite::Trixie);
}

#[test]
fn every_source_on_docker_28_5() {
    every_source(Suite::Forky);
}

/// Host A exports. Host B, which has no network connection to host A, loads and applies.
fn round_trip(there: &Machine, to: Suite, columns: &str, but: &str) {
    there.sh("cd /src; systemctl start docker-registry
              until curl -sf localhost:5000/v2/ >/dev/null; do sleep 0.1; done
              for name in app oci multi other; do docker pull -q localhost:5000/lab/$name:v1; done
              docker tag localhost:5000/lab/app:v1 localhost:5000/lab/alone:v1
              digestfix export >all.json
              docker save -o all.tar $(docker images --format '{{.Repository}}:{{.Tag}}' | grep /lab/ | grep -v -e /other -e /built)");
    let here = Machine::boot(to);
    here.sh("mkdir /src; systemctl start docker");
    for file in ["/src/all.json", "/src/all.tar"] {
        here.put(file, &there.take(file));
    }
    here.sh("docker load -q -i /src/all.tar");

    let applied = here.digestfix(&["apply", "--require", "proven", "--from", "/src/all.json"]);

    // The image lab/other was not carried.
    let said = applied.exits(0).stdout;
    let list = format!(
        "docker images --digests --format '{columns}' | grep /lab/ | grep -v -e /other -e /built {but} | sort"
    );
    assert_eq!(here.sh(&list), there.sh(&list), "{said}");
    let digests = here.sh(&list).matches("@sha256:").count();
    assert_eq!(digests, 3, "{said}");
    here.is_whole();
}

const REFERENCE: &str = "{{.Repository}}:{{.Tag}}@{{.Digest}}";

#[test]
fn an_air_gapped_round_trip() {
    let columns = format!("{REFERENCE} {{{{.ID}}}}");
    for (from, to) in [
        (Suite::Forky, Suite::Bookworm),
        (Suite::Bookworm, Suite::Trixie),
    ] {
        round_trip(&furnished(from), to, &columns, "");
    }
}

/// The IDs of the containerd image store are digests, but the other host has image IDs.
#[test]
fn an_air_gapped_round_trip_from_the_containerd_image_store() {
    for (from, to) in [
        (Suite::Forky, Suite::Bookworm),
        (Suite::Trixie, Suite::Forky),
    ] {
        let there = furnished(from);
        there.write(
            "/etc/docker/daemon.json",
            "{\"features\": {\"containerd-snapshotter\": true}}",
        );
        there.sh("systemctl reset-failed docker.service docker.socket; systemctl restart docker");
        // In this store, a name has a digest even if the image was never pulled.
        round_trip(&there, to, REFERENCE, "-e /alone");
    }
}

#[test]
fn the_claims_that_are_kept_on_the_host() {
    let machine = Machine::boot(Suite::Trixie);
    for name in ["app", "other"] {
        machine.load(name);
    }
    let none = machine.digestfix(&["apply"]).exits(3).stderr;
    assert!(none.contains("/etc/digestfix/claims.d"), "{none}");

    let pin = |name: &str| machine.claim(name) + "\n";
    machine.write("/usr/lib/digestfix/claims.d/10-app.txt", &pin("app"));
    machine.write("/usr/lib/digestfix/claims.d/20-other.txt", &pin("other"));
    // The administrator's file hides the vendor's file of the same name.
    machine.write("/etc/digestfix/claims.d/20-other.txt", "# none of these\n");
    machine.sh("chmod 666 /usr/lib/digestfix/claims.d/10-app.txt");
    let before = machine.store();
    let refused = machine.digestfix(&["apply"]).exits(3).stderr;
    assert!(refused.contains("chmod go-w"), "{refused}");
    machine.sh("chmod 644 /usr/lib/digestfix/claims.d/10-app.txt; chown 1 /etc/digestfix/claims.d");
    let refused = machine.digestfix(&["apply"]).exits(3).stderr;
    assert!(refused.contains("/etc/digestfix/claims.d"), "{refused}");
    assert_eq!(machine.store(), before);

    machine.sh("chown 0 /etc/digestfix/claims.d");
    machine.digestfix(&["apply"]).exits(0);
    assert!(machine.engine_has("app"));
    assert!(!machine.engine_has("other"));
}
