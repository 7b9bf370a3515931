//! Image store of a host. One type stands for three kinds of store: Docker's own store,
//! the containerd that Docker uses, and the containerd of a Kubernetes node.
//!
//! An [`ImageStore`] is a snapshot of the store. Only [`ImageStore::run`] changes the
//! store itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::claims::evidence::Evidence;
use crate::claims::source::collected::Whole;
use crate::claims::trust::Trust;
use crate::containerd::{Client, ContainerdError};
use crate::docker::content_store::ContentStore;
use crate::docker::engine::{Engine as _, EngineError, UnixEngine};
use crate::host::impact::{Allowed, AssessError, Blocker, Impact, assess};
use crate::host::{Host, HostError, Management, StoreKind};
use crate::image::digest::{Digest, ImageId};
use crate::image::platform::Platform;
use crate::image::reference::Reference;
use crate::plan::status::{Listing, nameless};
use crate::plan::{Displaced, Plan, Refusal};
use crate::state::history;
use crate::state::method::Method;
use crate::state::provenance::Provenance;
use crate::store::archive_size;
use crate::store::containerd::ContainerdStore;
use crate::store::data_root::{ImageDir, ReadError, Snapshot};
use crate::store::image_db::ImageDb;
use crate::store::images::Images;
use crate::store::node::NodeStore;
use crate::store::repositories::Store;
use crate::systemd::{RUNTIME_UNITS, SystemBus};
use crate::transaction::goal::Goal;
use crate::transaction::load::planned::{answers, planned};
use crate::transaction::load::work::{LoadBlocker, Work};
use crate::transaction::load::{Load, Running, known_references};
use crate::transaction::outcome::Outcome;
use crate::transaction::record::work::RecordBlocker;
use crate::transaction::record::{self, Recording};
use crate::transaction::restart::Restart;
use crate::transaction::restart::daemon::Daemon;
use crate::transaction::restart::unread::stale;
use crate::transaction::{Docker, Tx};

/// The Docker on this host, and a client of its API.
pub type Engine<'a> = (Docker<'a, SystemBus>, UnixEngine);

/// Timeout for requests to a node's containerd. A healthy containerd answers in
/// milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The image store of a host, as digestfix read it.
pub enum ImageStore<'a> {
    /// Docker's own store. The references are in a file that Docker reads when it starts.
    Own {
        images: &'a ImageDir,
        content: ContentStore,
        /// `None` if there is no Docker to manage.
        engine: Option<Engine<'a>>,
        before: Snapshot,
    },
    /// The store of the containerd that a running Docker uses.
    Containerd {
        content: ContentStore,
        /// containerd's root directory, if the user gave one.
        root: Option<PathBuf>,
        engine: Engine<'a>,
        here: Box<ContainerdStore>,
    },
    /// The containerd store of a Kubernetes node.
    Node {
        node: Client,
        socket: &'a Path,
        here: Box<NodeStore>,
    },
}

/// The maximum number of help texts that follow one refusal.
const MAX_HELPS: usize = 3;

/// References whose image is missing, and images that cannot get a digest.
#[derive(Default)]
pub struct Gaps {
    /// References whose image digestfix could not find.
    pub unread: Vec<Reference>,
    /// Images without a name, for which no digest can be recorded. Each image is given by
    /// the digest that Docker or containerd uses as its ID.
    pub nameless: Vec<Digest>,
}

/// What digestfix has to do to apply a plan.
#[derive(Default)]
pub struct Means {
    /// References that are already in Docker's file as planned, but that the running
    /// Docker has not read yet.
    pub stale: BTreeSet<Reference>,
    /// Requests to the running Docker.
    pub work: Work,
    /// Requests to a node's containerd.
    pub records: record::work::Work,
}

