//! Tar archives of OCI layouts. digestfix reads only the headers and the small files in
//! the archive.
//!
//! digestfix skips the layers. In a regular file, it seeks past the layers. It reads a
//! compressed file or a pipe once, and keeps only members that may be manifests or texts.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use tar::{EntryType, Header, PaxExtensions};

use crate::claims::source::Problem;
use crate::claims::source::blobs::{Blobs, most_of, name_in_layout};
use crate::claims::source::collected::Collected;
use crate::claims::source::{is_compressed, layout, registry, take_anything_else};
use crate::image::digest::{Algorithm, Digest};
use crate::image::saved_archive::Tail;

const BLOCK: usize = 512;

/// The number of bytes at the beginning of a layer that show whether the layer is
/// compressed.
const COMPRESSED_HEAD: u64 = 8;

pub const MAX_MEMBERS: usize = 1_000_000;

/// The longest extended tar header that digestfix reads, in bytes. Such a header contains
/// a long file name.
pub const MAX_HEADER_BYTES: u64 = 64 * 1024;

/// The most bytes that digestfix keeps in memory from an archive that it can read only
/// once.
pub const MAX_KEPT_BYTES: usize = 256 * 1024 * 1024;

/// Whether these bytes begin a tar archive: the first header has a correct checksum
/// (POSIX.1-2017, pax, "ustar Interchange Format").
pub(super) fn is_archive(head: &[u8]) -> bool {
    head.get(..BLOCK)
        .is_some_and(|block| block[0] != 0 && has_checksum(block))
}

fn has_checksum(block: &[u8]) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(at, byte)| u32::from(if FIELD.contains(&at) { b' ' } else { *byte }))
        .sum();
    Header::from_byte_slice(block)
        .cksum()
        .is_ok_and(|said| said == sum)
}

/// An archive in a file that can seek.
pub(super) struct SeekableArchive<R> {
    file: BufReader<R>,
    members: BTreeMap<String, (u64, u64)>,
    /// The position in the archive where the last file ends.
    end: u64,
}

impl<R: Read + Seek> SeekableArchive<R> {
    pub(super) fn index(file: R) -> Result<Self, Problem> {
        let mut file = BufReader::new(file);
        let length = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let mut members = BTreeMap::new();
        let mut walk = Members::new(&mut file, |file: &mut BufReader<R>, bytes| {
            file.seek_relative(i64::try_from(bytes).map_err(io::Error::other)?)
        });
        while let Some((name, size)) = walk.next()? {
            let start = walk.position;
            if size > length.saturating_sub(start) {
                return Err(Problem::Truncated);
            }
            if let Some(name) = wanted(&name) {
                members.insert(name, (start, size));
            }
        }
        let end = walk.end;
        Ok(Self { file, members, end })
    }

    /// Fails if the end of the archive is missing, or if other data follows it.
    pub(super) fn ends(&mut self) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(self.end))?;
        Tail::new(&mut self.file).ends_behind(0)
    }

    fn get(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        let Some(&(start, size)) = self.members.get(name) else {
            return Ok(None);
        };
        let limit = most_of(name);
        if size > limit {
            return Err(Problem::TooLarge {
                what: name.to_owned(),
                limit,
            });
        }
        self.file.seek(SeekFrom::Start(start))?;
        Ok(Some(exactly(&mut self.file, size)?))
    }
}

impl<R: Read + Seek> Archive for SeekableArchive<R> {
    fn names(&self) -> Vec<String> {
        self.members.keys().cloned().collect()
    }

    fn member(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        self.get(name)
    }
}

/// An archive's members that may contain claims or evidence.
pub(super) trait Archive {
    fn names(&self) -> Vec<String>;
    fn member(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem>;
    /// The digest of a layer. `None` if the layer is compressed, or if digestfix did not
    /// read the layer.
    fn layer(&self, _name: &str) -> Option<&Digest> {
        None
    }
}

/// A directory in an archive that contains one image: an OCI layout, or the output of
/// skopeo's `dir:`.
struct Within<'a, A> {
    archive: &'a mut A,
    /// The directory's path: empty, or ending with a slash.
    directory: &'a str,
}

