use super::*;
use crate::transaction::hosts_file::{HostsFile, PutBack};

const FOUND: &str = "127.0.0.1 localhost\n";

fn found() -> (TempDir, PathBuf) {
    let root = TempDir::new().unwrap();
    let path = root.path().join("hosts");
    fs::write(&path, FOUND).unwrap();
    (root, path)
}

fn names() -> [String; 1] {
    ["quay.io".to_owned()]
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

/// What is in the directory.
fn files(root: &TempDir) -> Vec<String> {
    let files = fs::read_dir(root.path()).unwrap();
    let mut names: Vec<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn inode(path: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap())
}

#[test]
fn the_very_same_file_comes_back() {
    let (root, path) = found();
    let before = inode(&path);
    let hosts = HostsFile::plan(&path, "x", &names()).unwrap();
    assert_eq!(
        hosts.put_back().unwrap(),
        PutBack::Nothing,
        "nothing was done"
    );
    hosts.add(&names()).unwrap();
    assert_eq!(
        text(&path),
        format!("{FOUND}127.0.0.1\tquay.io\t# digestfix x\n")
    );
    for expected in [PutBack::Found, PutBack::Nothing] {
        assert_eq!(hosts.put_back().unwrap(), expected);
        assert_eq!((text(&path).as_str(), inode(&path)), (FOUND, before));
        assert_eq!(files(&root), ["hosts"]);
    }
}

#[test]
fn an_edit_before_the_names_come_in_stays() {
    let (root, path) = found();
    let hosts = HostsFile::plan(&path, "x", &names()).unwrap();
    fs::write(&path, "10.0.0.1 new\n").unwrap();
    assert!(hosts.add(&names()).is_err());
    assert_eq!(hosts.put_back().unwrap(), PutBack::Nothing);
    assert_eq!(text(&path), "10.0.0.1 new\n");
    assert_eq!(files(&root), ["hosts"]);
}

#[test]
fn an_edit_while_the_names_are_there_stays() {
    // In place, as `echo >>` does it, and by another file, as editors do it.
    for in_place in [true, false] {
        let (root, path) = found();
        let hosts = HostsFile::plan(&path, "x", &names()).unwrap();
        hosts.add(&names()).unwrap();
        let edited = format!("{}10.0.0.1 new\n", text(&path));
        if in_place {
            fs::write(&path, edited).unwrap();
        } else {
            fs::write(root.path().join("other"), edited).unwrap();
            fs::rename(root.path().join("other"), &path).unwrap();
        }
        assert_eq!(hosts.put_back().unwrap(), PutBack::Theirs(None));
        assert_eq!(text(&path), format!("{FOUND}10.0.0.1 new\n"));
        assert_eq!(hosts.put_back().unwrap(), PutBack::Nothing);
        assert_eq!(files(&root), ["hosts"]);
    }
}

#[test]
fn a_file_without_the_names_is_left_as_it_is() {
    let (root, path) = found();
    let hosts = HostsFile::plan(&path, "x", &names()).unwrap();
    hosts.add(&names()).unwrap();
    fs::write(&path, "10.0.0.1 new\n").unwrap();
    assert_eq!(hosts.put_back().unwrap(), PutBack::Theirs(None));
    assert_eq!(text(&path), "10.0.0.1 new\n");
    assert_eq!(files(&root), ["hosts"]);
}

#[test]
fn what_an_open_editor_writes_into_the_file_that_was_found_comes_back() {
    let (root, path) = found();
    let hosts = HostsFile::plan(&path, "x", &names()).unwrap();
    let mut open = fs::OpenOptions::new().append(true).open(&path).unwrap();
    hosts.add(&names()).unwrap();
    std::io::Write::write_all(&mut open, b"10.0.0.1 new\n").unwrap();
    assert_eq!(hosts.put_back().unwrap(), PutBack::Found);
    assert_eq!(text(&path), format!("{FOUND}10.0.0.1 new\n"));
    // And where both were written to, nothing is lost either.
    let hosts = HostsFile::plan(&path, "x", &names()).unwrap();
    hosts.add(&names()).unwrap();
    std::io::Write::write_all(&mut open, b"10.0.0.2 late\n").unwrap();
    fs::write(&path, format!("{}10.0.0.3 else\n", text(&path))).unwrap();
    let PutBack::Theirs(Some(kept)) = hosts.put_back().unwrap() else {
        panic!("both were changed");
    };
    assert!(text(&kept).contains("late"));
    assert!(text(&path).contains("else") && !text(&path).contains("digestfix"));
    assert_eq!(files(&root).len(), 2);
}

#[test]
fn whatever_a_killed_run_left_is_brought_to_an_end() {
    let with = format!("{FOUND}127.0.0.1\tquay.io\t# digestfix x\n");
    let aside = "hosts.digestfix-x";
    for (name, left) in [
        (
            "half of the new file",
            vec![("hosts", FOUND), ("hosts.digestfix-x.new", "127.0")],
        ),
        ("before the trade", vec![("hosts", FOUND), (aside, &with)]),
        ("between", vec![("hosts", &with), (aside, FOUND)]),
        (
            "after the trade back",
            vec![("hosts", FOUND), (aside, &with)],
        ),
        (
            "the link of a trade in steps",
            vec![
                ("hosts", FOUND),
                (aside, &with),
                ("hosts.digestfix-x.old", FOUND),
            ],
        ),
        (
            "half of a trade in steps",
            vec![("hosts", &with), ("hosts.digestfix-x.old", FOUND)],
        ),
        (
            "half of theirs",
            vec![
                ("hosts", &with),
                (aside, FOUND),
                ("hosts.digestfix-x.next", "12"),
            ],
        ),
        ("no file at all", vec![(aside, FOUND)]),
    ] {
        let (root, path) = found();
        let contents = HostsFile::plan(&path, "x", &names()).unwrap();
        let contents = contents.contents().clone();
        fs::remove_file(&path).unwrap();
        for (name, text) in left {
            fs::write(root.path().join(name), text).unwrap();
        }
        let hosts = HostsFile::resume(&path, "x", contents);
        let put_back = hosts.put_back().unwrap();
        assert!(
            matches!(put_back, PutBack::Found | PutBack::Nothing),
            "{name}: {put_back:?}"
        );
        assert_eq!(text(&path), FOUND, "{name}");
        assert_eq!(files(&root), ["hosts"], "{name}");
    }
}
