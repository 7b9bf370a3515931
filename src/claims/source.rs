//! Sources: the files and archives with claims that users carry to an air-gapped site.
//! digestfix recognizes a file's format by its content.
//!
//! digestfix limits how much it reads from a file: see [`MAX_TEXT_BYTES`], [`MAX_FILES`],
//! [`MAX_DIRECTORY_DEPTH`], [`MAX_EXPANDED_BYTES`],
//! [`manifest::MAX_BYTES`](crate::image::manifest::MAX_BYTES),
//! [`MAX_INDEX_DEPTH`](crate::image::manifest::MAX_INDEX_DEPTH), and the constants of
//! [`archive`], [`layout`], [`pins`] and [`collected`].

use std::fs::File;
use std::io::{self, Cursor, Read, Seek};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::image::digest::DigestError;
use crate::image::manifest::ManifestError;
use crate::image::reference::ReferenceError;
use crate::image::saved_archive::Tail;
use crate::store::repositories::StoreError;
use crate::sys::plain_file::{self, Links};
use crate::sys::shell;
use crate::sys::strict_json::JsonError;

pub(crate) mod archive;
mod assignments;
mod blobs;
pub(crate) mod claims_dir;
pub(crate) mod claims_file;
pub mod collected;
mod concourse;
mod encoding;
mod fields;
pub mod json;
pub(crate) mod layout;
pub mod lines;
pub mod pins;
mod registry;
pub mod table;
mod verbose;
mod zstd;

use archive::{Layers, SeekableArchive, StreamedArchive, is_archive};
use blobs::{LayoutDir, SkopeoDir};
use collected::Collected;

/// The largest text file that digestfix reads, in bytes. A `repositories.json` of Docker
/// is smaller.
pub const MAX_TEXT_BYTES: u64 = 64 * 1024 * 1024;

/// The most files that digestfix reads below one directory.
pub const MAX_FILES: usize = 10_000;

pub const MAX_DIRECTORY_DEPTH: usize = 8;

/// The most bytes that digestfix decompresses from one file.
pub const MAX_EXPANDED_BYTES: u64 = 1024 * 1024 * 1024 * 1024;

/// The directory in which imgpkg lists the images of a bundle. digestfix skips all other
/// hidden files, because they are settings of programs.
const IMGPKG: &str = ".imgpkg";

/// The number of bytes at the beginning of a file that digestfix reads to recognize its
/// format.
pub const HEAD_BYTES: usize = 512;

const STDIN: &str = "-";

/// The first bytes of each gzip file (RFC 1952).
const GZIP: &[u8] = &[0x1f, 0x8b];

/// The number of bytes of an archive to read at once.
const AT_ONCE: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct SourceError {
    pub place: String,
    pub problem: Problem,
}

