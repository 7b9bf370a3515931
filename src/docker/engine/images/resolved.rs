//! The config that an engine shows for an image. digestfix compares this config with the
//! config that the image should have.

use serde::Deserialize;

use crate::sys::strict_json;

/// The parts of an image's config that an engine shows. The engine does not show the
/// config's digest. A part that the engine does not show is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The digests of the unpacked layers.
    pub layers: Option<Vec<String>>,
    /// How each part of the image was made, beginning with the lowest layer.
    pub history: Option<Vec<Made>>,
}

/// How a part of an image was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The command that made this part.
    pub by: String,
    pub comment: String,
}

/// The fields of an image's config that digestfix compares (image-spec 1.1, `config.md`).
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    rootfs: Option<RootFs>,
    #[serde(default)]
    history: Option<Vec<History>>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct History {
    #[serde(default)]
    created_by: Option<String>,
    #[serde(default)]
    comment: Option<String>,
}

impl Resolved {
    /// The parts of this config that an engine would show. All parts are `None` if an
    /// engine may read the config differently than digestfix.
    pub fn of_config(text: &str) -> Self {
        let Ok(config) = strict_json::read::<Config>(text.as_bytes()) else {
            return Self::default();
        };
        let history = config.history.unwrap_or_default().into_iter();
        let history = history.map(|one| Made {
            by: one.created_by.unwrap_or_default(),
            comment: one.comment.unwrap_or_default(),
        });
        Self {
            layers: config.rootfs.and_then(|rootfs| rootfs.diff_ids),
            history: Some(history.collect()),
        }
    }

    /// The name of the first part that differs. Compares only the parts that both configs
    /// show.
    pub fn difference(&self, other: &Self) -> Option<&'static str> {
        let differ = [
            ("layers", differ(&self.layers, &other.layers)),
            ("history", differ(&self.history, &other.history)),
        ];
        let mut differ = differ.into_iter().filter(|(_, differ)| *differ);
        differ.next().map(|(what, _)| what)
    }
}

fn differ<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
    matches!((one, other), (Some(one), Some(other)) if one != other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_both_show_can_differ() {
        let config = |layer: &str, by: &str| {
            Resolved::of_config(&format!(
                r#"{{"os":"linux","rootfs":{{"diff_ids":["{layer}"]}},"history":[{{"created_by":"{by}"}}]}}"#
            ))
        };
        let one = config("sha256:1", "make");
        assert_eq!(one.difference(&one), None);
        assert_eq!(one.difference(&config("sha256:2", "make")), Some("layers"));
        assert_eq!(one.difference(&config("sha256:1", "x")), Some("history"));
        assert_eq!(one.difference(&Resolved::default()), None);
        assert_eq!(Resolved::of_config("{}").difference(&one), Some("history"));
        assert_eq!(Resolved::of_config(r#"{"RootFS":{}}"#), Resolved::default());
    }
}
