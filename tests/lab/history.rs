//! On real engines, every change is recorded in the history, and can be undone from
//! there.

use crate::machine::{APP, Machine, STORE, Suite};

/// The running containers, with the times at which they started.
fn running(machine: &Machine) -> String {
    machine.sh("docker inspect -f '{{.Name}} {{.State.Pid}} {{.State.StartedAt}}' $(docker ps -q)")
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

/// Runs an apply, and returns the ID of its transaction.
fn apply(machine: &Machine, words: &[&str]) -> String {
    let run = machine.digestfix(&[&["apply", "--json"], words].concat());
    let document = json(&run.exits(0).stdout);
    document["transaction"].as_str().unwrap().to_owned()
}

fn start_container(machine: &Machine) {
    machine.allow_containers();
    machine.write(
        "/root/full/Dockerfile",
        &format!("FROM {APP}:v1\nRUN [\"/bin/busybox\",\"--install\",\"-s\",\"/bin\"]\n"),
    );
    machine.sh(
        "DOCKER_BUILDKIT=0 docker build -q -t lab/full /root/full >/dev/null
         docker run -d --name web --network none lab/full sleep 100000 >/dev/null",
    );
}

fn there_and_back(suite: Suite) {
    let machine = Machine::boot(suite);
    machine.load("app");
    start_container(&machine);
    let (before, ran) = (machine.store(), running(&machine));
    assert_eq!(ran.lines().count(), 1);
    let claim = machine.claim("app");
    let reference = format!("{APP}@{}", machine.digest("app"));

    let run = machine.run(&[
        "env",
        "SUDO_USER=alice",
        "digestfix",
        "apply",
        "--json",
        &claim,
    ]);
    let document = json(&run.exits(0).stdout);
    let id = document["transaction"].as_str().unwrap();
    assert!(machine.engine_has("app"));

    let listed = machine.digestfix(&["history"]).exits(0).stdout;
    let line = listed.lines().find(|line| line.starts_with(id)).unwrap();
    for part in ["alice (sudo)", &reference, "done"] {
        assert!(line.contains(part), "{part}\n{listed}");
    }
    let whole = machine.digestfix(&["history", id]).exits(0).stdout;
    for part in [
        format!(
            "  {claim}\n    {reference} is {}  (asserted, typed)",
            machine.id("app")
        ),
        format!("+   {reference}  {}", machine.id("app")),
        format!("backup   {STORE}.digestfix-{id}"),
    ] {
        assert!(whole.contains(&part), "{part}\n{whole}");
    }
    assert_eq!(
        machine.sh(&format!(
            "stat -c '%a %u' /var/lib/docker/digestfix/history /var/lib/docker/digestfix/history/{id}.json"
        )),
        "700 0\n600 0"
    );

    machine.digestfix(&["rollback"]).exits(0);

    machine.is_whole();
    assert!(!machine.engine_has("app"));
    assert_eq!(
        machine.sh(&format!(
            "docker images --digests --format '{{{{.Digest}}}}' {APP}"
        )),
        "<none>"
    );
    assert_eq!(machine.store(), before);
    assert_eq!(running(&machine), ran, "containers keep running");
    assert_eq!(machine.sh("docker exec web echo lives"), "lives");
    let listed = machine.digestfix(&["history", "--json"]).exits(0).stdout;
    let all = &json(&listed)["transactions"];
    assert_eq!(all[1]["kind"], "rollback");
    assert_eq!(all[1]["rollback_of"], id);
    assert_eq!(all[0]["rolled_back_by"], all[1]["id"]);
    machine.digestfix(&["rollback", id]).exits(3);
}

#[test]
fn there_and_back_on_20_10() {
    there_and_back(Suite::Bookworm);
}

#[test]
fn there_and_back_on_26_1() {
    there_and_back(Suite::Trixie);
}

#[test]
fn there_and_back_on_28_5() {
    there_and_back(Suite::Forky);
}

/// Since the transaction, Docker has moved a tag, or a user has removed the image.
#[test]
fn what_docker_changed_since_stands_in_the_way() {
    let machine = Machine::boot(Suite::Trixie);
    machine.load("app");
    machine.load("other");
    let (app, other) = (machine.id("app"), machine.id("other"));
    let tag = "lab/moved:v1";
    let id = apply(
        &machine,
        &[&format!("{tag}={APP}:v1"), &machine.claim("app")],
    );
    machine.sh(&format!("docker tag {} {tag}", machine.id("other")));
    let (store, pid) = (machine.store(), machine.main_pid());

    let refused = machine.digestfix(&["rollback"]).exits(3);

    let line = format!(
        "{tag}: transaction {id} pointed it at {app}, and now the reference points at {other}\n"
    );
    assert!(refused.stderr.contains(&line), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("nothing was touched"),
        "{}",
        refused.stderr
    );
    assert_eq!(machine.store(), store);
    assert_eq!(machine.main_pid(), pid, "Docker was not stopped");

    // After the tag is corrected, the rollback succeeds.
    machine.sh(&format!("docker tag {app} {tag}"));
    machine.digestfix(&["rollback"]).exits(0);
    assert!(!machine.engine_has("app"));
    assert!(!machine.store().contains(tag));

    // A reference cannot point at an image that no longer exists.
    apply(&machine, &["--replace", &format!("{APP}:v1={other}")]);
    machine.sh(&format!("docker rmi {app}"));
    let refused = machine.digestfix(&["rollback"]).exits(3);
    assert!(
        refused
            .stderr
            .contains(&format!("the reference pointed at {app}")),
        "{}",
        refused.stderr
    );
}

/// A run is killed directly before and directly after the references change.
#[test]
fn a_run_that_was_killed_is_ended_on_record() {
    let machine = Machine::boot(Suite::Trixie);
    machine.load("app");
    let claim = machine.claim("app");
    let last = || {
        let listed = machine.digestfix(&["history", "--json"]).exits(0).stdout;
        let all = json(&listed)["transactions"].as_array().unwrap().clone();
        all.last().unwrap().clone()
    };
    let images = STORE.trim_end_matches("/repositories.json");
    for (call, when, references) in [("renameat2", 1, "old"), ("fsync", 2, "new")] {
        // The first sync in this directory is for the name of the staged file, the second
        // for the exchange.
        let (path, error) = match call {
            "renameat2" => (STORE, "error=EIO:"),
            _ => (images, ""),
        };
        let injection = format!("{call}:{error}signal=SIGKILL:when={when}");
        machine.injected_at(path, &injection, &["apply", &claim]);
        machine.digestfix(&["recover"]).exits(0);
        machine.is_whole();
        assert_eq!(last()["result"], "recovered");
        assert_eq!(last()["references"], references);
    }
    machine.digestfix(&["rollback"]).exits(0);
    assert!(!machine.engine_has("app"));
}
