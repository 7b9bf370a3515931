//! Platforms of images, and the rule by which an engine selects a manifest from an index
//! (containerd 1.7, `platforms/compare.go` and `images/image.go`, `Manifest`).

use std::fmt;

use serde::Deserialize;

use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::sys::strict_json;

/// An operating system and a processor architecture, with the names that image configs
/// use (Go's `GOOS` and `GOARCH`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    variant: String,
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)
    }
}

impl Platform {
    /// Builds a platform. The variant may be empty.
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// The platform of an image, from the text of the image's config (image-spec 1.1,
    /// `config.md`).
    pub fn of_config(text: &str) -> Option<Self> {
        strict_json::read(text.as_bytes()).ok()
    }

    /// Whether the platform is `unknown`, as BuildKit writes it for attestations.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown"
    }

    /// How well an engine on this platform runs an image for the platform `image`. A
    /// lower rank is better. `None` if the engine cannot run the image.
    pub fn rank(&self, image: &Self) -> Option<usize> {
        if self.os != image.os {
            return None;
        }
        let wanted = (image.architecture.as_str(), image.variant.as_str());
        let runs: &[(&str, &[&str])] = match self.architecture.as_str() {
            "amd64" => &[("amd64", &["", "v1"]), ("386", &[""])],
            "arm64" => &[
                ("arm64", &["", "v8"]),
                ("arm", &["v8"]),
                ("arm", &["", "v7"]),
                ("arm", &["v6"]),
                ("arm", &["v5"]),
            ],
            // On 32-bit ARM, the engine does not report the processor's variant (such as
            // v7), so all variants have the same rank.
            "arm" => &[("arm", &["", "v7", "v6", "v5"])],
            other => &[(other, &[""])],
        };
        runs.iter().position(|(architecture, variants)| {
            *architecture == wanted.0 && variants.contains(&wanted.1)
        })
    }

    /// The manifest that an engine on this platform selects from an index: the first
    /// manifest with the best [`Self::rank`]. This host may lack that manifest. The
    /// engine selects a manifest without a platform only if no other manifest fits. It
    /// never selects an attestation, whose platform is `unknown`.
    pub fn choice<'i>(&self, index: &'i [Descriptor]) -> Option<&'i Digest> {
        let ranked = index.iter().filter_map(|child| {
            let rank = match &child.platform {
                Some(platform) => self.rank(platform)?,
                None => usize::MAX,
            };
            Some((rank, &child.digest))
        });
        let best = ranked.min_by_key(|(rank, _)| *rank);
        best.map(|(_, digest)| digest)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    #[test]
    fn an_engine_takes_the_best_of_an_index_and_of_several_the_first() {
        let engine = Platform::new("linux", "amd64", "");
        let child = |digit, platform: &str| {
            format!(r#"{{"size":1,"digest":"{}"{platform}}}"#, digest(digit))
        };
        let of = |os: &str, architecture: &str, variant: &str| {
            format!(
                r#","platform":{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
            )
        };
        let chosen = |children: &[String]| {
            let index = format!("[{}]", children.join(","));
            let index: Vec<Descriptor> = strict_json::read(index.as_bytes()).unwrap();
            engine.choice(&index).map(ToString::to_string)
        };
        let nameless = child('0', "");
        let old = child('1', &of("linux", "386", ""));
        let own = child('2', &of("linux", "amd64", ""));
        let again = child('3', &of("linux", "amd64", "v1"));
        let newer = child('4', &of("linux", "amd64", "v3"));
        let others = [
            child('5', &of("linux", "arm64", "v8")),
            child('6', &of("windows", "amd64", "")),
            child('7', &of("unknown", "unknown", "")),
        ];
        assert_eq!(chosen(&others), None);
        assert_eq!(chosen(std::slice::from_ref(&newer)), None);
        assert_eq!(
            chosen(&[nameless.clone(), others[0].clone()]),
            Some(digest('0'))
        );
        assert_eq!(chosen(&[nameless.clone(), old.clone()]), Some(digest('1')));
        let all = [nameless, old, newer, own, again];
        assert_eq!(chosen(&all), Some(digest('2')));
    }

    #[test]
    fn an_engine_runs_what_its_processor_does() {
        let engine = Platform::new("linux", "arm64", "");
        let rank =
            |architecture, variant| engine.rank(&Platform::new("linux", architecture, variant));
        assert_eq!(rank("arm64", "v8"), Some(0));
        assert!(rank("arm", "v7") < rank("arm", "v6"));
        assert_eq!(rank("amd64", ""), None);
        assert_eq!(Platform::new("linux", "s390x", "").rank(&engine), None);
        let config = Platform::of_config(r#"{"os":"linux","architecture":"arm64","rootfs":{}}"#);
        assert_eq!(engine.rank(&config.unwrap()), Some(0));
    }
}
