//! Stop of Docker: the other units and the containers that a stop would affect.

use crate::doctor::{Check, Finding, refused};
use crate::host::impact::{Blocker, Impact};

/// The first kernel that supports tables with an owner (`NFT_TABLE_F_OWNER`). With such a
/// table, digestfix holds back new connections to published ports: the connections wait
/// until Docker is back.
const OWNED_TABLES: (u32, u32) = (5, 12);

/// Findings about the impact. `kernel` is the kernel's release.
pub fn judge(impact: &Impact, blockers: &[Blocker], kernel: &str) -> Vec<Finding> {
    // Leave out a changed unit, because the finding about the unit already reports the
    // change.
    let others = blockers
        .iter()
        .filter(|one| !matches!(one, Blocker::UnitChanged { .. }));
    let mut findings: Vec<Finding> = others.map(refused::blocker).collect();
    findings.extend(impact.not_known().map(|what| {
        let next =
            "check the file; if Docker rejects the file, apply reports that and stops nothing";
        Finding::warning(Check::Configuration, what, next)
    }));
    let is_clear = |findings: &[Finding], check| findings.iter().all(|one| one.check != check);
    if is_clear(&findings, Check::OtherUnits) {
        let along = &impact.carried_along;
        let what = if along.is_empty() {
            "no other unit stops along with Docker".to_owned()
        } else {
            format!(
                "units that stop and start together with Docker: {}",
                along.join(", ")
            )
        };
        findings.push(Finding::ok(Check::OtherUnits, what));
    }
    if is_clear(&findings, Check::Containers) {
        findings.push(Finding::ok(Check::Containers, containers(impact)));
    }
    if !impact.ports_to_hold().is_empty() && number(kernel) < OWNED_TABLES {
        findings.push(Finding::warning(
            Check::Containers,
            format!(
                "on Linux {}, new connections to published ports are refused while Docker restarts",
                kernel.trim()
            ),
            "run digestfix apply at a quiet time, or use Linux 5.12 or later",
        ));
    }
    findings
}

fn containers(impact: &Impact) -> String {
    let count = match impact.containers.len() {
        0 if !impact.running => {
            return "no container runs, because Docker is not running".to_owned();
        }
        0 => return "no container runs".to_owned(),
        1 => "1 runs, and".to_owned(),
        several => format!("{several} run, and"),
    };
    if impact.switches_live_restore() {
        format!("{count} would keep running: apply switches live-restore on for the restart")
    } else if impact.containers_survive() {
        format!("{count} would keep running: live-restore is on")
    } else {
        format!("{count} would stop with Docker, as --containers allows")
    }
}

fn number(kernel: &str) -> (u32, u32) {
    let mut parts = kernel.split(|character: char| !character.is_ascii_digit());
    let mut next = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::container::{Container, Published};
    use crate::doctor::State;
    use crate::host::impact::ContainerPolicy;
    use crate::host::live_restore::LiveRestore;

    fn impact() -> Impact {
        let mut found = Impact::of_units("docker.service", true, Vec::new(), Vec::new());
        found.policy = ContainerPolicy::Keep;
        found.live_restore = LiveRestore::Switchable("/etc/docker/daemon.json".into());
        found
    }

    #[test]
    fn what_becomes_of_containers_is_said() {
        let mut found = impact();
        let told = |found: &Impact| judge(found, &[], "6.1.0-9-amd64")[1].what.clone();
        assert_eq!(told(&found), "no container runs");
        found.containers.push(Container::default());
        assert!(
            told(&found).contains("switches live-restore on"),
            "{}",
            told(&found)
        );
        found.live_restore = LiveRestore::On;
        assert!(told(&found).contains("is on"), "{}", told(&found));
        found.policy = ContainerPolicy::Ignore;
        found.live_restore = LiveRestore::Switchable("/x".into());
        assert!(told(&found).contains("would stop"), "{}", told(&found));
    }

    #[test]
    fn an_obstacle_takes_the_place_of_what_is_well() {
        let job = Blocker::JobQueued {
            unit: "docker.service".to_owned(),
            kind: "restart".to_owned(),
        };
        let changed = Blocker::UnitChanged {
            unit: "docker.service".to_owned(),
        };
        let findings = judge(&impact(), &[changed, job], "6.1");
        let states: Vec<_> = findings.iter().map(|one| (one.check, one.state)).collect();
        assert_eq!(
            states,
            [
                (Check::OtherUnits, State::Problem),
                (Check::Containers, State::Ok)
            ]
        );
    }

    #[test]
    fn old_kernels_cannot_hold_connections_back() {
        let mut found = impact();
        let mut container = Container::default();
        container.published.insert(Published {
            ip: std::net::Ipv4Addr::LOCALHOST.into(),
            port: 80,
            protocol: "tcp".to_owned(),
        });
        found.containers.push(container);
        assert_eq!(judge(&found, &[], "5.12.0").len(), 2);
        assert_eq!(judge(&found, &[], "5.10.0-44-amd64").len(), 3);
        assert_eq!(judge(&found, &[], "4.19.0").len(), 3);
    }
}
