//! The claims directories. If the command line has no claims, `digestfix apply` reads the
//! files in these directories.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf, absolute};

use nix::errno::Errno;
use nix::sys::stat::makedev;

use crate::claims::source::collected::Collected;
use crate::claims::source::{
    MAX_DIRECTORY_DEPTH, MAX_FILES, Problem, SourceError, entries, read_path,
};

/// The claims directories, by precedence. As in `systemd.unit(5)`, a file overrides files
/// of the same name in later directories. An empty file or a link to `/dev/null` masks
/// them.
pub const DIRECTORIES: [&str; 3] = [
    "/etc/digestfix/claims.d",
    "/run/digestfix/claims.d",
    "/usr/lib/digestfix/claims.d",
];

/// The only user who is allowed to write to the claims files.
const ROOT: u32 = 0;

/// Mode bits that permit the group, or everyone, to write to a file.
const WRITABLE_BY_OTHERS: u32 = 0o022;
/// The sticky bit of a directory: only a file's owner can rename or remove the file.
const STICKY: u32 = 0o1000;

/// The most symbolic links that digestfix follows to one file. Linux has the same limit
/// (`path_resolution(7)`).
const MAX_LINKS: u32 = 40;

/// Reads every file in the claims directories. Returns `None` if no claims directory
/// exists. Fails if users other than root can write to a file.
pub fn read(nothing_yet: Collected) -> Result<Option<Collected>, SourceError> {
    read_from(&DIRECTORIES.map(PathBuf::from), ROOT, nothing_yet)
}

/// Like [`read`], but continues after a file that digestfix cannot use, and returns all
/// errors.
pub fn examine() -> (Option<Collected>, Vec<SourceError>) {
    examine_from(&DIRECTORIES.map(PathBuf::from), ROOT)
}

fn examine_from(directories: &[PathBuf], owner: u32) -> (Option<Collected>, Vec<SourceError>) {
    let sources = match list(directories, owner) {
        Ok(Some(sources)) => sources,
        Ok(None) => return (None, Vec::new()),
        Err(error) => return (None, vec![error]),
    };
    let mut collected = Collected::new(&[]);
    let read = sources.iter();
    let errors = read.filter_map(|source| read_one(source, owner, &mut collected).err());
    let errors = errors.collect();
    (Some(collected), errors)
}

fn read_from(
    directories: &[PathBuf],
    owner: u32,
    mut collected: Collected,
) -> Result<Option<Collected>, SourceError> {
    let Some(sources) = list(directories, owner)? else {
        return Ok(None);
    };
    for source in &sources {
        read_one(source, owner, &mut collected)?;
    }
    Ok(Some(collected))
}

/// Lists the files in the claims directories. Omits a file if an earlier directory has a
/// file of the same name. `None` if no claims directory exists.
fn list(directories: &[PathBuf], owner: u32) -> Result<Option<Vec<PathBuf>>, SourceError> {
    let mut found: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    let mut any = false;
    let mut budget = MAX_FILES;
    for directory in directories {
        let listed = match entries(directory, &mut budget) {
            Err(Problem::Io(error)) if error.kind() == io::ErrorKind::NotFound => continue,
            listed => listed.map_err(|problem| problem.at(directory))?,
        };
        any = true;
        let real = led_only_by(directory, owner).map_err(|problem| problem.at(directory))?;
        only_by(&real, owner, 0).map_err(|problem| problem.at(directory))?;
        for path in listed {
            if let Some(name) = path.file_name() {
                found.entry(name.to_owned()).or_insert(path);
            }
        }
    }
    Ok(any.then(|| found.into_values().collect()))
}