/// Why digestfix cannot make a plan. At this point, digestfix has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Assess(#[from] AssessError),
    #[error("the claims cannot be applied")]
    Refused(Vec<Refusal>),
    #[error("the transaction cannot be rolled back")]
    InTheWay {
        /// The ID of the transaction.
        id: String,
        refusals: Vec<Refusal>,
        /// The ID of a later transaction, which has to be rolled back first.
        first: Option<String>,
    },
    #[error("the running engine cannot make these changes")]
    Unloadable(Vec<LoadBlocker>),
    #[error("containerd cannot make these changes")]
    Unrecordable(Vec<RecordBlocker>),
    #[error(transparent)]
    Containerd(#[from] ContainerdError),
    /// References that only the running Docker has, each with its image. A restart would
    /// lose these references.
    #[error("the running Docker has references that its file on disk does not have")]
    OnlyInEngine(Vec<(String, String)>),
}

/// The images of a host, together with images that are about to be loaded.
struct Joined<'a> {
    here: &'a dyn Images,
    arriving: &'a BTreeSet<ImageId>,
}

impl Images for Joined<'_> {
    fn has(&self, image: &ImageId) -> bool {
        self.arriving.has(image) || self.here.has(image)
    }

    fn beginning_with(&self, prefix: &str) -> Vec<ImageId> {
        let both = [
            self.here.beginning_with(prefix),
            self.arriving.beginning_with(prefix),
        ];
        let both: BTreeSet<ImageId> = both.into_iter().flatten().collect();
        both.into_iter().collect()
    }

    fn leaves(&self) -> BTreeSet<ImageId> {
        let mut leaves = self.here.leaves();
        leaves.extend(self.arriving.iter().cloned());
        leaves
    }

    fn platform(&self, image: &ImageId) -> Option<Platform> {
        self.here.platform(image)
    }
}

impl From<EngineError> for PlanError {
    fn from(error: EngineError) -> Self {
        Self::Assess(error.into())
    }
}

impl PlanError {
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Host(error) => return error.help(),
            Self::Read(error) => return error.help(),
            Self::Assess(error) => return error.help(),
            Self::Refused(refusals) => {
                return together(refusals.iter().map(Refusal::help));
            }
            Self::Unloadable(reasons) => return together(reasons.iter().map(LoadBlocker::help)),
            Self::Unrecordable(reasons) => {
                return together(reasons.iter().map(RecordBlocker::help));
            }
            Self::Containerd(_) => {
                "check containerd (systemctl status containerd, crictl info)".to_owned()
            }
            Self::InTheWay {
                first: Some(id), ..
            } => format!("roll the later transaction back first: digestfix rollback {id}"),
            Self::InTheWay { id, refusals, .. } => {
                let is_changed = |one: &Refusal| matches!(one, Refusal::ChangedSince(_));
                let compare = refusals.iter().any(is_changed).then(|| {
                    format!(
                        "compare that transaction (digestfix history {id}) with the present references (digestfix status)"
                    )
                });
                return together(
                    compare
                        .into_iter()
                        .chain(refusals.iter().map(Refusal::help)),
                );
            }
            Self::OnlyInEngine(references) => {
                let image = references.first().map_or("IMAGE", |(_, image)| image);
                format!(
                    "make Docker write its own references to the file (a change that another \
                     program made to the file is lost): docker tag {image} digestfix:now && docker \
                     rmi digestfix:now; then run the same command again"
                )
            }
        })
    }

    /// The conflicting references that `--replace` would overwrite. `None` if digestfix
    /// would refuse the claims even with `--replace`.
    pub fn displaces(&self) -> Option<Displaced> {
        let Self::Refused(refusals) = self else {
            return None;
        };
        let each = refusals.iter().map(Refusal::displaces);
        each.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The refused claim, and the claim that the user may have meant. `None` if several
    /// claims are refused.
    pub fn meant(&self) -> Option<(&str, &str)> {
        match self {
            Self::Refused(refusals) if refusals.len() == 1 => refusals.first()?.meant(),
            _ => None,
        }
    }

    /// Returns each reason as a text.
    pub fn reasons(&self) -> Vec<String> {
        match self {
            Self::Refused(refusals) | Self::InTheWay { refusals, .. } => {
                refusals.iter().map(ToString::to_string).collect()
            }
            Self::Unloadable(reasons) => reasons.iter().map(ToString::to_string).collect(),
            Self::Unrecordable(reasons) => reasons.iter().map(ToString::to_string).collect(),
            Self::OnlyInEngine(references) => {
                let lost = references.iter().map(|(reference, image)| {
                    format!(
                        "{reference}: the running Docker has this reference (for {image}), but the file does \
                         not, because another program changed the file after Docker started. A restart would \
                         lose the reference"
                    )
                });
                lost.collect()
            }
            Self::Host(_) | Self::Read(_) | Self::Assess(_) | Self::Containerd(_) => {
                vec![self.to_string()]
            }
        }
    }
}

