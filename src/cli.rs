//! The command line.

pub mod completion;
pub mod invocation;
pub mod plugin;

use std::convert::Infallible;
use std::env;
use std::error::Error;
use std::num::ParseIntError;
use std::path::{Path, PathBuf, absolute};
use std::process;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, ColorChoice, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::ArgValueCompleter;

use crate::claims::claim::{Claim, ClaimError};
use crate::claims::rewrite::Rewrite;
use crate::claims::trust::Trust;
use crate::cli::invocation::{Invocation, typed_instead};
use crate::cli::plugin::Line;
use crate::host::impact::{Allowed, ContainerPolicy};
use crate::host::{Flags, StoreChoice};
use crate::image::reference::Reference;
use crate::plan::carried::Wanted;
use crate::state::id;
use crate::state::retention::Limits;
use crate::sys::printable::printable;
use crate::sys::shell;
use crate::transaction::watchdog;

/// The file name extension that node_exporter expects.
const METRICS_ENDING: &str = ".prom";

const EXIT_CODES: &str = "Exit codes:
  0  done, or nothing to do
  1  failed; the host is as it was found
  2  usage
  3  refused; nothing was touched
  4  changes are pending, no claim could be applied, or status shows a problem
  5  the host is not completely as it should be; do what Next says
  6  done, but a container is not as it was";

const DOCTOR_EXIT_CODES: &str = "Exit codes:
  0  nothing would stop an apply
  2  usage
  3  something would stop an apply";

const CLAIMS: &str = "\
A CLAIM is one of:
  NAME:TAG@sha256:HEX  the image tagged NAME:TAG also has the reference NAME@sha256:HEX
  NAME@sha256:HEX      the same for the only image in repository NAME
  REF=IMAGE            reference REF (a tag or a digest) points at IMAGE: an image ID,
                       the beginning of an image ID, or another reference

digestfix recognizes a FILE by its content: an OCI layout or archive, skopeo's dir:, a raw
manifest or index, the output of docker image inspect or digestfix export, a
repositories.json, Kubernetes or compose YAML, a Dockerfile, a list of references.";

/// The arguments that say where images are.
const HOST: [&str; 8] = [
    "store",
    "containerd_socket",
    "data_root",
    "driver",
    "unit",
    "config_file",
    "socket",
    "offline",
];

