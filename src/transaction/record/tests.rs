#![allow(clippy::unwrap_used, reason = "a test may panic")]

use tempfile::TempDir;

use super::work::RecordBlocker;
use super::*;
use crate::host::Node as FoundNode;
use crate::image::digest::{Digest, ImageId};
use crate::image::reference::Reference;
use crate::plan::{Plan, Request};
use crate::state::history::{self, End, Kind, Record as Written, Side};
use crate::state::journal::{Journal, Records};
use crate::state::lock::RootLock;
use crate::state::pending::{self, Marker};
use crate::state::retention::Limits;
use crate::state::rollback::reversal;
use crate::store::data_root::ImageDir;
use crate::store::node::is_made_by;
use crate::sys::interrupt::Interrupt;
use crate::testing::images::{reference, served};
use crate::testing::node::FakeNode;
use crate::testing::{FakeSystemd, block_on, scratch};
use crate::transaction::goal::Goal;
use crate::transaction::image_store::PlanError;
use crate::transaction::leftover::Why;
use crate::transaction::outcome::{Ended, Outcome, Progress};
use crate::transaction::record::planned::{answers, planned};
use crate::transaction::{Supervised, Supervisor};

#[derive(Debug, Default)]
struct Told(Vec<Step>);

impl Progress for Told {
    fn begin(&mut self, _: &str) {}
    fn transaction_begins(&mut self, _: &str) {}
    fn docker_stops(&mut self) {
        panic!("there is none");
    }
    fn step(&mut self, step: Step, _: &str) {
        self.0.push(step);
    }
    fn warning(&mut self, _: &str) {}
}

/// A node with one imported image.
struct World {
    node: FakeNode,
    systemd: FakeSystemd,
    root: TempDir,
    image: ImageId,
    target: Digest,
    before: Vec<String>,
}

const TAG: &str = "docker.io/lab/app:v1";

fn image(digit: char) -> ImageId {
    format!("sha256:{}", digit.to_string().repeat(64))
        .parse()
        .unwrap()
}

impl World {
    fn new() -> Self {
        let node = FakeNode::default();
        let target = node.import(TAG, &image('a'));
        Self {
            before: node.names(),
            node,
            systemd: FakeSystemd::default(),
            root: scratch(),
            image: image('a'),
            target,
        }
    }

    /// The digest under which a registry serves the image.
    fn digest(&self) -> Digest {
        Digest::of(
            crate::image::digest::Algorithm::Sha256,
            served(&self.image).as_bytes(),
        )
    }

    fn pinned(&self) -> Reference {
        reference(&format!("lab/app@{}", self.digest()))
    }

    fn request(&self) -> Request {
        self.claiming(&format!("lab/app:v1@{}", self.digest()))
    }

    fn claiming(&self, claim: &str) -> Request {
        Request {
            claims: vec![claim.parse().unwrap()],
            ..Request::default()
        }
    }

    fn images(&self) -> ImageDir {
        ImageDir::new(self.root.path(), "k8s.io")
    }

