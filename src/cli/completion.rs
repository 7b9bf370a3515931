//! Shell completion: offers commands and options from [`cli`], and names from the
//! reference store and the history of this host.
//!
//! The scripts in `packaging/completions` run digestfix with [`VARIABLE`] set, in the
//! protocol of `clap_complete`'s dynamic engine. The user waits in the middle of a line,
//! so completion only reads files and, on a Kubernetes node, asks containerd, which
//! answers in milliseconds. Completion does not ask systemd or Docker, and writes
//! nothing. If a file cannot be read, completion offers no names from that file.
//!
//! [`cli`]: crate::cli

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, ValueEnum as _};
use clap_complete::CompletionCandidate;
use clap_complete::env::{Bash, CompleteEnv, Fish, Shells, Zsh};
use tokio::runtime::Builder;

use crate::cli::Cli;
use crate::host::{Flags, Host, HostError, Management, StoreChoice, find_node, find_offline};
use crate::image::reference::Reference;
use crate::state::history;
use crate::store::node::NodeStore;
use crate::store::repositories::{self, Store};
use crate::sys::printable::is_printable;

/// Environment variable in which a completion script passes the name of its shell.
pub const VARIABLE: &str = "_DIGESTFIX_COMPLETE";

/// The timeout for each request to containerd.
const PATIENCE: Duration = Duration::from_millis(500);

/// If a shell asks for completions, prints them and ends the process.
pub fn answer() {
    CompleteEnv::with_factory(Cli::command)
        .var(VARIABLE)
        .shells(Shells(&[&Bash, &Fish, &Zsh]))
        .complete();
}

/// Completions for CLAIM: each reference with a recorded digest, and each tag followed by
/// `@sha256:`. After `REF=`, the images that REF may point at.
pub(crate) fn claims(typed: &OsStr) -> Vec<CompletionCandidate> {
    offered(typed, claims_in)
}

/// Completions for REF of `--remove`: the references that can be dropped.
pub(crate) fn references(typed: &OsStr) -> Vec<CompletionCandidate> {
    offered(typed, references_in)
}

/// Completions for NAME of `export`, which include repositories.
pub(crate) fn names(typed: &OsStr) -> Vec<CompletionCandidate> {
    offered(typed, names_in)
}

/// Completions for ID of `history` and `rollback`, the newest first.
pub(crate) fn transactions(typed: &OsStr) -> Vec<CompletionCandidate> {
    let (Some(typed), Some(host)) = (typed.to_str(), host()) else {
        return Vec::new();
    };
    let (ids, _) = history::scan(host.images.data_root(), |record| Some(record.id));
    candidates(ids.into_iter().rev().filter(|id| id.starts_with(typed)))
}

/// Completions for NAME of `--driver`: the drivers that have references.
pub(crate) fn drivers(typed: &OsStr) -> Vec<CompletionCandidate> {
    let root = flags(env::args_os()).data_root;
    let image = root
        .unwrap_or_else(|| PathBuf::from("/var/lib/docker"))
        .join("image");
    typed
        .to_str()
        .map_or_else(Vec::new, |typed| candidates(drivers_in(&image, typed)))
}

fn drivers_in(image: &Path, typed: &str) -> Vec<String> {
    let children = fs::read_dir(image).into_iter().flatten().flatten();
    sorted(
        children
            .filter(|driver| driver.path().join(repositories::FILE_NAME).exists())
            .filter_map(|driver| driver.file_name().into_string().ok())
            .filter(|driver| is_plain(driver) && driver.starts_with(typed))
            .collect(),
    )
}

