//! The Ansible collection, built and installed as it would be published, on three
//! machines with three engines. Ansible uses real ssh connections to a real sshd in each
//! machine, which starts for each connection. kubectl is a test double that records its
//! arguments, because the machines have no Kubernetes.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, thread};

use serde_json::{Value, json};

use crate::machine::{APP, Machine, Run, STORE, Suite, eventually, program};

const SUITES: [Suite; 3] = [Suite::Bookworm, Suite::Trixie, Suite::Forky];

/// The test double of kubectl: it remembers which nodes are cordoned, and records every
/// change that it is asked to make.
const KUBECTL: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit
case $1 in
  get) [ ! -e "cordoned.$3" ] || echo true; exit ;;
  cordon) : >"cordoned.$2" ;;
  uncordon) rm "cordoned.$2" ;;
esac
echo "$@" >>calls
"#;

/// Docker's client on the manager of a swarm. It records its arguments before it runs.
const NOTING_DOCKER: &str = r#"echo "$@" >>/run/noted
exec docker "$@"
"#;

/// The machines, and the files of the host that manages them.
struct Fleet {
    machines: [Machine; 3],
    directory: PathBuf,
    programs: PathBuf,
}

/// The counts in the recap of a playbook run for one host.
type Tally = BTreeMap<String, u32>;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn output(command: &mut Command) -> Run {
    command.output().expect("it can be run").into()
}

impl Fleet {
    fn boot() -> Self {
        let machines = thread::scope(|scope| {
            SUITES
                .map(|suite| scope.spawn(move || Machine::boot(suite)))
                .map(|booting| booting.join().unwrap())
        });
        // The directory is removed together with the machine.
        let directory = machines[0].directory().join("fleet");
        fs::create_dir_all(&directory).unwrap();
        let core = env::var("DIGESTFIX_ANSIBLE").unwrap_or_default();
        let tools = output(Command::new(repository("tests/fleet/tools")).arg(core)).exits(0);
        let fleet = Self {
            machines,
            programs: PathBuf::from(tools.stdout.trim()),
            directory,
        };
        fleet.open_doors();
        fleet.install_collection();
        fleet.gather_claims();
        fs::write(fleet.path("kubectl"), KUBECTL).unwrap();
        fs::set_permissions(fleet.path("kubectl"), PermissionsExt::from_mode(0o755)).unwrap();
        // The debug build has 120 MB, mostly symbols.
        output(
            Command::new("strip")
                .args(["-o", &fleet.path("digestfix")])
                .arg(program()),
        )
        .exits(0);
        fleet
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn ansible(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .env("ANSIBLE_HOME", self.path("ansible"))
            .env("ANSIBLE_COLLECTIONS_PATH", self.path("collections"))
            .env("ANSIBLE_SSH_CONTROL_PATH_DIR", self.path("cp"))
            .env("ANSIBLE_PIPELINING", "true")
            // By default, Ansible compresses the transfer for a slow network, and closes
            // a connection after a minute.
            .env(
                "ANSIBLE_SSH_ARGS",
                "-o ControlMaster=auto -o ControlPersist=600s",
            )
            .env("ANSIBLE_NOCOLOR", "true")
            .env("ANSIBLE_INVENTORY", self.path("inventory"));
        command
    }

    /// No network reaches the machines. So ssh talks to an sshd that is started for it in
    /// the machine's namespaces.
    fn open_doors(&self) {
        let key = self.path("key");
        output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]))
            .exits(0);
        let public = fs::read_to_string(format!("{key}.pub")).unwrap();
        let mut inventory = String::new();
        for (suite, machine) in SUITES.into_iter().zip(&self.machines) {
            machine.sh("mkdir -p /run/sshd; mkdir -p -m 700 /root/.ssh");
            machine.write("/root/.ssh/authorized_keys", &public);
            let door = format!(
                "-o ProxyCommand='nsenter -t {} -m -u -i -n -p -r -w -- /usr/sbin/sshd -i' \
                 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
                machine.init()
            );
            inventory += &format!("{} ansible_ssh_common_args=\"{door}\"\n", suite.name());
        }
        inventory += &format!(
            "[all:vars]\nansible_user=root\nansible_ssh_private_key_file={key}\n\
             ansible_python_interpreter=/usr/bin/python3\n"
        );
        fs::write(self.path("inventory"), inventory).unwrap();
    }

    fn install_collection(&self) {
        output(
            self.ansible("ansible-galaxy")
                .args(["collection", "build", "--output-path"])
                .arg(&self.directory)
                .arg(repository("packaging/ansible")),
        )
        .exits(0);
        let version = env!("CARGO_PKG_VERSION");
        output(
            self.ansible("ansible-galaxy")
                .args(["collection", "install", "--offline", "-p"])
                .arg(self.path("collections"))
                .arg(self.path(&format!("digestfix-digestfix-{version}.tar.gz"))),
        )
        .exits(0);
    }

    /// Writes one claims file for all machines. Each machine has its own build of the
    /// image, and ignores the claims about the other builds.
    fn gather_claims(&self) {
        let claims: Vec<Value> = self
            .machines
            .iter()
            .map(|machine| {
                json!({
                    "reference": format!("{APP}@{}", machine.digest("app")),
                    "image_id": machine.id("app"),
                })
            })
            .collect();
        let file = json!({ "digestfix_claims": 1, "claims": claims });
        fs::write(self.path("digests.json"), file.to_string()).unwrap();
    }

    /// Runs the collection's playbook, on one host at a time by default.
    fn roll(&self, options: &[&str], variables: &Value) -> (Run, BTreeMap<String, Tally>) {
        let mut all = json!({
            "digestfix_serial": [1],
            "digestfix_claims_files": [self.path("digests.json")],
            "digestfix_binary": self.path("digestfix"),
            "digestfix_kubectl": [self.path("kubectl")],
        });
        for (name, value) in variables.as_object().unwrap() {
            all[name] = value.clone();
        }
        let run = output(
            self.ansible("ansible-playbook")
                .arg("digestfix.digestfix.roll")
                .arg("--extra-vars")
                .arg(all.to_string())
                .args(options),
        );
        let tallies = tallies(&run.stdout);
        (run, tallies)
    }

    fn kubectl_calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.path("calls"));
        calls.lines().map(str::to_owned).collect()
    }
}