    fn supervisor(&self) -> Supervisor<'_, FakeSystemd> {
        Supervisor {
            manager: &self.systemd,
            pending: self.root.path(),
        }
    }

    fn plan(&self, goal: &Goal<'_>) -> Result<(NodeStore, Plan), PlanError> {
        block_on(async {
            let mut here = NodeStore::read(&self.node).await?;
            let plan = planned(&mut here, goal, &self.node).await?;
            Ok((here, plan))
        })
    }

    /// Whether the goal is achieved, according to the CRI.
    fn holds(&self, request: &Request) -> bool {
        let (here, plan) = self.plan(&Goal::Claims(request)).unwrap();
        let answers = block_on(answers(&here, &plan, &self.node)).unwrap();
        plan.is_empty() && answers.into_iter().all(|holds| holds)
    }

    fn blocked(&self, request: &Request) -> String {
        let (here, plan) = match self.plan(&Goal::Claims(request)) {
            Ok(planned) => planned,
            Err(error) => return error.reasons().join("\n"),
        };
        let reasons = Work::of(&plan, &here).unwrap_err();
        let told = |reason: &RecordBlocker| format!("{reason}. Next: {}", reason.help());
        let reasons: Vec<String> = reasons.iter().map(told).collect();
        reasons.join("\n")
    }

    fn tx<'a>(
        &'a self,
        images: &'a ImageDir,
        kind: Kind,
        interrupt: &'a Interrupt,
        told: &'a mut Told,
        plan: Plan,
    ) -> Tx<'a, FakeSystemd> {
        let node = FoundNode {
            socket: "/run/containerd/containerd.sock".into(),
            version: "1.7.24".to_owned(),
        };
        let supervised = Supervised {
            by: self.supervisor(),
            marker: Marker::of_node(images, &node),
        };
        let lock = RootLock::acquire_now(self.root.path()).unwrap();
        let limits = Limits::default();
        let mut tx = Tx::new(
            images,
            lock,
            kind,
            limits,
            Some(supervised),
            interrupt,
            told,
            plan,
        );
        // Give each transaction its own ID, even if two begin in the same second.
        tx.id = format!("T-{}", history::scan(self.root.path(), Some).0.len());
        tx
    }

    fn run(&self, goal: &Goal<'_>) -> (Outcome, Told) {
        let (here, plan) = self.plan(goal).unwrap();
        self.change(goal.kind(), &here, plan)
    }

    /// Carries out a plan that was made from `here`.
    fn change(&self, kind: Kind, here: &NodeStore, plan: Plan) -> (Outcome, Told) {
        let work = Work::of(&plan, here).unwrap();
        let (images, mut told) = (self.images(), Told::default());
        let outcome = block_on(async {
            let interrupt = Interrupt::listen().unwrap();
            let tx = self.tx(&images, kind, &interrupt, &mut told, plan);
            let socket = PathBuf::from("/run/containerd/containerd.sock");
            tx.run(Recording::new(&self.node, socket, here, work)).await
        });
        (outcome, told)
    }

    fn apply(&self, request: &Request) -> (Outcome, Told) {
        self.run(&Goal::Claims(request))
    }

    fn done(&self, request: &Request) {
        let (outcome, _) = self.apply(request);
        assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    }

    fn roll_back(&self) -> Result<(Outcome, Told), String> {
        let (records, _) = history::scan(self.root.path(), Some);
        let reversal = reversal(&records, None, "k8s.io").unwrap();
        let goal = Goal::TakeBack(reversal);
        let (here, plan) = self
            .plan(&goal)
            .map_err(|error| error.reasons().join("\n"))?;
        if let Err(reasons) = Work::of(&plan, &here) {
            return Err(reasons.iter().map(ToString::to_string).collect());
        }
        Ok(self.run(&goal))
    }

    /// Begins a change that is killed as soon as its journal is on disk.
    fn is_killed(&self, request: &Request, on_the_way_back: bool) {
        let goal = Goal::Claims(request);
        let (here, plan) = self.plan(&goal).unwrap();
        let work = Work::of(&plan, &here).unwrap();
        let (images, mut told) = (self.images(), Told::default());
        block_on(async {
            let interrupt = Interrupt::listen().unwrap();
            let mut tx = self.tx(&images, goal.kind(), &interrupt, &mut told, plan);
            let mut recording = Recording::new(&self.node, PathBuf::from("/s"), &here, work);
            tx.begin(&mut recording).await.unwrap();
            tx.records().unwrap().is_taken_back = on_the_way_back;
            tx.write_journal().unwrap();
        });
    }

    /// The journal of the killed run.
    fn noted(&self) -> (Journal, Records) {
        let journal = Journal::read(self.root.path()).unwrap().unwrap();
        let Intent::Record(records) = journal.intent.clone() else {
            panic!("{journal:?}");
        };
        (journal, records)
    }

    fn recover(&self) -> (Result<Vec<String>, Failure>, Told) {
        let (journal, records) = self.noted();
        let (images, mut told) = (self.images(), Told::default());
        let lock = RootLock::acquire_now(self.root.path()).unwrap();
        let recovered = block_on(recovery::recover(
            &journal,
            &records,
            &images,
            &lock,
            &self.node,
            self.supervisor(),
            &mut told,
        ));
        (recovered, told)
    }

    #[track_caller]
    fn is_as_before(&self) {
        assert_eq!(self.node.names(), self.before);
    }

    #[track_caller]
    fn is_finished(&self) {
        assert!(Journal::read(self.root.path()).unwrap().is_none());
        assert!(pending::read_all(self.root.path()).0.is_empty());
        assert!(self.systemd.watchdogs.borrow().is_empty());
    }

    fn ends(&self) -> Vec<Option<End>> {
        let end = |record: Written| Some(record.result);
        history::scan(self.root.path(), end).0
    }

    fn full(&self) -> String {
        self.pinned().full()
    }
}