impl<A: Archive> Blobs for Within<'_, A> {
    fn file(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        self.archive.member(&format!("{}{name}", self.directory))
    }

    fn layer(&self, name: &str) -> Option<&Digest> {
        self.archive.layer(&format!("{}{name}", self.directory))
    }

    fn blob(&mut self, digest: &Digest) -> Result<Option<Vec<u8>>, Problem> {
        let hex = digest.hex();
        let in_layout = name_in_layout(digest);
        for name in [in_layout, format!("{hex}.manifest.json"), hex.to_owned()] {
            if let Some(bytes) = self.file(&name)? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}

/// Reads claims from an archive. The archive is one OCI layout, or contains directories
/// with layouts and text files.
pub(super) fn read(
    archive: &mut impl Archive,
    place: &str,
    collected: &mut Collected,
) -> Result<(), Problem> {
    let names = archive.names();
    let has = |name: &str| {
        names
            .binary_search_by(|other| other.as_str().cmp(name))
            .is_ok()
    };
    if has("index.json") || has("manifest.json") && !has("version") {
        let directory = "";
        return layout::read_layout(&mut Within { archive, directory }, place, collected);
    }
    let (mut read, mut roots): (usize, Vec<&str>) = (0, Vec::new());
    for name in &names {
        let (directory, file) = name.split_at(name.rfind('/').map_or(0, |slash| slash + 1));
        let below = |name: &str| has(&format!("{directory}{name}"));
        let place = match directory.trim_end_matches('/') {
            "" => place.to_owned(),
            directory => format!("{place}:{directory}"),
        };
        let blobs = || {
            let blobs = format!("{directory}blobs/");
            let at = names.partition_point(|name| *name < blobs);
            names.get(at).is_some_and(|name| name.starts_with(&blobs))
        };
        if file == "index.json" && blobs() {
            layout::read_layout(&mut Within { archive, directory }, &place, collected)?;
        } else if file == "manifest.json" && below("version") {
            layout::read_skopeo_dir(&mut Within { archive, directory }, &place, collected)?;
        } else {
            continue;
        }
        read += 1;
        roots.push(directory);
    }
    for name in &names {
        if let Some(named) = registry::blob_of(name)
            && let Some(bytes) = small(archive.member(name))?
        {
            read += 1;
            registry::take(&bytes, &named, place, collected)?;
        }
        let in_root = roots.iter().any(|root| name.starts_with(root));
        if in_root || !is_text(name) {
            continue;
        }
        if let Some(bytes) = small(archive.member(name))? {
            read += 1;
            take_anything_else(&bytes, &format!("{place}:{name}"), collected)?;
        }
    }
    match read {
        0 => Err(Problem::Unknown),
        _ => Ok(()),
    }
}

/// Whether to check the layers of an archive that digestfix can read only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layers {
    /// Checks that each blob hashes to the digest in its name. Docker before 25 does not
    /// name layers by digest, so the digests of such layers are kept for a comparison
    /// with the config.
    Checked,
    PassedOver,
}

/// The files that digestfix keeps from an archive that it can read only once.
pub(super) struct StreamedArchive {
    members: BTreeMap<String, Vec<u8>>,
    layers: BTreeMap<String, Digest>,
    /// The position in the archive where the last file ends.
    pub(super) end: u64,
}

impl StreamedArchive {
    pub(super) fn read(mut stream: impl Read, check: Layers) -> Result<Self, Problem> {
        let (mut members, mut layers) = (BTreeMap::new(), BTreeMap::new());
        let mut kept = 0;
        let mut walk = Members::new(&mut stream, |stream, bytes| {
            let passed = io::copy(&mut stream.take(bytes), &mut io::sink())?;
            if passed == bytes {
                Ok(())
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        });
        while let Some((name, size)) = walk.next()? {
            let text = str::from_utf8(&name).ok();
            let text = text.filter(|_| check == Layers::Checked);
            let digest = text.and_then(named_digest);
            let Some(name) = wanted(&name).filter(|name| size <= most_of(name)) else {
                if let Some(digest) = digest {
                    let (found, _) = walk.digest(digest.algorithm())?;
                    is_named(&digest, &found)?;
                } else if let Some(name) = text.and_then(layer_name)
                    && let (found, false) = walk.digest(Algorithm::Sha256)?
                {
                    layers.insert(name.to_owned(), found);
                }
                continue;
            };
            let bytes = walk.content()?;
            if let Some(digest) = digest {
                is_named(&digest, &Digest::of(digest.algorithm(), &bytes))?;
            }
            let may_be_other = !is_text(&name) && name.contains('/');
            if may_be_other && !bytes.trim_ascii_start().starts_with(b"{") {
                continue;
            }
            kept += bytes.len();
            if kept > MAX_KEPT_BYTES {
                return Err(Problem::TooLarge {
                    what: "all manifests and configs together".to_owned(),
                    limit: MAX_KEPT_BYTES as u64,
                });
            }
            members.insert(name, bytes);
        }
        let end = walk.end;
        Ok(Self {
            members,
            layers,
            end,
        })
    }
}

impl Archive for StreamedArchive {
    fn names(&self) -> Vec<String> {
        self.members.keys().cloned().collect()
    }

