//! Describes what a run leaves on the host when its undo fails.

use crate::image::digest::Digest;
use crate::state::journal::{DaemonJson, Restart};
use crate::transaction::restart::daemon_json::hash_at;
use crate::transaction::restart::exchange::FileError;

/// The differences from the state before the run, apart from the reference store and the
/// state of Docker.
pub fn left(restart: &Restart) -> Vec<String> {
    let switch = restart.live_restore.as_ref();
    let mut left: Vec<String> = switch
        .and_then(|switch| of_daemon_json(switch, hash_at(&switch.config_file)))
        .into_iter()
        .collect();
    if !restart.kept_down.is_empty() {
        let names = restart.kept_down.iter().map(|one| one.name.as_str());
        left.push(format!(
            "containers that are down and may still lack their restart policy: {}",
            names.collect::<Vec<_>>().join(", ")
        ));
    }
    left
}

fn of_daemon_json(switch: &DaemonJson, now: Result<Option<Digest>, FileError>) -> Option<String> {
    let path = switch.config_file.display();
    match now {
        Err(error) => Some(format!(
            "{path} cannot be read, so the file may not be as it was: {error}"
        )),
        Ok(now) if now == switch.before => None,
        Ok(None) => Some(format!("{path} is gone")),
        Ok(Some(now)) if now == switch.on => {
            Some(format!("{path} has live-restore on, which was off before"))
        }
        Ok(Some(now)) if now == switch.off => Some(format!("{path} says live-restore: false")),
        Ok(Some(_)) => Some(format!("{path} was changed by another process")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::fs;

    use super::*;
    use crate::docker::container::RestartPolicy;
    use crate::state::journal::{KeptDown, hash};
    use crate::testing::scratch;

    #[test]
    fn what_is_left_is_named_and_nothing_else_is() {
        let root = scratch();
        let config_file = root.path().join("daemon.json");
        let path = config_file.display();
        let mut restart = Restart::new("docker.service");
        assert_eq!(left(&restart), [""; 0]);
        restart.live_restore = Some(DaemonJson {
            config_file: config_file.clone(),
            engine: false,
            before: Some(hash(b"before")),
            found: true,
            directory: true,
            on: hash(b"on"),
            off: hash(b"off"),
        });
        assert_eq!(left(&restart), [format!("{path} is gone")]);
        for (now, said) in [
            ("before", None),
            ("on", Some("has live-restore on, which was off before")),
            ("off", Some("says live-restore: false")),
            ("mine", Some("was changed by another process")),
        ] {
            fs::write(&config_file, now).unwrap();
            let said: Vec<String> = said.iter().map(|said| format!("{path} {said}")).collect();
            assert_eq!(left(&restart), said);
        }
        fs::write(&config_file, "before").unwrap();
        restart.kept_down.push(KeptDown {
            id: "1".to_owned(),
            name: "db".to_owned(),
            policy: RestartPolicy::Always,
            max_retries: 0,
        });
        assert_eq!(
            left(&restart),
            ["containers that are down and may still lack their restart policy: db"]
        );
    }
}
