//! Messages for the user while images are saved or loaded.

use std::time::Duration;

use crate::commands::exported::Known;
use crate::image::reference::Reference;

/// The maximum number of names of one image in a line.
const MOST_NAMES: usize = 3;

/// Describes the evidence for an image's digest, and how to get better evidence.
pub(super) fn image(names: &[String], digests: &[(&Reference, Known)]) -> String {
    let mut named = names[..names.len().min(MOST_NAMES)].join(", ");
    if let Some(more @ 1..) = names.len().checked_sub(MOST_NAMES) {
        named.push_str(&format!(" and {more} more"));
    }
    let best = [Known::Proven, Known::Recorded, Known::Asserted]
        .into_iter()
        .find_map(|known| {
            let mut digests = digests.iter().filter(|(_, one)| *one == known);
            digests.next().map(|(reference, _)| (known, *reference))
        });
    let said = match best {
        Some((Known::Proven, _)) => "digest proven: the archive contains the manifest".to_owned(),
        Some((Known::Asserted, reference)) => format!(
            "digest only asserted: the archive contains no manifest. To prove the digest, first: docker pull \
             {reference}"
        ),
        Some((_, reference)) => {
            format!(
                "digest without a manifest. To prove the digest, first: docker pull {reference}"
            )
        }
        None => {
            let left_out = digests.iter().find_map(|(_, known)| match known {
                Known::LeftOut(why) => Some(*why),
                _ => None,
            });
            let first = names.iter().find(|name| !name.starts_with("sha256:"));
            let why = left_out.map_or(String::new(), |why| format!(" ({why})"));
            match first {
                Some(name) => format!("NO DIGEST{why}. To get a digest, first: docker pull {name}"),
                None => format!("NO DIGEST{why}, and no name"),
            }
        }
    };
    format!("{named}: {said}")
}

/// The progress: the bytes so far, the estimated total, the rate, and the time left.
pub(in crate::commands) fn progress(
    name: &str,
    bytes: u64,
    total: Option<u64>,
    took: Duration,
) -> String {
    let rate = rate(bytes, took);
    let mut text = format!("{name}: {}", size(bytes));
    let left = total.and_then(|total| total.checked_sub(bytes));
    if let (Some(total), Some(left)) = (total, left) {
        text.push_str(&format!(" of about {}", size(total)));
        text.push_str(&format!(", {}/s", size(rate)));
        if let Some(seconds) = left.checked_div(rate) {
            text.push_str(&format!(", about {seconds} s left"));
        }
        return text;
    }
    format!("{text}, {}/s", size(rate))
}

/// The total amount of data and the rate.
pub(in crate::commands) fn amount(bytes: u64, images: usize, took: Duration) -> String {
    let images = match images {
        1 => "1 image".to_owned(),
        many => format!("{many} images"),
    };
    format!("{images}, {}, {}/s", size(bytes), size(rate(bytes, took)))
}

fn rate(bytes: u64, took: Duration) -> u64 {
    let micros = took.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

/// A size in powers of ten, as Docker prints it.
fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut scale: u64 = 1;
    while unit + 1 < units.len() && bytes / scale >= 1000 {
        scale *= 1000;
        unit += 1;
    }
    let tenths = bytes / (scale / 10).max(1);
    match (unit, bytes / scale) {
        (0, _) => format!("{bytes} B"),
        (_, whole @ 100..) => format!("{whole} {}", units[unit]),
        _ => format!("{}.{} {}", tenths / 10, tenths % 10, units[unit]),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn digest(name: &str) -> Reference {
        Reference::parse(&format!("{name}@sha256:{}", "a".repeat(64))).unwrap()
    }

    #[test]
    fn no_image_passes_in_silence() {
        let names = ["lab/app:v1".to_owned()];
        let pin = digest("lab/app");
        for (known, expected) in [
            (
                Known::Proven,
                "lab/app:v1: digest proven: the archive contains the manifest".to_owned(),
            ),
            (Known::Recorded, format!("first: docker pull {pin}")),
            (Known::Asserted, "digest only asserted".to_owned()),
            (
                Known::LeftOut("it was made up"),
                "NO DIGEST (it was made up). To get a digest, first: docker pull lab/app:v1"
                    .to_owned(),
            ),
        ] {
            let said = image(&names, &[(&pin, known)]);
            assert!(said.contains(&expected), "{said}");
        }
        let said = image(&names, &[]);
        assert!(said.contains("NO DIGEST. To get a digest"), "{said}");
        let said = image(&["sha256:abc".to_owned()], &[]);
        assert_eq!(said, "sha256:abc: NO DIGEST, and no name");
    }

    #[test]
    fn the_best_known_digest_counts_and_names_are_cut() {
        let names = ["a:1", "a:2", "a:3", "a:4"].map(str::to_owned);
        let (one, other) = (digest("a"), digest("b"));
        let said = image(&names, &[(&one, Known::Recorded), (&other, Known::Proven)]);
        assert!(
            said.starts_with("a:1, a:2, a:3 and 1 more: digest proven"),
            "{said}"
        );
    }

    #[test]
    fn amounts_are_short() {
        for (bytes, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (99_949, "99.9 kB"),
            (123_456_789, "123 MB"),
            (1_250_000_000, "1.2 GB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
        let took = Duration::from_secs(2);
        assert_eq!(
            progress("a.tar", 400_000_000, Some(1_000_000_000), took),
            "a.tar: 400 MB of about 1.0 GB, 200 MB/s, about 3 s left"
        );
        // The total was an estimate, which was too small.
        assert_eq!(progress("a.tar", 9, Some(8), took), "a.tar: 9 B, 4 B/s");
        assert_eq!(
            progress("a.tar", 0, Some(8), took),
            "a.tar: 0 B of about 8 B, 0 B/s"
        );
    }
}
