//! Program file: whether systemd can run it. Each run has a watchdog, for which systemd
//! starts the same program file again.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, statvfs};

use crate::doctor::{Check, Finding};
use crate::sys::shell;

/// SELinux types. The SELinux policy forbids systemd to run files of these types.
const HOMES_OF_USERS: [&str; 4] = [":user_home_t:", ":admin_home_t:", ":user_tmp_t:", ":tmp_t:"];

/// The file of this program, as systemd sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    /// Whether systemd sees the same file at this path.
    pub is_seen: bool,
    /// Whether the file system is mounted noexec.
    pub noexec: bool,
    /// The file's label, if SELinux is enforced.
    pub label: Option<String>,
}

/// Examines the file of the running program in the root directory of process 1.
pub fn look() -> Option<Program> {
    let path = env::current_exe().ok()?;
    let seen = Path::new("/proc/1/root").join(path.strip_prefix("/").unwrap_or(&path));
    let own = fs::metadata("/proc/self/exe").ok()?;
    let is_seen =
        fs::metadata(&seen).is_ok_and(|file| (file.dev(), file.ino()) == (own.dev(), own.ino()));
    let noexec = statvfs(&seen).is_ok_and(|volume| volume.flags().contains(FsFlags::ST_NOEXEC));
    let enforces =
        fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1");
    let label = enforces
        .then(|| xattr::get(&seen, "security.selinux").ok().flatten())
        .flatten()
        .map(|label| String::from_utf8_lossy(&label).into_owned());
    Some(Program {
        path,
        is_seen,
        noexec,
        label,
    })
}

pub fn judge(program: &Program) -> Finding {
    let path = program.path.display();
    let next = format!(
        "install -m 755 {} /usr/local/bin/digestfix; run that copy",
        shell::path(&program.path)
    );
    if !program.is_seen {
        return Finding::problem(
            Check::Watchdog,
            format!(
                "systemd does not see this program at {path}: the file was replaced, or digestfix runs in \
                 another mount namespace"
            ),
            "on the host itself, run the installed digestfix",
        );
    }
    if program.noexec {
        return Finding::problem(
            Check::Watchdog,
            format!("{path} is on a file system that is mounted noexec"),
            next,
        );
    }
    match &program.label {
        Some(label) if HOMES_OF_USERS.iter().any(|one| label.contains(one)) => Finding::warning(
            Check::Watchdog,
            format!("SELinux may not let systemd run {path}, because of its label {label}"),
            format!("{next} (restorecon /usr/local/bin/digestfix)"),
        ),
        _ => Finding::ok(Check::Watchdog, format!("systemd can run {path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn what_systemd_cannot_run_is_told() {
        let program = Program {
            path: "/opt/digestfix".into(),
            is_seen: true,
            noexec: false,
            label: Some("system_u:object_r:bin_t:s0".to_owned()),
        };
        let state = |program: &Program| judge(program).state;
        assert_eq!(state(&program), State::Ok);
        let mut other = program.clone();
        other.is_seen = false;
        assert_eq!(state(&other), State::Problem);
        let mut other = program.clone();
        other.noexec = true;
        assert_eq!(state(&other), State::Problem);
        let mut other = program;
        other.label = Some("unconfined_u:object_r:user_home_t:s0".to_owned());
        assert_eq!(state(&other), State::Warning);
    }
}