/// Gives images on a Docker host their lost digests back.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Parses the command line of this process. If a shell asks for completions, answers
    /// the shell and ends the process. If the command line is not valid, reports that and
    /// ends the process.
    pub fn of_process() -> Self {
        completion::answer();
        let words = match plugin::line(env::args_os()) {
            Line::Words(words) => words,
            Line::Option(option) => Self::command()
                .error(
                    ErrorKind::UnknownArgument,
                    format!(
                        "{} is an option of docker, and digestfix cannot use it, because \
                         digestfix always works on this host's Docker; write digestfix's own \
                         options after the word digestfix: docker digestfix COMMAND --socket PATH",
                        printable(&option)
                    ),
                )
                .exit(),
        };
        Self::try_parse_from(&words).unwrap_or_else(|error| {
            if let Some(claim) = error.source().and_then(<dyn Error>::downcast_ref) {
                no_claim(claim);
            }
            // clap's message repeats the typed text, so make that text printable first.
            let typed = words
                .iter()
                .map(|word| printable(&word.to_string_lossy()).into_owned());
            match Self::try_parse_from(typed) {
                Err(printable) => printable.exit(),
                Ok(_) => error.exit(),
            }
        })
    }

    /// How many times `--verbose` was given.
    pub fn verbosity(&self) -> u8 {
        match &self.command {
            Command::Status(args) => args.output.verbose,
            Command::Plan(args) => args.output.verbose,
            Command::Apply(args) => args.output.verbose,
            Command::Load(args) => args.output.verbose,
            Command::Verify(args) => args.output.verbose,
            Command::Export(args) => args.verbose,
            Command::Save(args) => args.output.verbose,
            Command::Recover(args) => args.output.verbose,
            Command::Watchdog(_) | Command::Metadata => 0,
            Command::History(args) => args.output.verbose,
            Command::Rollback(args) => args.output.verbose,
            Command::Doctor(args) => args.output.verbose,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the references of this host, and what is wrong with each
    #[command(after_help = EXIT_CODES)]
    Status(StatusArgs),
    /// Show what apply would change, and what a restart of Docker would interrupt;
    /// touches nothing
    #[command(after_help = format!("{CLAIMS}\n\n{EXIT_CODES}"))]
    Plan(PlanArgs),
    /// Apply claims and verify the result; restarts Docker, except on the containerd
    /// image store
    #[command(after_help = format!("{CLAIMS}\n\n{EXIT_CODES}"))]
    Apply(ApplyArgs),
    /// Load image archives into Docker, and record the digests that they contain
    #[command(after_help = EXIT_CODES)]
    Load(LoadArgs),
    /// Check whether claims hold, in the image store and in the running engine
    #[command(after_help = format!("{CLAIMS}\n\n{EXIT_CODES}"))]
    Verify(VerifyArgs),
    /// Print this host's digests for use on other hosts, and the manifests that prove the
    /// digests (if this host still has them); touches nothing
    #[command(after_help = EXIT_CODES)]
    Export(ExportArgs),
    /// Save images with their digests to an archive that any Docker can load;
    /// touches nothing
    #[command(after_help = EXIT_CODES, mut_arg("json", |json| json.requires("output_file")))]
    Save(SaveArgs),
    /// Finish or undo an interrupted run
    #[command(after_help = EXIT_CODES)]
    Recover(RecoverArgs),
    /// Wait for a run to end, and recover the host if the run was killed
    #[command(hide = true)]
    Watchdog(WatchdogArgs),
    /// Print the description that docker requests from each plugin
    #[command(hide = true, name = plugin::METADATA)]
    Metadata,
    /// Show the transactions of this host, or all facts about one of them; touches
    /// nothing
    #[command(after_help = EXIT_CODES)]
    History(HistoryArgs),
    /// Undo one transaction; the undo is recorded as a transaction too
    #[command(after_help = EXIT_CODES)]
    Rollback(RollbackArgs),
    /// Find everything that would stop a change on this host, and say how to fix it;
    /// touches nothing
    #[command(after_help = DOCTOR_EXIT_CODES)]
    Doctor(DoctorArgs),
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Repositories or references to show; NAME may omit the first parts of the
    /// repository [default: all]
    #[arg(value_name = "NAME", value_parser = named, add = ArgValueCompleter::new(completion::names))]
    pub names: Vec<Reference>,
    /// Show only references with a problem, such as a missing digest
    #[arg(long)]
    pub problems: bool,
    /// Do not shorten names, digests and image IDs
    #[arg(long)]
    pub no_trunc: bool,
    /// The columns to show
    #[arg(long, value_enum, value_name = "LIST", value_delimiter = ',', conflicts_with = "json",
          default_values_t = [Column::State, Column::Name, Column::Digest, Column::ImageId])]
    pub columns: Vec<Column>,
    /// Print a table, or one JSON object (like --json)
    #[arg(long, value_enum, default_value_t = StatusFormat::Table)]
    pub format: StatusFormat,
    #[command(flatten)]
    pub content: ContentArgs,
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// A column of `digestfix status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Column {
    /// The problem, or the trust in the digest
    State,
    /// NAME:TAG
    Name,
    Repository,
    Tag,
    Digest,
    ImageId,
    /// The trust in the digest: proven, matched or asserted
    Trust,
    /// The source of the digest
    Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub request: RequestArgs,
    #[command(flatten)]
    pub containers: ContainerArgs,
    #[command(flatten)]
    pub restart: RestartArgs,
    #[command(flatten)]
    pub content: ContentArgs,
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    #[command(flatten)]
    pub request: RequestArgs,
    /// Only show the change, as digestfix plan does
    #[arg(long, hide = true, conflicts_with = "metrics")]
    pub dry_run: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub metrics: MetricsArgs,
}

