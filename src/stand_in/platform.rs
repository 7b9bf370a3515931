//! Which manifest of an index Docker takes.
//!
//! The first of the engine's own platform, and a near one only where there is
//! none (moby `distribution/pull_v2.go`, `pullManifestList`, and
//! `pull_v2_unix.go`, `filterManifests`; containerd `platforms`, `Only`). What is
//! near, and by which names, is another thing in each version. So only what is
//! taken by all of them counts here.

use serde::Deserialize;

use crate::digest::Digest;
use crate::platform::Platform;

/// Names that mean another one's architecture (containerd
/// `platforms/database.go`, `normalizeArch`).
const ALIASES: [&str; 6] = ["x86_64", "x86-64", "aarch64", "armhf", "armel", "i386"];

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: Digest,
    #[serde(default)]
    platform: Option<Says>,
}

/// What an entry says it is for (image-spec 1.1, `image-index.md`).
#[derive(Default, Deserialize, PartialEq)]
#[serde(default)]
struct Says {
    os: String,
    architecture: String,
    variant: String,
    #[serde(rename = "os.version")]
    os_version: String,
    #[serde(rename = "os.features")]
    os_features: Option<Vec<String>>,
    features: Option<Vec<String>>,
}

enum Match {
    /// Every version takes it, where none before it is taken.
    Certain,
    /// Some may.
    Possible,
    /// None does where there is a certain one.
    None,
}

/// The manifest that Docker takes out of an index; none where that is not
/// certain.
pub(super) fn taken(index: &str, engine: &Platform) -> Option<Digest> {
    let index: Index = serde_json::from_str(index).ok()?;
    for entry in index.manifests {
        // One that says nothing comes after all that do.
        match entry
            .platform
            .map_or(Match::None, |says| says.suits(engine))
        {
            Match::Certain => return Some(entry.digest),
            Match::Possible => return None,
            Match::None => {}
        }
    }
    None
}

impl Says {
    fn suits(&self, engine: &Platform) -> Match {
        if *self == Self::default() {
            return Match::None;
        }
        let is_plain =
            |name: &str| !name.is_empty() && !name.contains(|one: char| one.is_ascii_uppercase());
        let architecture = self.architecture.as_str();
        if !is_plain(&self.os) || !is_plain(architecture) || ALIASES.contains(&architecture) {
            return Match::Possible;
        }
        if self.os != engine.os || architecture != engine.architecture {
            return Match::None;
        }
        let variants: &[&str] = match architecture {
            // Its own variant is that of the processor.
            "arm" => &[],
            // 20.10 does not take v1 for the same.
            "amd64" => &[""],
            "arm64" => &["", "v8"],
            _ => &[""],
        };
        let is_special =
            !self.os_version.is_empty() || self.os_features.is_some() || self.features.is_some();
        match !is_special && variants.contains(&self.variant.as_str()) {
            true => Match::Certain,
            false => Match::Possible,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail so")]
mod tests {
    use super::*;

    /// The number of the entry that is taken by an engine on Linux.
    fn taken_of(platforms: &[&str], architecture: &str) -> Option<usize> {
        let digest = |number: usize| format!("sha256:{number:064}");
        let entries: Vec<String> = platforms
            .iter()
            .enumerate()
            .map(|(number, says)| {
                let digest = digest(number);
                match says.is_empty() {
                    true => format!(r#"{{"digest":"{digest}"}}"#),
                    false => format!(r#"{{"digest":"{digest}","platform":{{{says}}}}}"#),
                }
            })
            .collect();
        let index = format!(r#"{{"manifests":[{}]}}"#, entries.join(","));
        let engine = Platform::new("linux", architecture, "");
        let taken = taken(&index, &engine)?;
        (0..platforms.len()).find(|number| taken.to_string() == digest(*number))
    }

    const AMD64: &str = r#""os":"linux","architecture":"amd64""#;
    const AMD64_V3: &str = r#""os":"linux","architecture":"amd64","variant":"v3""#;
    const ARM64: &str = r#""os":"linux","architecture":"arm64","variant":"v8""#;
    const ARM: &str = r#""os":"linux","architecture":"arm","variant":"v7""#;
    const I386: &str = r#""os":"linux","architecture":"386""#;
    const ATTESTATION: &str = r#""os":"unknown","architecture":"unknown""#;
    const WINDOWS: &str = r#""os":"windows","architecture":"amd64","os.version":"10.0""#;

    #[test]
    fn the_first_of_the_own_platform_is_taken() {
        let usual = [ATTESTATION, "", WINDOWS, ARM, I386, ARM64, AMD64, AMD64];
        assert_eq!(taken_of(&usual, "amd64"), Some(6));
        assert_eq!(taken_of(&usual, "arm64"), Some(5));
        assert_eq!(taken_of(&usual, "386"), Some(4));
        assert_eq!(taken_of(&usual, "s390x"), None);
        assert_eq!(taken_of(&[AMD64, AMD64_V3], "amd64"), Some(0));
    }

    #[test]
    fn what_not_every_version_takes_is_not_certain() {
        assert_eq!(taken_of(&[AMD64_V3, AMD64], "amd64"), None);
        assert_eq!(taken_of(&[I386], "amd64"), None, "though it would run");
        assert_eq!(taken_of(&[ARM], "arm"), None);
        assert_eq!(taken_of(&[""], "amd64"), None);
        for odd in [
            r#""os":"linux","architecture":"amd64","variant":"v1""#,
            r#""os":"linux","architecture":"x86_64""#,
            r#""architecture":"amd64""#,
            r#""os":"Linux","architecture":"amd64""#,
            r#""os":"linux","architecture":"amd64","os.features":["x"]"#,
            r#""os":"linux","architecture":"amd64","features":["sse4"]"#,
        ] {
            assert_eq!(taken_of(&[odd, AMD64], "amd64"), None, "{odd}");
            assert_eq!(taken_of(&[AMD64, odd], "amd64"), Some(0), "{odd}");
        }
    }
}
