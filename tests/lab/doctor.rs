//! Hosts with a problem: what `digestfix doctor` reports for each, that `apply` reports
//! the same, and that the advised command solves the problem.

use std::time::Instant;

use serde_json::Value;

use crate::machine::{APP, Machine, Run, STORE, Suite, command, eventually};

const CLAIMS: &str = "/etc/digestfix/claims.d/app";
const DAEMON_JSON: &str = "/etc/docker/daemon.json";

/// The advice for a damaged reference store while Docker runs.
const NAMES_AGAIN: &str =
    "docker tag $(docker images -q | head -n 1) digestfix:now && docker rmi digestfix:now";

/// Prints everything that `doctor` might change by mistake: files, and units that run.
const LOOK: &str = "find /var/lib/docker/image /var/lib/docker/digestfix /var/lib/digestfix /etc/docker \
     /etc/digestfix /etc/systemd/system /run/systemd/system -maxdepth 2 -not -path '*.wants*' \
     -printf '%p %T@ %C@ %s %m\\n' 2>/dev/null | sort
     systemctl show -p InvocationID,MainPID,ActiveState,DropInPaths docker.service docker.socket containerd.service
     systemctl list-units --no-legend --plain 'digestfix*'; systemctl list-jobs --no-legend
     docker ps -a --no-trunc --format '{{.ID}} {{.State}}'; nft list tables 2>/dev/null || true";

struct Doctor {
    run: Run,
    findings: Vec<Value>,
}

impl Doctor {
    /// Runs `doctor`, and checks that it changes nothing.
    #[track_caller]
    fn asked(machine: &Machine, words: &[&str]) -> Self {
        let before = machine.sh(LOOK);
        let run = machine.digestfix(&[&["doctor", "--json"], words].concat());
        assert_eq!(machine.sh(LOOK), before, "it touches nothing");
        let told: Value = serde_json::from_str(&run.stdout).expect(&run.stderr);
        let findings = told["checks"].as_array().expect("there are checks").clone();
        let stops = findings.iter().any(|one| one["state"] == "problem");
        assert_eq!(run.code, if stops { 3 } else { 0 }, "{}", run.stdout);
        Self { run, findings }
    }

    /// The advised command for the finding with this state, this check and these words.
    #[track_caller]
    fn next(&self, state: &str, check: &str, says: &str) -> String {
        let found = self.findings.iter().find(|one| {
            let what = one["what"].as_str().unwrap();
            one["state"] == state && one["check"] == check && what.contains(says)
        });
        let found = found.unwrap_or_else(|| panic!("{says:?} is not in {}", self.run.stdout));
        found["next"].as_str().unwrap_or_default().to_owned()
    }

    fn count(&self, state: &str) -> usize {
        let of_state = self.findings.iter().filter(|one| one["state"] == state);
        of_state.count()
    }
}

/// A machine with a running container, and a claim that is not met.
fn ready(suite: Suite) -> Machine {
    let machine = Machine::boot(suite);
    machine.allow_containers();
    machine.load("app");
    machine.sh(&format!(
        "docker run -d --name web --network none {APP}:v1 /bin/busybox sleep 1000"
    ));
    machine.write(CLAIMS, &format!("{}\n", machine.claim("app")));
    machine
}

/// A problem of a host.
struct Fault {
    /// The script that causes the problem.
    make: String,
    /// The check that detects the problem.
    check: &'static str,
    /// A part of the message about the problem.
    says: &'static str,
    /// A part of the advised command or action.
    next: &'static str,
    /// The script that solves the problem. If it is empty, the advised command is typed.
    cure: String,
}

fn fault(
    check: &'static str,
    says: &'static str,
    make: impl Into<String>,
    next: &'static str,
    cure: impl Into<String>,
) -> Fault {
    Fault {
        make: make.into(),
        check,
        says,
        next,
        cure: cure.into(),
    }
}

