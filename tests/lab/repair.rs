//! The main job: an image without a digest gets its digest back, and runs by it.

use crate::machine::{APP, Machine, OTHER, STORE, Suite};

/// Repairs an image. Building, pushing, saving, removing and loading happened when the
/// machine was prepared.
fn repairs(machine: &Machine) {
    machine.allow_containers();
    machine.load("app");
    let before = machine.store();
    let claim = machine.claim("app");
    let reference = format!("{APP}@{}", machine.digest("app"));

    let status = machine.digestfix(&["status"]).exits(4);
    assert!(status.stdout.contains("no digest"), "{}", status.stdout);
    machine.digestfix(&["verify", &claim]).exits(4);
    let plan = machine.digestfix(&["plan", &claim]).exits(4);
    assert!(
        plan.stdout.contains(&format!("+   {reference}")),
        "{}",
        plan.stdout
    );
    assert_eq!(machine.store(), before, "a plan touches nothing");

    machine.digestfix(&["apply", &claim]).exits(0);

    machine.is_whole();
    let listed = machine.sh(&format!(
        "docker images --digests --format '{{{{.Digest}}}}' {APP}"
    ));
    assert_eq!(listed, machine.digest("app"));
    let inspected = machine.sh(&format!(
        "docker image inspect -f '{{{{.Id}}}}' {reference}"
    ));
    assert_eq!(inspected, machine.id("app"));
    machine.digestfix(&["verify", &claim]).exits(0);
    assert_eq!(
        machine.sh("systemctl is-active docker-registry || true"),
        "inactive"
    );
    let said = machine.sh(&format!("docker run --rm --network none {reference}"));
    assert_eq!(said, "hello from app");
}

#[test]
fn docker_20_10() {
    let machine = Machine::boot(Suite::Bookworm);
    assert!(
        machine
            .sh("docker version -f '{{.Server.Version}}'")
            .starts_with("20.10.")
    );
    repairs(&machine);
}

#[test]
fn docker_26_1() {
    let machine = Machine::boot(Suite::Trixie);
    assert!(
        machine
            .sh("docker version -f '{{.Server.Version}}'")
            .starts_with("26.1.")
    );
    repairs(&machine);
}

#[test]
fn docker_28_5() {
    let machine = Machine::boot(Suite::Forky);
    assert!(
        machine
            .sh("docker version -f '{{.Server.Version}}'")
            .starts_with("28.5.")
    );
    repairs(&machine);
}

#[test]
fn the_write_ups_own_unit() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.install_seed_unit();
    repairs(&machine);
}

/// digestfix writes the same file that Docker would have written if it had pulled the
/// image by that digest.
#[test]
fn the_file_is_what_docker_would_write() {
    for suite in [Suite::Bookworm, Suite::Trixie, Suite::Forky] {
        let machine = Machine::boot(suite);
        machine.load("app");
        machine.sh("systemctl start docker-registry");
        let reference = format!("{APP}@{}", machine.digest("app"));
        machine.sh(&format!(
            "until curl -sf localhost:5000/v2/ >/dev/null; do sleep 0.1; done; docker pull -q {reference}"
        ));
        let by_docker = machine.store();
        machine.sh(&format!("docker rmi --no-prune {reference}"));
        assert_ne!(machine.store(), by_docker);

        machine
            .digestfix(&["apply", &machine.claim("app")])
            .exits(0);

        assert_eq!(machine.store(), by_docker, "{suite:?}");
    }
}

/// If all claims are already met, digestfix stops, locks and writes nothing, and does not
/// wait for another run.
#[test]
fn what_holds_already_is_left_alone() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    let claim = machine.claim("app");
    let writes = machine.writes(&["apply", &claim]);
    let is_seen = |what: &str| writes.iter().any(|call| call.contains(what));
    assert!(is_seen("flock") && is_seen("rename"), "{writes:#?}");
    let look = || {
        machine.sh(&format!(
            "stat -c '%i %Y %Z' {STORE} /var/lib/docker/digestfix/* /var/lib/docker; \
             systemctl show -p MainPID,InvocationID docker.service"
        ))
    };
    let before = look();

    let again = machine.digestfix(&["apply", &claim]).exits(0);

    assert!(again.stdout.contains("Nothing to do"), "{}", again.stdout);
    assert_eq!(machine.writes(&["apply", &claim]), [""; 0]);
    let lock = "/var/lib/docker/digestfix/lock";
    machine.sh(&format!("flock {lock} digestfix apply {claim}"));
    assert_eq!(look(), before);

    what_is_edited_by_hand_is_read(&machine);
    an_edit_that_lost_something_is_refused(&machine);
}

/// Adds a digest to the file as a script would, without restarting Docker.
fn add_digest(machine: &Machine, name: &str) {
    let repository = format!("localhost:5000/lab/{name}");
    let (digest, id) = (machine.digest(name), machine.id(name));
    machine.sh(&format!(
        "jq -c '.Repositories[\"{repository}\"][\"{repository}@{digest}\"]=\"{id}\"' {STORE} >/run/edited
         cp /run/edited {STORE}"
    ));
}

