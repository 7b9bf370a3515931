//! Containers: their properties that matter when Docker restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The label of containers that belong to a swarm service.
const SWARM_TASK: &str = "com.docker.swarm.task.id";

const COMPOSE_PROJECT: &str = "com.docker.compose.project";
const COMPOSE_SERVICE: &str = "com.docker.compose.service";
const COMPOSE_DEPENDS_ON: &str = "com.docker.compose.depends_on";

/// A container that runs, or that ran when digestfix inspected it (`GET
/// /containers/{id}/json`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub status: Status,
    /// The ID of the container's first process. 0 if the container is not running.
    pub pid: u32,
    /// The time at which the container last started, in Docker's format.
    pub started_at: String,
    pub restart_policy: RestartPolicy,
    /// The limit of restarts (`--restart on-failure:N`). 0 means no limit.
    pub max_retries: u32,
    /// Whether Docker removes the container and its anonymous volumes when the container
    /// stops (`--rm`).
    pub auto_remove: bool,
    /// Whether the container belongs to a swarm service. If such a container ends, swarm
    /// starts a new container in its place.
    pub swarm_task: bool,
    pub health_check: bool,
    /// The host's ports that are published for the container. For a restarting container,
    /// the ports that Docker will publish when it runs again.
    pub published: BTreeSet<Published>,
    /// The number of running `docker exec` sessions.
    pub execs: usize,
    /// The containers that must run before this one can start, each by ID or name.
    needs: Vec<String>,
    /// The container's Compose project and service.
    service: Option<(String, String)>,
    /// The services of the same Compose project that must start before this container.
    after_services: Vec<String>,
}

/// A port of the host that Docker forwards to a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    /// The host's IP address. `0.0.0.0` stands for all IPv4 addresses of the host, and
    /// `::` stands for all IPv6 addresses.
    pub ip: IpAddr,
    pub port: u16,
    /// The protocol, which is `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Status {
    #[default]
    Running,
    Paused,
    /// The container ended, and Docker will start it again because of its restart policy.
    Restarting,
    /// Docker's word for the status, such as `created`, `exited`, `removing` or `dead`.
    Down(String),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Down(word) => word,
        })
    }
}

/// A restart policy (`docker run --restart`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    No,
    OnFailure,
    Always,
    /// Docker always restarts the container, unless a user stopped it.
    UnlessStopped,
}

impl RestartPolicy {
    /// The name of the policy, as `docker run --restart` expects it.
    pub fn word(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::OnFailure => "on-failure",
            Self::Always => "always",
            Self::UnlessStopped => "unless-stopped",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub name: String,
    pub what: Happened,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    Removed,
    Stopped(String),
    /// The container runs, but with a different process.
    Restarted,
    /// Docker no longer lists the container. The container's files are still in the
    /// directory with this path.
    Unlisted(PathBuf),
    /// The process is the same, but the container was paused or unpaused.
    Now(Status),
}

impl Happened {
    /// The change as one word, for machine-readable output.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Unlisted(_) => "unlisted",
            Self::Stopped(_) => "stopped",
            Self::Restarted => "restarted",
            Self::Now(Status::Paused) => "paused",
            Self::Now(_) => "unpaused",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match &self.what {
            Happened::Removed => write!(f, "{name} is gone"),
            Happened::Unlisted(files) => write!(
                f,
                "{name} is missing from docker ps -a: when Docker started, it failed to load this \
                 container; the container's files are still in {}",
                files.display()
            ),
            Happened::Stopped(status) => write!(f, "{name} is no longer running ({status})"),
            Happened::Restarted => write!(f, "{name} was restarted"),
            Happened::Now(status) => write!(f, "{name} is {status} now"),
        }
    }
}