#[test]
fn a_digest_is_one_record_more() {
    let world = World::new();
    world.node.lags.set(3);
    let (outcome, told) = world.apply(&world.request());
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    assert_eq!(told.0, [Step::Record, Step::Verify]);
    let record = world.node.records.borrow()[&world.full()].clone();
    assert_eq!(record.target.digest, world.target);
    assert_eq!(record.labels["io.cri-containerd.image"], "managed");
    assert!(is_made_by(&record, &outcome.id));
    assert!(world.holds(&world.request()));
    world.is_finished();
    assert_eq!(world.ends(), [Some(End::Done)]);

    let (outcome, told) = world.roll_back().unwrap();
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    assert_eq!(told.0, [Step::RemoveRecord, Step::Verify]);
    world.is_as_before();
}

/// The CRI handles new records one by one. All records together take longer than the
/// timeout for one record.
#[test]
fn a_cri_that_goes_on_listing_more_is_waited_for() {
    let world = World::new();
    let names = (0..300).map(|number| format!("lab/app{number}"));
    let mut request = Request::default();
    for name in names {
        world
            .node
            .tag(&format!("docker.io/{name}:v1"), &world.target);
        let claim = format!("{name}:v1@{}", world.digest());
        request.claims.push(claim.parse().unwrap());
    }
    let goal = Goal::Claims(&request);
    let (here, plan) = world.plan(&goal).unwrap();
    world.node.lists.set(Some(300));
    let (outcome, _) = world.change(Kind::Apply, &here, plan);
    assert!(matches!(outcome.ended, Ended::Done), "{outcome:?}");
    let asked = world.node.questions.get();
    assert!((2..=2 * 64).contains(&asked), "{asked} by name");
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let world = World::new();
    let other = world.node.import("docker.io/lab/other:v1", &image('b'));
    let refused = |claim: &str| world.blocked(&world.claiming(claim));
    let set_tag = refused(&format!("lab/app:v2={}", world.image));
    let command = "ctr -n k8s.io images tag docker.io/lab/app:v1 docker.io/lab/app:v2";
    assert!(set_tag.contains(command), "{set_tag}");
    // Claim the digest that ctr and crictl show.
    let made_up = refused(&format!("lab/app:v1@{}", world.target));
    assert!(made_up.contains("made up"), "{made_up}");
    // Make a record with the claimed name that points at another image.
    world.node.tag(&world.full(), &other);
    let conflict = world.blocked(&world.request());
    assert!(conflict.contains(&image('b').to_string()), "{conflict}");
    let replaced = Request {
        replace: true,
        ..world.request()
    };
    let moves = world.blocked(&replaced);
    assert!(moves.contains("--remove"), "{moves}");
    // Make a record that has the claimed name, but that the CRI does not list.
    let strange = world.node.blob("{}");
    world.node.tag(&world.full(), &strange);
    let unlisted = world.blocked(&world.request());
    assert!(unlisted.contains("does not list it"), "{unlisted}");
    let removal = |reference: Reference| Request {
        removals: vec![reference],
        ..Request::default()
    };
    let tag = world.blocked(&removal(reference("lab/app:v1")));
    assert!(tag.contains("images rm docker.io/lab/app:v1"), "{tag}");
    world.node.tag(&world.full(), &world.target);
    let foreign = world.blocked(&removal(world.pinned()));
    assert!(foreign.contains("did not make that record"), "{foreign}");
}

