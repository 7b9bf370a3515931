//! Detects whether the user's `docker` command connects to another Docker because of an
//! environment variable or a Docker context.

use std::env;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::sys::plain_file::{self, Links};

/// The maximum size of the `docker` command's configuration file, in bytes.
const MAX_CONFIG: u64 = 1024 * 1024;

const DEFAULT_CONTEXT: &str = "default";

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "currentContext", default)]
    current_context: String,
}

/// The setting that makes the `docker` command connect to a socket other than `socket`.
pub fn goes_elsewhere(socket: &Path) -> Option<String> {
    elsewhere(socket, |name| env::var(name).ok(), current_context)
}

fn elsewhere(
    socket: &Path,
    variable: impl Fn(&str) -> Option<String>,
    current_context: impl Fn(&Path) -> Option<String>,
) -> Option<String> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(host) = set("DOCKER_HOST") {
        let is_here = host.strip_prefix("unix://").map(Path::new) == Some(socket);
        return (!is_here).then(|| format!("DOCKER_HOST={host}"));
    }
    let chosen = set("DOCKER_CONTEXT");
    if chosen.is_none() {
        let directory = set("DOCKER_CONFIG").map(PathBuf::from);
        let directory = directory.or_else(|| Some(Path::new(&set("HOME")?).join(".docker")))?;
        let context = current_context(&directory)?;
        return (context != DEFAULT_CONTEXT).then(|| format!("docker context use {context}"));
    }
    let context = chosen.filter(|context| context != DEFAULT_CONTEXT)?;
    Some(format!("DOCKER_CONTEXT={context}"))
}

fn current_context(directory: &Path) -> Option<String> {
    let path = directory.join("config.json");
    let bytes = plain_file::read_whole(&path, Links::Followed, MAX_CONFIG).ok()??;
    let config: Config = serde_json::from_slice(&bytes).ok()?;
    Some(config.current_context).filter(|context| !context.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_elsewhere_is_named() {
        let socket = Path::new("/var/run/docker.sock");
        for (variables, context, expected) in [
            (&[][..], None, None),
            (
                &[("DOCKER_HOST", "unix:///var/run/docker.sock")],
                None,
                None,
            ),
            (&[("DOCKER_HOST", "")], None, None),
            (
                &[("DOCKER_HOST", "tcp://a:2376")],
                Some("x"),
                Some("DOCKER_HOST=tcp://a:2376"),
            ),
            (
                &[("DOCKER_CONTEXT", "far"), ("HOME", "/root")],
                None,
                Some("DOCKER_CONTEXT=far"),
            ),
            (
                &[("DOCKER_CONTEXT", "default"), ("HOME", "/root")],
                Some("far"),
                None,
            ),
            (
                &[("HOME", "/root")],
                Some("far"),
                Some("docker context use far"),
            ),
            (&[("HOME", "/root")], Some("default"), None),
        ] {
            let found = elsewhere(
                socket,
                |name| {
                    let set = variables.iter().find(|(other, _)| *other == name);
                    set.map(|(_, value)| (*value).to_owned())
                },
                |directory| {
                    assert_eq!(directory, Path::new("/root/.docker"));
                    context.map(str::to_owned)
                },
            );
            assert_eq!(found.as_deref(), expected, "{variables:?} {context:?}");
        }
    }
}
