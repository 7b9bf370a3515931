//! The programs that take part in the contests.

use std::fs;
use std::path::{Path, PathBuf};

use crate::host::words;
use crate::measure::Place;

/// The directory with the sources of peers.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/size");

/// The programs that take part.
#[derive(Debug, Clone)]
pub struct Peers {
    /// The digestfix to measure, and perhaps a second build of it, by their names in the
    /// table.
    pub digestfix: Vec<(&'static str, PathBuf)>,
    /// The compiled `add.go`.
    pub moby: PathBuf,
    /// The path of `add.py`.
    pub python: PathBuf,
    /// The directory in which inputs are kept.
    pub inputs: PathBuf,
}

impl Peers {
    /// Finds the programs, and compiles the peer that exists only as source.
    pub fn find(program: &Path, beside: Option<&Path>, inputs: PathBuf) -> Self {
        let whole = |path: &Path| {
            fs::canonicalize(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let mut digestfix = vec![("digestfix", whole(program))];
        if let Some(beside) = beside {
            digestfix.push(("digestfix, the other", whole(beside)));
        }
        let moby = inputs.join("moby-store");
        let built = Place::here()
            .program("go")
            .args(["build", "-o"])
            .arg(&moby)
            .arg(Path::new(SOURCES).join("add.go"))
            // Debian's packages of moby do not contain Go modules.
            .envs([("GO111MODULE", "off"), ("GOPATH", "/usr/share/gocode")])
            .status()
            .expect("go runs");
        assert!(built.success(), "add.go could not be built");
        Self {
            digestfix,
            moby,
            python: Path::new(SOURCES).join("add.py"),
            inputs,
        }
    }

    /// The same programs, after copying digestfix into a directory of a machine.
    pub fn moved(&self, machine: &Path, directory: &str) -> Self {
        let digestfix = self
            .digestfix
            .iter()
            .enumerate()
            .map(|(at, (name, program))| {
                let moved = Path::new(directory).join(format!("digestfix-{at}"));
                let outside = machine.join(moved.strip_prefix("/").unwrap());
                fs::copy(program, outside).unwrap();
                (*name, moved)
            });
        Self {
            digestfix: digestfix.collect(),
            ..self.clone()
        }
    }
}

/// The words of a command: the program and its arguments.
pub fn command(program: &Path, arguments: &[&str]) -> Vec<String> {
    let mut all = vec![program.as_os_str()];
    all.extend(arguments.iter().map(std::ffi::OsStr::new));
    words(&all)
}

/// The words of a command that runs a shell script with the arguments `$1` and so on.
pub fn script(script: &str, arguments: &[&str]) -> Vec<String> {
    command(
        Path::new("sh"),
        &[&["-ec", script, "sh"], arguments].concat(),
    )
}
