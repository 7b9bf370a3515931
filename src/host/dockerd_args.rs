//! dockerd's command-line options for directories, image store and sockets.

use std::collections::BTreeMap;

/// The dockerd option for plugins that authorize API requests.
pub const AUTHORIZATION: &str = "--authorization-plugin";

/// The options of a dockerd command line that digestfix uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerdArgs {
    /// The value of `--data-root`, or of `--graph`/`-g` before 23.0.
    pub data_root: Option<String>,
    /// The value of `--storage-driver` or `-s`.
    pub driver: Option<String>,
    pub config_file: Option<String>,
    pub userns_remap: Option<String>,
    pub exec_root: Option<String>,
    /// The values of `--host` and `-H`, in the order of the command line.
    pub hosts: Vec<String>,
    pub live_restore: Option<bool>,
    /// Options that dockerd forgets at a reload, and reads again only at its next start
    /// (moby `daemon/reload.go`, `reloadMaxConcurrentDownloadsAndUploads`,
    /// `reloadMaxDownloadAttempts`). Without these options, dockerd is only slower.
    pub forgotten_by_reload: Vec<String>,
    /// Options that dockerd forgets at a reload, and that affect more than dockerd's
    /// speed. At a reload, dockerd takes these settings only from its configuration file.
    /// If a setting is missing in the file, dockerd loses it (moby `daemon/reload.go`,
    /// `reloadFeatures` and up to 20.10 `reloadClusterDiscovery`;
    /// `cmd/dockerd/daemon.go`, `reloadConfig`).
    pub undone_by_reload: Vec<String>,
    /// The values of `--feature`, in the order of the command line. Each value is `NAME`
    /// or `NAME=BOOL`.
    pub features: Vec<String>,
}

impl DockerdArgs {
    /// Parses the arguments after the program's name. Accepts the forms of dockerd's own
    /// parser (spf13/pflag), which are `--name=value`, `--name value`, `-nvalue`,
    /// `-n=value`, `-n value`.
    pub fn parse<S: AsRef<str>>(arguments: &[S]) -> Self {
        let mut found = Self::default();
        let mut rest = arguments.iter().map(AsRef::as_ref);
        while let Some(argument) = rest.next() {
            let (name, value) = split(argument);
            if argument == "--" {
                break;
            }
            if name == "--live-restore" {
                found.live_restore = Some(!value.is_some_and(is_false));
                continue;
            }
            if matches!(
                name,
                "--max-concurrent-downloads"
                    | "--max-concurrent-uploads"
                    | "--max-download-attempts"
            ) {
                found.forgotten_by_reload.push(name.to_owned());
            }
            if matches!(
                name,
                AUTHORIZATION
                    | "--feature"
                    | "--cluster-advertise"
                    | "--cluster-store"
                    | "--cluster-store-opt"
            ) {
                found.undone_by_reload.push(name.to_owned());
            }
            if !matches!(
                name,
                "--data-root"
                    | "--graph"
                    | "-g"
                    | "--storage-driver"
                    | "-s"
                    | "--config-file"
                    | "--userns-remap"
                    | "--exec-root"
                    | "--feature"
                    | "--host"
                    | "-H"
            ) {
                continue;
            }
            let Some(value) = value.or_else(|| rest.next()) else {
                break;
            };
            let value = value.to_owned();
            match name {
                "--data-root" | "--graph" | "-g" => found.data_root = Some(value),
                "--storage-driver" | "-s" => found.driver = Some(value),
                "--config-file" => found.config_file = Some(value),
                "--userns-remap" => found.userns_remap = Some(value),
                "--exec-root" => found.exec_root = Some(value),
                "--feature" => found.features.push(value),
                _ => found.hosts.push(value),
            }
        }
        found
    }

    /// The value of the last `--feature containerd-snapshotter`, or `None` without such
    /// an option.
    pub fn says_image_store(&self) -> Option<bool> {
        let mut said = self.features.iter().rev().map(|feature| named(feature));
        let (_, value) = said.find(|(name, _)| *name == "containerd-snapshotter")?;
        Some(is_true(value))
    }

    /// Whether `--feature containerd-snapshotter` is on, so that images are in
    /// containerd.
    pub fn containerd_image_store(&self) -> bool {
        self.says_image_store() == Some(true)
    }

