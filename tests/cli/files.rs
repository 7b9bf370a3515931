//! Files that others made or may read: modes, links, pipes, devices.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use crate::data_root::{DataRoot, digestfix_after};

const APP: &str = "registry.example/team/app:1";
const IMAGE: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

fn claim() -> String {
    format!("registry.example/team/app@{DIGEST}={IMAGE}")
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn modes_do_not_depend_on_the_umask() {
    for umask in ["000", "077"] {
        let root = DataRoot::of_one_image(APP, IMAGE);
        fs::set_permissions(root.store_path(), fs::Permissions::from_mode(0o600)).unwrap();
        let media = TempDir::new().unwrap();
        let metrics = media.path().join("digestfix.prom");
        digestfix_after(
            &format!("umask {umask}"),
            &[
                "apply",
                &claim(),
                "--metrics",
                metrics.to_str().unwrap(),
                "--offline",
                "--data-root",
                root.0.path().to_str().unwrap(),
            ],
        )
        .exits(0);
        let own = root.0.path().join("digestfix");
        let mut seen = 0;
        let directories = [own.clone(), own.join("history"), root.images()];
        for entry in directories
            .iter()
            .flat_map(|path| fs::read_dir(path).unwrap())
        {
            let path = entry.unwrap().path();
            if path.is_file() {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                seen += 1;
            }
        }
        assert!(seen >= 4, "lock, record, store and backup: {seen}");
        assert_eq!((mode(&own), mode(&own.join("history"))), (0o700, 0o700));
        assert_eq!(mode(&metrics), 0o644);
    }
}
