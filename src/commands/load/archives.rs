//! Archives of a load: finds the archives, and reads all of them before Docker loads the
//! first one.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::claims::source::collected::{Collected, Whole};
use crate::claims::source::{self, HEAD_BYTES, SourceError};
use crate::commands::Stop;
use crate::report::Report;
use crate::sys::plain_file::{self, Links};
use crate::transaction::outcome::Progress;

const STDIN: &str = "-";

/// The place of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    File(PathBuf),
    Stdin,
}

impl Place {
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Stdin => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Stdin => f.write_str("standard input"),
        }
    }
}

/// An archive. If the archive is a file, digestfix has read it to its end, so the file is
/// complete.
#[derive(Debug)]
pub(super) struct Archive {
    pub place: Place,
    /// The images that the archive lists. Empty for standard input.
    pub whole: Vec<Whole>,
    pub bytes: Option<u64>,
}

/// The archives that the arguments name.
pub(super) fn places(
    files: &[PathBuf],
    input: &[PathBuf],
    report: &mut Report,
) -> Result<Vec<Place>, Stop> {
    let mut places = Vec::new();
    for path in files.iter().chain(input) {
        if path.as_os_str() == STDIN {
            places.push(Place::Stdin);
        } else if path.is_dir() {
            let within = within(path, report).map_err(|error| failed(path, error.into()))?;
            if within.is_empty() {
                return Err(Stop::NoArchives(path.clone()));
            }
            places.extend(within.into_iter().map(Place::File));
        } else {
            places.push(Place::File(path.clone()));
        }
    }
    if places.is_empty() {
        places.push(Place::Stdin);
    }
    Ok(places)
}

/// The archives in a directory, sorted by name, without hidden files.
fn within(directory: &Path, report: &mut Report) -> std::io::Result<Vec<PathBuf>> {
    let real = directory.canonicalize()?;
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            found.push(entry.path());
        }
    }
    found.sort();
    let at_most = u64::try_from(HEAD_BYTES).unwrap_or(u64::MAX);
    found.retain(|path| {
        let head = plain_file::read(path, Links::Beneath(&real), at_most);
        let is_archive = head.is_ok_and(|head| source::may_be_archive(&head));
        if !is_archive {
            report.warning(&format!(
                "{}: skipped, because this file is not an archive",
                path.display()
            ));
        }
        is_archive
    });
    Ok(found)
}

/// Reads the structure and the claims of every file. Refuses a file that is incomplete or
/// tampered with. Does not check the layers: [`sending`](super::sending) does that later.
pub(super) fn read(
    places: &[Place],
    collected: &mut Collected,
) -> Result<Vec<Archive>, SourceError> {
    let mut archives = Vec::new();
    for place in places {
        let Some(path) = place.path() else {
            archives.push(Archive {
                place: place.clone(),
                whole: Vec::new(),
                bytes: None,
            });
            continue;
        };
        let first = collected.whole.len();
        let read = plain_file::open(path, Links::Followed)
            .map_err(source::Problem::from)
            .and_then(|file| {
                let bytes = file.metadata()?.len();
                source::read_archive(file, &path.display().to_string(), collected)?;
                Ok(bytes)
            });
        let bytes = read.map_err(|problem| SourceError {
            place: path.display().to_string(),
            problem,
        })?;
        archives.push(Archive {
            place: place.clone(),
            whole: collected.whole.get(first..).unwrap_or_default().to_vec(),
            bytes: Some(bytes),
        });
    }
    Ok(archives)
}

fn failed(path: &Path, problem: source::Problem) -> Stop {
    Stop::Source(SourceError {
        place: path.display().to_string(),
        problem,
    })
}