/// Whether a name contains no character that is special to a shell. A name may come from
/// a disk of another host, and the shell may run as root.
fn is_plain(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

fn offered(
    typed: &OsStr,
    offer: impl FnOnce(&Store, &str) -> Vec<String>,
) -> Vec<CompletionCandidate> {
    let store = host().and_then(|host| store(&host));
    match (typed.to_str(), store) {
        (Some(typed), Some(store)) => candidates(offer(&store, typed)),
        _ => Vec::new(),
    }
}

fn candidates(texts: impl IntoIterator<Item = String>) -> Vec<CompletionCandidate> {
    let is_one_line = |text: &String| text.chars().all(is_printable);
    texts
        .into_iter()
        .filter(is_one_line)
        .map(CompletionCandidate::new)
        .collect()
}

/// Finds the host from the flags on the command line, daemon.json and containerd's sockets.
fn host() -> Option<Host> {
    let flags = flags(env::args_os());
    if flags.choice() != Some(StoreChoice::Kubernetes) {
        match find_offline(&flags) {
            Ok(host) => return Some(host),
            Err(HostError::ContainerdImageStore) => return None,
            Err(_) if flags.choice().is_some() => return None,
            Err(_) => {}
        }
    }
    waited_for(find_node(&flags, PATIENCE))?.ok()
}

fn store(host: &Host) -> Option<Store> {
    match &host.management {
        Management::Node(node) => {
            let client = node.client(PATIENCE);
            Some(waited_for(NodeStore::read(&client))?.ok()?.store)
        }
        Management::Offline | Management::Managed(_) => host.images.read().ok(),
    }
}

fn waited_for<T>(answer: impl Future<Output = T>) -> Option<T> {
    let runtime = Builder::new_current_thread().enable_all().build().ok()?;
    Some(runtime.block_on(answer))
}

/// Reads a command line, which may be incomplete. Returns its flags that say where Docker
/// is.
fn flags(line: impl IntoIterator<Item = OsString>) -> Flags {
    let mut flags = Flags::default();
    let mut words = line.into_iter().filter_map(|word| word.into_string().ok());
    while let Some(word) = words.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let mut value = || value.clone().or_else(|| words.next());
        match flag {
            "--data-root" => flags.data_root = value().map(PathBuf::from),
            "--driver" => flags.driver = value(),
            "--config-file" => flags.config_file = value().map(PathBuf::from),
            "--containerd-socket" => flags.containerd_socket = value().map(PathBuf::from),
            "--store" => {
                let choice = value().map(|value| StoreChoice::from_str(&value, false));
                flags.store = choice.and_then(Result::ok);
            }
            _ => {}
        }
    }
    flags
}

fn claims_in(store: &Store, typed: &str) -> Vec<String> {
    if let Some((reference, image)) = typed.split_once('=') {
        let mut images = references_in(store, image);
        // Offering all image IDs at once would hide the names.
        if !image.is_empty() {
            images.extend(
                store
                    .references()
                    .map(|(_, image)| image.to_string())
                    .filter(|id| id.starts_with(image)),
            );
        }
        return sorted(
            images
                .into_iter()
                .map(|image| format!("{reference}={image}"))
                .collect(),
        );
    }
    let mut claims = Vec::new();
    for (reference, image) in store.references() {
        let repository = reference.repository();
        if reference.digest().is_some() {
            claims.extend(written(&reference, typed));
            continue;
        }
        for tag in forms(&reference) {
            claims.push(format!("{tag}@sha256:"));
            let known = store.references().filter(|(other, of)| {
                other.repository() == repository && *of == image && other.tag().is_none()
            });
            for (pinned, _) in known {
                claims.extend(pinned.digest().map(|digest| format!("{tag}@{digest}")));
            }
        }
    }
    claims.retain(|claim| claim.starts_with(typed));
    sorted(claims)
}

fn references_in(store: &Store, typed: &str) -> Vec<String> {
    sorted(
        store
            .references()
            .filter_map(|(reference, _)| written(&reference, typed))
            .collect(),
    )
}

fn names_in(store: &Store, typed: &str) -> Vec<String> {
    let mut names = references_in(store, typed);
    names.extend(store.references().filter_map(|(reference, _)| {
        let repository = reference.repository();
        let forms = [repository.familiar(), repository.full()];
        forms.into_iter().find(|form| form.starts_with(typed))
    }));
    sorted(names)
}

/// Writes a reference the way the user began to type it: with `docker.io/library/` only
/// if the user typed that.
fn written(reference: &Reference, typed: &str) -> Option<String> {
    forms(reference)
        .into_iter()
        .find(|form| form.starts_with(typed))
}