    fn member(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        Ok(self.members.get(name).cloned())
    }

    fn layer(&self, name: &str) -> Option<&Digest> {
        self.layers.get(name)
    }
}

fn is_named(digest: &Digest, found: &Digest) -> Result<(), Problem> {
    match digest == found {
        true => Ok(()),
        false => Err(Problem::Tampered {
            named: digest.to_string(),
            found: found.to_string(),
        }),
    }
}

/// The digest that a blob's file name contains in an OCI layout.
fn named_digest(name: &str) -> Option<Digest> {
    let mut parts = name.rsplit('/');
    let (file, algorithm, blobs) = (parts.next()?, parts.next()?, parts.next()?);
    (blobs == "blobs")
        .then(|| format!("{algorithm}:{file}").parse().ok())
        .flatten()
}

/// The name of a layer in an archive that Docker before 25 or skopeo wrote. Such a name
/// does not contain the layer's digest; the image's config does.
fn layer_name(name: &str) -> Option<&str> {
    let name = name.strip_prefix("./").unwrap_or(name);
    name.ends_with(".tar").then_some(name)
}

/// Returns `None` for a member that is larger than any manifest, such as a layer.
fn small(member: Result<Option<Vec<u8>>, Problem>) -> Result<Option<Vec<u8>>, Problem> {
    match member {
        Err(Problem::TooLarge { .. }) => Ok(None),
        member => member,
    }
}

/// The name of a file in the archive, without `./`. `None` if the file cannot contain
/// claims or evidence.
fn wanted(name: &[u8]) -> Option<String> {
    let name = str::from_utf8(name).ok()?;
    let name = name.strip_prefix("./").unwrap_or(name);
    let file = name.rsplit('/').next()?;
    let is_blob = || named_digest(name).is_some();
    // skopeo's `dir:` names a blob by the digest without `sha256:`.
    let is_bare_blob = || format!("sha256:{file}").parse::<Digest>().is_ok();
    let of_registry = || registry::blob_of(name).is_some();
    (is_text(name) || file == "version" || is_blob() || is_bare_blob() || of_registry())
        .then(|| name.to_owned())
}

/// Whether a file in the archive has the name of a text file. digestfix does not try to
/// read other files as text, because most of the archive is layers.
fn is_text(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    extension.is_some_and(|extension| {
        ["json", "jsonl", "yaml", "yml", "txt", "csv", "tsv", "env"].contains(&extension)
    })
}

/// Reads the tar headers one by one. `skip` skips the content of a file.
struct Members<'a, R, S> {
    reader: &'a mut R,
    skip: S,
    position: u64,
    /// The number of bytes of the current file that are not read yet, including padding.
    left: u64,
    size: u64,
    count: usize,
    /// The position where the last file ends. The value is final only at the end of the
    /// archive.
    end: u64,
}

impl<'a, R: Read, S: FnMut(&mut R, u64) -> io::Result<()>> Members<'a, R, S> {
    fn new(reader: &'a mut R, skip: S) -> Self {
        Self {
            reader,
            skip,
            position: 0,
            left: 0,
            size: 0,
            count: 0,
            end: 0,
        }
    }

