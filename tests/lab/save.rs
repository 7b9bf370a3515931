//! Images carried in one file: `digestfix save`, and loading the file with plain Docker.

use crate::machine::{APP, Machine, OTHER, Suite};

/// Saves images, removes them, loads them with plain Docker, and runs one of them.
fn carries(machine: &Machine, meanwhile: impl FnOnce(&Machine), remove: &str) {
    let others_pin = format!("{OTHER}:v9@{}", machine.digest("other"));
    let tag = format!("{APP}:v1");
    machine.allow_containers();
    machine.pull_both();
    let absent = machine.digestfix(&["save", "-o", "/lab/none.tar", "lab/none:1"]);
    let absent = absent.exits(3).stderr;
    assert!(absent.contains("docker pull lab/none:1"), "{absent}");
    machine.sh("[ ! -e /lab/none.tar ]");

    let saved = machine.digestfix(&["save", "-o", "/lab/images.tar", &tag, &others_pin]);
    let said = saved.exits(0).stderr;
    assert_eq!(said.matches("digest proven").count(), 2, "{said}");
    machine.sh(&format!(
        "digestfix save {tag} {others_pin} 2>/dev/null | cat >/lab/piped.tar"
    ));
    let members = machine.sh("tar tf /lab/images.tar");
    assert!(members.starts_with("digestfix.json\n"), "{members}");
    assert_eq!(machine.sh("tar tf /lab/piped.tar"), members);
    let claims =
        machine.sh("tar xOf /lab/images.tar digestfix.json | jq -r '.claims[].reference' | sort");
    let pinned = format!("{APP}@{}", machine.digest("app"));
    assert_eq!(claims, [pinned, others_pin].join("\n"));
    machine.write("/lab/deploy.yaml", &format!("image: {tag}"));
    for (file, test) in [("images.tar.gz", "gzip -t"), ("images.tzst", "zstd -qt")] {
        machine.sh(&format!(
            "digestfix save -qo /lab/{file} -f /lab/deploy.yaml; {test} /lab/{file}; tar tf /lab/{file} | grep -qx digestfix.json"
        ));
    }
    // The reader of the archive exits early.
    let cut = "set -o pipefail; digestfix save --all 2>/lab/said | head -c 9000 >/lab/cut.tar";
    assert_eq!(machine.run(&["bash", "-c", cut]).code, 1);
    let said = machine.sh("cat /lab/said");
    assert!(said.contains("discard it"), "{said}");

    meanwhile(machine);
    machine.sh(remove);
    assert_eq!(machine.sh("docker images -q"), "");
    machine.sh("docker load -q -i /lab/images.tar.gz; docker load -q -i /lab/images.tar");
    let said = machine.sh(&format!("docker run --rm --network none {tag}"));
    assert_eq!(said, "hello from app");
    let images = machine.sh("docker images -q --no-trunc | wc -l");
    assert_eq!(images, "2");
}

/// Kills a run at twenty moments, and sends other signals to more runs. Prints how many
/// of them had not finished. The file, if it exists, must be complete, and no other file
/// may be left.
const END_AT_INSTANTS: &str = "
  mkdir /lab/ended && cd /lab/ended
  halves=0
  for instant in $(seq -f KILL/%g 0 19) TERM/0 TERM/8 TERM/16 INT/4 INT/12; do
    digestfix save -qo images.tar --all 2>/dev/null &
    sleep $(echo ${instant#*/} | awk '{ print $1 / 100 }')
    kill -${instant%/*} $! 2>/dev/null || true
    wait $! || halves=$((halves + 1))
    [ ! -e images.tar ] || { tar tf images.tar | grep -qx manifest.json; rm images.tar; }
    [ -z \"$(ls -A)\" ]
  done
  echo $halves";

fn leaves_nothing_half(machine: &Machine) {
    let halves = machine.sh(END_AT_INSTANTS);
    assert!(halves.parse::<u32>().unwrap() > 5, "{halves}");
    machine.sh("mkdir /lab/small; mount -t tmpfs -o size=1M tmpfs /lab/small; echo former >/lab/small/a.tar");
    let full = machine.digestfix(&["save", "-o", "/lab/small/a.tar", "--all"]);
    let full = full.exits(1).stderr;
    assert!(full.contains("No space left"), "{full}");
    assert!(full.contains("/lab/small/a.tar is unchanged"), "{full}");
    assert_eq!(
        machine.sh("ls -A /lab/small; cat /lab/small/a.tar"),
        "a.tar\nformer"
    );
}

/// Installs the plugin link as a package does.
fn through_dockers_own_door(machine: &Machine) {
    let plugins = "/usr/libexec/docker/cli-plugins";
    machine.sh(&format!(
        "mkdir -p {plugins}; ln -s /usr/local/bin/digestfix {plugins}/docker-digestfix"
    ));
    let version = machine.sh("docker digestfix --version");
    assert!(version.starts_with("digestfix "), "{version}");
    let listed = machine.sh("docker --help");
    assert!(listed.contains("digestfix*"), "{listed}");
    machine.sh(
        "docker digestfix save -qo /lab/door.tar --all; tar tf /lab/door.tar | grep -qx digestfix.json",
    );
    let lost = machine.run(&["docker", "--context", "default", "digestfix", "status"]);
    let lost = lost.exits(2);
    assert!(
        lost.stderr.contains("--context is an option of docker"),
        "{}",
        lost.stderr
    );
    let line = lost.next("docker digestfix");
    let line = line.replace("COMMAND", "history");
    machine
        .types(&line.replace("PATH", "/run/docker.sock"))
        .exits(0);
}

#[test]
fn from_dockers_own_image_store() {
    let machine = Machine::boot(Suite::Forky);
    carries(
        &machine,
        through_dockers_own_door,
        "echo '{\"data-root\":\"/var/lib/docker/second\"}' >/etc/docker/daemon.json; systemctl restart docker",
    );
}

#[test]
fn from_the_containerd_image_store() {
    let machine = Machine::boot(Suite::Forky);
    machine.sh(
        "echo '{\"features\":{\"containerd-snapshotter\":true}}' >/etc/docker/daemon.json
         systemctl restart docker",
    );
    carries(
        &machine,
        leaves_nothing_half,
        "docker rmi -f $(docker images -q)",
    );
}