impl SourceError {
    pub fn help(&self) -> Option<String> {
        Some(match &self.problem {
            Problem::Tampered { .. }
            | Problem::WrongSize { .. }
            | Problem::ConfigSwapped { .. }
            | Problem::Exchanged { .. } => {
                "do not trust that file: find out who changed the file, and copy it again"
                    .to_owned()
            }
            Problem::Writable(path) => format!(
                "read the file before you trust it; then: chown root {path}; chmod go-w {path}",
                path = shell::word(path)
            ),
            _ => "fix that file or leave it out, then run the same command again".to_owned(),
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the path leads to neither a plain file, a directory, nor a pipe")]
    NotAFile,
    #[error("the path is a link that leads out of the directory")]
    Outside,
    #[error(
        "the content is not a source of digests, such as an OCI layout, a manifest, repositories.json, YAML, \
         a Dockerfile, a list of references, or the output of docker image inspect or \
         digestfix export"
    )]
    Unknown,
    #[error("the content is neither an archive nor UTF-8 text (invalid at byte {0})")]
    NotText(usize),
    #[error(
        "the text is not UTF-8 (invalid at byte {0}). Convert the file: iconv -f ENCODING -t UTF-8 FILE (ENCODING \
         is GBK, ISO-8859-1, SHIFT_JIS, …)"
    )]
    Encoding(usize),
    #[error("the content is UTF-16 text that is damaged or cut short: copy the file again")]
    Utf16,
    #[error("{what}: larger than {limit} bytes, the most that digestfix reads")]
    TooLarge { what: String, limit: u64 },
    #[error(
        "the content is a ZIP archive, which digestfix does not read. Unpack the archive (unzip), and give \
         the directory"
    )]
    Zip,
    #[error(
        "the content is compressed with {0}, but digestfix reads only gzip and zstd. Decompress the file \
         first ({0} -d)"
    )]
    Compressed(&'static str),
    #[error("more than {limit} {what}")]
    TooMany { what: &'static str, limit: usize },
    #[error("{what} nested more than {limit} deep")]
    TooDeep { what: &'static str, limit: usize },
    #[error(
        "the content is not an archive of images; if the file contains claims, use --from FILE"
    )]
    NoArchive,
    #[error("the archive is cut short or damaged ({0}): copy the archive again")]
    NotWhole(io::Error),
    #[error("the archive is cut short: copy the archive again")]
    Truncated,
    #[error("the archive is damaged: a header's checksum or size is wrong")]
    BadHeader,
    #[error(
        "the archive has sparse members, which digestfix does not read: make the archive without tar -S"
    )]
    Sparse,
    #[error("{0}")]
    Json(#[from] JsonError),
    #[error(
        "the content is not a source of digests: neither JSON ({0}) nor lines that name an image's digest"
    )]
    NotJson(JsonError),
    #[error(
        "the content is a template that is not rendered yet (line {0}). Render the template first: helm \
         template … | digestfix apply --from -"
    )]
    Template(usize),
    #[error("{0}: {1}")]
    InFile(&'static str, JsonError),
    #[error("the content is not YAML: {0}")]
    Yaml(String),
    #[error(
        "the content is neither a list of references (line {line}: {misfit}) nor YAML ({yaml})"
    )]
    Text {
        line: usize,
        misfit: String,
        yaml: String,
    },
    #[error("the content is not a Dockerfile: {0}")]
    Dockerfile(String),
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    #[error("{0}")]
    Store(StoreError),
    #[error("\"Id\": {0}")]
    NotAnImageId(DigestError),
    #[error(
        "the claims file has version {0}, but this digestfix reads only version {version}",
        version = claims_file::VERSION
    )]
    Version(u64),
    #[error("{0}: {1}")]
    Entry(String, String),
    #[error("--rewrite makes a name that is not valid: {0}")]
    Name(#[from] ReferenceError),
    #[error("TAMPERED WITH: the blob named {named} hashes to {found}")]
    Tampered { named: String, found: String },
    #[error("TAMPERED WITH: {digest} should have {said} bytes, but has {found}")]
    WrongSize {
        digest: String,
        said: u64,
        found: u64,
    },
    #[error(
        "TAMPERED WITH: manifest {manifest} names the config {image}, but the config stored \
         under that name hashes to {found}"
    )]
    ConfigSwapped {
        manifest: String,
        image: String,
        found: String,
    },
    #[error(
        "the archive contradicts itself: for {name}, manifest.json names the config {config}, but \
         index.json names the manifest {digest}, which belongs to {images}"
    )]
    Exchanged {
        name: String,
        config: String,
        digest: String,
        images: String,
    },
    #[error("users other than root can write to {0}")]
    Writable(String),
}

impl Problem {
    fn in_file(name: &'static str) -> impl FnOnce(JsonError) -> Self {
        move |error| Self::InFile(name, error)
    }

    fn at(self, path: &Path) -> SourceError {
        SourceError {
            place: path.display().to_string(),
            problem: self,
        }
    }
}

/// Reads claims from files, directories, and `-` (standard input). Fails at the first
/// file that digestfix cannot use. In a directory, a file of an unknown format only
/// causes a warning.
pub fn read(paths: &[PathBuf], mut collected: Collected) -> Result<Collected, SourceError> {
    for path in paths {
        let (said, remarks) = (collected.said, collected.remarks.len());
        let tags = collected.tags_left();
        if path.as_os_str() == STDIN {
            read_stream(io::stdin().lock(), "standard input", &mut collected)
                .map_err(|problem| problem.at(Path::new("standard input")))?;
        } else {
            read_path(path, &mut collected)?;
        }
        let place = path.display().to_string();
        if (said, remarks) == (collected.said, collected.remarks.len())
            && !collected.only_tags(&place, tags)
        {
            collected.remark(format!("{place}: no digest found"));
        }
    }
    Ok(collected)
}

