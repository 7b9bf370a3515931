//! Files below a data root, found by their names.

use std::fs;

use crate::data_root::DataRoot;

const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

/// digestfix uses the name of a storage driver only as the name of a directory.
#[test]
fn each_storage_driver_is_taken() {
    let image = format!("sha256:{}", "a".repeat(64));
    let claim = format!("a@{DIGEST}={image}");
    for driver in [
        "overlay2",
        "overlay",
        "devicemapper",
        "aufs",
        "btrfs",
        "zfs",
        "vfs",
    ] {
        let root = DataRoot::of_one_image("a:1", &image);
        let images = root.0.path().join("image").join(driver);
        fs::rename(root.images(), &images).unwrap();
        let store = images.join("repositories.json");
        let before = fs::read_to_string(&store).unwrap();
        let named: [&[&str]; 2] = [&["rollback"], &["rollback", "--driver", driver]];
        for rollback in named {
            root.digestfix(&["apply", &claim]).exits(0);
            assert!(fs::read_to_string(&store).unwrap().contains(DIGEST));
            root.digestfix(rollback).exits(0);
            assert_eq!(fs::read_to_string(&store).unwrap(), before, "{driver}");
        }
    }
}
