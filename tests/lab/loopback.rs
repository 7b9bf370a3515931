//! No command makes this host reachable: digestfix listens on no port, and no host name
//! or mirror refers to it.

use crate::machine::{APP, Machine, Suite};

/// Docker resolves the name of a registry with this file.
const HOSTS: &str = "/etc/hosts";

/// The calls that strace records: sockets that other hosts could reach, and every file
/// that is opened, renamed, linked, removed or written.
const CALLS: &str = "trace=bind,listen,openat,openat2,open,creat,rename,renameat,renameat2,link,linkat,\
symlink,symlinkat,unlink,unlinkat,truncate,chmod,fchmodat,write,writev,pwrite64,sendmsg,sendto";

/// Runs a command under strace, including all its processes and threads.
fn traced(machine: &Machine, code: i32, words: &[&str]) -> String {
    let mut command = vec![
        "strace",
        "-f",
        "-qq",
        "-s",
        "65536",
        "-o",
        "/tmp/trace",
        "-e",
        CALLS,
        "digestfix",
    ];
    command.extend(words);
    machine.run(&command).exits(code);
    machine.sh("cat /tmp/trace")
}

#[track_caller]
fn opens_nothing(machine: &Machine, code: i32, words: &[&str]) {
    let trace = traced(machine, code, words);
    assert!(trace.contains("openat("), "{words:?} is traced: {trace}");
    for line in trace.lines() {
        assert!(!line.contains(" listen("), "{words:?}: {line}");
        let is_bound = line.contains(" bind(") && line.contains("AF_INET");
        assert!(!is_bound, "{words:?}: {line}");
        let is_read = line.contains("O_RDONLY");
        assert!(is_read || !line.contains(HOSTS), "{words:?}: {line}");
        assert!(!line.contains("registry-mirrors"), "{words:?}: {line}");
    }
}

fn each_command(machine: &Machine, apply: &[&str]) {
    let hosts = machine.sh(&format!("stat -c '%i %Z' {HOSTS}; cat {HOSTS}"));
    let claims = &apply[1..];
    let with = |command| [&[command], claims].concat();
    opens_nothing(machine, 4, &["status"]);
    opens_nothing(machine, 4, &with("plan"));
    opens_nothing(machine, 0, apply);
    opens_nothing(machine, 0, &with("verify"));
    opens_nothing(machine, 0, &["export"]);
    opens_nothing(machine, 0, &["history"]);
    opens_nothing(machine, 0, &["rollback"]);
    opens_nothing(machine, 0, &["recover"]);
    opens_nothing(machine, 0, &["doctor"]);
    let now = machine.sh(&format!("stat -c '%i %Z' {HOSTS}; cat {HOSTS}"));
    assert_eq!(now, hosts, "{HOSTS} is never touched");
}

#[test]
fn no_command_listens_or_leads_a_name_here() {
    let machine = Machine::boot(Suite::Trixie);
    machine.install_units();
    machine.allow_containers();
    machine.load("app");
    machine.bring_manifest("app");
    machine.sh(&format!(
        "docker tag {APP}:v1 lab/app:v1
         docker tag {APP}:v1 quay.io/lab/app:v1
         docker run -d --name web -p 8080:80 {APP}:v1 /bin/busybox httpd -f -p 80 -h / >/dev/null"
    ));
    let apply = ["apply", "--from", "/lab/app.manifest"];
    each_command(&machine, &apply);

    machine.sh(
        "echo '{\"features\":{\"containerd-snapshotter\":true}}' >/etc/docker/daemon.json
         systemctl reset-failed docker.service docker.socket
         systemctl restart docker
         docker load -q -i /lab/app.tar",
    );
    each_command(&machine, &apply);
}
