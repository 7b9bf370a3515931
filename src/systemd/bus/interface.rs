//! The D-Bus interface `org.freedesktop.systemd1(5)`, as in systemd 219 to 262.

use std::time::Duration;

use zbus::{DeserializeDict, OwnedFd, OwnedObjectPath, Type, Variant, proxy};

use crate::systemd::{Service, Unit};

#[proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub(super) trait Systemd1 {
    async fn subscribe(&self) -> zbus::Result<()>;
    async fn reload(&self) -> zbus::Result<()>;
    async fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(name = "GetUnitByPID")]
    async fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;
    async fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    async fn kill_unit(&self, name: &str, whom: &str, signal: i32) -> zbus::Result<()>;
    async fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    async fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    async fn enqueue_unit_job(
        &self,
        name: &str,
        kind: &str,
        mode: &str,
    ) -> zbus::Result<EnqueuedJob>;
    async fn list_units(&self) -> zbus::Result<Vec<ListedUnit>>;
    async fn list_jobs(&self) -> zbus::Result<Vec<ListedJob>>;
    async fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        others: &[(&str, &[(&str, Variant<'_>)])],
    ) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(
        &self,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

#[proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
pub(super) trait Login1 {
    async fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;
}

pub(super) type AffectedJob = (u32, OwnedObjectPath, String, OwnedObjectPath, String);
pub(super) type EnqueuedJob = (
    u32,
    OwnedObjectPath,
    String,
    OwnedObjectPath,
    String,
    Vec<AffectedJob>,
);
pub(super) type ListedUnit = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);
pub(super) type ListedJob = (
    u32,
    String,
    String,
    String,
    OwnedObjectPath,
    OwnedObjectPath,
);
type Assert = (String, bool, bool, String, i32);
type ExecCommand = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

#[proxy(
    interface = "org.freedesktop.DBus.Properties",
    default_service = "org.freedesktop.systemd1"
)]
pub(super) trait UnitProperties {
    #[zbus(name = "GetAll")]
    async fn unit(&self, interface: &str) -> zbus::Result<UnitDict>;
    #[zbus(name = "GetAll")]
    async fn service(&self, interface: &str) -> zbus::Result<ServiceDict>;
    #[zbus(name = "GetAll")]
    async fn socket(&self, interface: &str) -> zbus::Result<SocketDict>;
    #[zbus(name = "GetAll")]
    async fn manager(&self, interface: &str) -> zbus::Result<ManagerDict>;
}

#[derive(DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
pub(super) struct UnitDict {
    id: Option<String>,
    load_state: Option<String>,
    active_state: Option<String>,
    sub_state: Option<String>,
    unit_file_state: Option<String>,
    need_daemon_reload: Option<bool>,
    transient: Option<bool>,
    fragment_path: Option<String>,
    drop_in_paths: Option<Vec<String>>,
    triggered_by: Option<Vec<String>>,
    required_by: Option<Vec<String>>,
    requisite_of: Option<Vec<String>>,
    bound_by: Option<Vec<String>>,
    consists_of: Option<Vec<String>>,
    propagates_stop_to: Option<Vec<String>>,
    after: Option<Vec<String>>,
    requires: Option<Vec<String>>,
    requisite: Option<Vec<String>>,
    wants: Option<Vec<String>>,
    binds_to: Option<Vec<String>>,
    upholds: Option<Vec<String>>,
    stop_when_unneeded: Option<bool>,
    asserts: Option<Vec<Assert>>,
}

impl From<UnitDict> for Unit {
    fn from(dict: UnitDict) -> Self {
        let takes_along = [
            dict.required_by,
            dict.requisite_of,
            dict.bound_by,
            dict.consists_of,
            dict.propagates_stop_to,
        ];
        let needs = [
            dict.requires,
            dict.requisite,
            dict.wants,
            dict.binds_to,
            dict.upholds,
        ];
        Self {
            id: dict.id.unwrap_or_default(),
            load_state: dict.load_state.unwrap_or_default(),
            active_state: dict.active_state.unwrap_or_default(),
            sub_state: dict.sub_state.unwrap_or_default(),
            file_state: dict.unit_file_state.unwrap_or_default(),
            need_daemon_reload: dict.need_daemon_reload.unwrap_or_default(),
            transient: dict.transient.unwrap_or_default(),
            fragment_path: dict.fragment_path.unwrap_or_default(),
            drop_in_paths: dict.drop_in_paths.unwrap_or_default(),
            triggered_by: dict.triggered_by.unwrap_or_default(),
            takes_along: takes_along.into_iter().flatten().flatten().collect(),
            after: dict.after.unwrap_or_default(),
            needs: needs.into_iter().flatten().flatten().collect(),
            stop_when_unneeded: dict.stop_when_unneeded.unwrap_or_default(),
            asserted_paths: dict
                .asserts
                .unwrap_or_default()
                .into_iter()
                .filter(|(kind, ..)| kind == "AssertPathExists")
                .map(|(_, _, _, path, _)| path)
                .collect(),
        }
    }
}

#[derive(DeserializeDict, Type)]
#[zbus(signature = "a{sv}")]
pub(super) struct ServiceDict {
    #[zbus(rename = "MainPID")]
    main_pid: Option<u32>,
    #[zbus(rename = "KillMode")]
    kill_mode: Option<String>,
    #[zbus(rename = "ControlGroup")]
    control_group: Option<String>,
    #[zbus(rename = "TimeoutStopUSec")]
    timeout_stop: Option<u64>,
    #[zbus(rename = "ExecStart")]
    exec_start: Option<Vec<ExecCommand>>,
    #[zbus(rename = "Environment")]
    environment: Option<Vec<String>>,
    #[zbus(rename = "EnvironmentFiles")]
    environment_files: Option<Vec<(String, bool)>>,
}

impl From<ServiceDict> for Service {
    fn from(dict: ServiceDict) -> Self {
        let exec_start = dict.exec_start.unwrap_or_default().into_iter().last();
        Self {
            main_pid: dict.main_pid.unwrap_or_default(),
            kill_mode: dict.kill_mode.unwrap_or_default(),
            control_group: dict.control_group.unwrap_or_default(),
            timeout_stop: dict
                .timeout_stop
                .filter(|microseconds| *microseconds != u64::MAX)
                .map(Duration::from_micros),
            exec_start: exec_start.map(|command| command.1).unwrap_or_default(),
            environment: dict.environment.unwrap_or_default(),
            environment_files: dict.environment_files.unwrap_or_default(),
        }
    }
}

#[derive(DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
pub(super) struct SocketDict {
    pub(super) listen: Option<Vec<(String, String)>>,
}

#[derive(DeserializeDict, Type)]
#[zbus(signature = "a{sv}", rename_all = "PascalCase")]
pub(super) struct ManagerDict {
    pub(super) system_state: Option<String>,
    pub(super) version: Option<String>,
}