#[derive(Debug, Args)]
pub struct LoadArgs {
    /// Archives of digestfix save or docker save, directories that contain archives, or
    /// "-" [default: standard input]
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// An archive, as with docker load --input (repeatable)
    #[arg(short, long, value_name = "FILE")]
    pub input: Vec<PathBuf>,
    #[command(flatten)]
    pub terms: TermsArgs,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub metrics: MetricsArgs,
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub request: RequestArgs,
    #[command(flatten)]
    pub content: ContentArgs,
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Repositories or references to export [default: all]
    #[arg(value_name = "NAME", value_parser = named, add = ArgValueCompleter::new(completion::names))]
    pub names: Vec<Reference>,
    /// The output format
    #[arg(long, value_enum, default_value_t = ExportFormat::Json)]
    pub format: ExportFormat,
    /// Write to a file, which appears or changes only when the output is complete
    /// [default: standard output]
    #[arg(short, long = "output", value_name = "FILE", value_parser = path())]
    pub output_file: Option<PathBuf>,
    #[command(flatten)]
    pub content: ContentArgs,
    #[command(flatten)]
    pub host: HostArgs,
    /// Log to standard error (-vv: more)
    #[arg(short, long, action = clap::ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// A claims file
    Json,
}

#[derive(Debug, Args)]
pub struct SaveArgs {
    /// Images by tag, by digest, by both (NAME:TAG@sha256:HEX) or by ID; a repository's
    /// name means all of its images
    #[arg(value_name = "IMAGE", required_unless_present_any = ["all", "from"], add = ArgValueCompleter::new(completion::names))]
    pub images: Vec<Wanted>,
    /// Save the images that a file names, such as Kubernetes or compose YAML, or a list
    /// of images (repeatable)
    #[arg(short, long, value_name = "FILE")]
    pub from: Vec<PathBuf>,
    /// Save every image that has a name
    #[arg(long, conflicts_with_all = ["images", "from"])]
    pub all: bool,
    /// Write to a file, which appears or changes only when the output is complete
    /// [default: standard output]
    #[arg(short, long = "output", value_name = "FILE", value_parser = path())]
    pub output_file: Option<PathBuf>,
    /// Compress the archive, using all processors [default: by the ending of the file's
    /// name (.gz, .tgz, .zst, .tzst); otherwise no compression]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub compress: Option<Compress>,
    #[command(flatten)]
    pub content: ContentArgs,
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compress {
    /// Any Docker can load the archive
    Gzip,
    /// Only Docker 23.0 and later can load the archive
    Zstd,
    /// No compression
    None,
}

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Recover only runs that began before this boot, and restore only files, because
    /// Docker does not run yet (digestfix-recover.service)
    #[arg(long, conflicts_with_all = HOST)]
    pub before_docker: bool,
    /// Recover only runs that began before this boot (digestfix-resume.service)
    #[arg(long, conflicts_with_all = HOST)]
    pub after_boot: bool,
    /// If another digestfix works on the same data root, wait at most this long until it
    /// ends
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub wait: Duration,
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub metrics: MetricsArgs,
}

#[derive(Debug, Args)]
pub struct WatchdogArgs {
    /// Docker's data root
    #[arg(value_parser = watchdog::decoded)]
    pub data_root: PathBuf,
    /// The transaction of the run to watch
    pub id: String,
}