/// Parses the lines `HOST : ok=1 changed=0 …` of the recap.
fn tallies(stdout: &str) -> BTreeMap<String, Tally> {
    let (_, recap) = stdout.split_once("PLAY RECAP").unwrap_or_default();
    let lines = recap.lines().filter_map(|line| line.split_once(" : "));
    lines
        .map(|(host, counts)| {
            let counts = counts
                .split_whitespace()
                .filter_map(|count| count.split_once('='))
                .map(|(name, count)| (name.to_owned(), count.parse().unwrap()));
            (host.trim().to_owned(), counts.collect())
        })
        .collect()
}

/// Prints everything that a run of the playbook could change.
fn look(machine: &Machine) -> String {
    machine.sh(&format!(
        "systemctl show -p MainPID,InvocationID,ActiveEnterTimestampMonotonic docker.service
         docker inspect -f '{{{{.State.Pid}}}} {{{{.State.StartedAt}}}}' web
         stat -c '%n %i %Y %Z' {STORE} /etc /etc/docker /etc/systemd/system /usr/bin
         find /etc/digestfix /var/lib/docker/digestfix -printf '%p %i %T@ %C@\\n' 2>/dev/null || true"
    ))
}

/// The times at which the newest transaction began and ended.
fn newest(machine: &Machine) -> (String, String) {
    let history = machine.digestfix(&["history", "--json"]).exits(0);
    let history: Value = serde_json::from_str(&history.stdout).unwrap();
    let newest = history["transactions"].as_array().unwrap().last().unwrap();
    let time = |name: &str| newest[name].as_str().unwrap().to_owned();
    (time("began"), time("ended"))
}

#[test]
fn a_fleet() {
    let fleet = Fleet::boot();
    let [first, _, last] = &fleet.machines;
    for machine in &fleet.machines {
        machine.allow_containers();
        machine.load("app");
        machine.sh(&format!(
            "docker run -d --stop-timeout=1 --name web --network none {APP}:v1 /bin/busybox sleep 3600"
        ));
    }

    shows_what_would_change(&fleet);
    ends_at_a_host_that_cannot_be_reached(&fleet);
    stops_at_a_host_that_refuses(&fleet);
    stops_at_a_host_that_fails(&fleet);
    for machine in [first, last] {
        machine.digestfix(&["rollback"]).exits(0);
    }
    repairs_all_one_after_another(&fleet);
    changes_nothing_the_second_time(&fleet);
    returns_a_swarm_node_and_leaves_a_broken_node_cordoned(&fleet);
}

