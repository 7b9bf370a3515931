#![allow(clippy::unwrap_used, reason = "a test may fail so")]

use std::io;
use std::path::PathBuf;

use super::*;
use crate::container::Published;
use crate::digest::Algorithm;
use crate::host::Flags;
use crate::manifest::Manifest;
use crate::plan::Request;
use crate::systemd::{Service, Unit};

const ID: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A manifest of the image, and its digest.
fn manifest() -> (String, Digest) {
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","size":1,"digest":"{ID}"}},"layers":[]}}"#
    );
    let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
    (text, digest)
}

fn evidence(kept: bool) -> Evidence {
    let (text, digest) = manifest();
    let mut evidence = Evidence::default();
    let parsed = Manifest::parse(text.as_bytes()).unwrap();
    evidence.add_manifest(digest.clone(), parsed, "F");
    if kept {
        evidence.keep(&digest, text.as_bytes());
    }
    evidence
}

fn store(references: &str) -> Store {
    Store::parse(format!(r#"{{"Repositories":{{{references}}}}}"#).as_bytes()).unwrap()
}

fn errand_of(before: &Store, request: &Request) -> Result<Errand, Hindrance> {
    let images: BTreeSet<ImageId> = [ID.parse().unwrap()].into();
    let plan = Plan::new(before, &images, request).unwrap();
    Errand::new(&plan, before, &request.evidence)
}

/// What it comes to for an image of this name.
fn errand(repository: &str) -> Errand {
    let (_, digest) = manifest();
    let before = store(&format!(r#""{repository}":{{"{repository}:1":"{ID}"}}"#));
    let request = Request {
        claims: vec![format!("{repository}:1@{digest}").parse().unwrap()],
        evidence: evidence(true),
        ..Request::default()
    };
    errand_of(&before, &request).unwrap()
}

#[test]
fn what_is_proven_and_new_is_an_errand() {
    let errand = errand("quay.io/x/a");
    let (text, digest) = manifest();
    assert_eq!(errand.references.len(), 1);
    assert_eq!(*errand.manifests[&digest].text, *text);
    assert_eq!(errand.manifests.len(), 1);
}

#[test]
fn an_index_leads_to_the_image_or_is_none() {
    let (_, digest) = manifest();
    let other = format!(
        r#"{{"digest":"sha256:{}","platform":{{"os":"linux","architecture":"arm64"}}}}"#,
        "b".repeat(64)
    );
    let ours =
        format!(r#"{{"digest":"{digest}","platform":{{"os":"linux","architecture":"amd64"}}}}"#);
    let errand = |entries: &[&str]| {
        let entries: Vec<String> = entries
            .iter()
            .map(|one| one.replacen('{', r#"{"size":1,"#, 1))
            .collect();
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            entries.join(",")
        );
        let index = Digest::of(Algorithm::Sha256, text.as_bytes());
        let mut evidence = evidence(true);
        evidence.add_manifest(
            index.clone(),
            Manifest::parse(text.as_bytes()).unwrap(),
            "F",
        );
        evidence.keep(&index, text.as_bytes());
        let before = store(&format!(r#""a":{{"a:1":"{ID}"}}"#));
        let request = Request {
            claims: vec![format!("a@{index}={ID}").parse().unwrap()],
            evidence,
            ..Request::default()
        };
        errand_of(&before, &request).unwrap()
    };
    let engine = |architecture: &str| Platform::new("linux", architecture, "");
    let errand = errand(&[&other, &ours]);
    assert!(errand.has_indexes());
    assert!(errand.suits(&engine("amd64")).is_ok());
    for architecture in ["arm64", "386"] {
        assert!(matches!(
            errand.suits(&engine(architecture)),
            Err(Hindrance::OtherPlatform { .. })
        ));
    }
    let plain = self::errand("a");
    assert!(!plain.has_indexes());
    assert!(
        plain.suits(&engine("s390x")).is_ok(),
        "it is asked for by itself"
    );
}

#[test]
fn what_an_api_cannot_do_is_none() {
    let (_, digest) = manifest();
    let before = store(&format!(r#""a":{{"a:1":"{ID}"}}"#));
    let claim = |text: String, evidence: Evidence| Request {
        claims: vec![text.parse().unwrap()],
        evidence,
        ..Request::default()
    };
    let asserted = claim(format!("a:1@{digest}"), Evidence::default());
    assert!(matches!(
        errand_of(&before, &asserted),
        Err(Hindrance::NotProven {
            trust: Trust::Asserted,
            ..
        })
    ));
    let lost = claim(format!("a:1@{digest}"), evidence(false));
    assert!(matches!(
        errand_of(&before, &lost),
        Err(Hindrance::NotKept(_))
    ));
    let tag = claim(format!("b:1={ID}"), evidence(true));
    assert!(matches!(errand_of(&before, &tag), Err(Hindrance::Tag(_))));
    let removal = Request {
        removals: vec![Reference::parse("a:1").unwrap()],
        ..Request::default()
    };
    assert!(matches!(
        errand_of(&before, &removal),
        Err(Hindrance::Displaced(name)) if name == "a:1"
    ));
    let nameless = claim(format!("a@{digest}={ID}"), evidence(true));
    assert!(matches!(
        errand_of(&store(""), &nameless),
        Err(Hindrance::OnlyReference(_))
    ));
}

#[test]
fn what_docker_has_not_read_it_would_write_over() {
    let file = store(&format!(r#""a":{{"a:1":"{ID}","a:2":"{ID}"}}"#));
    let listed = |tags: &[&str]| -> References {
        let tags = tags.iter().map(|tag| ((*tag).to_owned(), ID.to_owned()));
        tags.collect()
    };
    assert!(has_read(&listed(&["a:1", "a:2", "b:1"]), &file, |_| true));
    assert!(!has_read(&listed(&["a:1"]), &file, |_| true));
    assert!(
        has_read(&listed(&["a:1"]), &file, |_| false),
        "no such image"
    );
    let request = Request::default();
    assert!(matches!(errand_of(&file, &request), Err(Hindrance::Unread)));
}

/// A host that knows one name.
struct Known(&'static str, Vec<IpAddr>, Result<(), io::ErrorKind>);

impl Names for Known {
    async fn whereabouts(&self, names: &[&str]) -> Vec<io::Result<Whereabouts>> {
        let known = |name: &str| match name {
            "broken" => Err(io::ErrorKind::NotFound.into()),
            name if name == self.0 => Ok(Whereabouts::Addresses(self.1.clone())),
            _ => Ok(Whereabouts::Nowhere),
        };
        names.iter().map(|name| known(name)).collect()
    }

    fn can_be_added(&self) -> io::Result<()> {
        self.2.map_err(io::Error::from)
    }
}

fn known(name: &'static str, address: &str) -> Known {
    Known(name, vec![address.parse().unwrap()], Ok(()))
}

/// A Docker whose main process is another program than dockerd.
fn host() -> Managed {
    Managed {
        flags: Flags::default(),
        unit: Unit::default(),
        service: Service::default(),
        engine: Some(Info::default()),
        socket: PathBuf::new(),
        config_file: PathBuf::new(),
        live_restore_flag: None,
        live_restore_at_start: false,
        forgotten_by_reload: Vec::new(),
        undone_by_reload: Vec::new(),
        leaves_proxy_to_be_found: false,
        has_mirror_flag: false,
    }
}

fn routed(repository: &str, host: &Managed, names: &Known) -> Result<Route, Hindrance> {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(errand(repository).route(host, names))
}

fn sockets(route: &Route) -> Vec<String> {
    route.listen.iter().map(ToString::to_string).collect()
}

#[test]
fn each_name_is_led_by_as_little_as_can_be() {
    let names = known("known", "127.0.0.9");
    for (repository, listen, added) in [
        (
            "localhost:5000/a",
            vec!["127.0.0.1:5000", "[::1]:5000"],
            vec![],
        ),
        ("127.0.0.2:5001/a", vec!["127.0.0.2:5001"], vec![]),
        (
            "quay.io/a/b",
            vec!["127.0.0.1:80", "127.0.0.1:443"],
            vec!["quay.io"],
        ),
        (
            "r.example:5000/a",
            vec!["127.0.0.1:5000"],
            vec!["r.example"],
        ),
    ] {
        let route = routed(repository, &host(), &names).unwrap();
        assert_eq!(sockets(&route), listen, "{repository}");
        assert_eq!(route.names, added, "{repository}");
        assert!(!route.mirror);
        let reference = Reference::parse(repository).unwrap();
        assert_eq!(
            route.leads_by_hosts(reference.repository()),
            !added.is_empty()
        );
    }
    let names = Known("r.example", vec!["127.0.0.9".parse().unwrap()], Ok(()));
    let route = routed("r.example:5000/a", &host(), &names).unwrap();
    assert_eq!(sockets(&route), ["127.0.0.9:5000"]);
    assert!(route.names.is_empty(), "it leads here already");
}

#[test]
fn what_a_host_has_against_it_is_named() {
    let nothing = known("", "::1");
    let refused = |repository: &str, host: &Managed, names: &Known| {
        routed(repository, host, names).unwrap_err()
    };
    let reachable = known("r.example", "10.0.0.1");
    assert!(matches!(
        refused("r.example/a", &host(), &reachable),
        Hindrance::Resolves { .. }
    ));
    let six = known("r.example", "::1");
    assert!(matches!(
        refused("r.example/a", &host(), &six),
        Hindrance::Resolves { .. }
    ));
    for address in ["10.0.0.1:5000/a", "[::1]:5000/a"] {
        assert!(matches!(
            refused(address, &host(), &nothing),
            Hindrance::Address(_)
        ));
    }
    let unwritable = Known("", Vec::new(), Err(io::ErrorKind::ReadOnlyFilesystem));
    assert!(matches!(
        refused("r.example/a", &host(), &unwritable),
        Hindrance::Hosts(_)
    ));
    assert!(routed("localhost:5000/a", &host(), &unwritable).is_ok());
    assert!(matches!(
        refused("broken:5000/a", &host(), &nothing),
        Hindrance::Unknown { .. }
    ));
    let mut down = host();
    down.engine = None;
    assert!(matches!(
        refused("localhost:5000/a", &down, &nothing),
        Hindrance::NotRunning
    ));
}

#[test]
fn where_somebody_listens_nobody_else_does() {
    let nothing = known("", "::1");
    let route = routed("quay.io/a", &host(), &nothing).unwrap();
    let listens = |address: &str| route.is_free(&[address.parse().unwrap()]);
    assert!(listens("127.0.0.1:5000").is_ok());
    assert!(matches!(
        listens("0.0.0.0:443"),
        Err(Hindrance::Taken { address, .. }) if address.port() == 443
    ));
}

#[test]
fn two_ports_of_a_name_are_one_name() {
    let nothing = known("", "::1");
    let mut both = errand("r.example:5000/a");
    both.registries
        .extend(errand("r.example:5001/a").registries);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let route = runtime.block_on(both.route(&host(), &nothing)).unwrap();
    assert_eq!(route.names, ["r.example"]);
    assert_eq!(sockets(&route), ["127.0.0.1:5000", "127.0.0.1:5001"]);
}

#[test]
fn docker_io_needs_a_reload_that_does_no_harm() {
    let nothing = known("", "::1");
    let refused = |host: &Managed| routed("lab/a", host, &nothing).unwrap_err();
    assert!(matches!(
        refused(&host()),
        Hindrance::DaemonJson(live_restore::Hindrance::NotDockerd { .. })
    ));
    let mut flag = host();
    flag.has_mirror_flag = true;
    assert!(matches!(refused(&flag), Hindrance::MirrorFlag(_)));
    let mut forgets = [host(), host()];
    forgets[0].forgotten_by_reload.push("--x".to_owned());
    forgets[1].undone_by_reload.push("--x".to_owned());
    for forgets in &forgets {
        assert!(matches!(refused(forgets), Hindrance::Forgets(_)));
        assert!(routed("localhost:5000/a", forgets, &nothing).is_ok());
    }
}

#[test]
fn a_reload_may_change_nothing_else() {
    let judged = |file: &str, mirrors: &[&str]| {
        let engine = Info {
            mirrors: mirrors.iter().map(|&mirror| mirror.into()).collect(),
            ..Info::default()
        };
        reload_changes_no_more(Path::new("/d"), Some(file.as_bytes()), &engine)
    };
    assert!(judged(r#"{"debug":true}"#, &[]).is_ok());
    assert!(judged(r#"{"registry-mirrors":["https://m"]}"#, &["https://m/"]).is_ok());
    for (file, mirrors) in [
        ("{}", &["https://m/"] as &[&str]),
        (r#"{"registry-mirrors":["https://m"]}"#, &[]),
        (
            r#"{"registry-mirrors":["https://m","https://n"]}"#,
            &["https://n/", "https://m/"],
        ),
    ] {
        assert!(matches!(
            judged(file, mirrors),
            Err(Hindrance::OtherMirrors(_))
        ));
    }
    assert!(matches!(
        judged(r#"{"authorization-plugins":["x"]}"#, &[]),
        Err(Hindrance::Authorization(_))
    ));
}

#[test]
fn a_container_that_is_about_to_start_gets_its_port() {
    let nothing = known("", "::1");
    let route = routed("localhost:5000/a", &host(), &nothing).unwrap();
    let mut container = Container::default();
    assert!(route.is_nobodys(&[container.clone()]).is_ok());
    container.published.insert(Published {
        ip: Ipv4Addr::UNSPECIFIED.into(),
        port: 5000,
        protocol: "tcp".to_owned(),
    });
    assert!(matches!(
        route.is_nobodys(&[container]),
        Err(Hindrance::Restarts { port: 5000, .. })
    ));
}

#[test]
fn a_proxy_is_asked_for_all_names_but_some() {
    let mut proxied = host();
    let nothing = known("", "::1");
    for (none, name, asked) in [
        ("", "quay.io", true),
        ("*", "quay.io", false),
        ("example, QUAY.io", "quay.io", false),
        ("quay.io", "cdn.quay.io", false),
        (".quay.io", "quay.io", true),
        ("*.quay.io", "cdn.quay.io", false),
        ("ay.io", "quay.io", true),
        ("10.0.0.0/8", "quay.io", true),
        ("", "localhost", false),
    ] {
        proxied.engine = Some(Info {
            proxies: Proxies {
                http: "http://proxy".to_owned(),
                none: none.to_owned(),
                ..Proxies::default()
            },
            ..Info::default()
        });
        let route = routed(&format!("{name}:5000/a"), &proxied, &nothing);
        let is_asked = matches!(route, Err(Hindrance::Proxy { .. }));
        assert_eq!(is_asked, asked, "{none:?} {name}: {route:?}");
    }
}
