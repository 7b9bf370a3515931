//! Installs the packages with the real dpkg and rpm. `tests/packages` builds them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::machine::{APP, Machine, OTHER, Suite, eventually};

/// Lists the directories in which a package may have left files.
const FILES: &str = "find /usr /etc /var/lib/digestfix /var/lib/systemd/deb-systemd-helper-* -xdev ! -path '*/__pycache__*' \
                     ! -name ld.so.cache ! -path /usr/share/doc 2>/dev/null | sort";

fn package(revision: u32, kind: &str) -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    );
    let version = env!("CARGO_PKG_VERSION");
    let name = match kind {
        "deb" => format!("digestfix_{version}-{revision}_amd64.deb"),
        _ => format!("digestfix-{version}-{revision}.x86_64.rpm"),
    };
    target.join("packages").join(name)
}

/// A machine without digestfix, but with packages to install.
fn machine(suite: Suite, kind: &str) -> Machine {
    let machine = Machine::boot(suite);
    machine.sh("rm /usr/local/bin/digestfix; systemctl -q preset-all");
    for revision in [1, 2] {
        let package = fs::read(package(revision, kind)).expect("tests/packages builds it");
        machine.put(&format!("/lab/{revision}.{kind}"), &package);
    }
    machine
}

/// The units that packages install, including the two units for the boot and the timer.
fn units(machine: &Machine) -> Vec<String> {
    let units = machine.sh("cd /usr/lib/systemd/system; ls -d digestfix*");
    units.lines().map(str::to_owned).collect()
}

/// The units that finish or undo an interrupted run.
const BRING_BACK: [&str; 2] = ["digestfix-recover.service", "digestfix-resume.service"];

/// Checks that only these units are enabled, also after applying the preset, and that no
/// unit runs.
#[track_caller]
fn is_idle(machine: &Machine) {
    for _ in 0..2 {
        is_enabled_and_inactive(machine);
        machine.sh("systemctl -q preset-all");
    }
}

#[track_caller]
fn is_enabled_and_inactive(machine: &Machine) {
    for unit in units(machine) {
        let enabled = machine.run(&["systemctl", "is-enabled", &unit]).stdout;
        let wanted: &[&str] = match BRING_BACK.contains(&unit.as_str()) {
            true => &["enabled"],
            false => &["disabled", "static"],
        };
        assert!(wanted.contains(&enabled.trim()), "{unit} is {enabled}");
        let active = machine.run(&["systemctl", "is-active", &unit]).stdout;
        assert_eq!(active.trim(), "inactive", "{unit}");
    }
}

/// Checks that no file is left, and that no file is missing.
#[track_caller]
fn is_as_before(machine: &Machine, before: &str) {
    let after = machine.sh(FILES);
    let before: BTreeSet<&str> = before.lines().collect();
    let after: BTreeSet<&str> = after.lines().collect();
    let other: Vec<_> = before.symmetric_difference(&after).collect();
    assert!(other.is_empty(), "{other:#?}");
}

/// A claims file exists, and the timer elapses.
fn the_timer_repairs(machine: &Machine) {
    machine.load("app");
    machine.write("/etc/digestfix/claims.d/site", &machine.claim("app"));
    let now = "/run/systemd/system/digestfix.timer.d/now.conf";
    machine.write(
        now,
        "[Timer]\nOnActiveSec=0\nRandomizedDelaySec=0\nAccuracySec=1us\n",
    );
    machine.sh("systemctl daemon-reload; systemctl start digestfix.timer");
    eventually("the timer has had it repaired", || {
        let state = machine.run(&["systemctl", "is-active", "digestfix.service"]);
        state.stdout.trim() == "inactive" && machine.engine_has("app")
    });
    machine.sh(&format!(
        "systemctl stop digestfix.timer; rm {now}; rmdir /run/systemd/system/digestfix.timer.d
         systemctl daemon-reload"
    ));
    machine.is_whole();
}

/// The package cannot be removed while an interrupted run still needs it.
#[track_caller]
fn is_not_removed_half_way(machine: &Machine, remove: &[&str]) {
    machine.sh("mkdir -p /var/lib/digestfix/pending; echo '{}' >/var/lib/digestfix/pending/x.json");
    let refused = machine.run(remove);
    assert_ne!(refused.code, 0, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("Next: wait until it has ended"),
        "{}",
        refused.stderr
    );
    machine.sh("test -x /usr/bin/digestfix; rm /var/lib/digestfix/pending/x.json");
}

