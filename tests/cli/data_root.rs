//! Data roots on which tests run the program.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The reference store of a real host, before its administrator edited it by hand.
pub const BEFORE: &str = include_str!("../fixtures/seed/before.json");

/// A data root that no daemon uses.
pub struct DataRoot(pub TempDir);

/// The result of running the program.
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl DataRoot {
    pub fn with(store: &[u8]) -> Self {
        Self::with_in(&std::env::temp_dir(), store)
    }

    pub fn with_in(place: &Path, store: &[u8]) -> Self {
        let root = Self(TempDir::new_in(place).unwrap());
        fs::create_dir_all(root.images().join("imagedb/content/sha256")).unwrap();
        fs::write(root.store_path(), store).unwrap();
        root
    }

    /// A data root with that store. The store contains no image configs, so this creates
    /// a placeholder for each image.
    pub fn of_the_write_up() -> Self {
        let root = Self::with(BEFORE.as_bytes());
        for (at, _) in BEFORE.match_indices("\":\"sha256:") {
            root.has_image(&BEFORE[at + 10..at + 74]);
        }
        root
    }

    pub fn of_one_image(name: &str, image: &str) -> Self {
        let (repository, _) = name.rsplit_once(':').unwrap();
        let store = format!(r#"{{"Repositories":{{"{repository}":{{"{name}":"{image}"}}}}}}"#);
        let root = Self::with(store.as_bytes());
        root.has_image(image.strip_prefix("sha256:").unwrap());
        root
    }

    pub fn has_image(&self, hex: &str) {
        fs::write(self.images().join("imagedb/content/sha256").join(hex), "{}").unwrap();
    }

    pub fn images(&self) -> PathBuf {
        self.0.path().join("image/overlay2")
    }

    pub fn store_path(&self) -> PathBuf {
        self.images().join("repositories.json")
    }

    pub fn store(&self) -> String {
        fs::read_to_string(self.store_path()).unwrap()
    }

    pub fn digestfix(&self, words: &[&str]) -> Run {
        let place = self.0.path().to_str().unwrap();
        digestfix(&[words, &["--offline", "--data-root", place]].concat())
    }

    /// Every file below the data root, with its contents.
    pub fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(directory: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for child in fs::read_dir(directory).unwrap() {
                let path = child.unwrap().path();
                if path.is_dir() && !path.is_symlink() {
                    walk(&path, found);
                } else {
                    let content = if path.is_file() {
                        fs::read(&path).unwrap_or_default()
                    } else {
                        Vec::new()
                    };
                    found.insert(path, content);
                }
            }
        }
        let mut found = BTreeMap::new();
        walk(self.0.path(), &mut found);
        found
    }
}

/// Runs the program.
pub fn digestfix(words: &[&str]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_digestfix"))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    output.into()
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Run {
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\n{}\n{}", self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self
    }
}