/// A digest that `ctr images import --digests` has recorded stays, and does not block a
/// claim.
#[test]
fn a_made_up_digest_is_in_no_claims_way() {
    let world = World::new();
    let made_up = format!("docker.io/lab/app@{}", world.target);
    world.node.tag(&made_up, &world.target);
    world.done(&world.request());
    assert!(world.node.names().contains(&made_up));
    assert!(world.holds(&world.request()));
}

#[test]
fn a_made_up_digest_can_be_insisted_on() {
    let world = World::new();
    let request = Request {
        allow_image_id_digest: true,
        ..world.claiming(&format!("lab/app:v1@{}", world.target))
    };
    world.done(&request);
}

#[test]
fn the_last_record_stays() {
    let world = World::new();
    world.done(&world.request());
    world
        .node
        .records
        .borrow_mut()
        .retain(|name, _| *name == world.full());
    let refused = world.roll_back().unwrap_err();
    assert!(refused.contains("last record"), "{refused}");
}

/// If a client pulls an image by a name that has a record, the record then points at the
/// registry's manifest.
#[test]
fn what_was_pulled_since_is_not_taken_back() {
    let world = World::new();
    world.done(&world.request());
    let pulled = world.node.blob(&served(&world.image));
    let mut records = world.node.records.borrow_mut();
    records.get_mut(&world.full()).unwrap().target.digest = pulled;
    drop(records);
    let refused = world.roll_back().unwrap_err();
    assert!(refused.contains("a pull by that name"), "{refused}");
}

#[test]
fn a_call_that_fails_is_undone() {
    for does in [false, true] {
        let world = World::new();
        world.node.fails.set(Some(("create", does)));
        let (outcome, told) = world.apply(&world.request());
        let Ended::Undone { left, .. } = &outcome.ended else {
            panic!("{outcome:?}");
        };
        assert!(left.is_empty());
        assert_eq!(told.0, [Step::UndoRecord]);
        world.is_as_before();
        world.is_finished();
    }
}

/// containerd is restarted in the middle of the change.
#[test]
fn a_containerd_that_is_away_for_a_while_is_waited_for() {
    for calls in 0..12 {
        let world = World::new();
        let request = world.request();
        let (here, plan) = world.plan(&Goal::Claims(&request)).unwrap();
        world.node.away.set(Some((calls, 5)));
        let (outcome, _) = world.change(Kind::Apply, &here, plan);
        world.is_finished();
        world.node.away.set(None);
        match outcome.ended {
            Ended::Done => assert!(world.holds(&request)),
            Ended::Undone { .. } => world.is_as_before(),
            ended => panic!("{ended:?}"),
        }
    }
}

#[test]
fn a_record_that_another_client_removes_in_the_middle_is_not_said_to_be_there() {
    let world = World::new();
    let name = world.full();
    let gone = name.clone();
    let act = move |node: &FakeNode| {
        node.records.borrow_mut().remove(&gone);
    };
    *world.node.meanwhile.borrow_mut() = Some(("cri status", Box::new(act)));
    let (outcome, _) = world.apply(&world.request());
    assert!(
        matches!(
            outcome.ended,
            Ended::Undone {
                failure: Failure::NodeDisagrees(_),
                ..
            }
        ),
        "{outcome:?}"
    );
    world.is_as_before();
    world.is_finished();
}

