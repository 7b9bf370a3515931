//! `digestfix save`

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::claims::source;
use crate::claims::source::claims_file::MEMBER;
use crate::claims::source::collected::Collected;
use crate::cli::invocation::Invocation;
use crate::cli::{Compress, SaveArgs};
use crate::commands::exported::Exported;
use crate::commands::{Reach, Site, Stop, provenance, warn_of_pending};
use crate::image::reference::Reference;
use crate::image::saved_archive::member;
use crate::plan::carried::{Selection, Stock, Wanted, wanted_by};
use crate::report::output;
use crate::report::run_result::RunResult;
use crate::report::{Problem, Report, SavedDigest, SavedImage};
use crate::sys::interrupt::Interrupt;
use crate::sys::shell;
use crate::sys::whole_file::WholeFile;
use crate::transaction::image_store::ImageStore;
use crate::transaction::outcome::Progress;

mod carry;
mod compressed;
pub(super) mod told;

use carry::{CarryError, Sink, carry};
use compressed::{Compressed, Format};

/// The interval of progress messages.
const TOLD_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn run(args: &SaveArgs) -> RunResult {
    let invocation = Invocation::of(&args.host, args.content.containerd_root.as_deref());
    let mut report = Report::new("save", &args.output, invocation);
    match save(args, &mut report).await {
        Ok(()) => report.end(RunResult::Done),
        Err(SaveStop::Before(stop)) => stop.tell(report),
        Err(SaveStop::Amid { what, state, next }) => report.fail(
            RunResult::Failed,
            Problem {
                what: vec![what],
                state,
                next: Some(next),
            },
        ),
    }
}

/// Why digestfix has written no archive, or only a part of it.
enum SaveStop {
    Before(Stop),
    Amid {
        what: String,
        state: String,
        next: String,
    },
}

impl<T: Into<Stop>> From<T> for SaveStop {
    fn from(stop: T) -> Self {
        Self::Before(stop.into())
    }
}

/// The destination of the archive.
enum Target {
    File(WholeFile, PathBuf),
    Stdout,
}

impl Target {
    fn of(args: &SaveArgs) -> Result<Self, Stop> {
        match &args.output_file {
            None if output::is_terminal() => Err(Stop::Terminal),
            None => Ok(Self::Stdout),
            Some(path) => {
                let file = WholeFile::begin(path).map_err(|error| Stop::NoFile {
                    path: path.clone(),
                    error,
                })?;
                Ok(Self::File(file, path.clone()))
            }
        }
    }

    fn sink(&self, compress: Option<Compress>) -> io::Result<Box<dyn Sink>> {
        let plain: Box<dyn Sink> = match self {
            Self::File(file, _) => Box::new(Disk(file.file().try_clone()?)),
            Self::Stdout => Box::new(Pipe),
        };
        let format = match compress.unwrap_or_else(|| self.compress()) {
            Compress::None => return Ok(plain),
            Compress::Gzip => Format::Gzip,
            Compress::Zstd => Format::Zstd,
        };
        Ok(Box::new(Compressed::new(format, plain)?))
    }

    /// The compression that the extension of the file's name asks for.
    fn compress(&self) -> Compress {
        let Self::File(_, path) = self else {
            return Compress::None;
        };
        let ending = path.extension().and_then(OsStr::to_str);
        match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("gz" | "tgz") => Compress::Gzip,
            Some("zst" | "tzst") => Compress::Zstd,
            _ => Compress::None,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(_, path) => path.display().to_string(),
            Self::Stdout => "standard output".to_owned(),
        }
    }

    /// Describes what is at the destination after a failure.
    fn left(&self) -> String {
        match self {
            Self::File(_, path) => format!("{} is unchanged", path.display()),
            Self::Stdout => "the archive on standard output is incomplete; discard it".to_owned(),
        }
    }

    fn amid(&self, what: String, next: &str) -> SaveStop {
        SaveStop::Amid {
            what,
            state: self.left(),
            next: next.to_owned(),
        }
    }

    fn failed(&self, error: &CarryError, unit: &str) -> SaveStop {
        match error {
            CarryError::Engine(_) | CarryError::Archive(_) => self.amid(
                error.to_string(),
                &format!(
                    "read Docker's log (journalctl -u {} -n 50), then run the same command again",
                    shell::word(unit)
                ),
            ),
            CarryError::Write(error) => self.unwritten(error),
        }
    }

    fn unwritten(&self, error: &io::Error) -> SaveStop {
        let next = match (error.kind(), self) {
            (io::ErrorKind::StorageFull, _) => "make room, or name a file on another disk",
            (_, Self::File(..)) => "check that disk, or name a file on another disk",
            (_, Self::Stdout) => {
                "find out why the program that reads standard output ended, then run the same command again"
            }
        };
        self.amid(format!("{}: {error}", self.name()), next)
    }
}

