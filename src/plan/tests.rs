#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::claims::claim::Statement;
use crate::image::manifest::{Descriptor, Format, ImageManifest, Manifest};
use crate::image::platform::Platform;

const BEFORE: &str = include_str!("../../tests/fixtures/seed/before.json");
const AFTER: &str = include_str!("../../tests/fixtures/seed/after.json");

/// Replaces short names in test data: `%1` becomes an image ID, and `&1` becomes a
/// digest.
fn spelled(text: &str) -> String {
    let mut spelled = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '%' => {
                let name = characters.next().unwrap().to_string();
                spelled += &format!("sha256:{}{}", name.repeat(8), "0".repeat(56));
            }
            '&' => {
                let name = characters.next().unwrap().to_string();
                spelled += &format!("sha256:{}{}", "f".repeat(56), name.repeat(8));
            }
            other => spelled.push(other),
        }
    }
    spelled
}

/// Builds a reference store from `REF IMAGE` lines.
fn store(lines: &[&str]) -> Store {
    let mut store = Store::parse(b"{}").unwrap();
    for line in lines {
        let line = spelled(line);
        let (reference, image) = line.split_once(' ').unwrap();
        let inserted = store.insert(&reference.parse().unwrap(), &image.parse().unwrap());
        assert_eq!(inserted, Ok(true), "{line}");
    }
    store
}

/// The IDs of nine test images.
fn images() -> BTreeSet<ImageId> {
    "123456789"
        .chars()
        .map(|name| spelled(&format!("%{name}")).parse().unwrap())
        .collect()
}

fn claims(lines: &[&str]) -> Request {
    Request {
        claims: lines
            .iter()
            .map(|line| spelled(line).parse().unwrap())
            .collect(),
        ..Request::default()
    }
}

fn replacing(lines: &[&str]) -> Request {
    Request {
        replace: true,
        ..claims(lines)
    }
}

fn removing(removals: &[&str], request: Request) -> Request {
    Request {
        removals: removals
            .iter()
            .map(|line| spelled(line).parse().unwrap())
            .collect(),
        ..request
    }
}

/// Makes a plan, and checks the properties that every plan must have.
fn plan(store: &Store, request: &Request) -> Plan {
    let plan = Plan::new(store, &images(), request).unwrap();
    let again = Plan::new(&plan.after, &images(), request).unwrap();
    assert!(again.is_empty(), "not idempotent: {:?}", again.changes);
    assert_eq!(again.after, plan.after);
    assert!(again.targets.iter().all(|target| target.holds));
    assert_eq!(plan.is_empty(), plan.after == *store);
    for target in &plan.targets {
        let image = target.image.to_string();
        assert_eq!(plan.after.get(&target.reference), Some(image.as_str()));
    }
    let mut back = plan.after.clone();
    plan.take_back(&mut back);
    assert_eq!(back, *store);
    is_reversible(store, &plan);
    let mut backwards = request.clone();
    backwards.claims.reverse();
    backwards.removals.reverse();
    let backwards = Plan::new(store, &images(), &backwards).unwrap();
    assert_eq!(backwards.after, plan.after);
    assert_eq!(backwards.changes, plan.changes);
    assert_eq!(backwards.orphans, plan.orphans);
    plan
}

/// Checks that a transaction can undo the plan, and that a second undo changes nothing. A
/// reference to an image that is not on this host cannot be restored.
fn is_reversible(store: &Store, plan: &Plan) {
    let reversal = Reversal {
        changes: plan.changes.clone(),
        entries: plan.entries.clone(),
        ..Reversal::default()
    };
    match Plan::reversing(&plan.after, &images(), &reversal) {
        Ok(back) => {
            assert_eq!(back.after, *store);
            let nothing = Plan::reversing(store, &images(), &reversal).unwrap();
            assert!(nothing.is_empty() && nothing.after == *store);
        }
        Err(refusals) => {
            let gone = |one: &Refusal| matches!(one, Refusal::FormerImageGone { .. });
            assert!(refusals.iter().all(gone), "{refusals:?}");
            let lost = |change: &Change| {
                let former = change.from.as_ref().map(|image| image.parse());
                former.is_some_and(|image| image.map_or(true, |id| !images().contains(&id)))
            };
            assert_eq!(
                plan.changes.iter().filter(|one| lost(one)).count(),
                refusals.len()
            );
        }
    }
}

fn refusals(store: &Store, request: &Request) -> Vec<Refusal> {
    let found = Plan::new(store, &images(), request).unwrap_err();
    let mut backwards = request.clone();
    backwards.claims.reverse();
    let backwards = Plan::new(store, &images(), &backwards).unwrap_err();
    assert_eq!(backwards.len(), found.len());
    found
}

