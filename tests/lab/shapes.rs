//! What people carry, in many shapes, against a real engine: one command repairs the image
//! with each.

use serde_json::Value;

use crate::machine::{APP, Machine, Suite};

/// What the tools themselves wrote. What else is read only parses otherwise, and is in
/// tests/cases.
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
    ("images-typed", "asserted"),
];

/// What is written by hand in the shape of other tools.
const WRITTEN: [(&str, &str); 6] = [
    ("podman-images.txt", "matched"),
    ("podman-inspect.json", "matched"),
    ("crictl-images.json", "matched"),
    ("nerdctl-images.txt", "asserted"),
    ("pods.json", "asserted"),
    ("buildx-metadata.json", "matched"),
];

/// At least so many of the real ones are there.
const LEAST: usize = 25;

#[test]
fn every_shape_of_docker_28_5() {
    let machine = Machine::boot(Suite::Forky);
    machine.sh(include_str!("shapes.sh"));
    let listed = String::from_utf8(machine.take("/src/real/images.txt")).unwrap();
    let wide = listed.encode_utf16().flat_map(u16::to_le_bytes);
    let wide: Vec<u8> = [0xff, 0xfe].into_iter().chain(wide).collect();
    machine.put("/src/real/images-utf16.txt", &wide);

    let reference = format!("{APP}@{}", machine.digest("app"));
    let row = listed.lines().nth(1).unwrap();
    let mut repaired = 0;
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
            true => ["apply", "--json", row].to_vec(),
            false => ["apply", "--json", "--from", &path].to_vec(),
        };
        let applied = machine.digestfix(&words);
        assert_eq!(applied.code, 0, "{file}\n{}", applied.stdout);
        let document: Value = serde_json::from_str(&applied.stdout).expect("JSON");
        let changes = document["changes"].as_array().expect("changes");
        assert_eq!(changes.len(), 1, "{file}: {changes:?}");
        assert_eq!(changes[0]["reference"], *reference, "{file}");
        assert_eq!(changes[0]["trust"], *trust, "{file}");
        machine.sh(&format!(
            "docker image inspect {reference} >/dev/null && docker rmi {reference} >/dev/null"
        ));
        repaired += usize::from(file.starts_with("real/"));
    }
    assert!(repaired >= LEAST, "{repaired} shapes");
    machine.is_whole();
}