fn forms(reference: &Reference) -> [String; 2] {
    [reference.familiar(), reference.full()]
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts.dedup();
    texts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    const ID: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
    const OTHER: &str = "sha256:2222222222222222222222222222222222222222222222222222222222222222";
    const DIGEST: &str = "sha256:3333333333333333333333333333333333333333333333333333333333333333";

    fn store() -> Store {
        let text = format!(
            r#"{{"Repositories":{{
                "localhost:5000/lab/app":{{
                    "localhost:5000/lab/app:v1":"{ID}",
                    "localhost:5000/lab/app@{DIGEST}":"{ID}"
                }},
                "httpd":{{"httpd:2.4":"{OTHER}"}}
            }}}}"#
        );
        Store::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_claim_goes_on_from_a_tag_to_the_digest() {
        let store = store();
        let app = "localhost:5000/lab/app";
        assert_eq!(
            claims_in(&store, "local"),
            [
                format!("{app}:v1@sha256:"),
                format!("{app}:v1@{DIGEST}"),
                format!("{app}@{DIGEST}"),
            ]
        );
        assert_eq!(claims_in(&store, "httpd:"), ["httpd:2.4@sha256:"]);
        assert_eq!(
            claims_in(&store, "docker.io/"),
            ["docker.io/library/httpd:2.4@sha256:"]
        );
        assert!(claims_in(&store, "nothing").is_empty());
    }

    #[test]
    fn a_reference_points_at_another_or_at_an_image() {
        let store = store();
        assert_eq!(
            claims_in(&store, "new:tag=h"),
            ["new:tag=httpd:2.4".to_owned()]
        );
        assert_eq!(
            claims_in(&store, "new:tag=sha256:2"),
            [format!("new:tag={OTHER}")]
        );
        assert!(
            !claims_in(&store, "new:tag=")
                .iter()
                .any(|claim| claim.starts_with("new:tag=sha256:"))
        );
    }

    #[test]
    fn what_is_dropped_and_what_is_exported() {
        let store = store();
        assert_eq!(references_in(&store, "httpd"), ["httpd:2.4"]);
        assert_eq!(names_in(&store, "httpd"), ["httpd", "httpd:2.4"]);
    }

    #[test]
    fn a_driver_is_offered_when_its_name_is_harmless() {
        let image = tempfile::tempdir().unwrap();
        let hostile = ["$(reboot)", "a;b", "a b", "`id`", "a\nb", "\u{e9}"];
        for name in ["vfs", "overlay2", "my_own.driver-1"]
            .iter()
            .chain(&hostile)
        {
            let driver = image.path().join(name);
            fs::create_dir(&driver).unwrap();
            fs::write(driver.join(repositories::FILE_NAME), "{}").unwrap();
        }
        fs::create_dir(image.path().join("empty")).unwrap();
        assert_eq!(
            drivers_in(image.path(), ""),
            ["my_own.driver-1", "overlay2", "vfs"]
        );
        assert_eq!(drivers_in(image.path(), "o"), ["overlay2"]);
        assert!(drivers_in(&image.path().join("nothing"), "").is_empty());
    }

    #[test]
    fn the_line_says_whose_images_are_meant() {
        let read = |line: &[&str]| flags(line.iter().map(OsString::from));
        let node = read(&["digestfix", "status", "--store", "kubernetes"]);
        assert_eq!(node.choice(), Some(StoreChoice::Kubernetes));
        let node = read(&["digestfix", "status", "--containerd-socket=/run/c.sock"]);
        assert_eq!(node.choice(), Some(StoreChoice::Kubernetes));
        assert_eq!(node.containerd_socket, Some(PathBuf::from("/run/c.sock")));
        let docker = read(&["digestfix", "status", "--store=docker"]);
        assert_eq!(docker.choice(), Some(StoreChoice::Docker));
        assert_eq!(
            read(&["digestfix", "status", "--store", "no"]).choice(),
            None
        );
    }

    #[test]
    fn the_line_says_where_docker_lives() {
        let line = [
            "digestfix",
            "apply",
            "--data-root",
            "/srv/docker",
            "--driver=vfs",
            "lo",
        ];
        let flags = flags(line.map(OsString::from));
        assert_eq!(flags.data_root, Some(PathBuf::from("/srv/docker")));
        assert_eq!(flags.driver.as_deref(), Some("vfs"));
        assert_eq!(flags.config_file, None);
    }
}
