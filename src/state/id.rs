//! ID of a transaction: the time when the transaction began, and a process ID. digestfix
//! names the transaction's files after this ID.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Whether a text can be the ID of a transaction. The ID becomes part of file names.
pub fn is_id(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=64).contains(&text.len()) && text.bytes().all(is_plain)
}

/// Returns an ID for a transaction that begins now. If this process needs a second ID
/// within one second, that ID gets the time of the next second.
pub fn new_id() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let last = LAST.fetch_max(now, Ordering::Relaxed);
    let begins = match last < now {
        true => now,
        false => LAST.fetch_add(1, Ordering::Relaxed) + 1,
    };
    let now: String = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(begins))
        .to_string()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    format!("{now}-{}", std::process::id())
}

/// The path of a transaction's file in the directory of the file `live`, such as a backup
/// of `live`. The path contains the ID, so the name of a backup shows when and by which
/// process the backup was made.
pub fn beside(live: &Path, id: &str) -> PathBuf {
    let mut name = live.as_os_str().to_owned();
    name.push(format!(".digestfix-{id}"));
    PathBuf::from(name)
}

/// Appends a suffix to a path.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.to_owned();
    path.as_mut_os_string().push(suffix);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_transactions_have_one_name() {
        let (one, other) = (new_id(), new_id());
        assert!(one < other, "{one} {other}");
        assert!(is_id(&one), "{one}");
    }
}