impl Fault {
    #[track_caller]
    fn is_told_and_cured(&self, machine: &Machine) {
        let pid = machine.main_pid();
        machine.sh(&self.make);
        let doctor = Doctor::asked(machine, &[]);
        let next = doctor.next("problem", self.check, self.says);
        assert!(next.contains(self.next), "{:?} is not in {next}", self.next);
        let of_it = |one: &&Value| one["state"] == "problem" && one["check"] == self.check;
        let of_it = doctor.findings.iter().filter(of_it).count();
        assert_eq!(doctor.count("problem"), of_it, "{}", doctor.run.stdout);
        let apply = machine.digestfix(&["apply"]);
        assert!(
            [1, 3].contains(&apply.code),
            "{}: apply goes ahead: {}{}",
            self.says,
            apply.stdout,
            apply.stderr
        );
        match self.cure.as_str() {
            "" => drop(machine.types(&command(&next, self.next)).exits(0)),
            cure => drop(machine.sh(cure)),
        }
        let doctor = Doctor::asked(machine, &[]);
        assert_eq!(doctor.count("problem"), 0, "{}", doctor.run.stdout);
        assert_eq!(machine.main_pid(), pid, "Docker was not stopped");
    }
}

#[test]
fn what_stops_an_apply_is_told_and_cured() {
    let machine = ready(Suite::Trixie);
    let doctor = Doctor::asked(&machine, &[]);
    doctor.next("ok", "containers", "keep running");
    doctor.next("ok", "claims", "0 hold, 1 do not hold yet");
    doctor.next("warning", "boot", "digestfix-recover.service");
    for fault in [
        fault(
            "configuration",
            "not valid",
            format!("echo '{{' >{DAEMON_JSON}"),
            "fix /etc/docker/daemon.json",
            format!("rm {DAEMON_JSON}"),
        ),
        fault(
            "data_root",
            "daemon.json says /srv",
            format!("echo '{{\"data-root\": \"/srv\"}}' >{DAEMON_JSON}"),
            "make the two sources agree",
            format!("rm {DAEMON_JSON}"),
        ),
        fault(
            "configuration",
            "--validate says",
            format!("echo '{{\"Debug\": true}}' >{DAEMON_JSON}"),
            "fix the problem in the configuration file",
            format!("rm {DAEMON_JSON}"),
        ),
        fault(
            "configuration",
            "only a start of Docker checks these settings: bip",
            format!("echo '{{\"bip\": \"10.9.0.1/24\"}}' >{DAEMON_JSON}"),
            "--force-restart",
            format!("rm {DAEMON_JSON}"),
        ),
        fault(
            "unit",
            "/etc/systemd/system/docker.service.d/new.conf changed after dockerd started",
            "mkdir -p /etc/systemd/system/docker.service.d
             printf '[Service]\\nExecStartPre=/bin/false\\n' >/etc/systemd/system/docker.service.d/new.conf
             systemctl daemon-reload",
            "--force-restart",
            "rm /etc/systemd/system/docker.service.d/new.conf; systemctl daemon-reload",
        ),
        fault(
            "unit",
            "has changed on disk",
            "mkdir -p /etc/systemd/system/docker.service.d
             printf '[Service]\\nEnvironment=A=B\\n' >/etc/systemd/system/docker.service.d/late.conf",
            "systemctl daemon-reload",
            "rm /etc/systemd/system/docker.service.d/late.conf; systemctl daemon-reload",
        ),
        fault(
            "unit",
            "as masked",
            "systemctl mask -q docker.service",
            "systemctl unmask docker.service",
            "",
        ),
        fault(
            "other_units",
            "slow.service",
            "printf '[Unit]\\nRequires=docker.service\\nAfter=docker.service\\n[Service]\\nType=oneshot\\n\
             ExecStart=/bin/sleep 1000\\n' >/etc/systemd/system/slow.service
             systemctl daemon-reload; systemctl start --no-block slow
             until systemctl list-jobs | grep -q 'slow.*running'; do sleep 0.1; done",
            "systemctl list-jobs",
            "systemctl stop slow",
        ),
        fault(
            "claims",
            "other than root can write",
            format!("chmod 666 {CLAIMS}"),
            "chmod go-w /etc/digestfix/claims.d/app",
            "",
        ),
        fault(
            "claims",
            "different digests in one repository",
            format!("echo {APP}:v1@sha256:{} >{CLAIMS}-2", "1".repeat(64)),
            "fix the claim",
            format!("rm {CLAIMS}-2"),
        ),
        fault(
            "references",
            "repositories.json",
            format!("echo '[' >{STORE}"),
            NAMES_AGAIN,
            "",
        ),
        fault(
            "history",
            "only root may write",
            "mkdir -p /var/lib/docker/digestfix/history; chmod 777 /var/lib/docker/digestfix/history",
            "chmod 700 /var/lib/docker/digestfix/history",
            "",
        ),
        fault(
            "lock",
            "another digestfix works on",
            "mkdir -p /var/lib/docker/digestfix; touch /var/lib/docker/digestfix/lock
             setsid flock /var/lib/docker/digestfix/lock sleep 1000 >/dev/null 2>&1 &
             while flock -n /var/lib/docker/digestfix/lock true; do sleep 0.1; done",
            "--wait SECONDS",
            "pkill -f '^sleep 1000'
             until flock -n /var/lib/docker/digestfix/lock true; do sleep 0.1; done",
        ),
        fault(
            "disk",
            "cannot be written",
            "mkdir -p /var/lib/digestfix; mount -t tmpfs -o ro,size=2m none /var/lib/digestfix",
            "mount -o remount,rw \"$(findmnt -n -o TARGET -T /var/lib/digestfix)\"",
            "",
        ),
        fault(
            "disk",
            "KiB are needed",
            "mkdir -p /var/lib/digestfix/pending
             dd if=/dev/zero of=/var/lib/digestfix/full bs=64k 2>/dev/null || true",
            "make room there",
            "rm /var/lib/digestfix/full",
        ),
    ] {
        fault.is_told_and_cured(&machine);
    }
    only_a_reload_tells(&machine);
    // systemd cannot see a program in a mount that belongs to the process alone.
    let hidden = "unshare -m sh -c 'mount -t tmpfs none /mnt; cp /usr/local/bin/digestfix /mnt/d; \
                  /mnt/d doctor; echo $?; /mnt/d apply; echo $?'";
    let run = machine.run(&["sh", "-c", hidden]);
    assert!(
        run.stdout
            .contains("systemd does not see this program at /mnt/d"),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout.ends_with("\n1\n"),
        "{}{}",
        run.stdout,
        run.stderr
    );

    // This process may run a program there, but systemd may not.
    machine.sh("mount -t tmpfs -o noexec none /mnt; cp /usr/local/bin/digestfix /mnt/d");
    let barred = machine.types("unshare -m sh -c 'mount -o remount,exec,bind /mnt; /mnt/d doctor'");
    let install = barred.exits(3).next("install -m 755 /mnt/d");
    machine.types(&install).exits(0);
    machine.sh("umount /mnt; which digestfix | grep -x /usr/local/bin/digestfix");
    Doctor::asked(&machine, &[]).next("ok", "watchdog", "can run");

    machine.install_units();
    Doctor::asked(&machine, &[]).next("ok", "boot", "are enabled");
    machine.digestfix(&["apply"]).exits(0);
    assert!(machine.engine_has("app"));
    let doctor = Doctor::asked(&machine, &[]);
    doctor.next("ok", "claims", "1 hold, 0 do not hold yet");
    doctor.next("ok", "history", "backups of the references: 1");
    assert_eq!(doctor.count("warning"), 0, "{}", doctor.run.stdout);
    machine.is_whole();
}

