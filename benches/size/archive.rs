//! Measures reading OCI archives: of one image with a layer of any size, and of many
//! images.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use digestfix::digest::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::contest::{Answer, Contest, Contestant, Effort, head};
use crate::measure::Place;
use crate::peers::{Peers, command, script};

const LAYERS: [(&str, u64); 3] = [("10 MB", 10 << 20), ("1 GB", 1 << 30), ("10 GB", 10 << 30)];
const IMAGES: usize = 10_000;

/// Unpacks an archive, and checks that each blob has its digest as its name.
const UNPACK: &str = r#"
    mkdir "$2"; tar -xf "$1" -C "$2"; cd "$2/blobs/sha256"
    find . -type f -print0 | xargs -0 sha256sum | awk '"./" $1 != $2 { exit 1 } END { exit NR == 0 }'
    cat ../../index.json"#;

/// Measures archives with layers of increasing size, and archives with more and more
/// images.
pub fn run(peers: &Peers, effort: Effort) {
    let directory = peers.inputs.join("archives");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir(&directory).unwrap();
    let archive = directory.join("image.tar");

    head("An OCI archive of one image", true);
    for (name, layer) in LAYERS {
        let root = write(&archive, 1, Some(layer));
        let mut contestants = ours(peers, &archive, &root);
        let file = archive.to_str().unwrap();
        contestants.push(Contestant::new(
            "tar -xO index.json",
            command(Path::new("tar"), &["-xOf", file, "index.json"]),
            index,
        ));
        contestants.push(Contestant::new(
            "skopeo inspect",
            skopeo(&directory, file),
            |manifest: &[u8]| vec![Digest::of(Algorithm::Sha256, manifest).to_string()],
        ));
        contest(
            effort,
            &directory,
            format!("a layer of {name}"),
            contestants,
        );
    }

    head("An OCI archive of many images", true);
    let root = write(&archive, IMAGES, None);
    let mut contestants = ours(peers, &archive, &root);
    let file = archive.to_str().unwrap();
    let unpacked = directory.join("unpacked");
    contestants.extend([
        Contestant::new(
            "tar -xO index.json",
            command(Path::new("tar"), &["-xOf", file, "index.json"]),
            index,
        ),
        Contestant::new(
            "tar -x, sha256sum",
            script(UNPACK, &[file, unpacked.to_str().unwrap()]),
            index,
        ),
        Contestant::floor(
            "skopeo inspect, one of them",
            skopeo(&directory, &format!("{file}:image-0")),
        ),
    ]);
    contest(effort, &directory, format!("{IMAGES} images"), contestants);
    fs::remove_dir_all(directory).unwrap();
}

fn ours<'a>(peers: &Peers, archive: &Path, root: &Path) -> Vec<Contestant<'a>> {
    let words = [
        "plan",
        "--json",
        "--offline",
        "--data-root",
        root.to_str().unwrap(),
        "--from",
        archive.to_str().unwrap(),
    ];
    let ours = peers.digestfix.iter().map(|(name, program)| Contestant {
        code: 4,
        ..Contestant::new(name, command(program, &words), claims)
    });
    ours.collect()
}

/// A skopeo command that unpacks the archive into that directory.
fn skopeo(directory: &Path, archive: &str) -> Vec<String> {
    let (from, directory) = (
        format!("oci-archive:{archive}"),
        directory.to_str().unwrap(),
    );
    let words = ["--tmpdir", directory, "inspect", "--raw", &from];
    command(Path::new("skopeo"), &words)
}

fn contest(effort: Effort, directory: &Path, size: String, contestants: Vec<Contestant>) {
    Contest {
        place: &Place::here(),
        size,
        prepare: Some(script(
            r#"rm -rf "$1/unpacked""#,
            &[directory.to_str().unwrap()],
        )),
        calls: true,
        contestants,
    }
    .run(effort);
}

