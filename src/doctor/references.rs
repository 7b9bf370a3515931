//! Reference store: checks the references that `status` shows.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::doctor::{Check, Finding};
use crate::plan::status::{Row, State};
use crate::sys::shell;

/// The mode bits that allow users other than the owner to write to the store's file.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The mode bits of a file. `None` if they cannot be read.
pub fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|file| file.mode() & 0o7777)
}

pub(super) fn count(rows: &[Row], state: State) -> usize {
    rows.iter().filter(|row| row.state == state).count()
}

/// The number of references, and how many of them have no digest.
pub(super) fn in_all(place: &str, rows: &[Row]) -> Finding {
    let without = match count(rows, State::NoDigest) {
        0 => "none without a digest".to_owned(),
        some => format!("{some} without a digest"),
    };
    let told = format!("{place}: {} in all, {without}", rows.len());
    Finding::ok(Check::References, told)
}

pub fn judge(path: &Path, mode: Option<u32>, rows: &[Row]) -> Vec<Finding> {
    let mut findings = vec![in_all(&path.display().to_string(), rows)];
    if let Some(mode) = mode.filter(|mode| mode & WRITABLE_BY_OTHERS != 0) {
        findings.push(Finding::warning(
            Check::References,
            format!(
                "users other than the owner can write to {} (mode {mode:04o})",
                path.display()
            ),
            format!("chmod 600 {}", shell::path(path)),
        ));
    }
    for (state, what) in [
        (State::DigestIsImageId, "have an image ID as digest"),
        (
            State::ImageMissing,
            "point at an image that is not on this host",
        ),
        (State::Unparsable, "are not understood by Docker"),
    ] {
        if let some @ 1.. = count(rows, state) {
            let mut of_state = rows.iter().filter(|row| row.state == state);
            let to_drop = match of_state.find_map(Row::removal) {
                Some(removal) => format!("to remove a reference: digestfix apply {removal}"),
                None => "these entries do no harm: leave them".to_owned(),
            };
            findings.push(Finding::warning(
                Check::References,
                format!("{some} {what}"),
                format!("to see these references: digestfix status; {to_drop}"),
            ));
        }
    }
    findings
}

/// The finding about a store that was reset: it contains no reference, although the host
/// has images. `former` is a complete backup.
pub fn reset(path: &Path, images: usize, former: Option<&Path>) -> Finding {
    let old = former.map_or_else(|| "OLD".to_owned(), shell::path);
    Finding::warning(
        Check::References,
        format!(
            "{}: no reference, but {images} images; the names were lost, for example by a reset",
            path.display()
        ),
        format!(
            "digestfix apply --from {old} --tags{}",
            match former {
                Some(_) => "",
                None =>
                    ", where OLD is a former copy of repositories.json; or load the images again",
            }
        ),
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::doctor;

    pub fn row(state: State) -> Row {
        Row {
            repository: "app".to_owned(),
            tag: None,
            digest: None,
            image_id: String::new(),
            state,
            trust: None,
            origin: None,
            note: None,
            key: None,
        }
    }

    #[test]
    fn what_is_wrong_with_references_is_counted() {
        let rows = [
            State::Ok,
            State::NoDigest,
            State::NoDigest,
            State::ImageMissing,
        ]
        .map(row);
        let findings = judge(Path::new("/r"), Some(0o600), &rows);
        assert_eq!(findings.len(), 2);
        assert!(
            findings[0].what.contains("4 in all, 2 without"),
            "{findings:?}"
        );
        assert!(findings[1].what.starts_with("1 point"), "{findings:?}");
        let writable = judge(Path::new("/r"), Some(0o620), &[]);
        assert_eq!(writable[1].next.as_deref(), Some("chmod 600 /r"));
        assert!(!doctor::would_stop(&writable));
    }

    #[test]
    fn the_reference_to_drop_is_named() {
        let whole = |state| Row {
            tag: Some("1".to_owned()),
            digest: Some("sha256:00".to_owned()),
            ..row(state)
        };
        let untold = Row {
            digest: None,
            ..whole(State::ImageMissing)
        };
        let keyed = |key: &str| Row {
            key: Some(key.to_owned()),
            ..row(State::Unparsable)
        };
        for (row, removal) in [
            (untold, " app:1"),
            (whole(State::ImageMissing), " app@sha256:00"),
            (whole(State::DigestIsImageId), " app@sha256:00"),
            (keyed("a: b"), " 'a: b'"),
            (keyed("-a"), "=-a"),
        ] {
            // No argument names the first row alone.
            let rows = [super::tests::row(row.state), row];
            let found = judge(Path::new("/r"), None, &rows);
            let next = found[1].next.as_deref().unwrap_or_default();
            let line = format!("digestfix apply --remove{removal}");
            assert!(next.ends_with(&line), "{next}");
        }
        let found = judge(Path::new("/r"), None, &[row(State::Unparsable)]);
        let next = found[1].next.as_deref().unwrap_or_default();
        assert!(!next.contains("--remove"), "{next}");
    }
}
