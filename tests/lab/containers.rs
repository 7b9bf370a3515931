//! Containers during an apply: containers that run keep running, and daemon.json is
//! unchanged afterwards, even if the apply fails or is killed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::load::{self, Load, Summary};
use crate::machine::{self, APP, Machine, Run, Suite, eventually, every};

const CONFIG: &str = "/etc/docker/daemon.json";

/// An image that contains a shell.
const FULL: &str = "lab/full";

/// The timeout for stopping a container. Most containers in this test ignore SIGTERM, and
/// Docker would wait ten seconds for each of them.
const SOON: &str = "--stop-timeout=1";

/// Starts one container of every kind that a host may have.
fn start_containers(machine: &Machine, options: &str) {
    machine.write(
        "/root/full/Dockerfile",
        &format!(
            "FROM {APP}:v1\nRUN [\"/bin/busybox\",\"--install\",\"-s\",\"/bin\"]\n\
             HEALTHCHECK --interval=1s --timeout=5s --retries=20 CMD [\"/bin/true\"]\n"
        ),
    );
    machine.sh(&format!(
        "DOCKER_BUILDKIT=0 docker build -q -t {FULL} /root/full >/dev/null
         docker network create own >/dev/null
         run() {{ docker run -d {options} --name \"$@\" >/dev/null; }}
         run plain --no-healthcheck {FULL} sleep 100000
         run frozen --no-healthcheck {FULL} sleep 100000
         run passing --rm --no-healthcheck {FULL} sleep 100000
         run checked {FULL} sleep 100000
         run always --restart always --no-healthcheck {FULL} sleep 100000
         run web -p 8080:80 --no-healthcheck {FULL} httpd -f -p 80 -h /
         run echo -p 9000:9000 --no-healthcheck {FULL} nc -ll -p 9000 -e cat
         run named --network own --no-healthcheck {FULL} httpd -f -p 80 -h /
         run beside --network container:web --no-healthcheck {FULL} sleep 100000
         run talker --init --no-healthcheck {FULL} sh -c 'while usleep 100000; do echo line of output; done'
         docker pause frozen >/dev/null
         docker create --name made --restart always {FULL} sleep 100000 >/dev/null
         run down --restart always --no-healthcheck {FULL} sleep 100000
         run failed --restart on-failure:7 --no-healthcheck {FULL} sleep 100000
         docker kill down failed >/dev/null"
    ));
}

fn containers(machine: &Machine) -> String {
    machine.sh(
        "docker inspect -f '{{.Name}} {{.State.Status}} {{.State.Pid}} {{.State.StartedAt}} {{.RestartCount}} \
         {{.HostConfig.RestartPolicy}}' $(docker ps -aq) | sort",
    )
}

/// daemon.json with all its metadata, and a list of the files beside it.
fn config(machine: &Machine) -> String {
    machine.sh(&format!(
        "ls -A /etc/docker 2>&1 || true
         stat -c '%F %i %s %y %a %u:%g %N' {CONFIG} 2>&1 || true
         stat -L -c '%i %s %y %a %u:%g' {CONFIG} 2>&1 || true
         getfattr -d -m - {CONFIG} 2>/dev/null || true
         cat {CONFIG} 2>&1 || true"
    ))
}

fn address(machine: &Machine, container: &str, port: u16) -> SocketAddr {
    let ip = machine.sh(&format!(
        "docker inspect -f '{{{{range .NetworkSettings.Networks}}}}{{{{.IPAddress}}}}{{{{end}}}}' {container}"
    ));
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Creates a client in another network namespace. Returns the namespace, and the address
/// of this host in it.
pub fn elsewhere(machine: &Machine, port: u16) -> (PathBuf, SocketAddr) {
    machine.sh("[ -e /run/netns/client ] || {
           ip netns add client
           ip link add outside type veth peer name eth0 netns client
           ip addr add 10.77.0.1/24 dev outside; ip link set outside up
           ip -n client addr add 10.77.0.2/24 dev eth0; ip -n client link set eth0 up
         }");
    (
        machine.file("/run/netns/client"),
        SocketAddr::from(([10, 77, 0, 1], port)),
    )
}

fn live_restore(machine: &Machine) -> String {
    machine.sh("docker info -f '{{.LiveRestoreEnabled}}'")
}

/// Runs ten applies, which alternately add and remove the digest.
fn ten_applies(machine: &Machine, config_before: &str) {
    start_containers(machine, "");
    let claim = machine.claim("app");
    if machine
        .sh("docker info -f '{{.ServerVersion}}'")
        .starts_with("20.")
    {
        let refused = refuses(
            machine,
            &["apply", &claim],
            &["--rm", "before Docker 24.0.8"],
        );
        machine.types(&refused.next("docker rm -f")).exits(0);
        machine.sh(&format!("docker run -d --name instead {FULL} sleep 100000"));
    }
    let reference = format!("{APP}@{}", machine.digest("app"));
    let (before, config_then) = (containers(machine), config(machine));
    assert_eq!(before.lines().count(), 13, "{before}");
    let own = |name, port| (machine.namespace(), address(machine, name, port));
    let requests: Vec<Load> = [own("web", 80), own("named", 80)]
        .map(|(namespace, server)| Load::requests(namespace, server))
        .into();
    let connections: Vec<Load> = [own("echo", 9000), elsewhere(machine, 9000)]
        .map(|(namespace, server)| Load::connection(namespace, server))
        .into();
    let (namespace, server) = elsewhere(machine, 8080);
    let published = Load::requests(namespace, server);
    let local = Load::requests(machine.namespace(), ([127, 0, 0, 1], 8080).into());
    let mut let_go = Vec::new();
    for _ in 0..5 {
        for words in [
            ["apply", &claim],
            ["apply", &format!("--remove={reference}")],
        ] {
            let began = Instant::now();
            let run = machine.digestfix(&words).exits(0);
            let_go.extend(load::let_go(began, &run.stderr));
            assert_eq!(containers(machine), before);
            assert_eq!(config(machine), config_then, "{config_before}");
            assert_eq!(live_restore(machine), "false");
        }
    }
    for load in requests {
        load.met_no_failure("requests to a container's own address");
    }
    for connection in connections {
        connection.met_no_failure("an open connection");
    }
    published.met_no_failure_but("requests to a published port from elsewhere", &let_go);
    let (namespace, server) = (machine.namespace(), ([127, 0, 0, 1], 8080).into());
    let afterwards = Load::requests(namespace, server);
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        Summary::of(&afterwards.answers()).slowest < Duration::from_millis(900),
        "nothing is held back any more"
    );
    local.were_not_refused("requests to a published port from this host", &let_go);
    let last_check = || {
        machine.sh("docker inspect -f '{{range .State.Health.Log}}{{.Start}} {{end}}{{.State.Health.Status}}' checked")
    };
    let then = last_check();
    eventually("the health check goes on", || {
        let now = last_check();
        now != then && now.ends_with("healthy")
    });
    machine.is_whole();
}

fn ready(suite: Suite, config: impl FnOnce(&Machine)) -> Machine {
    let machine = Machine::boot(suite);
    machine.allow_containers();
    config(&machine);
    machine.load("app");
    machine
}

#[test]
fn keep_running_on_docker_20_10() {
    let machine = ready(Suite::Bookworm, |machine| {
        machine.sh(&format!("rm -f {CONFIG}"));
    });
    ten_applies(&machine, "no daemon.json");
}

#[test]
fn keep_running_on_docker_26_1() {
    let machine = ready(Suite::Trixie, |machine| {
        machine.write(
            CONFIG,
            "{\n  \"userland-proxy\": false,\n  \"debug\": false\n}\n",
        );
        machine.sh(&format!(
            "chmod 640 {CONFIG}; chown root:daemon {CONFIG}; setfattr -n user.note -v kept {CONFIG} || true
             touch -d '2020-02-02 02:02:02.123456789' {CONFIG}; systemctl restart docker"
        ));
    });
    ten_applies(&machine, "a daemon.json with other settings");
}

#[test]
fn keep_running_on_docker_28_5() {
    let machine = ready(Suite::Forky, |machine| {
        machine.write("/srv/config/docker.json", "{\"debug\": false}");
        machine.sh(&format!(
            "ln -sf ../../srv/config/docker.json {CONFIG}; systemctl restart docker"
        ));
    });
    ten_applies(&machine, "a symbolic link");
}

#[test]
fn keep_running_on_the_write_ups_own_unit() {
    let machine = ready(Suite::Bookworm, |machine| {
        machine.write(CONFIG, "{\"live-restore\": false}");
        machine.install_seed_unit();
    });
    ten_applies(&machine, "live-restore set to false");
}

/// If Docker waits up to 5 s for clients of its API, it serves published ports during
/// that time. After it has stopped, new connections wait as usual.
#[test]
fn are_reached_until_docker_has_stopped() {
    let machine = ready(Suite::Forky, |_| {});
    machine.sh(&format!(
        "docker run -d --name web -p 8080:80 {APP}:v1 /bin/busybox httpd -f -p 80 -h / >/dev/null"
    ));
    let claim = machine.claim("app");
    let reference = format!("--remove={APP}@{}", machine.digest("app"));
    for words in [["apply", &claim], ["apply", &reference]] {
        let client = machine.background("exec docker events >/dev/null");
        eventually("the client is connected", || {
            let plan = machine.digestfix(&["plan", "--json", words[1]]);
            plan.stdout.contains("\"api_clients\": 1")
        });
        let (namespace, server) = elsewhere(&machine, 8080);
        let published = Load::requests(namespace, server);
        let local = Load::requests(machine.namespace(), ([127, 0, 0, 1], 8080).into());
        let began = Instant::now();
        let run = machine.digestfix(&words).exits(0);
        let took = began.elapsed();
        assert!(took.as_secs() >= 5, "Docker waits for its client");
        client.wait();
        let let_go = Vec::from_iter(load::let_go(began, &run.stderr));
        published.met_no_failure_but("requests to a published port from elsewhere", &let_go);
        let met = local.were_not_refused("requests to a published port from this host", &let_go);
        println!("{met}, in {took:?}");
        assert!(
            met.slowest + Duration::from_secs(3) < took,
            "only then: {met}"
        );
    }
    machine.is_whole();
}

/// Checks that the run is refused with these words, and that nothing changed.
#[track_caller]
fn refuses(machine: &Machine, words: &[&str], says: &[&str]) -> Run {
    let before = (machine.main_pid(), containers(machine), config(machine));
    let run = machine::refuses(machine, words, says);
    let after = (machine.main_pid(), containers(machine), config(machine));
    assert_eq!(after, before);
    run
}

/// In swarm mode, Docker does not support live-restore.
#[test]
fn are_started_again_in_swarm_mode() {
    for suite in [Suite::Bookworm, Suite::Trixie, Suite::Forky] {
        let machine = ready(suite, |_| {});
        // On one of the systems, the test uses Docker's default timeout of ten seconds.
        let (options, grace) = match suite {
            Suite::Bookworm => ("", "10s"),
            _ => (SOON, "1s"),
        };
        start_containers(&machine, options);
        machine.sh("docker swarm init --advertise-addr 127.0.0.1 >/dev/null");
        let claim = machine.claim("app");
        let refused = refuses(
            &machine,
            &["apply", &claim],
            &["swarm mode", "--containers ignore"],
        );
        let restarting = refused.next("digestfix apply");
        assert!(
            restarting.ends_with(" --containers restart"),
            "{restarting}"
        );
        refuses(
            &machine,
            &["apply", "--containers", "restart", &claim],
            &["--rm", "passing"],
        );
        machine.sh("docker rm -f passing >/dev/null");
        let ran =
            || machine.sh("docker ps -a --format '{{.Names}} {{.State}}' | grep -v service | sort");
        machine.sh(&format!(
            "docker service create -q --detach --no-resolve-image --name service --no-healthcheck \
             --stop-grace-period {grace} {APP}:v1 /bin/busybox sleep 100000 >/dev/null"
        ));
        let service = || machine.sh("docker ps -q --filter name=service --filter status=running");
        eventually("the service runs", || !service().is_empty());
        let (before, config_before, task) = (ran(), config(&machine), service());

        let run = machine.types(&restarting).exits(0);

        assert_eq!(ran(), before, "{}", run.stdout);
        assert_eq!(config(&machine), config_before);
        assert!(machine.engine_has("app"));
        eventually("swarm replaces it", || {
            ![String::new(), task.clone()].contains(&service())
        });
        machine.sh("docker exec beside wget -q -O /dev/null http://127.0.0.1/hello");
        machine.is_whole();
    }
}

#[test]
fn are_let_go_where_that_is_said() {
    let machine = ready(Suite::Bookworm, |_| {});
    machine.sh(&format!(
        "docker run -d {SOON} --name always --restart always {APP}:v1 /bin/busybox sleep 100000
         docker run -d {SOON} --name once {APP}:v1 /bin/busybox sleep 100000"
    ));
    let claim = machine.claim("app");
    let plan = machine
        .digestfix(&["plan", "--containers", "ignore", &claim])
        .exits(4);
    assert!(plan.stdout.contains("stay down: once"), "{}", plan.stdout);
    let run = machine
        .digestfix(&["apply", "--containers", "ignore", &claim])
        .exits(0);
    assert!(
        run.stdout.contains("once is no longer running"),
        "{}",
        run.stdout
    );
    assert_eq!(machine.sh("docker ps --format '{{.Names}}'"), "always");
}

/// If a container ends while Docker is stopped, the run still succeeds and reports the
/// container.
#[test]
fn that_end_meanwhile_are_told() {
    let machine = ready(Suite::Forky, |_| {});
    machine.sh(&format!(
        "docker run -d --name short {APP}:v1 /bin/busybox sleep 100000"
    ));
    let pid = machine.sh("docker inspect -f '{{.State.Pid}}' short");
    machine.drop_in(&format!("[Service]\nExecStopPost=/bin/kill -KILL {pid}\n"));
    let run = machine
        .digestfix(&["apply", "--json", &machine.claim("app")])
        .exits(6);
    assert!(
        run.stdout.contains("\"change\": \"stopped\""),
        "{}",
        run.stdout
    );
    assert!(machine.engine_has("app"));
    assert_eq!(live_restore(&machine), "false");
}

#[test]
fn cannot_be_kept_where_a_flag_says_so() {
    let machine = ready(Suite::Bookworm, |machine| {
        machine.write("/run/authz.py", include_str!("authz.py"));
        machine.sh("systemd-run -q --unit=authz python3 /run/authz.py
             until [ -S /run/docker/plugins/lab.sock ]; do sleep 0.05; done
             sed 's/^ExecStart=.*/& --live-restore=false --authorization-plugin=lab/' \
               /lib/systemd/system/docker.service >/etc/systemd/system/docker.service
             systemctl daemon-reload; systemctl restart docker");
    });
    machine.sh(&format!(
        "docker run -d {SOON} --name web {APP}:v1 /bin/busybox sleep 100000"
    ));
    let apply = ["apply", &machine.claim("app")];
    let refused = refuses(&machine, &apply, &["--live-restore=false", "web"]);
    machine.edits(
        &refused.next("systemctl edit --full"),
        "sed -i 's/ --live-restore=false//' \"$1\"",
    );
    machine.sh("systemctl restart docker; docker start web");
    let is_denied = || {
        let denied = machine.run(&["docker", "tag", &format!("{APP}:v1"), "forbidden"]);
        assert!(denied.stderr.contains("not by this plugin"), "{denied:?}");
    };
    is_denied();
    let refused = refuses(&machine, &apply, &["forgets --authorization-plugin"]);
    machine.edits(
        &refused.next("systemctl edit --full"),
        "sed -i 's/ --authorization-plugin=lab//' \"$1\"",
    );
    machine.write(CONFIG, "{\"authorization-plugins\": [\"lab\"]}");
    machine.sh("systemctl restart docker; docker start web");
    let read_only = "mount --bind /etc/docker /etc/docker; mount -o remount,ro,bind /etc/docker";
    machine.sh(read_only);
    refuses(
        &machine,
        &apply,
        &["daemon.json cannot be changed", "Read-only"],
    );
    machine.sh("umount /etc/docker");
    let before = containers(&machine);
    machine.digestfix(&apply).exits(0);
    assert_eq!(containers(&machine), before);
    is_denied();
}

/// Kills an apply at one system call after another. Then its watchdog, a recovery or
/// another apply restores the host: the containers are as before, daemon.json is the same
/// file, and Docker runs. Of each kind of call, tests one in `every()`, and skips the
/// first ones according to `skip`.
fn killed_at_each(machine: &Machine, config_before: &str, skip: usize) {
    machine.sh(&format!(
        "docker run -d --name web {APP}:v1 /bin/busybox sleep 100000
         docker run -d --name frozen --restart always {APP}:v1 /bin/busybox sleep 100000
         docker pause frozen"
    ));
    let claim = machine.claim("app");
    let reference = format!("{APP}@{}", machine.digest("app"));
    let (before, config_then) = (containers(machine), config(machine));
    let store = machine.store();
    let (mut killed, mut down, mut temporary) = (0, 0, 0);
    for (call, first, last) in [
        ("sendmsg", 28, 80),
        ("fsync", 1, 18),
        ("rename", 1, 6),
        ("renameat2", 1, 3),
        ("unlink", 1, 8),
    ] {
        for point in (first..=last).skip(skip % every()).step_by(every()) {
            let injection = format!("{call}:signal=SIGKILL:when={point}");
            let run = machine.injected(&injection, &["apply", &claim]);
            if run.code != 0 {
                killed += 1;
                let active = machine.run(&["systemctl", "is-active", "docker.service"]);
                down += i32::from(active.code != 0);
                temporary += i32::from(config(machine) != config_then);
                match killed % 3 {
                    0 => eventually("the watchdog has ended", || machine.is_finished()),
                    1 => drop(machine.digestfix(&["recover"]).exits(0)),
                    _ => drop(
                        machine
                            .digestfix(&["apply", "--wait", "60", &claim])
                            .exits(0),
                    ),
                }
                machine.digestfix(&["recover"]).exits(0);
            }
            let is_new = machine.engine_has("app");
            assert!(is_new || run.code != 0, "{injection}");
            assert_eq!(containers(machine), before, "{injection}, {config_before}");
            assert_eq!(config(machine), config_then, "{injection}, {config_before}");
            assert_eq!(live_restore(machine), "false", "{injection}");
            machine.is_whole();
            if is_new {
                machine
                    .digestfix(&["apply", "--remove", &reference])
                    .exits(0);
            }
            assert_eq!(machine.store(), store, "{injection}");
        }
    }
    println!(
        "SIGKILL at {killed} points, {down} with Docker down, {temporary} with another daemon.json"
    );
    assert!(
        killed >= 15 && down >= 1 && temporary >= 3,
        "{killed} {down} {temporary}"
    );
}

#[test]
fn outlive_a_kill_without_a_daemon_json() {
    let machine = ready(Suite::Forky, |machine| {
        machine.sh("rm -rf /etc/docker; systemctl restart docker");
    });
    killed_at_each(&machine, "no daemon.json", 0);
}

#[test]
fn outlive_a_kill_with_a_daemon_json() {
    let machine = ready(Suite::Bookworm, |machine| {
        machine.write(CONFIG, "{\n  \"debug\": false\n}\n");
        machine.sh("systemctl restart docker");
    });
    killed_at_each(&machine, "a daemon.json", 1);
}

/// dockerd keeps a setting that was removed from its file until it starts again. The next
/// dockerd would then stop every container.
#[test]
fn are_kept_when_the_file_says_otherwise() {
    for suite in [Suite::Bookworm, Suite::Forky] {
        let machine = ready(suite, |_| {});
        machine.sh(&format!(
            "docker run -d --name web {APP}:v1 /bin/busybox sleep 100000"
        ));
        machine.write(CONFIG, "{\"live-restore\": true}");
        machine.sh("systemctl reload docker");
        eventually("live-restore is on", || live_restore(&machine) == "true");
        machine.sh(&format!("rm {CONFIG}"));
        let before = (containers(&machine), config(&machine));
        machine
            .digestfix(&["apply", &machine.claim("app")])
            .exits(0);
        assert_eq!((containers(&machine), config(&machine)), before);
        assert_eq!(live_restore(&machine), "true", "as it was found");
        machine.is_whole();
    }
}

/// dockerd refuses to reload a daemon.json that a user broke but has not loaded yet. It
/// would also refuse to start with it.
#[test]
fn are_kept_when_the_reload_is_refused() {
    let machine = ready(Suite::Bookworm, |_| {});
    machine.sh(&format!(
        "docker run -d --name web {APP}:v1 /bin/busybox sleep 100000"
    ));
    machine.write(CONFIG, "{\"no-such-option\": true}");
    let before = (machine.main_pid(), containers(&machine), config(&machine));
    let claim = machine.claim("app");
    let run = machine.digestfix(&["apply", &claim]).exits(3);
    assert!(run.stderr.contains("no-such-option"), "{}", run.stderr);
    let started = Instant::now();
    let run = machine
        .digestfix(&["apply", "--force-restart", &claim])
        .exits(1);
    assert!(started.elapsed().as_secs() < 8, "its words are heard");
    for says in ["did not accept its configuration", "no-such-option"] {
        assert!(run.stderr.contains(says), "{}", run.stderr);
    }
    assert!(!run.stderr.contains("--containers"), "{}", run.stderr);
    assert!(
        run.stderr.contains("Docker was not stopped"),
        "{}",
        run.stderr
    );
    let after = (machine.main_pid(), containers(&machine), config(&machine));
    assert_eq!(after, before);
    machine.is_whole();
}

/// dockerd dies at the moment when live-restore has been switched on temporarily.
#[test]
fn are_kept_when_the_daemon_dies() {
    for suite in [Suite::Bookworm, Suite::Trixie, Suite::Forky] {
        let machine = ready(suite, |_| {});
        machine.sh(&format!(
            "docker run -d --name web {APP}:v1 /bin/busybox sleep 100000"
        ));
        let before = (containers(&machine), config(&machine));
        let claim = machine.claim("app");
        let run = machine.run(&[
            "bash",
            "-c",
            &format!(
                "digestfix apply {claim} > >(while read -r line; do echo \"$line\"
                 case $line in *\"switched on\"*) pkill -KILL dockerd;; esac; done)"
            ),
        ]);
        assert!([0, 1].contains(&run.code), "{}\n{}", run.stdout, run.stderr);
        machine.sh(
            "journalctl --sync; journalctl -b -u docker | grep -q 'code=killed, status=9/KILL'",
        );
        assert_eq!(machine.engine_has("app"), run.code == 0);
        let after = (containers(&machine), config(&machine));
        assert_eq!(after, before, "{}\n{}", run.stdout, run.stderr);
        assert_eq!(live_restore(&machine), "false");
        machine.is_whole();
    }
}
