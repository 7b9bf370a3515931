//! Finds in systemd's journal why dockerd refused a configuration, because Docker's API
//! does not report the reason.

use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// The beginnings of dockerd's messages about a refused configuration (20.10, 26.1 and
/// 28.5).
const REFUSALS: [&str; 3] = [
    "unable to configure the Docker daemon with file",
    "file configuration validation failed",
    "Error reconfiguring the daemon",
];

/// The maximum number of characters to show of a log line.
const MAX_LINE: usize = 400;

/// dockerd's message when it refuses to reload its configuration. `None` if systemd's
/// journal contains no such message of dockerd after the time `since`.
pub fn refused_reload(pid: u32, since: SystemTime) -> Option<String> {
    if pid == 0 {
        return None;
    }
    let since = since.duration_since(UNIX_EPOCH).ok()?;
    let output = Command::new("journalctl")
        .args(["--quiet", "--no-pager", "--output=cat", "--lines=20"])
        .arg(format!(
            "--since=@{}.{:06}",
            since.as_secs(),
            since.subsec_micros()
        ))
        .arg(format!("_PID={pid}"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    refusal(&String::from_utf8_lossy(&output.ok()?.stdout))
}

/// The message of the last refusal. A log line has the form `time="…" level=error
/// msg="…"`, and quotes within the message are escaped.
fn refusal(said: &str) -> Option<String> {
    let mut lines = said.lines().rev();
    let line = lines.find(|line| {
        line.contains("level=error") && REFUSALS.iter().any(|refusal| line.contains(refusal))
    })?;
    let message = line.split_once("msg=").map_or(line, |(_, message)| message);
    let message = message.strip_prefix('"').unwrap_or(message);
    let message = message.strip_suffix('"').unwrap_or(message);
    // Newer versions of dockerd log the cause in a separate field.
    let message = message.replace("\" error=\"", ": ").replace("\\\"", "\"");
    Some(message.chars().take(MAX_LINE).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_other_words() {
        let said = "time=\"2026-11-28T22:55:45Z\" level=info msg=\"Got signal to reload configuration\"\n\
                    time=\"2026-11-28T22:55:46Z\" level=error msg=\"Error reconfiguring the daemon: invalid \
                    mirror: unsupported scheme \\\"\\\" in \\\"x\\\"\"\n\
                    time=\"2026-11-28T22:55:47Z\" level=error msg=\"Handler returned error\"\n";
        assert_eq!(
            refusal(said).as_deref(),
            Some(
                "Error reconfiguring the daemon: invalid mirror: unsupported scheme \"\" in \"x\""
            )
        );
        let newer = "level=error msg=\"Error reconfiguring the daemon\" error=\"no such runtime\"";
        assert_eq!(
            refusal(newer).as_deref(),
            Some("Error reconfiguring the daemon: no such runtime")
        );
        assert_eq!(
            refusal("level=info msg=\"Error reconfiguring the daemon\""),
            None
        );
        assert_eq!(refused_reload(0, UNIX_EPOCH), None);
    }
}
