//! Refusals: the reasons why `apply` would refuse a change. Each finding contains the
//! message that `apply` would print, and names the check that fails.

use crate::doctor::{Check, Finding};
use crate::host::impact::{AssessError, Blocker};
use crate::host::{Doubt, HostError};
use crate::store::data_root::ReadError;

pub fn host(error: &HostError) -> Finding {
    let check = match error {
        HostError::Systemd(_) | HostError::InContainer(_) => Check::Systemd,
        HostError::NoUnit { .. }
        | HostError::Rootless { .. }
        | HostError::UnusableUnit { .. }
        | HostError::NotAService(_)
        | HostError::Wrapped { .. }
        | HostError::Transient { .. }
        | HostError::Unsettled { .. }
        | HostError::EnvironmentFile { .. } => Check::Unit,
        HostError::EngineSilent { .. }
        | HostError::NoNode(_)
        | HostError::OnlyForDocker(_)
        | HostError::NoUnixSocket(_)
        | HostError::ContainerdImageStore
        | HostError::Stopped(_) => Check::Engine,
        HostError::ConfigFile { .. }
        | HostError::ConfigFileMissing { .. }
        | HostError::SetTwice { .. }
        | HostError::Disagreement {
            fact: "configuration file",
            ..
        } => Check::Configuration,
        HostError::Disagreement { .. }
        | HostError::DataRoot { .. }
        | HostError::NoReferences(_)
        | HostError::Ambiguous { .. }
        | HostError::DriverName(_)
        | HostError::Link { .. }
        | HostError::UsedByAnother { .. }
        | HostError::InUse { .. }
        | HostError::Read(_) => Check::DataRoot,
    };
    Finding::refused(check, error, error.help())
}

pub fn read(error: &ReadError) -> Finding {
    Finding::refused(Check::References, error, error.help())
}

pub fn blocker(blocker: &Blocker) -> Finding {
    let check = match blocker {
        Blocker::UnitChanged { .. } => Check::Unit,
        Blocker::JobQueued { .. } | Blocker::Unsettled { .. } | Blocker::Ourselves { .. } => {
            Check::OtherUnits
        }
        Blocker::TooFewFiles { .. } => Check::Watchdog,
        Blocker::CannotKeep { .. } | Blocker::WouldBeRemoved { .. } => Check::Containers,
        Blocker::WouldMoveImages { .. } => Check::Configuration,
        Blocker::WouldNotStart { doubt, .. } | Blocker::MayNotStart { doubt, .. } => about(doubt),
    };
    Finding::refused(check, blocker, blocker.help())
}

const fn about(doubt: &Doubt) -> Check {
    if doubt.is_of_configuration() {
        Check::Configuration
    } else {
        Check::Unit
    }
}

pub fn assess(error: &AssessError) -> Finding {
    let check = match error {
        AssessError::Systemd(_) => Check::OtherUnits,
        AssessError::Engine(_) => Check::Containers,
    };
    Finding::refused(check, error, error.help())
}