/// An engine that would start with a configuration but refuses to reload it. An apply
/// detects this, and is undone at once.
#[track_caller]
fn only_a_reload_tells(machine: &Machine) {
    let pid = machine.main_pid();
    machine.write(DAEMON_JSON, "{\"userland-proxy\": true}");
    let doctor = Doctor::asked(machine, &[]);
    doctor.next("warning", "configuration", "Remove that line");
    assert_eq!(doctor.count("problem"), 0, "{}", doctor.run.stdout);
    let plan = machine.digestfix(&["plan"]).exits(4);
    assert!(plan.stderr.contains("not known"), "{}", plan.stderr);
    let began = Instant::now();
    let apply = machine.digestfix(&["apply"]).exits(1);
    assert!(began.elapsed().as_secs() < 8, "Docker's words are heard");
    assert!(
        apply.stderr.contains("invalid userland-proxy-path"),
        "{}",
        apply.stderr
    );
    assert!(!apply.stderr.contains("--containers"), "{}", apply.stderr);
    assert_eq!(machine.main_pid(), pid, "Docker was not stopped");
    machine.write(DAEMON_JSON, "{}");
    let doctor = Doctor::asked(machine, &[]);
    doctor.next(
        "warning",
        "configuration",
        "it makes the running dockerd reload the file",
    );
    assert_eq!(doctor.count("problem"), 0, "{}", doctor.run.stdout);
}