fn read_path(path: &Path, collected: &mut Collected) -> Result<(), SourceError> {
    let place = path.display().to_string();
    let fail = |problem: Problem| problem.at(path);
    let metadata = path.metadata().map_err(|error| fail(error.into()))?;
    if metadata.file_type().is_fifo() {
        // The user named this pipe, for example by the shell's <(COMMAND). So a process
        // writes to the pipe, and reading it does not block forever.
        let pipe = File::open(path).map_err(|error| fail(error.into()))?;
        return read_stream(pipe, &place, collected).map_err(fail);
    }
    if !metadata.is_dir() {
        let file = plain_file::open(path, Links::Followed);
        let file = file.map_err(|error| fail(error.into()))?;
        return read_file(file, &place, collected).map_err(fail);
    }
    if read_as_image(path, &place, collected).map_err(fail)? {
        return Ok(());
    }
    let mut budget = MAX_FILES;
    let real = path.canonicalize().map_err(|error| fail(error.into()))?;
    read_directory(path, &real, 1, &mut budget, collected)
}

/// Reads a directory that is an OCI layout, a directory that skopeo's `dir:` wrote, or the
/// storage of a registry. In any other directory, reads only the files that the CI system
/// Concourse writes, and returns false.
fn read_as_image(path: &Path, place: &str, collected: &mut Collected) -> Result<bool, Problem> {
    if path.join("index.json").is_file() && path.join("blobs").is_dir() {
        let real = path.canonicalize()?;
        layout::read_layout(&mut LayoutDir(&real), place, collected)?;
    } else if path.join("manifest.json").is_file() && path.join("version").is_file() {
        let real = path.canonicalize()?;
        layout::read_skopeo_dir(&mut SkopeoDir(&real), place, collected)?;
    } else if let Some(storage) = registry::storage(path) {
        let real = storage.canonicalize()?;
        if !real.starts_with(path.canonicalize()?) {
            return Err(Problem::Outside);
        }
        registry::read(&real, place, collected)?;
    } else {
        concourse::read(path, place, collected)?;
        return Ok(false);
    }
    Ok(true)
}

/// Reads all files below a directory. A symbolic link may not point outside of `top`, the
/// directory that the user named.
fn read_directory(
    directory: &Path,
    top: &Path,
    depth: usize,
    budget: &mut usize,
    collected: &mut Collected,
) -> Result<(), SourceError> {
    let fail = |problem: Problem| problem.at(directory);
    if depth > MAX_DIRECTORY_DEPTH {
        return Err(fail(Problem::TooDeep {
            what: "directories",
            limit: MAX_DIRECTORY_DEPTH,
        }));
    }
    for path in entries(directory, budget).map_err(fail)? {
        let place = path.display().to_string();
        if path.is_dir() {
            let stays = path.canonicalize().is_ok_and(|real| real.starts_with(top));
            if !stays {
                collected.remark(format!("{place}: skipped, because {}", Problem::Outside));
                continue;
            }
            let is_image = read_as_image(&path, &place, collected);
            if !is_image.map_err(|problem| problem.at(&path))? {
                read_directory(&path, top, depth + 1, budget, collected)?;
            }
            continue;
        }
        let opened = plain_file::open(&path, Links::Beneath(top)).map_err(Problem::from);
        let read = opened.and_then(|file| read_file(file, &place, collected));
        pass_over(read, &place, collected).map_err(|problem| problem.at(&path))?;
    }
    Ok(())
}

/// In a directory or archive, a file of an unknown format is not an error, but causes a
/// warning. A damaged file remains an error.
fn pass_over(
    read: Result<(), Problem>,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    match read {
        Err(
            problem @ (Problem::Unknown
            | Problem::NotText(_)
            | Problem::Encoding(_)
            | Problem::Utf16
            | Problem::Zip
            | Problem::Text { .. }
            | Problem::Template(_)
            | Problem::Compressed(_)
            | Problem::Dockerfile(_)
            | Problem::Outside
            | Problem::NotAFile
            | Problem::NotJson(_)),
        ) => {
            collected.remark(format!("{place}: skipped, because {problem}"));
            Ok(())
        }
        read => read,
    }
}

/// Reads a text file from an archive. A file of an unknown format only causes a warning.
fn take_anything_else(bytes: &[u8], place: &str, collected: &mut Collected) -> Result<(), Problem> {
    let read = read_plain(bytes, place, collected);
    pass_over(read, place, collected)
}

/// The entries of a directory, sorted by name, without hidden files.
fn entries(directory: &Path, budget: &mut usize) -> Result<Vec<PathBuf>, Problem> {
    let mut paths = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") && name != IMGPKG {
            continue;
        }
        *budget = budget.checked_sub(1).ok_or(Problem::TooMany {
            what: "files",
            limit: MAX_FILES,
        })?;
        paths.push(entry.path());
    }
    paths.sort();
    Ok(paths)
}