/// Joins the help texts for several reasons. Repeats no text, and joins at most
/// [`MAX_HELPS`] texts.
fn together(helps: impl Iterator<Item = String>) -> Option<String> {
    let mut told: Vec<String> = Vec::new();
    for help in helps {
        if told.len() == MAX_HELPS {
            break;
        }
        if !told.contains(&help) {
            told.push(help);
        }
    }
    (!told.is_empty()).then(|| told.join("; "))
}

impl<'a> ImageStore<'a> {
    /// Reads the store of a host. Reuses the earlier snapshot `seen` if Docker's
    /// reference file has not changed since then.
    pub async fn read(
        host: &'a Host,
        engine: Option<Engine<'a>>,
        root: Option<&Path>,
        seen: Option<Snapshot>,
    ) -> Result<Self, PlanError> {
        if let Management::Node(found) = &host.management {
            let node = found.client(ANSWER_WITHIN);
            let here = Box::new(NodeStore::read(&node).await?);
            let socket = &found.socket;
            return Ok(Self::Node { node, socket, here });
        }
        let images = &host.images;
        let content = ContentStore::of(images.data_root(), root);
        if host.image_store == StoreKind::Own {
            let before = match seen {
                Some(seen) if images.is_still(&seen)? => seen,
                _ => images.look()?,
            };
            return Ok(Self::Own {
                images,
                content,
                engine,
                before,
            });
        }
        let running = engine.filter(|(docker, _)| docker.host.engine.is_some());
        let engine = running.ok_or(HostError::ContainerdImageStore)?;
        let mut here = Box::new(ContainerdStore::read(&engine.1, content.clone()).await?);
        here.ask(&engine.1, known_references(images)).await?;
        Ok(Self::Containerd {
            content,
            root: root.map(Path::to_owned),
            engine,
            here,
        })
    }

    pub const fn references(&self) -> &Store {
        match self {
            Self::Own { before, .. } => &before.store,
            Self::Containerd { here, .. } => &here.store,
            Self::Node { here, .. } => &here.store,
        }
    }

    pub fn images(&self) -> Result<BTreeSet<ImageId>, PlanError> {
        match self {
            Self::Own { images, .. } => Ok(images.image_ids()?),
            Self::Containerd { here, .. } => Ok(here.images.clone()),
            Self::Node { here, .. } => Ok(here.images.clone()),
        }
    }

    /// The running engine, which saves and loads images. `None` on a Kubernetes node, or
    /// if no Docker runs.
    pub fn engine(&self) -> Option<&UnixEngine> {
        match self {
            Self::Own { engine, .. } => {
                let running = engine.as_ref();
                let running = running.filter(|(docker, _)| docker.host.engine.is_some());
                running.map(|(_, engine)| engine)
            }
            Self::Containerd { engine, .. } => Some(&engine.1),
            Self::Node { .. } => None,
        }
    }