impl Container {
    /// What changed in this container. `now` is the present state of the container with
    /// the same ID, or `None` if Docker does not list the container.
    pub fn change(&self, now: Option<&Self>) -> Option<Change> {
        let what = match now {
            None => Happened::Removed,
            Some(now) => match (&self.status, &now.status) {
                (_, Status::Down(word)) => Happened::Stopped(word.clone()),
                // A restarting container starts and ends repeatedly, even if Docker does
                // not restart.
                (Status::Restarting, _) => return None,
                _ if (self.pid, &self.started_at) != (now.pid, &now.started_at) => {
                    Happened::Restarted
                }
                (before, after) if before != after => Happened::Now(after.clone()),
                _ => return None,
            },
        };
        Some(Change {
            name: self.name.clone(),
            what,
        })
    }

    fn is_called(&self, name: &str) -> bool {
        self.id == name || self.name == name
    }

    fn comes_after(&self, other: &Self) -> bool {
        self.needs.iter().any(|name| other.is_called(name))
            || match (&self.service, &other.service) {
                (Some((own, _)), Some((project, service))) => {
                    own == project && self.after_services.contains(service)
                }
                _ => false,
            }
    }
}

/// Sorts containers by the time of their last start, but puts each container after the
/// containers that it needs. A container needs each container whose volumes it uses, or
/// whose network, process or IPC namespace it uses. A container also needs the containers
/// that it links to, and the containers that it depends on in Compose.
pub fn in_start_order(mut containers: Vec<Container>) -> Vec<Container> {
    containers.sort_by(|a, b| (&a.started_at, &a.id).cmp(&(&b.started_at, &b.id)));
    let mut ordered = Vec::with_capacity(containers.len());
    while !containers.is_empty() {
        let waits = |container: &Container| {
            containers
                .iter()
                .any(|other| other.id != container.id && container.comes_after(other))
        };
        let next = containers
            .iter()
            .position(|container| !waits(container))
            .unwrap_or(0);
        ordered.push(containers.remove(next));
    }
    ordered
}

