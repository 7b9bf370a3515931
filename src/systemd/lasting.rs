//! A service that outlives the digestfix run that starts it. The service has a unit file
//! below `/run`, because every systemd since 219 accepts the same file. A transient unit
//! would need several variants, because versions of systemd accept different properties
//! in `StartTransientUnit`. Also, systemd before 243 misreads the property
//! `RestartForceExitStatus`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use crate::sys::directory;
use crate::systemd::{OwnService, SystemdError};

/// How long systemd waits until the program reports that it is ready. A working program
/// is ready immediately.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(30);

/// The prefix of the unit names of all services that outlive a run.
pub const PREFIX: &str = "digestfix-watchdog-";

/// The names of digestfix's units that have a unit file in this directory.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(PREFIX) && name.ends_with(".service"))
        .collect()
}

pub(super) fn write(directory: &Path, service: &OwnService) -> Result<(), SystemdError> {
    let path = directory.join(&service.name);
    let written = directory::remove(&path)
        .and_then(|()| {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o644).open(&path)
        })
        .and_then(|mut file| {
            file.write_all(text(service).as_bytes()).inspect_err(|_| {
                // If the removal fails too, report only the error of the write.
                let _ = directory::remove(&path);
            })
        });
    written.map_err(|error| SystemdError::UnitFile { path, error })
}

pub fn remove(directory: &Path, name: &str) -> Result<(), SystemdError> {
    let path = directory.join(name);
    directory::remove(&path).map_err(|error| SystemdError::UnitFile { path, error })
}

/// The text of the unit file. Before systemd 230, `StartLimitIntervalSec=` was called
/// `StartLimitInterval=`. In the section `[Service]`, every version of systemd accepts
/// the old name. While the service waits for the lock, it has no handlers for SIGHUP,
/// SIGINT and SIGTERM. If such a signal ends the service, systemd considers this a clean
/// end and does not restart the service. But the signal may have been meant for another
/// service, so `RestartForceExitStatus=` makes systemd restart this service.
fn text(service: &OwnService) -> String {
    let words: Vec<String> = service.command.iter().map(|word| quoted(word)).collect();
    format!(
        "# Written by digestfix, which removes this file when the run has ended.\n\
         [Unit]\n\
         Description={description}\n\
         [Service]\n\
         Type=notify\n\
         ExecStart={command}\n\
         TimeoutStartSec={ready}\n\
         Restart=on-failure\n\
         RestartSec=5\n\
         RestartForceExitStatus=SIGHUP SIGINT SIGTERM\n\
         StartLimitInterval=0\n",
        description = service.description,
        command = words.join(" "),
        ready = READY_WITHIN.as_secs(),
    )
}

/// A word, quoted for a command line in a unit file (`systemd.service(5)`).
fn quoted(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-=".contains(&byte);
    if word.bytes().all(is_plain) {
        return word.to_owned();
    }
    let mut text = String::from("\"");
    for character in word.chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            '%' => text.push_str("%%"),
            '\n' => text.push_str("\\n"),
            _ => text.push(character),
        }
    }
    text + "\""
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::sys::directory::tests::{modes, with_umask_of_0};

    fn service(program: &str) -> OwnService {
        OwnService {
            name: "digestfix-watchdog-1.service".to_owned(),
            description: "Lab".to_owned(),
            command: vec![
                program.to_owned(),
                "watchdog".to_owned(),
                "/a=20b".to_owned(),
            ],
        }
    }

    #[test]
    fn a_command_is_one_to_systemd() {
        let line = |program| {
            let text = text(&service(program));
            let found = text.lines().find(|line| line.starts_with("ExecStart="));
            found.unwrap().to_owned()
        };
        assert_eq!(
            line("/usr/bin/digestfix"),
            "ExecStart=/usr/bin/digestfix watchdog /a=20b"
        );
        assert_eq!(
            line("/a b/\"50%\"\\\n"),
            "ExecStart=\"/a b/\\\"50%%\\\"\\\\\\n\" watchdog /a=20b"
        );
    }

    #[test]
    fn with_a_umask_of_0_only_root_may_write_the_unit() {
        with_umask_of_0(
            "systemd::lasting::tests::with_a_umask_of_0_only_root_may_write_the_unit",
            || {
                let root = tempfile::tempdir().unwrap();
                write(root.path(), &service("/x")).unwrap();
                assert_eq!(modes(root.path()), [0o644]);
            },
        );
    }

    #[test]
    fn what_a_killed_run_left_is_no_hindrance() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("digestfix-watchdog-1.service");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        fs::create_dir(root.path().join("digestfix-watchdog-1.service.d")).unwrap();
        write(root.path(), &service("/x")).unwrap();
        assert_eq!(names(root.path()), ["digestfix-watchdog-1.service"]);
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        remove(root.path(), "digestfix-watchdog-1.service").unwrap();
        remove(root.path(), "digestfix-watchdog-1.service").unwrap();
        assert!(!path.exists());
    }
}