    /// Estimates the size of an archive of these images and digests, in bytes. `None` if
    /// the size cannot be estimated.
    pub fn archive_size<'b>(
        &self,
        images: impl IntoIterator<Item = &'b ImageId>,
        digests: impl IntoIterator<Item = &'b Digest>,
    ) -> Option<u64> {
        match self {
            Self::Own { images: store, .. } => archive_size::unpacked(store, images),
            Self::Containerd { content, .. } => archive_size::packed(content, digests),
            Self::Node { .. } => None,
        }
    }

    /// Whether Docker keeps its images in containerd, where the ID of an image is the
    /// digest of its manifest or index.
    pub const fn is_in_containerd(&self) -> bool {
        matches!(self, Self::Containerd { .. })
    }

    /// The references with a digest that the engine records separately from tags.
    pub fn apart(&self) -> BTreeSet<Reference> {
        match self {
            Self::Containerd { here, .. } => here
                .known()
                .filter(|reference| reference.digest().is_some())
                .collect(),
            Self::Own { .. } | Self::Node { .. } => BTreeSet::new(),
        }
    }

    /// On a Kubernetes node, reads the manifests of all recorded digests. On other hosts,
    /// digestfix reads a manifest from disk when it needs the manifest.
    pub async fn read_manifests(&mut self) -> Result<(), PlanError> {
        match self {
            Self::Node { node, here, .. } => Ok(here.learn_all(node).await?),
            Self::Own { .. } | Self::Containerd { .. } => Ok(()),
        }
    }

    /// Whether an import made up the manifest that has this digest, so that no registry
    /// serves it.
    pub fn is_made_up(&self, digest: &Digest) -> bool {
        matches!(self, Self::Node { here, .. } if here.is_made_up(digest))
    }

    /// Lists the references as the rows of a table. How far a digest can be trusted
    /// follows from a proof on this host, or else from what digestfix noted when it
    /// recorded the digest.
    pub fn listing(self, provenance: &Provenance) -> Result<Listing, PlanError> {
        let images = self.images()?;
        let mut unnamed = Vec::new();
        let (store, content, hollow) = match self {
            Self::Own {
                before,
                content,
                images,
                ..
            } => {
                unnamed = ImageDb::ask(images, |db| nameless(&before.store, db))?;
                (before.store, content, BTreeSet::new())
            }
            Self::Containerd { here, content, .. } => {
                let hollow = here.hollow().iter().map(Reference::familiar).collect();
                (here.store, content, hollow)
            }
            Self::Node { here, .. } => {
                let known = |reference: &Reference, image: &ImageId| {
                    let digest = reference.digest()?;
                    if here.proof(digest, image).is_some() {
                        // The manifest proves the image, but no registry serves the
                        // manifest.
                        if here.is_made_up(digest) {
                            return None;
                        }
                        return Some((Trust::Proven, "containerd's content store".to_owned()));
                    }
                    let written = provenance.of(reference, image)?;
                    Some((written.trust, written.origin.clone()))
                };
                let none = BTreeSet::new();
                let listing = Listing::new(here.store.clone(), images, none, known);
                return Ok(listing.with_made_up(here.made_up()));
            }
        };
        let known = |reference: &Reference, image: &ImageId| {
            if content.proof(reference.digest()?, image).is_some() {
                return Some((Trust::Proven, "the engine's content store".to_owned()));
            }
            let written = provenance.of(reference, image)?;
            Some((written.trust, written.origin.clone()))
        };
        Ok(Listing::new(store, images, hollow, known).with_nameless(unnamed))
    }

    /// Returns the images of a digest, and the manifests that prove them. `image` is the
    /// image that has the digest on this host. In Docker's containerd store, returns only
    /// images that the manifests prove.
    pub fn exported(
        &self,
        digest: &Digest,
        image: ImageId,
    ) -> (BTreeSet<ImageId>, BTreeMap<Digest, String>) {
        match self {
            Self::Own { content, .. } => {
                let proof = content.proof(digest, &image);
                (BTreeSet::from([image]), proof.unwrap_or_default())
            }
            // Return several images, because an index also lists images for other
            // platforms.
            Self::Containerd { content, .. } => {
                let manifests = content.manifests(digest);
                let mut evidence = Evidence::default();
                evidence.add_texts(manifests.clone(), "");
                let images = evidence.proof(digest).map(|proof| proof.images);
                let images = images.unwrap_or_default().into_keys().cloned();
                (images.collect(), manifests)
            }
            // Add the image of the containerd record even without a proof. After an
            // import, containerd may have the digest only in the name of the record, and
            // no manifest with this digest.
            Self::Node { here, .. } => {
                let mut images = here.proven(digest);
                let proof = here.proof(digest, &image).unwrap_or_default();
                images.insert(image);
                (images, proof)
            }
        }
    }

    /// Plans the changes of this store that reach a goal.
    pub async fn plan(&mut self, goal: &Goal<'_>) -> Result<Plan, PlanError> {
        match self {
            Self::Own { images, before, .. } => {
                let plan = ImageDb::ask(images, |db| goal.plan(&before.store, db))?;
                plan.map_err(|refusals| goal.refused(refusals))
            }
            Self::Containerd { here, engine, .. } => planned(here, goal, &engine.1).await,
            Self::Node { node, here, .. } => record::planned::planned(here, goal, node).await,
        }
    }

    /// Predicts whether a goal will change anything once the `arriving` images are
    /// loaded.
    pub fn foreseen(&self, goal: &Goal<'_>, arriving: &[Whole]) -> Result<bool, PlanError> {
        let mut store = self.references().clone();
        let mut images = BTreeSet::new();
        for Whole { image, tags } in arriving {
            images.insert(image.clone());
            for tag in tags {
                store.remove(tag);
                // The tag was just removed, so the insert cannot conflict.
                let _ = store.insert(tag, image);
            }
        }
        let plan = match self {
            Self::Own { images: own, .. } => ImageDb::ask(own, |db| {
                let (here, arriving) = (db, &images);
                goal.plan(&store, &Joined { here, arriving })
            })?,
            Self::Containerd { here, .. } => {
                images.extend(here.images.iter().cloned());
                goal.plan(&store, &images)
            }
            Self::Node { .. } => return Ok(false),
        };
        let plan = plan.map_err(|refusals| goal.refused(refusals))?;
        Ok(!plan.is_empty())
    }

    /// Whether the image of an archive is on this host, complete and with all its tags.
    pub fn has_whole(&self, whole: &Whole) -> Result<bool, PlanError> {
        let Whole { image, tags } = whole;
        let references = self.references();
        if !tags.iter().all(|tag| references.points_at(tag, image)) {
            return Ok(false);
        }
        match self {
            Self::Own { images, .. } => Ok(ImageDb::ask(images, |db| db.has(image))?),
            // Check for layers too. If only a digest reference points at the image in
            // Docker, the layers may be missing even if the manifest is on this host.
            Self::Containerd { here, .. } => {
                let mut references = references.references();
                Ok(references
                    .any(|(reference, other)| other == *image && !here.is_hollow(&reference)))
            }
            Self::Node { .. } => Ok(false),
        }
    }

    /// Finds the references whose image is missing, and the images without a name. If
    /// `plan` is given, leaves out the images without a name that do not affect its
    /// claims.
    pub fn gaps(&self, plan: Option<&Plan>) -> Gaps {
        let counts = |image: &ImageId| plan.is_none_or(|plan| plan.lacks_name_of(image));
        let here = match self {
            Self::Own { .. } => return Gaps::default(),
            Self::Node { here, .. } => {
                let nameless = here.nameless().filter(|image| counts(image));
                return Gaps {
                    nameless: nameless
                        .filter_map(|one| one.to_string().parse().ok())
                        .collect(),
                    ..Gaps::default()
                };
            }
            Self::Containerd { here, .. } => here,
        };
        let nameless = here.nameless().filter(|(image, _)| counts(image));
        Gaps {
            unread: here.unread().iter().cloned().collect(),
            nameless: nameless.map(|(_, target)| target.clone()).collect(),
        }
    }

    /// What digestfix has to do to apply a plan.
    pub async fn means(&self, goal: &Goal<'_>, plan: &Plan) -> Result<Means, PlanError> {
        let mut means = Means::default();
        match self {
            Self::Own {
                engine: Some((docker, engine)),
                images,
                ..
            } if plan.is_empty() => means.stale = stale(engine, docker.host, images, plan).await?,
            Self::Own { .. } => {}
            Self::Containerd { here, engine, .. } => {
                let work = Work::of(plan, here, goal.evidence(), &engine.1).await?;
                means.work = work.map_err(PlanError::Unloadable)?;
            }
            Self::Node { here, .. } => {
                let records = record::work::Work::of(plan, here);
                means.records = records.map_err(PlanError::Unrecordable)?;
            }
        }
        Ok(means)
    }

    /// The method that changes this store. `None` if there is no Docker to manage.
    pub fn method(&self) -> Option<Method> {
        match self {
            Self::Own { engine, .. } => engine.as_ref().map(|_| Method::Restart),
            Self::Containerd { .. } => Some(Method::Load),
            Self::Node { .. } => Some(Method::Record),
        }
    }

    /// Assesses what a change of this store would affect besides references, and what
    /// prevents the change.
    pub async fn survey(
        &self,
        allowed: Allowed,
    ) -> Result<(Option<Impact>, Vec<Blocker>), PlanError> {
        let Self::Own { images, engine, .. } = self else {
            return Ok((None, Vec::new()));
        };
        let data_root = images.data_root();
        if let Some((docker, engine)) = engine {
            let recorded = |start: &_| history::known_to_start(data_root, start);
            let assessed = assess(docker.manager, engine, docker.host, allowed, recorded);
            let (impact, blockers) = assessed.await?;
            return Ok((Some(impact), blockers));
        }
        if images.is_in_use()? {
            let (data_root, pid) = (data_root.to_owned(), images.user());
            return Err(HostError::InUse { data_root, pid }.into());
        }
        Ok((None, Vec::new()))
    }

    /// For each target of a plan, whether the running Docker (or the CRI of a node) finds
    /// the planned image. `None` if no Docker runs.
    pub async fn answers(&self, plan: &Plan) -> Result<Option<Vec<bool>>, PlanError> {
        match self {
            Self::Own {
                engine: Some((docker, engine)),
                ..
            } if docker.host.engine.is_some() => {
                let mut answers = Vec::new();
                for target in &plan.targets {
                    let image = engine.image(&target.reference).await?;
                    answers.push(image == Some(target.image.to_string()));
                }
                Ok(Some(answers))
            }
            Self::Own { .. } => Ok(None),
            Self::Containerd { here, engine, .. } => {
                Ok(Some(answers(here, plan, &engine.1).await?))
            }
            Self::Node { node, here, .. } => {
                Ok(Some(record::planned::answers(here, plan, node).await?))
            }
        }
    }

    /// The snapshot of Docker's reference store. `None` if containerd has the references.
    pub fn into_snapshot(self) -> Option<Snapshot> {
        match self {
            Self::Own { before, .. } => Some(before),
            Self::Containerd { .. } | Self::Node { .. } => None,
        }
    }

    /// Applies the change. `impact` comes from [`ImageStore::survey`].
    pub async fn run(
        self,
        tx: Tx<'_, SystemBus>,
        goal: &Goal<'_>,
        means: Means,
        impact: Option<&Impact>,
    ) -> Outcome {
        match self {
            Self::Own { engine, before, .. } => {
                let managed = engine.as_ref().zip(impact);
                let daemon = managed.map(|((docker, engine), impact)| Daemon {
                    docker: *docker,
                    engine,
                    impact,
                    runtime_units: Path::new(RUNTIME_UNITS),
                });
                tx.run(Restart::new(goal, daemon, before)).await
            }
            Self::Containerd {
                content,
                root,
                engine: (docker, engine),
                here,
            } => {
                let running = Running {
                    docker,
                    engine: &engine,
                    content: &content,
                    containerd_root: root.as_deref(),
                };
                tx.run(Load::new(running, &here, means.work)).await
            }
            Self::Node { node, socket, here } => {
                let recording = Recording::new(&node, socket.to_owned(), &here, means.records);
                tx.run(recording).await
            }
        }
    }
}