#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The transaction to show in full
    #[arg(value_name = "ID", value_parser = transaction, add = ArgValueCompleter::new(completion::transactions))]
    pub id: Option<String>,
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The ID of the transaction to undo, from `digestfix history` [default: the newest
    /// apply or load that took effect and is not rolled back]
    #[arg(value_name = "ID", value_parser = transaction, add = ArgValueCompleter::new(completion::transactions))]
    pub id: Option<String>,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub metrics: MetricsArgs,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub containers: ContainerArgs,
    #[command(flatten)]
    pub host: HostArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct RequestArgs {
    /// The digest or tag that an image should have [default if neither --from nor --remove
    /// is given: the files in /etc/digestfix/claims.d]
    #[arg(value_name = "CLAIM", add = ArgValueCompleter::new(completion::claims))]
    pub claims: Vec<Claim>,
    #[command(flatten)]
    pub terms: TermsArgs,
    /// Remove a reference, or an entry that Docker ignores (repeatable)
    #[arg(long, value_name = "REF", add = ArgValueCompleter::new(completion::references))]
    pub remove: Vec<Removal>,
}

/// Claims from files, and what these claims may change.
#[derive(Debug, Args)]
pub struct TermsArgs {
    /// Read claims from a file, a directory, or "-" (repeatable)
    #[arg(short, long, value_name = "FILE")]
    pub from: Vec<PathBuf>,
    /// In the claims of --from files, replace the beginning FROM of a repository name by
    /// TO (repeatable)
    #[arg(long, value_name = "FROM=TO")]
    pub rewrite: Vec<Rewrite>,
    /// Also restore each tag for which a file gives the image ID
    #[arg(long)]
    pub tags: bool,
    /// Refuse claims below this trust (asserted < matched < proven)
    #[arg(long, value_enum, value_name = "TRUST")]
    pub require: Option<Trust>,
    /// Overwrite conflicting references
    #[arg(long)]
    pub replace: bool,
    /// Accept a claimed digest that equals the ID of an image on this host
    #[arg(long)]
    pub allow_image_id_digest: bool,
}

/// How a change is made, and on which host.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    #[command(flatten)]
    pub containers: ContainerArgs,
    #[command(flatten)]
    pub restart: RestartArgs,
    #[command(flatten)]
    pub lock: LockArgs,
    #[command(flatten)]
    pub retention: RetentionArgs,
    #[command(flatten)]
    pub content: ContentArgs,
    #[command(flatten)]
    pub host: HostArgs,
}

/// What to do when another run is at work.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// If another digestfix works on the same data root, wait at most this long until it
    /// ends
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub wait: Duration,
}

/// How many backups to keep, and how long.
#[derive(Debug, Args)]
pub struct RetentionArgs {
    /// Keep at most this many backups of the references
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_backups: u32,
    /// Delete backups that are older than this; always keep the newest three
    #[arg(long, value_name = "DAYS", default_value_t = 90)]
    pub keep_days: u32,
}

/// What may happen to containers.
#[derive(Debug, Args)]
pub struct ContainerArgs {
    /// What may happen to running containers
    #[arg(long, value_enum, value_name = "POLICY", default_value_t = ContainerPolicy::Keep)]
    pub containers: ContainerPolicy,
}

impl ContainerArgs {
    /// What the user allows a command that does not restart Docker.
    pub const fn allowed(&self) -> Allowed {
        Allowed {
            containers: self.containers,
            force_restart: false,
        }
    }
}

/// What may happen to Docker.
#[derive(Debug, Args)]
pub struct RestartArgs {
    /// Restart Docker even if its configuration or unit has changed and digestfix cannot
    /// check the change first; Docker may fail to start
    #[arg(long)]
    pub force_restart: bool,
}