fn refusal(store: &Store, request: &Request) -> Refusal {
    let mut found = refusals(store, request);
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// The plan's changes, each as a line `REF FROM TO`.
fn changes(plan: &Plan) -> Vec<String> {
    plan.changes
        .iter()
        .map(|change| {
            let to = change.to.as_ref().map(ToString::to_string);
            format!(
                "{} {} {}",
                change.reference,
                change.from.as_deref().unwrap_or("-"),
                to.as_deref().unwrap_or("-")
            )
        })
        .collect()
}

fn expect(store: &Store, request: &Request, expected: &[&str]) -> Plan {
    let plan = plan(store, request);
    let expected: Vec<String> = expected.iter().map(|line| spelled(line)).collect();
    assert_eq!(changes(&plan), expected);
    plan
}

// The change that people made to `repositories.json` by hand before digestfix existed.

const TAG_CLAIM: &str = "jettech/kube-webhook-certgen:v1.5.1=sha256:dabbfbe0c57b6e5cd4bc089818d3f664acfad496dc741c9a501e72d15e803b34";
const DIGEST_CLAIM: &str = "jettech/kube-webhook-certgen@sha256:dabbfbe0c57b6e5cd4bc089818d3f664acfad496dc741c9a501e72d15e803b34=sha256:a013daf8730dbb3908d66f67c57053f09055fddb28fde0b5808cb24c27900dc8";

fn hand_edit(replace: bool, allow_image_id_digest: bool) -> Result<Plan, Vec<Refusal>> {
    let before = Store::parse(BEFORE.as_bytes()).unwrap();
    let images: BTreeSet<ImageId> = before.references().map(|(_, image)| image).collect();
    let request = Request {
        replace,
        allow_image_id_digest,
        ..claims(&[TAG_CLAIM, DIGEST_CLAIM])
    };
    Plan::new(&before, &images, &request)
}

#[test]
fn the_hand_edit_byte_for_byte() {
    let plan = hand_edit(true, true).unwrap();
    assert_eq!(String::from_utf8(plan.after.to_bytes()).unwrap(), AFTER);
    assert_eq!(plan.changes.len(), 3);
    assert_eq!(plan.orphans, []);
    let mut back = plan.after.clone();
    plan.take_back(&mut back);
    assert_eq!(String::from_utf8(back.to_bytes()).unwrap(), BEFORE);
}

#[test]
fn the_hand_edit_needs_leave_to_replace() {
    let found = hand_edit(false, true).unwrap_err();
    assert!(
        matches!(
            found.as_slice(),
            [
                Refusal::PointsElsewhere { claim, .. },
                Refusal::OtherDigest { present, .. }
            ] if claim == TAG_CLAIM
                && present.ends_with("950833e19ade18cd389d647efb88992a7cc077abedef343fa59e012d376d79b7")
        ),
        "{found:?}"
    );
}

#[test]
fn the_hand_edit_types_an_image_id_for_a_digest() {
    let found = hand_edit(true, false).unwrap_err();
    assert!(
        matches!(found.as_slice(), [Refusal::DigestIsImageId { claim, .. }] if claim == DIGEST_CLAIM),
        "{found:?}"
    );
    assert_eq!(hand_edit(false, false).unwrap_err().len(), 2);
}

// Claims that the plan applies.

#[test]
fn each_form_of_claim_adds_one_reference() {
    let store = store(&["a:1 %1", "b:1 %2", "b:latest %3", "b@&b %2"]);
    for (claim, expected) in [
        ("a:1@&c", "a@&c - %1"),
        ("a@&c", "a@&c - %1"),
        ("docker.io/library/a@&c", "a@&c - %1"),
        ("a@&c=%1", "a@&c - %1"),
        ("a@&c=a:1", "a@&c - %1"),
        ("a@&c=b", "a@&c - %3"),
        ("a@&c=b@&b", "a@&c - %2"),
        ("a@&c=sha256:9", "a@&c - %9"),
        ("a@&c=55", "a@&c - %5"),
        ("c:1=%4", "c:1 - %4"),
        ("c:1=b:1", "c:1 - %2"),
        ("a:2=a:1", "a:2 - %1"),
    ] {
        let plan = expect(&store, &claims(&[claim]), &[expected]);
        assert_eq!(plan.targets.len(), 1);
        assert!(!plan.targets[0].holds);
        assert_eq!(plan.targets[0].claim, spelled(claim));
        assert_eq!(plan.orphans, []);
    }
}

#[test]
fn what_holds_already_is_no_change() {
    let store = store(&["a:1 %1", "a:2 %2", "a@&c %1", "a@&d %1"]);
    for claim in ["a:1@&c", "a@&c", "a@&c=%1", "a:1=%1", "a:1=a:1", "a:1=a@&d"] {
        for request in [claims(&[claim]), replacing(&[claim])] {
            let plan = expect(&store, &request, &[]);
            assert!(plan.is_empty() && plan.targets[0].holds);
        }
    }
    assert!(expect(&store, &Request::default(), &[]).is_empty());
}

#[test]
fn one_image_may_get_two_digests_in_one_request() {
    let before = store(&["a:1 %1"]);
    let added = ["a@&c - %1", "a@&d - %1"];
    for pair in [
        ["a:1@&c", "a:1@&d"],
        ["a@&c", "a@&d"],
        ["a:1@&c", "a@&d=%1"],
    ] {
        let refused = refusals(&before, &claims(&pair)).remove(0);
        assert!(matches!(refused, Refusal::TwoDigests { .. }), "{refused}");
        expect(&before, &replacing(&pair), &added);
    }
    // The store already records one of the two claimed digests.
    let half = store(&["a:1 %1", "a@&c %1"]);
    let refused = refusal(&half, &claims(&["a:1@&c", "a:1@&d"]));
    assert!(matches!(refused, Refusal::TwoDigests { .. }), "{refused}");
    expect(&half, &replacing(&["a:1@&c", "a:1@&d"]), &["a@&d - %1"]);
    // The image has a third digest that no claim names. `--replace` drops it.
    let third = store(&["a:1 %1", "a@&e %1"]);
    expect(
        &third,
        &replacing(&["a:1@&c", "a:1@&d"]),
        &["a@&c - %1", "a@&d - %1", "a@&e %1 -"],
    );
}

#[test]
fn the_same_claim_twice_is_one_change() {
    let store = store(&["a:1 %1"]);
    let plan = expect(
        &store,
        &claims(&["a:1@&c", "a:1@&c", "a@&c=%1"]),
        &["a@&c - %1"],
    );
    assert_eq!(plan.targets.len(), 3);
}

#[test]
fn other_images_keep_their_digests() {
    let store = store(&["a:1 %1", "a:2 %2", "a@&c %2"]);
    expect(&store, &claims(&["a:1@&d"]), &["a@&d - %1"]);
    expect(&store, &replacing(&["a:1@&d"]), &["a@&d - %1"]);
}

#[test]
fn a_tag_leaves_digests_alone() {
    let store = store(&["a:1 %1", "a@&c %1", "a:2 %2", "a@&d %2"]);
    expect(&store, &claims(&["a:3=%2"]), &["a:3 - %2"]);
    expect(&store, &replacing(&["a:3=%2"]), &["a:3 - %2"]);
    expect(&store, &replacing(&["a:1=%2"]), &["a:1 %1 %2"]);
}

#[test]
fn other_repositories_keep_their_digests() {
    let store = store(&["a:1 %1", "b:1 %1", "b@&b %1"]);
    expect(&store, &claims(&["a:1@&c"]), &["a@&c - %1"]);
    expect(&store, &replacing(&["a:1@&c"]), &["a@&c - %1"]);
}

// Replacing and removing.

#[test]
fn a_tag_moves_only_with_leave() {
    let store = store(&["a:1 %1", "a:2 %2"]);
    assert_eq!(
        refusal(&store, &claims(&["a:1=%2"])),
        Refusal::PointsElsewhere {
            claim: spelled("a:1=%2"),
            reference: "a:1".to_owned(),
            present: spelled("%1"),
            wanted: spelled("%2"),
        }
    );
    let plan = expect(&store, &replacing(&["a:1=%2"]), &["a:1 %1 %2"]);
    assert_eq!(plan.orphans, [spelled("%1").parse().unwrap()]);
}

#[test]
fn a_digest_moves_only_with_leave() {
    let store = store(&["a:1 %1", "a:2 %2", "a@&c %1"]);
    assert!(matches!(
        refusal(&store, &claims(&["a:2@&c"])),
        Refusal::PointsElsewhere { .. }
    ));
    expect(&store, &replacing(&["a:2@&c"]), &["a@&c %1 %2"]);
}

/// The lookup handles a request with many claims differently from a request with one
/// claim. Both must find the same image.
#[test]
fn among_many_claims_a_claim_means_what_it_means_alone() {
    let store = store(&["a:1 %1", "a:2 %2", "a@&c %1", "b:1 %1"]);
    for claim in ["a:1@&d", "a@&d=%1", "a:2@&d", "b:1@&d"] {
        let alone = Plan::new(&store, &images(), &replacing(&[claim])).unwrap();
        let many = [&[claim][..], &["b:1=%1"; 20]].concat();
        let among = Plan::new(&store, &images(), &replacing(&many)).unwrap();
        assert_eq!(among.changes, alone.changes, "{claim}");
        let alone = Plan::new(&store, &images(), &claims(&[claim])).err();
        let among = Plan::new(&store, &images(), &claims(&many)).err();
        assert_eq!(among, alone, "{claim}");
    }
}

#[test]
fn an_image_changes_its_digest_only_with_leave() {
    let store = store(&["a:1 %1", "a@&c %1"]);
    for claim in ["a:1@&d", "a@&d", "a@&d=%1", "a@&d=a:1"] {
        assert_eq!(
            refusal(&store, &claims(&[claim])),
            Refusal::OtherDigest {
                claim: spelled(claim),
                present: spelled("a@&c"),
            }
        );
        expect(&store, &replacing(&[claim]), &["a@&c %1 -", "a@&d - %1"]);
        let request = removing(&["a@&c"], claims(&[claim]));
        expect(&store, &request, &["a@&c %1 -", "a@&d - %1"]);
    }
}

#[test]
fn a_digest_that_stands_in_two_ways_at_once() {
    let store = store(&["a:1 %1", "a:2 %2", "a@&c %1", "a@&d %2"]);
    assert_eq!(refusals(&store, &claims(&["a:2@&c"])).len(), 2);
    expect(
        &store,
        &replacing(&["a:2@&c"]),
        &["a@&c %1 %2", "a@&d %2 -"],
    );
    // Two claims swap the digests of two images.
    expect(
        &store,
        &replacing(&["a:2@&c", "a:1@&d"]),
        &["a@&c %1 %2", "a@&d %2 %1"],
    );
    assert_eq!(refusals(&store, &claims(&["a:2@&c", "a:1@&d"])).len(), 2);
}

#[test]
fn a_value_that_is_no_image_id_is_replaced_and_put_back() {
    let broken = Store::parse(br#"{"Repositories":{"a":{"a:1":"broken"}}}"#).unwrap();
    assert!(matches!(
        refusal(&broken, &claims(&["a:1=%1"])),
        Refusal::PointsElsewhere { present, .. } if present == "broken"
    ));
    let plan = expect(&broken, &replacing(&["a:1=%1"]), &["a:1 broken %1"]);
    assert_eq!(plan.orphans, []);
    expect(
        &broken,
        &removing(&["a:1"], Request::default()),
        &["a:1 broken -"],
    );
}

#[test]
fn removals() {
    let store = store(&["a:1 %1", "a@&c %1", "b:1 %2"]);
    let none = Request::default;
    let plan = expect(&store, &removing(&["a@&c"], none()), &["a@&c %1 -"]);
    assert_eq!(plan.orphans, []);
    let plan = expect(&store, &removing(&["b:1", "b:1"], none()), &["b:1 %2 -"]);
    assert_eq!(plan.orphans, [spelled("%2").parse().unwrap()]);
    assert!(
        !String::from_utf8(plan.after.to_bytes())
            .unwrap()
            .contains("\"b\"")
    );
    let plan = expect(&store, &removing(&["c:1", "a:2", "b@&b"], none()), &[]);
    assert_eq!(plan.removals.len(), 3);
    expect(
        &store,
        &removing(&["a:1", "a@&c"], claims(&["b:1@&b"])),
        &["a:1 %1 -", "a@&c %1 -", "b@&b - %2"],
    );
}

/// Builds the request for `--remove` with these arguments.
fn dropping(keys: &[&str]) -> Request {
    let reference = |key: &str| {
        let reference = Reference::parse(key).ok();
        reference.filter(|one| one.tag().is_some() || one.digest().is_some())
    };
    Request {
        removals: keys.iter().filter_map(|key| reference(key)).collect(),
        keys: keys
            .iter()
            .map(|key| Key {
                text: (*key).to_owned(),
                is_none: reference(key).is_none().then(|| "no reference".to_owned()),
            })
            .collect(),
        ..Request::default()
    }
}

/// Docker ignores an entry of `repositories.json` if its key is not a reference, belongs
/// to another repository, or has neither tag nor digest. `--remove KEY` removes such an
/// entry.
#[test]
fn what_docker_passes_over_is_dropped_by_its_key() {
    let (one, two) = (spelled("%1"), spelled("%2"));
    let text = format!(
        r#"{{"Repositories":{{"a":{{"a":"{one}","a:1":"{one}","a:@bad":"{one}"}},"b":{{"a:1":"{one}","c:1":"{two}"}}}}}}"#
    );
    let store = Store::parse(text).unwrap();
    let keys = |plan: &Plan| -> Vec<String> {
        let entries = plan.entries.iter();
        entries
            .map(|one| format!("{}/{}", one.repository, one.key))
            .collect()
    };
    let misplaced = plan(&store, &dropping(&["c:1"]));
    assert_eq!(keys(&misplaced), ["b/c:1"]);
    assert_eq!(misplaced.orphans, [two.parse().unwrap()]);
    let odd = Plan::new(&store, &images(), &dropping(&["a:@bad", "a"])).unwrap();
    assert_eq!(keys(&odd), ["a/a:@bad", "a/a"]);
    assert!(odd.changes.is_empty() && odd.orphans.is_empty() && !odd.is_empty());
    let left = odd.after.entries_of("a").map(|entry| entry.key);
    assert_eq!(left.collect::<Vec<_>>(), ["a:1"]);
    is_reversible(&store, &odd);
    let mut back = odd.after.clone();
    odd.take_back(&mut back);
    assert_eq!(back, store);
    let again = refusal(&odd.after, &dropping(&["a:@bad"]));
    assert!(matches!(again, Refusal::NoSuchKey { .. }), "{again}");
    let both = refusal(&store, &dropping(&["a:1"]));
    assert!(matches!(both, Refusal::BesideReference { .. }), "{both}");
}

#[test]
fn an_image_whose_only_tag_goes_may_keep_a_digest() {
    let store = store(&["a:1 %1"]);
    let plan = expect(
        &store,
        &removing(&["a:1"], claims(&["a@&c"])),
        &["a:1 %1 -", "a@&c - %1"],
    );
    assert_eq!(plan.orphans, []);
}

// Orphans: the images that `docker image prune` would remove.

#[test]
fn an_image_is_an_orphan_if_nothing_that_the_engine_counts_is_left() {
    for (rest, orphaned) in [
        (r#""b":{}"#, true),
        (r#""b":{"b:1":"%1"}"#, false),
        // Docker still counts a reference that is listed under the wrong repository,
        // although no lookup finds it.
        (r#""b":{"c:1":"%1"}"#, false),
        (r#""b":{"b":"%1"}"#, false),
        // Docker cannot parse this reference, and skips it.
        (r#""b":{"b:@&c":"%1"}"#, true),
    ] {
        let file = spelled(&format!(
            r#"{{"Repositories":{{"a":{{"a:1":"%1"}},{rest}}}}}"#
        ));
        let store = Store::parse(file.as_bytes()).unwrap();
        let plan = expect(
            &store,
            &removing(&["a:1"], Request::default()),
            &["a:1 %1 -"],
        );
        assert_eq!(!plan.orphans.is_empty(), orphaned, "{file}");
    }
}

// One test for each kind of refusal.

#[test]
fn a_tag_that_is_not_there() {
    let store = store(&["a:1 %1", "a@&c %1", "b:1 %2"]);
    for (claim, sought) in [
        ("a:2@&d", "a:2"),
        ("b:2=a:2", "a:2"),
        ("b:2=a:latest", "a:latest"),
        ("b:2=a@&d", "a@&d"),
    ] {
        let found = refusal(&store, &claims(&[claim]));
        assert_eq!(
            found,
            Refusal::NoSuchReference {
                claim: spelled(claim),
                reference: spelled(sought),
                others: vec!["a:1".to_owned(), spelled("a@&c")],
                near: Box::default(),
                nameless: Vec::new(),
            }
        );
        assert_eq!(
            found.to_string(),
            spelled(&format!(
                "{claim}: {sought} is not on this host; the repository has: a:1; \
                 a@&c"
            ))
        );
    }
    let none = spelled("%3, %4, %5 and 4 more");
    let told = refusal(&store, &claims(&["c:1@&d"])).to_string();
    assert!(
        told.contains(&format!(
            " c:1 is not on this host; images without a name: {none}"
        )),
        "{told}"
    );
}

#[test]
fn a_repository_without_images() {
    let misplaced = spelled(r#"{"Repositories":{"a":{},"b":{"a:1":"%1","b:1":"broken"}}}"#);
    let store = Store::parse(misplaced.as_bytes()).unwrap();
    for repository in ["a", "b", "c"] {
        let claim = format!("{repository}@&c");
        assert_eq!(
            refusal(&store, &claims(&[&claim])),
            Refusal::EmptyRepository {
                claim: spelled(&claim),
                repository: repository.to_owned(),
                near: Box::default(),
                nameless: "23456789"
                    .chars()
                    .map(|name| id(&format!("%{name}")))
                    .collect(),
            }
        );
    }
}

#[test]
fn a_repository_with_several_images() {
    let store = store(&["a:1 %1", "a:2 %2", "a:3 %1"]);
    let found = refusal(&store, &claims(&["a@&c"]));
    assert_eq!(
        found,
        Refusal::SeveralImages {
            claim: spelled("a@&c"),
            repository: "a".to_owned(),
            images: vec![spelled("%1  a:1  a:3"), spelled("%2  a:2")],
        }
    );
    assert!(
        found
            .to_string()
            .ends_with(&spelled(": %1  a:1  a:3; %2  a:2"))
    );
}

#[test]
fn an_id_that_is_not_here() {
    let store = store(&["a:1 %1"]);
    for (claim, prefix) in [("a:2=sha256:cafe", "cafe"), ("a:2=cafe", "cafe")] {
        assert_eq!(
            refusal(&store, &claims(&[claim])),
            Refusal::NoSuchImage {
                claim: claim.to_owned(),
                prefix: prefix.to_owned(),
            }
        );
    }
}

#[test]
fn an_id_that_begins_like_another() {
    let store = store(&["a:1 %1"]);
    let mut images = images();
    images.insert(format!("sha256:{}1", "1".repeat(63)).parse().unwrap());
    for claim in ["a:2=sha256:1111", "a:2=1111"] {
        let found = Plan::new(&store, &images, &claims(&[claim])).unwrap_err();
        assert!(
            matches!(
                found.as_slice(),
                [Refusal::AmbiguousImage { name, images, .. }]
                    if name == "1111" && images.len() == 2
            ),
            "{found:?}"
        );
    }
    Plan::new(&store, &images, &claims(&["a:2=111111110"])).unwrap();
}

#[test]
fn a_name_that_is_both_a_repository_and_the_beginning_of_an_id() {
    let ambiguous = store(&["11:latest %2"]);
    assert_eq!(
        refusal(&ambiguous, &claims(&["a:1=11"])),
        Refusal::AmbiguousImage {
            claim: "a:1=11".to_owned(),
            name: "11".to_owned(),
            images: vec![spelled("%2  11:latest"), spelled("%1")],
        }
    );
    expect(&ambiguous, &claims(&["a:1=11:latest"]), &["a:1 - %2"]);
    expect(&ambiguous, &claims(&["a:1=sha256:11"]), &["a:1 - %1"]);
    // The text is not ambiguous if both meanings lead to one image, or if only one
    // meaning exists.
    expect(
        &store(&["11:latest %1"]),
        &claims(&["a:1=11"]),
        &["a:1 - %1"],
    );
    expect(
        &store(&["cafe:latest %2"]),
        &claims(&["a:1=cafe"]),
        &["a:1 - %2"],
    );
    expect(&store(&["11:1 %2"]), &claims(&["a:1=11"]), &["a:1 - %1"]);
}

/// The refusal lists the image of the repository and both images whose ID begins with the
/// text.
#[test]
fn a_name_that_is_a_repository_and_the_beginning_of_two_ids() {
    let store = store(&["11:latest %2"]);
    let mut images = images();
    images.insert(format!("sha256:{}1", "1".repeat(63)).parse().unwrap());
    let found = Plan::new(&store, &images, &claims(&["a:1=11"])).unwrap_err();
    assert!(
        matches!(found.as_slice(), [Refusal::AmbiguousImage { images, .. }] if images.len() == 3),
        "{found:?}"
    );
}

#[test]
fn an_image_without_a_config() {
    let store = store(&["a:1 %1", "b:1 %b"]);
    for claim in ["b:1@&c", "b@&c", "b@&c=%b", "c:1=b:1", "b:1=%b", "a:1=%c"] {
        let image = if claim.ends_with("%c") { "%c" } else { "%b" };
        let found = refusals(&store, &replacing(&[claim]));
        assert!(
            matches!(
                &found[..],
                [Refusal::ImageMissing { image: missing, .. }] if *missing == spelled(image)
            ),
            "{found:?}"
        );
    }
}

#[test]
fn an_image_id_for_a_digest() {
    // `%b` counts as an image ID because a reference points at it, although the image's
    // config is missing.
    let store = store(&["a:1 %1", "b:1 %b"]);
    for (claim, id, whose) in [
        ("a:1@%1", "%1", Whose::Own),
        ("a@%2", "%2", Whose::Another),
        ("a@%b=%1", "%b", Whose::Another),
    ] {
        assert_eq!(
            refusal(&store, &claims(&[claim])),
            Refusal::DigestIsImageId {
                claim: spelled(claim),
                digest: spelled(id),
                whose,
            }
        );
        let request = Request {
            allow_image_id_digest: true,
            ..claims(&[claim])
        };
        let added = format!("a@{id} - %1");
        expect(&store, &request, &[&added]);
    }
    let id = images().into_iter().next().unwrap();
    assert!(digest_is_image_id(
        &id.to_string().parse().unwrap(),
        &images()
    ));
    assert!(!digest_is_image_id(
        &spelled("&c").parse().unwrap(),
        &images()
    ));
    let sha512: Digest = format!("sha512:{0}{0}", id.hex()).parse().unwrap();
    assert!(!digest_is_image_id(&sha512, &images()));
}

#[test]
fn contradictions_are_named() {
    let store = store(&["a:1 %1", "a:2 %2"]);
    for request in [
        claims(&["a:1@&c", "a:2@&c"]),
        replacing(&["a:1@&c", "a:2@&c"]),
    ] {
        let found = refusal(&store, &request);
        assert_eq!(
            found,
            Refusal::Contradiction {
                first: spelled("a:1@&c"),
                second: spelled("a:2@&c"),
                reference: spelled("a@&c"),
            }
        );
    }
    assert_eq!(
        refusals(&store, &replacing(&["b:1=%1", "b:1=%2", "b:1=%3"])).len(),
        3
    );
    let found = refusal(&store, &removing(&["a:1"], claims(&["a:1=%1"])));
    assert_eq!(
        found.to_string(),
        spelled("a:1=%1 and --remove a:1 contradict each other about a:1")
    );
}

#[test]
fn a_digest_is_of_one_image_unless_that_is_shown() {
    let here = store(&["a:1 %1", "b:1 %2", "b@&b %2"]);
    for request in [
        claims(&["a:1@&b"]),
        claims(&["a:1@&c", "b:1@&c", "b@&c=%2"]),
        replacing(&["a:1@&b"]),
    ] {
        let found = refusals(&here, &request);
        assert!(
            found.iter().any(|one| {
                let text = one.to_string();
                matches!(one, Refusal::OneDigestTwoImages { .. })
                    && text.contains(&spelled("%1"))
                    && text.contains(&spelled("%2"))
            }),
            "{found:?}"
        );
    }
    // A reference does not conflict with a claim if the same request removes or moves the
    // reference.
    plan(&here, &removing(&["b@&b"], claims(&["a:1@&b"])));
    plan(&here, &replacing(&["a:1@&b", "b@&b=%1"]));
    plan(
        &store(&["a:1 %1", "b:1 %1", "b@&b %1"]),
        &claims(&["a:1@&b"]),
    );
}

#[test]
fn a_claim_does_not_go_by_what_moves() {
    let store = store(&["a:1 %1", "a:2 %2", "b@&b %1"]);
    for (request, reference, mover) in [
        (replacing(&["a:1@&c", "a:1=%2"]), "a:1", "a:1=%2"),
        (replacing(&["c:1=a:1", "a:1=%2"]), "a:1", "a:1=%2"),
        (
            removing(&["a:1"], claims(&["a:1@&c"])),
            "a:1",
            "--remove a:1",
        ),
        (
            removing(&["a:1"], claims(&["c:1=a:1"])),
            "a:1",
            "--remove a:1",
        ),
        // A claim finds its image by a reference, and a claim of the same request drops
        // that reference.
        (replacing(&["c:1=b@&b", "b@&d=%1"]), "b@&b", "b@&d=%1"),
        (replacing(&["b@&d=b@&b"]), "b@&b", "b@&d=b@&b"),
    ] {
        let found = refusal(&store, &request);
        assert!(
            matches!(
                &found,
                Refusal::MovingGround { reference: by, mover: of, .. }
                    if *by == spelled(reference) && *of == spelled(mover)
            ),
            "{found:?}"
        );
    }
    // Two claims swap two tags by name. Each claim finds its image by a tag that the
    // other claim moves, so digestfix refuses both.
    assert_eq!(
        refusals(&store, &replacing(&["a:1=a:2", "a:2=a:1"])).len(),
        2
    );
    expect(
        &store,
        &replacing(&["a:1=%2", "a:2=%1"]),
        &["a:1 %1 %2", "a:2 %2 %1"],
    );
    // The claim `a:1=%1` is already true, so it does not move the tag.
    expect(&store, &claims(&["a:1@&c", "a:1=%1"]), &["a@&c - %1"]);
    expect(
        &store,
        &removing(&["a:3"], claims(&["a:1@&c"])),
        &["a@&c - %1"],
    );
}

/// `NAME@DIGEST` means the only image of a repository. The claim is ambiguous if the same
/// request moves the repository's tag to another image.
#[test]
fn the_only_image_is_not_one_that_loses_its_tag_to_another() {
    let store = store(&["a:1 %1", "a@&c %1", "b:1 %2"]);
    assert!(matches!(
        refusal(&store, &replacing(&["a@&d", "a:1=%2"])),
        Refusal::MovingGround { reference, mover, .. }
            if reference == "a:1" && mover == spelled("a:1=%2")
    ));
    // The store already records the digest, so the claim is not ambiguous.
    expect(&store, &replacing(&["a@&c", "a:1=%2"]), &["a:1 %1 %2"]);
    expect(
        &store,
        &claims(&["b@&d", "b:2=%1"]),
        &["b:2 - %1", "b@&d - %2"],
    );
}

/// `11` means an image ID that begins with 11, but only while no repository has the name
/// `11`. The same request must not create that repository.
#[test]
fn a_beginning_of_an_id_does_not_become_a_repository_on_the_way() {
    let store = store(&["a:1 %1"]);
    assert!(matches!(
        refusal(&store, &claims(&["b:1=11", "11:latest=%2"])),
        Refusal::MovingGround { reference, .. } if reference == "11:latest"
    ));
    expect(
        &store,
        &removing(&["11:latest"], claims(&["b:1=11"])),
        &["b:1 - %1"],
    );
}

#[test]
fn all_reasons_are_given_together() {
    let store = store(&["a:1 %1", "a:2 %2", "b:1 %b", "a@&e %1"]);
    let request = removing(
        &["a:2"],
        claims(&[
            "a:9@&c",
            "c@&c",
            "a@&c",
            "a:3=sha256:ff",
            "b:1@&c",
            "a:1@%1",
            "a:1=%3",
            "a:1@&d",
            "a:2=%2",
        ]),
    );
    let found = refusals(&store, &request);
    // Each claim has one refusal. Only `a:1@&d` has two, because its tag moves and its
    // image has another digest.
    assert_eq!(found.len(), 10, "{found:#?}");
    for (index, refusal) in found.iter().enumerate() {
        assert!(!refusal.to_string().is_empty());
        assert!(!found[..index].contains(refusal));
    }
}

// Tests of `take_back`, which undoes a plan's changes.

#[test]
fn take_back_leaves_what_others_did_since() {
    let before = store(&["a:1 %1", "a@&c %1", "b:1 %2", "c:1 %3"]);
    let request = removing(&["c:1"], replacing(&["a:1@&d", "b:1=%4", "d:1=%5"]));
    let plan = expect(
        &before,
        &request,
        &[
            "a@&c %1 -",
            "a@&d - %1",
            "b:1 %2 %4",
            "c:1 %3 -",
            "d:1 - %5",
        ],
    );
    let with = |lines: &[&str], without: &[&str]| {
        let mut store = plan.after.clone();
        for line in without {
            store.remove(&spelled(line).parse().unwrap()).unwrap();
        }
        for line in lines {
            let line = spelled(line);
            let (reference, image) = line.split_once(' ').unwrap();
            store
                .insert(&reference.parse().unwrap(), &image.parse().unwrap())
                .unwrap();
        }
        plan.take_back(&mut store);
        store
    };
    // `take_back` keeps every reference that another program added, changed or removed
    // after the plan was applied.
    assert_eq!(
        with(&["e:1 %6", "a:2 %6"], &[]),
        store(&["a:1 %1", "a:2 %6", "a@&c %1", "b:1 %2", "c:1 %3", "e:1 %6"])
    );
    assert_eq!(
        with(&["b:1 %7", "d:1 %8"], &["b:1", "d:1"]),
        store(&["a:1 %1", "a@&c %1", "b:1 %7", "c:1 %3", "d:1 %8"])
    );
    assert_eq!(
        with(&[], &["b:1", "d:1", "a@&d"]),
        store(&["a:1 %1", "a@&c %1", "c:1 %3"])
    );
    assert_eq!(
        with(&["c:1 %9", "a@&c %2"], &[]),
        store(&["a:1 %1", "a@&c %2", "b:1 %2", "c:1 %9"])
    );
}

#[test]
fn take_back_twice_is_take_back_once() {
    let before = store(&["a:1 %1", "a@&c %1"]);
    let plan = plan(&before, &replacing(&["a:1@&d", "b:1=%1"]));
    let mut store = plan.after.clone();
    plan.take_back(&mut store);
    plan.take_back(&mut store);
    assert_eq!(store, before);
}

#[test]
fn entries_without_use_survive_every_change() {
    let file = spelled(
        r#"{"x":[1, 2],"Repositories":{"a":{"a:1":"%1","a:@&c":"%1","b:1":"%2"},"":{"":""}},"y":{}}"#,
    );
    let store = Store::parse(file.as_bytes()).unwrap();
    let plan = plan(&store, &replacing(&["a:1=%2", "a@&c=%2"]));
    let kept = |store: &Store| {
        let broken = store.entries().filter(|entry| entry.meaning().is_err());
        broken.map(|entry| entry.key.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kept(&plan.after), kept(&store));
    assert_eq!(plan.after.unknown_keys().collect::<Vec<_>>(), ["x", "y"]);
}

// Tests of claims and evidence from files.

fn digest(name: &str) -> Digest {
    spelled(name).parse().unwrap()
}

fn id(name: &str) -> ImageId {
    spelled(name).parse().unwrap()
}

/// Builds a request from `PLACE CLAIM` lines. A claim is a pinned reference,
/// `NAME@DIGEST=IMAGE`, or the digest of a manifest.
fn sourced(lines: &[&str], evidence: Evidence) -> Request {
    let claim = |line: &&str| {
        let line = spelled(line);
        let (place, text) = line.split_once(' ').unwrap();
        let statement = match text.parse::<Digest>() {
            Ok(digest) => Statement::ManifestBrought {
                digest,
                repository: None,
                in_index: false,
            },
            Err(_) => text.parse::<Claim>().unwrap().statement,
        };
        Claim::sourced(text.to_owned(), statement, place).unwrap()
    };
    Request {
        claims: lines.iter().map(claim).collect(),
        evidence,
        ..Request::default()
    }
}

fn requiring(require: Trust, request: Request) -> Request {
    Request {
        require: Some(require),
        ..request
    }
}

/// Builds evidence from `DIGEST IMAGE` lines: file F contains a manifest for each line.
fn proof(format: Format, lines: &[&str]) -> Evidence {
    let mut evidence = Evidence::default();
    for line in lines {
        let (name, image) = line.split_once(' ').unwrap();
        let manifest = Manifest::Image(ImageManifest {
            image: id(image),
            config_size: 1,
            has_known_config: true,
            format,
            plain_layers: false,
            is_of_a_migration: false,
        });
        evidence.add_manifest(digest(name), manifest, "F");
    }
    evidence
}

/// Builds evidence from `DIGEST IMAGE` lines: according to file R, another host recorded
/// these digests.
fn records(lines: &[&str]) -> Evidence {
    let mut evidence = Evidence::default();
    for line in lines {
        let (name, image) = line.split_once(' ').unwrap();
        assert!(evidence.add_record(digest(name), id(image), "R"));
    }
    evidence
}

/// The resolved claims of a plan, as `NAME TRUST ORIGIN` lines.
fn bases(plan: &Plan) -> Vec<String> {
    plan.targets
        .iter()
        .map(|target| format!("{} {} {}", target.reference, target.trust, target.origin))
        .collect()
}

fn skipped(plan: &Plan) -> Vec<Why> {
    plan.skipped.iter().map(|skip| skip.why.clone()).collect()
}

#[test]
fn the_strongest_that_is_known_is_the_trust() {
    let host = store(&["a:1 %1", "b:1 %2", "c:1 %3"]);
    let mut evidence = records(&["&a %1", "&b %2"]);
    let manifest = Manifest::Image(ImageManifest {
        image: id("%1"),
        config_size: 1,
        has_known_config: true,
        format: Format::Docker,
        plain_layers: false,
        is_of_a_migration: false,
    });
    evidence.add_manifest(digest("&a"), manifest, "F");
    let plan = plan(
        &host,
        &sourced(&["P:1 a:1@&a", "P:2 b:1@&b", "P:3 c:1@&c"], evidence),
    );
    assert_eq!(
        bases(&plan),
        [
            spelled("a@&a proven F"),
            spelled("b@&b matched R"),
            spelled("c@&c asserted P:3"),
        ]
    );
}

#[test]
fn what_speaks_of_other_hosts_images_is_counted() {
    let host = store(&["a:1 %1"]);
    let manifests = proof(Format::Docker, &["&c %8"]);
    let elsewhere = spelled("R x@&a=sha256:").to_owned() + &"5".repeat(64);
    let plan = plan(
        &host,
        &sourced(
            &["P:1 b:1@&b", "P:2 a:2@&b", "P:3 a:1@&d", &elsewhere, "F &c"],
            manifests,
        ),
    );
    assert_eq!(
        skipped(&plan),
        [
            Why::NotHere,
            Why::NotHere,
            Why::NotHere,
            Why::Nameless(spelled("%8"))
        ]
    );
    assert_eq!(changes(&plan), [spelled("a@&d - %1")]);
}

#[test]
fn a_pin_without_a_tag_goes_by_what_is_known_and_then_by_the_only_image() {
    let host = store(&["a:1 %1", "b:1 %2", "b:2 %3"]);
    expect(
        &host,
        &sourced(&["P a@&a"], Evidence::default()),
        &["a@&a - %1"],
    );
    let several = plan(&host, &sourced(&["P b@&b"], Evidence::default()));
    assert_eq!(
        skipped(&several),
        [Why::Several(vec![spelled("%2"), spelled("%3")])]
    );
    expect(
        &host,
        &sourced(&["P b@&b"], records(&["&b %3"])),
        &["b@&b - %3"],
    );
    // Another host recorded the digest for another image. So the digest does not belong
    // to the repository's only image on this host.
    let known = spelled("sha256:") + &"5".repeat(64);
    let mut elsewhere = Evidence::default();
    assert!(elsewhere.add_record(digest("&a"), known.parse().unwrap(), "R"));
    let plan = plan(&host, &sourced(&["P a@&a"], elsewhere));
    assert_eq!(skipped(&plan), [Why::NotHere]);
}

#[test]
fn a_manifest_that_may_be_converted_is_hinted_at() {
    let host = store(&["a:1 %1"]);
    let strange = spelled("&c sha256:") + &"5".repeat(64);
    for (format, hinted) in [(Format::Oci, true), (Format::Docker, false)] {
        let mut evidence = proof(format, &[]);
        let manifest = Manifest::Image(ImageManifest {
            image: strange.split(' ').nth(1).unwrap().parse().unwrap(),
            config_size: 1,
            has_known_config: true,
            format,
            plain_layers: false,
            is_of_a_migration: false,
        });
        evidence.add_manifest(digest("&c"), manifest, "F");
        let request = sourced(&["F &c", "P a:1@&a"], evidence);
        assert_eq!(plan(&host, &request).skipped[0].strange_oci, hinted);
        let refused = refusal(&host, &requiring(Trust::Proven, request)).to_string();
        assert_eq!(refused.contains("inspect --raw"), hinted, "{refused}");
    }
}

#[test]
fn an_image_id_outweighs_a_tag_that_is_not_here() {
    let host = store(&["mine:9 %4"]);
    expect(
        &host,
        &sourced(&["P a:1@&a"], proof(Format::Docker, &["&a %4"])),
        &["a@&a - %4"],
    );
}

#[test]
fn a_manifest_goes_into_every_repository_of_its_image() {
    let host = store(&["a:1 %1", "b:1 %1", "c:1 %2"]);
    expect(
        &host,
        &sourced(&["F &a"], proof(Format::Docker, &["&a %1"])),
        &["a@&a - %1", "b@&a - %1"],
    );
}

#[test]
fn evidence_against_an_assertion_refuses_it_whoever_made_it() {
    let host = store(&["a:1 %1", "b:1 %2"]);
    for (evidence, trust, origin) in [
        (proof(Format::Docker, &["&a %2"]), Trust::Proven, "F"),
        (records(&["&a %2"]), Trust::Matched, "R"),
    ] {
        for request in [
            sourced(&["P a:1@&a"], evidence.clone()),
            Request {
                evidence: evidence.clone(),
                ..replacing(&["a:1@&a"])
            },
            Request {
                evidence: evidence.clone(),
                ..claims(&["a@&a=%1"])
            },
        ] {
            let Refusal::OtherImages {
                image,
                images,
                trust: found,
                origin: from,
                ..
            } = refusal(&host, &request)
            else {
                panic!("{:?}", refusals(&host, &request));
            };
            assert_eq!((image, images), (spelled("%1"), vec![spelled("%2")]));
            assert_eq!((found, &*from), (trust, origin));
        }
    }
}

#[test]
fn what_is_proven_outweighs_a_record() {
    let host = store(&["a:1 %1"]);
    let mut evidence = proof(Format::Docker, &["&a %1"]);
    assert!(evidence.add_record(digest("&a"), id("%2"), "R"));
    assert_eq!(
        bases(&plan(&host, &sourced(&["P a:1@&a"], evidence.clone()))),
        [spelled("a@&a proven F")]
    );
    let refused = refusal(&host, &sourced(&["R a@&a=%2"], evidence));
    assert!(matches!(refused, Refusal::OtherImages { .. }), "{refused}");
}

#[test]
fn an_index_with_a_part_missing_denies_nothing() {
    let host = store(&["a:1 %1"]);
    let part = |name| Descriptor {
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        digest: digest(name),
        size: 1,
        annotations: None,
        platform: None,
    };
    let with = |known: &[&str]| {
        let mut evidence = proof(Format::Oci, known);
        let index = Manifest::Index(vec![part("&b"), part("&c")]);
        evidence.add_manifest(digest("&a"), index, "I");
        sourced(&["P a:1@&a"], evidence)
    };
    assert_eq!(
        bases(&plan(&host, &with(&["&b %2"]))),
        [spelled("a@&a asserted P")]
    );
    let refused = refusal(&host, &with(&["&b %2", "&c %3"]));
    assert!(matches!(refused, Refusal::OtherImages { .. }), "{refused}");
    assert_eq!(
        bases(&plan(&host, &with(&["&c %1"]))),
        [spelled("a@&a proven F")]
    );
}

#[test]
fn two_pins_of_one_image_need_a_proof() {
    let host = store(&["a:1 %1"]);
    let pins = ["P:1 a:1@&a", "P:2 a:1@&b"];
    let refused = refusals(&host, &sourced(&pins, Evidence::default())).remove(0);
    let Refusal::TwoDigests { first, second, .. } = &refused else {
        panic!("{refused}");
    };
    assert!(first.contains("P:1") && second.contains("P:2"), "{refused}");

    // A manifest proves only one of the two claimed digests, so digestfix refuses the
    // claims.
    for (format, hinted) in [(Format::Oci, true), (Format::Docker, false)] {
        let request = sourced(&pins, proof(format, &["&a %1"]));
        let refused = refusal(&host, &request).to_string();
        assert_eq!(refused.contains("inspect --raw"), hinted, "{refused}");
    }
    let both = proof(Format::Oci, &["&a %1", "&b %1"]);
    plan(&host, &sourced(&pins, both));
    // In another repository, the same image may have another digest.
    let host = store(&["a:1 %1", "b:1 %1"]);
    plan(
        &host,
        &sourced(&["P:1 a:1@&a", "P:2 b:1@&b"], Evidence::default()),
    );
}

#[test]
fn a_pin_beside_another_digest_that_is_here() {
    let host = store(&["a:1 %1", "a@&c %1"]);
    let refused = refusal(&host, &sourced(&["P a:1@&a"], Evidence::default()));
    assert!(matches!(refused, Refusal::OtherDigest { .. }), "{refused}");
    for evidence in [proof(Format::Oci, &["&a %1"]), records(&["&a %1"])] {
        expect(&host, &sourced(&["P a:1@&a"], evidence), &["a@&a - %1"]);
    }
    // A manifest proves the digest that the store records. The claimed digest may belong
    // to the index.
    expect(
        &host,
        &sourced(&["P a:1@&a"], proof(Format::Oci, &["&c %1"])),
        &["a@&a - %1"],
    );
}

#[test]
fn less_than_what_is_required_changes_nothing() {
    let host = store(&["a:1 %1", "b:1 %2", "c:1 %3", "d:1 %4", "d@&d %4"]);
    let mut evidence = proof(Format::Oci, &["&a %1"]);
    assert!(evidence.add_record(digest("&b"), id("%2"), "R"));
    // `--require` does not refuse a claim that is already true on this host.
    let request = sourced(
        &["P:1 a:1@&a", "P:2 b:1@&b", "P:3 c:1@&c", "P:4 d:1@&d"],
        evidence,
    );
    let weak = |require| {
        let found = Plan::new(&host, &images(), &requiring(require, request.clone()));
        let refusals = found.map_or_else(|refusals| refusals, |_| Vec::new());
        refusals
            .into_iter()
            .map(|refusal| match refusal {
                Refusal::TooWeak { claim, trust, .. } => {
                    format!("{trust} {}", claim.rsplit('(').next().unwrap())
                }
                other => panic!("{other}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(weak(Trust::Asserted), Vec::<String>::new());
    assert_eq!(weak(Trust::Matched), ["asserted P:3)"]);
    assert_eq!(weak(Trust::Proven), ["matched P:2)", "asserted P:3)"]);
    let typed = requiring(Trust::Matched, claims(&["c:1@&c"]));
    assert!(matches!(
        refusal(&host, &typed),
        Refusal::TooWeak {
            trust: Trust::Asserted,
            ..
        }
    ));
}

#[test]
fn of_several_images_of_a_digest_the_one_in_the_repository_is_meant() {
    let host = store(&["a:1 %1", "b:1 %2"]);
    let mut evidence = records(&["&a %1"]);
    assert!(evidence.add_record(digest("&a"), id("%2"), "R"));
    expect(
        &host,
        &sourced(&["P b:9@&a"], evidence.clone()),
        &["b@&a - %2"],
    );
    let plan = plan(&host, &sourced(&["P c:9@&a"], evidence));
    assert_eq!(
        skipped(&plan),
        [Why::Several(vec![spelled("%1"), spelled("%2")])]
    );
}

#[test]
fn what_was_brought_along_resolves_a_typed_pin_as_one_in_a_file() {
    let host = store(&["b:1 %2"]);
    let evidence = || proof(Format::Oci, &["&a %1"]);
    // The image has no name on this host, so digestfix also adds the tag from the claim.
    for (claim, added) in [
        ("a@&a", &["a@&a - %1"][..]),
        ("a:1@&a", &["a:1 - %1", "a@&a - %1"]),
    ] {
        let typed = Request {
            evidence: evidence(),
            ..claims(&[claim])
        };
        expect(&host, &typed, added);
        let file = sourced(&[&format!("P {claim}")], evidence());
        expect(&host, &file, added);
    }
    // On this host, the claim's tag points at another image.
    let taken = store(&["a:1 %2"]);
    let typed = Request {
        evidence: evidence(),
        ..claims(&["a:1@&a"])
    };
    for request in [typed, sourced(&["P a:1@&a"], evidence())] {
        let refused = refusal(&taken, &request);
        assert!(matches!(refused, Refusal::OtherImages { .. }), "{refused}");
    }
    // `NAME@DIGEST` means the image that the evidence names, not the only image of the
    // repository.
    let typed = Request {
        evidence: evidence(),
        ..claims(&["a@&a"])
    };
    expect(&taken, &typed, &["a@&a - %1"]);
    expect(&taken, &sourced(&["P a@&a"], evidence()), &["a@&a - %1"]);
    let refused = refusal(&host, &claims(&["a@&a"]));
    assert!(
        matches!(refused, Refusal::EmptyRepository { .. }),
        "{refused}"
    );
}

#[test]
fn an_image_id_for_a_digest_does_not_refuse_a_list() {
    let host = store(&["a:1 %1", "b:1 %2", "b@%2 %2", "c:1 %3", "c@%9 %3"]);
    let list = ["P:1 a:1@&a", "P:2 a:1@%1", "P:3 b:1@&b", "P:4 c:1@&c"];
    let found = plan(&host, &sourced(&list, Evidence::default()));
    assert_eq!(
        skipped(&found),
        [
            Why::ImageId(Whose::Own),
            Why::BesideImageId(spelled("b@%2"), Whose::Own),
            Why::BesideImageId(spelled("c@%9"), Whose::Another),
        ]
    );
    assert_eq!(found.changes.len(), 1);
    // digestfix refuses such a claim if the user typed it.
    let found = refusals(&host, &claims(&["b:1@&b", "c:1@&c"]));
    assert!(matches!(found[0], Refusal::ImageIdInTheWay { .. }));
    let displaced = found.iter().map(Refusal::displaces);
    assert!(displaced.eq([Some(Displaced::ImageId), Some(Displaced::ImageId)]));
    let right = ["b@%2 %2 -", "b@&b - %2"];
    expect(&host, &replacing(&["b:1@&b"]), &right);
    let listed = Request {
        replace: true,
        ..sourced(&["P:3 b:1@&b"], Evidence::default())
    };
    expect(&host, &listed, &right);
    // digestfix adds a proven digest, and leaves the recorded image ID in place.
    let proven = sourced(&["P:3 b:1@&b"], proof(Format::Docker, &["&b %2"]));
    expect(&host, &proven, &["b@&b - %2"]);
}

#[test]
fn a_claim_that_finds_no_image_may_be_about_one_without_a_name() {
    let host = store(&["mirror/team/app:1 %1", "b:1 %2"]);
    let request = sourced(&["P r.io/team/app:1@&a", "P b:2@&b"], Evidence::default());
    let found = plan(&host, &request);
    assert_eq!(skipped(&found), [Why::NotHere, Why::NotHere]);
    let hints = found.hints.to_string();
    let begin = spelled("7 images here have no name: %3, %4, %5 and 4 more");
    assert!(hints.starts_with(&begin), "{hints}");
    let example = spelled("claim r.io/team/app@&a=%3; ");
    assert!(hints.contains(&example), "{hints}");
    assert!(
        hints.ends_with("--rewrite r.io=docker.io/mirror"),
        "{hints}"
    );
    // This host has the claim's repository, so the claim probably means another version
    // of the image.
    let known = plan(&host, &sourced(&["P b:2@&b"], Evidence::default()));
    assert!(known.hints.is_empty());
}

/// A set of images that all have the same platform.
struct OnArm(BTreeSet<ImageId>);

impl Images for OnArm {
    fn has(&self, image: &ImageId) -> bool {
        self.0.has(image)
    }

    fn beginning_with(&self, prefix: &str) -> Vec<ImageId> {
        self.0.beginning_with(prefix)
    }

    fn leaves(&self) -> BTreeSet<ImageId> {
        self.0.clone()
    }

    fn platform(&self, _: &ImageId) -> Option<Platform> {
        Some(Platform::new("linux", "arm64", "v8"))
    }
}

#[test]
fn a_digest_of_another_platform_is_refused() {
    let host = store(&["a:1 %1"]);
    let listed = |name: &str, architecture: &str| Descriptor {
        digest: digest(name),
        platform: Some(Platform::new("linux", architecture, "")),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        size: 1,
        annotations: None,
    };
    let mut evidence = Evidence::default();
    let index = Manifest::Index(vec![listed("&a", "amd64"), listed("&b", "arm64")]);
    evidence.add_manifest(digest("&e"), index, "I");
    let images = OnArm(images());
    let request = sourced(&["P a:1@&a"], evidence.clone());
    let refused = Plan::new(&host, &images, &request).unwrap_err().remove(0);
    let told = refused.to_string();
    assert!(
        told.contains(" for linux/amd64, but image ") && told.ends_with(" is for linux/arm64"),
        "{told}"
    );
    let request = sourced(&["P a:1@&b"], evidence);
    assert_eq!(
        Plan::new(&host, &images, &request).unwrap().changes.len(),
        1
    );
}

#[test]
fn tags_that_others_set_are_left_to_them() {
    let host = store(&["b:1 %2"]);
    let list = ["P:1 a:1=%1", "P:2 a@&a=%1", "P:3 b:1=%2"];
    let found = plan(&host, &sourced(&list, Evidence::default()));
    let found = found.without_new_tags(|tag, pin| format!("tag {} {tag}", pin.unwrap()));
    let command = spelled("tag a@&a a:1");
    let [Why::SetByOthers { command: told, .. }] = &skipped(&found)[..] else {
        panic!("{:?}", found.skipped);
    };
    assert_eq!(*told, command);
    assert_eq!(found.changes.len(), 1, "the digest: {:?}", found.changes);
    assert_eq!(found.targets.len(), 2, "what is here holds");
    let tag = Reference::parse("a:1").unwrap();
    assert!(found.after.get(&tag).is_none());
    // `without_new_tags` keeps a tag that the user typed. The code that calls this
    // function refuses the typed tag.
    let typed = plan(&host, &claims(&["a:1=%1"]));
    let typed = typed.without_new_tags(|_, _| String::new());
    assert_eq!(typed.changes.len(), 1);
}
