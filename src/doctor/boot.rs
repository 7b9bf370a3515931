//! digestfix's own units: some recover interrupted runs after a power cut, and some apply
//! claims automatically.

use std::collections::BTreeMap;

use crate::doctor::{Check, Finding};
use crate::systemd::{LASTING, Unit};

/// The units that recover interrupted runs at boot.
pub const RECOVERING: [&str; 2] = ["digestfix-recover.service", "digestfix-resume.service"];

/// The units that apply the claims in the claims directories.
pub const APPLYING: [&str; 3] = ["digestfix.service", "digestfix.timer", "digestfix.path"];

/// Findings about digestfix's own units, and about watchdog units that have failed.
pub fn judge(units: &[Unit], states: &BTreeMap<String, String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let of = |name: &str| units.iter().find(|unit| unit.id == name);
    let is_enabled = |name: &str| of(name).is_some_and(|unit| unit.file_state == "enabled");
    let idle: Vec<&str> = RECOVERING
        .into_iter()
        .filter(|name| !is_enabled(name))
        .collect();
    if !idle.is_empty() {
        let is_there = |name: &&&str| of(name).is_some_and(|unit| unit.load_state == "loaded");
        let install = match idle.iter().filter(is_there).count() == idle.len() {
            true => "",
            false => {
                "install the package of digestfix, or put the units of digestfix into /etc/systemd/system; then: "
            }
        };
        findings.push(Finding::warning(
            Check::Boot,
            format!(
                "these units are not enabled: {}. If the power fails during a run, the host is fully restored only \
                 by the next run of digestfix, or by: digestfix recover",
                idle.join(", ")
            ),
            format!("{install}systemctl enable {}", idle.join(" ")),
        ));
    }
    let failed = APPLYING.iter().chain(&RECOVERING);
    let failed = failed.filter(|name| of(name).is_some_and(|unit| unit.active_state == "failed"));
    let watchdogs = states
        .iter()
        .filter(|(name, state)| name.starts_with(LASTING) && *state == "failed");
    let failed = failed.map(|name| (*name).to_owned());
    for name in failed.chain(watchdogs.map(|(name, _)| name.clone())) {
        findings.push(Finding::warning(
            Check::Boot,
            format!("{name} has failed"),
            format!("journalctl -u {name} -n 50; then: systemctl reset-failed {name}"),
        ));
    }
    if findings.is_empty() {
        let applying = APPLYING[1..].iter().filter(|name| is_enabled(name));
        let applying: Vec<&str> = applying.copied().collect();
        let applying = match applying.as_slice() {
            [] => "no unit applies claims automatically".to_owned(),
            names => format!("{} enabled", names.join(" and ")),
        };
        findings.push(Finding::ok(
            Check::Boot,
            format!("the units that finish a run after a power cut are enabled; {applying}"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, file_state: &str, active_state: &str) -> Unit {
        Unit {
            id: name.to_owned(),
            load_state: if file_state.is_empty() {
                "not-found"
            } else {
                "loaded"
            }
            .to_owned(),
            file_state: file_state.to_owned(),
            active_state: active_state.to_owned(),
            ..Unit::default()
        }
    }

    #[test]
    fn what_is_not_enabled_or_has_failed_is_told() {
        let [recover, resume] = RECOVERING.map(|name| unit(name, "enabled", "inactive"));
        let well = [recover.clone(), resume.clone()];
        let found = judge(&well, &BTreeMap::new());
        assert_eq!(found.len(), 1);
        assert!(found[0].next.is_none(), "{found:?}");
        let found = judge(
            &[recover.clone(), unit(RECOVERING[1], "disabled", "inactive")],
            &BTreeMap::new(),
        );
        let next = found[0].next.clone().unwrap_or_default();
        assert_eq!(next, "systemctl enable digestfix-resume.service");
        let found = judge(
            &[recover.clone(), unit(RECOVERING[1], "", "inactive")],
            &BTreeMap::new(),
        );
        let next = found[0].next.clone().unwrap_or_default();
        assert!(next.starts_with("install"), "{next}");
        let failed = unit(APPLYING[0], "static", "failed");
        let watchdog = (
            "digestfix-watchdog-1.service".to_owned(),
            "failed".to_owned(),
        );
        let found = judge(&[recover, resume, failed], &BTreeMap::from([watchdog]));
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