/// The options that say where images are.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Docker location (detected automatically)")]
pub struct HostArgs {
    /// The image store to work on [default: docker; kubernetes on a node without Docker]
    #[arg(long, value_enum, value_name = "STORE")]
    pub store: Option<StoreChoice>,
    /// The socket of a Kubernetes node's containerd [default:
    /// /run/containerd/containerd.sock, or the one of k3s and RKE2]
    #[arg(long, value_name = "PATH", value_parser = whole_path(),
        conflicts_with_all = ["data_root", "driver", "unit", "config_file", "socket", "offline"])]
    pub containerd_socket: Option<PathBuf>,
    /// Docker's data root
    #[arg(long, value_name = "DIR", value_parser = whole_path())]
    pub data_root: Option<PathBuf>,
    /// The storage driver
    #[arg(long, value_name = "NAME", add = ArgValueCompleter::new(completion::drivers))]
    pub driver: Option<String>,
    /// Docker's systemd unit [default: docker.service]
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,
    /// Docker's configuration file [default: /etc/docker/daemon.json]
    #[arg(long, value_name = "FILE", value_parser = whole_path())]
    pub config_file: Option<PathBuf>,
    /// The Unix socket of Docker's API [default: the one in the unit, or
    /// /var/run/docker.sock]
    #[arg(long, value_name = "PATH", value_parser = whole_path())]
    pub socket: Option<PathBuf>,
    /// Work without a daemon: on a mounted disk, or in a system image that is being built
    #[arg(long, conflicts_with_all = ["unit", "socket"])]
    pub offline: bool,
}

/// The location of the manifests that Docker has pulled.
#[derive(Debug, Args)]
pub struct ContentArgs {
    /// containerd's root directory, where Docker keeps manifests [default:
    /// /var/lib/containerd and DATA-ROOT/containerd/daemon]
    #[arg(long, value_name = "DIR", value_parser = whole_path())]
    pub containerd_root: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Print one JSON object to standard output at the end
    #[arg(long)]
    pub json: bool,
    /// Log to standard error (-vv: more)
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Use colours
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub color: ColorChoice,
    /// Print nothing if nothing changed and all is well (-qq: also print nothing after a
    /// successful change)
    #[arg(short, long, conflicts_with = "verbose", action = clap::ArgAction::Count)]
    pub quiet: u8,
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct MetricsArgs {
    /// Write metrics of the run to a file (*.prom) for node_exporter's textfile
    /// collector
    #[arg(long, value_name = "FILE", value_parser = metrics_file)]
    metrics: Option<PathBuf>,
}

impl MetricsArgs {
    pub fn file(&self) -> Option<&Path> {
        self.metrics.as_deref()
    }
}

/// The exit code for a command line that cannot be understood.
const USAGE: i32 = 2;

/// Reports that an argument is not a claim, and ends the process.
fn no_claim(error: &ClaimError) -> ! {
    let text = error.text.as_str();
    let is_file = !text.is_empty() && Path::new(text).exists();
    let what = match is_file {
        true => format!("{text:?} is not a claim, and a file here has that name"),
        false => error.to_string(),
    };
    let next = match &error.instead {
        _ if is_file => typed_instead(text, &["--from", text]),
        Some(instead) => typed_instead(text, &[instead]),
        None if error.lacks_digest() => Some(format!(
            "to see the digest of this image on this host: {}",
            Invocation::of_process(text)
                .in_full(&format!("digestfix status {}", shell::word(text)))
        )),
        None if error.is_elsewhere => {
            Some("on a host that pulled the image: docker images --digests --no-trunc".to_owned())
        }
        None => None,
    };
    let next =
        next.unwrap_or_else(|| "for the syntax of a claim: digestfix apply --help".to_owned());
    eprintln!(
        "digestfix: usage: {}\n  Now:  nothing was touched\n  Next: {}",
        printable(&what),
        printable(&next)
    );
    process::exit(USAGE);
}

/// Parses a path. The path must be UTF-8, because digestfix writes it to a journal, a
/// record and a unit file.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    NonEmptyStringValueParser::new().map(PathBuf::from)
}

/// Parses a path, and makes it absolute, so that a command in a message works in any
/// directory.
fn whole_path() -> impl TypedValueParser<Value = PathBuf> {
    path().map(|path| absolute(&path).unwrap_or(path))
}

fn seconds(text: &str) -> Result<Duration, ParseIntError> {
    let seconds: u32 = text.parse()?;
    Ok(Duration::from_secs(seconds.into()))
}

