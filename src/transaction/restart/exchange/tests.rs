#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::env;
use std::os::fd::OwnedFd;

use tempfile::TempDir;

use super::*;

const SELINUX: &str = "security.selinux";

/// The label that container-selinux assigns to daemon.json.
const LABEL: &[u8] = b"system_u:object_r:container_config_t:s0\0";

/// A directory on a file system that supports security labels. If this user may not set
/// an SELinux label, the tests use another extended attribute.
pub(in crate::transaction) struct Labels {
    pub directory: TempDir,
    name: &'static str,
}

impl Labels {
    #[track_caller]
    pub(in crate::transaction) fn find() -> Self {
        let temporary = env::temp_dir();
        let places = [&temporary, Path::new("/dev/shm"), Path::new(".")];
        for name in [SELINUX, "user.digestfix"] {
            for place in places {
                let Ok(directory) = tempfile::tempdir_in(place) else {
                    continue;
                };
                let labels = Self { directory, name };
                let probe = labels.directory.path().join("probe");
                fs::write(&probe, "").unwrap();
                let takes = xattr::set(&probe, name, LABEL);
                fs::remove_file(probe).unwrap();
                if takes.is_ok() {
                    return labels;
                }
            }
        }
        panic!("no file system here has extended attributes");
    }

    pub(in crate::transaction) fn set(&self, path: &Path) {
        xattr::set(path, self.name, LABEL).unwrap();
    }

    #[track_caller]
    pub(in crate::transaction) fn is_on(&self, path: &Path) {
        let label = xattr::get(path, self.name).unwrap();
        assert_eq!(
            label.as_deref(),
            Some(LABEL),
            "{} of {}",
            self.name,
            path.display()
        );
    }
}

/// Returns a file that has the label, and a pipe, which cannot have a label.
fn labelled_and_one_without_labels(labels: &Labels) -> (PathBuf, File) {
    let model = labels.directory.path().join("model");
    fs::write(&model, "").unwrap();
    labels.set(&model);
    let (_, pipe) = io::pipe().unwrap();
    (model, File::from(OwnedFd::from(pipe)))
}

#[test]
fn a_new_file_has_the_label_of_the_old_one() {
    let labels = Labels::find();
    let old = labels.directory.path().join("old");
    fs::write(&old, "old").unwrap();
    labels.set(&old);

    let new = labels.directory.path().join("new");
    write_new(&new, &[b"new"], Some(&old)).unwrap();
    labels.is_on(&new);
    exchange(&old, &new).unwrap();
    labels.is_on(&old);
    labels.is_on(&new);

    let file = write_unnamed(&old, &[b"new"]).unwrap().unwrap();
    let named = labels.directory.path().join("named");
    assert!(name(&file, &named).unwrap());
    labels.is_on(&named);
}

#[test]
fn a_label_that_the_kernel_refuses_is_left_out() {
    let labels = Labels::find();
    let (model, file) = labelled_and_one_without_labels(&labels);
    let refused = set_attribute(&file, OsStr::new(labels.name), LABEL).unwrap_err();
    assert!(is_refusal(&refused), "{refused}");
    let outcome = take_after(&model, &file);
    assert_eq!(outcome.is_ok(), labels.name == SELINUX, "{outcome:?}");
}

#[test]
fn a_refusal_is_told_from_a_failure() {
    for (errno, expected) in [
        (Errno::EOPNOTSUPP, true),
        (Errno::EPERM, true),
        (Errno::EACCES, true),
        (Errno::EINVAL, true),
        (Errno::EIO, false),
        (Errno::ENOSPC, false),
        (Errno::EROFS, false),
    ] {
        assert_eq!(is_refusal(&errno.into()), expected, "{errno}");
    }
}

#[test]
fn another_attribute_that_is_refused_is_a_failure() {
    let labels = Labels::find();
    let (model, file) = labelled_and_one_without_labels(&labels);
    xattr::set(&model, "user.other", b"x").unwrap();
    take_after(&model, &file).unwrap_err();
}

/// The kernel refuses to open a file whose attribute `security.ima` belongs to other
/// content.
#[test]
fn what_vouches_for_the_old_content_is_not_taken_over() {
    let labels = Labels::find();
    let old = labels.directory.path().join("old");
    fs::write(&old, "old").unwrap();
    // Only root may set this attribute, and a kernel with IMA may refuse such a value.
    if xattr::set(&old, VOUCHERS[0], &[1; 21]).is_err() {
        return;
    }
    let new = labels.directory.path().join("new");
    write_new(&new, &[b"new"], Some(&old)).unwrap();
    assert_eq!(xattr::get(&new, VOUCHERS[0]).unwrap(), None);
}