fn read_one(path: &Path, owner: u32, collected: &mut Collected) -> Result<(), SourceError> {
    let fail = |problem: Problem| problem.at(path);
    let metadata = path.metadata().map_err(|error| fail(error.into()))?;
    let is_null = metadata.file_type().is_char_device() && metadata.rdev() == makedev(1, 3);
    if is_null || metadata.is_file() && metadata.len() == 0 {
        return Ok(());
    }
    // Refuse a pipe, because `apply` would wait for another process to write to it.
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(fail(Problem::NotAFile));
    }
    let real = led_only_by(path, owner).map_err(fail)?;
    all_only_by(&real, owner, 0).map_err(fail)?;
    // Read the resolved path, because the link may have changed since it was checked.
    read_path(&real, collected)
}

/// Resolves the links of a path. Refuses a symbolic link unless root or `owner` owns the
/// link. Also refuses a directory on the path if any other user can write to it.
fn led_only_by(path: &Path, owner: u32) -> Result<PathBuf, Problem> {
    let mut ahead: Vec<OsString> = parts(&absolute(path)?);
    let mut real = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        if part == ".." {
            real.pop();
            continue;
        }
        only_by(&real, owner, STICKY)?;
        let next = real.join(part);
        let found = next.symlink_metadata()?;
        if !found.is_symlink() {
            real = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(io::Error::from(Errno::ELOOP).into());
        }
        if ![ROOT, owner].contains(&found.uid()) {
            return Err(Problem::Writable(next.display().to_string()));
        }
        let target = fs::read_link(&next)?;
        if target.is_absolute() {
            real = PathBuf::from("/");
        }
        ahead.extend(parts(&target));
    }
    Ok(real)
}

/// The parts of a path, in reverse order.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev();
    parts
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn all_only_by(path: &Path, owner: u32, depth: usize) -> Result<(), Problem> {
    only_by(path, owner, 0)?;
    if depth > MAX_DIRECTORY_DEPTH {
        return Err(Problem::TooDeep {
            what: "directories",
            limit: MAX_DIRECTORY_DEPTH,
        });
    }
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in path.read_dir()? {
            all_only_by(&entry?.path(), owner, depth + 1)?;
        }
    }
    Ok(())
}