/// The digests of an index's manifests.
fn index(text: &[u8]) -> Answer {
    let index: Value = serde_json::from_slice(text).unwrap();
    let manifests = index["manifests"].as_array().unwrap().iter();
    let mut digests: Answer = manifests
        .map(|manifest| manifest["digest"].as_str().unwrap().to_owned())
        .collect();
    digests.sort();
    digests
}

/// The digests that the claims of a plan contain.
fn claims(text: &[u8]) -> Answer {
    let plan: Value = serde_json::from_slice(text).unwrap();
    let claims = plan["claims"].as_array().unwrap().iter();
    let mut digests: Answer = claims
        .map(|claim| {
            assert_eq!(claim["trust"], "proven", "{claim}");
            let reference = claim["reference"].as_str().unwrap();
            reference.split_once('@').unwrap().1.to_owned()
        })
        .collect();
    digests.sort();
    digests
}

/// Writes an archive of images with one layer each: a layer of a few bytes, or a hole of
/// `layer` bytes. Also writes a data root that has these images without their digests,
/// and returns the path of the data root.
fn write(path: &Path, images: usize, layer: Option<u64>) -> PathBuf {
    let root = path.with_file_name("docker");
    let _ = fs::remove_dir_all(&root);
    let driver = root.join("image/overlay2");
    let configs = driver.join("imagedb/content/sha256");
    fs::create_dir_all(&configs).unwrap();
    let mut archive = Archive(BufWriter::new(File::create(path).unwrap()));
    let (mut manifests, mut references) = (Vec::new(), serde_json::Map::new());
    for number in 0..images {
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "comment": number.to_string(),
            "rootfs": {"type": "layers", "diff_ids": []},
        });
        let text = number.to_string();
        let (body, size) = match layer {
            Some(bytes) => (Body::Hole(bytes), bytes),
            None => (Body::Text(&text), text.len() as u64),
        };
        archive.member(&format!("blobs/sha256/{}", hex(&text)), body);
        let config = config.to_string();
        let layers = json!([{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": format!("sha256:{}", hex(&text)),
            "size": size,
        }]);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": format!("sha256:{}", hex(&config)),
                "size": config.len(),
            },
            "layers": layers,
        })
        .to_string();
        for text in [&manifest, &config] {
            archive.member(&format!("blobs/sha256/{}", hex(text)), Body::Text(text));
        }
        manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", hex(&manifest)),
            "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": format!("image-{number}")},
        }));
        fs::write(configs.join(hex(&config)), &config).unwrap();
        let tagged = json!({format!("app-{number}:1"): format!("sha256:{}", hex(&config))});
        references.insert(format!("app-{number}"), tagged);
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
    archive.member("index.json", Body::Text(&index));
    archive.member(
        "oci-layout",
        Body::Text(r#"{"imageLayoutVersion":"1.0.0"}"#),
    );
    archive.end();
    let references = json!({"Repositories": references}).to_string();
    fs::write(driver.join("repositories.json"), references).unwrap();
    root
}

fn hex(text: &str) -> String {
    Digest::of(Algorithm::Sha256, text.as_bytes())
        .hex()
        .to_owned()
}

enum Body<'a> {
    Text(&'a str),
    Hole(u64),
}

struct Archive(BufWriter<File>);

impl Archive {
    fn member(&mut self, name: &str, body: Body) {
        let (text, length) = match body {
            Body::Text(text) => (text, text.len() as u64),
            Body::Hole(length) => ("", length),
        };
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_size(length);
        header.set_mode(0o644);
        header.set_cksum();
        self.0.write_all(header.as_bytes()).unwrap();
        let end = self.0.stream_position().unwrap() + length.next_multiple_of(512);
        self.0.write_all(text.as_bytes()).unwrap();
        self.extend(end);
    }

    fn extend(&mut self, end: u64) {
        self.0.seek(SeekFrom::Start(end)).unwrap();
        self.0.get_ref().set_len(end).unwrap();
    }

    /// Ends the archive with two blocks of zeros.
    fn end(mut self) {
        let end = self.0.stream_position().unwrap() + 1024;
        self.extend(end);
    }
}