/// The fields that digestfix uses from the answer to `GET /containers/{id}/json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspection {
    id: String,
    #[serde(default)]
    name: String,
    state: StateAnswer,
    #[serde(default)]
    host_config: HostConfigAnswer,
    #[serde(default)]
    config: ConfigAnswer,
    #[serde(default)]
    network_settings: NetworkSettingsAnswer,
    #[serde(rename = "ExecIDs", default)]
    exec_ids: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StateAnswer {
    status: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    started_at: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HostConfigAnswer {
    restart_policy: RestartPolicyAnswer,
    auto_remove: bool,
    network_mode: String,
    pid_mode: String,
    ipc_mode: String,
    volumes_from: Option<Vec<String>>,
    links: Option<Vec<String>>,
    port_bindings: Option<Ports>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RestartPolicyAnswer {
    name: String,
    maximum_retry_count: u32,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigAnswer {
    labels: Option<BTreeMap<String, String>>,
    healthcheck: Option<HealthcheckAnswer>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthcheckAnswer {
    test: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkSettingsAnswer {
    ports: Option<Ports>,
}

/// For each port and protocol of a container, such as `80/tcp`, the host's ports that
/// Docker forwards to it.
type Ports = BTreeMap<String, Option<Vec<PortAnswer>>>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PortAnswer {
    #[serde(default)]
    host_ip: String,
    #[serde(default)]
    host_port: String,
}

impl PortAnswer {
    /// The ports of the host that Docker forwards. An empty IP address in Docker's answer
    /// stands for all addresses of the host.
    fn published(&self, protocol: &str) -> Vec<Published> {
        let Ok(port) = self.host_port.parse() else {
            return Vec::new();
        };
        let ips: Vec<IpAddr> = if self.host_ip.is_empty() {
            vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
        } else {
            self.host_ip.parse().into_iter().collect()
        };
        ips.into_iter()
            .map(|ip| Published {
                ip,
                port,
                protocol: protocol.to_owned(),
            })
            .collect()
    }
}

impl From<Inspection> for Container {
    fn from(answer: Inspection) -> Self {
        let host = answer.host_config;
        let labels = answer.config.labels.unwrap_or_default();
        let shared = [&host.network_mode, &host.pid_mode, &host.ipc_mode];
        let mut needs: Vec<String> = shared
            .iter()
            .filter_map(|mode| mode.strip_prefix("container:"))
            .map(str::to_owned)
            .collect();
        let volumes_from = host.volumes_from.unwrap_or_default();
        needs.extend(volumes_from.iter().map(|from| first_part(from)));
        // `/database:/web/alias`
        let links = host.links.unwrap_or_default();
        needs.extend(
            links
                .iter()
                .map(|link| first_part(link.trim_start_matches('/'))),
        );
        let label = |name: &str| labels.get(name).filter(|value| !value.is_empty()).cloned();
        // `database:service_started:false,cache:service_healthy:true`
        let after_services = label(COMPOSE_DEPENDS_ON)
            .map(|list| list.split(',').map(first_part).collect())
            .unwrap_or_default();
        let published = match answer.state.status.as_str() {
            // Docker publishes no ports for a container in the host's network.
            "restarting" if host.network_mode != "host" => host.port_bindings,
            _ => answer.network_settings.ports,
        };
        let published = published.unwrap_or_default();
        let published = published.iter().flat_map(|(port, bindings)| {
            let protocol = port.rsplit('/').next().unwrap_or_default();
            let bindings = bindings.iter().flatten();
            bindings.flat_map(|binding| binding.published(protocol))
        });
        Self {
            name: match answer.name.trim_start_matches('/') {
                "" => answer.id.clone(),
                name => name.to_owned(),
            },
            id: answer.id,
            status: match answer.state.status.as_str() {
                "running" => Status::Running,
                "paused" => Status::Paused,
                "restarting" => Status::Restarting,
                other => Status::Down(other.to_owned()),
            },
            pid: answer.state.pid,
            started_at: answer.state.started_at,
            restart_policy: match host.restart_policy.name.as_str() {
                "always" => RestartPolicy::Always,
                "unless-stopped" => RestartPolicy::UnlessStopped,
                "on-failure" => RestartPolicy::OnFailure,
                _ => RestartPolicy::No,
            },
            max_retries: host.restart_policy.maximum_retry_count,
            auto_remove: host.auto_remove,
            swarm_task: labels.contains_key(SWARM_TASK),
            health_check: answer
                .config
                .healthcheck
                .and_then(|check| check.test)
                .is_some_and(|test| !test.is_empty() && test != ["NONE"]),
            published: published.collect(),
            execs: answer.exec_ids.map_or(0, |ids| ids.len()),
            service: label(COMPOSE_PROJECT).zip(label(COMPOSE_SERVICE)),
            after_services,
            needs,
        }
    }
}

fn first_part(text: &str) -> String {
    text.split(':').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn inspected(json: &str) -> Container {
        serde_json::from_str::<Inspection>(json).unwrap().into()
    }

    fn named(name: &str, rest: &str) -> Container {
        inspected(&format!(
            r#"{{"Id":"id-{name}","Name":"/{name}","State":{{"Status":"running","Pid":7,"StartedAt":"t1"}}{rest}}}"#
        ))
    }

    #[test]
    fn an_inspection_is_read() {
        let web = named(
            "web",
            r#","ExecIDs":["e"],"HostConfig":{"AutoRemove":true,"RestartPolicy":{"Name":"unless-stopped"},
               "Links":null},"Config":{"Healthcheck":{"Test":["CMD","true"]},"Labels":{"com.docker.swarm.task.id":"x"}},
               "NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}],
               "90/udp":null,"53/udp":[{"HostPort":"53"}]}}"#,
        );
        assert_eq!(web.name, "web");
        assert_eq!(
            (web.restart_policy, web.execs),
            (RestartPolicy::UnlessStopped, 1)
        );
        assert!(web.auto_remove && web.swarm_task && web.health_check);
        let published: Vec<String> = web
            .published
            .iter()
            .map(|one| format!("{} {one}", one.ip))
            .collect();
        assert_eq!(
            published,
            [
                "0.0.0.0 53/udp",
                "0.0.0.0 8080/tcp",
                ":: 53/udp",
                ":: 8080/tcp"
            ]
        );
        let bound = |status: &str, network: &str| {
            let inspected = inspected(&format!(
                r#"{{"Id":"x","State":{{"Status":"{status}"}},"HostConfig":{{"NetworkMode":"{network}",
                    "PortBindings":{{"80/tcp":[{{"HostIp":"","HostPort":"8080"}}],"81/tcp":[{{"HostPort":""}}]}}}},
                    "NetworkSettings":{{"Ports":{{}}}}}}"#
            ));
            inspected.published.len()
        };
        assert_eq!(bound("restarting", "default"), 2, "of each family");
        assert_eq!(bound("restarting", "host"), 0);
        assert_eq!(bound("running", "host"), 0);
        let bare = inspected(r#"{"Id":"x","State":{"Status":"exited"}}"#);
        assert_eq!(bare.name, "x");
        assert_eq!(bare.status, Status::Down("exited".to_owned()));
    }

    #[test]
    fn containers_start_after_those_they_need() {
        let project = |service: &str, after: &str| {
            format!(
                r#","Config":{{"Labels":{{"com.docker.compose.project":"p","com.docker.compose.service":"{service}",
                "com.docker.compose.depends_on":"{after}"}}}}"#
            )
        };
        for (first, second) in [
            (
                "",
                r#","HostConfig":{"NetworkMode":"container:id-z"}"#.to_owned(),
            ),
            ("", r#","HostConfig":{"PidMode":"container:z"}"#.to_owned()),
            ("", r#","HostConfig":{"IpcMode":"container:z"}"#.to_owned()),
            ("", r#","HostConfig":{"VolumesFrom":["z:ro"]}"#.to_owned()),
            ("", r#","HostConfig":{"Links":["/z:/a/db"]}"#.to_owned()),
            (
                project("db", "").as_str(),
                project("web", "cache:service_started:false,db:service_healthy:true"),
            ),
        ] {
            let (z, a) = (named("z", first), named("a", &second));
            let names: Vec<String> = in_start_order(vec![a, z])
                .into_iter()
                .map(|container| container.name)
                .collect();
            assert_eq!(names, ["z", "a"], "{second}");
        }
    }

    #[test]
    fn containers_that_need_nothing_start_as_they_did() {
        let mut late = named("a", "");
        late.started_at = "t2".to_owned();
        let ordered = in_start_order(vec![late, named("b", "")]);
        assert_eq!(ordered[0].name, "b");
    }

    #[test]
    fn what_needs_itself_by_way_of_another_is_ordered_all_the_same() {
        let a = named("a", r#","HostConfig":{"Links":["/b:/a/b"]}"#);
        let b = named("b", r#","HostConfig":{"Links":["/a:/b/a"]}"#);
        assert_eq!(in_start_order(vec![a, b]).len(), 2);
    }

    #[test]
    fn changes_are_told() {
        let before = named("web", "");
        let with = |change: fn(&mut Container)| {
            let mut now = before.clone();
            change(&mut now);
            before.change(Some(&now)).map(|change| change.what)
        };
        assert_eq!(with(|_| {}), None);
        assert_eq!(with(|now| now.pid = 8), Some(Happened::Restarted));
        assert_eq!(
            with(|now| now.started_at = "t2".to_owned()),
            Some(Happened::Restarted)
        );
        assert_eq!(
            with(|now| now.status = Status::Paused),
            Some(Happened::Now(Status::Paused))
        );
        assert_eq!(
            with(|now| now.status = Status::Down("exited".to_owned())),
            Some(Happened::Stopped("exited".to_owned()))
        );
        assert_eq!(before.change(None).unwrap().what, Happened::Removed);
        let crashing = Container {
            status: Status::Restarting,
            ..before.clone()
        };
        assert_eq!(crashing.change(Some(&before)), None);
    }
}