/// Reads claims from a file that can seek, such as a regular file.
pub fn read_file(
    mut file: impl Read + Seek,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    let head = head_of(&mut file)?;
    file.rewind()?;
    if is_archive(&head) {
        let mut archive = SeekableArchive::index(file)?;
        return archive::read(&mut archive, place, collected);
    }
    read_stream(file, place, collected)
}

/// Reads claims from a stream that can be read only once, such as a pipe.
pub fn read_stream(
    stream: impl Read,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    read_plain(expanded(stream)?, place, collected)
}

/// The content of a stream. Decompresses gzip and zstd.
fn expanded<'a>(mut stream: impl Read + 'a) -> Result<Box<dyn Read + 'a>, Problem> {
    let head = head_of(&mut stream)?;
    let is_gzip = head.starts_with(GZIP);
    let is_zstd = zstd::is_zstd(&head);
    let unread = unread_compression(&head);
    let whole = Cursor::new(head).chain(stream);
    if let Some(program) = unread {
        return Err(Problem::Compressed(program));
    }
    if !is_gzip && !is_zstd {
        return Ok(Box::new(whole));
    }
    let whole = io::BufReader::new(whole);
    let expanded: Box<dyn Read> = match is_gzip {
        true => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        false => Box::new(zstd::Frames::new(whole)),
    };
    Ok(Box::new(expanded.take(MAX_EXPANDED_BYTES)))
}

/// Returns an image archive as plain tar or gzip, which every engine reads. Decompresses
/// a zstd archive, because Docker 20.10 cannot load zstd.
pub fn for_an_engine<'a>(
    mut stream: impl Read + Send + 'a,
) -> Result<Box<dyn Read + Send + 'a>, Problem> {
    let head = head_of(&mut stream)?;
    let is_zstd = zstd::is_zstd(&head);
    let whole = Cursor::new(head).chain(stream);
    Ok(match is_zstd {
        true => Box::new(zstd::Frames::new(io::BufReader::new(whole))),
        false => Box::new(whole),
    })
}

/// Reads an image archive before an engine loads it. Checks the structure and the claims,
/// but skips the layers. If the archive is compressed, also checks the layers, because
/// digestfix must decompress the whole archive anyway.
pub fn read_archive(
    mut file: impl Read + Seek,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    let head = head_of(&mut file)?;
    file.rewind()?;
    if !is_archive(&head) {
        return read_whole_archive(file, place, collected);
    }
    let mut archive = SeekableArchive::index(file)?;
    archive.ends().map_err(Problem::NotWhole)?;
    archive::read(&mut archive, place, collected)
}

/// Reads an image archive to its end, and checks the layers.
pub fn read_whole_archive(
    stream: impl Read,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    let mut archive = checked(stream).map_err(|problem| match problem {
        Problem::Io(error) => Problem::NotWhole(error),
        other => other,
    })?;
    archive::read(&mut archive, place, collected)
}

fn checked(stream: impl Read) -> Result<StreamedArchive, Problem> {
    let mut stream = expanded(stream)?;
    let head = head_of(&mut stream)?;
    if !is_archive(&head) {
        return Err(Problem::NoArchive);
    }
    let mut whole = Tail::new(Cursor::new(head).chain(stream));
    let reader = io::BufReader::with_capacity(AT_ONCE, &mut whole);
    let archive = StreamedArchive::read(reader, Layers::Checked)?;
    whole.ends_behind(archive.end)?;
    Ok(archive)
}

/// Whether the beginning of a file looks like a tar archive or a compressed file.
pub fn may_be_archive(head: &[u8]) -> bool {
    is_archive(head) || head.starts_with(GZIP) || zstd::is_zstd(head)
}

fn read_plain(
    mut stream: impl Read,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    let head = head_of(&mut stream)?;
    let archive = is_archive(&head);
    let binary = binary_at(&head);
    let head_bytes = head.clone();
    let whole = Cursor::new(head).chain(stream);
    if archive {
        let mut archive = StreamedArchive::read(io::BufReader::new(whole), Layers::PassedOver)?;
        return archive::read(&mut archive, place, collected);
    }
    let is_wide = encoding::is_utf16(&head_bytes);
    if head_bytes.starts_with(b"PK\x03\x04") {
        return Err(Problem::Zip);
    }
    if let Some(at) = binary.filter(|_| !is_wide) {
        return Err(match encoding::may_be_text(&head_bytes) {
            true => Problem::Encoding(at),
            false => Problem::NotText(at),
        });
    }
    let mut bytes = Vec::new();
    whole.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(Problem::TooLarge {
            what: "the text".to_owned(),
            limit: MAX_TEXT_BYTES,
        });
    }
    if is_wide {
        let text = encoding::utf16(&bytes).ok_or(Problem::Utf16)?;
        return read_text_as(&text, Bytes::Recoded, place, collected);
    }
    read_text(text_of(&bytes)?, place, collected)
}

