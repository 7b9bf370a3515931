//! Impact of a change, as text and as a JSON object.

use std::collections::BTreeSet;

use crate::host::impact::{ContainerImpact, Impact};
use crate::host::live_restore::LiveRestore;
use crate::report::Report;
use crate::report::document::{ContainerDocument, ImpactDocument};

impl Report {
    pub fn impact(&mut self, impact: &Impact) {
        let restarts = if impact.running {
            let mut units = vec![impact.unit.clone()];
            units.extend(impact.triggers.clone());
            units
        } else {
            impact.triggers.clone()
        };
        if restarts.is_empty() {
            self.paragraph("Docker is not running, and digestfix leaves it stopped.");
        } else {
            self.paragraph(format!(
                "To apply these changes, digestfix stops and starts {}.",
                restarts.join(", ")
            ));
        }
        if !impact.carried_along.is_empty() {
            self.say(format!(
                "These units stop and start together with Docker: {}.",
                impact.carried_along.join(", ")
            ));
        }
        if impact.running {
            for line in effects(impact).iter().chain(&clients(impact)) {
                self.say(line);
            }
        }
        let containers = impact.containers.iter();
        self.document.impact = Some(ImpactDocument {
            restarts,
            also_restarts: impact.carried_along.clone(),
            running_containers: containers.clone().map(|one| one.name.clone()).collect(),
            containers_keep_running: impact.containers_survive(),
            api_clients: impact.api_clients,
            switches_live_restore: impact.switches_live_restore(),
            containers: containers
                .map(|one| ContainerDocument::of(one, impact.on(one)))
                .collect(),
        });
    }
}

/// The lines about running containers, and about connections to these containers.
fn effects(impact: &Impact) -> Vec<String> {
    let mut by_fate: Vec<(ContainerImpact, Vec<&str>)> = Vec::new();
    for container in &impact.containers {
        let effect = impact.on(container);
        match by_fate.iter_mut().find(|(other, _)| *other == effect) {
            Some((_, names)) => names.push(&container.name),
            None => by_fate.push((effect, vec![&container.name])),
        }
    }
    if by_fate.is_empty() {
        return vec!["Running containers: none.".to_owned()];
    }
    let mut lines = vec!["Running containers:".to_owned()];
    lines.extend(by_fate.into_iter().map(|(effect, names)| {
        let what = match effect {
            ContainerImpact::KeepsRunning => "keep running",
            ContainerImpact::StartedAgain => "stop with Docker, and are started again",
            ContainerImpact::RestartsByPolicy => "STOP with Docker; their restart policy starts them again",
            ContainerImpact::RestartsIfItFails => {
                "STOP with Docker; their restart policy starts them again only if they end with an error"
            }
            ContainerImpact::ReplacedBySwarm => "STOP with Docker; swarm starts new tasks in their place",
            ContainerImpact::StaysDown => "STOP with Docker, and stay down",
            ContainerImpact::Removed => "STOP with Docker, and are REMOVED with their anonymous volumes (--rm)",
        };
        format!("  {what}: {}", names.join(", "))
    }));
    if let (true, LiveRestore::Switchable(config_file)) =
        (impact.switches_live_restore(), &impact.live_restore)
    {
        lines.push(format!(
            "To keep containers running, digestfix enables live-restore in the file {}, and \
             restores the file afterwards.",
            config_file.display()
        ));
    }
    if impact.switches_live_restore() && !impact.forgotten_by_reload.is_empty() {
        lines.push(format!(
            "After the run, dockerd ignores {} on its command line until it starts again.",
            impact.forgotten_by_reload.join(", ")
        ));
    }
    if impact.containers_survive() {
        lines.push(
            "While Docker is stopped, containers do not find each other by name, their health \
             checks pause, and a pipe buffers their output."
                .to_owned(),
        );
    }
    let ports = impact.ports_to_hold();
    if !ports.is_empty() {
        let ports: BTreeSet<String> = ports.iter().map(ToString::to_string).collect();
        let ports: Vec<String> = ports.into_iter().collect();
        lines.push(format!(
            "New connections to published ports ({}) wait until about a second after Docker is \
             back (a few seconds on old kernels). Open connections continue, except \
             connections through docker-proxy (mostly connections from this host itself).",
            ports.join(", ")
        ));
    }
    lines
}

/// The line about clients that are connected to the API.
fn clients(impact: &Impact) -> Option<String> {
    let execs: usize = impact
        .containers
        .iter()
        .map(|container| container.execs)
        .sum();
    let execs = match execs {
        0 => String::new(),
        1 => ", 1 docker exec session among them".to_owned(),
        count => format!(", {count} docker exec sessions among them"),
    };
    let count = match impact.api_clients {
        0 => return None,
        1 => "1 client that is connected to the API now".to_owned(),
        count => format!("{count} clients that are connected to the API now"),
    };
    Some(format!(
        "The restart cuts off {count}{execs}; builds and pulls under way fail.{}",
        if impact.stops_late() {
            " When Docker stops, it waits up to 5 s for its clients."
        } else {
            ""
        }
    ))
}
