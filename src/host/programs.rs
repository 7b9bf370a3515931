//! Recognizes Docker's programs by the names that Linux packages give them.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::host::engine_start::PROC;

/// The names of dockerd. In RHEL 7's packages, dockerd is called `dockerd-current`. In
/// the packages of 18.09, `dockerd` is a link to `dockerd-ce`.
const DOCKERD: [&str; 3] = ["dockerd", "dockerd-current", "dockerd-ce"];

/// The name of dockerd in RHEL 7's packages of Docker 1.12 and 1.13. No other package
/// uses this name.
const OLD_DOCKERD: &str = "dockerd-current";

/// The beginnings of the names of shims, the parent processes of containers. A shim is
/// called `containerd-shim-runc-v2` or similar. Before 18.09, it was called
/// `docker-containerd-shim`, or `docker-containerd-shim-current` on RHEL 7.
const SHIMS: [&str; 2] = ["containerd-shim", "docker-containerd-shim"];

/// The maximum length of a process name in the kernel, which shortens longer names
/// (`proc_pid_comm(5)`).
const MAX_NAME: usize = 15;

/// Whether the program at this path is dockerd.
pub fn is_dockerd(program: &str) -> bool {
    DOCKERD.contains(&file_name(program))
}

/// Whether the program at this path is a dockerd too old for the containerd image store.
pub fn is_old_dockerd(program: &str) -> bool {
    file_name(program) == OLD_DOCKERD
}

fn file_name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or_default()
}

/// The maximum number of bytes to read from a script.
const MOST_OF_SCRIPT: u64 = 4096;

/// The other programs that run containers on a host without Docker.
pub fn instead_of_docker() -> Vec<&'static str> {
    let is_there = |path: &str| Path::new(path).exists();
    let mut found = Vec::new();
    // Read only the beginning, because `docker` may be either a script from the package
    // podman-docker or a program of many MiB.
    let mut docker = Vec::new();
    let _ = File::open("/usr/bin/docker")
        .and_then(|file| file.take(MOST_OF_SCRIPT).read_to_end(&mut docker));
    let is_podmans =
        docker.starts_with(b"#!") && String::from_utf8_lossy(&docker).contains("podman");
    if is_podmans {
        found.push("Podman (as docker)");
    } else if is_there("/usr/bin/podman") {
        found.push("Podman");
    }
    if is_there("/run/crio/crio.sock") {
        found.push("CRI-O");
    }
    if is_there("/run/containerd/containerd.sock") {
        found.push("containerd");
    }
    found
}

/// The kind of container in which digestfix runs. `None` outside a container. Also `None`
/// in a container that runs systemd (`sd_booted(3)`).
pub fn container() -> Option<String> {
    if Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let kind = fs::read_to_string("/run/systemd/container");
    let kind = kind.map(|kind| kind.trim().to_owned()).ok();
    let marked = [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];
    let mut marked = marked
        .into_iter()
        .filter(|(mark, _)| Path::new(mark).exists());
    marked.next().map(|(_, kind)| kind.to_owned()).or(kind)
}

/// The kernel's name of a process (`proc_pid_comm(5)`).
pub fn program(pid: u32) -> String {
    fs::read_to_string(format!("{PROC}/{pid}/comm"))
        .map_or_else(|_| "hidden".to_owned(), |name| name.trim_end().to_owned())
}

/// Whether a process is a shim, the parent process of a container.
pub fn is_shim(pid: u32) -> bool {
    let name = program(pid);
    if name.len() < MAX_NAME {
        return false;
    }
    // The kernel shortens long names. The short names of docker-containerd and of its
    // shim are equal, so look at the command line.
    let Some(words) = words(&Path::new(PROC).join(format!("{pid}/cmdline"))) else {
        return SHIMS.iter().any(|shim| shim.starts_with(&name));
    };
    let file = words.first().map_or("", |first| file_name(first));
    SHIMS.iter().any(|shim| file.starts_with(shim))
}

/// The words in `cmdline` or `environ` of a process (`proc_pid_cmdline(5)`).
pub fn words(file: &Path) -> Option<Vec<String>> {
    let bytes = fs::read(file).ok()?;
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    let words = bytes.split(|byte| *byte == 0);
    Some(
        words
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect(),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn dockerd_has_several_names() {
        for name in ["dockerd", "/usr/bin/dockerd-current", "/a/dockerd-ce"] {
            assert!(is_dockerd(name), "{name}");
        }
        for name in ["docker", "dockerd-rootless.sh", "dockerd.sh", ""] {
            assert!(!is_dockerd(name), "{name}");
        }
    }

    #[test]
    fn some_names_tell_an_old_dockerd() {
        for (name, expected) in [
            ("/usr/bin/dockerd-current", true),
            ("dockerd-ce", false),
            ("/usr/bin/dockerd", false),
            ("", false),
        ] {
            assert_eq!(is_old_dockerd(name), expected, "{name}");
        }
    }

    #[test]
    fn a_shim_is_told_from_its_containerd() {
        for (name, expected) in [
            ("containerd-shim", true),
            ("containerd-shim-runc-v2", true),
            ("docker-containerd-shim", true),
            ("docker-containerd-shim-current", true),
            ("docker-containerd", false),
            ("docker-containerd-current", false),
            ("containerd", false),
            ("dockerd", false),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(name);
            std::os::unix::fs::symlink("/bin/sleep", &path).unwrap();
            let mut process = Command::new(&path).arg("100").spawn().unwrap();
            let cut = &name[..name.len().min(MAX_NAME)];
            // exec sets the name of the process before it sets the arguments.
            let line = format!("{PROC}/{}/cmdline", process.id());
            while program(process.id()) != cut || fs::read(&line).unwrap().is_empty() {
                std::thread::yield_now();
            }
            assert_eq!(is_shim(process.id()), expected, "{name}");
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}