    /// Returns the name and size of the next regular file. `None` at the end of the
    /// archive.
    fn next(&mut self) -> Result<Option<(Vec<u8>, u64)>, Problem> {
        let mut long_name = None;
        let mut long_size = None;
        loop {
            self.pass(self.left)?;
            self.left = 0;
            self.end = self.position;
            let Some(block) = self.header()? else {
                return Ok(None);
            };
            self.count += 1;
            if self.count > MAX_MEMBERS {
                return Err(Problem::TooMany {
                    what: "members",
                    limit: MAX_MEMBERS,
                });
            }
            let header = Header::from_byte_slice(&block);
            let kind = header.entry_type();
            let size = header.entry_size().map_err(|_| Problem::BadHeader)?;
            if matches!(kind, EntryType::GNUSparse) {
                return Err(Problem::Sparse);
            }
            let is_file = kind.is_file() || kind.is_contiguous();
            let size = match long_size.take() {
                Some(long) if is_file => long,
                _ => size,
            };
            self.enter(size)?;
            match kind {
                EntryType::GNULongName => {
                    let mut name = self.small()?;
                    if name.last() == Some(&0) {
                        name.pop();
                    }
                    long_name = Some(name);
                }
                EntryType::XHeader => {
                    let records = self.small()?;
                    for record in PaxExtensions::new(&records) {
                        let record = record.map_err(|_| Problem::BadHeader)?;
                        match record.key_bytes() {
                            b"path" => long_name = Some(record.value_bytes().to_vec()),
                            b"size" => {
                                let size = record.value().ok().and_then(|size| size.parse().ok());
                                long_size = Some(size.ok_or(Problem::BadHeader)?);
                            }
                            key if key.starts_with(b"GNU.sparse.") => return Err(Problem::Sparse),
                            _ => {}
                        }
                    }
                }
                _ if is_file => {
                    let name = long_name
                        .take()
                        .unwrap_or_else(|| header.path_bytes().into_owned());
                    return Ok(Some((name, size)));
                }
                // A link has no content, even if its tar header states a size.
                EntryType::Link | EntryType::Symlink => {
                    self.left = 0;
                    long_name = None;
                }
                EntryType::XGlobalHeader | EntryType::GNULongLink => {}
                _ => long_name = None,
            }
        }
    }

    /// Reads the next header. `None` at the end of the archive, which is the end of the
    /// file or a block of zeros.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, Problem> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(Problem::Truncated),
                more => filled += more,
            }
        }
        self.position += BLOCK as u64;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if !has_checksum(&block) {
            return Err(Problem::BadHeader);
        }
        Ok(Some(block))
    }

    fn enter(&mut self, size: u64) -> Result<(), Problem> {
        self.size = size;
        self.left = size
            .checked_next_multiple_of(BLOCK as u64)
            .filter(|padded| i64::try_from(*padded).is_ok())
            .ok_or(Problem::BadHeader)?;
        Ok(())
    }

    fn pass(&mut self, bytes: u64) -> Result<(), Problem> {
        if bytes > 0 {
            (self.skip)(self.reader, bytes)?;
            self.position = self.position.saturating_add(bytes);
        }
        Ok(())
    }

    /// Reads the content of the current file. The caller must check the size first.
    fn content(&mut self) -> Result<Vec<u8>, Problem> {
        let bytes = exactly(self.reader, self.size)?;
        self.position += self.size;
        self.left -= self.size;
        Ok(bytes)
    }

    /// Reads the current file. Returns its digest, and whether the file is compressed.
    fn digest(&mut self, algorithm: Algorithm) -> Result<(Digest, bool), Problem> {
        let head = exactly(self.reader, self.size.min(COMPRESSED_HEAD))?;
        let compressed = is_compressed(&head);
        let rest = self.size - head.len() as u64;
        let whole = head.as_slice().chain(self.reader.by_ref().take(rest));
        let (digest, bytes) = Digest::of_stream(algorithm, whole)?;
        if bytes != self.size {
            return Err(Problem::Truncated);
        }
        self.position += self.size;
        self.left -= self.size;
        Ok((digest, compressed))
    }

    fn small(&mut self) -> Result<Vec<u8>, Problem> {
        if self.size > MAX_HEADER_BYTES {
            return Err(Problem::TooLarge {
                what: "a member's extended header".to_owned(),
                limit: MAX_HEADER_BYTES,
            });
        }
        self.content()
    }
}

fn exactly(reader: &mut impl Read, size: u64) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    reader.take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == size {
        Ok(bytes)
    } else {
        Err(Problem::Truncated)
    }
}