#[test]
fn a_deb_is_installed_upgraded_removed_and_purged() {
    let machine = machine(Suite::Trixie, "deb");
    let before = machine.sh(FILES);
    let docker = machine.main_pid();

    machine.sh("dpkg -i /lab/1.deb");
    assert_eq!(machine.sh("dpkg -V digestfix"), "", "as it was packed");
    is_idle(&machine);
    assert_eq!(machine.main_pid(), docker);
    let complaints = "for page in /usr/share/man/man[578]/digestfix*; do \
                      man --warnings -E UTF-8 -l $page 2>&1 >/dev/null; done";
    assert_eq!(machine.sh(complaints), "");
    let page = machine.sh("MANWIDTH=80 man -P cat digestfix-apply");
    assert!(
        page.contains("EXIT STATUS") && page.contains("--from FILE"),
        "{page}"
    );
    completes(&machine);

    the_timer_repairs(&machine);
    completes_what_was_done(&machine);
    machine.sh("systemctl enable -q --now digestfix.timer
         systemctl disable -q digestfix-resume.service
         echo '# ours' >>/etc/default/digestfix");
    let docker = machine.main_pid();

    machine.sh("dpkg -i /lab/2.deb");
    let version = machine.sh("dpkg-query -W -f '${Version}' digestfix");
    assert!(version.ends_with("-2"), "{version}");
    assert_eq!(machine.main_pid(), docker);
    machine.sh("grep -q '# ours' /etc/default/digestfix
         systemctl -q is-enabled digestfix.timer
         ! systemctl -q is-enabled digestfix-resume.service
         systemctl -q is-enabled digestfix-recover.service
         systemctl -q is-active digestfix.timer");

    is_not_removed_half_way(&machine, &["dpkg", "-r", "digestfix"]);
    assert_eq!(
        machine.sh("dpkg-query -W -f '${db:Status-Status}' digestfix"),
        "installed"
    );
    machine.sh("systemctl -q is-active digestfix.timer");

    machine.sh("dpkg -r digestfix; ! command -v digestfix");
    assert_eq!(
        machine.sh("systemctl list-units --all --no-legend --plain 'digestfix*'"),
        ""
    );
    machine.sh("grep -q '# ours' /etc/default/digestfix; test -s /etc/digestfix/claims.d/site");
    assert_eq!(machine.main_pid(), docker);

    // A package that is installed again after a purge behaves like a new one.
    machine.sh("dpkg -i /lab/2.deb");
    is_idle(&machine);
    machine.sh("dpkg --purge digestfix");
    is_as_before(&machine, &before);
    machine.sh("ls /var/lib/docker/digestfix/history/*.json");
    assert!(machine.engine_has("app"), "what was repaired stays so");
    assert_eq!(machine.main_pid(), docker);
}

#[test]
fn an_rpm_is_installed_upgraded_and_erased() {
    let machine = machine(Suite::Trixie, "rpm");
    // Directories that belong to other packages.
    machine.sh("mkdir -p /etc/sysconfig /usr/share/licenses /usr/share/zsh/site-functions");
    let before = machine.sh(FILES);
    let docker = machine.main_pid();

    // rpm's database does not contain Debian's /bin/sh.
    machine.sh("rpm -i --nodeps /lab/1.rpm");
    assert_eq!(
        machine.sh("rpm -V --nodeps digestfix"),
        "",
        "as it was packed"
    );
    is_idle(&machine);
    assert_eq!(machine.main_pid(), docker);

    the_timer_repairs(&machine);
    machine.sh("systemctl enable -q --now digestfix.timer
         systemctl disable -q digestfix-resume.service
         echo '# ours' >>/etc/sysconfig/digestfix");
    let docker = machine.main_pid();

    machine.sh("rpm -U --nodeps /lab/2.rpm");
    assert!(machine.sh("rpm -q digestfix").contains("-2.x86_64"));
    assert_eq!(machine.main_pid(), docker);
    machine.sh("grep -q '# ours' /etc/sysconfig/digestfix
         systemctl -q is-enabled digestfix.timer
         ! systemctl -q is-enabled digestfix-resume.service
         systemctl -q is-enabled digestfix-recover.service
         systemctl -q is-active digestfix.timer");

    is_not_removed_half_way(&machine, &["rpm", "-e", "--nodeps", "digestfix"]);
    machine.sh("rpm -q digestfix");

    machine.sh("rpm -e --nodeps digestfix; ! command -v digestfix");
    assert_eq!(
        machine.sh("systemctl list-units --all --no-legend --plain 'digestfix*'"),
        ""
    );
    machine.sh("grep -q '# ours' /etc/sysconfig/digestfix.rpmsave
         test -s /etc/digestfix/claims.d/site
         rm -r /etc/digestfix /etc/sysconfig/digestfix.rpmsave");
    is_as_before(&machine, &before);
    assert!(machine.engine_has("app"), "what was repaired stays so");
    assert_eq!(machine.main_pid(), docker);
}

/// Debian 11: Docker 20.10.5, systemd 247, and a C library that is too old for the
/// programs built here. Only the static binary works.
#[test]
fn a_debian_of_five_years_ago_is_repaired() {
    let machine = machine(Suite::Bullseye, "deb");
    machine.load("app");
    machine.sh("dpkg -i /lab/1.deb");
    is_idle(&machine);

    machine.digestfix(&["plan", &machine.claim("app")]).exits(4);
    machine
        .digestfix(&["apply", &machine.claim("app")])
        .exits(0);
    assert!(machine.engine_has("app"));
    machine.is_whole();
    machine.digestfix(&["rollback"]).exits(0);
    assert!(!machine.engine_has("app"));
    machine.sh("dpkg --purge digestfix");
}

/// Types a line and a tab on a terminal, and returns the last word of the completed line.
#[track_caller]
fn completed(machine: &Machine, shell: &str, line: &str) -> String {
    let run = machine.run(&["python3", "/lab/completion.py", shell, line]);
    let run = run.exits(0);
    run.stdout.lines().last().unwrap_or_default().to_owned()
}

#[track_caller]
fn each_shell_completes(machine: &Machine, cases: &[(&str, &str)]) {
    for shell in ["bash", "zsh", "fish"] {
        for (line, expected) in cases {
            assert_eq!(
                completed(machine, shell, line),
                *expected,
                "{shell}: {line}"
            );
        }
    }
}

/// Completes the names of an image that lost its digest.
fn completes(machine: &Machine) {
    machine.put("/lab/completion.py", include_bytes!("completion.py"));
    machine.load("other");
    machine.sh("touch '/lab/odd b;c'");
    let pending = format!("{OTHER}:v1@sha256:");
    each_shell_completes(
        machine,
        &[
            ("digestfix app", "apply"),
            ("digestfix apply localh", &pending),
            ("digestfix apply localhost:5000/lab/other:v", &pending),
            (
                "digestfix export localhost:5000/lab/other:",
                &format!("{OTHER}:v1"),
            ),
            ("digestfix apply --driver=over", "--driver=overlay2"),
            (
                "digestfix apply --from /etc/digestfix/cl",
                "/etc/digestfix/claims.d/",
            ),
            ("digestfix apply --from /lab/od", "/lab/odd b;c"),
        ],
    );
    let unprivileged = "setpriv --reuid=65534 --clear-groups env _DIGESTFIX_COMPLETE=fish \
                        digestfix -- digestfix apply localh 2>&1";
    assert_eq!(machine.sh(unprivileged), "", "silent where it may not look");
}

/// Completes the names of an image that has its digest again.
fn completes_what_was_done(machine: &Machine) {
    let pinned = format!("{APP}@{}", machine.digest("app"));
    let begun = &pinned[..pinned.len() - 60];
    let id = machine.sh("ls /var/lib/docker/digestfix/history | sed 's/.json//'");
    each_shell_completes(
        machine,
        &[
            (&format!("digestfix verify {APP}@"), &pinned),
            (&format!("digestfix apply --remove {begun}"), &pinned),
            (
                &format!("digestfix apply x:y={begun}"),
                &format!("x:y={pinned}"),
            ),
            ("digestfix rollback 2", &id),
        ],
    );
}