/// The digest is in the file, but the engine has not read it, and would lose it at its
/// next change.
fn what_is_edited_by_hand_is_read(machine: &Machine) {
    let (claim, other) = (machine.claim("app"), machine.claim("other"));
    machine.load("other");
    add_digest(machine, "other");
    let edited = machine.store();
    assert!(!machine.engine_has("other"));
    // The engine already has the digest of this claim, so the edit does not matter.
    let pid = machine.main_pid();
    machine.digestfix(&["apply", &claim]).exits(0);
    assert_eq!(machine.main_pid(), pid);

    let plan = machine.digestfix(&["plan", &other]).exits(4);
    assert!(plan.stdout.contains("has not read"), "{}", plan.stdout);
    let run = machine.digestfix(&["apply", "--json", &other]).exits(0);

    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let reference = format!("{OTHER}@{}", machine.digest("other"));
    assert_eq!(json["unread"], serde_json::json!([reference]));
    assert_eq!(json["changed"], true);
    assert_eq!(json["changes"], serde_json::json!([]));
    assert!(machine.engine_has("other"));
    assert_eq!(machine.store(), edited);
    machine.is_whole();
    assert_eq!(machine.writes(&["apply", &claim, &other]), [""; 0]);
}

/// The engine has a tag that the file lacks, because a user restored an older copy of the
/// file.
fn an_edit_that_lost_something_is_refused(machine: &Machine) {
    let reference = format!("{OTHER}@{}", machine.digest("other"));
    machine.sh(&format!(
        "docker rmi {reference} >/dev/null; cp {STORE} /run/copy; docker tag {OTHER}:v1 lab/new:1
         cp /run/copy {STORE}"
    ));
    add_digest(machine, "other");
    let (pid, store) = (machine.main_pid(), machine.store());

    let refused = machine
        .digestfix(&["apply", &machine.claim("other")])
        .exits(3);

    assert!(refused.stderr.contains("lab/new:1"), "{}", refused.stderr);
    assert_eq!((machine.main_pid(), machine.store()), (pid, store));
    // The advised command solves the problem.
    let (_, cure) = refused.stderr.split_once("docker tag").unwrap();
    let (cure, _) = cure.split_once("; then").unwrap();
    machine.sh(&format!("docker tag{cure}"));
    machine
        .digestfix(&["apply", &machine.claim("other")])
        .exits(0);
    assert!(machine.engine_has("other"));
    machine.sh("docker image inspect lab/new:1");
}

#[test]
fn a_docker_that_was_stopped_stays_stopped() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    machine.sh("systemctl stop docker.socket docker.service");

    machine
        .digestfix(&["apply", &machine.claim("app")])
        .exits(0);

    assert_eq!(
        machine.sh("systemctl is-active docker.service docker.socket || true"),
        "inactive\ninactive"
    );
    machine.sh("systemctl start docker");
    assert!(machine.engine_has("app"));
}

#[test]
fn a_docker_that_waits_for_its_first_client_goes_on_waiting() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    machine.sh("systemctl stop docker.service docker.socket; systemctl start docker.socket");

    machine
        .digestfix(&["apply", &machine.claim("app")])
        .exits(0);

    assert_eq!(
        machine.sh("systemctl is-active docker.service docker.socket || true"),
        "inactive\nactive"
    );
    assert!(machine.engine_has("app"), "and starts for a client");
}

/// systemd allows three starts of Docker per minute, but six changes require six starts.
#[test]
fn six_applies_within_a_minute() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    let claim = machine.claim("app");
    let reference = format!("{APP}@{}", machine.digest("app"));
    for _ in 0..3 {
        machine.digestfix(&["apply", &claim]).exits(0);
        machine.is_whole();
        machine
            .digestfix(&["apply", "--remove", &reference])
            .exits(0);
        machine.is_whole();
    }
    let starts = machine.sh(
        "journalctl --sync; journalctl -u docker.service -o cat | grep -c 'Started docker.service\\|Started Docker'",
    );
    assert!(starts.parse::<u32>().unwrap() >= 7, "{starts} starts");
}

#[test]
fn owner_mode_and_attributes_stay() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    machine.sh(&format!(
        "chown 0:7 {STORE}; chmod 0640 {STORE}; setfattr -n trusted.lab -v kept {STORE}"
    ));

    machine
        .digestfix(&["apply", &machine.claim("app")])
        .exits(0);

    assert_eq!(
        machine.sh(&format!("stat -c '%u:%g %a' {STORE}")),
        "0:7 640"
    );
    assert_eq!(
        machine.sh(&format!("getfattr --only-values -n trusted.lab {STORE}")),
        "kept"
    );
}

#[test]
fn the_json_of_an_apply() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.load("app");
    let run = machine
        .digestfix(&["apply", "--json", &machine.claim("app")])
        .exits(0);
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(json["version"], 1);
    assert_eq!(json["changed"], true);
    assert_eq!(json["exit_code"], 0);
    assert_eq!(json["claims"][0]["trust"], "asserted");
    let steps: Vec<&str> = json["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| step["step"].as_str().unwrap())
        .collect();
    assert_eq!(
        steps,
        ["stage", "block_start", "stop", "commit", "start", "verify"]
    );
}

/// With user namespaces, the data root is a subdirectory of the configured one.
#[test]
fn a_remapped_docker() {
    let machine = Machine::boot(Suite::Trixie);
    machine.sh("echo dockremap:100000:65536 | tee /etc/subuid >/etc/subgid; useradd -r dockremap");
    machine.write("/etc/docker/daemon.json", "{\"userns-remap\": \"default\"}");
    machine.sh("systemctl restart docker");
    machine.load("app");
    let reference = format!("{APP}@{}", machine.digest("app"));
    let remapped = "/var/lib/docker/100000.100000/image/overlay2/repositories.json";

    machine
        .digestfix(&["apply", &machine.claim("app")])
        .exits(0);

    machine.is_whole();
    assert!(machine.engine_has("app"));
    assert!(machine.sh(&format!("cat {remapped}")).contains("@sha256"));
    machine.sh("systemctl stop docker.socket docker.service");
    machine
        .digestfix(&["apply", "--remove", &reference])
        .exits(0);
    assert!(!machine.sh(&format!("cat {remapped}")).contains("@sha256"));
}
