//! Data roots with any number of references. The same number always gives the same
//! references.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use digestfix::digest::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::contest::Answer;
use crate::measure::Place;

/// How the references are distributed over repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Many repositories, each with some tags and digests. The names look like those of
    /// companies, and a reference takes 170 bytes.
    Mixed,
    /// All references in one repository, as on a build server.
    OneRepository,
}

impl Shape {
    /// The shape's name in file names and in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mixed => "mixed",
            Self::OneRepository => "one repository",
        }
    }
}

/// A reference to an image.
#[derive(Debug, Clone)]
pub struct Pin {
    /// `NAME`
    pub repository: String,
    /// `TAG`
    pub tag: String,
    /// `sha256:HEX`
    pub digest: String,
    /// `sha256:HEX`
    pub image: String,
}

impl Pin {
    /// `NAME:TAG@sha256:HEX`
    pub fn claim(&self) -> String {
        format!("{}:{}@{}", self.repository, self.tag, self.digest)
    }

    /// `NAME@sha256:HEX`
    pub fn reference(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}

/// A data root on the disk, and what it contains.
pub struct Host {
    /// The number of references.
    pub references: usize,
    /// The shape of the references.
    pub shape: Shape,
    /// The directory that contains all files of this host.
    pub directory: PathBuf,
    /// Digests that the store does not contain. Their images have no digest.
    pub lost: Vec<Pin>,
    /// Digests that the store contains. Their images have a tag.
    pub held: Vec<Pin>,
    /// The size of the file, in bytes.
    pub size: u64,
}

impl Host {
    /// Creates a data root, or uses the one that an earlier run created.
    pub fn at(inputs: &Path, shape: Shape, references: usize) -> Self {
        let plan = Plan::new(shape, references);
        let directory = inputs.join(format!("{}-{references}", shape.name().replace(' ', "-")));
        let text = json!({"Repositories": plan.repositories}).to_string();
        let host = Self {
            references,
            shape,
            lost: plan.lost,
            held: plan.held,
            size: text.len() as u64,
            directory,
        };
        // This file is written last. If it exists, the data root is complete.
        let pristine = host.pristine();
        if fs::read(&pristine).is_ok_and(|there| there == text.as_bytes()) {
            // A run that was killed may have left a changed store.
            fs::copy(&pristine, host.store()).unwrap();
            return host;
        }
        eprintln!("making a data root with {references} references");
        let _ = fs::remove_dir_all(&host.directory);
        let configs = host.root().join("image/overlay2/imagedb/content/sha256");
        fs::create_dir_all(&configs).unwrap();
        for (image, config) in plan.images {
            let name = image.strip_prefix("sha256:").unwrap();
            fs::write(configs.join(name), config).unwrap();
        }
        fs::write(host.store(), &text).unwrap();
        fs::write(pristine, text).unwrap();
        host
    }

    /// The path of the data root.
    pub fn root(&self) -> PathBuf {
        self.directory.join("docker")
    }

    /// The path of the reference store.
    pub fn store(&self) -> PathBuf {
        self.root().join("image/overlay2/repositories.json")
    }

    /// The path of a copy of the reference store, as it is before each run.
    fn pristine(&self) -> PathBuf {
        self.directory.join("repositories.json")
    }

    /// A command that restores the data root. It also syncs, so that the next program
    /// does not wait for the writes of the previous one.
    pub fn reset(&self) -> Vec<String> {
        let script = r#"
            rm -rf "$1/digestfix" "$2".* "$2" "$1/copy"
            cp --reflink=never "$3" "$2"
            sync -f "$2"
            # As on a host where it has lain there for longer than a tick.
            sleep 0.1"#;
        words(&[
            "sh".as_ref(),
            "-ec".as_ref(),
            script.as_ref(),
            "reset".as_ref(),
            self.root().as_ref(),
            self.store().as_ref(),
            self.pristine().as_ref(),
        ])
    }

    /// Restores the data root, on the machine `place`.
    pub fn reset_at(&self, place: &Place) {
        assert_eq!(place.once(&self.reset()).code, 0, "it can be put back");
    }