#[test]
fn a_record_that_another_client_makes_in_the_middle_is_that_clients() {
    // The other client's record points at the planned image, so the plan is achieved.
    let world = World::new();
    let (name, target) = (world.full(), world.target.clone());
    let act = move |node: &FakeNode| node.tag(&name, &target);
    *world.node.meanwhile.borrow_mut() = Some(("create", Box::new(act)));
    world.done(&world.request());
    let refused = world.roll_back().unwrap_err();
    assert!(refused.contains("did not make"), "{refused}");

    let world = World::new();
    let other = world.node.import("docker.io/lab/other:v1", &image('b'));
    let name = world.full();
    let act = move |node: &FakeNode| node.tag(&name, &other);
    *world.node.meanwhile.borrow_mut() = Some(("create", Box::new(act)));
    let (outcome, _) = world.apply(&world.request());
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
    assert!(
        world.node.names().contains(&world.full()),
        "the record belongs to the other client"
    );
}

/// Another client has removed every other name, so removing the digest would free the
/// image.
#[test]
fn undo_frees_no_image() {
    let world = World::new();
    let full = world.full();
    let act = move |node: &FakeNode| {
        node.records.borrow_mut().retain(|name, _| *name == full);
    };
    *world.node.meanwhile.borrow_mut() = Some(("cri status", Box::new(act)));
    world.node.lags.set(u32::MAX);
    let (outcome, _) = world.apply(&world.request());
    let Ended::Undone { left, .. } = &outcome.ended else {
        panic!("{outcome:?}");
    };
    assert_eq!(left[0].why, Why::LastRecord);
    assert!(world.node.names().contains(&world.full()));
}

#[test]
fn a_killed_change_is_made() {
    for was_made in [false, true] {
        let world = World::new();
        world.is_killed(&world.request(), false);
        if was_made {
            let record = world.noted().1.added[0].record.clone();
            let records = &world.node.records;
            records.borrow_mut().insert(record.name.clone(), record);
        }
        let (recovered, told) = world.recover();
        assert!(recovered.unwrap().is_empty());
        assert_eq!(told.0, [Step::Verify]);
        assert!(world.holds(&world.request()));
        world.is_finished();
        let references = Side::New;
        assert_eq!(world.ends(), [Some(End::Recovered { references })]);
    }
}

#[test]
fn a_change_killed_on_its_way_back_goes_back() {
    let world = World::new();
    world.is_killed(&world.request(), true);
    let record = world.noted().1.added[0].record.clone();
    let records = &world.node.records;
    records.borrow_mut().insert(record.name.clone(), record);
    let (recovered, told) = world.recover();
    assert!(recovered.unwrap().is_empty());
    assert_eq!(told.0, [Step::UndoRecord]);
    world.is_as_before();
    world.is_finished();
}

/// Another client removed the image between the kill and the recovery, so a new record
/// would point at nothing.
#[test]
fn a_killed_change_of_an_image_that_is_gone_is_taken_back() {
    let world = World::new();
    world.is_killed(&world.request(), false);
    world.node.records.borrow_mut().clear();
    let (recovered, _) = world.recover();
    assert!(recovered.unwrap().is_empty());
    assert!(world.node.names().is_empty());
    let references = Side::Old;
    assert_eq!(world.ends(), [Some(End::Recovered { references })]);
}

#[test]
fn a_recovery_without_containerd_leaves_the_journal() {
    let world = World::new();
    world.is_killed(&world.request(), false);
    world.node.fails.set(Some(("list", false)));
    assert!(world.recover().0.is_err());
    assert!(Journal::read(world.root.path()).unwrap().is_some());
    world.node.fails.set(None);
    world.recover().0.unwrap();
    assert!(world.holds(&world.request()));
}

#[test]
fn without_a_watchdog_nothing_is_asked_for() {
    let world = World::new();
    world.systemd.fails.set(Some(("watchdog", 0)));
    let (outcome, _) = world.apply(&world.request());
    assert!(matches!(outcome.ended, Ended::Undone { .. }), "{outcome:?}");
    assert!(world.node.calls.borrow().is_empty());
}

/// The manifest of a pulled image proves its digest.
#[test]
fn a_manifest_that_is_here_proves() {
    let world = World::new();
    world.node.blob(&served(&world.image));
    let request = world.request();
    let (_, plan) = world.plan(&Goal::Claims(&request)).unwrap();
    assert_eq!(plan.targets[0].trust, crate::claims::trust::Trust::Proven);
}
