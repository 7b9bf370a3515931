//! Tests with RHEL 7's docker 1.13.1. Its daemon, its unit and its environment files have
//! other names than in Docker's own packages.

use super::*;

/// The unit of `docker-1.13.1` on CentOS 7.
const UNIT: [&str; 16] = [
    "/usr/bin/dockerd-current",
    "--add-runtime",
    "docker-runc=/usr/libexec/docker/docker-runc-current",
    "--default-runtime=docker-runc",
    "--exec-opt",
    "native.cgroupdriver=systemd",
    "--userland-proxy-path=/usr/libexec/docker/docker-proxy-current",
    "--init-path=/usr/libexec/docker/docker-init-current",
    "--seccomp-profile=/etc/docker/seccomp.json",
    "$OPTIONS",
    "$DOCKER_STORAGE_OPTIONS",
    "$DOCKER_NETWORK_OPTIONS",
    "$ADD_REGISTRY",
    "$BLOCK_REGISTRY",
    "$INSECURE_REGISTRY",
    "$REGISTRIES",
];

const OPTIONS: &str = "--selinux-enabled --log-driver=journald --signature-verification=false";

/// A host on which Docker is stopped and has its files in the directory `root`. In
/// `options`, ROOT stands for the path of that directory.
fn host(driver: &str, options: &str, storage: &str) -> World {
    let mut world = World::new();
    fs::remove_dir_all(world.path("root")).unwrap();
    world.store("root", driver);
    world.flags.config_file = Some(world.path("daemon.json").into());
    let file = |name: &str| (world.path(name), true);
    let files = vec![
        file("registries.conf"),
        file("docker"),
        file("docker-storage"),
        file("docker-network"),
    ];
    let options = options.replace("ROOT", &world.path("root"));
    // /etc/sysconfig/docker is written for a shell, and contains lines that systemd
    // ignores.
    let docker = format!(
        "# /etc/sysconfig/docker\n\n\
         # Modify these options if you want to change the way the docker daemon runs\n\
         OPTIONS='{options}'\n\
         if [ -z \"${{DOCKER_CERT_PATH}}\" ]; then\n    DOCKER_CERT_PATH=/etc/docker\nfi\n\n\
         # docker-latest daemon can be used by starting the docker-latest unitfile.\n\
         #DOCKERBINARY=/usr/bin/docker-latest\n"
    );
    fs::write(world.path("docker"), docker).unwrap();
    let storage = format!("DOCKER_STORAGE_OPTIONS=\"{storage}\"\n");
    fs::write(world.path("docker-storage"), storage).unwrap();
    let network = "# /etc/sysconfig/docker-network\nDOCKER_NETWORK_OPTIONS=\n";
    fs::write(world.path("docker-network"), network).unwrap();
    world.systemd.service.exec_start = UNIT.map(str::to_owned).to_vec();
    world.systemd.service.environment = vec![
        "GOTRACEBACK=crash".to_owned(),
        "DOCKER_HTTP_HOST_COMPAT=1".to_owned(),
        "PATH=/usr/libexec/docker:/usr/bin:/usr/sbin".to_owned(),
    ];
    world.systemd.service.environment_files = files;
    world
}

#[test]
fn the_data_root_is_found_in_the_environment_files() {
    for option in ["--graph=", "--graph ", "-g ", "-g", "-g=", "--data-root="] {
        let option = option.to_owned() + "ROOT";
        let options = format!("{OPTIONS} {option}");
        let world = host("overlay2", &options, "--storage-driver overlay2 ");
        assert_eq!(world.found(), pair("root", "overlay2"), "{option}");
        let sources = world.find().unwrap().sources;
        let told: Vec<_> = sources.iter().take(2).map(|found| found.source).collect();
        assert_eq!(told, ["the unit's command line"; 2], "{option}");
        // digestfix finds the same directory if Docker runs.
        let world = world.running("root", "overlay2");
        assert_eq!(world.found(), pair("root", "overlay2"), "{option}");
    }
}

#[test]
fn the_options_of_the_file_as_it_is_shipped() {
    let mut world = host("overlay2", OPTIONS, "--storage-driver overlay2 ");
    world.flags.data_root = Some(world.path("root").into());
    assert_eq!(world.found(), pair("root", "overlay2"));
    // digestfix finds the data root even if these environment files are missing.
    for name in ["docker", "docker-network", "docker-storage"] {
        fs::remove_file(world.path(name)).unwrap();
        assert_eq!(world.found(), pair("root", "overlay2"), "without {name}");
    }
}

#[test]
fn each_storage_driver_of_docker_storage_is_found() {
    for driver in [
        "overlay2",
        "overlay",
        "devicemapper",
        "aufs",
        "btrfs",
        "zfs",
        "vfs",
    ] {
        let storage = format!(
            "--storage-driver {driver} --storage-opt dm.fs=xfs \
             --storage-opt dm.thinpooldev=/dev/mapper/docker-pool "
        );
        let mut world = host(driver, OPTIONS, &storage);
        world.flags.data_root = Some(world.path("root").into());
        assert_eq!(world.found(), pair("root", driver));
        // Add files of a storage driver that Docker used earlier.
        world.store("root", "other");
        assert_eq!(world.found(), pair("root", driver));
        let world = world.running("root", driver);
        assert_eq!(world.found(), pair("root", driver));
    }
}
