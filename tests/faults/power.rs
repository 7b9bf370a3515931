//! The power fails at each system call of an apply, and everything that was not synced is
//! lost. At the end, the power fails after an apply that reported success.

use crate::host::{Digest, Expected, Host};
use crate::injection::{Ended, inject, trace};
use crate::options::Options;
use crate::points::{Fault, chosen};
use crate::scene::{Scene, attempt, promised};
use crate::tally::{Tally, Tried};

/// The state of a host after a reboot.
pub struct Rebooted {
    pub scene: Scene,
    /// The state that Docker restores after a normal reboot.
    pub expected: Expected,
    cut: bool,
}

impl Rebooted {
    pub fn new(options: &Options, file_system: Option<&str>) -> Self {
        let mut scene = Scene::new(options, file_system);
        let cut = file_system.is_some();
        scene.as_before_reboot();
        scene.machine.reboot(cut);
        crate::machine::eventually("Docker is back", || {
            Host::of(&scene.machine).value("docker.service") == "active (running)"
        });
        let expected = Expected {
            host: Host::settled(&scene.machine).without_processes(),
            references: scene.expected.references.clone(),
        };
        Self {
            scene,
            expected,
            cut,
        }
    }

    /// Cuts the power now, and restores it.
    pub fn reboot(&mut self) {
        self.scene.machine.reboot(self.cut);
    }

    /// Checks that the host has recovered, and prepares it for the next point.
    pub fn is_whole(&self, ended: Ended, digest: Digest) -> Result<Tried, Vec<String>> {
        self.scene.recover_by_hand(ended)?;
        let took = self.scene.whole_after_reboot(&self.expected, digest)?;
        self.scene.take_off()?;
        Ok(Tried::Whole(took))
    }
}

pub fn run(options: &Options) -> Tally {
    let file_system = options.file_system.as_deref().unwrap_or("ext4");
    let host = Rebooted::new(options, Some(file_system));
    host.scene.as_before_reboot();
    let points = chosen(&trace(&host.scene.machine, &host.scene.apply()), options);
    host.scene.take_off().expect("the digest comes off again");
    let points = points.into_iter().skip(options.skip);
    let points: Vec<_> = points.step_by(options.every).collect();
    println!(
        "{} system calls at which the power fails, on {file_system}",
        points.len()
    );
    let tally = Tally::new(points.len() + 1);
    let mut host = Some(host);
    let points = points.into_iter().map(Some).chain([None]);
    for point in points {
        let injection = point.map(|point| point.with(Fault::Kill));
        let name = injection.as_ref().map_or_else(
            || "after an apply that was done".to_owned(),
            ToString::to_string,
        );
        let tried = attempt(|| {
            let host = host.get_or_insert_with(|| Rebooted::new(options, Some(file_system)));
            host.scene.as_before_reboot();
            let Some(injection) = &injection else {
                host.scene.machine.digestfix(&host.scene.apply()).exits(0);
                host.reboot();
                return host.is_whole(Ended::Code(0), Digest::There);
            };
            let injected = inject(&host.scene.machine, injection, &host.scene.apply());
            host.reboot();
            let tried = host.is_whole(injected.ended, promised(&injected)?)?;
            Ok(if injected.reached {
                tried
            } else {
                Tried::NotReached
            })
        });
        if matches!(tried, Tried::Failed(_)) {
            host = None;
        }
        tally.add(&name, tried);
    }
    tally
}
