//! A file that another program changed after the engine had read it.

use super::*;
use crate::plan::Plan;
use crate::transaction::restart::unread::{only_in_engine, unread};

const IMAGE: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// Docker's reference file contains a digest that the engine has not read.
fn edited() -> World {
    let world = World::new();
    let edited =
        format!(r#"{{ "Repositories": {{"a":{{"a:1":"{IMAGE}","a@{DIGEST}":"{IMAGE}"}}}}}}"#);
    world.write_store(&edited);
    world
}

fn plan(world: &World, request: &Request) -> Plan {
    let images = world.images();
    let store = images.read().unwrap();
    Plan::new(&store, &images.image_ids().unwrap(), request).unwrap()
}

fn claims(claims: &[String]) -> Request {
    Request {
        claims: claims.iter().map(|claim| claim.parse().unwrap()).collect(),
        ..Request::default()
    }
}

fn digest() -> Request {
    claims(&[format!("a:1@{DIGEST}")])
}

fn names(world: &World, request: &Request) -> Vec<String> {
    let plan = plan(world, request);
    assert!(plan.is_empty(), "{:?}", plan.changes);
    let unread = block_on(unread(&*world.engine, &plan)).unwrap();
    unread.iter().map(Reference::familiar).collect()
}

#[test]
fn what_the_engine_lacks_is_unread() {
    let world = edited();
    assert_eq!(names(&world, &digest()), [format!("a@{DIGEST}")]);
    world.engine.reads_store();
    assert!(names(&world, &digest()).is_empty());
}

#[test]
fn what_is_gone_from_the_file_only_is_unread() {
    let world = edited();
    world.engine.reads_store();
    world.write_store(STORE);
    let request = Request {
        removals: vec![Reference::parse(&format!("a@{DIGEST}")).unwrap()],
        ..Request::default()
    };
    assert_eq!(names(&world, &request), [format!("a@{DIGEST}")]);
    world.engine.reads_store();
    assert!(names(&world, &request).is_empty());
}

/// The engine could not load the image at its last start, and cannot load it at the next
/// start either.
#[test]
fn an_image_that_the_engine_does_not_have_is_no_reason_for_a_new_start() {
    let world = edited();
    world.engine.has.borrow_mut().clear();
    assert!(names(&world, &digest()).is_empty());
}

#[test]
fn many_are_asked_for_at_once() {
    let world = edited();
    world.engine.reads_store();
    world.engine.lies.set(true);
    let claim = format!("a:1@{DIGEST}");
    assert!(!names(&world, &claims(&vec![claim.clone(); 16])).is_empty());
    assert!(names(&world, &claims(&vec![claim; 17])).is_empty());
}

#[test]
fn what_a_new_start_would_lose_is_known() {
    let world = edited();
    let file = world.images().read().unwrap();
    let pinned = Reference::parse(&format!("a@{DIGEST}")).unwrap();
    let other = format!("sha256:{}", "c".repeat(64));
    let listed = References::from([
        ("a:1".to_owned(), IMAGE.to_owned()),
        (format!("a@{DIGEST}"), other.clone()),
        ("b:1".to_owned(), other.clone()),
        ("<none>:<none>".to_owned(), other.clone()),
        ("<none>@<none>".to_owned(), other.clone()),
    ]);
    let lost = |unread: &[&Reference]| {
        let unread = unread.iter().map(|one| (*one).clone()).collect();
        let lost = only_in_engine(&listed, &file, &unread);
        lost.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(lost(&[&pinned]), ["b:1"]);
    assert_eq!(lost(&[]), [format!("a@{DIGEST}"), "b:1".to_owned()]);
}

fn transact_edited(world: &World, request: &Request) -> (Outcome, Vec<Step>) {
    let before = world.store();
    let (outcome, steps) = transact_for(world, &Goal::Claims(request), &new_id());
    assert_eq!(world.store(), before, "the file's very bytes");
    assert!(world.engine.runs.get());
    is_clean(world);
    (outcome, steps.0)
}

#[test]
fn a_transaction_without_changes_has_the_file_read() {
    let world = edited();
    let (outcome, steps) = transact_edited(&world, &digest());
    assert!(
        matches!(outcome.ended, Ended::Done) && outcome.backup.is_none(),
        "{outcome:?}"
    );
    use Step::{BlockStart, Stage, Start, Stop, Verify};
    assert_eq!(steps, [Stage, BlockStart, Stop, Start, Verify]);
    assert!(names(&world, &digest()).is_empty(), "the engine has it");
}

#[test]
fn without_changes_too_docker_is_brought_back() {
    for call in ["watchdog", "reload", "stop", "start"] {
        let world = edited();
        world.systemd.fails.set(Some((call, 0)));
        let (outcome, _) = transact_edited(&world, &digest());
        assert!(
            matches!(outcome.ended, Ended::Undone { .. }),
            "{call}: {outcome:?}"
        );
    }
}

#[test]
fn a_reference_that_does_not_go_is_told() {
    let world = World::new();
    world.engine.lies.set(true);
    let request = Request {
        removals: vec![Reference::parse(&format!("a@{DIGEST}")).unwrap()],
        ..Request::default()
    };
    let (outcome, _) = transact_edited(&world, &request);
    assert!(
        matches!(
            &outcome.ended,
            Ended::Undone {
                failure: Failure::EngineDisagrees(_),
                ..
            }
        ),
        "{outcome:?}"
    );
}
