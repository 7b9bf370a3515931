//! Files that others made or may read: modes, links, pipes, devices.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::data_root::{DataRoot, Run, digestfix_after};

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

/// A run that waits for a pipe would wait for ever.
fn within_10_s(words: &[&str]) -> Run {
    let output = Command::new("timeout")
        .args(["--kill-after=1", "10", env!("CARGO_BIN_EXE_digestfix")])
        .args(words)
        .output()
        .unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn offline<'a>(root: &'a DataRoot, words: &[&'a str]) -> Vec<&'a str> {
    let at = root.0.path().to_str().unwrap();
    [words, &["--offline", "--data-root", at]].concat()
}

/// A disk that was brought along, with a link where a directory should be, must not
/// lead into the system that runs.
#[test]
fn a_link_below_a_data_root_is_not_followed() {
    let claim = claim();
    for (link, to) in [
        ("image", "image"),
        ("image/overlay2", "image/overlay2"),
        ("image/overlay2/imagedb", "image/overlay2/imagedb"),
        (
            "image/overlay2/imagedb/content",
            "image/overlay2/imagedb/content",
        ),
        ("digestfix", "digestfix"),
    ] {
        let live = DataRoot::of_one_image(APP, IMAGE);
        live.digestfix(&["status"]).exits(0);
        fs::create_dir(live.0.path().join("digestfix")).unwrap();
        fs::write(live.0.path().join("digestfix/lock"), "somebody's").unwrap();
        let before = live.everything();
        let disk = DataRoot::of_one_image(APP, IMAGE);
        let at = disk.0.path().join(link);
        let _ = fs::remove_dir_all(&at);
        symlink(live.0.path().join(to), &at).unwrap();
        for command in ["apply", "plan", "verify"] {
            let run = within_10_s(&offline(&disk, &[command, &claim])).exits(3);
            assert!(
                run.stderr.contains("it is a link"),
                "{link}: {}",
                run.stderr
            );
            assert!(run.stderr.contains("nothing was touched"), "{}", run.stderr);
        }
        assert_eq!(live.everything(), before, "{link}");
    }
}

#[test]
fn a_lock_that_is_no_file_is_not_opened() {
    let root = DataRoot::of_one_image(APP, IMAGE);
    let own = root.0.path().join("digestfix");
    fs::create_dir(&own).unwrap();
    mkfifo(&own.join("lock"), Mode::S_IRWXU).unwrap();
    let claim = claim();
    let run = within_10_s(&offline(&root, &["apply", &claim])).exits(1);
    assert!(run.stderr.contains("not a plain file"), "{}", run.stderr);
}

#[test]
fn a_daemon_json_without_end_is_refused() {
    let media = TempDir::new().unwrap();
    let (pipe, zero) = (media.path().join("pipe"), media.path().join("zero"));
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    symlink("/dev/zero", &zero).unwrap();
    let large = media.path().join("large");
    File::create(&large)
        .unwrap()
        .set_len(17 * 1024 * 1024)
        .unwrap();
    for file in [&pipe, &zero, &large] {
        for command in ["status", "doctor"] {
            let file = file.to_str().unwrap();
            let run = within_10_s(&[command, "--offline", "--config-file", file]).exits(3);
            let told = run.stdout + &run.stderr;
            assert!(told.contains("cannot be read"), "{file}: {told}");
        }
    }
}

/// Neither what lies elsewhere nor a word of it.
#[test]
fn no_link_leads_out_of_a_directory_that_is_read() {
    let root = DataRoot::of_one_image(APP, IMAGE);
    let media = TempDir::new().unwrap();
    let elsewhere = TempDir::new().unwrap();
    let secret = elsewhere.path().join("shadow");
    fs::write(&secret, "root:$6$secret:19000::::::\n: {\n").unwrap();
    fs::write(elsewhere.path().join("a.txt"), format!("{APP}@{DIGEST}\n")).unwrap();
    symlink(&secret, media.path().join("a.yaml")).unwrap();
    symlink(elsewhere.path(), media.path().join("directory")).unwrap();
    symlink("/dev/zero", media.path().join("zero")).unwrap();
    mkfifo(&media.path().join("pipe"), Mode::S_IRWXU).unwrap();
    let words = ["plan", "--from", media.path().to_str().unwrap()];
    let run = within_10_s(&offline(&root, &words)).exits(3);
    let told = run.stdout + &run.stderr;
    assert!(!told.contains("secret"), "{told}");
    for name in ["a.yaml", "directory", "zero"] {
        let remark = format!("{name}: passed over, a link that leads out of the directory");
        assert!(told.contains(&remark), "{name}: {told}");
    }
    assert!(
        told.contains("pipe: passed over, neither a plain file"),
        "{told}"
    );
    // A link that stays within is followed, as a mounted ConfigMap has them.
    fs::create_dir(media.path().join("..data")).unwrap();
    fs::write(
        media.path().join("..data/pins"),
        format!("{APP}@{DIGEST}\n"),
    )
    .unwrap();
    symlink("..data/pins", media.path().join("pins.txt")).unwrap();
    within_10_s(&offline(&root, &words)).exits(4);
}

#[test]
fn a_device_that_is_named_is_not_opened() {
    let root = DataRoot::of_one_image(APP, IMAGE);
    let run = within_10_s(&offline(&root, &["plan", "--from", "/dev/zero"])).exits(3);
    assert!(
        run.stderr.contains("neither a plain file"),
        "{}",
        run.stderr
    );
}

/// To digestfix a storage driver is the name of a directory.
#[test]
fn each_storage_driver_is_taken() {
    for driver in [
        "overlay2",
        "overlay",
        "devicemapper",
        "aufs",
        "btrfs",
        "zfs",
        "vfs",
    ] {
        let root = DataRoot::of_one_image(APP, IMAGE);
        let images = root.0.path().join("image").join(driver);
        fs::rename(root.images(), &images).unwrap();
        let store = images.join("repositories.json");
        let before = fs::read_to_string(&store).unwrap();
        let named: [&[&str]; 2] = [&["rollback"], &["rollback", "--driver", driver]];
        for rollback in named {
            root.digestfix(&["apply", &claim()]).exits(0);
            assert!(fs::read_to_string(&store).unwrap().contains(DIGEST));
            root.digestfix(rollback).exits(0);
            assert_eq!(fs::read_to_string(&store).unwrap(), before, "{driver}");
        }
    }
}