/// Check mode with a diff.
fn shows_what_would_change(fleet: &Fleet) {
    let before: Vec<String> = fleet.machines.iter().map(look).collect();

    let (run, tallies) = fleet.roll(
        &["--check", "--diff"],
        &json!({
            "digestfix_serial": ["100%"],
            "digestfix_binary": "",
            "digestfix_executable": "/usr/local/bin/digestfix",
            "digestfix_kubernetes": true,
            "digestfix_units": ["digestfix-recover.service"],
        }),
    );

    let run = run.exits(0);
    for (suite, machine) in SUITES.into_iter().zip(&fleet.machines) {
        let line = format!("\n+{APP}@{}={}\n", machine.digest("app"), machine.id("app"));
        assert!(run.stdout.contains(&line), "{}", run.stdout);
        assert!(tallies[suite.name()]["changed"] > 0, "{}", run.stdout);
    }
    let after: Vec<String> = fleet.machines.iter().map(look).collect();
    assert_eq!(after, before);
    assert_eq!(fleet.kubectl_calls(), [""; 0]);
}

/// The playbook changes nothing in the batch of an unreachable host, and begins no other
/// batch.
fn ends_at_a_host_that_cannot_be_reached(fleet: &Fleet) {
    let before: Vec<String> = fleet.machines.iter().map(look).collect();
    fs::write(
        fleet.path("lost"),
        "lost ansible_ssh_common_args='-o ProxyCommand=false'\n",
    )
    .unwrap();
    let inventories = ["--inventory", &fleet.path("lost"), "--inventory"];

    let (run, tallies) = fleet.roll(
        &[&inventories[..], &[&fleet.path("inventory")]].concat(),
        &json!({ "digestfix_serial": [2, 1] }),
    );

    // Releases of Ansible differ in which of the two failures determines the exit code.
    assert!([2, 4].contains(&run.code), "{}", run.stdout);
    assert_eq!(tallies["lost"]["unreachable"], 1, "{}", run.stdout);
    assert!(
        run.stdout.contains("Now: nothing was done to trixie"),
        "{}",
        run.stdout
    );
    assert!(!tallies.contains_key("forky"), "{}", run.stdout);
    let after: Vec<String> = fleet.machines.iter().map(look).collect();
    assert_eq!(after, before);
}

/// The first host is changed. The second is refused before Docker is stopped. The third
/// is in the same batch, and is not changed any more.
fn stops_at_a_host_that_refuses(fleet: &Fleet) {
    let [first, middle, last] = &fleet.machines;
    middle.write("/etc/docker/daemon.json", "{");
    let before = [look(middle), look(last)];

    let (run, tallies) = fleet.roll(
        &[],
        &json!({ "digestfix_serial": [1, 2], "digestfix_binary": "",
                 "digestfix_executable": "/usr/local/bin/digestfix",
                 "digestfix_kubernetes": "false" }),
    );

    let run = run.exits(2);
    assert!(run.stdout.contains("daemon.json"), "{}", run.stdout);
    assert!(
        run.stdout.contains("Now: nothing was touched"),
        "{}",
        run.stdout
    );
    assert_eq!(tallies["trixie"]["failed"], 1, "{}", run.stdout);
    assert_eq!(tallies["forky"]["changed"], 0, "{}", run.stdout);
    assert!(first.engine_has("app"));
    assert_eq!([look(middle), look(last)], before);
    assert_eq!(fleet.kubectl_calls(), [""; 0]);
    middle.sh("rm /etc/docker/daemon.json");
}

