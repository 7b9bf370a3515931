//! A machine with containers and images, on which one point after another is tried.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::host::{Digest, Expected, Host};
use crate::injection::{Ended, Injected};
use crate::machine::{APP, Machine, STORE, Suite};
use crate::options::{Options, Way};
use crate::tally::Tried;

const FURNISH: &str = include_str!("furnish.sh");

const NODE: &str = include_str!("node.sh");

/// Restores the containers to their state before a reboot.
const AS_BEFORE: &str = "docker unpause frozen >/dev/null 2>&1 || true
docker start plain web frozen down >/dev/null
docker pause frozen >/dev/null
docker kill down >/dev/null";

/// Additional names of the image, so that the running Docker must load several
/// references.
const FURNISH_CONTAINERD: &str = "docker tag localhost:5000/lab/app:v1 lab/app:v1
docker tag localhost:5000/lab/app:v1 quay.io/lab/app:v1";

const NAMES: [&str; 3] = [APP, "lab/app", "quay.io/lab/app"];

pub struct Scene {
    pub machine: Machine,
    /// The arguments of an apply.
    words: Vec<String>,
    references: Vec<String>,
    pub expected: Expected,
    patience: Duration,
    by_hand: bool,
    way: Way,
}

impl Scene {
    /// Boots and prepares a machine, and observes the result of an apply without a fault.
    pub fn new(options: &Options, file_system: Option<&str>) -> Self {
        let machine = match file_system {
            Some(file_system) => Machine::boot_on_disk(options.suite, file_system),
            None => Machine::boot(options.suite),
        };
        machine.install_units();
        let config = match (options.way, options.suite) {
            (Way::Containerd, _) => "containerd",
            (_, Suite::Bullseye | Suite::Bookworm) => "none",
            (_, Suite::Trixie) => "file",
            (_, Suite::Forky) => "link",
        };
        let script = match options.way {
            Way::Node => NODE,
            Way::Restart | Way::Containerd => FURNISH,
        };
        machine.put("/usr/local/bin/cri.py", include_bytes!("../lab/cri.py"));
        let run = machine.run(&["sh", "-c", script, "furnish", config]);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        let digest = machine.digest("app");
        let (words, names) = if options.way != Way::Containerd {
            let words = vec!["apply".to_owned(), machine.claim("app")];
            (words, &NAMES[..1])
        } else {
            machine.bring_manifest("app");
            machine.sh(FURNISH_CONTAINERD);
            let words = "apply --from /lab/app.manifest";
            (
                words.split(' ').map(str::to_owned).collect(),
                NAMES.as_slice(),
            )
        };
        let references = names.iter().map(|name| format!("{name}@{digest}"));
        let references = references.collect();
        let host = Host::settled(&machine);
        assert!(!host.has_digest(), "the digest is lost at first");

        let apply: Vec<&str> = words.iter().map(String::as_str).collect();
        machine.digestfix(&apply).exits(0);
        let expected = Expected {
            references: Host::settled(&machine).value("references").to_owned(),
            host,
        };
        let scene = Self {
            machine,
            words,
            references,
            expected,
            patience: options.patience,
            by_hand: options.by_hand,
            way: options.way,
        };
        let whole = scene.whole(Digest::There).and_then(|_| scene.take_off());
        let whole = whole.and_then(|()| scene.whole(Digest::Absent));
        assert_eq!(whole.err(), None, "an apply without any fault");
        scene
    }

    pub fn apply(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    /// Waits until the host has the state that it must have.
    pub fn whole(&self, digest: Digest) -> Result<Duration, Vec<String>> {
        self.whole_within(digest, self.patience)
    }

    /// Like [`Self::whole`], with another timeout.
    pub fn whole_within(
        &self,
        digest: Digest,
        patience: Duration,
    ) -> Result<Duration, Vec<String>> {
        let seen = self
            .expected
            .wait_for(&self.machine, digest, patience, |host| host);
        seen.map(|(took, _)| took)
    }

    /// Like [`Self::whole`], after a reboot, which ends the processes of all containers.
    pub fn whole_after_reboot(
        &self,
        expected: &Expected,
        digest: Digest,
    ) -> Result<Duration, Vec<String>> {
        let seen = expected.wait_for(
            &self.machine,
            digest,
            self.patience,
            Host::without_processes,
        );
        seen.map(|(took, _)| took)
    }

    /// Removes the digest again, for the next point.
    pub fn take_off(&self) -> Result<(), Vec<String>> {
        let mut words = vec!["apply"];
        for reference in &self.references {
            words.extend(["--remove", reference]);
        }
        let is_there = match self.way {
            Way::Node => Host::of(&self.machine).has_digest(),
            Way::Restart | Way::Containerd => self.machine.engine_has("app"),
        };
        if is_there {
            let run = self.machine.digestfix(&words);
            if run.code != 0 {
                return Err(vec![format!(
                    "taking the digest off again exits with {}: {}{}",
                    run.code, run.stdout, run.stderr
                )]);
            }
        }
        self.machine.sh(&format!("rm -f {STORE}.digestfix-*"));
        Ok(())
    }

    /// Does what an administrator would do after a run with this end.
    pub fn recover_by_hand(&self, ended: Ended) -> Result<(), Vec<String>> {
        if !self.by_hand || !matches!(ended, Ended::Killed | Ended::Code(5)) {
            return Ok(());
        }
        self.recover()
    }

    pub fn recover(&self) -> Result<(), Vec<String>> {
        let run = self.machine.digestfix(&["recover", "--wait", "60"]);
        if run.code == 0 {
            return Ok(());
        }
        Err(vec![format!(
            "digestfix recover exits with {}: {}{}",
            run.code, run.stdout, run.stderr
        )])
    }

    /// Restores the containers to their state before a reboot, and syncs the disk.
    pub fn as_before_reboot(&self) {
        self.machine.sh(AS_BEFORE);
        self.machine
            .sh("sync -f /var/lib/docker; sync -f /etc/docker");
    }
}

/// Whether the host must have the digest after a run with this end.
pub fn promised(injected: &Injected) -> Result<Digest, Vec<String>> {
    match injected.ended {
        Ended::Code(0) => Ok(Digest::There),
        Ended::Code(1 | 3) => Ok(Digest::Absent),
        Ended::Code(5) | Ended::Killed => Ok(Digest::Either),
        Ended::Code(124 | 137) => Err(vec![format!("it does not end: {}", injected.output)]),
        Ended::Code(code) => Err(vec![format!(
            "exit code {code}, which is not one of 0, 1, 3 and 5: {}",
            injected.output
        )]),
    }
}

/// Tries a point. If the test panics, the point has failed, and the next point is tried.
pub fn attempt(point: impl FnOnce() -> Result<Tried, Vec<String>>) -> Tried {
    match catch_unwind(AssertUnwindSafe(point)) {
        Ok(Ok(tried)) => tried,
        Ok(Err(differences)) => Tried::Failed(differences),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Tried::Failed(vec![text.unwrap_or_else(|| "a panic".to_owned())])
        }
    }
}
