//! Finds out who runs this process. Does not look up names of users, because a lookup
//! would use the name services of the host.

use std::env;
use std::fs::File;
use std::io::Read;

use nix::unistd::getuid;

/// The login user ID of a process that no login started, such as a daemon or its
/// children.
const NO_LOGIN: u32 = u32::MAX;

/// The maximum length of a name, in characters.
const MAX_NAME: usize = 64;

/// The maximum number of bytes that digestfix reads from a file in /proc.
const MAX_PROC: u64 = 64 * 1024;

/// Who runs this process, in a few words, such as `root`, `alice (sudo), login uid 1000`
/// or `digestfix.service`.
pub(crate) fn am_i() -> String {
    let login = read("/proc/self/loginuid").trim().parse().ok();
    let sudo_user = env::var_os("SUDO_USER").map(|name| name.to_string_lossy().into_owned());
    who(
        getuid().as_raw(),
        sudo_user.as_deref(),
        login,
        &read("/proc/self/cgroup"),
    )
}

/// The system service that this process belongs to.
pub(crate) fn own_service() -> Option<String> {
    service(&read("/proc/self/cgroup"))
}

fn read(path: &str) -> String {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(MAX_PROC).read_to_end(&mut bytes));
    match file {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

fn who(uid: u32, sudo_user: Option<&str>, login: Option<u32>, cgroups: &str) -> String {
    let sudo_user = sudo_user.map(plain).filter(|name| !name.is_empty());
    let login = login.filter(|login| *login != NO_LOGIN);
    let service = service(cgroups);
    if let (0, None, None, Some(service)) = (uid, &sudo_user, login, &service) {
        return service.clone();
    }
    let mut who = match (sudo_user, uid) {
        (Some(name), _) => format!("{name} (sudo)"),
        (None, 0) => "root".to_owned(),
        (None, uid) => format!("uid {uid}"),
    };
    if let Some(login) = login {
        who.push_str(&format!(", login uid {login}"));
    }
    if let Some(service) = service {
        who.push_str(&format!(", in {service}"));
    }
    who
}

/// Makes a name safe to show, because any user may have chosen it. Every character except
/// ASCII letters, digits and a few signs becomes `?`.
fn plain(name: &str) -> String {
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "._-@+\\".contains(character);
    let characters = name.chars().take(MAX_NAME);
    characters
        .map(|character| if is_plain(character) { character } else { '?' })
        .collect()
}

/// The system service that a process belongs to. `cgroups` is the content of the
/// process's `/proc/PID/cgroup`. In this file, two kinds of lines name the control group
/// that systemd chose: the line of cgroup version 2, and in version 1 the line of the
/// hierarchy `name=systemd`.
pub(crate) fn service(cgroups: &str) -> Option<String> {
    let parts = parts(cgroups);
    if parts.iter().any(|part| is_a_users(part)) {
        return None;
    }
    let mut services = parts.iter().rev().filter(|part| part.ends_with(".service"));
    services.next().map(|part| plain(part))
}

/// The service of a user's systemd (`systemctl --user`) that these control groups belong to.
pub(crate) fn user_service(cgroups: &str) -> Option<String> {
    let parts = parts(cgroups);
    let begin = parts.iter().position(|part| part.starts_with("user@"))?;
    let mut services = parts.iter().skip(begin + 1).rev();
    let last = services.find(|part| part.ends_with(".service"))?;
    Some(plain(last))
}

fn is_a_users(part: &str) -> bool {
    part == "user.slice" || part.starts_with("user@")
}

fn parts(cgroups: &str) -> Vec<&str> {
    let lines = cgroups
        .lines()
        .filter_map(|line| line.split_once(':')?.1.split_once(':'))
        .filter(|(controllers, _)| controllers.is_empty() || *controllers == "name=systemd");
    lines.flat_map(|(_, path)| path.split('/')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_runs_it_is_named() {
        let session = "0::/user.slice/user-1000.slice/session-3.scope\n";
        let unit = "0::/system.slice/digestfix.service\n";
        let v1 = "12:pids:/x.service\n1:name=systemd:/system.slice/ssh.service/deeper\n0::/\n";
        let both = "1:name=systemd:/\n0::/system.slice/digestfix.service\n";
        let of_a_user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service\n";
        for (uid, sudo, login, cgroups, expected) in [
            (0, None, None, session, "root"),
            (0, None, Some(NO_LOGIN), unit, "digestfix.service"),
            (0, None, None, both, "digestfix.service"),
            (0, None, None, of_a_user, "root"),
            (0, Some("alice"), None, session, "alice (sudo)"),
            (
                0,
                Some("alice"),
                Some(1000),
                session,
                "alice (sudo), login uid 1000",
            ),
            (0, None, Some(1000), session, "root, login uid 1000"),
            (0, None, Some(0), v1, "root, login uid 0, in ssh.service"),
            (1000, None, None, "", "uid 1000"),
            (0, Some(""), None, "", "root"),
            (0, Some("a\u{1b}[2J b"), None, "", "a??2J?b (sudo)"),
        ] {
            assert_eq!(who(uid, sudo, login, cgroups), expected);
        }
        let long = who(0, Some(&"x".repeat(1000)), None, "");
        assert_eq!(long.len(), MAX_NAME + " (sudo)".len());
    }
}