/// Docker does not start with the new references. digestfix restores the old references
/// and the old claims files, and the node, which is healthy, is uncordoned. So is the
/// other node of the batch, whose change is complete.
fn stops_at_a_host_that_fails(fleet: &Fleet) {
    let [_, middle, last] = &fleet.machines;
    middle.drop_in(&format!(
        "[Service]\nExecStartPre=/bin/sh -c '! grep -q @sha256 {STORE}'\n"
    ));
    let former = "{ \"digestfix_claims\": 1,\n  \"claims\": [] }";
    middle.sh("mkdir -p /etc/digestfix/claims.d");
    middle.write("/etc/digestfix/claims.d/digests.json", former);
    fs::copy(fleet.path("digests.json"), fleet.path("more.json")).unwrap();
    let store = middle.store();
    let container = middle.sh("docker inspect -f '{{.State.Pid}} {{.State.StartedAt}}' web");

    let (run, tallies) = fleet.roll(
        &["--limit", "trixie:forky"],
        &json!({
            "digestfix_serial": [2],
            "digestfix_claims_files": [fleet.path("digests.json"), fleet.path("more.json")],
            "digestfix_kubernetes": true,
        }),
    );

    let run = run.exits(2);
    for words in [
        "Now: the references are as they were, and Docker runs with them again",
        "The claims files are as they were",
    ] {
        assert!(run.stdout.contains(words), "{words}: {}", run.stdout);
    }
    assert_eq!(tallies["forky"]["failed"], 0, "{}", run.stdout);
    assert_eq!(middle.store(), store);
    middle.is_whole();
    assert!(!middle.engine_has("app"));
    assert!(last.engine_has("app"));
    assert_eq!(
        middle.sh("cd /etc/digestfix/claims.d && ls && cat digests.json"),
        format!("digests.json\n{former}")
    );
    assert_eq!(
        middle.sh("docker inspect -f '{{.State.Pid}} {{.State.StartedAt}}' web"),
        container
    );
    let calls = fleet.kubectl_calls();
    for node in ["trixie", "forky"] {
        let of: Vec<&String> = calls.iter().filter(|call| call.contains(node)).collect();
        assert_eq!(
            of,
            [
                &format!("cordon {node}"),
                &format!("drain {node} --ignore-daemonsets --timeout=300s"),
                &format!("wait --for=condition=Ready node/{node} --timeout=300s"),
                &format!("uncordon {node}"),
            ]
        );
    }
    middle.without_drop_in();
}

/// Saves an image with its digest to an archive, and removes the image.
const CARRIED: &str = "
  systemctl start docker-registry
  until curl -sf localhost:5000/v2/ >/dev/null; do sleep 0.05; done
  docker pull -q localhost:5000/lab/other:v1
  systemctl stop docker-registry
  digestfix save -qo /lab/carried.tar localhost:5000/lab/other:v1
  docker rmi localhost:5000/lab/other:v1";

/// The main job. Somebody else has cordoned the last one, and so it stays.
fn repairs_all_one_after_another(fleet: &Fleet) {
    fleet.machines[1].sh(CARRIED);
    fs::write(fleet.path("cordoned.forky"), "").unwrap();
    let containers = || -> Vec<String> {
        let inspect = "docker inspect -f '{{.State.Pid}} {{.State.StartedAt}}' web";
        fleet.machines.iter().map(|it| it.sh(inspect)).collect()
    };
    let before = containers();

    let (run, tallies) = fleet.roll(
        &[],
        &json!({
            "digestfix_archives": "{{ ['/lab/carried.tar'] if inventory_hostname == 'trixie' else [] }}",
            "digestfix_kubernetes": true,
            "digestfix_unit_files": [
                repository("systemd/digestfix-recover.service"),
                repository("systemd/digestfix-resume.service"),
            ],
            "digestfix_units": ["digestfix-recover.service", "digestfix-resume.service"],
            "digestfix_options": "--require matched",
        }),
    );

    let run = run.exits(0);
    for (suite, machine) in SUITES.into_iter().zip(&fleet.machines) {
        assert!(machine.engine_has("app"), "{suite:?}");
        machine.is_whole();
        assert!(tallies[suite.name()]["changed"] > 0, "{}", run.stdout);
        assert_eq!(
            machine.sh("stat -c '%U %a' /etc/digestfix/claims.d/digests.json"),
            "root 644"
        );
        assert_eq!(
            machine.sh("systemctl is-enabled digestfix-recover.service"),
            "enabled"
        );
        assert_eq!(
            machine.sh("cat /etc/default/digestfix"),
            "DIGESTFIX_OPTIONS=\"--require matched\""
        );
    }
    assert_eq!(containers(), before);
    assert!(fleet.machines[1].engine_has("other"));
    let times: Vec<_> = fleet.machines.iter().map(newest).collect();
    for pair in times.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "one after another: {times:?}");
    }
    let calls = fleet.kubectl_calls();
    let of = |node: &str| calls.iter().filter(|call| call.contains(node)).count();
    assert_eq!((of("bookworm"), of("trixie")), (4, 4), "{calls:?}");
    assert_eq!(
        calls[8..],
        ["drain forky --ignore-daemonsets --timeout=300s"]
    );
    fs::remove_file(fleet.path("cordoned.forky")).unwrap();
}