struct Disk(File);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Sink for Disk {
    fn complete(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// Standard output as the target of an archive.
struct Pipe;

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        output::write_bytes(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Pipe {
    fn complete(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Box<dyn Sink> {
    fn complete(&mut self) -> io::Result<()> {
        (**self).complete()
    }
}

async fn save(args: &SaveArgs, report: &mut Report) -> Result<(), SaveStop> {
    let target = Target::of(args)?;
    let site = Site::find(&args.host, Reach::Bus).await?;
    report.host(&site.host);
    warn_of_pending(&site, report);
    let root = args.content.containerd_root.as_deref();
    let store = site.image_store(root, None).await?;
    let engine = store.engine();
    let engine = engine.ok_or_else(|| Stop::NoEngine(site.without_docker()))?;
    let selection = selected(args, &store, report)?;
    let (names, claims) = described(&selection, &store, &site, report)?;
    // Write the claims at the beginning of the archive, so that a reader of a stream gets
    // them early.
    let member = member(MEMBER, &claims).map_err(|error| target.unwritten(&error))?;

    let interrupt = Interrupt::listen().map_err(Stop::Signals)?;
    let sink = target
        .sink(args.compress)
        .map_err(|error| target.unwritten(&error))?;
    let digests = selection
        .images
        .values()
        .flat_map(|carried| &carried.digests);
    let total = store.archive_size(
        selection.images.keys(),
        digests.filter_map(Reference::digest),
    );
    let began = Instant::now();
    report.goes_on("waiting for Docker to gather the layers", began);
    let (mut first, mut last) = (None, None);
    let told = |bytes| {
        let first = *first.get_or_insert_with(Instant::now);
        if last.is_none_or(|last: Instant| last.elapsed() >= TOLD_EVERY) {
            last = Some(Instant::now());
            let text = told::progress(&target.name(), bytes, total, first.elapsed());
            report.goes_on(&text, began);
        }
    };
    let carried = tokio::select! {
        biased;
        signal = interrupt.wait() => {
            return Err(target.amid(
                format!("{signal} received"),
                "run the same command again at any time",
            ));
        }
        carried = carry(engine, &names, member, sink, told) => carried,
    };
    let bytes = carried.map_err(|error| target.failed(&error, site.unit()))?;
    let name = target.name();
    let amount = told::amount(bytes, selection.images.len(), began.elapsed());
    let mut way_on = String::new();
    match target {
        Target::File(file, path) => {
            let finished = file.finish();
            finished.map_err(|error| SaveStop::Amid {
                what: format!("{name}: {error}"),
                state: format!("{name} contains the complete archive, or was not changed"),
                next: "check that disk, then run the same command again".to_owned(),
            })?;
            way_on = format!(" On the other host: digestfix load {}", shell::path(&path));
        }
        Target::Stdout => {}
    }
    report.saved(args.output_file.as_deref(), bytes);
    report.beside(&format!("{name}: {amount}.{way_on}"));
    Ok(())
}

/// The images that the user named on the command line or in files.
fn wanted(args: &SaveArgs, report: &mut Report) -> Result<Vec<Wanted>, Stop> {
    let mut wanted = args.images.clone();
    if !args.from.is_empty() {
        let collected = source::read(&args.from, Collected::default())?;
        let named = wanted_by(&collected);
        if named.is_empty() {
            for remark in &collected.remarks {
                report.warning(remark);
            }
            return Err(Stop::NothingNamed);
        }
        wanted.extend(named);
    }
    Ok(wanted)
}

/// Selects the images to save.
fn selected(
    args: &SaveArgs,
    store: &ImageStore<'_>,
    report: &mut Report,
) -> Result<Selection, Stop> {
    let references: Vec<_> = store.references().references().collect();
    let stock = Stock {
        references: &references,
        images: &store.images()?,
        ids_are_digests: store.is_in_containerd(),
        apart: &store.apart(),
    };
    let selection = match args.all {
        true => Selection::all(&stock),
        false => Selection::of(&wanted(args, report)?, &stock),
    };
    if !selection.missing.is_empty() {
        return Err(Stop::NotHere(selection.missing));
    }
    if selection.images.is_empty() {
        return Err(Stop::NoImages);
    }
    for pin in &selection.moved {
        report.warning(&format!(
            "{pin}: the tag belongs to another image here, so the archive has this image without the tag"
        ));
    }
    Ok(selection)
}

/// The names to save, and the claims to add to the archive. Reports the evidence for the
/// digest of each image.
fn described(
    selection: &Selection,
    store: &ImageStore<'_>,
    site: &Site,
    report: &mut Report,
) -> Result<(Vec<String>, Vec<u8>), Stop> {
    let provenance = provenance(site.images(), report);
    let mut names = Vec::new();
    let mut references = Vec::new();
    let mut pins = BTreeSet::new();
    for (image, carried) in &selection.images {
        names.extend(carried.asked(image));
        let digests = carried.digests.iter();
        references.extend(digests.map(|digest| (digest.clone(), image.clone())));
        pins.extend(&carried.pins);
    }
    let mut exported = Exported::of(references, store, &provenance)?;
    for (image, carried) in &selection.images {
        let digests = exported.digests.iter();
        let known: Vec<_> = digests
            .filter(|(_, other, _)| other == image)
            .map(|(reference, _, known)| (reference, *known))
            .collect();
        let described = known.iter().map(|(reference, known)| SavedDigest {
            reference: reference.familiar(),
            known: known.word(),
        });
        report.saves(SavedImage {
            image_id: image.to_string(),
            names: carried.asked(image),
            digests: described.collect(),
        });
        report.beside(&told::image(&carried.asked(image), &known));
    }
    for pin in pins {
        exported.give_tag(pin);
    }
    let claims = exported.text().map_err(Stop::Output)?;
    Ok((names, claims))
}