    /// The present entries of the reference store.
    pub fn references(&self) -> Answer {
        let store: Value = serde_json::from_slice(&fs::read(self.store()).unwrap()).unwrap();
        let mut references = Vec::new();
        for (repository, entries) in store["Repositories"].as_object().unwrap() {
            for (reference, image) in entries.as_object().unwrap() {
                references.push(format!("{repository} {reference} {image}"));
            }
        }
        references.sort();
        references
    }
}

/// Converts the words of a command to strings.
pub fn words(words: &[&std::ffi::OsStr]) -> Vec<String> {
    words
        .iter()
        .map(|word| word.to_str().unwrap().to_owned())
        .collect()
}

/// The contents of a data root that is to be created.
struct Plan {
    repositories: BTreeMap<String, BTreeMap<String, String>>,
    images: Vec<(String, String)>,
    lost: Vec<Pin>,
    held: Vec<Pin>,
}

impl Plan {
    fn new(shape: Shape, references: usize) -> Self {
        let mut random = Random(references as u64);
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut images = Vec::new();
        let (mut lost, mut held) = (Vec::new(), Vec::new());
        let mut left = references;
        let mut repository = String::new();
        let mut images_of_it = 0;
        while left > 0 {
            if images_of_it == 0 {
                repository = name(&mut random);
                images_of_it = match shape {
                    Shape::Mixed => 1 + random.below(8),
                    Shape::OneRepository => u64::MAX,
                };
            }
            images_of_it -= 1;
            let (image, config) = image(images.len());
            let first = images.is_empty();
            images.push((image.clone(), config));
            let pin = Pin {
                repository: repository.clone(),
                tag: tag(&mut random, images.len()),
                digest: format!("sha256:{}", random.hex(64)),
                image: image.clone(),
            };
            // One image in ten was loaded and has no digest. One in two has a second tag.
            // One in three also has the digest of an index.
            let loaded = first || random.below(10) == 0;
            let mut keys = vec![format!("{repository}:{}", pin.tag)];
            if !loaded {
                keys.push(pin.reference());
            }
            if !first && random.below(2) == 0 {
                keys.push(format!("{repository}:{}", tag(&mut random, images.len())));
            }
            if !loaded && random.below(3) == 0 {
                keys.push(format!("{repository}@sha256:{}", random.hex(64)));
            }
            keys.truncate(left);
            left -= keys.len();
            if loaded {
                lost.push(pin);
            } else if keys.len() > 1 {
                held.push(pin);
            }
            repositories
                .entry(repository.clone())
                .or_default()
                .extend(keys.into_iter().map(|key| (key, image.clone())));
        }
        Self {
            repositories,
            images,
            lost,
            held,
        }
    }
}

/// The ID and the config of an image without layers.
fn image(number: usize) -> (String, String) {
    let config = format!(
        r#"{{"architecture":"amd64","comment":"{number}","config":{{}},"created":"2026-01-01T00:00:00Z","history":[],"os":"linux","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    );
    let digest = Digest::of(Algorithm::Sha256, config.as_bytes());
    (format!("sha256:{}", digest.hex()), config)
}

fn name(random: &mut Random) -> String {
    const TEAMS: [&str; 6] = [
        "platform",
        "payments",
        "search",
        "storefront",
        "data",
        "infra",
    ];
    const THINGS: [&str; 6] = [
        "gateway",
        "worker",
        "scheduler",
        "frontend",
        "exporter",
        "api",
    ];
    let team = TEAMS[random.below(6) as usize];
    let thing = THINGS[random.below(6) as usize];
    let number = random.below(1_000_000);
    match random.below(4) {
        0 => format!("{team}/{thing}-{number}"),
        1 => format!("registry.{team}.example.com/{thing}/{number}"),
        _ => format!("registry.example.com:5000/{team}/backend/{thing}-service-{number}"),
    }
}

/// A tag that is unique in its repository.
fn tag(random: &mut Random, number: usize) -> String {
    match random.below(3) {
        0 => format!("v1.{}.{number}", random.below(100)),
        1 => format!("main-{number}-{}", random.hex(12)),
        _ => format!("release-2026.{}.{number}-amd64", random.below(100)),
    }
}

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn hex(&mut self, digits: usize) -> String {
        let mut text = String::new();
        while text.len() < digits {
            text.push_str(&format!("{:016x}", self.next()));
        }
        text.truncate(digits);
        text
    }
}