fn text_of(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|error| match encoding::may_be_text(bytes) {
        true => Problem::Encoding(error.valid_up_to()),
        false => Problem::NotText(error.valid_up_to()),
    })
}

/// Whether a text has the same bytes as the original file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bytes {
    AsTheyCame,
    /// A program rewrote the text as UTF-16, or added a byte-order mark.
    Recoded,
}

/// Reads claims from a text in any known format.
pub fn read_text(text: &str, place: &str, collected: &mut Collected) -> Result<(), Problem> {
    let bytes = match text.starts_with('\u{feff}') {
        true => Bytes::Recoded,
        false => Bytes::AsTheyCame,
    };
    read_text_as(text, bytes, place, collected)
}

fn read_text_as(
    text: &str,
    bytes: Bytes,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let begins = text.trim_start();
    if begins.is_empty() {
        collected.remark(format!("{place}: the content is empty"));
        return Ok(());
    }
    // A text that begins with `{{` is a template, for example of a Helm chart, and not
    // JSON.
    if begins.starts_with(['{', '[']) && !begins.starts_with("{{") {
        // INI, TOML, logs, and JSON with comments also begin with a bracket or brace.
        return match json::read(text, bytes, place, collected) {
            Err(_) if !json::is_json(text) && assignments::fits(text) => {
                assignments::read(text, place, collected)
            }
            Err(problem) if !json::is_json(text) => {
                let said = (collected.said, collected.remarks.len());
                let misfit = lines::read(text, place, collected)?;
                match problem {
                    _ if misfit.is_none() && said != (collected.said, collected.remarks.len()) => {
                        Ok(())
                    }
                    Problem::Json(error) => Err(Problem::NotJson(error)),
                    problem => Err(problem),
                }
            }
            read => read,
        };
    }
    let Some((line, misfit)) = pins::misfit(text) else {
        return pins::read_list(text, place, collected);
    };
    if table::read(text, place, collected)? {
        return Ok(());
    }
    if pins::is_dockerfile(text) {
        return pins::read_dockerfile(text, place, collected);
    }
    let yaml = match lines::is_console(text) {
        true => "the text is output of docker".to_owned(),
        false => match pins::read_yaml(text, place, collected) {
            Err(Problem::Yaml(yaml)) => yaml,
            read => return read,
        },
    };
    if assignments::fits(text) {
        return assignments::read(text, place, collected);
    }
    let said = (collected.said, collected.remarks.len());
    let broken = lines::read(text, place, collected)?;
    if broken.is_none() && said != (collected.said, collected.remarks.len()) {
        return Ok(());
    }
    let (line, misfit) = match broken {
        Some(broken) => (broken.line, broken.text),
        None => (line, misfit.to_string()),
    };
    if let Some(line) = text.lines().position(|line| line.contains("{{")) {
        return Err(Problem::Template(line + 1));
    }
    Err(Problem::Text { line, misfit, yaml })
}

/// The position of the first byte that is not text, in the beginning of a file. `None` if
/// all bytes may be text.
fn binary_at(head: &[u8]) -> Option<usize> {
    let cut = str::from_utf8(head).err();
    // An incomplete multi-byte character at the end of `head` is not an error, because
    // the file continues.
    let invalid = cut.filter(|error| error.error_len().is_some());
    let zero = head.iter().position(|byte| *byte == 0);
    invalid.map(|error| error.valid_up_to()).or(zero)
}

/// The program (xz or bzip2) that compressed this file in a format that digestfix cannot
/// decompress. `None` for any other file.
fn unread_compression(head: &[u8]) -> Option<&'static str> {
    match head {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some("bzip2"),
        _ => None,
    }
}

fn is_compressed(head: &[u8]) -> bool {
    head.starts_with(GZIP) || zstd::is_zstd(head) || unread_compression(head).is_some()
}

fn head_of(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    stream.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests;
