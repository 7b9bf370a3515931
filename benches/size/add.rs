//! Measures adding one digest to the reference store.

use std::fs;
use std::path::Path;

use crate::contest::{Contest, Contestant, Cost, Effort, head};
use crate::growth::Growth;
use crate::host::{Host, Shape};
use crate::measure::Place;
use crate::peers::{Peers, command, script};

const JQ: &str = r#"jq -c --arg r "$2" --arg k "$3" --arg v "$4" '.Repositories[$r][$k] = $v' "$1" >"$1.new"
mv "$1.new" "$1""#;

/// Measures both shapes at each size.
pub fn run(peers: &Peers, effort: Effort, sizes: &[usize], growth: &mut Growth) {
    head("One digest more", false);
    for shape in [Shape::Mixed, Shape::OneRepository] {
        for size in sizes {
            let cost = contest(peers, effort, &Host::at(&peers.inputs, shape, *size));
            growth.add(&format!("one digest more, {}", shape.name()), *size, cost);
        }
    }
}

fn contest(peers: &Peers, effort: Effort, host: &Host) -> Cost {
    let (root, store) = (host.root(), host.store());
    let (root, store) = (root.to_str().unwrap(), store.to_str().unwrap());
    let (claim, reference) = (host.lost[0].claim(), host.lost[0].reference());
    let (repository, image) = (&host.lost[0].repository, &host.lost[0].image);
    let left = |_: &[u8]| host.references();
    let mut contestants = Vec::new();
    for (name, program) in &peers.digestfix {
        let words = ["apply", "--offline", "--data-root", root, &claim];
        contestants.push(Contestant::new(name, command(program, &words), left));
    }
    contestants.extend([
        Contestant::new(
            "jq",
            script(JQ, &[store, repository, &reference, image]),
            left,
        ),
        Contestant::new(
            "Python",
            command(
                Path::new("/usr/bin/python3"),
                &[
                    peers.python.to_str().unwrap(),
                    store,
                    repository,
                    &reference,
                    image,
                ],
            ),
            left,
        ),
        Contestant::new(
            "moby's store",
            command(&peers.moby, &[store, &reference, image]),
            left,
        ),
        Contestant::floor(
            "`cp`, `sync`",
            script(
                r#"cp --reflink=never "$1" "$2"; sync "$2""#,
                &[store, &format!("{root}/copy")],
            ),
        ),
    ]);
    let place = Place::here();
    same_bytes(&place, host, &contestants);
    Contest {
        place: &place,
        size: format!(
            "{}, {}, {} kB",
            host.references,
            host.shape.name(),
            host.size.div_ceil(1000)
        ),
        prepare: Some(host.reset()),
        calls: false,
        contestants,
    }
    .run(effort)
}

/// Checks that digestfix and moby's own code write identical files.
fn same_bytes(place: &Place, host: &Host, contestants: &[Contestant]) {
    let written = |name: &str| {
        let contestant = contestants.iter().find(|one| one.name == name).unwrap();
        for words in [&host.reset(), &contestant.words] {
            assert_eq!(place.once(words).code, 0, "{words:?}");
        }
        fs::read(host.store()).unwrap()
    };
    assert!(
        written("digestfix") == written("moby's store"),
        "the same bytes"
    );
}
