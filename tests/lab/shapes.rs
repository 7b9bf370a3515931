//! Files with digests in many formats, tried on a real engine: with each file, one command
//! repairs the image.

use serde_json::Value;

use crate::machine::{APP, Machine, Suite};

/// Files that the tools themselves wrote, with the expected trust. All other formats differ
/// only in parsing, which tests/cases covers.
const REAL: [(&str, &str); 29] = [
    ("docker-pull.txt", "asserted"),
    ("docker-push.txt", "asserted"),
    ("images.txt", "matched"),
    ("images-with-prompt.txt", "matched"),
    ("images-crlf.txt", "matched"),
    ("images-utf16.txt", "matched"),
    ("images.jsonl", "matched"),
    ("images-three-columns.txt", "asserted"),
    ("images-in-another-order.txt", "matched"),
    ("images-pin-and-id.txt", "matched"),
    ("images-pins.txt", "asserted"),
    ("images.csv", "asserted"),
    ("inspect.json", "matched"),
    ("inspect-pin.txt", "asserted"),
    ("inspect.json.tgz", "matched"),
    ("repositories.json", "matched"),
    ("export.json", "proven"),
    ("skopeo-inspect.json", "asserted"),
    ("skopeo-raw.json", "proven"),
    ("skopeo-sync.tar", "proven"),
    ("dir.tgz", "proven"),
    ("registry.tgz", "proven"),
    ("ctr-images.txt", "asserted"),
    ("manifest-inspect-v.json", "proven"),
    ("imagetools.txt", "asserted"),
    ("oras-manifest.json", "proven"),
    ("crane-digest.txt", "asserted"),
    ("crane-manifest.json", "proven"),
    ("images-typed", "matched"),
];

/// Files written by hand in the format of tools that the machine does not have.
const WRITTEN: [(&str, &str); 6] = [
    ("podman-images.txt", "matched"),
    ("podman-inspect.json", "matched"),
    ("crictl-images.json", "matched"),
    ("nerdctl-images.txt", "asserted"),
    ("pods.json", "asserted"),
    ("buildx-metadata.json", "matched"),
];

/// The least number of files in [`REAL`] that a machine has: with all tools, and with
/// Docker's own tools only.
const LEAST: usize = 25;
const LEAST_OF_DOCKER: usize = 17;

/// A machine with all files in /src, and the first row of its `docker images --digests`.
fn furnished(suite: Suite, before: &str) -> (Machine, String) {
    let machine = Machine::boot(suite);
    machine.sh(&[before, include_str!("shapes.sh")].concat());
    let listed = String::from_utf8(machine.take("/src/real/images.txt")).unwrap();
    let wide = listed.encode_utf16().flat_map(u16::to_le_bytes);
    let wide: Vec<u8> = [0xff, 0xfe].into_iter().chain(wide).collect();
    machine.put("/src/real/images-utf16.txt", &wide);
    let row = listed.lines().nth(1).unwrap().to_owned();
    (machine, row)
}

/// `docker manifest inspect -v` of 20.10 does not print a manifest's exact bytes.
const WITHOUT_BYTES: (Suite, &str) = (Suite::Bookworm, "real/manifest-inspect-v.json");

/// Runs `command` on each file. Each file must lead to the same digest for the one image.
/// Returns how many files of [`REAL`] were read.
fn each_shape(
    (machine, suite): (&Machine, Suite),
    row: &str,
    (command, code): (&str, i32),
    then: impl Fn(),
) -> usize {
    let reference = format!("{APP}@{}", machine.digest("app"));
    let mut read = 0;
    let real = REAL
        .iter()
        .map(|(file, trust)| (format!("real/{file}"), trust));
    let hand = WRITTEN.iter();
    let hand = hand.map(|(file, trust)| (format!("written/{file}"), trust));
    for (file, trust) in real.chain(hand) {
        let path = format!("/src/{file}");
        let typed = file == "real/images-typed";
        if !typed && machine.run(&["test", "-e", &path]).code != 0 {
            continue;
        }
        let words = match typed {
            true => [command, "--json", row].to_vec(),
            false => [command, "--json", "--from", &path].to_vec(),
        };
        let ran = machine.digestfix(&words);
        assert_eq!(ran.code, code, "{file}\n{}", ran.stdout);
        let document: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        let changes = document["changes"].as_array().expect("changes");
        assert_eq!(changes.len(), 1, "{file}: {changes:?}");
        assert_eq!(changes[0]["reference"], *reference, "{file}");
        let trust = match WITHOUT_BYTES == (suite, file.as_str()) {
            true => "matched",
            false => trust,
        };
        assert_eq!(changes[0]["trust"], trust, "{file}");
        then();
        read += usize::from(file.starts_with("real/"));
    }
    read
}

#[test]
fn every_shape_of_docker_28_5() {
    let (machine, row) = furnished(Suite::Forky, "");
    let reference = format!("{APP}@{}", machine.digest("app"));
    let repaired = each_shape((&machine, Suite::Forky), &row, ("apply", 0), || {
        machine.sh(&format!(
            "docker image inspect {reference} >/dev/null && docker rmi {reference} >/dev/null"
        ));
    });
    assert!(repaired >= LEAST, "{repaired} shapes");
    machine.is_whole();
}

/// Reads what this version of Docker prints, and repairs the image with one of these files.
fn what_docker_prints(suite: Suite) {
    let (machine, row) = furnished(suite, "DOCKER_ALONE=1\n");
    let read = each_shape((&machine, suite), &row, ("plan", 4), || {});
    assert!(read >= LEAST_OF_DOCKER, "{read} shapes");
    machine
        .digestfix(&["apply", "--from", "/src/real/images.txt"])
        .exits(0);
    machine.sh(&format!(
        "docker image inspect {APP}@{} >/dev/null",
        machine.digest("app")
    ));
    machine.is_whole();
}

#[test]
fn what_docker_20_10_prints() {
    what_docker_prints(Suite::Bookworm);
}

#[test]
fn what_docker_26_1_prints() {
    what_docker_prints(Suite::Trixie);
}