fn changes_nothing_the_second_time(fleet: &Fleet) {
    let before: Vec<String> = fleet.machines.iter().map(look).collect();

    let (run, tallies) = fleet.roll(
        &["--diff"],
        &json!({ "digestfix_serial": ["100%"], "digestfix_kubernetes": true,
                 "digestfix_options": "--require matched" }),
    );

    let run = run.exits(0);
    for suite in SUITES {
        assert_eq!(tallies[suite.name()]["changed"], 0, "{}", run.stdout);
    }
    let after: Vec<String> = fleet.machines.iter().map(look).collect();
    assert_eq!(after, before);
    assert_eq!(fleet.kubectl_calls(), [""; 0]);
}

/// The first machine is the manager of a swarm. The second is a node that a user has
/// paused: it is drained while Docker is stopped, and paused again afterwards. On the
/// third, Docker cannot start any more, so the node must stay cordoned.
fn returns_a_swarm_node_and_leaves_a_broken_node_cordoned(fleet: &Fleet) {
    let [manager, node, broken] = &fleet.machines;
    for machine in [node, broken] {
        machine.digestfix(&["rollback"]).exits(0);
    }
    broken.drop_in("[Service]\nExecStartPre=/bin/false\n");
    let id = swarm(manager, node);
    manager.write("/lab/noting", NOTING_DOCKER);
    fs::write(
        fleet.path("swarm"),
        "trixie digestfix_swarm_manager=bookworm digestfix_containers=restart\n",
    )
    .unwrap();
    let tasks = || node.sh("docker ps -q --filter label=com.docker.swarm.task.id");
    assert!(!tasks().is_empty());

    let (run, tallies) = fleet.roll(
        &[
            "--limit",
            "trixie:forky",
            "--inventory",
            &fleet.path("inventory"),
            "--inventory",
            &fleet.path("swarm"),
        ],
        &json!({
            "digestfix_serial": ["100%"],
            "digestfix_kubernetes": "{{ inventory_hostname == 'forky' }}",
            "digestfix_swarm_docker": ["sh", "/lab/noting"],
        }),
    );

    let run = run.exits(2);
    for words in [
        "COULD NOT RESTORE THE HOST",
        "Docker is DOWN",
        "the node forky is cordoned",
    ] {
        assert!(run.stdout.contains(words), "{words}: {}", run.stdout);
    }
    assert_eq!(
        fleet.kubectl_calls(),
        [
            "cordon forky",
            "drain forky --ignore-daemonsets --timeout=300s"
        ]
    );
    assert_eq!(tallies["trixie"]["failed"], 0, "{}", run.stdout);
    assert!(node.engine_has("app"));
    assert_eq!(tasks(), "", "it is paused");
    assert_eq!(
        manager.sh("sort -u /run/noted"),
        format!(
            "node inspect {id}\nnode update --availability drain {id}\n\
             node update --availability pause {id}"
        )
    );
    assert_eq!(
        manager.sh(&format!(
            "docker node inspect -f '{{{{.Spec.Availability}}}}' {id}"
        )),
        "pause"
    );
}

/// Creates a swarm of two machines, with a service whose task runs on the second. Returns
/// the second machine's name in the swarm.
fn swarm(manager: &Machine, node: &Machine) -> String {
    // The machines have no network, so the test connects them here.
    output(Command::new("nsenter").args([
        "-t",
        manager.init(),
        "-m",
        "-n",
        "-r",
        "-w",
        "--",
        // The host's `PATH` is not valid in a machine.
        "/usr/bin/env",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "ip",
        "link",
        "add",
        "swarm0",
        "type",
        "veth",
        "peer",
        "name",
        "swarm0",
        "netns",
        node.init(),
    ]))
    .exits(0);
    for (machine, address) in [(manager, "10.77.0.1"), (node, "10.77.0.2")] {
        machine.sh(&format!(
            "ip address add {address}/24 dev swarm0; ip link set swarm0 up"
        ));
    }
    manager.sh("docker swarm init --advertise-addr 10.77.0.1 >/dev/null");
    let token = manager.sh("docker swarm join-token -q worker");
    node.sh(&format!(
        "docker swarm join --advertise-addr 10.77.0.2 --token {token} 10.77.0.1:2377 >/dev/null"
    ));
    let id = node.sh("docker info -f '{{.Swarm.NodeID}}'");
    manager.sh(&format!(
        "docker service create -q --detach --no-resolve-image --no-healthcheck \
         --stop-grace-period 1s --constraint node.id=={id} {APP}:v1 /bin/busybox sleep 100000 >/dev/null"
    ));
    eventually("the service runs", || {
        !node
            .sh("docker ps -q --filter label=com.docker.swarm.task.id")
            .is_empty()
    });
    manager.sh(&format!(
        "docker node update --availability pause {id} >/dev/null"
    ));
    id
}
