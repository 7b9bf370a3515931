//! SELinux labels, and hosts whose kernel does not set them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::data_root::{BEFORE, DataRoot, Run};

const SELINUX: &str = "security.selinux";

/// The label that container-selinux gives to Docker's data root.
const LABEL: &[u8] = b"system_u:object_r:container_var_lib_t:s0\0";

/// The name of an attribute that belongs to no security module.
const UNKNOWN: &str = "security.digestfix";

const OTHER: &[u8] = b"system_u:object_r:container_ro_file_t:s0\0";

const UNIT: &str = include_str!("../../systemd/digestfix.service");

const CLAIM: &str = "registry.example/team/new@sha256:\
                     1111111111111111111111111111111111111111111111111111111111111111";

/// A data root whose reference store has an SELinux label. If this user or the policy
/// cannot set such a label, the store has another extended attribute instead.
struct Labelled {
    root: DataRoot,
    name: &'static str,
}

impl Labelled {
    fn new() -> Self {
        let temporary = std::env::temp_dir();
        let places = [
            &temporary,
            Path::new("/dev/shm"),
            Path::new(env!("CARGO_TARGET_TMPDIR")),
        ];
        for name in [SELINUX, "user.digestfix"] {
            for place in places.into_iter().filter(|place| place.is_dir()) {
                let root = DataRoot::with_in(place, BEFORE.as_bytes());
                if xattr::set(root.store_path(), name, LABEL).is_ok() {
                    eprintln!("the label is {name}, in {}", place.display());
                    root.has_image(IMAGE);
                    return Self { root, name };
                }
            }
        }
        panic!("no file system here has extended attributes");
    }

    fn label(&self, path: &Path) -> Option<Vec<u8>> {
        xattr::get(path, self.name).unwrap()
    }

    fn store_label(&self) -> Option<Vec<u8>> {
        self.label(&self.root.store_path())
    }

    /// The backups of former reference stores.
    fn backups(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.root.images()).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        paths
            .filter(|path| path.to_string_lossy().contains(".digestfix-"))
            .collect()
    }

    /// Runs the program with only the capabilities that digestfix.service has.
    fn confined(&self, words: &[&str]) -> Run {
        let mut bounds = "--bounding-set=-all".to_owned();
        let line = UNIT
            .lines()
            .find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        for capability in line.unwrap().split_whitespace() {
            bounds.push_str(",+");
            bounds.push_str(&capability.strip_prefix("CAP_").unwrap().to_lowercase());
        }
        let output = Command::new("setpriv")
            .args([&bounds, "--inh-caps=-all", env!("CARGO_BIN_EXE_digestfix")])
            .args(words)
            .args(["--offline", "--data-root"])
            .arg(self.root.0.path())
            .output()
            .unwrap();
        output.into()
    }
}

const IMAGE: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn claim() -> String {
    format!("{CLAIM}=sha256:{IMAGE}")
}

#[test]
fn each_store_has_the_label_of_the_one_before_it() {
    let host = Labelled::new();
    host.root.digestfix(&["apply", &claim()]).exits(0);
    assert!(host.root.store().contains(CLAIM));
    assert_eq!(host.store_label().as_deref(), Some(LABEL), "applied");

    // Set the label that the next store must have.
    xattr::set(host.root.store_path(), host.name, OTHER).unwrap();
    host.root.digestfix(&["rollback"]).exits(0);
    assert_eq!(host.root.store(), BEFORE);
    assert_eq!(host.store_label().as_deref(), Some(OTHER), "rolled back");

    let mut labels: Vec<_> = host.backups().iter().map(|path| host.label(path)).collect();
    labels.sort();
    assert_eq!(labels, [Some(OTHER.to_vec()), Some(LABEL.to_vec())]);

    // digestfix's own files have the label that their directory gives to new files.
    let given = host.root.0.path().join("given");
    fs::write(&given, "").unwrap();
    let given = host.label(&given);
    let own = host.root.0.path().join("digestfix");
    let mut seen = 0;
    for path in host.root.everything().into_keys() {
        if path.starts_with(&own) {
            assert_eq!(host.label(&path), given, "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 3, "lock and records: {seen}");
}

/// A host can be in this state if SELinux was switched off but the labels are still on
/// the disk, and if digestfix runs with only the capabilities of its services. A kernel
/// with SELinux but without a policy lets the owner of a file set a label. So the test
/// uses an attribute that no kernel knows.
#[test]
fn a_kernel_that_refuses_the_label_stops_nothing() {
    let host = Labelled::new();
    let store = host.root.store_path();
    if xattr::set(&store, UNKNOWN, LABEL).is_err() {
        eprintln!("skipped: only root has capabilities to drop");
        return;
    }
    let apply = host.confined(&["apply", "-v", &claim()]).exits(0);
    assert!(host.root.store().contains(CLAIM));
    assert_eq!(xattr::get(&store, UNKNOWN).unwrap(), None, "refused");
    assert!(apply.stderr.contains(UNKNOWN), "{}", apply.stderr);

    xattr::set(&store, UNKNOWN, LABEL).unwrap();
    host.confined(&["rollback"]).exits(0);
    assert_eq!(host.root.store(), BEFORE);
    assert_eq!(xattr::get(&store, UNKNOWN).unwrap(), None, "refused");
}
