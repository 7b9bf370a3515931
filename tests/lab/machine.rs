//! A temporary machine with a real systemd and a real dockerd.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// The drop-in of docker.service that a test may write.
const DROP_IN: &str = "/etc/systemd/system.control/docker.service.d/lab.conf";

/// The directory in which `tests/lab/prepare` keeps the root file systems.
fn cache() -> PathBuf {
    env::var_os("DIGESTFIX_LAB")
        .map_or_else(|| PathBuf::from("/var/cache/digestfix-lab"), PathBuf::from)
}

/// The directory in which machines are kept while they run.
fn run_directory() -> PathBuf {
    env::var_os("DIGESTFIX_LAB_RUN").map_or_else(|| cache().join("run"), PathBuf::from)
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/machine")
}

/// The program that the machines run: Cargo's debug build, if `DIGESTFIX_LAB_PROGRAM` does
/// not name another one.
pub fn program() -> PathBuf {
    env::var_os("DIGESTFIX_LAB_PROGRAM")
        .map_or_else(|| env!("CARGO_BIN_EXE_digestfix").into(), PathBuf::from)
}

/// The directory that all machines have below their own files: in it, digestfix is in
/// `/usr/local/bin`. The debug build has 80 MB, too much to copy for each machine.
fn layer() -> &'static Path {
    // A test boots several machines at once, in threads.
    static LAYER: OnceLock<PathBuf> = OnceLock::new();
    LAYER.get_or_init(make_layer)
}

fn make_layer() -> PathBuf {
    let program = program();
    let layer = program.with_file_name("lab-layer");
    let path = layer.join("usr/local/bin/digestfix");
    let inode = |path: &Path| fs::metadata(path).map(|file| file.ino()).ok();
    if inode(&path) != inode(&program) {
        fs::create_dir_all(path.with_file_name("")).expect("a directory can be made");
        let new = path.with_file_name(format!("digestfix-{}", std::process::id()));
        // A killed run whose process had the same number may have left it.
        let _ = fs::remove_file(&new);
        fs::hard_link(&program, &new).expect("the program can be linked");
        fs::rename(&new, &path).expect("the link can be renamed");
        // A rename over a link to the same file does nothing.
        let _ = fs::remove_file(new);
    }
    layer
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// Docker 20.10, systemd 247.
    Bullseye,
    /// Docker 20.10, systemd 252.
    Bookworm,
    /// Docker 26.1, systemd 257.
    Trixie,
    /// Docker 28.5, systemd 26x.
    Forky,
}

impl Suite {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }
}

/// The image in every machine's registry.
pub const APP: &str = "localhost:5000/lab/app";
/// Another image in the registry.
pub const OTHER: &str = "localhost:5000/lab/other";
/// Docker's reference store, which digestfix changes.
pub const STORE: &str = "/var/lib/docker/image/overlay2/repositories.json";
/// The socket of Docker's API. curl asks there in a tenth of the time of Docker's client.
const SOCKET: &str = "/run/docker.sock";

pub struct Machine {
    dir: PathBuf,
    init: String,
}

/// The result of a command.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Run {
    /// Checks the exit code. If it is another one, shows the output.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\n{}\n{}", self.stdout, self.stderr);
        self
    }

    /// The command in the advice ("Next:") that begins with these words, as it is printed.
    #[track_caller]
    pub fn next(&self, begins: &str) -> String {
        command(&format!("{}\n{}", self.stdout, self.stderr), begins)
    }
}

/// Runs digestfix, which refuses: it says all of this, and that it has touched nothing.
#[track_caller]
pub fn refuses(machine: &Machine, words: &[&str], says: &[&str]) -> Run {
    let run = machine.digestfix(words).exits(3);
    for part in says.iter().chain(&["nothing was touched"]) {
        assert!(
            run.stderr.contains(part),
            "{words:?}: {part}: {}",
            run.stderr
        );
    }
    run
}

