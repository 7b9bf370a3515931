//! Types every command of README.md on a clean machine. The README's image is lab/app,
//! and its registry is the machine's own.

use crate::machine::{APP, Machine, STORE, Suite};

const README: &str = include_str!("../../README.md");

/// The blocks of commands (```sh), in the order of the README.
fn blocks() -> Vec<String> {
    let parts = README.split("```sh\n").skip(1);
    parts
        .map(|part| part.split_once("```").unwrap().0.to_owned())
        .collect()
}

/// The commands in the table that explains each command.
fn table() -> Vec<String> {
    let rows = README
        .lines()
        .filter(|line| line.starts_with("| `digestfix "));
    rows.map(|row| row.split('`').nth(1).unwrap().to_owned())
        .collect()
}

/// Replaces the placeholders in a command of the README.
fn filled(machine: &Machine, text: &str) -> String {
    let text = text.replace("CLAIM…", "registry.example/app:v1@sha256:47b1…");
    let text = text.replace("-o FILE IMAGE…", "-o again.tar registry.example/app:v1");
    let text = text.replace("FILE…", "images.tar");
    let text = text.replace("sha256:47b1…", &machine.digest("app"));
    let text = text.replace("registry.example/app", APP);
    assert!(
        !text.contains('…') && !text.contains("registry.example"),
        "{text}"
    );
    text
}

#[test]
fn every_command_works_as_it_stands_there() {
    let machine = Machine::boot(Suite::Bookworm);
    machine.allow_containers();
    let typed = |text: &str| machine.sh(&format!("cd /srv; {}", filled(&machine, text)));
    let reference = format!("{APP}@{}", machine.digest("app"));
    let forget = || {
        machine
            .digestfix(&["apply", "--remove", &reference])
            .exits(0);
        assert!(!machine.engine_has("app"));
    };
    let blocks = blocks();
    let [save, load, inspect, pinned, replace, install] = blocks.as_slice() else {
        panic!("{blocks:?}");
    };

    // The host with internet access.
    machine.sh(&format!(
        "systemctl start docker-registry
         until curl -sf localhost:5000/v2/ >/dev/null; do sleep 0.05; done
         docker pull -q {APP}:v1"
    ));
    typed(save);
    typed("digestfix export -o digests.json");
    typed(inspect);
    machine.sh("docker rmi -f $(docker images -q)
         systemctl stop docker-registry; ! curl -s localhost:5000");

    // The host without internet access, and the symptoms on it.
    machine.sh("docker load -i /srv/images.tar");
    let symptoms = README
        .lines()
        .filter_map(|line| line.strip_prefix("    # "));
    let symptoms: Vec<&str> = symptoms.collect();
    let [listing, running] = symptoms[..] else {
        panic!("{symptoms:?}");
    };
    assert!(typed(listing).contains("<none>"));
    let run = machine.run(&["sh", "-c", &filled(&machine, running)]);
    let says = run.exits(125).stderr;
    assert!(
        says.contains(&format!("Unable to find image '{reference}' locally")),
        "{says}"
    );
    let done = typed(load);
    assert!(done.contains("proven by"), "{done}");
    assert!(machine.engine_has("app"));

    machine.sh("docker rmi -f $(docker images -q)");
    typed(load);
    assert!(machine.engine_has("app"));

    forget();
    let done = typed("digestfix apply --from digests.json");
    assert!(done.contains("proven by"), "{done}");
    assert!(machine.engine_has("app"));

    forget();
    let done = typed("digestfix apply --from images.json");
    assert!(done.contains("matched: "), "{done}");
    assert!(machine.engine_has("app"));

    forget();
    typed(pinned);
    assert!(machine.engine_has("app"));

    // The image's ID, edited into the file in place of its digest.
    machine.sh(&format!(
        "systemctl stop docker.socket docker
         sed -i s/@{}/@{}/ {STORE}
         systemctl reset-failed; systemctl start docker",
        machine.digest("app"),
        machine.id("app")
    ));
    assert!(!machine.engine_has("app"));
    let status = machine.digestfix(&["status"]).exits(4).stdout;
    assert!(status.contains("x image ID"), "{status}");
    typed(replace);
    assert!(machine.engine_has("app"));

    forget();
    let commands = table();
    assert_eq!(commands.len(), 11, "{commands:?}");
    for command in commands {
        let is_pending = [" plan ", " status"]
            .iter()
            .any(|word| command.contains(word));
        let code = if is_pending { 4 } else { 0 };
        machine
            .run(&[
                "sh",
                "-c",
                &format!("cd /srv; {}", filled(&machine, &command)),
            ])
            .exits(code);
    }

    // tests/packages runs the build itself.
    let (build, copy) = install.split_once('\n').unwrap();
    assert!(build.starts_with("packaging/build-static "), "{build}");
    machine.sh("mv $(command -v digestfix) /srv/digestfix");
    typed(copy);
    machine.digestfix(&["doctor"]).exits(0);
}