    /// The enabled features that select the containerd image store or migrate images to
    /// it.
    pub fn features_of_containerd(&self) -> Vec<String> {
        let features: BTreeMap<&str, &str> =
            self.features.iter().map(|feature| named(feature)).collect();
        let on = features
            .into_iter()
            .filter(|(name, value)| name.starts_with("containerd") && !is_false(value));
        on.map(|(name, _)| name.to_owned()).collect()
    }
}

/// A feature's name and value.
fn named(feature: &str) -> (&str, &str) {
    feature.split_once('=').unwrap_or((feature, "true"))
}

/// Whether Go's `strconv.ParseBool` parses the value as true.
fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Whether Go's `strconv.ParseBool` parses the value as false.
fn is_false(value: &str) -> bool {
    matches!(value, "0" | "f" | "F" | "false" | "FALSE" | "False")
}

fn split(argument: &str) -> (&str, Option<&str>) {
    if argument.starts_with("--") {
        return match argument.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (argument, None),
        };
    }
    if argument.starts_with('-') && argument.is_char_boundary(2) && argument.len() > 2 {
        let (name, value) = argument.split_at(2);
        return (name, Some(value.strip_prefix('=').unwrap_or(value)));
    }
    (argument, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_option_is_read() {
        for form in [
            &["--data-root=/d"][..],
            &["--data-root", "/d"],
            &["--graph=/d"],
            &["--graph", "/d"],
            &["-g", "/d"],
            &["-g/d"],
            &["-g=/d"],
            &["-H", "fd://", "--debug", "-g", "/d", "-s", "vfs"],
        ] {
            assert_eq!(
                DockerdArgs::parse(form).data_root.as_deref(),
                Some("/d"),
                "{form:?}"
            );
        }
    }

    #[test]
    fn an_option_is_not_mistaken_for_a_value() {
        let args = DockerdArgs::parse(&["--storage-driver", "overlay2", "--data-root"]);
        assert_eq!(args.driver.as_deref(), Some("overlay2"));
        assert_eq!(args.data_root, None);
    }

    #[test]
    fn the_other_options_are_read_too() {
        let args = DockerdArgs::parse(&[
            "--config-file=/c",
            "--userns-remap",
            "default",
            "-svfs",
            "--live-restore=false",
            "--feature",
            "containerd-snapshotter=true",
        ]);
        assert_eq!(args.config_file.as_deref(), Some("/c"));
        assert_eq!(args.userns_remap.as_deref(), Some("default"));
        assert_eq!(args.driver.as_deref(), Some("vfs"));
        assert!(
            args.live_restore.is_some(),
            "set, if only to false: dockerd minds"
        );
        assert!(args.containerd_image_store());
    }

    #[test]
    fn where_sockets_and_processes_are_noted_is_known() {
        for words in [&["--exec-root=/x"][..], &["--exec-root", "/x", "-D"]] {
            let args = DockerdArgs::parse(words);
            assert_eq!(args.exec_root.as_deref(), Some("/x"), "{words:?}");
        }
    }

    #[test]
    fn a_feature_can_be_switched_off() {
        for off in [
            &["--feature=containerd-snapshotter=false"][..],
            &["--feature=cdi"],
            &[],
        ] {
            assert!(!DockerdArgs::parse(off).containerd_image_store(), "{off:?}");
        }
        let last = [
            "--feature=containerd-snapshotter=false",
            "--feature=containerd-snapshotter",
        ];
        assert!(DockerdArgs::parse(&last).containerd_image_store());
    }

    #[test]
    fn what_a_reload_undoes_is_known() {
        let args = DockerdArgs::parse(&[
            "--authorization-plugin",
            "policy",
            "--max-concurrent-downloads=1",
            "--feature=cdi",
            "--label",
            "a=b",
        ]);
        assert_eq!(args.undone_by_reload, [AUTHORIZATION, "--feature"]);
        assert_eq!(args.forgotten_by_reload, ["--max-concurrent-downloads"]);
    }

    #[test]
    fn nothing_after_two_dashes_is_an_option() {
        assert_eq!(DockerdArgs::parse(&["--", "-g/d"]), DockerdArgs::default());
    }

    #[test]
    fn hosts_are_kept_in_their_order() {
        let args = DockerdArgs::parse(&["-H", "fd://", "--host=unix:///a", "-Htcp://b"]);
        assert_eq!(args.hosts, ["fd://", "unix:///a", "tcp://b"]);
    }
}