/// Checks that only root and `owner` can write to a path. A path with the mode bit
/// `excuse` passes the check even if other users can write to it.
fn only_by(path: &Path, owner: u32, excuse: u32) -> Result<(), Problem> {
    let metadata = fs::symlink_metadata(path)?;
    let owned = [ROOT, owner].contains(&metadata.uid());
    let writable = metadata.mode() & WRITABLE_BY_OTHERS != 0 && metadata.mode() & excuse == 0;
    // Refuse a symbolic link below a claims directory, because it could point anywhere.
    if !owned || writable || metadata.is_symlink() {
        return Err(Problem::Writable(path.display().to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::{PermissionsExt, symlink};

    use nix::unistd::geteuid;
    use tempfile::TempDir;

    use super::*;

    struct Site {
        root: TempDir,
    }

    impl Site {
        fn new() -> Self {
            Self {
                root: tempfile::tempdir().unwrap(),
            }
        }

        fn directories(&self) -> Vec<PathBuf> {
            ["etc", "run", "usr"]
                .map(|name| self.root.path().join(name))
                .to_vec()
        }

        fn write(&self, path: &str, name: &str) -> PathBuf {
            let path = self.root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = if name.is_empty() {
                String::new()
            } else {
                format!("{name}@sha256:{}\n", "a".repeat(64))
            };
            fs::write(&path, text).unwrap();
            let own = |path: &Path, mode| {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            };
            own(path.parent().unwrap(), 0o755);
            own(&path, 0o644);
            path
        }

        fn read(&self) -> Result<Option<Collected>, SourceError> {
            read_from(&self.directories(), geteuid().as_raw(), Collected::new(&[]))
        }

        fn claims(&self) -> Vec<String> {
            let collected = self.read().unwrap().unwrap();
            let texts = collected.claims.iter().map(|claim| claim.text.as_str());
            texts
                .map(|text| text.split('@').next().unwrap().to_owned())
                .collect()
        }

        fn refuses(&self) {
            let error = self.read().unwrap_err();
            assert!(matches!(error.problem, Problem::Writable(_)), "{error}");
        }
    }

    #[test]
    fn no_directory_is_not_an_empty_one() {
        let site = Site::new();
        assert!(site.read().unwrap().is_none());
        fs::create_dir(site.root.path().join("run")).unwrap();
        assert!(site.read().unwrap().unwrap().claims.is_empty());
    }

    #[test]
    fn a_file_hides_those_of_its_name_further_back() {
        let site = Site::new();
        site.write("usr/a", "from-usr");
        site.write("usr/b", "b");
        site.write("usr/c", "c");
        site.write("usr/d", "d");
        site.write("run/a", "from-run");
        site.write("etc/a", "from-etc");
        site.write("etc/b", "");
        symlink("/dev/null", site.root.path().join("etc/c")).unwrap();
        assert_eq!(site.claims(), ["from-etc", "d"]);
    }

    #[test]
    fn a_source_that_cannot_be_used_hides_no_other_from_an_examination() {
        let site = Site::new();
        site.write("etc/a", "a");
        site.write("etc/c", "c");
        fs::write(site.root.path().join("etc/b"), "{").unwrap();
        let writable = site.write("etc/d", "d");
        fs::set_permissions(writable, fs::Permissions::from_mode(0o666)).unwrap();
        let (collected, errors) = examine_from(&site.directories(), geteuid().as_raw());
        assert_eq!(collected.unwrap().claims.len(), 2);
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(site.read().is_err());
    }

    #[test]
    fn what_others_may_write_is_refused() {
        for mode in [0o664, 0o646] {
            let site = Site::new();
            let path = site.write("etc/a", "a");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            site.refuses();
        }
        let site = Site::new();
        let path = site.write("etc/a", "a");
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o775)).unwrap();
        site.refuses();
    }

    #[test]
    fn a_link_is_judged_by_where_it_leads() {
        let site = Site::new();
        site.write("etc/other", "x");
        let path = site.write("elsewhere/a", "a");
        symlink(&path, site.root.path().join("etc/a")).unwrap();
        assert_eq!(site.claims(), ["a", "x"]);
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
        site.refuses();
    }

    #[test]
    fn each_link_on_the_way_is_judged() {
        let site = Site::new();
        let path = site.write("good/a", "a");
        site.write("hops/other", "x");
        let hop = site.root.path().join("hops/hop");
        symlink("../good/a", &hop).unwrap();
        fs::create_dir(site.root.path().join("etc")).unwrap();
        symlink("../hops/hop", site.root.path().join("etc/a")).unwrap();
        assert_eq!(site.claims(), ["a"]);
        let real = path.canonicalize().unwrap();
        assert_eq!(led_only_by(&hop, geteuid().as_raw()).unwrap(), real);
        fs::set_permissions(hop.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
        site.refuses();
    }

    #[test]
    fn links_that_lead_in_a_circle_are_refused() {
        let site = Site::new();
        let path = site.root.path().join("circle");
        symlink("circle", &path).unwrap();
        led_only_by(&path, geteuid().as_raw()).unwrap_err();
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused_whatever_is_in_it() {
        for mode in [0o777, 0o1777] {
            let site = Site::new();
            let path = site.write("elsewhere/a", "a");
            let claims_d = site.root.path().join("etc");
            fs::create_dir(&claims_d).unwrap();
            symlink(&path, claims_d.join("a")).unwrap();
            assert_eq!(site.claims(), ["a"]);
            fs::set_permissions(&claims_d, fs::Permissions::from_mode(mode)).unwrap();
            site.refuses();
        }
    }

    #[test]
    fn a_link_inside_a_directory_is_refused() {
        let site = Site::new();
        site.write("etc/dir/a", "a");
        assert_eq!(site.claims(), ["a"]);
        symlink("/etc/hostname", site.root.path().join("etc/dir/b")).unwrap();
        site.refuses();
    }
}