const JOURNAL: &str = "/var/lib/docker/digestfix/journal.json";
const PENDING: &str = "/var/lib/digestfix/pending";

#[track_caller]
fn is_recovered(machine: &Machine) {
    Doctor::asked(machine, &[]).next("ok", "unfinished", "no run was interrupted");
}

/// Leaves the same run again, whose recovery is refused each time for another reason, until
/// the advice is followed.
#[track_caller]
fn a_recovery_that_is_refused(machine: &Machine) {
    let again = || {
        machine.sh(&format!(
            "cp -a /root/left/journal.json {JOURNAL}
             cp -a /root/left/2*.json {PENDING}"
        ))
    };
    // The marker is broken.
    again();
    machine.sh(&format!("echo '{{' | tee {PENDING}/*.json"));
    let refused = machine.digestfix(&["recover"]).exits(3);
    machine.types(&refused.next("rm ")).exits(0);
    machine.types(&refused.next("digestfix recover")).exits(0);
    is_recovered(machine);

    // Docker has got another data root.
    again();
    machine.sh(&format!(
        "docker rm -f web; systemctl stop docker.socket docker.service
         mkdir -p /srv/docker/overlay2/x; cp -a /var/lib/docker/image /srv/docker
         echo '{{\"data-root\": \"/srv/docker\", \"storage-driver\": \"overlay2\"}}' >{DAEMON_JSON}"
    ));
    let refused = machine.digestfix(&["recover"]).exits(3);
    assert!(
        refused.stderr.contains("give Docker its former data root"),
        "{}",
        refused.stderr
    );
    machine.sh(&format!("rm {DAEMON_JSON}"));
    // Another unit for the same data root.
    machine.sh(
        "cp /lib/systemd/system/docker.service /etc/systemd/system/docker-b.service
         systemctl daemon-reload",
    );
    let doctor = machine.digestfix(&["doctor", "--unit", "docker-b.service"]);
    let of_unit = doctor
        .exits(3)
        .next("digestfix recover --unit docker.service");
    machine.types(&refused.next("digestfix recover")).exits(0);
    is_recovered(machine);
    again();
    machine.types(&of_unit).exits(0);
    is_recovered(machine);
    machine.is_whole();
}

