#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

fn root(text: &str) -> (TempDir, ImageDir, PathBuf) {
    let root = TempDir::new().unwrap();
    let images = ImageDir::new(root.path(), "overlay2");
    fs::create_dir_all(images.path()).unwrap();
    let path = images.store_path();
    fs::write(&path, text).unwrap();
    (root, images, path)
}

/// A store of more than `LARGE` bytes.
fn large() -> String {
    let image = "a".repeat(64);
    let pairs: Vec<String> = (0..10_000)
        .map(|n| format!(r#""a:{n:06}":"sha256:{image}""#))
        .collect();
    let text = format!(r#"{{"Repositories":{{"a":{{{}}}}}}}"#, pairs.join(","));
    text + &" ".repeat(LARGE)
}

#[test]
fn a_large_file_is_read_whole() {
    let text = large();
    let (_root, images, path) = root(&text);
    assert_eq!(images.read_bytes().unwrap(), text.as_bytes());
    assert_eq!(images.read().unwrap().entries().count(), 10_000);
    // The size in the metadata is wrong: the file contains more or fewer bytes.
    for size in [0, 1, LARGE as u64, text.len() as u64 + 1, u64::MAX] {
        let file = File::open(&path).unwrap();
        assert_eq!(read(file, size).unwrap(), text.as_bytes(), "{size}");
    }
}

#[test]
fn no_more_is_read_than_a_store_may_have() {
    let (_root, images, path) = root("{}");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(repositories::MAX_BYTES + 1_000).unwrap();
    let bytes = images.read_bytes().unwrap();
    assert_eq!(bytes.len() as u64, repositories::MAX_BYTES + 1);
}

#[test]
fn a_file_is_its_bytes_in_whatever_pieces() {
    let text = large();
    let (_root, images, path) = root(&text);
    let bytes = text.as_bytes();
    for at in [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, bytes.len()] {
        let (one, other) = bytes.split_at(at);
        assert!(images.is(&[one, &[], other]).unwrap(), "{at}");
        let mut changed = bytes.to_vec();
        changed[at.min(bytes.len() - 1)] ^= 1;
        assert!(!images.is(&[&changed]).unwrap(), "{at}");
    }
    assert!(!images.is(&[&bytes[1..]]).unwrap());
    assert!(!images.is(&[bytes, b" "]).unwrap());
    assert!(!images.is(&[]).unwrap());
    fs::remove_file(path).unwrap();
    assert!(matches!(
        images.is(&[bytes]),
        Err(ReadError::Missing { .. })
    ));
}

#[test]
fn a_change_is_seen_however_soon_it_comes() {
    let (_root, images, path) = root(r#"{"Repositories":{}}"#);
    for wait in [Duration::ZERO, TICK * 3] {
        std::thread::sleep(wait);
        let seen = images.look().unwrap();
        assert!(images.is_still(&seen).unwrap());
        fs::write(&path, r#"{"repositories":{}}"#).unwrap();
        assert!(!images.is_still(&seen).unwrap(), "{wait:?}");
        // The content is the same, but the timestamp is not.
        fs::write(&path, r#"{"Repositories":{}}"#).unwrap();
        assert!(images.is_still(&seen).unwrap(), "{wait:?}");
    }
}

#[test]
fn times_are_believed_once_they_are_past() {
    let (_root, _, path) = root("{}");
    let metadata = fs::metadata(&path).unwrap();
    let changed = SystemTime::UNIX_EPOCH
        + Duration::new(
            metadata.ctime().try_into().unwrap(),
            metadata.ctime_nsec().try_into().unwrap(),
        );
    let at = |now| Stamp::of(&metadata, now);
    for (now, is_settled) in [
        (changed, false),
        (changed + TICK / 2, false),
        (changed - TICK * 2, false),
        (changed + TICK * 2, true),
        (SystemTime::UNIX_EPOCH, false),
    ] {
        assert_eq!(at(now).is_settled, is_settled, "{now:?}");
        assert_eq!(at(now).shows_no_change(&metadata), is_settled);
    }
    let seen = at(changed + TICK * 2);
    let others: [fn(&mut Stamp); 4] = [
        |stamp| stamp.file.1 += 1,
        |stamp| stamp.size += 1,
        |stamp| stamp.modified.1 -= 1,
        |stamp| stamp.changed.1 -= 1,
    ];
    for other in others {
        let mut stamp = seen.clone();
        other(&mut stamp);
        assert!(!stamp.shows_no_change(&metadata));
    }
}

/// The file system stores timestamps in whole seconds.
#[test]
fn coarse_times_are_believed_later() {
    let stamp = |nanos: i64, age: Duration| is_past((1_000, nanos), Duration::new(1_000, 0) + age);
    assert!(stamp(1, Duration::from_millis(200)));
    assert!(!stamp(0, Duration::from_millis(200)));
    assert!(!stamp(0, Duration::from_millis(1_900)));
    assert!(stamp(0, COARSE_TICK + TICK));
    assert!(!is_past((-1, 5), Duration::from_secs(1_000)));
}
