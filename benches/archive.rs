//! What it costs to read an OCI archive, by the size of its layer, beside
//! `skopeo inspect` and `tar -xO` on the same file.
//!
//! `cargo bench --bench archive`. The archives are sparse files; skopeo
//! unpacks them below `/var/tmp` and needs as much room there.

#![allow(clippy::unwrap_used, reason = "a benchmark may fail so")]

use std::env;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use digestfix::digest::{Algorithm, Digest};
use nix::sys::resource::{UsageWho, getrusage};
use tempfile::TempDir;

const ROUNDS: usize = 5;
const SIZES: [(&str, u64); 3] = [("10 MB", 10 << 20), ("1 GB", 1 << 30), ("10 GB", 10 << 30)];

/// A program with these words runs another and says what it took.
const MEASURE: &str = "--measure";

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == MEASURE) {
        return measure(&words[1..]);
    }
    let directory = TempDir::new().unwrap();
    println!("median and range of {ROUNDS} rounds, in which the three take turns\n");
    println!("layer   program            seconds (range)             memory     to digestfix");
    for (name, size) in SIZES {
        let archive = directory.path().join("image.tar");
        let image = write_archive(&archive, size);
        let root = data_root(directory.path(), &image);
        round(name, &archive, &root);
        fs::remove_file(archive).unwrap();
    }
}

/// Runs a program to its end; prints its seconds and its peak memory in KiB.
fn measure(words: &[String]) {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdout(Stdio::null());
    if words[0] != "skopeo" {
        // skopeo's copies push everything else out of the page cache.
        command.status().unwrap();
    }
    let began = Instant::now();
    let status = command.status().unwrap();
    let seconds = began.elapsed().as_secs_f64();
    let memory = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    println!("{seconds} {memory} {}", status.code().unwrap_or(-1));
}

fn round(name: &str, archive: &Path, root: &Path) {
    let (archive, root) = (archive.to_str().unwrap(), root.to_str().unwrap());
    let oci = format!("oci-archive:{archive}");
    let digestfix = env!("CARGO_BIN_EXE_digestfix");
    let programs: [(&str, Vec<&str>, &str); 3] = [
        (
            "digestfix plan",
            vec![
                digestfix,
                "plan",
                "--offline",
                "--data-root",
                root,
                "--from",
                archive,
            ],
            "4",
        ),
        (
            "tar -xO index.json",
            vec!["tar", "-xOf", archive, "index.json"],
            "0",
        ),
        (
            "skopeo inspect",
            vec!["skopeo", "inspect", "--raw", &oci],
            "0",
        ),
    ];
    let mut seconds: [Vec<f64>; 3] = Default::default();
    let mut memory = [0_u64; 3];
    for _ in 0..ROUNDS {
        for (at, (program, words, expected)) in programs.iter().enumerate() {
            let output = Command::new(env::current_exe().unwrap())
                .arg(MEASURE)
                .args(words)
                .stderr(Stdio::null())
                .output()
                .unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            let said: Vec<&str> = said.split_whitespace().collect();
            let [took, peak, code] = said[..] else {
                println!("{program} does not run here");
                continue;
            };
            assert_eq!(code, *expected, "{program}");
            seconds[at].push(took.parse().unwrap());
            memory[at] = memory[at].max(peak.parse().unwrap());
        }
    }
    let median = |of: &mut Vec<f64>| {
        of.sort_by(f64::total_cmp);
        of.get(of.len() / 2).copied()
    };
    let ours = median(&mut seconds[0]).unwrap();
    for (at, (program, ..)) in programs.iter().enumerate() {
        if let Some(middle) = median(&mut seconds[at]) {
            println!(
                "{name:>5}   {program:<18} {middle:>8.4} ({:.4} to {:.4})   {:>6} KiB   {:>8.2}",
                seconds[at][0],
                seconds[at][seconds[at].len() - 1],
                memory[at],
                middle / ours
            );
        }
    }
}

/// An OCI archive of an image with one layer of that size, all of it a hole.
/// Gives the image's ID in hexadecimal.
fn write_archive(path: &Path, size: u64) -> String {
    let config =
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let config_digest = Digest::of(Algorithm::Sha256, config);
    let layer = "0".repeat(64);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:{layer}","size":{size}}}]}}"#,
        config.len()
    );
    let manifest_digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{manifest_digest}","size":{}}}]}}"#,
        manifest.len()
    );
    let mut file = File::create(path).unwrap();
    let mut member = |name: &str, content: Option<&[u8]>| {
        let length = content.map_or(size, |content| content.len() as u64);
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_size(length);
        header.set_mode(0o644);
        header.set_cksum();
        file.write_all(header.as_bytes()).unwrap();
        let end = file.stream_position().unwrap() + length.next_multiple_of(512);
        file.write_all(content.unwrap_or_default()).unwrap();
        file.set_len(end).unwrap();
        file.seek(SeekFrom::Start(end)).unwrap();
    };
    member(&format!("blobs/sha256/{layer}"), None);
    member(
        &format!("blobs/sha256/{}", manifest_digest.hex()),
        Some(manifest.as_bytes()),
    );
    member(
        &format!("blobs/sha256/{}", config_digest.hex()),
        Some(config),
    );
    member("index.json", Some(index.as_bytes()));
    member("oci-layout", Some(br#"{"imageLayoutVersion":"1.0.0"}"#));
    let end = file.stream_position().unwrap() + 1024;
    file.set_len(end).unwrap();
    config_digest.hex().to_owned()
}

/// A data root that has the image, without a digest.
fn data_root(directory: &Path, image: &str) -> std::path::PathBuf {
    let root = directory.join("docker");
    let images = root.join("image/overlay2");
    let configs = images.join("imagedb/content/sha256");
    fs::create_dir_all(&configs).unwrap();
    fs::write(configs.join(image), "{}").unwrap();
    fs::write(
        images.join("repositories.json"),
        format!(r#"{{"Repositories":{{"app":{{"app:1":"sha256:{image}"}}}}}}"#),
    )
    .unwrap();
    root
}