/// None of these leftovers stops an apply, and the advised commands remove them.
#[test]
fn what_runs_have_left_is_told_and_taken_away() {
    let machine = ready(Suite::Bookworm);
    machine.sh(
        "mkdir -p /run/systemd/system/docker.service.d /var/lib/docker/digestfix/history /etc/docker
         printf '[Unit]\\nAssertPathExists=!/proc/99999/fd/200\\n' \
           >/run/systemd/system/docker.service.d/zz-digestfix-start-block.conf
         chmod 700 /var/lib/docker/digestfix/history
         touch /var/lib/docker/digestfix/provenance-overlay2.json.new \
           /var/lib/docker/digestfix/history/1-1.json.new
         echo '{}' | tee /etc/docker/daemon.json >/etc/docker/daemon.json.digestfix-20260101T000000Z-1",
    );
    let doctor = Doctor::asked(&machine, &[]);
    for says in [
        "start-block.conf behind",
        "provenance-overlay2",
        "1-1.json.new",
    ] {
        machine.sh(&doctor.next("warning", "unfinished", says));
    }
    let aside = doctor.next("warning", "unfinished", "daemon.json.digestfix-");
    for begins in ["diff ", "mv "] {
        machine.types(&command(&aside, begins)).exits(0);
    }
    machine.sh("rm /etc/docker/daemon.json");
    Doctor::asked(&machine, &[]).next("ok", "unfinished", "no run was interrupted");
    assert_eq!(
        machine.sh("find /run/systemd/system /var/lib/docker/digestfix -name '*digestfix-start-block*' -o -name '*.new'"),
        ""
    );

    // This version of systemd does not report by itself that there is a new drop-in.
    machine.sh("mkdir -p /etc/systemd/system/docker.service.d
         printf '[Service]\\nEnvironment=A=B\\n' >/etc/systemd/system/docker.service.d/late.conf");
    let doctor = Doctor::asked(&machine, &[]);
    let next = doctor.next(
        "problem",
        "unit",
        "new: /etc/systemd/system/docker.service.d/late.conf",
    );
    machine.sh(next.rsplit_once(": ").unwrap().1);
    assert_eq!(Doctor::asked(&machine, &[]).count("problem"), 0);

    // Both a run and its watchdog are killed.
    machine.write(
        "/etc/systemd/system/digestfix-watchdog-.service.d/lab.conf",
        "[Service]\nType=simple\nExecStart=\nExecStart=/bin/sleep infinity\nRestart=no\n",
    );
    machine.sh("systemctl daemon-reload");
    let images = STORE.trim_end_matches("/repositories.json");
    let run = machine.injected_at(images, "fsync:signal=SIGKILL:when=1", &["apply"]);
    assert_ne!(run.code, 0);
    let doctor = Doctor::asked(&machine, &[]);
    let recover = doctor.next(
        "warning",
        "unfinished",
        "the next change first finishes or undoes that run",
    );
    machine.sh("systemctl stop 'digestfix-watchdog-*'");
    // Nothing has changed yet, so these two files are all that the run has left.
    machine.sh(&format!(
        "mkdir /root/left; cp -a {JOURNAL} {PENDING}/*.json /root/left"
    ));
    machine.sh(&recover);
    is_recovered(&machine);
    machine.is_whole();
    a_recovery_that_is_refused(&machine);

    // Without the bus, the other checks still work.
    machine.sh("systemctl kill --signal=KILL dbus.service
         systemctl stop dbus.socket dbus.service 2>/dev/null; ! pgrep -x dbus-daemon");
    let run = machine.digestfix(&["doctor", "--json"]).exits(3);
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    let states: Vec<(&str, &str)> = told["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["check"].as_str().unwrap(),
                one["state"].as_str().unwrap(),
            )
        })
        .collect();
    assert!(states.contains(&("systemd", "problem")), "{}", run.stdout);
    assert!(states.contains(&("containers", "ok")), "{}", run.stdout);
    machine.sh("systemctl start dbus.socket dbus.service");
    eventually("all is well again", || {
        machine.digestfix(&["doctor"]).code == 0
    });

    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let run = machine
        .run(&[&nobody[..], &["digestfix", "doctor"]].concat())
        .exits(3);
    assert!(
        run.stdout.contains("sudo digestfix doctor"),
        "{}",
        run.stdout
    );
    let quiet = machine.digestfix(&["doctor", "-q"]).exits(0);
    assert_eq!((quiet.stdout, quiet.stderr), (String::new(), String::new()));
}