/// The command in a text that begins with these words, after the first "Next:" if the text
/// has one. It ends before the first character that cannot be a part of it.
#[track_caller]
pub fn command(text: &str, begins: &str) -> String {
    let advice = text.split_once("Next: ").map_or(text, |(_, advice)| advice);
    let Some(at) = advice.find(begins) else {
        panic!("{begins:?} is not in {text}");
    };
    let (mut quoted, mut depth) = (false, 0);
    let mut rest = advice[at..].char_indices();
    let end = rest.find(|(place, character)| {
        match character {
            '\'' => quoted = !quoted,
            '(' if !quoted && !advice[..at + place].ends_with(' ') => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        let after = &advice[at + place..];
        let ends =
            after.starts_with(['\n', ';']) || after.starts_with(", ") || after.starts_with(" (");
        depth < 0 || (depth == 0 && !quoted && ends)
    });
    let line = end.map_or(&advice[at..], |(end, _)| &advice[at..at + end]);
    line.trim_end().to_owned()
}

impl Machine {
    pub fn boot(suite: Suite) -> Self {
        Self::boot_from(suite, "")
    }

    /// Boots a machine that has a separate disk with this file system, for the files that
    /// Docker and digestfix write.
    pub fn boot_on_disk(suite: Suite, file_system: &str) -> Self {
        Self::boot_from(suite, file_system)
    }

    fn boot_from(suite: Suite, disk: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = run_directory().join(format!("{}-{number}", std::process::id()));
        let booted = Command::new(script())
            .env("LAB_DISK", disk)
            .env("LAB_LAYER", layer())
            .arg("boot")
            .arg(cache().join(suite.name()))
            .arg(&dir)
            .output()
            .expect("the machine script runs");
        assert!(
            booted.status.success(),
            "{suite:?} does not boot (tests/lab/prepare builds it): {}",
            String::from_utf8_lossy(&booted.stderr)
        );
        Self {
            init: init_of(&dir),
            dir,
        }
    }

    /// Kills everything in the machine and boots it again. With `cut`, everything that is
    /// not on its disk is lost.
    pub fn reboot(&mut self, cut: bool) {
        let booted = Command::new(script())
            .arg("reboot")
            .arg(&self.dir)
            .args(cut.then_some("cut"))
            .output()
            .expect("the machine script runs");
        assert!(
            booted.status.success(),
            "it does not boot again: {}",
            String::from_utf8_lossy(&booted.stderr)
        );
        self.init = init_of(&self.dir);
    }

    /// Waits until the machine has shut down by itself.
    pub fn went_down(&self) {
        let init = Path::new("/proc").join(&self.init);
        let deadline = Instant::now() + Duration::from_secs(150);
        while init.exists() {
            assert!(Instant::now() < deadline, "it does not go down");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Installs the units as a package does, and enables all of them.
    pub fn install_units(&self) {
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
        for file in fs::read_dir(units).expect("there are units") {
            let file = file.expect("units can be listed");
            let name = file.file_name().to_string_lossy().into_owned();
            let unit = fs::read(file.path()).expect("a unit can be read");
            self.put(&format!("/etc/systemd/system/{name}"), &unit);
            if String::from_utf8_lossy(&unit).contains("[Install]") {
                self.sh(&format!("systemctl enable -q {name}"));
            }
        }
        self.sh("ln -sf /usr/local/bin/digestfix /usr/bin/digestfix; systemctl daemon-reload");
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "-t", &self.init, "-m", "-u", "-i", "-n", "-p", "-r", "-w", "--",
            ])
            .args(["/usr/bin/env", "-i", "HOME=/root", "LANG=C.UTF-8"])
            .arg("PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// The machine's first process, by its process ID outside of the machine.
    pub fn init(&self) -> &str {
        &self.init
    }

    /// The directory with all files of the machine. It exists until the machine is
    /// stopped.
    pub fn directory(&self) -> &Path {
        &self.dir
    }

    /// The path of the machine's network namespace.
    pub fn namespace(&self) -> PathBuf {
        Path::new("/proc").join(&self.init).join("ns/net")
    }

    /// The path outside of the machine for a path inside, including mounts.
    pub fn file(&self, path: &str) -> PathBuf {
        Path::new("/proc")
            .join(&self.init)
            .join(format!("root{path}"))
    }

    pub fn run(&self, words: &[&str]) -> Run {
        self.command(words).output().expect("nsenter runs").into()
    }

    /// Runs a script that must succeed, and returns its output, trimmed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let run = self.run(&["sh", "-ec", script]);
        assert_eq!(run.code, 0, "{script}\n{}\n{}", run.stdout, run.stderr);
        run.stdout.trim().to_owned()
    }

    /// Starts a script that runs in parallel to the test.
    pub fn background(&self, script: &str) -> Background {
        let child = self
            .command(&["setsid", "sh", "-c", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("nsenter runs");
        Background { child }
    }

    pub fn write(&self, path: &str, content: &str) {
        let quoted = content.replace('\'', "'\\''");
        self.sh(&format!(
            "mkdir -p \"$(dirname {path})\"; printf '%s' '{quoted}' >{path}"
        ));
    }

    /// Reads a file of the machine from outside.
    pub fn take(&self, path: &str) -> Vec<u8> {
        fs::read(self.dir.join(format!("root{path}"))).expect("the file is there")
    }

    /// Writes a file into the machine from outside, without a network.
    pub fn put(&self, path: &str, content: &[u8]) {
        fs::write(self.dir.join(format!("root{path}")), content).expect("there is room");
    }

    /// Types a command line in a shell.
    pub fn types(&self, line: &str) -> Run {
        self.run(&["bash", "-c", line])
    }

    /// Types a `systemctl edit` on a terminal. A script takes the place of the user at the
    /// editor; `$1` is the file.
    #[track_caller]
    pub fn edits(&self, line: &str, script: &str) {
        assert!(line.starts_with("systemctl edit "), "{line}");
        // Before the file, systemd may give the number of a line.
        let last = "for file; do :; done; set -- \"$file\"";
        self.write(
            "/run/editor",
            &format!("#!/bin/sh\nset -e\n{last}\n{script}\n"),
        );
        self.sh(&format!(
            "chmod 755 /run/editor; SYSTEMD_EDITOR=/run/editor script -qec '{line}' /dev/null"
        ));
    }

    pub fn digestfix(&self, words: &[&str]) -> Run {
        self.run(&[&["digestfix"], words].concat())
    }

    /// Runs digestfix, and returns each call that locks or changes a file.
    #[track_caller]
    pub fn writes(&self, words: &[&str]) -> Vec<String> {
        let trace = "/run/lab-calls";
        let calls = "trace=flock,/open,creat,\
            /^(mk|rename|link|symlink|unlink|rmdir|f?truncate|fallocate|f?chmod|[fl]?chown|[fl]?setxattr|utime)";
        let traced = [
            "strace",
            "-f",
            "-qq",
            "-y",
            "-e",
            "signal=none",
            "-e",
            calls,
            "-o",
            trace,
        ];
        let words = [&traced[..], &["digestfix"], words].concat();
        self.run(&words).exits(0);
        let calls = self.sh(&format!("cat {trace}"));
        let changes = calls.lines().filter(|call| {
            let opens = call.contains(" open");
            let to_write = ["O_WRONLY", "O_RDWR", "O_CREAT"];
            // digestfix locks this file only to find out whether a dockerd runs.
            let is_dockers = call.contains("flock") && call.contains("/volumes/metadata.db");
            !is_dockers && (!opens || to_write.iter().any(|flag| call.contains(flag)))
        });
        changes.map(str::to_owned).collect()
    }

    /// Runs digestfix with a fault injected.
    pub fn injected(&self, injection: &str, words: &[&str]) -> Run {
        let command = injecting(injection);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        self.run(&[&command, words].concat())
    }

    /// Like [`Self::injected`], but strace counts only the calls on this path.
    pub fn injected_at(&self, path: &str, injection: &str, words: &[&str]) -> Run {
        let mut command = injecting(injection);
        command.insert(1, format!("--trace-path={path}"));
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        self.run(&[&command, words].concat())
    }

    /// Loads an image with `docker load`. Its digest is then `<none>`, which is the
    /// problem that digestfix solves.
    pub fn load(&self, name: &str) {
        self.sh(&format!("docker load -q -i /lab/{name}.tar"));
        let listed = self.sh(&format!(
            "docker images --digests --format '{{{{.Digest}}}}' localhost:5000/lab/{name}"
        ));
        assert_eq!(listed, "<none>", "docker load does not bring a digest");
    }

    /// Copies an image's manifest from the machine's registry to `/lab/NAME.manifest`,
    /// and stops the registry again.
    pub fn bring_manifest(&self, name: &str) {
        self.sh(&format!(
            "systemctl start docker-registry
             until curl -sf localhost:5000/v2/ >/dev/null; do sleep 0.05; done
             curl -sf -H 'Accept: application/vnd.docker.distribution.manifest.v2+json' \
               localhost:5000/v2/lab/{name}/manifests/$(cat /lab/{name}.digest) >/lab/{name}.manifest
             systemctl stop docker-registry
             echo \"$(cut -d: -f2 /lab/{name}.digest)  /lab/{name}.manifest\" | sha256sum -c --quiet"
        ));
    }

    /// The digest that the machine's registry serves for an image.
    pub fn digest(&self, name: &str) -> String {
        self.sh(&format!("cat /lab/{name}.digest"))
    }

    pub fn id(&self, name: &str) -> String {
        self.sh(&format!("cat /lab/{name}.id"))
    }

    /// `NAME:v1@DIGEST` for an image of the lab.
    pub fn claim(&self, name: &str) -> String {
        format!("localhost:5000/lab/{name}:v1@{}", self.digest(name))
    }

    pub fn store(&self) -> String {
        self.sh(&format!("cat {STORE}"))
    }

    pub fn main_pid(&self) -> String {
        self.sh("systemctl show -p MainPID --value docker.service")
    }

    /// Whether the engine finds the image by its digest.
    pub fn engine_has(&self, name: &str) -> bool {
        self.engine_finds(&format!("localhost:5000/lab/{name}@{}", self.digest(name)))
    }

    /// Whether the engine finds an image by this reference.
    pub fn engine_finds(&self, reference: &str) -> bool {
        let url = format!("http://docker/images/{reference}/json");
        let asked = [
            "curl",
            "-sf",
            "-o",
            "/dev/null",
            "--unix-socket",
            SOCKET,
            &url,
        ];
        self.run(&asked).code == 0
    }

    /// Pulls one image by its tag and one by its digest from the machine's own registry.
    pub fn pull_both(&self) {
        self.sh("systemctl start docker-registry
             until curl -sf localhost:5000/v2/ >/dev/null; do sleep 0.05; done
             docker pull -q localhost:5000/lab/app:v1
             docker pull -q localhost:5000/lab/other@$(cat /lab/other.digest)
             systemctl stop docker-registry");
    }

    /// With version 1 of control groups, nspawn mounts them read-only. Remounts them
    /// writable, so that containers can run.
    pub fn allow_containers(&self) {
        self.sh(
            "[ -e /sys/fs/cgroup/cgroup.controllers ] || for c in /sys/fs/cgroup/*; do \
             mount -o remount,rw,bind $c 2>/dev/null || true; done",
        );
    }

    /// Installs a minimal unit for Docker, without a socket unit and without a containerd
    /// unit.
    pub fn install_seed_unit(&self) {
        self.sh(
            "systemctl disable -q --now docker.socket docker.service containerd.service 2>/dev/null
             systemctl mask -q docker.socket containerd.service
             ln -s /usr/sbin/dockerd /usr/local/bin/dockerd",
        );
        self.write(
            "/etc/systemd/system/docker.service",
            include_str!("../fixtures/seed/docker.service"),
        );
        self.sh("systemctl daemon-reload
             systemctl start docker || { journalctl --no-pager -b -u docker >&2; exit 1; }");
    }

    /// Adds a drop-in to docker.service, and makes systemd read it. The drop-in is in the
    /// directory of `systemctl set-property`. Files there do not keep digestfix from
    /// restarting a Docker that is older than they are.
    pub fn drop_in(&self, text: &str) {
        self.write(DROP_IN, text);
        self.sh("systemctl daemon-reload");
    }

    pub fn without_drop_in(&self) {
        self.sh(&format!("rm {DROP_IN}; systemctl daemon-reload"));
    }

    /// Whether no run is left to finish or undo, and no watchdog is waiting to do so.
    pub fn is_finished(&self) -> bool {
        let left = self.sh(
            "ls -A /var/lib/digestfix/pending /var/lib/docker/digestfix/journal.json 2>/dev/null | grep json || true
             systemctl list-units --no-legend --plain 'digestfix-watchdog-*' | grep -v ' failed ' || true",
        );
        left.is_empty()
    }

    /// Checks that Docker runs, and that digestfix has left only its lock and backups.
    #[track_caller]
    pub fn is_whole(&self) {
        assert!(self.is_finished());
        let state = self.sh(&format!(
            "systemctl show -p ActiveState,NeedDaemonReload docker.service
             curl -sf --unix-socket {SOCKET} http://docker/_ping; echo
             find /run/systemd/system -name '*digestfix*'"
        ));
        let mut lines: Vec<&str> = state.lines().collect();
        lines.sort_unstable();
        let expected = ["ActiveState=active", "NeedDaemonReload=no", "OK"];
        assert_eq!(lines, expected, "Docker runs, and the hold is gone");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new(script()).arg("stop").arg(&self.dir).status();
    }
}

fn init_of(dir: &Path) -> String {
    let init = fs::read_to_string(dir.join("init.pid")).expect("a machine has an init");
    init.trim().to_owned()
}

/// A script that runs in parallel to the test, and ends with it.
pub struct Background {
    child: Child,
}

impl Background {
    pub fn wait(mut self) -> Run {
        let status = self.child.wait().expect("it can be waited for");
        let read = |stream: Option<&mut dyn std::io::Read>| {
            let mut text = String::new();
            if let Some(stream) = stream {
                let _ = stream.read_to_string(&mut text);
            }
            text
        };
        Run {
            code: status.code().unwrap_or(-1),
            stdout: read(self.child.stdout.as_mut().map(|stream| stream as _)),
            stderr: read(self.child.stderr.as_mut().map(|stream| stream as _)),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// The command line that precedes digestfix's own, and that makes a system call fail,
/// delays it or sends a signal at it: `renameat2:error=EIO` (`strace(1)`, "Tampering").
pub fn injecting(injection: &str) -> Vec<String> {
    let call = injection.split(':').next().unwrap_or_default();
    let (trace, inject) = (format!("--trace={call}"), format!("--inject={injection}"));
    [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        &trace,
        &inject,
        "digestfix",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A test interrupts only one in this many system calls: every sixth call, or the number
/// in `DIGESTFIX_LAB_EVERY`.
pub fn every() -> usize {
    let every = env::var("DIGESTFIX_LAB_EVERY");
    every.map_or(6, |every| every.parse().expect("a number"))
}

/// Waits until a condition becomes true.
#[track_caller]
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(50));
    }
}