fn named(text: &str) -> Result<Reference, String> {
    Reference::parse(text).map_err(|error| error.to_string())
}

/// A reference or key to remove, as the user typed it.
#[derive(Debug, Clone)]
pub struct Removal {
    pub text: String,
    /// The reference, or the reason why the text is not a reference that can be removed.
    pub reference: Result<Reference, String>,
}

impl FromStr for Removal {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self {
            text: text.to_owned(),
            reference: removable(text),
        })
    }
}

fn removable(text: &str) -> Result<Reference, String> {
    let reference = Reference::parse(text).map_err(|error| error.to_string())?;
    if !reference.repository().is_found_by_familiar_name() {
        return Err(format!(
            "Docker would read {} as a name in another repository",
            reference.familiar()
        ));
    }
    match (reference.tag(), reference.digest()) {
        (Some(_), None) | (None, Some(_)) => Ok(reference),
        _ => Err(
            "the argument is neither one tag (NAME:TAG) nor one digest (NAME@sha256:HEX)"
                .to_owned(),
        ),
    }
}

impl From<ApplyArgs> for PlanArgs {
    fn from(args: ApplyArgs) -> Self {
        Self {
            request: args.request,
            containers: args.change.containers,
            restart: args.change.restart,
            content: args.change.content,
            host: args.change.host,
            output: args.output,
        }
    }
}

impl RequestArgs {
    /// Whether claims were typed or read with `--from`, rather than taken from
    /// `claims.d`.
    pub fn names_claims(&self) -> bool {
        !self.claims.is_empty() || !self.terms.from.is_empty() || !self.remove.is_empty()
    }
}

impl HostArgs {
    /// Whether no option says where Docker is, so that digestfix has to detect it.
    pub fn says_nothing(&self) -> bool {
        !self.offline && Flags::from(self) == Flags::default()
    }
}

fn transaction(text: &str) -> Result<String, &'static str> {
    if id::is_id(text) {
        Ok(text.to_owned())
    } else {
        Err("the text is not the ID of a transaction; to see the IDs: digestfix history")
    }
}

impl From<&RetentionArgs> for Limits {
    fn from(args: &RetentionArgs) -> Self {
        Self {
            backups: usize::try_from(args.keep_backups).unwrap_or(usize::MAX),
            days: args.keep_days,
        }
    }
}

impl From<&HostArgs> for Flags {
    fn from(args: &HostArgs) -> Self {
        Self {
            data_root: args.data_root.clone(),
            driver: args.driver.clone(),
            unit: args.unit.clone(),
            config_file: args.config_file.clone(),
            socket: args.socket.clone(),
            store: args.store,
            containerd_socket: args.containerd_socket.clone(),
        }
    }
}

impl From<Flags> for HostArgs {
    fn from(flags: Flags) -> Self {
        Self {
            data_root: flags.data_root,
            driver: flags.driver,
            unit: flags.unit,
            config_file: flags.config_file,
            socket: flags.socket,
            store: flags.store,
            containerd_socket: flags.containerd_socket,
            offline: false,
        }
    }
}
/// Parses a file name that node_exporter accepts.
fn metrics_file(text: &str) -> Result<PathBuf, String> {
    match Path::new(text).file_name().and_then(|name| name.to_str()) {
        Some(name) if name.len() > METRICS_ENDING.len() && name.ends_with(METRICS_ENDING) => {
            Ok(text.into())
        }
        _ => Err(format!(
            "node_exporter reads only files whose names end in {METRICS_ENDING}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_node_exporter_reads_is_a_name_of_a_metrics_file() {
        for good in ["digestfix.prom", "/var/lib/node_exporter/a.prom"] {
            assert_eq!(metrics_file(good), Ok(PathBuf::from(good)));
        }
        for bad in ["", ".prom", "a.txt", "a.prom.new", "/", "a.prom/..", "-"] {
            assert!(metrics_file(bad).is_err(), "{bad}");
        }
    }
}
