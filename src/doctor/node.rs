//! Kubernetes node: checks its containerd, and the references that `status` shows.

use std::path::Path;

use crate::doctor::references::{count, in_all};
use crate::doctor::{Check, Finding};
use crate::plan::status::{Row, State};

pub fn judge(socket: &Path, version: &str, rows: &[Row]) -> Vec<Finding> {
    let socket = socket.display();
    let mut findings = vec![
        Finding::ok(
            Check::Engine,
            format!("containerd {version} and its CRI both respond at {socket}"),
        ),
        in_all("in containerd", rows),
    ];
    if let some @ 1.. = count(rows, State::MadeUp) {
        findings.push(Finding::warning(
            Check::References,
            format!(
                "{some} with a digest that was made up at import; no registry has such a digest"
            ),
            "to see these digests: digestfix status; then import the images again, without the option --digests of ctr",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::references::tests::row;
    use crate::doctor::would_stop;

    #[test]
    fn a_made_up_digest_is_warned_of() {
        let socket = Path::new("/run/c.sock");
        let found = judge(socket, "2.1", &[row(State::Ok), row(State::NoDigest)]);
        assert_eq!(found.len(), 2);
        assert!(found[1].what.contains("2 in all, 1 without"), "{found:?}");
        let found = judge(socket, "2.1", &[row(State::MadeUp)]);
        assert!(found[2].what.starts_with("1 with a digest"), "{found:?}");
        assert!(!would_stop(&found));
    }
}
